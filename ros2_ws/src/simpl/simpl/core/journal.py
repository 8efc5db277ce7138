"""Append-only journal on disk: what was appended survives a killed process, and a power cut up to the last fsync.

A journal is a folder of segments `00000001.journal`, each a magic number followed by records of
`length (u32), CRC-32 (u32), payload`, little endian. The checksum covers the length too, so that the zeros a file
system may leave after a power cut are no valid record. Opening cuts a torn tail off the newest segment.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from simpl_core.errors import SimplError

MAGIC = b"SIMPLJ\x00\x01"
"""Starts every segment; the last byte is the version of the format."""
FRAME = struct.Struct("<II")
LENGTH = struct.Struct("<I")
MAX_RECORD = 64 << 20
"""A longer record [bytes] is taken for damage; also keeps a damaged length from exhausting memory."""

log = logging.getLogger(__name__)


class JournalError(SimplError):
    """The journal cannot be opened, written or read."""


@dataclass(frozen=True)
class Recovery:
    """What opening found: whole records, and bytes that were none and were put aside."""

    records: int
    dropped_bytes: int
    reason: str


@dataclass
class _Segment:
    path: Path
    first: int  # number of its first record
    offsets: array[int] = field(default_factory=lambda: array("Q"))  # start of each frame
    end: int = 0  # byte after the last whole record
    descriptor: int = -1


class Journal:
    """Numbered records 0, 1, 2 ..., written by one process at a time; threads may share one object.

    `append` hands the bytes to the kernel (safe against a kill of this process at any byte) and returns; a thread
    calls fsync at most every `fsync_interval` seconds, so no caller waits for a disk. `flush` waits for it.

    Attributes:
        recovery: what opening found.

    Raises:
        JournalError: the folder is in use by another process, or cannot be read or written.
    """

    def __init__(self, folder: Path, *, fsync_interval: float = 0.2, segment_bytes: int = 64 << 20) -> None:
        self.folder = Path(folder)
        self._interval = fsync_interval
        self._segment_bytes = segment_bytes
        self._mutex = threading.RLock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._sync_mutex = threading.Lock()
        self._failure = ""
        self._folder_dirty = True
        self._segments: list[_Segment] = []
        self._lock_descriptor = -1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_descriptor = self._lock()
            self.recovery = self._recover()
        except OSError as error:
            self._release()
            raise JournalError(f"journal {self.folder} cannot be opened: {error.strerror}") from error
        except JournalError:
            self._release()
            raise
        self._durable = len(self)
        self._thread = threading.Thread(target=self._sync_forever, name="journal-fsync", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        if not self._segments:
            return 0
        last = self._segments[-1]
        return last.first + len(last.offsets)

    @property
    def durable(self) -> int:
        """Number of leading records known to be on the disk, not only in the kernel's memory."""
        return self._durable

    def append(self, payload: bytes | bytearray | memoryview) -> int:
        """Add a record and return its number; the record counts only if this returns.

        Raises:
            JournalError: disk full, read-only, or an earlier fsync failed; the journal is as it was before.
        """
        size = LENGTH.pack(len(payload))
        if len(payload) > MAX_RECORD:
            raise JournalError(f"a record of {len(payload)} bytes is above the limit of {MAX_RECORD}")
        frame = b"".join((size, LENGTH.pack(zlib.crc32(payload, zlib.crc32(size))), payload))
        with self._mutex:
            if self._failure:
                raise JournalError(self._failure)
            segment = self._segments[-1]
            if segment.end + len(frame) > self._segment_bytes and len(segment.offsets):
                segment = self._start_segment(len(self))
            self._write(segment, frame)
            number = len(self)
            segment.offsets.append(segment.end)
            segment.end += len(frame)
        self._dirty.set()
        return number

    def read(self, number: int) -> bytes:
        """The payload of record `number`.

        Raises:
            JournalError: there is no such record, or the disk gave back something else than was written.
        """
        with self._mutex:
            if not 0 <= number < len(self):
                raise JournalError(f"journal {self.folder} has records 0 to {len(self) - 1}, not {number}")
            segment = self._segments[bisect_right(self._segments, number, key=lambda s: s.first) - 1]
            place = number - segment.first
            start = segment.offsets[place]
            stop = segment.offsets[place + 1] if place + 1 < len(segment.offsets) else segment.end
            frame = os.pread(self._open(segment), stop - start, start)
        payload = frame[FRAME.size :]
        if len(frame) != stop - start or FRAME.unpack_from(frame)[1] != zlib.crc32(payload, zlib.crc32(frame[:4])):
            raise JournalError(f"record {number} in {segment.path} was damaged after it was written")
        return payload

    def replay(self, start: int = 0) -> Iterator[bytes]:
        """All payloads from record `start` on, in order, those appended meanwhile included."""
        number = start
        while number < len(self):
            yield self.read(number)
            number += 1

    def flush(self) -> int:
        """Wait until everything appended so far is on the disk; returns the number of such records.

        Raises:
            JournalError: the disk refused; what the kernel still holds cannot be trusted after that.
        """
        self._sync()
        if self._failure:
            raise JournalError(self._failure)
        return self._durable

    def close(self) -> None:
        """Flush and let go of the files; closing twice does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._thread.join()
        self._sync()
        self._release()

    def _release(self) -> None:
        with self._mutex:
            for segment in self._segments:
                if segment.descriptor >= 0:
                    os.close(segment.descriptor)
                    segment.descriptor = -1
            if self._lock_descriptor >= 0:
                os.close(self._lock_descriptor)
                self._lock_descriptor = -1

    def _lock(self) -> int:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise JournalError(f"journal {self.folder} is in use by another process") from error
            raise
        return descriptor

    def _recover(self) -> Recovery:
        dropped, reasons = 0, []
        paths = sorted(self.folder.glob("*.journal"))
        for path in paths:
            data = path.read_bytes()
            segment = _Segment(path, len(self))
            reason = _scan(segment, data)
            self._segments.append(segment)
            if segment.end < len(data):
                dropped += len(data) - segment.end
                reasons.append(f"{path.name} at byte {segment.end}: {reason}")
                if path is paths[-1]:
                    self._cut(segment, data)
        if not self._segments or self._segments[-1].end < len(MAGIC):
            # The very first bytes were torn off: the file holds nothing, and is written anew under its name.
            first = self._segments.pop().first if self._segments else 0
            self._start_segment(first)
        if dropped:
            log.warning("%s: dropped %d bytes that are no whole record (%s)", self.folder, dropped, "; ".join(reasons))
        return Recovery(len(self), dropped, "; ".join(reasons))

    def _cut(self, segment: _Segment, data: bytes) -> None:
        with segment.path.with_suffix(".cut").open("ab") as aside:  # evidence, should more than a torn tail be lost
            aside.write(data[segment.end :])
        with segment.path.open("r+b") as file:
            file.truncate(segment.end)
            os.fsync(file.fileno())

    def _start_segment(self, first: int) -> _Segment:
        name = int(self._segments[-1].path.stem) + 1 if self._segments else 1
        segment = _Segment(self.folder / f"{name:08d}.journal", first)
        try:
            segment.descriptor = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._write(segment, MAGIC)
        except OSError as error:
            raise JournalError(f"{segment.path} cannot be created: {error.strerror}") from error
        segment.end = len(MAGIC)
        self._segments.append(segment)
        self._folder_dirty = True  # without an fsync of the folder the new name may be gone after a power cut
        return segment

    def _open(self, segment: _Segment) -> int:
        if segment.descriptor < 0:
            segment.descriptor = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        return segment.descriptor

    def _write(self, segment: _Segment, data: bytes) -> None:
        written = 0
        try:
            descriptor = self._open(segment)
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], segment.end + written)
        except OSError as error:
            # What is left of a half-written record lies behind `end`: the next one overwrites it, opening cuts it off.
            raise JournalError(f"journal {self.folder} cannot be written: {error.strerror}") from error

    def _sync_forever(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(self._interval)
            self._sync()

    def _sync(self) -> None:
        with self._sync_mutex:
            with self._mutex:
                self._dirty.clear()
                count, first_unsynced = len(self), self._durable
                stale = [s for s in self._segments if s.first + len(s.offsets) > first_unsynced]
                if not stale or self._failure:
                    return
                descriptors = [self._open(segment) for segment in stale]
                folder_dirty, self._folder_dirty = self._folder_dirty, False
            try:
                if folder_dirty:
                    _sync_folder(self.folder)
                for descriptor in descriptors:
                    os.fsync(descriptor)
            except OSError as error:
                # After a failed fsync the kernel may drop the pages yet report success the next time: never go on.
                self._failure = f"journal {self.folder} cannot be written to disk: {error.strerror}"
                log.error(self._failure)
                return
            self._durable = count


def read_records(folder: Path) -> list[bytes]:
    """All whole records of a journal, changing nothing: for audits, also while a process writes to it."""
    records = []
    for path in sorted(Path(folder).glob("*.journal")):
        data = path.read_bytes()
        segment = _Segment(path, 0)
        _scan(segment, data)
        stops = [*segment.offsets, segment.end][1:]
        records += [data[start + FRAME.size : stop] for start, stop in zip(segment.offsets, stops, strict=True)]
    return records


def _scan(segment: _Segment, data: bytes) -> str:
    """Fill in the segment's records from its bytes; says why the rest is none."""
    if data[: len(MAGIC)] != MAGIC:
        if len(data) >= len(MAGIC) and data[:6] == MAGIC[:6]:
            raise JournalError(f"{segment.path} has format version {data[7]}, this program reads {MAGIC[7]}")
        return "no journal header"
    offset = segment.end = len(MAGIC)
    view = memoryview(data)
    while offset < len(data):
        if offset + FRAME.size > len(data):
            return "half a record header"
        length, checksum = FRAME.unpack_from(data, offset)
        if length > MAX_RECORD:
            return f"a record of {length} bytes"
        stop = offset + FRAME.size + length
        if stop > len(data):
            return "half a record"
        if zlib.crc32(view[offset + FRAME.size : stop], zlib.crc32(view[offset : offset + 4])) != checksum:
            return "a record with a wrong checksum"
        segment.offsets.append(offset)
        offset = segment.end = stop
    return ""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
