"""How the parts of the graph fare, in the words of /diagnostics: a level, a message, numbers. No ROS."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from simpl.core.fci_arm import Condition, FciArm
from simpl.core.guard_types import Command, Mode
from simpl.core.motion_limits import Flags
from simpl.core.policy_types import LoopStatus

if TYPE_CHECKING:  # the guard's process needs none of what a bridge does
    from simpl.core.bridge_session import Situation


class Level(enum.IntEnum):
    """Values as in DiagnosticStatus.msg."""

    OK = 0
    WARN = 1
    ERROR = 2


class Health(NamedTuple):
    """What is to be said of a part."""

    level: Level
    message: str
    values: Mapping[str, object]


def of_guard(last: Command | None, interventions: int, commands: int) -> Health:
    """`last` is the guard's newest command."""
    values = {"commands": commands, "interventions": interventions}
    if last is None:
        return Health(Level.OK, "nothing said yet", values)
    level = Level.OK
    if last.mode in (Mode.FAULT, Mode.ESTOP):
        level = Level.ERROR
    elif last.mode is Mode.PAUSED or (last.mode is Mode.STOPPED and last.flags & ~(Flags.EPISODE_END | Flags.SHUTDOWN)):
        level = Level.WARN
    message = f"{last.mode.name}: {last.reason}" if last.reason else last.mode.name
    return Health(level, message, values | {"mode": last.mode.name, "flags": int(last.flags)})


def of_policy(status: LoopStatus, missed_before: int) -> Health:
    """`missed_before` is the count of late ticks that was told last."""
    values = {
        "model": status.model_version,
        "arithmetic": status.arithmetic,
        "ticks": status.ticks,
        "missed": status.missed,
        "rate [Hz]": round(status.rate_hz, 2),
        "latency p50 [ms]": round(status.latency_p50, 3),
        "latency p99 [ms]": round(status.latency_p99, 3),
    }
    if status.state == "error":
        return Health(Level.ERROR, status.reason or "a tick failed", values)
    late = status.missed - missed_before
    if late > 0:
        return Health(Level.WARN, f"{late} late ticks since this was last said", values)
    return Health(Level.OK, status.reason or status.state or "waiting for an episode", values)


def of_bridge(situation: Situation, pending: int, resent: int, failed: bool) -> Health:
    """`pending` transitions are not acknowledged, `resent` were sent more than once; `failed` if the run has."""
    values = {
        "phase": situation.phase,
        "episode": f"{situation.episode} of {situation.episodes_total}",
        "model": situation.model_version,
        "transitions not acknowledged": pending,
        "transitions sent again": resent,
    }
    waits = situation.status.startswith(("waiting for guard", "the arm is not home"))
    level = Level.ERROR if failed else Level.WARN if waits else Level.OK
    return Health(level, situation.status, values)


def of_learner(phase: str, complaint: str, counts: Mapping[str, object]) -> Health:
    """`complaint` is what went wrong since this was last said, or empty."""
    return Health(Level.WARN if complaint else Level.OK, complaint or phase, counts)


def of_arm(arm: FciArm) -> Health:
    """The driver's arm."""
    level = Level.OK if arm.condition is Condition.READY else Level.ERROR
    counts = {"commands": arm.commands, "dropped": arm.dropped, "stops": arm.stops}
    return Health(level, arm.reason or arm.condition.value, counts)
