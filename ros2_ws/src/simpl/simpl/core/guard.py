"""The safety guard: between what a policy wants and what a controller gets. Pure: no ROS, no thread.

Order of judgement: finiteness, size, latched stops, staleness, then limits. A velocity controller holds its last
command, so silence is motion: every way of stopping ends in a command of zeros, and `watch` finds the stops that
nobody asked for. Who asks for a stop that can wait (end of an episode, pause, shutdown) gets one within the limits of
acceleration and jerk; whatever went wrong stops the arm at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpl.core.guard_types import (
    HELD,
    Answer,
    Command,
    FloatArray,
    GuardSettings,
    Held,
    Mode,
    TrajectoryPoint,
    Wanted,
)
from simpl.core.guard_watch import guard_patience
from simpl.core.motion_limits import Flags, MotionLimits, describe
from simpl.core.profile import RobotProfile
from simpl.core.robot_state import is_news
from simpl.core.trajectory import TrajectoryPath

__all__ = ["HELD", "Answer", "Command", "Flags", "Guard", "GuardSettings", "Mode", "MotionLimits", "Wanted"]

_EARLIER = "stopped before this guard was started: "


class Guard:
    """Turns actions into commands that are safe to send.

    A fault or an e-stop latches: zeros until `reset`, and after it still zeros until an episode starts anew, since
    a reset alone must not set an arm in motion. Staleness only stops: fresh input goes on where it left, and so does
    `resume` after a pause.

    Args:
        profile: limits of the arm.
        settings: watchdog times.
        now: steady clock [s].
    """

    def __init__(
        self, profile: RobotProfile, settings: GuardSettings, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._now = now
        late = 0.0 if settings.lockstep else max(0.0, settings.action_timeout + settings.look - profile.period)
        self._limits = MotionLimits(profile, late)
        self._period, self._patience = profile.period, guard_patience(profile.period)
        self._path = TrajectoryPath(self._limits, profile.velocity_limits())
        self._joints = profile.joint_names
        self._zeros = np.zeros(len(profile.joints))
        self._zeros.flags.writeable = False
        self.mode = Mode.STOPPED
        self.interventions = 0
        """Commands that differ from the action they answer."""
        self.counts: NDArray[np.uint64] = np.zeros(max(Flags).bit_length(), dtype=np.uint64)
        """The same by kind, and the stops that no action caused: entry k counts the flag 2^k."""
        self.commands = 0
        self._why = (Flags.NONE, "no action yet")
        self._position: FloatArray | None = None
        self._velocity = self._acceleration = self._zeros
        self._moved = self._zeros  # what the arm was told to move since its last state
        self._moved_at = -math.inf
        self._state_at = self._action_at = self._command_at = self._decided_at = self._looked_at = -math.inf
        self._bad_action_at = -math.inf
        self._stamp = 0
        self._bad_state = self._strangers = self._controller = ""
        self._paused = False
        self._episode: int | None = None
        self._barred: int | None = None

    def on_state(self, position: FloatArray, stamp: int = 0, received: float | None = None) -> None:
        """Take a checked joint state.

        Args:
            position: (A,) in the profile's order [rad, m].
            stamp: of its measurement [ns]; 0 says nothing. A stamp that is said again makes nothing younger, and
                what comes after a newer one is dropped. In lockstep time may stand still.
            received: when it came, on the steady clock [s]; now by default.
        """
        self._bad_state = ""
        if not (self._settings.lockstep or is_news(stamp, self._stamp)):
            return
        self._stamp = stamp
        self._position = position
        self._state_at = self._moved_at = self._now() if received is None else received
        self._moved = self._zeros

    def on_invalid_state(self, reason: str) -> Command | None:
        """Take note of a joint state that `NameOrder` refused: a fault. Gives zeros unless a stop is latched."""
        self._bad_state = reason
        if self.mode is Mode.ESTOP or self.mode is Mode.FAULT:
            return None
        return self._fault(Flags.INVALID_STATE, f"joint state refused: {reason}")

    def on_action(self, wanted: Wanted) -> Command:
        """Exactly one command for one action."""
        now = self._now()
        velocity, flags, problem = self._read(wanted)
        if wanted.active:
            self._episode = wanted.episode
        if flags:
            self._bad_action_at = now
            if self.mode is not Mode.ESTOP:
                return self._fault(flags, f"action {wanted.tick}: {problem}", wanted)
        if self.mode is Mode.ESTOP or self.mode is Mode.FAULT:
            latched, reason = self._why
            if wanted.active:  # begun behind the latch: a reset alone must not let it go on either
                self._bar()
            return self._stop(self.mode, latched | flags, reason, wanted)
        if self._paused:
            return self._ease(Mode.PAUSED, *self._why, wanted)
        if not wanted.active:
            return self._ease(Mode.STOPPED, Flags.EPISODE_END, "the episode ended", wanted)
        if self._controller:
            self._bar()
            return self._stop(Mode.STOPPED, Flags.NO_CONTROLLER, self._controller, wanted)
        if self._barred is not None:
            if wanted.episode == self._barred and not wanted.starts:
                reason = f"episode {wanted.episode} was stopped; the next one moves again"
                return self._stop(Mode.STOPPED, Flags.EPISODE_END, reason, wanted)
            self._barred = None
        self._action_at = now
        stale = self._stale_state(now)
        if stale or self._position is None:
            return self._stop(Mode.STOPPED, Flags.STALE_STATE, stale, wanted)
        if wanted.age > self._settings.action_timeout:
            reason = f"the action was computed from a state {wanted.age:.3f} s old"
            return self._stop(Mode.STOPPED, Flags.STALE_ACTION, reason, wanted)
        return self._move(velocity, self._position, wanted)

    def watch(self, strangers: Sequence[str] = (), controller: str = "") -> Command | None:
        """Look after what did not happen; call it about every fifth of the shortest time-out.

        Args:
            strangers: names of others that publish on the command topic.
            controller: why the controller would not obey a command; empty when it would, or nobody knows.

        Returns:
            A command to send, or None.
        """
        now = self._now()
        self._strangers, self._controller = ", ".join(strangers), controller
        latched = self.mode is Mode.ESTOP or self.mode is Mode.FAULT
        if strangers and not latched:
            return self._fault(Flags.SECOND_PUBLISHER, f"{self._strangers} publishes commands too")
        if self.mode is Mode.RUNNING and controller:
            self._bar()
            return self._stop(Mode.STOPPED, Flags.NO_CONTROLLER, controller)
        # An arm that waits for a joint state counts as moving: the next one would set it in motion again.
        if self.mode is Mode.RUNNING or (self.mode is Mode.STOPPED and Flags.STALE_STATE in self._why[0]):
            silence = now - self._action_at
            if silence > self._settings.action_timeout:
                return self._stop(Mode.STOPPED, Flags.STALE_ACTION, f"no action for {silence:.3f} s")
        if self.mode is Mode.RUNNING:
            stale, away = self._stale_state(now), self._away(now)
            if stale or away:
                return self._stop(Mode.STOPPED, Flags.STALE_STATE if stale else Flags.STALE_ACTION, stale or away)
        elif self._velocity.any():
            return self._ease(self.mode, *self._why)
        elif 0.0 < self._settings.zero_repeat <= now - self._command_at:
            return self._rest(now)
        self._looked_at = now
        return None

    def estop(self) -> Command:
        """Stop at once and stay stopped until `reset`."""
        self._bar()
        return self._stop(Mode.ESTOP, Flags.ESTOP, "e-stop pressed")

    def take_over(self, held: Held) -> Command:
        """Stay in the stop that an earlier guard was in; a fault, whose cause nobody knows any more, as an e-stop."""
        pause = held.mode is Mode.PAUSED
        self._paused = pause or held.paused
        mode, flag = (Mode.PAUSED, Flags.PAUSED) if pause else (Mode.ESTOP, Flags.ESTOP)
        return self._stop(mode, flag, f"{_EARLIER}{held.reason.removeprefix(_EARLIER)}")

    def pause(self) -> Answer:
        """Slow down to a stop, and stay stopped until `resume`."""
        self._paused = True
        if self.mode is Mode.ESTOP or self.mode is Mode.FAULT:
            message = f"stopped already: {self.mode.name}, {self._why[1]}; paused after guard/reset too"
            return Answer(True, message, self._stop(self.mode, *self._why))
        command = self._ease(Mode.PAUSED, Flags.PAUSED, "paused until guard/resume")
        return Answer(True, "paused; guard/resume goes on", command)

    def resume(self) -> Answer:
        """Leave a pause: the next action moves again."""
        self._paused = False
        if self.mode is Mode.ESTOP or self.mode is Mode.FAULT:
            message = f"{self.mode.name}: {self._why[1]}; guard/reset releases it"
            return Answer(False, message, self._stop(self.mode, *self._why))
        if self.mode is not Mode.PAUSED:
            return Answer(True, "nothing is paused")
        return Answer(True, "the next action moves again", self._ease(Mode.STOPPED, Flags.NONE, "resumed"))

    def reset(self) -> Answer:
        """Leave a latched stop. Refused while what caused a fault is still there."""
        if self.mode is Mode.RUNNING:
            return Answer(True, "nothing is latched")
        if self.mode is Mode.STOPPED:  # said again: somebody may wait for what was latched before a restart
            return Answer(True, "nothing is latched", self._ease(Mode.STOPPED, *self._why))
        if self.mode is Mode.PAUSED:
            return Answer(True, "nothing is latched; guard/resume ends the pause")
        now = self._now()
        causes = [
            self._strangers and f"{self._strangers} publishes commands too",
            self._bad_state and f"last joint state was refused: {self._bad_state}",
            self._stale_state(now),
            "the policy still sends impossible actions"
            if now - self._bad_action_at <= self._settings.action_timeout
            else "",
        ]
        active = [cause for cause in causes if cause]
        if active:
            return Answer(False, "; ".join(active))
        if self._paused:
            zeros = self._stop(Mode.PAUSED, Flags.PAUSED, "reset; paused until guard/resume")
            return Answer(True, "released, and paused: guard/resume goes on", zeros)
        zeros = self._stop(Mode.STOPPED, Flags.NONE, "reset; waiting for an episode to start")
        return Answer(True, "stopped; the next episode moves again", zeros)

    def shutdown(self, *, at_once: bool = False) -> Command:
        """The next of the last commands: call it until its velocity is zero, or let it be zero `at_once`."""
        mode = self.mode if self.mode in HELD else Mode.STOPPED
        stop = self._stop if at_once else self._ease
        return stop(mode, Flags.SHUTDOWN, "the guard is shutting down")

    def trajectory(self, velocity: FloatArray) -> list[TrajectoryPoint]:
        """`velocity` (A,) for one period and then a stop, for controllers that follow trajectories.

        Such a command ends at rest whatever becomes of its sender. Empty while no joint state has come: to tell a
        controller where to stay takes a place.
        """
        if self._position is None:
            return []
        return self._path.points(velocity, self._position + self._moved, self._now())

    # -- judgement -----------------------------------------------------------------------------------------------

    def _read(self, wanted: Wanted) -> tuple[FloatArray, Flags, str]:
        """The wanted velocity as numbers, or what is wrong with it."""
        velocity: Any = wanted.velocity
        try:
            given = np.asarray(velocity)
            # Text that reads like a number, or a complex one, would pass a mere conversion.
            numbers = given.astype(np.float64) if given.dtype.kind in "fiu" else None
        except (TypeError, ValueError, OverflowError):
            numbers = None
        if numbers is None:
            return self._zeros, Flags.WRONG_SIZE, "the velocity holds something that is not a number"
        # NaN passes np.clip and every comparison with a limit, so it is looked for before anything else.
        if not np.isfinite(numbers).all():
            return self._zeros, Flags.NONFINITE, "the velocity holds NaN or infinity"
        if numbers.shape != self._zeros.shape:
            return self._zeros, Flags.WRONG_SIZE, f"{numbers.size} velocities came, wanted {self._zeros.size}"
        if wanted.joints and wanted.joints != self._joints:
            order = ", ".join(wanted.joints)
            return self._zeros, Flags.WRONG_SIZE, f"it is for joints {order}; the profile has {', '.join(self._joints)}"
        return numbers, Flags.NONE, ""

    def _stale_state(self, now: float) -> str:
        if self._position is None:
            return "no joint state has come yet"
        age = now - self._state_at
        return f"joint state is {age:.3f} s old" if age > self._settings.state_timeout else ""

    def _away(self, now: float) -> str:
        """Whether the guard left a moving arm alone for so long that the policy's zeros may have stopped it.

        It is silent while actions stay away, too; so it counts as away only if it did not look either.
        """
        silence = now - self._command_at
        if self._settings.lockstep or not self._velocity.any():
            return ""
        away = silence > self._period + self._patience and now - self._looked_at > self._patience
        return f"the guard was silent for {silence:.3f} s" if away else ""

    def _bar(self) -> None:
        self._barred = self._episode

    # -- commands ------------------------------------------------------------------------------------------------

    def _move(self, velocity: FloatArray, position: FloatArray, wanted: Wanted) -> Command:
        away = self._away(self._now())
        if away:  # the arm stands: the next action sets it in motion from there
            return self._stop(Mode.STOPPED, Flags.STALE_ACTION, away, wanted)
        elapsed = self._elapsed()
        self._go_on()
        position = position + self._moved
        # An arm that follows trajectories is still to get to where they have got.
        told = self._path.here(position, self._now())
        allowed, flags = self._limits.apply(velocity, self._velocity, told, self._acceleration, elapsed)
        beyond, reason = self._limits.overrun(allowed, position)
        if beyond:
            return self._stop(Mode.STOPPED, flags | beyond, reason, wanted)
        self.mode, self._why = Mode.RUNNING, (Flags.NONE, "")
        return self._send(allowed, flags, describe(flags), wanted, elapsed)

    def _fault(self, flags: Flags, reason: str, wanted: Wanted | None = None) -> Command:
        self._bar()
        return self._stop(Mode.FAULT, flags | Flags.FAULT, reason, wanted)

    def _stop(self, mode: Mode, flags: Flags, reason: str, wanted: Wanted | None = None) -> Command:
        """Zeros, now."""
        self._halt()
        return self._ease(mode, flags, reason, wanted)

    def _halt(self) -> None:
        self._go_on()
        self._velocity = self._acceleration = self._zeros

    def _go_on(self) -> None:
        """An arm that is not seen goes on all the same, as it was told last; in lockstep nothing moves meanwhile."""
        if self._settings.lockstep or self._position is None:
            return
        now = self._now()
        self._moved = self._moved + self._velocity * (now - self._moved_at)
        self._moved_at = now

    def _rest(self, now: float) -> Command:
        """Zeros at rest, said again; before an episode begins they also say whether it could move."""
        stale = self._stale_state(now) if self.mode is Mode.STOPPED else ""
        flags, reason = (Flags.STALE_STATE, stale) if stale else self._why
        return self._send(self._zeros, flags, reason, None, self._elapsed())

    def _ease(self, mode: Mode, flags: Flags, reason: str, wanted: Wanted | None = None) -> Command:
        """The next command of a stop within the limits; `watch` sends those after it."""
        news = (mode, flags) != (self.mode, self._why[0])
        self.mode, self._why = mode, (flags, reason)
        if self._away(self._now()):
            self._halt()
        elapsed, velocity = self._elapsed(), self._zeros
        if self._velocity.any():
            velocity = self._limits.brake(self._velocity, self._acceleration, self._limits.pace(elapsed))
        return self._send(velocity, flags, reason, wanted, elapsed, news=news)

    def _elapsed(self) -> float | None:
        """Time since the last command that limits of change are judged by [s]; None: a period of the arm.

        From decision to decision: what deciding takes is time in which the arm may be slowed down, too. Left out, a
        stop at a thousand actions a second would take twice as long as was reckoned with.
        """
        self._decided_at = self._now()
        return None if self._settings.lockstep else self._decided_at - self._command_at

    def _send(
        self,
        velocity: FloatArray,
        flags: Flags,
        reason: str,
        wanted: Wanted | None,
        elapsed: float | None,
        *,
        news: bool = False,
    ) -> Command:
        moving = velocity.any() or self._velocity.any()
        self._acceleration = (velocity - self._velocity) / self._limits.pace(elapsed) if moving else self._zeros
        self._go_on()
        self._command_at, self._looked_at = self._decided_at, self._now()
        self._velocity = velocity
        self.commands += 1
        answers = wanted is not None and wanted.active
        if answers and flags:
            self.interventions += 1
        if flags and (answers or news):
            self.counts[[bit for bit in range(self.counts.size) if int(flags) >> bit & 1]] += np.uint64(1)
        return Command(velocity, wanted.tick if wanted else 0, self.mode, flags, reason, self._paused)
