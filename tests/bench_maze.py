"""How fast the maze moves, in CPU time: MuJoCo one at a time, against the closed form many at once.

python tests/bench_maze.py
"""

from __future__ import annotations

import sys
import time

import numpy as np

from sim.maze import MazePhysics
from sim.maze_tasks import PAPERS_MAZE, maze_tasks
from sim.maze_vector import MazeVector

SECONDS = 2.0


def pushes(rng: np.random.Generator, before: np.ndarray) -> np.ndarray:
    return np.clip(0.95 * before + 0.3 * rng.standard_normal(before.shape), -1.0, 1.0)


def mujoco_rate() -> float:
    physics, rng, push, steps = MazePhysics(PAPERS_MAZE), np.random.default_rng(0), np.zeros(2), 0
    physics.load([*PAPERS_MAZE.start, 0.0, 0.0])
    began = time.process_time()
    while time.process_time() - began < SECONDS:
        push = pushes(rng, push)
        physics.step(push)
        steps += 1
    return steps / (time.process_time() - began)


def vector_rate(slots: int) -> float:
    vector, rng = MazeVector(slots, max_steps=10**9), np.random.default_rng(0)
    task = max(maze_tasks("target"), key=lambda task: int(PAPERS_MAZE.distances(PAPERS_MAZE.start)[task.goal]))
    rows, push, steps = np.arange(slots), np.zeros((slots, 2)), 0
    for slot in rows:
        vector.reset(slot, task, seed=int(slot))
    began = time.process_time()
    while time.process_time() - began < SECONDS:
        push = pushes(rng, push)
        for slot in np.flatnonzero(vector.step(rows, push).terminated):
            vector.reset(slot, task, seed=steps)
        steps += slots
    return steps / (time.process_time() - began)


if __name__ == "__main__":
    base = mujoco_rate()
    sys.stdout.write(f"MuJoCo, one maze         {base:10,.0f} steps/CPU-s\n")
    for count in (1, 20, 40, 200, 1000):
        rate = vector_rate(count)
        sys.stdout.write(f"closed form, {count:4} at once {rate:10,.0f} steps/CPU-s   {rate / base:5.1f} x\n")
