"""What the guard says of its interventions: each kind when it begins, and then seldom enough to be read."""

from __future__ import annotations

import math

from simpl.core.guard_types import Command, Mode
from simpl.core.motion_limits import Flags

_PAUSE = 5.0  # between two lines about the same kind [s]


class InterventionLog:
    """Turns commands into lines for people: a hundred commands a second, a line every few seconds for each kind."""

    def __init__(self) -> None:
        self._said: dict[Flags, float] = {}
        self._unsaid: dict[Flags, int] = {}

    def note(self, command: Command, now: float) -> str:
        """Take note of a command; the line that is due about it, or nothing.

        Args:
            command: what was sent.
            now: steady clock [s].
        """
        flags = command.flags
        if not flags or flags in (Flags.EPISODE_END, Flags.SHUTDOWN):
            return ""  # every episode ends, and every guard
        self._unsaid[flags] = self._unsaid.get(flags, 0) + 1
        if now - self._said.get(flags, -math.inf) < _PAUSE:
            return ""
        self._said[flags] = now
        count = self._unsaid.pop(flags)
        times = f" ({count} commands since this was last said)" if count > 1 else ""
        mode = "" if command.mode is Mode.RUNNING else f"{command.mode.name}: "
        return f"{mode}{command.reason}{times}"
