"""One control step as it is journalled, sent and learned from, and its compact binary form (no pickle)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import SimplError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

CODEC_VERSION = 1
# version, robot, epoch, seq, stamp, episode, step, guard flags, reward, bits, 4 text lengths, 5 + 2 array lengths
HEAD = struct.Struct("<B16sQQqIIIfB4H7H")
SKILL_START, TERMINATED, TRUNCATED = 1, 2, 4


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
            the guard's record of the step was lost.
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
    t = transition
    texts = [_encode(text) for text in (t.phase, t.task, t.model_version, t.reward_source)]
    singles = [np.asarray(a, np.float32) for a in (t.z, t.e, t.observation, t.next_observation, t.action)]
    doubles = [np.asarray(a, np.float64) for a in (t.velocity_wanted, t.velocity_executed)]
    bits = SKILL_START * t.skill_start | TERMINATED * t.terminated | TRUNCATED * t.truncated
    head = HEAD.pack(
        CODEC_VERSION, _robot_bytes(t.robot_uuid), t.epoch, t.seq, t.stamp, t.episode, t.step, t.guard_flags,
        t.reward, bits, *map(len, texts), *map(len, singles), *map(len, doubles),
    )  # fmt: skip
    return b"".join((head, *texts, *(a.tobytes() for a in singles), *(a.tobytes() for a in doubles)))


def unpack(data: bytes) -> Transition:
    """The inverse of `pack`; arrays are read-only views of `data`.

    Raises:
        TransitionError: `data` was not made by this version of `pack`.
    """
    if len(data) < HEAD.size or data[0] != CODEC_VERSION:
        what = f"codec version {data[0]}" if data else "nothing"
        raise TransitionError(f"{len(data)} bytes starting with {what} are no transition of version {CODEC_VERSION}")
    _, robot, epoch, seq, stamp, episode, step, flags, reward, bits, *lengths = HEAD.unpack_from(data)
    wanted = HEAD.size + sum(lengths[:4]) + 4 * sum(lengths[4:9]) + 8 * sum(lengths[9:])
    if wanted != len(data):
        raise TransitionError(f"a transition of {wanted} bytes by its header came with {len(data)}")
    offset = HEAD.size
    texts = []
    for length in lengths[:4]:
        texts.append(data[offset : offset + length].decode())
        offset += length
    singles, offset = _arrays(data, offset, lengths[4:9], "<f4")
    doubles, _ = _arrays(data, offset, lengths[9:], "<f8")
    phase, task, model_version, reward_source = texts
    z, e, observation, next_observation, action = singles
    velocity_wanted, velocity_executed = doubles
    return Transition(
        robot_uuid=str(uuid.UUID(bytes=robot)),
        epoch=epoch,
        seq=seq,
        stamp=stamp,
        episode=episode,
        step=step,
        phase=phase,
        task=task,
        model_version=model_version,
        skill_start=bool(bits & SKILL_START),
        z=z,
        e=e,
        observation=observation,
        next_observation=next_observation,
        action=action,
        velocity_wanted=velocity_wanted,
        velocity_executed=velocity_executed,
        guard_flags=flags,
        reward=reward,
        reward_source=reward_source,
        terminated=bool(bits & TERMINATED),
        truncated=bool(bits & TRUNCATED),
    )


def peek(data: bytes) -> Identity:
    """Identity of a packed transition, without unpacking the rest.

    Raises:
        TransitionError: `data` was not made by this version of `pack`.
    """
    if len(data) < HEAD.size or data[0] != CODEC_VERSION:
        raise TransitionError(f"{len(data)} bytes are no transition of version {CODEC_VERSION}")
    _, robot, epoch, seq, *_ = HEAD.unpack_from(data)
    return Identity(str(uuid.UUID(bytes=robot)), epoch, seq)


def _arrays(data: bytes, offset: int, lengths: Sequence[int], kind: str) -> tuple[list[NDArray[Any]], int]:
    arrays = []
    for length in lengths:
        array: NDArray[Any] = np.frombuffer(data, kind, length, offset)
        arrays.append(array)
        offset += array.nbytes
    return arrays, offset


@lru_cache(maxsize=64)
def _encode(text: str) -> bytes:
    return text.encode()


@lru_cache(maxsize=64)
def _robot_bytes(robot_uuid: str) -> bytes:
    try:
        return uuid.UUID(robot_uuid).bytes
    except ValueError as error:
        raise TransitionError(f"a robot is named by a UUID, not by '{robot_uuid}'") from error
