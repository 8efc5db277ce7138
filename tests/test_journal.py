"""The journal keeps whole records whatever is cut off, and the stream over it delivers each transition once."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpl.core.episodes import EpisodeAssembler
from simpl.core.journal import FRAME, MAGIC, Journal, JournalError, read_records
from simpl.core.stream import PROBE, SILENCE, WINDOW, TransitionStream
from simpl.core.transition import Transition, TransitionError, pack, unpack
from simpl.core.transition_store import TransitionStore

ROBOT = "6f1f3a86-2f2c-4a51-9d5e-5f0a4cb6a1de"
records = st.lists(st.binary(max_size=40), max_size=12)


def transition(seq: int = 0, step: int = 0, *, epoch: int = 0, episode: int = 1, last: bool = False) -> Transition:
    """A transition of kitchen sizes whose numbers follow from where it stands."""
    rng = np.random.default_rng([episode, step])

    def numbers(size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    return Transition(
        ROBOT, epoch, seq, 80_000_000 * step, episode, step, "finetune", "microwave > kettle", "v1", step % 10 == 0,
        numbers(10), numbers(6), numbers(30), numbers(30), numbers(9), rng.standard_normal(9),
        rng.standard_normal(9), 4, 1.0, "object_states", False, last,
    )  # fmt: skip


def same(a: Transition, b: Transition) -> bool:
    """Equal to the last bit, arrays included."""
    pairs = [(getattr(a, item.name), getattr(b, item.name)) for item in fields(Transition)]
    return all(np.array_equal(x, y) for x, y in pairs)


def reopened(folder: Path) -> list[bytes]:
    journal = Journal(folder)
    try:
        return list(journal.replay())
    finally:
        journal.close()


# --- journal ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(written=records, segment_bytes=st.sampled_from([40, 100, 1 << 20]))
def test_everything_appended_comes_back_in_order(written: list[bytes], segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name), segment_bytes=segment_bytes)
        numbers = [journal.append(record) for record in written]
        assert numbers == list(range(len(written)))
        assert list(journal.replay()) == written
        assert journal.flush() == len(written) == journal.durable
        assert read_records(Path(name)) == written
        journal.close()
        assert reopened(Path(name)) == written


@settings(max_examples=150, deadline=None)
@given(written=st.lists(st.binary(max_size=40), min_size=1, max_size=8), data=st.data())
def test_a_file_cut_at_any_byte_keeps_every_whole_record_and_goes_on(written: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = Journal(folder)
        for record in written:
            journal.append(record)
        journal.close()
        (path,) = folder.glob("*.journal")
        size = path.stat().st_size
        cut = data.draw(st.integers(0, size), label="cut")
        os.truncate(path, cut)
        ends = np.cumsum([len(MAGIC)] + [FRAME.size + len(record) for record in written])
        whole = max(0, int((ends <= cut).sum()) - 1)

        journal = Journal(folder)
        assert list(journal.replay()) == written[:whole]
        torn = cut - (int(ends[whole]) if cut >= len(MAGIC) else 0)
        assert journal.recovery.dropped_bytes == torn
        journal.append(b"after")
        journal.close()
        assert reopened(folder) == [*written[:whole], b"after"]


@settings(max_examples=150, deadline=None)
@given(written=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8), data=st.data())
def test_a_flipped_byte_never_yields_a_wrong_record(written: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = Journal(folder)
        for record in written:
            journal.append(record)
        journal.close()
        (path,) = folder.glob("*.journal")
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(len(MAGIC), len(content) - 1), label="where")
        content[where] ^= data.draw(st.integers(1, 255), label="flip")
        path.write_bytes(content)
        ends = np.cumsum([len(MAGIC)] + [FRAME.size + len(record) for record in written])
        undamaged = int((ends <= where).sum()) - 1
        assert reopened(folder) == written[:undamaged]
        assert path.with_suffix(".cut").stat().st_size == len(content) - ends[undamaged]


def test_zeros_left_by_a_power_cut_are_no_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"real")
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert reopened(tmp_path) == [b"real"]


def test_damage_in_an_older_segment_costs_only_the_rest_of_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=60)
    for number in range(9):
        journal.append(b"record %d ....." % number)
    journal.close()
    second = sorted(tmp_path.glob("*.journal"))[1]
    kept_by_others = len(reopened(tmp_path)) - 2  # two records fit a segment
    data = bytearray(second.read_bytes())
    data[len(MAGIC) + FRAME.size] ^= 1
    second.write_bytes(data)
    left = reopened(tmp_path)
    assert len(left) == kept_by_others
    assert b"record 2 ....." not in left
    assert second.read_bytes() == data  # an older segment is evidence, not to be cut


_WRITER = """
import sys
from pathlib import Path
from simpl.core.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(10**9):
    journal.append(number.to_bytes(8, "little") * (1 + number % 50))
    if number % 100 == 0:
        sys.stdout.write(f"{number}\\n"); sys.stdout.flush()
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_sigkill_at_a_random_moment_loses_nothing_that_append_returned(tmp_path: Path, lines: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    writer.wait()
    promised = max(int(line) for line in said if line.endswith("\n"))
    kept = reopened(tmp_path)
    assert len(kept) > promised
    assert kept == [number.to_bytes(8, "little") * (1 + number % 50) for number in range(len(kept))]


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from simpl.core.journal import Journal, JournalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
journal.append(b"a" * 100)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
try:
    journal.append(b"b" * 100)
except JournalError as error:
    sys.stdout.write(f"{error}\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
journal.append(b"c" * 20)
journal.close()
"""


def test_a_full_disk_is_an_error_and_leaves_no_half_record(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert reopened(tmp_path) == [b"a" * 100, b"c" * 20]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match="in use by another process"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_newer_format_is_named_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "00000001.journal"
    path.write_bytes(MAGIC[:7] + b"\x02" + b"something of the future")
    with pytest.raises(JournalError, match="format version 2"):
        Journal(tmp_path)
    assert path.read_bytes().endswith(b"future")


def test_append_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, release = threading.Event(), threading.Event()
    real = os.fsync

    def slow(descriptor: int) -> None:
        blocked.set()
        assert release.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    journal = Journal(tmp_path, fsync_interval=0.0)
    journal.append(b"first")
    assert blocked.wait(10)
    journal.append(b"second")  # while the disk is busy
    assert journal.durable == 0
    release.set()
    assert journal.flush() == 2
    journal.close()


def test_after_a_failed_fsync_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, fsync_interval=60.0)
    journal.append(b"first")

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(JournalError, match="Input/output error"):
        journal.flush()
    monkeypatch.undo()
    with pytest.raises(JournalError, match="Input/output error"):
        journal.append(b"second")
    journal.close()
    assert reopened(tmp_path) == [b"first"]


# --- codec --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(max_size=30),
    values=st.lists(st.floats(width=32), max_size=8),
    seq=st.integers(0, 2**64 - 1),
    bits=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_transition_survives_its_bytes_to_the_last_bit(
    text: str, values: list[float], seq: int, bits: tuple[bool, bool, bool]
) -> None:
    numbers = np.array(values, np.float32)
    original = replace(
        transition(seq), task=text, z=numbers, velocity_executed=numbers.astype(np.float64),
        skill_start=bits[0], terminated=bits[1], truncated=bits[2],
    )  # fmt: skip
    copy = unpack(pack(original))
    for item in fields(Transition):
        ours, theirs = getattr(original, item.name), getattr(copy, item.name)
        if isinstance(ours, np.ndarray):
            assert theirs.dtype == ours.dtype and theirs.tobytes() == ours.tobytes()
        else:
            assert theirs == ours and type(theirs) is type(ours)


def test_bytes_of_another_length_or_version_are_refused() -> None:
    data = pack(transition())
    for wrong in (data[:-1], data + b"x", b"", b"\x09" + data[1:]):
        with pytest.raises(TransitionError):
            unpack(wrong)


# --- stream and store ---------------------------------------------------------------------------------------------


EVENTS = ("append", "poll", "ack", "lose", "twice", "bridge", "learner", "wait")


class Wire:
    """Between a stream and a store: what is under way can be lost, repeated or reordered by a test."""

    def __init__(self) -> None:
        self.carried: list[Transition] = []

    def carry(self, transition: Transition) -> None:
        """Put on the wire."""
        self.carried.append(transition)

    def take(self) -> list[Transition]:
        carried, self.carried = self.carried, []
        return carried


def settle(stream: TransitionStream, wire: Wire, store: TransitionStore, now: float) -> float:
    """Run both ends without loss until everything is acknowledged."""
    for _ in range(10_000):
        if not stream.pending:
            return now
        now += 0.02
        stream.poll(now)
        for one in wire.take():
            store.add(one)
        for ack in store.acknowledge():
            stream.acknowledge(ack.robot_uuid, ack.epoch, ack.high_water, now)
    raise AssertionError(f"{stream.pending} transitions were never acknowledged")


@settings(max_examples=25, deadline=None)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=60))
def test_exactly_once_through_loss_repeats_and_restarts(events: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        wire, now, appended = Wire(), 0.0, []
        stream = TransitionStream(Path(name) / "bridge", wire.carry)
        store = TransitionStore(Path(name) / "store")
        for event in events:
            now += 0.01
            if event == "append":
                appended.append(stream.append(transition(step=len(appended)), now).identity)
            elif event == "poll":
                stream.poll(now)
            elif event == "lose":
                wire.carried = wire.carried[1::2]
            elif event == "twice":
                wire.carried = wire.carried[::-1] + wire.carried
            elif event == "wait":
                now += 2 * SILENCE
            elif event == "bridge":
                stream.close()
                stream = TransitionStream(Path(name) / "bridge", wire.carry)
            elif event == "learner":
                wire.take()
                store.close()
                store = TransitionStore(Path(name) / "store")
            else:
                for one in wire.take():
                    store.add(one)
                for ack in store.acknowledge():
                    stream.acknowledge(ack.robot_uuid, ack.epoch, ack.high_water, now)
        settle(stream, wire, store, now)
        stored = [one.identity for one in store.replay()]
        assert sorted(stored) == sorted(appended)
        assert len(set(stored)) == len(stored)
        stream.close()
        store.close()


def test_every_start_has_a_new_epoch_and_the_same_name(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        stream = TransitionStream(tmp_path, lambda one: None)
        seen.append((stream.robot_uuid, stream.epoch))
        stream.close()
    assert [epoch for _, epoch in seen] == [1, 2, 3]
    assert len({name for name, _ in seen}) == 1


def test_a_lost_identity_file_does_not_bring_an_epoch_back(tmp_path: Path) -> None:
    stream = TransitionStream(tmp_path, lambda one: None)
    stream.append(transition(), 0.0)
    stream.close()
    (tmp_path / "identity.json").unlink()
    stream = TransitionStream(tmp_path, lambda one: None)
    assert stream.epoch == 2
    stream.close()


def test_journalled_before_it_is_sent(tmp_path: Path) -> None:
    on_disk = []
    stream = TransitionStream(tmp_path, lambda one: on_disk.append(len(stream.journal)))
    for _ in range(3):
        stream.append(transition(), 0.0)
    assert on_disk == [1, 2, 3]
    stream.close()


def test_an_absent_learner_is_asked_now_and_then_only(tmp_path: Path) -> None:
    sent: list[int] = []
    stream = TransitionStream(tmp_path, lambda one: sent.append(one.seq))
    for _ in range(3 * WINDOW):
        stream.append(transition(), 0.0)
    for tick in range(1000):  # ten seconds
        stream.poll(tick * 0.01)
    assert set(sent) == set(range(1, PROBE + 1))
    assert len(sent) <= PROBE * (10 / SILENCE + 1)
    stream.close()


def test_a_backlog_drains_within_few_round_trips(tmp_path: Path) -> None:
    wire = Wire()
    stream = TransitionStream(tmp_path / "bridge", wire.carry)
    store = TransitionStore(tmp_path / "store")
    for _ in range(4 * WINDOW):
        stream.append(transition(), 0.0)
    elapsed = settle(stream, wire, store, 0.0)
    assert 4 * WINDOW / elapsed > 20 * 12.5  # twenty times real time
    assert store.stored == 4 * WINDOW
    stream.close()
    store.close()


def test_live_transitions_keep_their_order_behind_a_backlog(tmp_path: Path) -> None:
    first = TransitionStream(tmp_path / "bridge", lambda one: None)
    for step in range(30):
        first.append(transition(step=step), 0.0)
    first.close()
    wire = Wire()
    second = TransitionStream(tmp_path / "bridge", wire.carry)
    second.append(transition(step=30), 0.0)
    assert not wire.carried  # older ones go first
    store = TransitionStore(tmp_path / "store")
    settle(second, wire, store, 0.0)
    assert [one.step for one in store.replay()] == list(range(31))
    second.close()
    store.close()


def test_what_is_stored_is_read_one_by_one(tmp_path: Path) -> None:
    """A journal of days does not fit into memory as transitions."""
    stream, store = TransitionStream(tmp_path / "bridge", lambda one: None), TransitionStore(tmp_path / "store")
    for step in range(3):
        store.add(stream.append(transition(step=step), 0.0))
    for replayed in (stream.transitions(), store.replay()):
        assert next(replayed).step == 0
        assert [one.step for one in replayed] == [1, 2]
    stream.close()
    store.close()


def test_a_full_disk_keeps_no_acknowledgement_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = TransitionStream(tmp_path, lambda one: None)
    stream.append(transition(1), 0.0)
    stream.acknowledge(stream.robot_uuid, 1, 1, 0.0)
    with monkeypatch.context() as full:
        full.setattr("simpl.core.stream._write", refuse)
        stream.save()
    stream.save()
    with monkeypatch.context() as full:  # what is on the disk is not written again
        full.setattr("simpl.core.stream._write", lambda *_, **__: pytest.fail("written twice"))
        stream.save()
    stream.close()
    assert TransitionStream(tmp_path, lambda one: None).acknowledged == 1


def test_an_acknowledgement_of_another_robot_changes_nothing(tmp_path: Path) -> None:
    stream = TransitionStream(tmp_path, lambda one: None)
    stream.append(transition(), 0.0)
    stream.acknowledge("00000000-0000-4000-8000-000000000000", stream.epoch, 1, 0.0)
    stream.acknowledge(stream.robot_uuid, stream.epoch + 5, 1, 0.0)
    assert stream.pending == 1
    stream.acknowledge(stream.robot_uuid, stream.epoch, 99, 0.0)
    assert stream.pending == 0
    stream.close()


# --- episodes -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(12)))
def test_an_episode_is_handed_out_once_when_its_last_step_is_there(order: list[int]) -> None:
    assembler = EpisodeAssembler()
    steps = [transition(seq=step + 1, step=step, last=step == 11) for step in range(12)]
    done = [assembler.add(steps[step]) for step in order]
    assert [one is not None for one in done] == [False] * 11 + [True]
    recorded = done[-1]
    assert recorded is not None and recorded.last_seq == 12
    episode = recorded.episode
    assert episode.truncated and not episode.terminated
    assert episode.skill_starts.tolist() == [0, 10]
    assert np.array_equal(episode.observations[:-1], [one.observation for one in steps])
    assert np.array_equal(episode.observations[-1], steps[-1].next_observation)
    assert np.allclose(episode.time_stamps, 0.08 * np.arange(13))


def test_an_episode_given_up_half_way_is_never_handed_out() -> None:
    assembler = EpisodeAssembler()
    handed_out = [assembler.add(transition(step=step, episode=1)) for step in range(5)]
    for episode in (2, 3, 4):
        handed_out += [assembler.add(transition(step=step, episode=episode, last=step == 3)) for step in range(4)]
    assert [one.key[2] for one in handed_out if one] == [2, 3, 4]
    assert not assembler._open
