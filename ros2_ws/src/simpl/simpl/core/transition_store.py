"""The learner's end of the transition stream: every transition on disk once, then acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from simpl.core.journal import Journal
from simpl.core.transition import Identity, Transition, pack, peek, unpack


class Acknowledgement(NamedTuple):
    """Every seq of (robot, epoch) up to `high_water` is on disk; `stored` counts all transitions of the store."""

    robot_uuid: str
    epoch: int
    high_water: int
    stored: int


@dataclass
class _Seen:
    high_water: int = 0
    beyond: set[int] = field(default_factory=set)

    def add(self, seq: int) -> bool:
        if seq <= self.high_water or seq in self.beyond:
            return False
        self.beyond.add(seq)
        while self.high_water + 1 in self.beyond:
            self.high_water += 1
            self.beyond.remove(self.high_water)
        return True


class TransitionStore:
    """Drops what it has, keeps the rest in a journal, and says what is safe only once it is.

    Attributes:
        duplicates: transitions that came again and were dropped.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the store in `folder`; raises JournalError as `Journal` does."""
        self._journal = Journal(Path(folder))
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._to_acknowledge: dict[tuple[str, int], None] = {}
        self.duplicates = 0
        for data in self._journal.replay():
            self._mark(peek(data))

    @property
    def stored(self) -> int:
        """Distinct transitions."""
        return len(self._journal)

    def add(self, transition: Transition) -> bool:
        """Keep `transition` unless it is here already; returns whether it was new.

        Raises:
            JournalError: it could not be written, and is not in the store.
        """
        key = (transition.robot_uuid, transition.epoch)
        self._to_acknowledge[key] = None  # a duplicate too: its sender does not know yet
        seen = self._seen.setdefault(key, _Seen())
        if transition.seq <= seen.high_water or transition.seq in seen.beyond:
            self.duplicates += 1
            return False
        self._journal.append(pack(transition))
        self._mark(transition.identity)
        return True

    def acknowledge(self) -> list[Acknowledgement]:
        """Wait for the disk, then say what is on it; one per robot and epoch heard from since the last call.

        Raises:
            JournalError: the disk refused; nothing may be acknowledged.
        """
        if not self._to_acknowledge:
            return []
        self._journal.flush()
        keys = list(self._to_acknowledge)
        self._to_acknowledge.clear()
        return [Acknowledgement(*key, self._seen[key].high_water, self.stored) for key in keys if key in self._seen]

    def replay(self) -> Iterator[Transition]:
        """Everything stored, in the order of arrival, read as it is asked for."""
        return map(unpack, self._journal.replay())

    def close(self) -> None:
        """Flush and close."""
        self._journal.close()

    def _mark(self, identity: Identity) -> None:
        self._seen.setdefault((identity.robot_uuid, identity.epoch), _Seen()).add(identity.seq)
