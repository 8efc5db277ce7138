"""`simpl adapt` as a user runs it: five real processes, a real bundle, a real arm simulation, short episodes.

The bundle has random weights, so no subtask is expected to be done; that a trained one learns is RESULTS.md's matter.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.image
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from simpl.core.journal import read_records  # noqa: E402
from simpl.core.transition import unpack  # noqa: E402
from simpl.faults.ros_domain import RosDomain  # noqa: E402

TASK = "kettle > microwave > slide cabinet"
STEPS = 180
"""Control steps an episode: 18 skills, so that four episodes make one batch of preset `small`."""
SHORT = ["--conditioning", "2", "--evaluation", "1", "--episodes", "2", "--max-steps", str(STEPS), "--preset", "small"]
SCORES = ("subtasks_conditioning", "subtasks_after_conditioning", "subtasks_finetune", "subtasks_final")
PATIENCE = 300.0
"""Longest wait for anything [s]: test machines are busy."""


class Run:
    """A running `simpl adapt`, with what it prints."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.reserved = RosDomain()
        self.domain = self.reserved.number
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "simpl_core", "adapt", "--out", str(out), *arguments]
        self.out = out
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while words not in self.text:
            assert self.process.poll() is None and time.monotonic() < deadline, f"no {words!r} in:\n{self.text}"
            time.sleep(0.05)

    def nodes(self) -> dict[str, int]:
        """Process ids of the living nodes of this run, by executable."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            executables = [word for word in words[:2] if "/lib/simpl/" in word]
            if executables and any(str(self.out) in word for word in words):
                found[Path(executables[0]).name] = int(entry.parent.name)
        return found

    def finish(self) -> int:
        status = self.process.wait(timeout=PATIENCE)
        self._reader.join(timeout=10)
        return status

    def report(self) -> dict:
        return json.loads((self.out / "report.json").read_text())


@pytest.fixture
def adapt(tmp_path: Path, random_bundle: Path) -> Iterator[Callable[..., Run]]:
    runs = []

    def start(*arguments: str, bundle: Path = random_bundle) -> Run:
        runs.append(Run(tmp_path / "run", "--task", TASK, "--bundle", str(bundle), *SHORT, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()
        deadline = time.monotonic() + 30
        while run.nodes():
            assert time.monotonic() < deadline, f"left behind: {run.nodes()}"
            time.sleep(0.1)
        run.reserved.release()


def assert_all_there(report: dict) -> int:
    """Six whole episodes, nothing lost; how many were done again, which on a starved machine may be some."""
    assert sum(episode["steps"] for episode in report["episodes"]) == 6 * STEPS
    late = [warning for warning in report["warnings"] if "no new model within" in warning]
    again = len(report["warnings"]) - len(late)
    assert sum("is repeated" in warning for warning in report["warnings"]) == again, report["warnings"]
    assert report["transitions_sent"] == report["transitions_stored"]
    assert 0 <= report["transitions_sent"] - 6 * STEPS <= again * STEPS
    return again


def test_the_whole_loop(adapt) -> None:
    run = adapt()
    run.wait_for("conditioning 1/2")
    assert set(run.nodes()) == {"policy", "guard", "bridge", "learner", "arm_sim"}
    assert run.finish() == 0, run.text
    assert run.nodes() == {}

    report = run.report()
    assert report["task"] == TASK
    assert (report["conditioning_episodes"], report["finetune_episodes"]) == (2, 2)
    assert [len(report[name]) for name in SCORES] == [2, 1, 2, 1]
    again = assert_all_there(report)
    assert report["control"]["ticks"] >= 6 * STEPS
    assert report["control"]["missed"] == 0
    assert 0.0 < report["control"]["latency_ms_p50"] <= report["control"]["latency_ms_p99"]
    assert report["model_updates"] >= 1
    acted = [episode["model_version"] for episode in report["episodes"]]
    assert set(acted[:4]) == {report["bundle_version"]}, "the model changes only after fine-tuning has begun"
    assert acted[-1] != report["bundle_version"], "the last episode is acted by what was learned"

    assert matplotlib.image.imread(run.out / "learning_curve.png").shape[1] > 500
    assert (run.out / "best_episode.mp4").stat().st_size > 10_000 or "no video" in run.text
    assert len(list((run.out / "plant").glob("episode_*.npz"))) == 6 + again
    for words in ("fine-tuning", "none lost", "report.json", f"final 1/1: 0 of 3 subtasks, {STEPS} steps"):
        assert words in run.text, run.text


def test_nothing_is_lost_when_the_learner_is_killed_half_way(adapt) -> None:
    run = adapt("--no-video")
    run.wait_for("finetune 1/2")
    learner = run.nodes()["learner"]
    segments = set(re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}", Path(f"/proc/{learner}/maps").read_text()))
    os.kill(learner, signal.SIGKILL)
    run.wait_for("learner died (SIGKILL)")
    assert run.finish() == 0, run.text
    assert segments and not any(Path(segment).exists() for segment in segments), "shared memory is left behind"
    report = run.report()
    assert_all_there(report)
    assert len(report["subtasks_finetune"]) == 2
    assert "started again" in (run.out / "logs" / "learner.log").read_text()


def test_ctrl_c_stops_the_arm_and_all_processes_and_the_run_can_be_continued(adapt) -> None:
    run = adapt("--no-video")
    run.wait_for("conditioning 2/2")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.text
    assert run.nodes() == {}
    assert "the guard's last command was zero velocity" in run.text
    interrupted = run.report()
    assert interrupted["interrupted"] and all("is repeated" in warning for warning in interrupted["warnings"])
    done = len(interrupted["episodes"])
    assert 2 <= done < 6

    run = adapt("--no-video")
    assert run.finish() == 0, run.text
    report = run.report()
    assert not report["interrupted"]
    assert report["episodes"][:done] == interrupted["episodes"] and len(report["episodes"]) == 6
    assert report["control"]["ticks"] >= sum(episode["steps"] for episode in report["episodes"]), "of both starts"
    assert report["transitions_sent"] == report["transitions_stored"] >= 6 * STEPS


class Operator:
    """Calls services of type Trigger, as a person at the robot would; it has met the graph before it is in a hurry."""

    def __init__(self, domain: int, *services: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("operator", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients = {service: self._node.create_client(Trigger, service) for service in services}

    def __enter__(self) -> Operator:
        deadline = time.monotonic() + PATIENCE
        while not all(client.service_is_ready() for client in self._clients.values()):
            assert time.monotonic() < deadline, "a service is absent"
            self._executor.spin_once(timeout_sec=0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def call(self, service: str) -> None:
        """Until it is done."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, f"{service} is refused"
            future = self._clients[service].call_async(Trigger.Request())
            self._executor.spin_until_future_complete(future, timeout_sec=10.0)
            if future.done() and future.result().success:
                return


def test_an_estop_holds_the_run_until_the_reset_and_nothing_of_the_stop_is_learned(adapt) -> None:
    run = adapt("--no-video")
    journal = run.out / "bridge" / "journal"
    with Operator(run.domain, "guard/estop", "guard/reset") as operator:
        run.wait_for("conditioning 1/2")
        deadline = time.monotonic() + PATIENCE
        while len(read_records(journal)) < STEPS + 20:  # in the second episode
            assert time.monotonic() < deadline, run.text
            time.sleep(0.005)
        operator.call("guard/estop")
        run.wait_for("the guard holds the arm until guard/reset is called (e-stop: e-stop pressed)")
        before = 0
        while before != (before := len(read_records(journal))):  # what was on its way when the guard spoke
            assert time.monotonic() < deadline, run.text
            time.sleep(1.0)
        time.sleep(3.0)
        assert len(read_records(journal)) == before, "nothing goes on"
        operator.call("guard/reset")
    assert run.finish() == 0, run.text

    report = run.report()
    assert [len(report[name]) for name in SCORES] == [2, 1, 2, 1]
    assert all("is repeated" in warning for warning in report["warnings"])
    (stopped,) = [warning for warning in report["warnings"] if "e-stop pressed" in warning]
    assert "is repeated: the guard stopped the arm" in stopped
    transitions = [unpack(data) for data in read_records(journal)]
    assert report["transitions_sent"] == report["transitions_stored"] == len(transitions)
    assert not any(one.guard_flags for one in transitions)
    assert sum(one.terminated or one.truncated for one in transitions) == 6
    assert report["guard_interventions"] == 0


def test_a_dead_guard_ends_the_run_with_its_log(adapt) -> None:
    run = adapt("--no-video")
    run.wait_for("conditioning 1/2")
    os.kill(run.nodes()["guard"], signal.SIGKILL)
    assert run.finish() == 1, run.text
    assert "node guard failed (SIGKILL); the end of" in run.text
    assert run.nodes() == {}


def test_a_damaged_bundle_is_refused_before_anything_starts(adapt, bundle_factory, tmp_path) -> None:
    bundle = bundle_factory(tmp_path / "bundle", 1)
    network = bundle / "skill_policy.onnx"
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(bytes(content))
    run = adapt(bundle=bundle)
    assert run.finish() == 2
    assert "simpl: bundle" in run.text and "skill_policy.onnx" in run.text
    assert not (run.out / "logs").exists()


def test_a_wrong_task_names_what_exists(adapt) -> None:
    run = adapt("--task", "kettle > toaster")
    assert run.finish() == 2
    assert "unknown subtask 'toaster'" in run.text and "microwave" in run.text
