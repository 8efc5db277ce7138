"""Joint states that do not come, come wrong, or lie about their age; and a wall clock that jumps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from simpl.conversions import from_time
from simpl.core.guard import Flags, Mode
from simpl.faults import sensor
from simpl.faults.places import WallClock
from simpl.faults.process_faults import TWO_PERIODS
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.sensor import FaultySensor
from simpl.faults.stage import HOLD, Stage

WATCHED = 3.0
"""So long the arm must go on with a fault that is none of its business [s]."""
TRIES = 4
HOUR = 3600


def _in_motion(stage: Stage) -> FaultySensor:
    relay = FaultySensor(stage.rig.node)
    stage.set_in_motion(arm=sensor.REMAP)
    return relay


def _stopped_by(stage: Stage, fault: sensor.Fault) -> FaultySensor:
    relay = _in_motion(stage)
    stage.strike(lambda: setattr(relay, "fault", fault))
    stage.stops()
    return relay


def _stops_and_goes_on(stage: Stage, fault: sensor.Fault) -> str:
    """Staleness stops the arm for as long as it lasts."""
    relay = _stopped_by(stage, fault)
    reason = stage.guard_says(Flags.STALE_STATE)
    stage.stays_stopped(HOLD)
    relay.fault = sensor.healthy
    stage.recovers()
    return f"zeros ({reason}); went on"


def _latches(stage: Stage, fault: sensor.Fault) -> str:
    """What cannot be believed is a fault, until somebody has looked at it."""
    relay = _stopped_by(stage, fault)
    reason = stage.guard_says(Flags.INVALID_STATE, Mode.FAULT)
    stage.refuses_reset()
    relay.fault = sensor.healthy
    stage.reset()
    stage.recovers()
    return f"fault ({reason}); went on after the reset"


def _goes_on(stage: Stage, fault: Callable[[], object]) -> None:
    """The arm moves on in the same episode, with nothing latched.

    A starved machine gives up an episode now and then for reasons of its own, so the fault has more than one try.
    """
    for _ in range(TRIES):
        episode = stage.actions[-1].episode
        stage.strike(fault)
        stage.goes_on(WATCHED)
        latched = [word.reason for word in stage.since(stage.guard) if word.mode in (Mode.FAULT, Mode.ESTOP)]
        if latched:
            raise UnexpectedError(f"the guard latched a stop: {latched[0]}")
        if stage.actions[-1].episode == episode:
            return
        stage.wait_for_motion()
    raise UnexpectedError(f"an episode was given up, {TRIES} times of {TRIES}")


@scenario("joint states stop", "zeros; the run goes on when they come again", within=TWO_PERIODS)
def joint_states_stopped(stage: Stage) -> str:
    return _stops_and_goes_on(stage, sensor.silent)


@scenario("every other joint state is lost", "the episode goes on")
def joint_states_half_rate(stage: Stage) -> str:
    relay = _in_motion(stage)
    _goes_on(stage, lambda: setattr(relay, "fault", sensor.HalfRate()))
    stage.close_books()
    return "went on"


@scenario(
    "every other joint state comes 0.25 s late, behind newer ones",
    "the episode goes on, and no older state is acted on after a newer one",
)
def joint_states_reordered(stage: Stage) -> str:
    relay = _in_motion(stage)
    _goes_on(stage, lambda: setattr(relay, "fault", sensor.Reordered()))
    stamps = [from_time(action.header.stamp) for action in stage.since(stage.actions) if action.active]
    back = sum(later < earlier for earlier, later in itertools.pairwise(stamps))
    if back:
        raise UnexpectedError(f"{back} of {len(stamps)} actions were made from a state older than the one before")
    stage.close_books()
    return f"went on; {len(stamps)} actions, none from an older state than the one before"


@scenario(
    "joint states without the last joint", "a fault: zeros, latched; reset refused while it lasts", within=TWO_PERIODS
)
def joint_states_missing_joint(stage: Stage) -> str:
    return _latches(stage, sensor.missing_joint)


@scenario(
    "NaN in the joint states", "a fault: zeros, latched; reset refused while it lasts", within=TWO_PERIODS, quick=True
)
def joint_states_nan(stage: Stage) -> str:
    return _latches(stage, sensor.nan)


@scenario(
    "joint states come, but all with one old stamp and reading",
    "zeros; the run goes on when they are fresh again",
    within=TWO_PERIODS,
)
def joint_states_stale_stamp(stage: Stage) -> str:
    return _stops_and_goes_on(stage, sensor.StaleStamp())


@scenario("the robot's wall clock jumps an hour ahead, then an hour back", "the episode goes on", needs="compiler")
def wall_clock_jumps(stage: Stage) -> str:
    clock = WallClock(stage.logs)
    stage.set_in_motion(environment=clock.environment)
    for way in (HOUR, -HOUR):
        _goes_on(stage, lambda way=way: clock.advance(way))  # type: ignore[misc]
    stamps = [from_time(action.header.stamp) for action in stage.actions]
    jumps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    if not (max(jumps) > HOUR * 9e8 and min(jumps) < -HOUR * 9e8):
        raise UnexpectedError("the clock of the nodes did not jump, so nothing was tried")
    stage.close_books()
    return "went on"
