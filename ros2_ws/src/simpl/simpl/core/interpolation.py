"""Commands between the actions of a model, for an arm that is commanded more often than its model acts. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Interpolation:
    """A straight line from the last command to the wanted velocity, over the control periods that an action lasts.

    The wanted velocity is reached with the last of them, so the arm's speed is continuous where the model's steps are
    not, and lags half an action behind. With one period an action it is the wanted velocity itself, to the last bit.

    Args:
        periods: control periods an action lasts.
        size: number of joints.

    Raises:
        ValueError: `periods` is less than 1.
    """

    def __init__(self, periods: int, size: int) -> None:
        if periods < 1:
            raise ValueError(f"an action lasts {periods} control periods; it must be at least 1")
        self._periods = periods
        self._begin = self._target = self._last = np.zeros(size)
        self._passed = periods

    @property
    def due(self) -> bool:
        """Whether the action is over: the next command needs another one."""
        return self._passed >= self._periods

    def aim(self, wanted: FloatArray) -> None:
        """Begin an action: from the last command, zeros at first, to `wanted` (A,) [rad/s, m/s]."""
        self._begin, self._target, self._passed = self._last, wanted, 0

    def skip(self, periods: int) -> bool:
        """So many control periods went by without a command; actions keep their time. Whether one is due now."""
        self._passed += periods
        return self.due

    def next(self) -> FloatArray:
        """The command (A,) of the next control period."""
        self._passed += 1
        if self.due:
            self._last = self._target
        else:
            self._last = self._begin + (self._target - self._begin) * (self._passed / self._periods)
        return self._last
