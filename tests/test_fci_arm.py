"""What the driver does with commands, reflexes and lost connections, against an arm that is told how to behave."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from simpl.core.fci_arm import ArmLostError, ArmStoppedError, Condition, FciArm, Reading
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl_core.errors import SimplError

PROFILE = load_profile(find_profile("franka_fr3"))
SLOW = np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1])
ZEROS = np.zeros(7)


class PretendArm:
    """A connection that remembers what it was told, and fails when it should."""

    def __init__(self) -> None:
        self.position = np.array(PROFILE.home)
        self.streamed: list[np.ndarray] = []
        self.fault: SimplError | None = None
        self.recoveries = 0
        self.closed = False

    def stream(self, velocity: np.ndarray) -> None:
        self._fail()
        self.streamed.append(velocity)

    def check(self) -> None:
        self._fail()

    def read(self) -> Reading:
        if isinstance(self.fault, ArmLostError):
            raise self.fault
        return Reading(self.position, np.zeros(7))

    def recover(self) -> None:
        if isinstance(self.fault, ArmLostError):
            raise self.fault
        self.recoveries += 1
        self.fault = None

    def close(self) -> None:
        self.closed = True

    def _fail(self) -> None:
        if self.fault:
            raise self.fault


class Lab:
    """An arm, its driver, and the sessions opened so far."""

    def __init__(self) -> None:
        self.sessions: list[PretendArm] = []
        self.reachable = True
        self.driver = FciArm(self.connect, PROFILE)
        self.driver.read()

    def connect(self) -> PretendArm:
        if not self.reachable:
            raise ArmLostError("no arm there")
        self.sessions.append(PretendArm())
        return self.sessions[-1]

    @property
    def arm(self) -> PretendArm:
        return self.sessions[-1]


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_nothing_moves_before_zeros_have_come(lab):
    assert "waits for a command of zeros" in lab.driver.command(SLOW)
    assert lab.driver.command(ZEROS) == ""
    assert lab.arm.streamed == []  # an arm at rest is not told to rest
    assert lab.driver.command(SLOW) == ""
    assert lab.driver.command(ZEROS) == ""
    assert lab.driver.command(ZEROS) == ""  # braking is not begun anew by every further zero
    np.testing.assert_array_equal(lab.arm.streamed, [SLOW, ZEROS])
    assert (lab.driver.commands, lab.driver.dropped) == (5, 1)


@pytest.mark.parametrize(
    ("velocity", "words"),
    [
        (SLOW[:6], "6 velocities came, wanted 7"),
        (np.zeros((7, 1)), "7 velocities came"),
        (np.where(np.arange(7) == 3, np.nan, SLOW), "not finite"),
        (np.where(np.arange(7) == 3, -np.inf, SLOW), "not finite"),
        (np.where(np.arange(7) == 4, 1.5001, 0.0), "fr3_joint5: 1.5001 rad/s is beyond the profile's 1.5"),
        (np.where(np.arange(7) == 4, -1e308, 0.0), "beyond the profile's"),
    ],
)
def test_impossible_commands_are_dropped_and_counted(lab, velocity, words):
    lab.driver.command(ZEROS)
    assert words in lab.driver.command(velocity)
    assert lab.arm.streamed == [] and lab.driver.dropped == 1
    assert lab.driver.command(PROFILE.velocity_limits()) == ""  # on the limits is within them


def test_a_joint_at_its_end_is_not_driven_on_but_may_come_back(lab):
    lab.driver.command(ZEROS)
    lab.arm.position[5] = PROFILE.joints[5].position[1]
    lab.driver.read()
    outwards = np.where(np.arange(7) == 5, 0.2, 0.0)
    assert "fr3_joint6 is at 4.5169 rad, its end" in lab.driver.command(outwards)
    assert lab.driver.command(-outwards) == ""


@pytest.mark.parametrize("noticed_by", ["a command", "a look"])
def test_a_reflex_stays_until_recovery_and_then_zeros_come_first(lab, noticed_by):
    lab.driver.command(ZEROS)
    lab.driver.command(SLOW)
    lab.arm.fault = ArmStoppedError("motion aborted by reflex")
    lab.driver.command(SLOW) if noticed_by == "a command" else lab.driver.read()
    assert lab.driver.condition is Condition.STOPPED and lab.driver.stops == 1
    assert "motion aborted by reflex" in lab.driver.command(SLOW)
    assert lab.driver.read() is not None  # where the arm stands is still known
    assert lab.driver.recover() == ""
    assert lab.driver.condition is Condition.READY and lab.arm.recoveries == 1
    assert "waits for a command of zeros" in lab.driver.command(SLOW)
    lab.driver.command(ZEROS)
    before = len(lab.arm.streamed)
    lab.driver.command(SLOW)
    assert len(lab.arm.streamed) == before + 1
    assert len(lab.sessions) == 1


def test_a_lost_arm_gives_no_states_and_recovery_opens_a_new_session(lab):
    lab.driver.command(ZEROS)
    lab.arm.fault = ArmLostError("UDP receive: timeout")
    assert lab.driver.read() is None and lab.driver.condition is Condition.LOST
    assert lab.driver.read() is None
    lab.reachable = False
    assert lab.driver.recover() == "no arm there" and lab.driver.condition is Condition.LOST
    lab.reachable = True
    assert lab.driver.recover() == ""
    assert len(lab.sessions) == 2 and lab.driver.read() is not None
    assert "waits for a command of zeros" in lab.driver.command(SLOW)
    assert lab.driver.stops == 1


def test_the_lost_session_is_over_before_another_is_asked_for(lab):
    """An arm grants one session at a time, and learns late that a cable was pulled."""
    lab.arm.fault = ArmLostError("cable pulled")
    lab.driver.read()
    lab.arm.fault = None  # its traceback knows the arm
    lost = weakref.ref(lab.sessions.pop())
    alive = []
    connect = lab.connect
    lab.driver._connect = lambda: (alive.append(lost()), connect())[1]
    assert lab.driver.recover() == "" and alive == [None]


def test_a_recovery_that_fails_says_why(lab, monkeypatch):
    def refuse() -> None:
        raise ArmStoppedError("user stop is pressed")

    lab.arm.fault = ArmStoppedError("reflex")
    lab.driver.read()
    monkeypatch.setattr(lab.arm, "recover", refuse)
    assert lab.driver.recover() == "user stop is pressed"
    assert lab.driver.condition is Condition.STOPPED and lab.driver.stops == 1


def test_recovering_a_ready_arm_changes_nothing(lab):
    lab.driver.command(ZEROS)
    assert lab.driver.recover() == "" and lab.arm.recoveries == 0
    assert lab.driver.command(SLOW) == ""


def test_the_end_brakes_where_there_is_an_arm(lab):
    lab.driver.close()
    assert lab.arm.closed
    lab.arm.fault, lab.arm.closed = ArmLostError("gone"), False
    lab.driver.read()
    lab.driver.close()
    assert not lab.arm.closed
