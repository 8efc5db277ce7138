"""How long a bundle's networks take on this machine, one observation at a time, on one thread. No ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.bundle import Bundle
from export.runtime import BoundModel
from simpl.front.bench_numbers import BLOCKS, Quantiles, quantiles

PACE = 0.01
"""Pause between two calls of the paced measurement [s]: a control loop finds its caches cold."""


def measure_networks(folder: Path, calls: int, paced_calls: int) -> dict[str, Quantiles | None]:
    """Times of the skill decoder, the skill policy and both, warmed up.

    Args:
        folder: of the bundle; its networks run as on a robot, with bound buffers and one thread.
        calls: back to back, for each of the repeats.
        paced_calls: of both, one each `PACE` seconds as in a control loop, over all repeats.

    Returns:
        By name; "both_paced" is None without paced calls.

    Raises:
        BundleError: there is no valid bundle.
    """
    bundle = Bundle.open(folder)
    networks = {name: BoundModel(bundle.sessions[name]) for name in ("skill_decoder", "skill_policy")}
    rng = np.random.default_rng(0)
    for network in networks.values():
        for values in network.inputs.values():
            values[:] = rng.normal(size=values.shape)

    def both() -> None:
        networks["skill_policy"].run()
        networks["skill_decoder"].run()

    runs: dict[str, Callable[[], None]] = {name: network.run for name, network in networks.items()} | {"both": both}
    for run in runs.values():
        _times(run, 200)
    # In turns, so that a busy moment of the machine meets all of them.
    blocks = [{name: _times(run, calls) for name, run in runs.items()} for _ in range(BLOCKS)]
    found: dict[str, Quantiles | None] = {name: quantiles([block[name] for block in blocks]) for name in runs}
    paced = [_times(both, paced_calls // BLOCKS, PACE) for _ in range(BLOCKS)]
    return {**found, "both_paced": quantiles(paced)}


def _times(run: Callable[[], None], calls: int, pause: float = 0.0) -> list[float]:
    """Seconds that each call took."""
    times = []
    for _ in range(calls):
        if pause:
            time.sleep(pause)
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times
