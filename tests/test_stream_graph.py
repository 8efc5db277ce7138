"""Bridge and learner as real processes in a real ROS graph, killed in the middle: nothing lost, nothing twice.

The robot's side (policy, guard and scene) is played by a node of this test, so that an episode takes a blink.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from safetensors import safe_open
from simpl_interfaces.msg import BundleFile, GuardState, ModelUpdate, PolicyStatus
from simpl_interfaces.srv import BeginEpisode, ResetScene, StageModel
from std_srvs.srv import Trigger

from export.bundle import Bundle
from simpl import interfaces
from simpl.conversions import float64_field, header, to_policy_action
from simpl.core.journal import read_records
from simpl.core.policy_loop import PolicyTick
from simpl.core.transition import pack, unpack
from simpl.faults.ros_domain import RosDomain

DOMAIN = RosDomain()
"""Ours until this process ends."""
STEPS = 100
PLAN = {"conditioning_episodes": 6, "evaluation_episodes": 1, "finetune_episodes": 3, "final_episodes": 1}
EPISODES = sum(PLAN.values())
LIMIT = 300.0
"""Longest wait for anything [s]: test machines are busy, and the learner loads PyTorch first."""
PATIENT = {"model_wait": LIMIT, "drain_wait": LIMIT}


class RobotDouble(Node):
    """Answers the bridge's services and ticks as fast as asked: policy, guard and scene in one."""

    def __init__(self, context: Context, version: str) -> None:
        super().__init__("robot_double", context=context)
        self.version, self.staged = version, ""
        self.begun: list[int] = []
        self.ended = 0
        self.ticks = 0
        self.period = 0.003
        self.on_step: Callable[[int, int], None] = lambda episode, step: None
        self.go = threading.Event()
        self.go.set()
        self._acting: threading.Thread | None = None
        self._stop = threading.Event()
        self.actions = interfaces.POLICY_ACTION.publisher(self)
        self.guard = interfaces.GUARD_STATE.publisher(self)
        self.status = interfaces.POLICY_STATUS.publisher(self)
        self.models = interfaces.MODEL_UPDATE.publisher(self)
        self.resets = 0
        interfaces.SCENE_RESET.server(self, self.on_reset)
        self.beginner = interfaces.BEGIN_EPISODE.server(self, self.on_begin)
        interfaces.END_EPISODE.server(self, self.on_end)
        interfaces.STAGE_MODEL.server(self, self.on_stage)

    def on_reset(self, _: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        self.resets += 1
        response.success = True
        return response

    def on_stage(self, request: StageModel.Request, response: StageModel.Response) -> StageModel.Response:
        self.staged = Bundle.open(request.path).model_version
        response.success, response.model_version = True, self.staged
        return response

    def on_begin(self, request: BeginEpisode.Request, response: BeginEpisode.Response) -> BeginEpisode.Response:
        self.halt()
        self.version, self.staged = self.staged or self.version, ""
        self.begun.append(request.episode)
        self._stop = threading.Event()
        arguments = (request.episode, np.array(request.e, np.float32), request.seed, self._stop)
        self._acting = threading.Thread(target=self.act, args=arguments, daemon=True)
        self._acting.start()
        response.success, response.model_version = True, self.version
        return response

    def on_end(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.halt()
        self.ended += 1
        response.success = True
        return response

    def halt(self) -> None:
        self._stop.set()
        if self._acting is not None:
            self._acting.join()

    def act(self, episode: int, e: np.ndarray, seed: int, stop: threading.Event) -> None:
        rng = np.random.default_rng(seed)
        z = np.zeros(10, np.float32)
        # The bridge has found this writer; what is said before the writer has found the bridge is lost.
        while not (self.actions.get_subscription_count() and self.guard.get_subscription_count()):
            if stop.wait(0.01):
                return
        for step in range(STEPS + 1):
            if stop.wait(self.period):
                return
            self.on_step(episode, step)
            while not self.go.is_set():
                if stop.wait(0.01):
                    return
            self.ticks += 1
            if step % 10 == 0:
                z = rng.standard_normal(10).astype(np.float32)
            action = rng.uniform(-1, 1, 9).astype(np.float32)
            tick = PolicyTick(
                80_000_000 * self.ticks, self.ticks, episode, step, rng.uniform(2, 3, 30).astype(np.float32), z, e,
                step % 10 == 0, action, 2 * action.astype(float), self.version, 0.001, step < STEPS,
            )  # fmt: skip
            self.actions.publish(to_policy_action(tick))
            record = GuardState(header=header(tick.stamp), tick=tick.tick)
            record.velocity = float64_field(tick.velocity)
            self.guard.publish(record)


class Graph:
    """Processes of one run, and the robot's double."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN.number)
        self.robot = RobotDouble(self.context, Bundle.open(bundle).model_version)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.robot)
        self.spinning = threading.Thread(target=self.executor.spin, daemon=True)
        self.spinning.start()
        folder.mkdir(parents=True)

    def start(self, node: str, **parameters: Any) -> subprocess.Popen[bytes]:
        settings = {"bundle": self.bundle, "run_folder": self.folder, **parameters}
        arguments = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN.number), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"simpl.nodes.{node}", "--ros-args", *arguments],
                env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def learner(self) -> subprocess.Popen[bytes]:
        return self.start("learner", preset="small")

    def bridge(self, **parameters: Any) -> subprocess.Popen[bytes]:
        return self.start("bridge", max_steps=STEPS, **(PLAN | PATIENT | parameters))

    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return document

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in self.folder.glob("*.log"))

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.robot.halt()
        self.executor.shutdown()
        self.spinning.join(timeout=5)
        self.robot.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def graph(random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    started = Graph(random_bundle, tmp_path / "run")
    yield started
    started.close()


def wait_for(what: Callable[[], Any], graph: Graph, limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end, graph.logs()
        time.sleep(0.01)


def ended(process: subprocess.Popen[bytes], graph: Graph) -> int:
    wait_for(lambda: process.poll() is not None, graph)
    return int(process.returncode)


def at_step(graph: Graph, episode: int, step: int, *, hold: bool = False) -> None:
    """Wait until the robot is there; to `hold`, it goes on when `graph.robot.go` is set or the episode is ended."""
    reached = threading.Event()

    def look(now_episode: int, now_step: int) -> None:
        if (now_episode, now_step) >= (episode, step) and not reached.is_set():
            if hold:
                graph.robot.go.clear()
            reached.set()

    graph.robot.on_step = look
    assert reached.wait(LIMIT), graph.logs()


def audit(graph: Graph) -> int:
    """Every transition of the robot's journal is in the learner's store, byte for byte, once; how many there are."""
    sent, stored = read_records(graph.folder / "bridge" / "journal"), read_records(graph.folder / "learner" / "store")
    assert collections.Counter(stored) == collections.Counter(sent), graph.logs()
    assert len({unpack(data).identity for data in sent}) == len(sent)
    return len(sent)


def journalled(graph: Graph) -> list[bytes]:
    return read_records(graph.folder / "bridge" / "journal")


def assert_whole(graph: Graph, report: dict[str, Any], *, killed: int = 0) -> None:
    """All episodes of the plan are there. A starved bridge may miss a tick; it says so, and repeats the episode."""
    lengths = collections.Counter(unpack(data).episode for data in journalled(graph))
    assert collections.Counter(lengths.values())[STEPS] == EPISODES, report["warnings"]
    assert all("is repeated" in warning for warning in report["warnings"])
    assert len(lengths) <= EPISODES + killed + len(report["warnings"]), "what is not whole is explained"


def gradient_steps(graph: Graph) -> int:
    with safe_open(graph.folder / "learner" / "checkpoint.safetensors", framework="np") as file:
        return int(json.loads(file.metadata()["progress"])["gradient_steps"])


def test_a_killed_learner_loses_nothing_and_goes_on_learning(graph: Graph) -> None:
    learner = graph.learner()
    bridge = graph.bridge()
    second_finetune = PLAN["conditioning_episodes"] + PLAN["evaluation_episodes"] + 2
    at_step(graph, second_finetune, STEPS // 2)
    learner.send_signal(signal.SIGKILL)
    learner.wait()
    steps_before = gradient_steps(graph)
    version_before = graph.robot.version
    time.sleep(0.5)  # the arm goes on meanwhile
    learner = graph.learner()
    assert ended(bridge, graph) == 0, graph.logs()

    report = graph.report()
    assert report["transitions_sent"] == report["transitions_stored"] == audit(graph)
    assert_whole(graph, report)
    assert report["stream"]["unacknowledged"] == 0
    assert not report["interrupted"] and report["bridge_starts"] == 1
    versions = [one["model_version"] for one in report["episodes"] if one["phase"] == "finetune"]
    assert len(set(versions)) == len(versions), "every episode of fine-tuning has a newer model than the one before"
    assert report["episodes"][-1]["model_version"] not in (*versions, version_before)
    assert gradient_steps(graph) > steps_before
    assert report["model_updates"] >= PLAN["finetune_episodes"]
    learner.send_signal(signal.SIGINT)
    assert ended(learner, graph) == 0, graph.logs()


def test_a_killed_bridge_goes_on_with_its_run(graph: Graph) -> None:
    graph.learner()
    bridge = graph.bridge()
    killed_in = PLAN["conditioning_episodes"] + PLAN["evaluation_episodes"] + 2
    at_step(graph, killed_in, STEPS // 2, hold=True)
    wait_for(lambda: len(journalled(graph)) >= (killed_in - 1) * STEPS + STEPS // 2 - 10, graph)
    bridge.send_signal(signal.SIGKILL)
    bridge.wait()
    graph.robot.go.set()  # an arm that acts knows nothing of bridges
    before = journalled(graph)
    assert ended(graph.bridge(), graph) == 0, graph.logs()

    report = graph.report()
    assert report["bridge_starts"] == 2 and not report["interrupted"]
    assert report["transitions_stored"] == report["transitions_sent"] == audit(graph)
    assert journalled(graph)[: len(before)] == before
    assert_whole(graph, report, killed=1)
    phases = collections.Counter(one["phase"] for one in report["episodes"])
    assert {f"{phase}_episodes": count for phase, count in phases.items()} == PLAN
    assert len(set(graph.robot.begun)) == len(graph.robot.begun), "no episode number is used twice"
    finetune = [one["model_version"] for one in report["episodes"] if one["phase"] == "finetune"]
    assert len(set(finetune)) >= len(finetune) - 1


def test_ctrl_c_ends_the_episode_and_leaves_a_report(graph: Graph) -> None:
    bridge = graph.bridge(drain_wait=0.5)
    at_step(graph, 2, STEPS // 2, hold=True)
    wait_for(lambda: len(journalled(graph)) >= STEPS + STEPS // 2 - 10, graph)
    ended_before = graph.robot.ended
    bridge.send_signal(signal.SIGINT)
    assert ended(bridge, graph) == 0, graph.logs()
    assert graph.robot.ended == ended_before + 1
    report = graph.report()
    assert report["interrupted"] and report["reason"] == "interrupted by a signal"
    assert report["conditioning_episodes"] == 1
    # No learner ever ran: everything is still in the journal, and the report says so.
    assert report["stream"]["unacknowledged"] == len(journalled(graph)) >= STEPS + STEPS // 2 - 10


def test_no_scene_is_reset_while_there_is_no_policy_to_act_in_it(graph: Graph) -> None:
    only = {"conditioning_episodes": 3, "evaluation_episodes": 0, "finetune_episodes": 0, "final_episodes": 0}
    bridge = graph.bridge(**only, drain_wait=0.5)
    at_step(graph, 1, STEPS // 2, hold=True)
    graph.robot.destroy_service(graph.robot.beginner)
    time.sleep(1.0)  # until the bridge has heard of it
    graph.robot.go.set()
    wait_for(lambda: "begin_episode is not there" in graph.logs(), graph)
    before = graph.robot.resets
    time.sleep(2.0)  # four times it is tried again meanwhile
    assert graph.robot.resets == before
    graph.robot.beginner = interfaces.BEGIN_EPISODE.server(graph.robot, graph.robot.on_begin)
    assert ended(bridge, graph) == 0, graph.logs()
    assert graph.robot.resets == len(graph.robot.begun) >= 3


def test_the_learner_says_no_more_than_is_on_its_disk(graph: Graph) -> None:
    learner = graph.learner()
    acknowledged: list[int] = []
    interfaces.TRANSITIONS_ACK.subscription(graph.robot, lambda ack: acknowledged.append(ack.high_water))
    graph.bridge()
    wait_for(lambda: acknowledged and acknowledged[-1] > 2 * STEPS, graph)
    learner.send_signal(signal.SIGKILL)
    learner.wait()
    time.sleep(0.2)
    promised = acknowledged[-1]
    stored = [unpack(data) for data in read_records(graph.folder / "learner" / "store")]
    assert {one.seq for one in stored} >= set(range(1, promised + 1))
    assert all(pack(one) for one in stored)


def test_a_damaged_model_is_refused_once_and_the_run_goes_on(graph: Graph) -> None:
    graph.learner()
    bridge = graph.bridge(finetune_episodes=1)
    at_step(graph, 1, 1)
    bad = ModelUpdate(model_version="f" * 64, parent_version="0" * 64, manifest_json="{}", trained_on=5)
    bad.files = [BundleFile(name="skill_policy.onnx", sha256="0" * 64, data=b"no model")]
    graph.robot.models.publish(bad)
    wait_for(lambda: "arrived damaged" in graph.logs(), graph)
    bad.files = []
    for _ in range(3):
        graph.robot.models.publish(bad)
        time.sleep(0.05)
    graph.robot.status.publish(PolicyStatus(missed=3))
    assert ended(bridge, graph) == 0, graph.logs()
    report = graph.report()
    assert list(report["models_refused"]) == ["f" * 64]
    assert sum("ffffffffffff is refused" in warning for warning in report["warnings"]) == 1
    assert report["control"]["missed"] == 3
    assert report["model_updates"] == 2  # after the evaluation and after the episode of fine-tuning
