"""Was anything lost? The plant's own record, the robot's journal and the learner's store of a run, compared. No ROS.

Nothing here shares memory with what it judges: everything is read from the files of the run, also while it goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl.core.journal import read_records
from simpl.core.plan import LEARNED_FROM
from simpl.core.transition import Identity, Transition, peek, unpack
from simpl_core.errors import ConfigError

LATEST = 2_000_000_000
"""A plant obeys an action at the latest so long after the state it was made from [ns]."""
CLOCK_SET = 60_000_000_000
"""Two commands of one record further apart [ns], or in the wrong order: between them somebody has set the clock."""


class Counts:
    """Numbers of one comparison; the fields named in `FAULTS` must be 0."""

    FAULTS: ClassVar[tuple[str, ...]]

    @property
    def faults(self) -> int:
        """How much there is of what must not be."""
        return sum(int(getattr(self, name)) for name in self.FAULTS)


@dataclass
class StreamAudit(Counts):
    """The robot's journal against the learner's store; numbers of transitions.

    Attributes:
        lost: acknowledged, and not in the store.
        pending: not in the store, and not acknowledged either: still to be sent.
        twice: in the journal or the store more than once.
        altered: in both, but not byte for byte the same.
        unknown: in the store, of this robot, and not in its journal.
        gaps: numbers that the journal skips within an epoch.
        overtaken: came to the store after a later one; the learner orders them by step.
    """

    FAULTS: ClassVar = ("lost", "twice", "altered", "unknown", "gaps")

    journal: int = 0
    store: int = 0
    lost: int = 0
    pending: int = 0
    twice: int = 0
    altered: int = 0
    unknown: int = 0
    gaps: int = 0
    overtaken: int = 0


@dataclass
class PlantAudit(Counts):
    """What the plant was told to do against what was stored; numbers of control steps.

    Attributes:
        records: files of the plant, one for each time the scene was reset.
        commands: that moved the arm.
        matched: stored, with the very command that the plant obeyed, in its order.
        lost: obeyed before a stored step of the same episode, and not stored.
        invented: stored as executed, but the plant did nothing like it.
        unheard: obeyed outside of what was stored: the tail of an episode that was given up, or the way home.
        overtaken: stored with the remark that a newer action came before it was executed.
        resting: stored as a stop by the guard, from before anything has moved the plant; it may not even listen yet.
        uncovered: stored, from times of which there is no record of the plant.
    """

    FAULTS: ClassVar = ("lost", "invented")

    records: int = 0
    commands: int = 0
    matched: int = 0
    lost: int = 0
    invented: int = 0
    unheard: int = 0
    overtaken: int = 0
    resting: int = 0
    uncovered: int = 0


@dataclass
class BufferAudit(Counts):
    """What the learner learned from; numbers of episodes.

    Attributes:
        complete: in the store from the first step to the end, of a phase that is learned from.
        given_up: in the store without an end; nobody learns from them.
        learned: in the learner's buffer.
        twice: in the buffer more than once.
        unfounded: in the buffer, but not complete in the store.
    """

    FAULTS: ClassVar = ("twice", "unfounded")

    complete: int = 0
    given_up: int = 0
    learned: int = 0
    twice: int = 0
    unfounded: int = 0


@dataclass
class Audit:
    """All of it. `plant` counts nothing where the plant keeps no record."""

    stream: StreamAudit = field(default_factory=StreamAudit)
    plant: PlantAudit = field(default_factory=PlantAudit)
    buffer: BufferAudit = field(default_factory=BufferAudit)

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing twice, nothing made up."""
        return not (self.stream.faults or self.plant.faults or self.buffer.faults)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clean": self.clean}


class PlantRecord(NamedTuple):
    """What a plant wrote between two resets: when it began [ns], and its commands (N, A) with when it got them [ns]."""

    begin: int
    stamps: NDArray[np.int64]
    commands: NDArray[np.float64]

    @property
    def clock_set(self) -> NDArray[np.bool_]:
        """Before which commands the clock was set, (N,)."""
        steps = np.diff(self.stamps, prepend=self.stamps[:1])
        return (steps < 0) | (steps > CLOCK_SET)

    def covers(self, stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `stamps` (K,) [ns] are of the record's time; a clock that was set leaves several spans of it."""
        inside = np.zeros(len(stamps), np.bool_)
        spans = np.split(self.stamps, np.flatnonzero(self.clock_set))
        for begin, span in zip([self.begin] + [part[0] - LATEST for part in spans[1:]], spans, strict=True):
            inside |= (begin <= stamps) & (stamps <= span[-1])
        return inside


def audit_run(folder: Path) -> Audit:
    """Audit the run in `folder`, finished or not; where no learner ever ran, the plant is compared with the journal.

    Raises:
        ConfigError: `folder` holds no run. JournalError: a journal is of another version.
    """
    journal_folder = folder / "bridge" / "journal"
    if not journal_folder.is_dir():
        raise ConfigError(f"{folder} holds no run: there is no {journal_folder.relative_to(folder)} in it")
    # The store first: what is written meanwhile may be in the journal only, never the other way round.
    stored = read_records(folder / "learner" / "store")
    journal = read_records(journal_folder)
    robots = {peek(data).robot_uuid for data in journal}
    stored = [data for data in stored if peek(data).robot_uuid in robots or not robots]
    transitions = [unpack(data) for data in _distinct(stored if (folder / "learner").is_dir() else journal)]
    return Audit(
        stream=compare_stream(journal, stored, _acknowledged(folder)),
        plant=compare_plant(read_plant(folder / "plant"), transitions),
        buffer=compare_buffer(transitions, _learned(folder)),
    )


def compare_stream(journal: Sequence[bytes], stored: Sequence[bytes], acknowledged: int) -> StreamAudit:
    """Packed transitions of the journal and of the store; the first `acknowledged` of the journal are promised."""
    sent, kept = {peek(data): data for data in journal}, {peek(data): data for data in stored}
    missing = [number for number, data in enumerate(journal) if peek(data) not in kept]
    newest: dict[int, int] = {}
    overtaken = 0
    for identity in map(peek, stored):
        overtaken += identity.seq < newest.get(identity.epoch, 0)
        newest[identity.epoch] = max(identity.seq, newest.get(identity.epoch, 0))
    last = Counter(identity.epoch for identity in sent)
    return StreamAudit(
        journal=len(sent),
        store=len(kept),
        lost=sum(number < acknowledged for number in missing),
        pending=sum(number >= acknowledged for number in missing),
        twice=len(journal) - len(sent) + len(stored) - len(kept),
        altered=sum(data != sent.get(identity, data) for identity, data in kept.items()),
        unknown=len(kept.keys() - sent.keys()),
        gaps=sum(max(0, max(i.seq for i in sent if i.epoch == epoch) - count) for epoch, count in last.items()),
        overtaken=overtaken,
    )


def compare_plant(records: Iterable[PlantRecord], transitions: Sequence[Transition]) -> PlantAudit:
    """Every command that moved the arm against the executed velocities that were stored, bit by bit."""
    result = PlantAudit()
    ordered = sorted(transitions, key=lambda one: (one.epoch, one.seq))  # a clock may be set
    stamps = np.array([one.stamp for one in ordered], np.int64)
    open_ones = np.ones(len(ordered), np.bool_)
    for record in records:
        result.records += 1
        result.commands += int(record.commands.any(axis=1).sum())
        inside = record.covers(stamps) & open_ones
        open_ones &= ~inside
        _match(record, [ordered[number] for number in np.flatnonzero(inside)], result)
    result.uncovered = int(open_ones.sum()) if result.records else 0
    return result


def _match(record: PlantRecord, transitions: Sequence[Transition], result: PlantAudit) -> None:
    """Walk along the record and the transitions of its time; commands in between are lost, or nobody's."""
    moving, clock_set = record.commands.any(axis=1), record.clock_set
    next_command = 0
    for one in transitions:
        if one.velocity_executed.size == 0:
            result.overtaken += 1
            continue
        if one.guard_flags and not one.velocity_executed.any() and not moving[record.stamps <= one.stamp].any():
            result.resting += 1
            continue
        found = _find(record, clock_set, one, next_command)
        if found is None:
            result.invented += 1
            continue
        skipped = int(moving[next_command:found].sum())
        if one.step > 0:
            result.lost += skipped
        else:  # what came before the first step of an episode is not part of it
            result.unheard += skipped
        result.matched += 1
        next_command = found + 1
    result.unheard += int(moving[next_command:].sum())


def _find(record: PlantRecord, clock_set: NDArray[np.bool_], one: Transition, start: int) -> int | None:
    """The command that `one` names, in time; the first one after the clock was set has no time to compare."""
    late = record.stamps[start:] - one.stamp
    in_time = clock_set[start:] | ((late >= 0) & (late <= LATEST))
    for number in start + np.flatnonzero(in_time):
        if np.array_equal(record.commands[number], one.velocity_executed):
            return int(number)
    return None


def compare_buffer(transitions: Sequence[Transition], learned: Sequence[tuple[str, int, int]]) -> BufferAudit:
    """Episodes of the store against the keys (robot, epoch, episode) of those in the learner's buffer."""
    steps: dict[tuple[str, int, int], dict[int, Transition]] = {}
    for one in transitions:
        steps.setdefault((one.robot_uuid, one.epoch, one.episode), {})[one.step] = one
    whole = {key for key, episode in steps.items() if _is_whole(episode)}
    wanted = {key for key in whole if steps[key][0].phase in LEARNED_FROM}
    counts = Counter(learned)
    return BufferAudit(
        complete=len(wanted),
        given_up=len(steps) - len(whole),
        learned=len(counts),
        twice=sum(count - 1 for count in counts.values()),
        unfounded=len(counts.keys() - wanted),
    )


def read_plant(folder: Path) -> list[PlantRecord]:
    """Records of the simulated arm below `folder`; none where it does not exist.

    Raises:
        ConfigError: a file is none.
    """
    records = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as file:
                records.append(PlantRecord(int(file["stamps"][0]), file["command_stamps"], file["commands"]))
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"{path} is no record of the plant: {error}") from error
    return records


def _is_whole(steps: dict[int, Transition]) -> bool:
    last = steps[max(steps)]
    return (last.terminated or last.truncated) and len(steps) == last.step + 1


def _distinct(records: Sequence[bytes]) -> list[bytes]:
    first: dict[Identity, bytes] = {}
    for data in records:
        first.setdefault(peek(data), data)
    return list(first.values())


def _acknowledged(folder: Path) -> int:
    try:
        return int(json.loads((folder / "bridge" / "acknowledged.json").read_text())["records"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _learned(folder: Path) -> list[tuple[str, int, int]]:
    """From the header of the learner's checkpoint: the format of safetensors, read without the library."""
    try:
        with (folder / "learner" / "checkpoint.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        episodes = json.loads(header["__metadata__"]["progress"])["episodes"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ConfigError(f"the learner's checkpoint in {folder} cannot be read: {error}") from error
    return [(str(robot), int(epoch), int(number)) for robot, epoch, number in episodes]
