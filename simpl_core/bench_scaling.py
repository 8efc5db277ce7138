"""Steps per second against the number of environments, of cores, of tasks and of transitions in a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np

from simpl_core.bench import load_baseline, timed
from simpl_core.bench_rollouts import actor, fresh_models, play, rollout_jobs
from simpl_core.bench_steps import MetaSetting, meta_agent
from simpl_core.config import META_PRESETS, SKILLS_PRESETS, MetaConfig
from simpl_core.domains import Domain
from simpl_core.learner import torch_threads


class Curve(NamedTuple):
    """Units a second of `name` over `axis`: at each of `points`, in wall time and in CPU time."""

    name: str
    axis: str
    unit: str
    points: Sequence[int]
    wall: Sequence[float]
    cpu: Sequence[float]


def environment_curves(domains: Sequence[Domain], counts: Sequence[int], threads: int, repeats: int) -> Iterator[Curve]:
    """Steps of our rollouts a second against environments side by side, on one thread and on `threads`."""
    for domain in domains:
        for used in sorted({1, threads}) if domain.name == "kitchen" else [1]:
            rates = [_rollout_rates(domain, count, used, repeats) for count in counts]
            name = f"{domain.name}, {used} thread{'s' if used > 1 else ''}"
            yield Curve(name, "environments at once", "environment steps", counts, *zip(*rates, strict=True))


def _rollout_rates(domain: Domain, count: int, threads: int, repeats: int) -> tuple[float, float]:
    with closing(domain.make_env(count, threads, 1.0)) as env:
        models = fresh_models(domain, env.action_size)
        jobs = rollout_jobs(domain, models, count)
        return _rates(partial(play, env, actor(models), jobs), repeats)


def core_curves(domain: Domain, slots: int, cores: Sequence[int], repeats: int) -> Iterator[Curve]:
    """Steps of `slots` environments a second, and gradient steps of preset `fast`, against threads."""
    rates = [_rollout_rates(domain, slots, count, repeats) for count in cores]
    yield Curve(
        domain.name, f"cores, {slots} environments at once", "environment steps", cores, *zip(*rates, strict=True)
    )
    agent = meta_agent(MetaSetting("", SKILLS_PRESETS["official"], META_PRESETS["fast"], 23))
    rates = []
    for count in cores:
        with torch_threads(count):
            rates.append(_rates(partial(_once, partial(agent.update, 1)), repeats))
    yield Curve("kitchen, preset fast", "cores, a step of phase 2", "gradient steps", cores, *zip(*rates, strict=True))


def task_curves(counts: Sequence[int], repeats: int) -> Iterator[Curve]:
    """Gradient steps a second in the kitchen's paper setting against tasks a step, ours and plain."""

    def setting(count: int) -> MetaConfig:
        small = max(1, count // 10)
        return replace(META_PRESETS["official"], tasks_small=small, tasks_large=count - small)

    yield from _step_curves("tasks a step, contexts of 1,024", counts, setting, repeats)


def context_curves(sizes: Sequence[int], repeats: int) -> Iterator[Curve]:
    """The same against transitions in a large context, with 30 tasks a step."""

    def setting(size: int) -> MetaConfig:
        return replace(META_PRESETS["official"], context_large=size, encoder_buffer_size=max(size, 3000))

    yield from _step_curves("transitions in a large context, 30 tasks", sizes, setting, repeats)


def _step_curves(
    axis: str, points: Sequence[int], setting: Callable[[int], MetaConfig], repeats: int
) -> Iterator[Curve]:
    module = load_baseline("plain_meta")
    rates: Mapping[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    for point in points:
        agent = meta_agent(MetaSetting("", SKILLS_PRESETS["official"], setting(point), 23))
        baseline = module.PlainMeta(agent)
        for name, step in (("ours", partial(agent.update, 1)), ("plain", baseline.step)):
            rates[name].append(_rates(partial(_once, step), repeats))
    for name, found in rates.items():
        yield Curve(name, axis, "gradient steps", points, *zip(*found, strict=True))


def _once(step: Callable[[], object]) -> int:
    step()
    return 1


def _rates(work: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Units a second, of wall and of CPU time: medians, after one call that warms up."""
    times = [timed(work) for _ in range(repeats + 1)][1:]
    return 1.0 / median(time.wall for time in times), 1.0 / median(time.cpu for time in times)


def as_table(curves: Sequence[Curve]) -> list[str]:
    """For people."""
    lines = []
    for curve in curves:
        lines.append(f"{curve.name}: {curve.unit} a second (a CPU second) against {curve.axis}")
        rows = zip(curve.points, curve.wall, curve.cpu, strict=True)
        lines += [f"  {point:6}  {wall:12,.1f} {cpu:12,.1f}" for point, wall, cpu in rows]
    return lines


def powers(largest: int, smallest: int = 1) -> list[int]:
    """Powers of two from `smallest` on, and `largest`."""
    return [*(2**k for k in range(int(np.log2(smallest)), int(np.ceil(np.log2(largest))))), largest]
