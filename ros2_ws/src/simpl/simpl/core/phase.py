"""When to look at a sensor that speaks often: right after it has spoken. Pure."""

from __future__ import annotations

import math

_SLEW = 0.01  # of a period: a tick is moved by no more
_GAIN = 0.1  # of what a tick is off it is moved by
_WEIGHT = 0.05  # of one tick in what is known of the jitter
_LEAST = 1e-4  # behind a reading [s]
_SHORTEST = 5e-4  # who speaks more often need not be followed [s]


class Phase:
    """Leads the deadlines of a loop to where the readings are youngest that it takes the newest of.

    A loop on deadlines of its own acts on readings that are up to one interval of the sensor old, and never two runs
    on the same age. This moves them, slowly, to just behind the arrival of a reading, as far as arrivals jitter.

    Args:
        period: of the loop [s].
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._jitter = self._shift = 0.0

    def saw(self, age: float, interval: float) -> None:
        """A tick found a newest reading of this age, of readings that come so often, both [s]."""
        if not _SHORTEST <= interval <= 1.1 * self._period:
            return
        behind = min(_LEAST + 3.0 * self._jitter, interval / 2.0)
        error = math.remainder(age - behind, interval)  # to the nearest reading, be it the next one
        self._jitter += _WEIGHT * (abs(error) - self._jitter)
        most = _SLEW * self._period
        self._shift = min(max(-_GAIN * error, -most), most)

    def shift(self) -> float:
        """How much later the next tick should be than a period after this one [s], once."""
        shift, self._shift = self._shift, 0.0
        return shift
