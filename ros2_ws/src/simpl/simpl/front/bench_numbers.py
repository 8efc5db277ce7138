"""Numbers of benchmarks: quantiles, and their medians over repeats. No ROS."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BLOCKS = 5
"""Parts of a measurement whose quantiles are taken apart: one pause of the machine is in one of them."""


class Quantiles(NamedTuple):
    """Of times [ms]: medians over the blocks of a measurement, and how many times there are."""

    p50: float
    p99: float
    count: int


def quantiles(blocks: Sequence[ArrayLike]) -> Quantiles | None:
    """Of the times [s] of each block; None when there are none."""
    times = [1e3 * np.asarray(block, np.float64) for block in blocks]
    filled = [block for block in times if block.size]
    if not filled:
        return None
    p50, p99 = (float(np.median([np.quantile(block, level) for block in filled])) for level in (0.5, 0.99))
    return Quantiles(p50, p99, sum(block.size for block in filled))


def split(times: ArrayLike, values: ArrayLike, begin: float, end: float) -> list[np.ndarray]:
    """`values` in `BLOCKS` equal parts of the span from `begin` to `end`, by their `times` [s]."""
    when, what = np.asarray(times, np.float64), np.asarray(values, np.float64)
    edges = np.linspace(begin, end, BLOCKS + 1)
    return [what[(when >= low) & (when < high)] for low, high in itertools.pairwise(edges)]


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far [s], of all its threads, in user and kernel mode.

    Raises:
        OSError: there is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
