"""The safety guard: between what a policy wants and what a controller gets. Pure: no ROS, no thread.

Order of judgement: finiteness, size, latched stops, staleness, then limits. A velocity controller holds its last
command, so silence is motion: every way of stopping ends in a command of zeros, and `watch` finds the stops that
nobody asked for.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl.core.motion_limits import Flags, MotionLimits, describe
from simpl.core.profile import RobotProfile

FloatArray = NDArray[np.float64]

__all__ = ["Command", "Flags", "Guard", "GuardSettings", "Mode", "MotionLimits", "ResetResult", "Wanted"]


class Mode(enum.IntEnum):
    """What the guard does with actions; values as in GuardState.msg."""

    RUNNING = 0
    STOPPED = 1
    FAULT = 2
    ESTOP = 3


class Wanted(NamedTuple):
    """What one action asks for.

    Attributes:
        velocity: anything that should be (A,) numbers [rad/s, m/s].
        tick: of the policy.
        episode: number of the episode.
        step: control step within it; 0 starts an episode.
        active: False at the end of an episode.
    """

    velocity: Any
    tick: int
    episode: int
    step: int
    active: bool


class Command(NamedTuple):
    """What goes to the controller, and why.

    Attributes:
        velocity: (A,), finite and within limits [rad/s, m/s].
        tick: of the action behind it, 0 when there is none.
        mode: after this command.
        flags: all that apply to this command.
        reason: the same for people; empty in normal operation.
    """

    velocity: FloatArray
    tick: int
    mode: Mode
    flags: Flags
    reason: str


class ResetResult(NamedTuple):
    """Whether a reset was granted, and why not; then also zeros to send, for everybody to hear of it."""

    success: bool
    message: str
    command: Command | None = None


@dataclass(frozen=True)
class GuardSettings:
    """Times of the guard's watchdogs, all on the steady clock.

    Attributes:
        action_timeout: longest silence of the policy while the arm moves [s].
        state_timeout: oldest joint state to move on [s].
        zero_repeat: zeros are sent again this often while the arm is stopped [s]; 0 sends them once.
    """

    action_timeout: float = 0.16
    state_timeout: float = 0.16
    zero_repeat: float = 0.0


class Guard:
    """Turns actions into commands that are safe to send.

    A fault or an e-stop latches: zeros until `reset`, and after it still zeros until an episode starts anew, since
    a reset alone must not set an arm in motion. Staleness only stops: fresh input goes on where it left.

    Args:
        profile: limits of the arm.
        settings: watchdog times.
        now: steady clock [s].
    """

    def __init__(
        self, profile: RobotProfile, settings: GuardSettings, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._profile = profile
        self._settings = settings
        self._now = now
        self._limits = MotionLimits(profile)
        self._zeros = np.zeros(len(profile.joints))
        self._zeros.flags.writeable = False
        self.mode = Mode.STOPPED
        self.interventions = 0
        self.commands = 0
        self._why = (Flags.NONE, "no action yet")
        self._position: FloatArray | None = None
        self._velocity = self._zeros
        self._state_at = self._action_at = self._command_at = -math.inf
        self._bad_action_at = -math.inf
        self._bad_state = ""
        self._strangers = ""
        self._episode: int | None = None
        self._barred: int | None = None

    def on_state(self, position: FloatArray) -> None:
        """Take a checked joint state: positions (A,) in the profile's order [rad, m]."""
        self._position = position
        self._state_at = self._now()
        self._bad_state = ""

    def on_invalid_state(self, reason: str) -> Command | None:
        """Take note of a joint state that `NameOrder` refused: a fault. Gives zeros unless a stop is latched."""
        self._bad_state = reason
        if self.mode is Mode.ESTOP or self.mode is Mode.FAULT:
            return None
        return self._fault(Flags.INVALID_STATE, f"joint state refused: {reason}")

    def on_action(self, wanted: Wanted) -> Command:
        """Exactly one command for one action."""
        now = self._now()
        velocity, flags, problem = self._read(wanted.velocity)
        if wanted.active:
            self._episode = wanted.episode
        if flags:
            self._bad_action_at = now
            if self.mode is not Mode.ESTOP:
                return self._fault(flags, f"action {wanted.tick}: {problem}", wanted)
        if self.mode is Mode.ESTOP or self.mode is Mode.FAULT:
            latched, reason = self._why
            return self._stop(self.mode, latched | flags, reason, wanted)
        if not wanted.active:
            return self._stop(Mode.STOPPED, Flags.EPISODE_END, "the episode ended", wanted)
        if self._barred is not None:
            if wanted.episode == self._barred and wanted.step > 0:
                reason = f"episode {wanted.episode} was stopped; the next one moves again"
                return self._stop(Mode.STOPPED, Flags.EPISODE_END, reason, wanted)
            self._barred = None
        self._action_at = now
        stale = self._stale_state(now)
        if stale or self._position is None:
            return self._stop(Mode.STOPPED, Flags.STALE_STATE, stale, wanted)
        allowed, flags = self._limits.apply(velocity, self._velocity, self._position)
        self.mode, self._why = Mode.RUNNING, (Flags.NONE, "")
        return self._send(allowed, flags, describe(flags), wanted)

    def watch(self, strangers: Sequence[str] = ()) -> Command | None:
        """Look after what did not happen; call it about every fifth of the shortest time-out.

        Args:
            strangers: names of others that publish on the command topic.

        Returns:
            Zeros to send, or None.
        """
        now = self._now()
        self._strangers = ", ".join(strangers)
        latched = self.mode is Mode.ESTOP or self.mode is Mode.FAULT
        if strangers and not latched:
            return self._fault(Flags.SECOND_PUBLISHER, f"{self._strangers} publishes commands too")
        # An arm that waits for a joint state counts as moving: the next one would set it in motion again.
        if self.mode is Mode.RUNNING or (self.mode is Mode.STOPPED and Flags.STALE_STATE in self._why[0]):
            silence = now - self._action_at
            if silence > self._settings.action_timeout:
                return self._stop(Mode.STOPPED, Flags.STALE_ACTION, f"no action for {silence:.3f} s")
        if self.mode is Mode.RUNNING:
            stale = self._stale_state(now)
            if stale:
                return self._stop(Mode.STOPPED, Flags.STALE_STATE, stale)
        elif 0.0 < self._settings.zero_repeat <= now - self._command_at:
            return self._stop(self.mode, *self._why)
        return None

    def estop(self) -> Command:
        """Stop and stay stopped until `reset`."""
        self._bar()
        return self._stop(Mode.ESTOP, Flags.ESTOP, "e-stop pressed")

    def reset(self) -> ResetResult:
        """Leave a latched stop. Refused while what caused a fault is still there."""
        if self.mode is Mode.RUNNING:
            return ResetResult(True, "nothing is latched")
        if self.mode is Mode.STOPPED:  # said again: somebody may wait for what was latched before a restart
            return ResetResult(True, "nothing is latched", self._stop(Mode.STOPPED, *self._why))
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
            return ResetResult(False, "; ".join(active))
        zeros = self._stop(Mode.STOPPED, Flags.NONE, "reset; waiting for an episode to start")
        return ResetResult(True, "stopped; the next episode moves again", zeros)

    def shutdown(self) -> Command:
        """The last command: zeros."""
        mode = self.mode if self.mode is Mode.ESTOP or self.mode is Mode.FAULT else Mode.STOPPED
        return self._stop(mode, Flags.SHUTDOWN, "the guard is shutting down")

    def _read(self, velocity: Any) -> tuple[FloatArray, Flags, str]:
        """The wanted velocity as numbers, or what is wrong with it."""
        try:
            numbers = np.asarray(velocity, dtype=np.float64)
        except (TypeError, ValueError):
            return self._zeros, Flags.WRONG_SIZE, "the velocity holds something that is not a number"
        # NaN passes np.clip and every comparison with a limit, so it is looked for before anything else.
        if not np.isfinite(numbers).all():
            return self._zeros, Flags.NONFINITE, "the velocity holds NaN or infinity"
        if numbers.shape != self._zeros.shape:
            wanted = self._zeros.size
            return self._zeros, Flags.WRONG_SIZE, f"{numbers.size} velocities came, wanted {wanted}"
        return numbers, Flags.NONE, ""

    def _stale_state(self, now: float) -> str:
        if self._position is None:
            return "no joint state has come yet"
        age = now - self._state_at
        return f"joint state is {age:.3f} s old" if age > self._settings.state_timeout else ""

    def _bar(self) -> None:
        self._barred = self._episode

    def _fault(self, flags: Flags, reason: str, wanted: Wanted | None = None) -> Command:
        self._bar()
        return self._stop(Mode.FAULT, flags | Flags.FAULT, reason, wanted)

    def _stop(self, mode: Mode, flags: Flags, reason: str, wanted: Wanted | None = None) -> Command:
        self.mode, self._why = mode, (flags, reason)
        return self._send(self._zeros, flags, reason, wanted)

    def _send(self, velocity: FloatArray, flags: Flags, reason: str, wanted: Wanted | None) -> Command:
        self._velocity = velocity
        self._command_at = self._now()
        self.commands += 1
        if wanted is not None and wanted.active and flags:
            self.interventions += 1
        return Command(velocity, wanted.tick if wanted else 0, self.mode, flags, reason)
