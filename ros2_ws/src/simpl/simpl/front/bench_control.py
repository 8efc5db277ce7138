"""`simpl bench control`: policy and guard as real processes, beside a bare echo node and a plain timer node."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from simpl_interfaces.srv import BeginEpisode
from std_srvs.srv import Trigger

from export.bundle import Bundle
from simpl import interfaces
from simpl.core.policy_model import load_policy_model
from simpl.core.profile import RobotProfile, load_profile
from simpl.front.bench_numbers import Quantiles, cpu_seconds, quantiles, split
from simpl.front.bench_plant import BenchPlant
from simpl.nodes.running import set_priority
from simpl_core.errors import EnvironmentMissingError

CHILD = Path(__file__).resolve().parent / "child.py"
SETTLE = 2.0
"""Left out at the beginning [s]."""
PLANT_PRIORITY = 14
"""Above policy and guard: what is measured is not how late the plant is."""
_STEPS = 1_000_000
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Beat(NamedTuple):
    """Ticks of a control loop that were due, and how many came late by half a period or not at all."""

    ticks: int
    late: int

    @property
    def fraction(self) -> float:
        """Late ones among them."""
        return self.late / self.ticks if self.ticks else math.nan


@dataclass(frozen=True)
class ControlRun:
    """What one run has shown.

    Attributes:
        delays: since the joint state behind it was sent, of the policy's action, the guard's command, the echo's and
            the timer node's answer; None of what did not run.
        policy: beat of the policy, by its own count.
        timer: beat of the timer node, by the same count.
        cpu: share of one core that policy and guard used.
    """

    delays: dict[str, Quantiles | None]
    policy: Beat
    timer: Beat
    cpu: dict[str, float]

    @property
    def ratio(self) -> float:
        """p99 from joint state to the guard's command, over the echo node's."""
        command, echo = self.delays["command"], self.delays["echo"]
        return command.p99 / echo.p99 if command and echo else math.nan


def run_control(bundle: Path, rate: float, seconds: float, *, peers: bool = True, real_time: bool = True) -> ControlRun:
    """Let policy and guard act on joint states of 1 kHz for a while.

    Args:
        bundle: folder of the model that acts.
        rate: control rate [Hz]; the model's, or a whole multiple of it.
        seconds: that are measured.
        peers: whether echo and timer node run beside them.
        real_time: whether plant, policy, guard and echo take real-time priority, where the system grants it.

    Raises:
        BundleError: the bundle is none, or its rate does not divide `rate`.
        EnvironmentMissingError: a node died, or did not find the others.
    """
    namespace = f"bench_{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="simpl_bench_") as folder:
        profile = write_profile(Path(folder) / "profile.yaml", bundle, rate)
        load_policy_model(bundle, profile)  # complains here and not in a log
        place = ["-r", f"__ns:=/{namespace}"]
        acting = [*place, "-p", f"profile:={folder}/profile.yaml"]
        commands = {
            "guard": ["simpl.nodes.guard", "--ros-args", *acting],
            "policy": ["simpl.nodes.policy", "--ros-args", *acting, "-p", f"bundle:={bundle.resolve()}"],
        }
        commands["policy"] += ["-p", f"max_steps:={_STEPS}"]
        paced = ["--ros-args", *place, "-p", f"rate_hz:={float(rate)}"]
        if peers:
            commands["echo"] = ["simpl.nodes.bench_peers", "echo", *paced]
        if not real_time:
            commands = {name: [*command, "-p", "priority:=0"] for name, command in commands.items()}
        if peers:
            commands["timer"] = ["simpl.nodes.bench_peers", "timer", *paced, "-p", f"bundle:={bundle.resolve()}"]
        with _plant(namespace, profile) as plant, _processes(commands, Path(folder)) as processes:
            plant.await_listeners(len(commands), lambda: _check_alive(processes, Path(folder)))
            with _precedence(PLANT_PRIORITY if real_time else 0):
                _begin(plant, Bundle.open(bundle).manifest.e_dim)
                time.sleep(SETTLE)
                found = _measure(plant, processes, rate, seconds)
            _check_alive(processes, Path(folder))
            plant.call(interfaces.END_EPISODE, Trigger.Request())
            return found


def write_profile(path: Path, bundle: Path, rate: float) -> RobotProfile:
    """A profile of the arm that the bundle was made for, with limits that a guard has something to do with."""
    robot = Bundle.open(bundle).manifest.robot
    joints = [
        {"name": name, "unit": "rad", "position": [-3.0, 3.0], "velocity": 2.0, "acceleration": 20.0, "jerk": 5000.0}
        for name in robot.joint_names
    ]
    document = {
        "name": "bench",
        "description": "the bundle's arm, for measurements",
        "control_rate_hz": float(rate),
        "position_margin": 0.01,
        "joints": joints,
        "objects": list(robot.observation[len(joints) :]),
    }
    path.write_text(yaml.safe_dump(document))
    return load_profile(path)


def _begin(plant: BenchPlant, e_dim: int) -> None:
    request = BeginEpisode.Request(episode=1, e=np.zeros(e_dim, np.float32), seed=0)
    deadline = time.monotonic() + 30.0
    while True:
        answer = plant.call(interfaces.BEGIN_EPISODE, request)
        if answer.success:
            return
        if time.monotonic() > deadline:
            raise EnvironmentMissingError(f"the policy does not begin: {answer.message}")
        time.sleep(0.2)


def _measure(
    plant: BenchPlant, processes: dict[str, subprocess.Popen[bytes]], rate: float, seconds: float
) -> ControlRun:
    begin, late, timer = time.monotonic(), _late(plant), plant.timer_ticks
    used = {name: cpu_seconds(processes[name].pid) for name in ("policy", "guard")}
    time.sleep(seconds)
    end = time.monotonic()
    policy = Beat(round(rate * (end - begin)), _late(plant) - late)
    timer_beat = Beat(plant.timer_ticks[0] - timer[0], plant.timer_ticks[1] - timer[1])
    cpu = {name: (cpu_seconds(processes[name].pid) - before) / (end - begin) for name, before in used.items()}
    delays = {}
    for name, pairs in plant.answers.items():
        when, took = np.array(pairs).reshape(-1, 2).T
        delays[name] = quantiles(split(when, took, begin, end))
    return ControlRun(delays, policy, timer_beat, cpu)


def _late(plant: BenchPlant) -> int:
    """The policy's own count of late ticks so far."""
    return int(plant.status.missed) if plant.status else 0


@contextmanager
def _precedence(priority: int) -> Iterator[None]:
    """Real-time priority for this process, as a driver has it, once no other process is started any more."""
    set_priority(priority)
    try:
        yield
    finally:
        set_priority(0)


@contextmanager
def _plant(namespace: str, profile: RobotProfile) -> Iterator[BenchPlant]:
    plant = BenchPlant(namespace, profile.joint_names, profile.objects)
    try:
        yield plant
    finally:
        plant.close()


@contextmanager
def _processes(commands: dict[str, Sequence[str]], folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Python modules as processes that do not outlive this one; what they say goes to a file of their name."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                arguments: list[Any] = [sys.executable, "-I", "-S", str(CHILD), str(os.getpid())]
                started[name] = subprocess.Popen(
                    [*arguments, sys.executable, "-m", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **_ONE_THREAD},
                )
        yield started
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            try:
                process.wait(timeout=8.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _check_alive(processes: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            said = (folder / f"{name}.log").read_text(errors="replace").strip()
            raise EnvironmentMissingError(f"{name} ended with {process.returncode}: {said[-400:] or 'without a word'}")
