"""`simpl bench control` and `simpl bench onnx`: what the robot's side costs on this machine."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from simpl_core.errors import ConfigError

if TYPE_CHECKING:
    from simpl.front.bench_control import ControlRun
    from simpl.front.bench_numbers import Quantiles

CPU_RATE = 50.0
"""Control rate at which the share of a core is taken [Hz]."""
_CALLS = 2000
_PACED = 500


@dataclass(frozen=True)
class BenchControl:
    """Late ticks, delays and processor time of policy and guard, beside a bare echo node and a plain timer node.

    The plant says joint states at 1 kHz. Nothing moves. Exit code 0 whatever the numbers are.

    Example: simpl bench control --seconds 600
    """

    rate: float = 100.0
    """Control rate [Hz]; the model's own, or a whole multiple of it."""
    seconds: float = 60.0
    """That are measured; a third as many again for the share of a core at 50 Hz."""
    bundle: Path | None = None
    """Model bundle that acts; the one that ships with the project when not given."""
    real_time: bool = True
    """Real-time priority for plant, policy, guard and echo node, where the system grants it (ulimit -r)."""
    json: bool = False
    """Print JSON instead of tables."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_bench_control(self)


@dataclass(frozen=True)
class BenchOnnx:
    """How long the networks of a bundle take for one observation, on one thread."""

    bundle: Path | None = None
    """Model bundle; the one that ships with the project when not given."""
    calls: int = _CALLS
    """Of each network in each of five repeats; the medians of their quantiles count."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_bench_onnx(self)


def run_bench_onnx(settings: BenchOnnx, console: Console | None = None) -> int:
    """Measure and print; 0.

    Raises:
        SimplError: no calls, or no valid bundle.
    """
    console = console or Console()
    if settings.calls < 1:
        raise ConfigError(f"--calls is {settings.calls}; it must be at least 1")
    from simpl.front.bench_onnx import measure_networks

    found = measure_networks(_bundle(settings.bundle), settings.calls, _PACED)
    if settings.json:
        console.print_json(json.dumps(plain(found)))
    else:
        console.print(_networks(found))
    return 0


def run_bench_control(settings: BenchControl, console: Console | None = None) -> int:
    """Measure and print; 0.

    Raises:
        SimplError: no time to measure in, no valid bundle, one of another rate, or nodes that do not start.
    """
    console = console or Console()
    if not settings.seconds > 0.0:
        raise ConfigError(f"--seconds is {settings.seconds:g}; it must be more than 0")
    from simpl import runtime_env
    from simpl.front.preflight import check_ros

    check_ros()
    runtime_env.prepare()
    from simpl.front.bench_control import run_control
    from simpl.front.bench_onnx import measure_networks

    bundle = _bundle(settings.bundle)
    networks = measure_networks(bundle, _CALLS, _PACED)
    real_time = settings.real_time
    main = run_control(bundle, settings.rate, settings.seconds, real_time=real_time)
    slow = run_control(bundle, CPU_RATE, settings.seconds / 3.0, peers=False, real_time=real_time)
    if settings.json:
        document = {
            "rate_hz": settings.rate,
            "seconds": settings.seconds,
            "real_time": real_time,
            "control": describe(main),
            "control_at_50_hz": describe(slow),
            "networks_ms": plain(networks),
        }
        console.print_json(json.dumps(document))
        return 0
    console.print(_loops(main, f"{settings.rate:g} Hz for {settings.seconds:g} s, joint states at 1 kHz"))
    console.print(f"joint state to command, p99: {main.ratio:.2f} times the echo node's")
    console.print(_networks(networks))
    for rate, run in ((settings.rate, main), (CPU_RATE, slow)):
        shares = ", ".join(f"{name} {100.0 * share:.1f} %" for name, share in run.cpu.items())
        console.print(f"share of one core at {rate:g} Hz: {100.0 * sum(run.cpu.values()):.1f} % ({shares})")
    return 0


def describe(run: ControlRun) -> dict[str, Any]:
    """A run for JSON; what was not measured is null."""
    beats = {
        name: {"ticks": beat.ticks, "late": beat.late, "late_fraction": _finite(beat.fraction)}
        for name, beat in (("policy", run.policy), ("timer", run.timer))
    }
    cpu = {**run.cpu, "together": sum(run.cpu.values())}
    return {
        "ticks": beats,
        "joint_state_to_ms": plain(run.delays),
        "command_p99_over_echo_p99": _finite(run.ratio),
        "share_of_one_core": cpu,
    }


def plain(found: dict[str, Quantiles | None]) -> dict[str, Any]:
    """Quantiles for JSON."""
    return {name: None if one is None else one._asdict() for name, one in found.items()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _bundle(path: Path | None) -> Path:
    from simpl.front.preflight import shipped_bundle

    return path or shipped_bundle()


def _networks(found: dict[str, Quantiles | None]) -> Table:
    table = Table("networks, one thread", "p50 [ms]", "p99 [ms]", box=None)
    for name, one in found.items():
        if one is not None:
            table.add_row(name.replace("_", " "), f"{one.p50:.4f}", f"{one.p99:.4f}")
    return table


def _loops(run: ControlRun, title: str) -> Table:
    table = Table("joint state to", "p50 [ms]", "p99 [ms]", "ticks", "late by half a period", title=title, box=None)
    rows = (
        ("command of the guard", "command", None),
        ("action of the policy", "action", run.policy),
        ("answer of a bare echo node", "echo", None),
        ("answer of a plain timer node", "timer", run.timer),
    )
    for text, name, beat in rows:
        one = run.delays[name]
        numbers = (f"{one.p50:.2f}", f"{one.p99:.2f}") if one else ("", "")
        late = (str(beat.ticks), f"{beat.late} ({100.0 * beat.fraction:.2f} %)") if beat and beat.ticks else ("", "")
        table.add_row(text, *numbers, *late)
    return table
