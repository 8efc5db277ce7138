"""The newest state of the arm and the objects: checked, in the profile's order, shared between two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpl_core.errors import SimplError

FloatArray = NDArray[np.float64]

LARGEST = 1e6
"""No joint or object is this far away [rad or m]; beyond it a number is as good as infinite."""

CLOCK_SET = 1_000_000_000
"""A reading older than the one before by more than this [ns] is a new one: the clock of its sender was set back."""


def is_news(stamp: int, before: int) -> bool:
    """Whether a reading stamped `stamp` [ns] is newer than one stamped `before`, whatever time it came; 0 says nothing.

    A driver that hangs may publish its last reading for ever, and a network may turn two of them round.
    """
    return not stamp or stamp > before or stamp < before - CLOCK_SET


class StateError(SimplError):
    """A state message that cannot be used: missing names, wrong size, or numbers that are not finite."""


class NameOrder:
    """Puts a message's named numbers into one fixed order and refuses what is not whole and finite.

    Args:
        names: the wanted order.
        what: "joint" or "object", for messages to people.
    """

    def __init__(self, names: Sequence[str], what: str) -> None:
        self._names = list(names)
        self._what = what
        # Senders keep their order, so the mapping is worked out once per order and not once per message.
        self._seen: list[str] | None = None
        self._picks: NDArray[np.intp] | None = None

    def pick(self, names: Sequence[str], values: Any) -> FloatArray | None:
        """The numbers in the wanted order, a fresh array (n,); None when the message is about other things.

        Raises:
            StateError: some but not all names are there, sizes differ, or a number is not finite or
                beyond `LARGEST`.
        """
        if names != self._seen:
            self._picks = self._match(list(names))
            self._seen = list(names)
        if self._picks is None:
            return None
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.shape != (len(names),):
            raise StateError(f"{len(names)} {self._what} names came with {numbers.size} numbers")
        picked = numbers[self._picks]
        # Written so that NaN, which no comparison is true for, is refused too.
        if not np.abs(picked).max() <= LARGEST:
            bad = int(np.flatnonzero(~(np.abs(picked) <= LARGEST))[0])
            raise StateError(f"{self._what} {self._names[bad]} is {picked[bad]}, wanted a finite number")
        return picked

    def _match(self, names: list[str]) -> NDArray[np.intp] | None:
        index = {name: position for position, name in enumerate(names)}
        missing = [name for name in self._names if name not in index]
        if len(missing) == len(self._names):
            return None
        if missing:
            raise StateError(f"{self._what} {missing[0]} is missing from a message with {len(names)} names")
        return np.array([index[name] for name in self._names], dtype=np.intp)


class Snapshot(NamedTuple):
    """One whole observation.

    Attributes:
        observation: joints then objects (S,) float32, the policy's input.
        stamp: of the joint state [ns].
        received: when its later half arrived, on the steady clock [s].
        oldest: when its older half arrived [s]; what staleness is judged by.
    """

    observation: NDArray[np.float32]
    stamp: int
    received: float
    oldest: float


class _Half(NamedTuple):
    stamp: int
    numbers: FloatArray
    received: float


class RobotState:
    """Newest joint and object states; written by the thread that receives, read by the one that ticks.

    Args:
        joints: names of the joints, in order.
        objects: names of the object coordinates, in order; without any, joints alone are the whole state.
        newer: take only what is newer than what is known; not in lockstep, where time may stand still.
    """

    def __init__(self, joints: Sequence[str], objects: Sequence[str], *, newer: bool = False) -> None:
        self._joint_order = NameOrder(joints, "joint")
        self._object_order = NameOrder(objects, "object coordinate")
        self._joints: _Half | None = None
        self._objects: _Half | None = None
        self._alone = not objects
        self._newer = newer
        self.look: Callable[[], None] = _nothing
        """Takes in what has come, where nobody does as it comes; `newest` calls it."""
        self.changed = threading.Condition()
        """Notified when joints and objects of one stamp have come: half a state is nothing to wake up for."""
        self.rejected = 0
        """Messages refused so far."""

    def update_joints(self, stamp: int, names: Sequence[str], values: Any, now: float) -> bool:
        """Take a joint state; returns whether it was about these joints.

        Args:
            stamp: of the message [ns]; see `newer` and `is_news`.
            names: joint names of the message, in its order.
            values: positions, one per name.
            now: arrival, steady clock [s].

        Raises:
            StateError: the message is unusable; what was known stays.
        """
        half = self._checked(self._joint_order, stamp, names, values, now)
        if half is not None and self._is_wanted(half, self._joints):
            self._joints = half
            if self._alone:
                self._objects = half._replace(numbers=half.numbers[:0])
            self._tell()
        return half is not None

    def update_objects(self, stamp: int, names: Sequence[str], values: Any, now: float) -> bool:
        """Take an object state; arguments, answer and errors as `update_joints`."""
        half = self._checked(self._object_order, stamp, names, values, now)
        if half is not None and self._is_wanted(half, self._objects):
            self._objects = half
            self._tell()
        return half is not None

    def newest(self) -> Snapshot | None:
        """Newest joints with newest objects, whatever their stamps; None until both have come."""
        self.look()
        joints, objects = self._joints, self._objects
        if joints is None or objects is None:
            return None
        return _join(joints, objects)

    def paired(self) -> Snapshot | None:
        """Newest joints and objects if they carry one stamp; None while one half is missing."""
        joints, objects = self._joints, self._objects
        if joints is None or objects is None or joints.stamp != objects.stamp:
            return None
        return _join(joints, objects)

    def paired_stamp(self) -> int | None:
        """Stamp of what `paired` would give [ns], without building it."""
        joints, objects = self._joints, self._objects
        if joints is None or objects is None or joints.stamp != objects.stamp:
            return None
        return joints.stamp

    def _tell(self) -> None:
        if self.paired_stamp() is not None:
            with self.changed:
                self.changed.notify_all()

    def _is_wanted(self, half: _Half, known: _Half | None) -> bool:
        return known is None or not self._newer or is_news(half.stamp, known.stamp)

    def _checked(self, order: NameOrder, stamp: int, names: Sequence[str], values: Any, now: float) -> _Half | None:
        try:
            numbers = order.pick(names, values)
        except StateError:
            self.rejected += 1
            raise
        return None if numbers is None else _Half(stamp, numbers, now)


def _nothing() -> None:
    pass


def _join(joints: _Half, objects: _Half) -> Snapshot:
    observation = np.concatenate((joints.numbers, objects.numbers), dtype=np.float32, casting="same_kind")
    received, oldest = max(joints.received, objects.received), min(joints.received, objects.received)
    return Snapshot(observation, joints.stamp, received, oldest)
