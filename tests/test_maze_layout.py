"""Random mazes: the rule they are drawn by, and the paths in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.maze_layout import CONNECTED, COVERAGE, MazeLayout
from simpl_core.errors import ConfigError

PAPERS_MAZE = """
######################
#....................#
#...............#.#..#
#....#.#....#####.####
######.#....#.#.#.#..#
#....#.######.##.....#
#...........###......#
#......#.#...#...#...#
########.#...#...#...#
#......#.#...#..###..#
#............#.......#
#..#........###.###..#
#..#..###........#...#
#..#........###..#...#
#.###.###.#......#...#
#......#..#..........#
#.###..#..#..........#
#..#...#.###...#.#...#
#......#....####.###.#
#......#.###...#.#...#
#....................#
######################
"""
"""Size 20, seed 0, as the paper's Figure 12 shows it: x to the right, y up."""


def test_size_20_seed_0_is_the_papers_maze() -> None:
    rows = PAPERS_MAZE.split()
    expected = np.array([[cell == "#" for cell in row] for row in rows])[::-1].T
    np.testing.assert_array_equal(MazeLayout(20, 0).walls, expected)


@given(size=st.integers(8, 45), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_any_layout_obeys_the_rule(size: int, seed: int) -> None:
    layout = MazeLayout(size, seed)
    walls = layout.walls
    assert walls.shape == (size + 2, size + 2)
    assert walls[0].all() and walls[-1].all() and walls[:, 0].all() and walls[:, -1].all()
    # The last wall placed covers at most half a side and six posts more than was wanted.
    inside = walls[1:-1, 1:-1]
    assert COVERAGE <= inside.mean() <= COVERAGE + (size / 2 + 4) / size**2
    assert layout.start == (size // 2, size // 2) and not walls[layout.start]
    assert len(layout.cells) >= CONNECTED * (~walls).sum()
    assert not any(walls[cell] for cell in layout.cells)


def test_equal_size_and_seed_give_equal_walls() -> None:
    again = MazeLayout(20, 3)
    assert again == MazeLayout(20, 3)
    assert not np.array_equal(again.walls, MazeLayout(20, 4).walls)
    with pytest.raises(ValueError, match="read-only"):
        again.walls[3, 3] = True


def test_distances_are_shortest_paths() -> None:
    """Neighbouring cells are one step apart, and every cell but the goal has a neighbour that is nearer."""
    layout = MazeLayout(20, 5)
    steps = layout.distances(layout.start)
    assert steps[layout.start] == 0
    for i, j in layout.cells:
        around = [int(steps[n]) for n in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)) if not layout.walls[n]]
        assert all(abs(int(steps[i, j]) - other) == 1 for other in around)
        assert (i, j) == layout.start or min(around) == steps[i, j] - 1
    assert (steps[layout.walls] == -1).all()


@pytest.mark.parametrize(("size", "seed"), [(7, 0), (101, 0), (20, -1)])
def test_impossible_mazes_are_refused(size: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="8 to 100 cells"):
        MazeLayout(size, seed)
