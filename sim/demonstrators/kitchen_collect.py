"""Play in the kitchen, by the scripted teleoperator, into a file: task-agnostic demonstrations for phase 1."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim.demonstrators.kitchen_arm import KitchenArm
from sim.demonstrators.kitchen_teleoperator import KitchenTeleoperator, Manner
from sim.kitchen import KitchenEpisode, KitchenPhysics
from sim.tasks import MAX_STEPS, SUBTASKS, KitchenTask
from simpl_core.dataset_writer import Demonstration, write_demonstrations
from simpl_core.errors import ConfigError

__all__ = ["Attempt", "CollectSettings", "Summary", "collect", "demonstrate", "play_tasks"]

SUBTASKS_PER_EPISODE = 4

ATTEMPTS_PER_EPISODE = 4
"""Give up when fewer than one in so many succeeds: something is wrong then."""


@dataclass(frozen=True)
class CollectSettings:
    """What a file of demonstrations depends on, beside the tasks.

    Attributes:
        episodes: how many to keep.
        seed: of tasks, variation and noise; attempt i depends on it and on i alone.
        noise: factor on the sensor noise, acted on and recorded; 1 is the environment's own.
        keep_failures: keep episodes in which not all subtasks succeeded in order.
        manner: how much the teleoperator varies.
    """

    episodes: int = 600
    seed: int = 0
    noise: float = 1.0
    keep_failures: bool = False
    manner: Manner = Manner()  # noqa: RUF009  frozen


class Attempt(NamedTuple):
    """One episode as recorded, and how many of its task's subtasks were completed in order."""

    task: KitchenTask
    demonstration: Demonstration
    completed: int

    @property
    def succeeded(self) -> bool:
        """Whether all were."""
        return self.completed == len(self.task)


class Summary(NamedTuple):
    """What came of it.

    Attributes:
        episodes: kept.
        steps: in them.
        attempts: made.
        reached: how often a subtask's turn came, by name.
        completed: how often it was completed then.
        orders: how many different orders of completed subtasks the kept episodes show.
    """

    episodes: int
    steps: int
    attempts: int
    reached: dict[str, int]
    completed: dict[str, int]
    orders: int


def is_feasible(names: Sequence[str]) -> bool:
    """Whether the arm can do the subtasks in this order: an open hinge cabinet bars the way to the slide's handle."""
    order = list(names)
    return not ("slide cabinet" in order and "hinge cabinet" in order[: order.index("slide cabinet")])


def play_tasks(rng: np.random.Generator) -> Iterator[KitchenTask]:
    """Random feasible orders of four of the seven subtasks, without end.

    Orders are drawn with the probabilities that make all subtasks equally frequent.
    """
    orders = [names for names in itertools.permutations(SUBTASKS, SUBTASKS_PER_EPISODE) if is_feasible(names)]
    names = list(SUBTASKS)
    shows = np.array([[name in order for name in names] for order in orders], np.float64)
    weights = np.full(len(orders), 1.0 / len(orders))
    for _ in range(100):  # iterative scaling: the share of each subtask goes to 4/7
        wanted = SUBTASKS_PER_EPISODE / len(names)
        weights *= np.exp(shows @ np.log(wanted / (weights @ shows)) / SUBTASKS_PER_EPISODE)
        weights /= weights.sum()
    while True:
        yield KitchenTask(orders[rng.choice(len(orders), p=weights)])


def demonstrate(
    task: KitchenTask, seed: Sequence[int], physics: KitchenPhysics, arm: KitchenArm, manner: Manner | None = None
) -> Attempt:
    """One episode of `task`: until the teleoperator has finished, or the clock; `seed` decides all of it."""
    rules = KitchenEpisode(MAX_STEPS)
    whims, noise = (np.random.default_rng(stream) for stream in np.random.SeedSequence(list(seed)).spawn(2))
    # The other subtasks at the end keep the rules from stopping at the last one, before the operator has let go.
    everything = KitchenTask((*task.subtasks, *(name for name in SUBTASKS if name not in task.subtasks)))
    state = rules.reset(physics, everything, noise)
    operator = KitchenTeleoperator(task, state, whims, manner, arm)
    observations, actions = [], []
    while rules.running and (action := operator.act(state)) is not None:
        observations.append(state)
        actions.append(action)
        state = rules.step(physics, action).observation
    completed = min(rules.tracker.completed, len(task)) if rules.tracker else 0
    return Attempt(task, Demonstration(np.array(observations), np.array(actions)), completed)


def collect(
    settings: CollectSettings,
    tasks: Sequence[KitchenTask] | None,
    out: Path,
    threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
    attributes: dict[str, Any] | None = None,
) -> Summary:
    """Make demonstrations and write them to the HDF5 file `out` (see `simpl_core.dataset_writer`).

    Args:
        settings: how many, and how.
        tasks: what to do, in turn; None: "play", see `play_tasks`.
        out: file; it appears when it is complete.
        threads: how many attempts run at the same time; the file does not depend on it.
        on_progress: told how many episodes more are kept.
        attributes: of the file, beside the settings.

    Raises:
        ConfigError: no episodes, no threads, or hardly any attempt succeeds.
    """
    if settings.episodes < 1 or threads < 1:
        raise ConfigError(f"episodes and threads must be at least 1, got {settings.episodes} and {threads}")
    attempts: list[Attempt] = []
    kept: list[Attempt] = []
    for attempt in _attempts(settings, tasks, threads):
        attempts.append(attempt)
        if settings.keep_failures or attempt.succeeded:
            kept.append(attempt)
            if on_progress is not None:
                on_progress(1)
        if len(kept) == settings.episodes:
            break
        if len(attempts) >= ATTEMPTS_PER_EPISODE * settings.episodes + 20:
            raise ConfigError(
                f"only {len(kept)} of {len(attempts)} attempts succeeded, {settings.episodes} were wanted; "
                "less noise makes success likelier, and failures can be kept"
            )
    summary = _summary(attempts, kept)
    about = {
        "domain": "kitchen",
        "tasks": "play" if tasks is None else "; ".join(map(str, dict.fromkeys(tasks))),
        "seed": settings.seed,
        "noise": settings.noise,
        "keep_failures": settings.keep_failures,
        "manner": str(settings.manner),
        "attempts": summary.attempts,
    }
    write_demonstrations(out, [attempt.demonstration for attempt in kept], about | (attributes or {}))
    return summary


def _attempts(settings: CollectSettings, tasks: Sequence[KitchenTask] | None, threads: int) -> Iterator[Attempt]:
    """Attempts in the order of their numbers, some of them made at the same time."""
    order = play_tasks(np.random.default_rng([settings.seed, 0])) if tasks is None else itertools.cycle(tasks)
    workers = [(KitchenPhysics(settings.noise), KitchenArm()) for _ in range(threads)]

    def attempt(worker: int, task: KitchenTask, number: int) -> Attempt:
        return demonstrate(task, (settings.seed, 1, number), *workers[worker], settings.manner)

    with ThreadPoolExecutor(threads, thread_name_prefix="teleoperator") as pool:
        for first in itertools.count(step=threads):
            work = [pool.submit(attempt, worker, next(order), first + worker) for worker in range(threads)]
            for done in work:
                yield done.result()


def _summary(attempts: list[Attempt], kept: list[Attempt]) -> Summary:
    reached: Counter[str] = Counter()
    completed: Counter[str] = Counter()
    for attempt in attempts:
        reached.update(attempt.task.subtasks[: attempt.completed + 1])
        completed.update(attempt.task.subtasks[: attempt.completed])
    return Summary(
        episodes=len(kept),
        steps=sum(len(np.asarray(attempt.demonstration.actions)) for attempt in kept),
        attempts=len(attempts),
        reached={name: reached[name] for name in SUBTASKS},
        completed={name: completed[name] for name in SUBTASKS},
        orders=len({attempt.task.subtasks[: attempt.completed] for attempt in kept}),
    )
