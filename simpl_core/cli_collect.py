"""`simpl collect`: demonstrations that the project makes itself, one command a domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import subcommand

from simpl_core.errors import TaskError

if TYPE_CHECKING:
    from sim.maze_layout import MazeLayout
    from sim.tasks import KitchenTask


@dataclass(frozen=True)
class CollectMaze:
    """Shortest paths between random cells of a maze, followed by a controller; a picture beside the file.

    Example: simpl collect maze --episodes 2000 --out runs/maze.hdf5 --layout-seed 0 --size 20
    """

    episodes: int = 2000
    """How many, from a random start to a random goal each."""
    out: Path = Path("runs/maze.hdf5")
    """HDF5 file in D4RL's layout; it appears when it is complete."""
    layout_seed: int = 0
    """Seed of the maze's walls."""
    size: int = 20
    """Side of the maze [cells]; 20 with layout seed 0 is the paper's."""
    seed: int = 0
    """Seed of starts, goals, paths and noise."""

    def run(self) -> int:
        from sim.demonstrators import maze_planner
        from sim.maze_layout import MazeLayout
        from simpl_core.dataset import open_demonstrations
        from simpl_core.metrics import progress_bar
        from simpl_core.plots_maze import maze_picture
        from simpl_core.provenance import provenance

        layout = MazeLayout(self.size, self.layout_seed)
        with progress_bar(self.episodes, "demonstrations") as bar:
            maze_planner.collect(layout, self.episodes, self.seed, self.out, bar.advance, provenance())
        data = open_demonstrations(self.out)
        shown = [data.states[low:high, :2] for low, high in zip(data.bounds[:200], data.bounds[1:201], strict=False)]
        picture = self.out.with_suffix(".png")
        maze_picture(
            layout.walls,
            picture,
            trajectories=shown,
            goals=_goals(layout),
            start=layout.start,
            title=f"{layout}: {len(shown)} demonstrations",
        )
        print(f"{len(data.lengths)} episodes, {len(data.actions)} steps in {self.out}, picture in {picture}")
        print(f"next: simpl train skills {self.out} --domain maze")
        return 0


def _goals(layout: MazeLayout) -> dict[str, list[tuple[int, int]]]:
    """The goals to train on and to adapt to; none where the maze is too small for them."""
    from sim.maze_tasks import maze_tasks

    try:
        return {name: [task.goal for task in maze_tasks(name, layout)] for name in ("maze40", "target")}
    except TaskError:
        return {}


@dataclass(frozen=True)
class CollectKitchen:
    """A scripted teleoperator plays in the kitchen.

    Example: simpl collect kitchen --episodes 600 --out runs/kitchen.hdf5
    """

    episodes: int = 600
    """How many to keep."""
    out: Path = Path("runs/kitchen.hdf5")
    """HDF5 file in D4RL's layout; it appears when it is complete."""
    tasks: tuple[str, ...] = ("play",)
    """"play": random orders of four subtasks, all equally often; "paper": the paper's 33 tasks, in turn; or tasks
    such as "kettle > microwave", or @FILE with one a line."""
    seed: int = 0
    """Of tasks, variation and noise."""
    noise: float = 1.0
    """Factor on the sensor noise, acted on and recorded; 1 is the original environment's."""
    keep_failures: bool = False
    """Keep episodes in which not all subtasks succeeded."""
    threads: int = 2
    """Episodes made at the same time; the file does not depend on it."""

    def run(self) -> int:
        from sim.demonstrators.kitchen_collect import CollectSettings, collect
        from simpl_core.metrics import progress_bar
        from simpl_core.provenance import provenance

        settings = CollectSettings(self.episodes, self.seed, self.noise, self.keep_failures)
        tasks = _kitchen_tasks(self.tasks)
        with progress_bar(self.episodes, "demonstrations") as bar:
            summary = collect(settings, tasks, self.out, self.threads, bar.advance, provenance())
        print(
            f"{summary.episodes} episodes, {summary.steps} steps, {summary.orders} different orders in {self.out}; "
            f"{summary.attempts} attempts"
        )
        for name, reached in summary.reached.items():
            print(f"  {name:14} {summary.completed[name]} of {reached}")
        print(f"next: simpl train skills {self.out}")
        return 0


def _kitchen_tasks(texts: tuple[str, ...]) -> list[KitchenTask] | None:
    """None stands for play."""
    from simpl_core.domains import domain

    if texts == ("play",):
        return None
    kitchen = domain("kitchen")
    families = [kitchen.training, kitchen.target]
    return kitchen.tasks([name for text in texts for name in (families if text == "paper" else [text])], kitchen.target)


@dataclass(frozen=True)
class Collect:
    """Make demonstrations to extract skills from."""

    domain: Annotated[CollectMaze, subcommand("maze")] | Annotated[CollectKitchen, subcommand("kitchen")]

    def run(self) -> int:
        return self.domain.run()
