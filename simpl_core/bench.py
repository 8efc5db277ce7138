"""What every `simpl bench` is made of: contenders timed in turns, a check that they compute the same, a report.

Times of one contender alone say little on a shared machine. So contenders take turns, A B A B ..., each round gives one
ratio, and the median of these is told; in wall time and in CPU time, which busy neighbours hardly change.
"""

from __future__ import annotations

import importlib
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from simpl_core.errors import EnvironmentMissingError

OURS = "ours"


@dataclass(frozen=True)
class Timing:
    """Medians over rounds of the time that a unit of work takes [s]; `cpu` is of all threads and processes together."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Comparison:
    """One setting.

    Attributes:
        setting: what was computed.
        unit: what the times are for.
        timings: per contender; `ours` is the project's.
        ratios: per other contender, how many times as long it takes as ours: medians of the rounds' own ratios.
        differences: largest difference between what ours and another computed, by what was compared.
        tolerance: up to which those count as rounding.
    """

    setting: str
    unit: str
    timings: Mapping[str, Timing]
    ratios: Mapping[str, Timing]
    differences: Mapping[str, float]
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether all compute the same; a difference that is not a number is none that passes."""
        return all(difference <= self.tolerance for difference in self.differences.values())


def take_turns(
    setting: str,
    unit: str,
    contenders: Mapping[str, Callable[[], int]],
    repeats: int,
    check: tuple[Mapping[str, float], float],
) -> Comparison:
    """Time `contenders`, each of which does some units of work when called and says how many.

    Args:
        setting: what is computed.
        unit: of work.
        contenders: by name; one of them is `ours`.
        repeats: rounds, after one that warms up.
        check: differences found before, and their tolerance.
    """
    rounds: dict[str, list[Timing]] = {name: [] for name in contenders}
    for number in range(repeats + 1):
        for name, work in contenders.items():
            timing = timed(work)
            if number > 0:
                rounds[name].append(timing)
    differences, tolerance = check
    return Comparison(
        setting,
        unit,
        {name: _medians(own, [Timing(1.0, 1.0)] * repeats) for name, own in rounds.items()},
        {name: _medians(own, rounds[OURS]) for name, own in rounds.items() if name != OURS},
        differences,
        tolerance,
    )


def timed(work: Callable[[], int]) -> Timing:
    """Time that a unit takes."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    units = work()
    return Timing((time.perf_counter() - wall) / units, (cpu_seconds() - cpu) / units)


def cpu_seconds() -> float:
    """CPU time of this process and of those it has started and not yet ended [s]; of this alone outside of Linux."""
    own = time.process_time()
    if not sys.platform.startswith("linux"):
        return own
    # The kernel's name for the CPU clock of a process, as clock_getcpuclockid(3) answers it.
    clocks = [(~child.pid << 3) | 2 for child in multiprocessing.active_children() if child.pid is not None]
    return own + sum(map(time.clock_gettime, clocks))


def _medians(times: list[Timing], units: list[Timing]) -> Timing:
    pairs = list(zip(times, units, strict=True))
    return Timing(
        statistics.median(time.wall / unit.wall for time, unit in pairs),
        statistics.median(time.cpu / max(unit.cpu, 1e-9) for time, unit in pairs),
    )


def load_baseline(name: str) -> ModuleType:
    """A module of `tests/baselines`, the plain implementations that are no part of what is installed.

    Raises:
        EnvironmentMissingError: this is no checkout.
    """
    tests = Path(__file__).resolve().parents[1] / "tests"
    if not (tests / "baselines" / f"{name}.py").is_file():
        raise EnvironmentMissingError(
            f"benchmarks compare with {name}, kept in tests/baselines of a checkout, and there is none in "
            f"{tests.parent}; run `simpl bench` from an editable installation of a checkout (make install)"
        )
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    return importlib.import_module(f"baselines.{name}")


def relative_difference(one: float, other: float) -> float:
    """|one - other| as a fraction of the larger; of 0.01 where both are smaller."""
    return abs(one - other) / max(abs(one), abs(other), 1e-2)


def machine() -> dict[str, Any]:
    """Where the times are from."""
    import torch

    from simpl_core.workers import cores

    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def plain(comparisons: list[Comparison]) -> dict[str, Any]:
    """For JSON."""
    return {"machine": machine(), "comparisons": [asdict(one) | {"same": one.same} for one in comparisons]}


def describe(comparison: Comparison) -> list[str]:
    """For people."""
    lines = [f"{comparison.setting}: milliseconds per {comparison.unit}, median: wall, CPU; times as long as ours"]
    for name, timing in comparison.timings.items():
        line = f"  {name:24} {1e3 * timing.wall:9.3f} {1e3 * timing.cpu:9.3f}"
        if ratio := comparison.ratios.get(name):
            line += f"   {ratio.wall:6.2f} x {ratio.cpu:6.2f} x"
        lines.append(line)
    found = ", ".join(f"{what} {difference:.1e}" for what, difference in comparison.differences.items())
    verdict = "the same numbers" if comparison.same else "NOT THE SAME NUMBERS"
    return [*lines, f"  {verdict}: {found} (tolerance {comparison.tolerance:g})"]
