"""Demonstrations in a maze: shortest paths, driven without leaving the physics, written and read back."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from sim.demonstrators import maze_planner
from sim.demonstrators.maze_planner import demonstrate, shortest_path
from sim.maze import MazePhysics
from sim.maze_layout import MazeLayout
from simpl_core.dataset import open_demonstrations
from simpl_core.errors import DatasetError

LAYOUT = MazeLayout(12, 3)


def test_paths_are_shortest_and_ties_are_broken_both_ways() -> None:
    start, goal = LAYOUT.cells[0], LAYOUT.cells[-1]
    paths = [shortest_path(LAYOUT, start, goal, np.random.default_rng(seed)) for seed in range(20)]
    for path in paths:
        assert path[-1] == goal and len(path) == LAYOUT.distances(start)[goal]
        moves = np.abs(np.diff(np.array([start, *path]), axis=0)).sum(1)
        assert (moves == 1).all() and not any(LAYOUT.walls[cell] for cell in path)
    assert len({tuple(path) for path in paths}) > 1
    assert shortest_path(LAYOUT, start, start, np.random.default_rng(0)) == []


def test_demonstrations_arrive_and_replay_in_mujoco() -> None:
    physics = MazePhysics(LAYOUT)
    for demonstration in demonstrate(LAYOUT, range(6), seed=4):
        observations, actions = np.asarray(demonstration.observations), np.asarray(demonstration.actions)
        assert demonstration.terminated
        assert np.abs(actions).max() <= 1.0
        physics.load(np.append(observations[0, :2], [0.0, 0.0]))
        for observation, action in zip(observations, actions, strict=True):
            np.testing.assert_allclose(physics.state, observation, atol=1e-3)  # the first state is rounded to float32
            physics.step(action)


def test_a_demonstration_depends_on_its_index_alone() -> None:
    together = demonstrate(LAYOUT, range(5), seed=1)
    alone = demonstrate(LAYOUT, range(3, 4), seed=1)[0]
    np.testing.assert_array_equal(together[3].observations, alone.observations)
    np.testing.assert_array_equal(together[3].actions, alone.actions)
    other = demonstrate(LAYOUT, range(3, 4), seed=2)[0]
    assert not np.array_equal(np.asarray(other.observations)[0], np.asarray(alone.observations)[0])


def test_collected_episodes_cover_the_maze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maze_planner, "BATCH", 32)
    told: list[int] = []
    path = maze_planner.collect(LAYOUT, 70, 0, tmp_path / "maze.hdf5", told.append, {"revision": "abc"})
    assert told == [32, 32, 6]
    data = open_demonstrations(path, state_dim=4)
    assert len(data.lengths) == 70
    assert data.actions.shape == (len(data.states), 2)
    seen = {(int(i), int(j)) for i, j in np.rint(data.states[:, :2])}
    assert len(seen & set(LAYOUT.cells)) > 0.9 * len(LAYOUT.cells)
    assert not any(LAYOUT.walls[cell] for cell in seen)
    with h5py.File(path) as file:
        assert file.attrs["layout"] == "maze 12:3" and file.attrs["revision"] == "abc"
        assert file["terminals"][:].sum() == 70
    with pytest.raises(DatasetError, match="no episode"):
        maze_planner.collect(LAYOUT, 0, 0, tmp_path / "none.hdf5")


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maze_planner, "BATCH", 4)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maze_planner.collect(LAYOUT, 8, 0, tmp_path / "maze.hdf5", stop)
    assert list(tmp_path.iterdir()) == []
