"""One control step as it is journalled, sent and learned from, and its compact binary form (no pickle)."""

from __future__ import annotations

import itertools
import struct
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import SimplError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

CODEC_VERSION = 1
NUMBERS = ("epoch", "seq", "stamp", "episode", "step", "guard_flags", "reward")
BITS = ("skill_start", "terminated", "truncated")
TEXTS = ("phase", "task", "model_version", "reward_source")
SINGLES = ("z", "e", "observation", "next_observation", "action")
DOUBLES = ("velocity_wanted", "velocity_executed")
# Codec version, robot, NUMBERS, BITS; lengths of TEXTS, SINGLES and DOUBLES, which follow in this order.
HEAD = struct.Struct("<B16sQQqIIIfB4H5H2H")
_SIZES = [1] * len(TEXTS) + [4] * len(SINGLES) + [8] * len(DOUBLES)


class TransitionError(SimplError):
    """Bytes that are no transition, or a transition that cannot be written as bytes."""


class Identity(NamedTuple):
    """What makes a transition itself: the robot, its bridge's start, and the number within that."""

    robot_uuid: str
    epoch: int
    seq: int


@dataclass
class Transition:
    """(observation, action, next observation) and everything known about them; see Transition.msg.

    Attributes:
        stamp: of the observation [ns].
        z: (Z,) skill in use; e: (E,) task embedding; observation, next_observation: (S,).
        action: (A,) normalised; velocity_wanted, velocity_executed: (A,) [rad/s, m/s]; the latter is empty where
            a newer action overtook this one on its way to the guard.
    """

    robot_uuid: str
    epoch: int
    seq: int
    stamp: int
    episode: int
    step: int
    phase: str
    task: str
    model_version: str
    skill_start: bool
    z: Float32
    e: Float32
    observation: Float32
    next_observation: Float32
    action: Float32
    velocity_wanted: Float64
    velocity_executed: Float64
    guard_flags: int
    reward: float
    reward_source: str
    terminated: bool
    truncated: bool

    @property
    def identity(self) -> Identity:
        """Equal for two copies of the same transition, and for no others."""
        return Identity(self.robot_uuid, self.epoch, self.seq)


def pack(transition: Transition) -> bytes:
    """Transition -> about 700 bytes for the kitchen; float32 and float64 are kept to the last bit.

    Raises:
        TransitionError: the robot's name is no UUID.
    """
    texts, singles, doubles = (
        [convert(getattr(transition, name)) for name in names]
        for names, convert in ((TEXTS, _encode), (SINGLES, _float32), (DOUBLES, _float64))
    )
    numbers = [getattr(transition, name) for name in NUMBERS]
    bits = sum(1 << place for place, name in enumerate(BITS) if getattr(transition, name))
    lengths = map(len, (*texts, *singles, *doubles))
    head = HEAD.pack(CODEC_VERSION, _robot_bytes(transition.robot_uuid), *numbers, bits, *lengths)
    return b"".join((head, *texts, *(array.tobytes() for array in (*singles, *doubles))))


def unpack(data: bytes) -> Transition:
    """The inverse of `pack`; arrays are read-only views of `data`.

    Raises:
        TransitionError: `data` was not made by this version of `pack`.
    """
    if len(data) < HEAD.size or data[0] != CODEC_VERSION:
        what = f"codec version {data[0]}" if data else "nothing"
        raise TransitionError(f"{len(data)} bytes starting with {what} are no transition of version {CODEC_VERSION}")
    _, robot, *rest = HEAD.unpack_from(data)
    numbers, bits, lengths = rest[: len(NUMBERS)], rest[len(NUMBERS)], rest[len(NUMBERS) + 1 :]
    sizes = (length * size for length, size in zip(lengths, _SIZES, strict=True))
    marks = list(itertools.accumulate(sizes, initial=HEAD.size))
    if marks[-1] != len(data):
        raise TransitionError(f"a transition of {marks[-1]} bytes by its header came with {len(data)}")
    fields: dict[str, Any] = dict(zip(NUMBERS, numbers, strict=True))
    fields |= {name: bool(bits >> place & 1) for place, name in enumerate(BITS)}
    for name, length, start in zip(TEXTS + SINGLES + DOUBLES, lengths, marks, strict=False):
        if name in TEXTS:
            fields[name] = data[start : start + length].decode()
        else:
            fields[name] = np.frombuffer(data, "<f4" if name in SINGLES else "<f8", length, start)
    return Transition(robot_uuid=str(uuid.UUID(bytes=robot)), **fields)


def peek(data: bytes) -> Identity:
    """Identity of a packed transition, without unpacking the rest.

    Raises:
        TransitionError: `data` was not made by this version of `pack`.
    """
    if len(data) < HEAD.size or data[0] != CODEC_VERSION:
        raise TransitionError(f"{len(data)} bytes are no transition of version {CODEC_VERSION}")
    _, robot, epoch, seq, *_ = HEAD.unpack_from(data)
    return Identity(str(uuid.UUID(bytes=robot)), epoch, seq)


def _float32(values: Float32) -> Float32:
    return np.asarray(values, np.float32)


def _float64(values: Float64) -> Float64:
    return np.asarray(values, np.float64)


@lru_cache(maxsize=64)
def _encode(text: str) -> bytes:
    return text.encode()


@lru_cache(maxsize=64)
def _robot_bytes(robot_uuid: str) -> bytes:
    try:
        return uuid.UUID(robot_uuid).bytes
    except ValueError as error:
        raise TransitionError(f"a robot is named by a UUID, not by '{robot_uuid}'") from error
