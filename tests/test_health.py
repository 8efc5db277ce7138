"""What is said on /diagnostics, and how bad it is."""

from __future__ import annotations

import numpy as np
import pytest

from simpl.core import health
from simpl.core.bridge_session import Situation
from simpl.core.guard_types import Command, Mode
from simpl.core.health import Level
from simpl.core.motion_limits import Flags
from simpl.core.policy_types import LoopStatus


@pytest.mark.parametrize(
    ("mode", "flags", "level"),
    [
        (Mode.RUNNING, Flags.JERK_LIMIT, Level.OK),  # every intervention is counted; limiting is a guard's daily work
        (Mode.STOPPED, Flags.EPISODE_END, Level.OK),
        (Mode.STOPPED, Flags.STALE_STATE, Level.WARN),
        (Mode.PAUSED, Flags.PAUSED, Level.WARN),
        (Mode.FAULT, Flags.NONFINITE, Level.ERROR),
        (Mode.ESTOP, Flags.ESTOP, Level.ERROR),
    ],
)
def test_a_guard_that_holds_the_arm_is_not_well(mode: Mode, flags: Flags, level: Level) -> None:
    said = health.of_guard(Command(np.zeros(2), 0, mode, flags, "why"), 3, 9)
    assert (said.level, said.message) == (level, f"{mode.name}: why")
    assert said.values["interventions"] == 3
    assert health.of_guard(None, 0, 0).level is Level.OK


def status(**fields: object) -> LoopStatus:
    return LoopStatus(**{**dict.fromkeys(LoopStatus._fields, 0), "state": "active", "reason": "", **fields})  # type: ignore[arg-type]


def test_late_ticks_are_told_once() -> None:
    assert health.of_policy(status(missed=5), 5).level is Level.OK
    late = health.of_policy(status(missed=7), 5)
    assert late.level is Level.WARN and late.message.startswith("2 late ticks")
    broken = health.of_policy(status(state="error", reason="a tick failed", missed=7), 5)
    assert broken.level is Level.ERROR and broken.message == "a tick failed"
    assert health.of_policy(status(arithmetic="float64"), 0).values["arithmetic"] == "float64"


@pytest.mark.parametrize(
    ("text", "failed", "level"),
    [
        ("an episode is under way", False, Level.OK),
        ("waiting for guard/reset: ESTOP, e-stop pressed", False, Level.WARN),
        ("over", True, Level.ERROR),
    ],
)
def test_a_run_that_waits_for_a_person_says_so(text: str, failed: bool, level: Level) -> None:
    situation = Situation("finetune", 3, 70, 10, 280, 1, "kettle", "v", text, 1.0, failed)
    said = health.of_bridge(situation, 12, 1, failed)
    assert (said.level, said.message) == (level, text)
    assert said.values["transitions not acknowledged"] == 12


def test_a_learners_complaint_is_a_warning() -> None:
    assert health.of_learner("training", "", {}).level is Level.OK
    assert health.of_learner("training", "no space", {}) == health.Health(Level.WARN, "no space", {})
