"""The command line as a user meets it: real processes, exit codes, one-line errors."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest


def simpl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simpl_core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    answer = simpl("--help")
    assert answer.returncode == 0
    for command in ("train", "evaluate", "rollout", "export", "bundle", "data", "presets"):
        assert command in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "nowhere.hdf5"], "no file 'nowhere.hdf5'"),
        (["train", "meta", "nowhere"], "nowhere is not a finished run"),
        (["train", "skills", "nowhere.hdf5", "--set", "betta=1"], "has no betta"),
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
