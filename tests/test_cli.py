"""The command line as a user meets it: real processes, exit codes, one-line errors."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest


def simpl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simpl_core", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    answer = simpl("--help")
    assert answer.returncode == 0
    for command in ("train", "evaluate", "rollout", "skills", "export", "bundle", "data", "presets"):
        assert command in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "nowhere.hdf5"], "no file 'nowhere.hdf5'"),
        (["train", "meta", "nowhere"], "nowhere is not a finished run"),
        (["train", "skills", "nowhere.hdf5", "--set", "betta=1"], "has no betta"),
        (
            ["train", "skills", "nowhere.hdf5", "--set", "iterations=40_000"],
            "it must be a whole number",
        ),
        (
            ["train", "skills", "nowhere.hdf5", "--set", "prior_loss=KL"],
            "prior_loss is 'KL'; it must be one of",
        ),
        (["train", "meta", "nowhere", "--set", "gamma=nan"], "gamma is 'nan'; it must be a number"),
        (["evaluate", "nowhere", "--set", "use_conditioning=no"], "use_conditioning is 'no'; it must be true or false"),
        (["evaluate", "nowhere", "--set", "alpha=no"], "alpha is 'no'; it must be a number or null"),
        (["evaluate", "nowhere", "--method", "spirl", "--preset", "small"], "there is one preset for spirl"),
        (["evaluate", "nowhere", "--tasks", "microwav"], "microwave"),
        (["bundle", "verify", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(arguments: list[str], message: str) -> None:
    answer = simpl(*arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "Traceback" not in answer.stderr


def test_ctrl_c_while_the_command_line_loads_ends_quietly() -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "tyro":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from simpl_core.__main__ import main
sys.exit(main())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (130, "")


def test_presets_are_printed() -> None:
    answer = simpl("presets")
    assert answer.returncode == 0
    assert "context_large" in answer.stdout
    assert "480000" in answer.stdout


def test_rollouts_of_a_prior_are_counted_by_subtask(random_run: Path) -> None:
    answer = simpl("rollout", str(random_run), "--episodes", "1")
    assert answer.returncode == 0
    assert "subtasks completed per episode" in answer.stdout
    assert "hinge cabinet" in answer.stdout


def test_data_describes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((20, 6)), np.zeros((20, 2))
        file["terminals"] = np.isin(np.arange(20), (11, 19))
    answer = simpl("data", str(path))
    assert answer.returncode == 0
    assert "episodes  2, 8 / 10 / 12 steps" in answer.stdout


def test_a_terminated_run_is_saved_and_its_folder_is_one_writers(tmp_path: Path) -> None:
    data, out = tmp_path / "data.hdf5", tmp_path / "run"
    with h5py.File(data, "w") as file:
        file["observations"] = np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32)
        file["actions"], file["terminals"] = np.zeros((400, 9), np.float32), np.arange(400) % 40 == 39
    settings = ["iterations=100000", "batch_size=8", "hidden=16", "log_every=20", "checkpoint_every=100000"]
    train = ["train", "skills", str(data), "--out", str(out), "--threads", "1", "--set", *settings]
    first = subprocess.Popen([sys.executable, "-m", "simpl_core", *train], stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(lambda: (out / "metrics.csv").is_file() and "\n20," in (out / "metrics.csv").read_text())
        second = simpl(*train)
        assert second.returncode == 2
        assert f"process {first.pid} is writing a run" in second.stderr
        first.send_signal(signal.SIGTERM)
        _, messages = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130
    assert "goes on from its last saved state" in messages
    assert (out / "resume.pt").is_file()


def _wait_for(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
