"""Whether the guard still answers the policy, as the guard watches whether the policy still acts. Pure."""

from __future__ import annotations

_DISCOVERY = 0.01  # until the controller hears somebody new [s]
_SHORTEST = 0.05  # what a busy machine may delay an answer that comes within a millisecond else [s]


def guard_patience(period: float, look: float) -> float:
    """How long to wait for the guard's word so that zeros are there two periods after its death, or 0.1 s if longer.

    It may die right after it spoke, so that the next action, a `period` [s] later, is the first without an answer; and
    it is looked for every `look` [s].
    """
    return round(max(_SHORTEST, max(0.1, 2.0 * period) - period - look - _DISCOVERY), 3)


class GuardWatch:
    """Measures how long an action has been waiting for the guard's word.

    The guard says something about every action, so silence after one means that it is dead, stopped or cut off: then
    nobody ends the velocity that the controller was given last.

    Args:
        patience: silence after which somebody else must stop the arm [s].
        give_up: silence after which the episode is over [s].
    """

    def __init__(self, patience: float, give_up: float = 1.0) -> None:
        self._patience, self._give_up = patience, give_up
        self._asked_at: float | None = None
        self.lost = False
        """The guard was given up, and has not been heard since."""
        self.blind = ""
        """Why the guard would let nothing move now: it has no fresh joint state."""

    def sent(self, now: float) -> None:
        """An action went out at `now` (steady clock [s])."""
        if self._asked_at is None:
            self._asked_at = now

    def heard(self, blind: str = "") -> None:
        """The guard said something, and `blind` if it misses the joint states."""
        self._asked_at, self.lost, self.blind = None, False, blind

    def silence(self, now: float) -> float:
        """How long the oldest action has been waiting [s]; 0 when none is."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else now - asked_at

    def silent(self, now: float) -> bool:
        """Whether somebody else must stop the arm."""
        return self.silence(now) > self._patience

    def gives_up(self, now: float) -> bool:
        """Whether the episode is over; True once, after that the guard counts as lost."""
        if self.silence(now) <= max(self._patience, self._give_up):
            return False
        self._asked_at, self.lost = None, True
        return True
