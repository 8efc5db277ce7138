"""Which model acts in the next episode, and whether a newer one is worth waiting for."""

from __future__ import annotations


class ModelChoice:
    """The model a run started from, the newest, and how far the learner is behind the experience. Times in seconds.

    Attributes:
        base: version that acts until fine-tuning.
        latest: version that acts from then on.
        learned_from: seq of the last transition that the learner trains on.
    """

    def __init__(self, base: str, patience: float) -> None:
        """`patience` is the longest wait for a newer model, before the learner counts as silent until it speaks."""
        self.base = self.latest = base
        self.learned_from = 0
        self._patience = patience
        self._considered = 0
        self._silent = False
        self._wait_until: float | None = None

    @property
    def up_to_date(self) -> bool:
        """The learner has dealt with all experience, with a new model or without."""
        return self._considered >= self.learned_from

    def considered(self, seq: int) -> None:
        """The learner lives and has dealt with all transitions up to `seq`."""
        self._silent = False
        self._considered = max(self._considered, seq)

    def must_wait(self, now: float) -> bool:
        """Whether to wait for the learner; the first such question starts the clock."""
        if self.up_to_date or self._silent:
            return False
        if self._wait_until is None:
            self._wait_until = now + self._patience
        return now < self._wait_until

    def waited_in_vain(self, now: float) -> bool:
        """Whether the time is up; the learner is then not waited for again until it speaks."""
        self._silent = self._wait_until is not None and now >= self._wait_until
        return self._silent

    def waited(self) -> None:
        """The wait is over, one way or the other."""
        self._wait_until = None

    def refused(self, version: str, acting: str) -> None:
        """The policy refused `version` and goes on with `acting`."""
        if version == self.base:
            self.base = acting
        self.latest = acting
