"""The robot's end of the transition stream: on disk first, then sent, and sent again until acknowledged.

At least once on the wire; the learner's store makes it exactly once (`transition_store`). Nothing unacknowledged is
kept in memory: it is read back from the journal, whichever start of the bridge wrote it.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from simpl.core.journal import Journal, JournalError
from simpl.core.transition import Transition, TransitionError, pack, peek, unpack

WINDOW = 512
"""Most transitions on their way without an acknowledgement."""
PROBE = 16
"""Transitions sent again after each silence, until the learner answers."""
BURST = 64
"""Most transitions sent in one call of `poll`, so that the caller's other work waits for a few milliseconds only."""
SILENCE = 1.0
"""[s] without progress after which unacknowledged transitions are sent again."""

log = logging.getLogger(__name__)


class TransitionStream:
    """Journals transitions under the next identity and sends them until they are acknowledged.

    Every method is to be called from one thread.

    Attributes:
        robot_uuid: this robot, made at the first start in `folder`.
        epoch: of this start; larger than all before.
        resent: transitions sent more than once, counting every time.
    """

    def __init__(self, folder: Path, send: Callable[[Transition], None], *, fsync_interval: float = 0.2) -> None:
        """`send` puts one transition on the wire; `folder` holds the journal and this robot's identity."""
        self._folder, self._send = Path(folder), send
        self.journal = Journal(self._folder / "journal", fsync_interval=fsync_interval)
        # _starts[epoch] = number of its first record; epochs follow each other in the journal, seq without gaps.
        self._starts: dict[int, int] = {}
        self._index_journal()
        self.robot_uuid, self.epoch = self._next_epoch()
        self._starts[self.epoch] = len(self.journal)
        self._acknowledged = self._load_acknowledged()  # records, counted from the journal's first
        self._saved = self._acknowledged
        self._next = self._acknowledged  # record to send next
        self._sent = self._acknowledged  # records sent at least once
        self._window = PROBE
        self._progress_time = float("-inf")
        self.resent = 0

    @property
    def last_seq(self) -> int:
        """Number of transitions of this epoch: the seq of the newest."""
        return len(self.journal) - self._starts[self.epoch]

    @property
    def recorded(self) -> int:
        """Distinct transitions in the journal, all epochs."""
        return len(self.journal)

    @property
    def sent(self) -> int:
        """How many of them were sent at least once."""
        return self._sent

    @property
    def acknowledged(self) -> int:
        """How many of those the learner has on its disk."""
        return self._acknowledged

    @property
    def pending(self) -> int:
        """How many it has not, as far as known here."""
        return len(self.journal) - self._acknowledged

    def append(self, transition: Transition, now: float) -> Transition:
        """Give `transition` its identity, journal it, and send it at once if nothing older waits; `now` [s].

        Raises:
            JournalError: it could not be written; it was not sent and has no identity.
        """
        named = replace(transition, robot_uuid=self.robot_uuid, epoch=self.epoch, seq=self.last_seq + 1)
        number = self.journal.append(pack(named))
        if self._acknowledged == number:
            self._progress_time = now  # the clock of silence starts with the first one on its way
        if self._next == number and number - self._acknowledged < self._window:
            self._transmit(number, named)
        return named

    def acknowledge(self, robot_uuid: str, epoch: int, high_water: int, now: float) -> None:
        """The learner has every seq up to `high_water` of `epoch` on disk; others' acknowledgements do nothing."""
        if robot_uuid != self.robot_uuid or epoch not in self._starts:
            return
        later = [start for other, start in self._starts.items() if other > epoch]
        stop = min([self._starts[epoch] + high_water, len(self.journal), *later])
        if stop <= self._acknowledged or self._starts[epoch] > self._acknowledged:
            # Nothing new, or an older epoch is not complete yet: it is sent first, then this is said again.
            return
        self._acknowledged = stop
        self._next = max(self._next, stop)
        self._sent = max(self._sent, stop)
        self._window = WINDOW
        self._progress_time = now

    def poll(self, now: float) -> int:
        """Send what may be sent, again what was not acknowledged; call it every few ms. Returns how many were sent."""
        if self._acknowledged < self._next and now - self._progress_time > SILENCE:
            self._next = self._acknowledged
            self._window = PROBE
        if self._next == self._acknowledged:
            self._progress_time = now
        stop = min(len(self.journal), self._acknowledged + self._window, self._next + BURST)
        count = 0
        while self._next < stop:
            try:
                self._transmit(self._next, unpack(self.journal.read(self._next)))
            except (JournalError, TransitionError) as error:
                log.error("cannot be sent: %s", error)
                self._next += 1
            count += 1
        return count

    def transitions(self) -> Iterator[Transition]:
        """Everything recorded so far, oldest first, read as it is asked for."""
        return map(unpack, self.journal.replay())

    def save(self) -> None:
        """Remember what was acknowledged, so that the next start does not send it again (which would do no harm)."""
        if self._acknowledged == self._saved:
            return
        content: dict[str, str | int] = {"robot_uuid": self.robot_uuid, "records": self._acknowledged}
        try:
            _write(self._folder / "acknowledged.json", content, durable=False)
        except OSError as error:  # the journal decides whether the run can go on
            log.warning("what was acknowledged is not kept for another start: %s", error)
            return
        self._saved = self._acknowledged

    def close(self) -> None:
        """Flush the journal and remember the acknowledgements."""
        self.save()
        self.journal.close()

    def _transmit(self, number: int, transition: Transition) -> None:
        self._send(transition)
        self.resent += number < self._sent
        self._next = number + 1
        self._sent = max(self._sent, self._next)

    def _index_journal(self) -> None:
        for number, data in enumerate(self.journal.replay()):
            identity = peek(data)
            self._starts.setdefault(identity.epoch, number - identity.seq + 1)

    def _next_epoch(self) -> tuple[str, int]:
        path = self._folder / "identity.json"
        try:
            known = json.loads(path.read_text())
            robot_uuid, epoch = str(uuid.UUID(known["robot_uuid"])), int(known["epoch"])
        except FileNotFoundError:
            robot_uuid, epoch = str(uuid.uuid4()), 0
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{path} is damaged ({error}); it names this robot and its last start") from error
        # On disk before the first transition bears it: a number must never be used by two starts.
        epoch = max([epoch, *self._starts]) + 1
        _write(path, {"robot_uuid": robot_uuid, "epoch": epoch})
        return robot_uuid, epoch

    def _load_acknowledged(self) -> int:
        try:
            known = json.loads((self._folder / "acknowledged.json").read_text())
            same = known["robot_uuid"] == self.robot_uuid
            return min(int(known["records"]), len(self.journal)) if same else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # then everything is offered again, and dropped by identity


def _write(path: Path, content: dict[str, str | int], *, durable: bool = True) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(content, file)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
