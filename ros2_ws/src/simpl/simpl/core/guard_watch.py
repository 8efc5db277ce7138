"""Whether the guard still answers the policy, as the guard watches whether the policy still acts. Pure."""

from __future__ import annotations

import math
import threading

LOOK = 0.005
"""Between two looks of the policy for the guard's words [s]."""
_SPARE = 0.025  # for what a busy machine delays of all this [s]
_SHORTEST = 0.05  # what a busy machine may delay an answer that comes within a millisecond else [s]


def guard_patience(period: float) -> float:
    """How long to wait for the guard's word so that zeros are there two periods after its death, or 0.1 s if longer.

    It may die right after it spoke, so that the next action, a `period` [s] later, is the first without an answer; and
    it is looked for every `LOOK`. The guard reckons with the same: what it left alone for longer may have been stopped.
    """
    return round(max(_SHORTEST, max(0.1, 2.0 * period) - period - LOOK - _SPARE), 3)


def next_word(period: float, *, slowing: bool) -> float:
    """By when a guard says something again whose last command moves the arm, whatever the policy does [s].

    While it is `slowing` down it sends a command each look. Else it answers the next action, or ends the motion when
    its watchdog finds none; somebody else's actions may come at any rate that it lets pass.
    """
    return period if slowing else max(0.1, 2.0 * period)


class GuardWatch:
    """Measures how long the guard's word has been due.

    The guard says something about every action, and goes on speaking while the arm moves. Silence means that it is
    dead, stopped or cut off: then nobody ends the velocity that the controller was given last.

    Args:
        patience: silence after which somebody else must stop the arm [s].
        give_up: silence after which the episode is over [s].
    """

    def __init__(self, patience: float, give_up: float = 1.0) -> None:
        self._patience, self._give_up = patience, give_up
        self._lock = threading.Lock()
        self._due = math.inf  # its next word that nobody has to ask for
        self._oldest = self._newest = (0, math.inf)  # of the actions without an answer: tick, and when it went out
        self.lost = False
        """The guard was given up, and has not been heard since."""
        self.blind = ""
        """Why the guard would let nothing move now: it has no fresh joint state."""

    def sent(self, now: float, tick: int = 0) -> None:
        """Action number `tick` went out at `now` (steady clock [s])."""
        with self._lock:
            self._newest = tick, now
            if self._oldest[1] == math.inf:
                self._oldest = self._newest

    def heard(self, blind: str = "", due: float = math.inf, tick: int = 0) -> None:
        """The guard said something, and `blind` if it misses the joint states.

        Args:
            blind: why nothing would move.
            due: when it says something again without being asked (steady clock [s]); never, with the arm at rest.
            tick: of the action that it answered: younger ones still wait; 0 when it spoke by itself.
        """
        with self._lock:
            if not tick or tick >= self._newest[0]:
                self._oldest = self._newest = (0, math.inf)
            elif tick >= self._oldest[0]:
                self._oldest = self._newest
            self._due, self.lost, self.blind = due, False, blind

    def silence(self, now: float) -> float:
        """How long its word has been due: the oldest action is waiting, or the arm moves [s]; 0 when it is not."""
        return max(0.0, now - min(self._due, self._oldest[1]))

    @property
    def waits(self) -> bool:
        """Whether a word of the guard is still to come."""
        return min(self._due, self._oldest[1]) < math.inf

    def silent(self, now: float) -> bool:
        """Whether somebody else must stop the arm."""
        return self.silence(now) > self._patience

    def gives_up(self, now: float, since: float = -math.inf) -> bool:
        """Whether the episode is over; True once, after that the guard counts as lost.

        Args:
            now: steady clock [s].
            since: from when on it was listened for (steady clock [s]): what a stopped process was told comes late.
        """
        if min(self.silence(now), now - since) <= max(self._patience, self._give_up):
            return False
        with self._lock:
            self._oldest = self._newest = (0, math.inf)
            self._due, self.lost = math.inf, True
        return True
