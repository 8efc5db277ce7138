"""Recordings: MCAP files of ROS 2 messages as they were on the wire, with their definitions, that others' tools open.

A message is written as it came and never decoded. What was written survives a killed process but for the newest chunk,
some `CHUNK` bytes; `read_recording` reads a file without an end too. Needs the package `mcap`.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from zstandard import ZstdError

from simpl_core.errors import SimplError

CHUNK = 64 << 10
"""Bytes of messages that are compressed together, and that a kill may cost."""
FLUSH = 1.0
"""Longest time for which a finished chunk stays in this process [s]."""

log = logging.getLogger(__name__)


class RecordingError(SimplError):
    """A recording that cannot be written or read."""


class MessageType(NamedTuple):
    """Name of a message type, `package/msg/Name`, and its definition with those of all types in it (ros2msg)."""

    name: str
    definition: str


class Recorded(NamedTuple):
    """A message of a recording: its topic, type, time of arrival [ns, wall clock], and its bytes (CDR)."""

    topic: str
    type: str
    stamp: int
    data: bytes


class Recording:
    """A file under way; close it, or use it in a `with`.

    Attributes:
        counts: messages so far, by topic.

    Raises:
        RecordingError: the file exists, or cannot be created or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.counts: Counter[str] = Counter()
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._flushed_at = time.monotonic()
        with self._complaining():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
            self._writer = Writer(self._file, chunk_size=CHUNK, compression=CompressionType.ZSTD)
            self._writer.start(profile="ros2", library="simpl")

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_topic(self, topic: str, kind: MessageType, qos: str = "") -> None:
        """Announce a topic, with the quality of service it was offered with as rosbag2 writes it (YAML)."""
        if kind.name not in self._schemas:
            self._schemas[kind.name] = self._writer.register_schema(kind.name, "ros2msg", kind.definition.encode())
        metadata = {"offered_qos_profiles": qos}
        self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[kind.name], metadata)
        self.counts[topic] = 0

    def write(self, topic: str, stamp: int, data: bytes) -> None:
        """Add a message (CDR) of a topic that was announced, which arrived at `stamp` [ns]."""
        self.counts[topic] += 1
        now = time.monotonic()
        with self._complaining():
            number = self.counts[topic] & 0xFFFFFFFF  # the field has 32 bits: 49 days at 1 kHz
            self._writer.add_message(self._channels[topic], stamp, data, publish_time=stamp, sequence=number)
            if now - self._flushed_at > FLUSH:
                self._flushed_at = now
                self._file.flush()

    def close(self) -> None:
        """Write the index and close; closing twice does nothing."""
        if self._file.closed:
            return
        with self._complaining():
            try:
                self._writer.finish()
            finally:
                self._file.close()

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RecordingError(f"recording {self.path} cannot be written: {error.strerror}") from error


def read_recording(path: Path) -> Iterator[Recorded]:
    """All messages of a file in the order of arrival, from any recorder of ROS 2 messages.

    A file whose recorder was killed ends where its last whole chunk does.

    Raises:
        RecordingError: it cannot be read, is no MCAP file, or holds other messages than those of ROS 2.
    """
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    try:
        with Path(path).open("rb") as file:
            for record in StreamReader(file, validate_crcs=True).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    channel = channels[record.channel_id]
                    schema = schemas.get(channel.schema_id)
                    if channel.message_encoding != "cdr" or schema is None:
                        raise RecordingError(f"{path}: {channel.topic} holds {channel.message_encoding}, wanted cdr")
                    yield Recorded(channel.topic, schema.name, record.log_time, record.data)
    except OSError as error:
        raise RecordingError(f"recording {path} cannot be read: {error.strerror}") from error
    except (McapError, ZstdError, struct.error, ValueError, KeyError) as error:
        if not channels:
            raise RecordingError(f"{path} is no MCAP file: {error}") from error
        log.warning("%s has no proper end; what follows its last whole chunk is lost (%s)", path, error or "cut off")
