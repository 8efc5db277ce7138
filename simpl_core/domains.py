"""What the commands know of each domain: its environments, tasks, presets and how to look at rollouts. One table.

Part of the composition root, like `cli`: the only code of the package that reaches into `sim`. MuJoCo and the rest are
loaded when a domain is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simpl_core.config import of_domain
from simpl_core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from simpl_core.episode import Episode
    from simpl_core.rollout import SlotEnv

DomainName = Literal["kitchen", "maze"]


@dataclass(frozen=True)
class Domain:
    """A family of tasks in one environment.

    Attributes:
        name: of the domain.
        state_dim: numbers in a state.
        sensor_noise: half width of the environment's uniform sensor noise (S,).
        action_stride: how far an action of 1 moves its joint's target from where the joint is seen; None where actions
            are of another kind.
        make_env: (slots, threads, factor on the sensor noise) -> environment.
        read_tasks: one text -> its tasks: the name of a family of tasks, or one task.
        training: family that meta-training takes when none is named.
        target: family that an evaluation takes.
        undirected: tasks under which to watch a skill prior that nobody asks for anything.
        describe: what episodes of those did, in lines.
        draw: (episodes, their tasks, picture to write).
        achievements: names of what can be seen to be achieved, whatever was asked for.
        achieved: (states (T, S), the task they were made under) -> those that they show.
        retrace: (states of a demonstration (T, S), a task in the same place) -> the task under which to replay it.
    """

    name: DomainName
    state_dim: int
    sensor_noise: NDArray[np.float64]
    action_stride: float | None
    make_env: Callable[[int, int, float], SlotEnv]
    read_tasks: Callable[[str], Sequence[Any]]
    training: str
    target: str
    undirected: Sequence[Any]
    describe: Callable[[Sequence[Episode], Sequence[Any]], list[str]]
    draw: Callable[[Sequence[Episode], Sequence[Any], Path], None]
    achievements: Sequence[str]
    achieved: Callable[[NDArray[np.float32], Any], Collection[str]]
    retrace: Callable[[NDArray[np.float32], Any], Any]

    def preset(self, name: str) -> str:
        """Name of this domain's version of a preset; the kitchen's have none before them."""
        return of_domain(self.name, name)

    def tasks(self, texts: Sequence[str], default: str) -> list[Any]:
        """Tasks and families of tasks as a user writes them; `@FILE` holds one a line.

        Raises:
            ConfigError: a file that cannot be read.
            TaskError: a task or family that the domain does not have.
        """
        lines: list[str] = []
        for text in texts or (default,):
            lines += _lines(Path(text[1:])) if text.startswith("@") else [text]
        return [task for line in lines for task in self.read_tasks(line)]

    def check(self, state_dim: int, what: Path) -> None:
        """Refuse models of another domain.

        Raises:
            CheckpointError: `what` was made for states of another size.
        """
        if state_dim != self.state_dim:
            raise CheckpointError(
                f"{what} is for states of {state_dim} numbers and the {self.name} has {self.state_dim}; "
                f"name the domain of these skills with --domain ({', '.join(DOMAINS)})"
            )


def domain(name: DomainName) -> Domain:
    """The domain of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DOMAINS:
        raise ConfigError(f"no domain {name!r}; there are {', '.join(DOMAINS)}")
    return DOMAINS[name]()


def make_env(name: DomainName, slots: int) -> SlotEnv:
    """Environments of a domain for one of several processes: stepped by one thread. Can be pickled within a partial."""
    return domain(name).make_env(slots, 1, 1.0)


def _kitchen() -> Domain:
    from sim.kitchen import SENSOR_NOISE
    from sim.tasks import (
        ACTION_SCALE,
        CONTROL_PERIOD,
        KITCHEN_TASKS,
        STATE_SIZE,
        SUBTASKS,
        KitchenTask,
        ever_completed,
        parse_kitchen_task,
    )
    from sim.vector import KitchenVector

    everything = KitchenTask(tuple(SUBTASKS))

    def describe(episodes: Sequence[Episode], _: Sequence[Any]) -> list[str]:
        done = [ever_completed(episode.observations) for episode in episodes]
        lines = [f"subtasks completed per episode: {sum(map(len, done)) / len(done):.2f} ({len(done)} episodes)"]
        return lines + [f"  {name:14} {sum(name in names for names in done) / len(done):.2f}" for name in SUBTASKS]

    return Domain(
        name="kitchen",
        state_dim=STATE_SIZE,
        sensor_noise=SENSOR_NOISE,
        action_stride=ACTION_SCALE * CONTROL_PERIOD,
        make_env=lambda slots, threads, noise: KitchenVector(slots, noise=noise, threads=threads),
        read_tasks=lambda text: KITCHEN_TASKS.get(text.strip().lower()) or (parse_kitchen_task(text),),
        training="train",
        target="target",
        undirected=(everything,),
        describe=describe,
        draw=_draw_kitchen,
        achievements=tuple(SUBTASKS),
        achieved=lambda states, _: ever_completed(states),
        retrace=lambda *_: everything,
    )


def _draw_kitchen(episodes: Sequence[Episode], _: Sequence[Any], path: Path) -> None:
    """Stills of the first three."""
    from sim.render import render_strip

    render_strip([episode.observations for episode in episodes[:3]], path)


def _maze() -> Domain:
    from sim.maze_tasks import STATE_SIZE, maze_tasks, read_maze_tasks
    from sim.maze_vector import MazeVector

    return Domain(
        name="maze",
        state_dim=STATE_SIZE,
        sensor_noise=np.zeros(STATE_SIZE),
        action_stride=None,
        make_env=lambda slots, *_: MazeVector(slots),
        read_tasks=read_maze_tasks,
        training="maze40",
        target="target",
        undirected=maze_tasks("target"),
        describe=_describe_maze,
        draw=_draw_maze,
        achievements=(*MAZE_DISTANCES, "at its goal"),
        achieved=_achieved_in_maze,
        retrace=_retrace_maze,
    )


MAZE_DISTANCES = {f"{metres} m from its start": metres for metres in (2, 5, 10)}


def _achieved_in_maze(states: NDArray[np.float32], task: Any) -> list[str]:
    """How far a ball got away from where it started, and whether it came to the goal."""
    from sim.maze_tasks import reached

    farthest = np.linalg.norm(states[:, :2] - states[0, :2], axis=1).max()
    covered = [name for name, metres in MAZE_DISTANCES.items() if farthest >= metres]
    return covered + ["at its goal"] * bool(reached(states[:, :2], task.goal).any())


def _retrace_maze(states: NDArray[np.float32], task: Any) -> Any:
    """The goal where a demonstration ends, in the layout of `task`."""
    cells = [cell for cell in task.layout.cells if cell != task.layout.start]
    return replace(task, goal=min(cells, key=lambda cell: float(np.linalg.norm(states[-1, :2] - cell))))


def _describe_maze(episodes: Sequence[Episode], tasks: Sequence[Any]) -> list[str]:
    """Goals reached, and how much of the maze an episode sees."""
    cells = [np.unique(np.rint(episode.observations[:, :2]).astype(int), axis=0) for episode in episodes]
    layouts = [task.layout for task in tasks]
    farthest = [
        layout.distances(layout.start)[tuple(seen.T)].max() for layout, seen in zip(layouts, cells, strict=True)
    ]
    seen = [len(visited) / len(layout.cells) for layout, visited in zip(layouts, cells, strict=True)]
    return [
        f"goals reached: {np.mean([episode.score for episode in episodes]):.2f} ({len(episodes)} episodes)",
        f"  cells seen by an episode        {np.mean(seen):.0%} of the maze",
        f"  farthest from the start         {np.mean(farthest):.1f} cells of path (mean), {max(farthest)} (most)",
    ]


def _draw_maze(episodes: Sequence[Episode], tasks: Sequence[Any], path: Path) -> None:
    from simpl_core.plots_maze import maze_picture

    layout = tasks[0].layout
    maze_picture(
        layout.walls,
        path,
        trajectories=[e.observations[:, :2] for e, task in zip(episodes, tasks, strict=True) if task.layout == layout],
        goals={"goals": sorted({task.goal for task in tasks if task.layout == layout})},
        start=layout.start,
        title=f"{layout}: {len(episodes)} episodes",
    )


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"task file {str(path)!r} cannot be read: {error.strerror}") from error


DOMAINS: dict[str, Callable[[], Domain]] = {"kitchen": _kitchen, "maze": _maze}
