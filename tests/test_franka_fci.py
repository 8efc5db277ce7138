"""The driver, the guard and an FR3 that speaks the robot's own protocol on the loopback, as real processes.

Needs `pip install '.[franka,franka-sim]'`. The arm's time runs slower than the wall clock's on a busy machine: what is
asserted is what was measured at the joints, and that it ends, never how soon.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")
pytest.importorskip("franky", reason="the extra `franka` is not installed")
pytest.importorskip("franky_sim", reason="the extra `franka-sim` is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import ListParameters
from ros_rig import Log, RosRig, wait_for

from simpl import interfaces as topics
from simpl.conversions import to_policy_action
from simpl.core.fci_arm import Condition, FciArm
from simpl.core.franky_connection import FrankyConnection
from simpl.core.policy_types import PolicyTick
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile

pytestmark = pytest.mark.slow
PROFILE = load_profile(find_profile("franka_fr3"))
PATIENCE = 240.0
STANDS = 0.15  # the simulated servo trembles by half as much when it should stand [rad/s]
DRIFT = 0.01  # and stays within this [rad]
NOTHING = np.zeros(0, np.float32)


def power_on() -> subprocess.Popen[str]:
    """The arm, when it takes connections."""
    script = str(Path(__file__).with_name("franky_arm.py"))
    arm = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert arm.stdout is not None and arm.stdout.readline() == "ready\n"
    return arm


class Lab:
    """A simulated FR3, the driver, and a guard."""

    def __init__(self, rig: RosRig) -> None:
        self.rig = rig
        self.arm = power_on()
        self.states = rig.listen(topics.JOINT_STATES)
        self.commands = rig.listen(topics.COMMANDS)
        self.diagnoses = rig.listen(topics.DIAGNOSTICS)

    def begin(self) -> None:
        """Driver and guard, until both are heard and the driver has heard the guard's zeros, which arm it."""
        self.rig.start("franka_fci", robot_ip="127.0.0.1", realtime=False, hold=0.5)
        self.rig.start("guard", profile="franka_fr3", action_timeout=1.0, state_timeout=10.0)
        wait_for(lambda: len(self.states) > 5 and len(self.commands) > 0 and self.count("commands") > 0, PATIENCE)

    def velocity(self) -> np.ndarray:
        """As the arm last said."""
        state = self.states[-1]
        assert tuple(state.name) == PROFILE.joint_names
        return np.array(state.velocity)

    def stands(self) -> bool:
        return bool(np.abs(self.velocity()).max() < STANDS)

    def stays(self) -> bool:
        """Whether it is where it was after twenty more states."""
        before, seen = np.array(self.states[-1].position), len(self.states)
        wait_for(lambda: len(self.states) > seen + 20, PATIENCE)
        return self.stands() and bool(np.abs(self.states[-1].position - before).max() < DRIFT)

    def count(self, what: str) -> int:
        """As the driver last said."""
        said = self.said()
        return sum(int(value.value) for value in said.values if value.key == what) if said else 0

    def level(self) -> bytes:
        said = self.said()
        return said.level if said else DiagnosticStatus.STALE

    def said(self) -> DiagnosticStatus | None:
        """The driver's last word; the guard speaks there too."""
        words = (status for message in reversed(self.diagnoses) for status in message.status)
        return next((status for status in words if status.name == "franka_fci: arm"), None)


class Policy:
    """Says the same velocity over and over, as a policy in an episode would."""

    def __init__(self, rig: RosRig) -> None:
        self.publisher = topics.POLICY_ACTION.publisher(rig.node)
        self.velocity: np.ndarray | None = None
        self.tick, self.episode, self.step = 0, 0, 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.speak, daemon=True)
        self.thread.start()

    def begin(self, velocity: np.ndarray) -> None:
        self.episode, self.step, self.velocity = self.episode + 1, 0, velocity

    def speak(self) -> None:
        while not self.ending.wait(0.05):
            velocity = self.velocity
            if velocity is None:
                continue
            self.tick += 1
            tick = PolicyTick(
                stamp=0, tick=self.tick, episode=self.episode, step=self.step, observation=NOTHING, z=NOTHING,
                e=NOTHING, skill_start=False, action=NOTHING, velocity=velocity, model_version="test", latency=0.0,
                active=True,
            )  # fmt: skip
            self.publisher.publish(to_policy_action(tick))
            self.step += 1


@pytest.fixture
def rig() -> Iterator[RosRig]:
    rig = RosRig()
    yield rig
    rig.close()


@pytest.fixture
def lab(rig) -> Iterator[Lab]:
    lab = Lab(rig)
    try:
        lab.begin()
        yield lab
    finally:
        lab.arm.kill()
        lab.arm.wait()


@pytest.fixture
def policy(rig) -> Iterator[Policy]:
    policy = Policy(rig)
    yield policy
    policy.ending.set()
    policy.thread.join()


def turning(joint: int, velocity: float) -> np.ndarray:
    return np.where(np.arange(7) == joint, velocity, 0.0)


def newest(log: Log) -> Log:
    """Only what comes from now on."""
    log.clear()
    log.times.clear()
    return log


def test_a_franka_arm_moves_obeys_stops_and_recovers(lab: Lab, policy: Policy) -> None:
    assert lab.stands()

    # It follows the guard: twenty times too fast a wish comes out at the profile's limit, and the sign is right.
    policy.begin(turning(6, -30.0))
    wait_for(lambda: lab.velocity()[6] < -0.3, PATIENCE)
    limit = PROFILE.joints[6].velocity
    assert all(abs(command.data[6]) <= limit + 1e-12 for command in lab.commands)
    assert np.abs(np.delete(lab.velocity(), 6)).max() < STANDS

    # The guard stops it: zeros bring it to a stand.
    policy.velocity = None
    lab.rig.call(topics.GUARD_ESTOP)
    wait_for(lab.stands, PATIENCE)
    assert lab.stays()
    assert lab.rig.call(topics.GUARD_RESET).success

    # A reflex in mid motion: the driver says so, drops what comes, and states go on.
    policy.begin(turning(6, 0.5))
    wait_for(lambda: lab.velocity()[6] > 0.35, PATIENCE)
    lab.arm.send_signal(signal.SIGUSR1)
    wait_for(lambda: lab.level() == DiagnosticStatus.ERROR, PATIENCE)
    assert "reflex" in lab.said().message
    wait_for(lab.stands, PATIENCE)
    assert lab.stays()

    # Recovery alone sets nothing in motion, whatever still comes; zeros do not either; the next episode does.
    assert lab.rig.call(topics.ARM_RECOVER).success
    assert lab.stays() and lab.level() == DiagnosticStatus.OK
    policy.velocity = None
    lab.rig.call(topics.GUARD_ESTOP)
    assert lab.rig.call(topics.GUARD_RESET).success
    seen = lab.count("commands")
    wait_for(lambda: lab.count("commands") > seen + 10, PATIENCE)  # the guard repeats its zeros: they have come
    policy.begin(turning(6, 0.5))
    wait_for(lambda: lab.velocity()[6] > 0.35, PATIENCE)

    # The arm loses power: states end. With power again and after recovery it stands and answers.
    policy.velocity = None
    lab.arm.kill()
    lab.arm.wait()
    wait_for(lambda: lab.level() == DiagnosticStatus.ERROR, PATIENCE)
    newest(lab.states)
    assert not lab.rig.call(topics.ARM_RECOVER).success
    assert not lab.states
    lab.arm = power_on()
    assert lab.rig.call(topics.ARM_RECOVER).success
    wait_for(lambda: len(lab.states) > 5, PATIENCE)
    assert lab.stands()

    status, output = lab.rig.finish("franka_fci")
    assert status == 0, output
    assert "command dropped" in output


def test_the_driver_has_its_parameters_and_goes_before_the_guard_where_that_is_granted(lab: Lab) -> None:
    path = Path(__file__).parents[1] / "ros2_ws" / "src" / "simpl" / "config" / "control.params.yaml"
    written = yaml.safe_load(path.read_text())["/**/franka_fci"]["ros__parameters"]
    names = lab.rig.call(topics.Service("franka_fci/list_parameters", ListParameters)).result.names
    own = sorted(name for name in names if name != "use_sim_time" and not name.startswith(("qos_", "start_type")))
    assert sorted(written) == own
    process = lab.rig.processes["franka_fci"].pid
    threads = [int(one.name) for one in Path(f"/proc/{process}/task").iterdir()]
    lowest = min(os.sched_getparam(thread).sched_priority for thread in threads)
    granted = not subprocess.run(["chrt", "--fifo", str(written["priority"]), "true"], capture_output=True).returncode
    assert lowest == (written["priority"] if granted else 0), "the threads of the arm's library, too"


def test_the_end_of_a_session_brakes_an_arm_in_motion() -> None:
    arm = power_on()
    try:
        driver = FciArm(lambda: FrankyConnection("127.0.0.1", realtime=False, hold=600.0), PROFILE)
        robot = driver._connection()._robot  # what the arm was told last, which no joint state says
        driver.read()
        driver.command(np.zeros(7))

        def fast() -> bool:
            assert driver.command(turning(6, 1.0)) == ""
            return bool(robot.state.dq_d[6] > 0.9)

        wait_for(fast, PATIENCE)
        driver.close()
        # Left alone it would go on for ten minutes.
        wait_for(lambda: not robot.is_in_control, PATIENCE)
        assert driver.condition is Condition.READY
        assert abs(robot.state.dq_d[6]) < 0.4
    finally:
        arm.kill()
        arm.wait()


def test_without_an_arm_the_driver_says_where_it_looked(rig) -> None:
    rig.start("franka_fci", robot_ip="127.0.0.1", realtime=False)
    status, output = rig.finish("franka_fci", None)
    assert status == 2
    assert "no arm at 127.0.0.1" in output and "Traceback" not in output
