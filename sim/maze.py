"""`simpl/Maze-v0`: a ball in a random maze, in MuJoCo, that is paid for reaching a goal cell.

The ball and its walls are those of D4RL's point mazes (Fu et al. 2020), as SPiRL and SiMPL used them: a force moves
it, contacts are soft and without friction. `sim.maze_vector` has the same for many at once, in closed form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from sim.maze_layout import MazeLayout
from sim.maze_physics import DAMPING, DENSITY, GEAR, MARGIN, MAX_SPEED, RADIUS, TIMESTEP, WALL_HALF
from sim.maze_tasks import (
    ACTION_SIZE,
    CONTROL_PERIOD,
    MAX_STEPS,
    PAPERS_MAZE,
    STATE_SIZE,
    MazeTask,
    maze_tasks,
    parse_maze_task,
    reached,
    start_state,
)
from simpl_core.errors import ConfigError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@lru_cache(maxsize=16)
def load_maze_model(layout: MazeLayout) -> mujoco.MjModel:
    """The MuJoCo model of a maze: one box a wall cell, and the ball on two slides. Its coordinates are the cells'."""
    spec = mujoco.MjSpec()
    spec.option.timestep = TIMESTEP
    spec.option.gravity = [0.0, 0.0, 0.0]
    spec.option.tolerance = 0.0  # solve contacts to rounding
    for i, j in np.argwhere(layout.walls):
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[i, j, 0.0],
            size=[WALL_HALF, WALL_HALF, 0.2],
            margin=MARGIN,
            condim=1,
            contype=0,
            conaffinity=1,
        )
    ball = spec.worldbody.add_body(name="ball")
    ball.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[RADIUS, 0, 0], density=DENSITY, condim=1)
    for name, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
        ball.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, damping=DAMPING)
        motor = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.gear[0] = GEAR
        motor.ctrllimited, motor.ctrlrange = True, [-1.0, 1.0]
    return spec.compile()


class MazePhysics:
    """The ball in a maze: put it somewhere, push it."""

    def __init__(self, layout: MazeLayout) -> None:
        """Load the maze; the ball rests at the origin of its joints until `load`."""
        self._model = load_maze_model(layout)
        self._data = mujoco.MjData(self._model)

    @property
    def state(self) -> Float64:
        """Position [m] and velocity [m/s], (4,); a copy."""
        return np.concatenate([self._data.qpos, self._data.qvel])

    @property
    def contacts(self) -> int:
        """Walls felt in the last step."""
        return int(self._data.ncon)

    def load(self, state: ArrayLike) -> None:
        """Put the ball at `state` (4,)."""
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:], self._data.qvel[:] = np.split(np.asarray(state, np.float64), 2)

    def step(self, action: ArrayLike) -> None:
        """Push with the forces `action` (2,) in [-1, 1] for 0.01 s; speed is clipped to 5 m/s an axis before."""
        np.clip(self._data.qvel, -MAX_SPEED, MAX_SPEED, out=self._data.qvel)
        self._data.ctrl[:] = action
        mujoco.mj_step(self._model, self._data)


class MazeEnv(gymnasium.Env[Float32, Float32]):
    """`simpl/Maze-v0`: position and velocity (4 numbers), forces in [-1, 1]^2, 100 Hz, 2,000 steps.

    Reward is 1 within 1 m of the goal, which ends the episode. Episodes start in the centre. `info` tells `task` and
    `success`. `reset(options={"task": ...})` changes the task, and with it the maze if the task names another.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  as the base class has it
        "render_modes": ["rgb_array"],
        "render_fps": 1.0 / CONTROL_PERIOD,
    }

    def __init__(
        self,
        task: MazeTask | str | None = None,
        layout: MazeLayout = PAPERS_MAZE,
        max_steps: int = MAX_STEPS,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; nothing moves before `reset`.

        Args:
            task: object, or text such as "8,2" or "8,2 in maze 20:0"; None is the layout's first target.
            layout: maze of a text that names none.
            max_steps: actions before truncation.
            render_mode: "rgb_array" or None.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"render_mode {render_mode!r} is unknown; it may be 'rgb_array' or None")
        if max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, got {max_steps}")
        self.task = _as_task(maze_tasks("target", layout)[0] if task is None else task, layout)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.physics = MazePhysics(self.task.layout)
        self._max_steps = max_steps
        self._steps = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Start an episode; `options["task"]`, if given, is the task from now on."""
        super().reset(seed=seed)
        if options and "task" in options:
            task = _as_task(options["task"], self.task.layout)
            if task.layout != self.task.layout:
                self.physics = MazePhysics(task.layout)
            self.task = task
        self.physics.load(start_state(self.task.layout, self.np_random))
        self._steps, self._running = 0, True
        return self._observe(), self._info(False)

    def step(self, action: Float32) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
        """Push the ball for 0.01 s with `action` (2,), clipped to [-1, 1].

        Raises:
            ValueError: wrong shape, NaN or infinity.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the episode has ended or none has begun: call reset() first")
        wanted = np.asarray(action, np.float64)
        if wanted.shape != (ACTION_SIZE,) or not np.isfinite(wanted).all():
            raise ValueError(f"an action is {ACTION_SIZE} finite numbers, got {wanted}")
        self.physics.step(np.clip(wanted, -1.0, 1.0))
        self._steps += 1
        success = bool(reached(self.physics.state[:2], self.task.goal))
        truncated = not success and self._steps >= self._max_steps
        self._running = not (success or truncated)
        return self._observe(), float(success), success, truncated, self._info(success)

    def render(self) -> NDArray[np.uint8] | None:
        """The maze from above (480, 480, 3), or None without render_mode 'rgb_array'."""
        if self.render_mode is None:
            return None
        from sim.maze_render import draw_maze

        return draw_maze(self.task.layout, self.physics.state[:2], self.task.goal)

    def _observe(self) -> Float32:
        observation: Float32 = self.physics.state.astype(np.float32)
        return observation

    def _info(self, success: bool) -> dict[str, Any]:
        return {"task": str(self.task), "success": success}


def _as_task(task: MazeTask | str, layout: MazeLayout) -> MazeTask:
    return parse_maze_task(task, layout) if isinstance(task, str) else task
