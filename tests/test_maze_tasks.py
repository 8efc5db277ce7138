"""Goals in mazes: writing and reading them, and the families they are drawn in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.maze_layout import MazeLayout
from sim.maze_tasks import (
    FAMILIES,
    PAPERS_MAZE,
    TRAINING_FAMILIES,
    MazeTask,
    is_unseen,
    maze_tasks,
    parse_maze_task,
    reached,
    read_maze_tasks,
    start_state,
)
from simpl_core.errors import TaskError

LAYOUTS = [PAPERS_MAZE, MazeLayout(20, 7), MazeLayout(24, 1)]


@pytest.mark.parametrize("text", ["8,2", " (8, 2) ", "8 2", "8,2 in maze 20:0", "8,2 IN  maze 20:0"])
def test_parse_accepts_how_people_write(text: str) -> None:
    assert parse_maze_task(text) == MazeTask((8, 2), MazeLayout(20, 0))


def test_a_maze_is_named_in_the_text_or_given() -> None:
    assert parse_maze_task("3,3 in maze 12:4").layout == MazeLayout(12, 4)
    assert parse_maze_task("3,3", MazeLayout(12, 4)).layout == MazeLayout(12, 4)


@given(seed=st.integers(0, 50), pick=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_what_is_written_reads_back(seed: int, pick: int) -> None:
    layout = MazeLayout(15, seed)
    goals = [cell for cell in layout.cells if cell != layout.start]
    task = MazeTask(goals[pick % len(goals)], layout)
    assert parse_maze_task(str(task)) == task


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("kettle", ["'kettle' is no goal", "'8,2'", "maze40"]),
        ("8;2", ["'8;2' is no goal"]),
        ("21,3", ["21,3 is outside maze 20:0", "1 to 20"]),
        ("0,5", ["outside"]),
        ("1,17", ["wall in maze 20:0", "1,16"]),
        ("13,16", ["no path leads to goal 13,16", "nearby"]),
        ("10,10", ["10,10 is where episodes in maze 20:0 start", "10,11"]),
        ("5,5 in maze 3:0", ["8 to 100 cells"]),
    ],
)
def test_parse_says_what_is_wrong_in_one_line(text: str, fragments: list[str]) -> None:
    with pytest.raises(TaskError) as error:
        parse_maze_task(text)
    message = str(error.value)
    assert all(fragment in message for fragment in fragments), message
    assert "\n" not in message


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_families_have_the_papers_sizes_and_targets_are_unseen(layout: MazeLayout) -> None:
    tasks = {family: maze_tasks(family, layout) for family in FAMILIES}
    assert [len(tasks[name]) for name in ("maze40", "maze20", "maze10", "hard")] == [40, 20, 10, 40]
    assert all(len(tasks[name]) == 10 for name in tasks if name not in ("maze40", "maze20", "hard"))
    assert all(len(set(family)) == len(family) for family in tasks.values())
    for training, target in [
        ("maze40", "target"),
        ("top", "target-top"),
        ("medium", "target-medium"),
        ("easy", "target-easy"),
    ]:
        assert all(is_unseen(task, training) for task in tasks[target])
    assert not any(is_unseen(task) for task in tasks["maze40"])
    assert set(tasks["maze10"]) < set(tasks["maze20"]) < set(tasks["maze40"])
    assert set(TRAINING_FAMILIES) <= set(FAMILIES)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_families_are_where_they_should_be(layout: MazeLayout) -> None:
    steps = layout.distances(layout.start)

    def goals(family: str) -> np.ndarray:
        return np.array([task.goal for task in maze_tasks(family, layout)])

    for family in ("top", "target-top"):
        assert goals(family)[:, 1].min() > 0.75 * layout.size
    assert goals("target-bottom")[:, 1].max() <= 0.25 * layout.size
    assert all(2 <= steps[tuple(goal)] <= 10 for name in ("easy", "medium") for goal in goals(name))
    assert steps[tuple(goals("maze40").T)].max() > 10
    assert goals("easy").std(0).sum() < goals("medium").std(0).sum() < goals("hard").std(0).sum()


def test_families_are_drawn_alike_every_time_and_differ_between_layouts() -> None:
    assert read_maze_tasks("Maze40 in maze 20:7") == maze_tasks("maze40", MazeLayout(20, 7))
    assert [task.goal for task in maze_tasks("target")] != [t.goal for t in maze_tasks("target", MazeLayout(20, 7))]
    assert read_maze_tasks("8,2") == (MazeTask((8, 2)),)


def test_a_maze_too_small_for_a_family_says_so() -> None:
    with pytest.raises(TaskError, match="maze 8:0 has .* goals to draw 'maze40' from, which needs 50"):
        maze_tasks("maze40", MazeLayout(8, 0))
    with pytest.raises(TaskError, match="no family of maze tasks 'maze30'"):
        maze_tasks("maze30")


def test_a_goal_is_reached_within_a_metre() -> None:
    positions = [[8.0, 2.0], [8.99, 2.0], [9.01, 2.0], [8.7, 2.7], [8.72, 2.72]]
    assert reached(positions, (8, 2)).tolist() == [True, True, False, True, False]
    assert not reached([np.nan, 2.0], (8, 2))


def test_episodes_start_at_rest_around_the_centre() -> None:
    starts = np.array([start_state(PAPERS_MAZE, np.random.default_rng(seed)) for seed in range(200)])
    assert (starts[:, 2:] == 0).all()
    offsets = starts[:, :2] - (10.0, 10.0)
    assert np.abs(offsets).max() <= 0.1
    assert (offsets.min(0) < -0.08).all() and (offsets.max(0) > 0.08).all()
