"""The Franka kitchen in MuJoCo: physics, one episode at a time, and the Gymnasium environment around it.

The model comes from the installed gymnasium-robotics package (its files only). How an action becomes motion,
where an episode starts and how much noise the sensors have are D4RL's kitchen environments'; what pays is
section 5 of the SiMPL paper: a task's subtasks, once each and in order.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from sim.tasks import (
    ACTION_SCALE,
    ACTION_SIZE,
    CONTROL_PERIOD,
    KITCHEN_TARGET_TASKS,
    MAX_STEPS,
    OBJECT_COORDINATES,
    ROBOT_JOINTS,
    STATE_SIZE,
    KitchenTask,
    SubtaskTracker,
    parse_kitchen_task,
)
from simpl_core.errors import ConfigError, EnvironmentMissingError

__all__ = [
    "ACTION_SCALE",
    "CONTROL_PERIOD",
    "INITIAL_POSITION",
    "OBJECT_COORDINATES",
    "POSITION_BOUNDS",
    "ROBOT_JOINTS",
    "SENSOR_NOISE",
    "SUBSTEPS",
    "KitchenEnv",
    "KitchenEpisode",
    "KitchenPhysics",
    "KitchenStep",
    "load_kitchen_model",
]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SUBSTEPS = 40
"""Physics steps of 2 ms in a control period."""

# fmt: off
INITIAL_POSITION: Float64 = np.array([
    1.48388023e-01, -1.76848573e00, 1.84390296e00, -2.47685760e00, 2.60252026e-01,    # arm
    7.12533105e-01, 1.59515394e00, 4.79267505e-02, 3.71350919e-02,                    # arm, fingers
    -2.66279850e-04, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05,                # knobs, burners (bottom)
    -3.90842156e-06, -4.22629655e-05, 6.28065475e-05, 4.04984708e-05,                 # knobs, burners (top)
    4.62730939e-04, -2.26906415e-04, -4.65501369e-04, -6.44129196e-03, -1.77048263e-03,  # light, cabinets
    1.08009684e-03,                                                                   # microwave
    -2.69397440e-01, 3.50383255e-01, 1.61944683e00,                                   # kettle: position
    1.00618764e00, 4.06395120e-03, -6.62095997e-03, -2.68278933e-04,                  # kettle: quaternion
])
"""Where every episode starts, (30,); D4RL's, its quaternion's missing normalisation included."""

POSITION_BOUNDS: Float64 = np.array([
    [-2.9, 2.9], [-1.8, 1.8], [-2.9, 2.9], [-3.1, 0.0], [-2.9, 2.9], [0.0, 3.8], [-2.9, 2.9],
    [0.0, 0.04], [0.0, 0.04],
])
"""Bounds of a position target, (9, 2) [rad, m]. The joints' own stops are narrower in places: joint 2 above
-1.7628, joint 4 below -0.4, joint 6 below 2.1127."""

SENSOR_NOISE: Float64 = 0.1 * np.array(
    [0.1] * 9 + [0.005] * 2 + [0.0005] * 6 + [0.005] * 3 + [0.1] * 3 + [0.005] * 3 + [0.1] * 3 + [0.005]
)
"""Half width of the uniform noise on each state, (30,): D4RL's ratio 0.1 times its table of amplitudes. The
data sets recorded with gymnasium-robotics' class have a tenth of it on the robot, and less on the objects."""
# fmt: on


@lru_cache(maxsize=4)
def load_kitchen_model(visual: bool = False, sleep: bool = True) -> mujoco.MjModel:
    """The kitchen's model, shared between all who simulate it (stepping only reads it).

    Args:
        visual: keep the geometries that are there only to be seen. Without them it moves exactly alike.
        sleep: what rests is not simulated until something touches it (MuJoCo's documentation, Computation, "Sleeping
            islands"), which takes a third off the time. Over an episode it moves alike to 3 mm and mrad (the median
            of episodes), to 15 at most.

    Raises:
        EnvironmentMissingError: gymnasium-robotics is not installed, or has lost the kitchen.
    """
    package = importlib.util.find_spec("gymnasium_robotics")
    if package is None or not package.submodule_search_locations:
        raise EnvironmentMissingError(
            "the kitchen's model comes with the package gymnasium-robotics, which is not installed; "
            "install simpl-core with its 'sim' extra"
        )
    assets = Path(package.submodule_search_locations[0]) / "envs" / "assets" / "kitchen_franka"
    path = assets / "kitchen_assets" / "kitchen_env_model.xml"
    if not path.is_file():
        raise EnvironmentMissingError(f"gymnasium-robotics has no kitchen at {path}; version 1.4.2 has it")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.compiler.discardvisual = not visual
    model = spec.compile()
    if sleep:
        model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP
    return model


class KitchenPhysics:
    """The kitchen itself: reset, sense, command, let time pass. Training and the simulated robot share it."""

    def __init__(self, noise: float = 1.0, sleep: bool = True) -> None:
        """Load the kitchen and put it where every episode starts.

        Args:
            noise: factor on the sensor noise; 1 (or True) is the original's, 0 (or False) is none.
            sleep: see `load_kitchen_model`.
        """
        if not 0.0 <= noise < np.inf:
            raise ConfigError(f"sensor noise must be a factor >= 0 (1 is the original's), got {noise}")
        self._noise = float(noise) * SENSOR_NOISE
        self._model = load_kitchen_model(sleep=sleep)
        self._data = mujoco.MjData(self._model)
        self.reset()

    @property
    def qpos(self) -> Float64:
        """True state (30,) without noise [rad, m]; a copy."""
        return np.array(self._data.qpos)

    @property
    def qvel(self) -> Float64:
        """True velocities (29,): 9 robot joints, 14 object joints, the kettle's 6 [rad/s, m/s]; a copy."""
        return np.array(self._data.qvel)

    @property
    def time(self) -> float:
        """Simulated time since the reset [s]."""
        return float(self._data.time)

    def reset(self, qpos: ArrayLike = INITIAL_POSITION) -> None:
        """Put everything where every episode starts, or at `qpos` (30,), at rest and at time 0."""
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:] = qpos
        # Motors hold the arm where it is until a command comes, should time pass before one.
        self._data.ctrl[:] = np.clip(self._data.qpos[:ACTION_SIZE], *POSITION_BOUNDS.T)
        mujoco.mj_forward(self._model, self._data)

    def observe(self, rng: np.random.Generator | None) -> Float64:
        """State (30,) as the sensors see it: with noise drawn from `rng`, or exact without one."""
        state = self.qpos
        if rng is not None:
            state += self._noise * rng.uniform(-1.0, 1.0, STATE_SIZE)
        return state

    def set_velocity_target(self, velocity: ArrayLike, measured: ArrayLike) -> None:
        """Aim where `velocity` leads in one control period, from where the arm was last *measured* to be.

        The aim, clipped to the position bounds, is held until the next call: q* = q_measured + 0.08 s v.

        Args:
            velocity: (9,) [rad/s, m/s].
            measured: (9,) last observed joint positions, noise included [rad, m].

        Raises:
            ValueError: another shape, NaN or infinity in either.
        """
        velocity, measured = np.asarray(velocity, np.float64), np.asarray(measured, np.float64)
        for name, value in (("velocity", velocity), ("measured position", measured)):
            if value.shape != (ACTION_SIZE,) or not np.isfinite(value).all():
                raise ValueError(f"{name} must be {ACTION_SIZE} finite numbers, got {value}")
        self._data.ctrl[:] = np.clip(measured + CONTROL_PERIOD * velocity, *POSITION_BOUNDS.T)

    def step(self, substeps: int = SUBSTEPS) -> None:
        """Let `substeps` times 2 ms pass; Python's interpreter lock is free meanwhile."""
        mujoco.mj_step(self._model, self._data, nstep=substeps)


class KitchenStep(NamedTuple):
    """What an action brought: observation (30,) float32, reward, and what ended it: the task or the clock."""

    observation: Float32
    reward: float
    terminated: bool
    truncated: bool


class KitchenEpisode:
    """The rules of an episode: the only code that says what a step is, whoever owns the physics."""

    def __init__(self, max_steps: int = MAX_STEPS) -> None:
        """Args: max_steps: actions before truncation."""
        if max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, got {max_steps}")
        self._max_steps = max_steps
        self._rng: np.random.Generator | None = None
        self._measured = INITIAL_POSITION.copy()
        self.steps = 0
        self.tracker: SubtaskTracker | None = None
        self.running = False

    def reset(self, physics: KitchenPhysics, task: KitchenTask, rng: np.random.Generator) -> Float32:
        """Start an episode of `task` with sensor noise from `rng`; returns the first observation (30,)."""
        physics.reset()
        self._rng, self.tracker, self.steps, self.running = rng, SubtaskTracker(task), 0, True
        return self._observe(physics)

    def place(self, physics: KitchenPhysics, state: ArrayLike) -> Float32:
        """Start the same episode elsewhere: at rest in `state` (30,); returns the first observation (30,)."""
        physics.reset(state)
        return self._observe(physics)

    def step(self, physics: KitchenPhysics, action: ArrayLike) -> KitchenStep:
        """Apply an action (9,), clipped to [-1, 1], for one control period.

        Raises:
            ValueError: wrong shape, NaN or infinity.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        if self.tracker is None or not self.running:
            raise gymnasium.error.ResetNeeded("the episode has ended or none has begun: call reset() first")
        wanted = np.asarray(action, np.float64)
        if wanted.shape != (ACTION_SIZE,) or not np.isfinite(wanted).all():
            raise ValueError(f"an action is {ACTION_SIZE} finite numbers, got {wanted}")
        velocity = ACTION_SCALE * np.clip(wanted, -1.0, 1.0)
        physics.set_velocity_target(velocity, self._measured[:ACTION_SIZE])
        physics.step()
        self.steps += 1
        observation = self._observe(physics)
        reward = self.tracker.update(observation)
        terminated = self.tracker.done
        truncated = not terminated and self.steps >= self._max_steps
        self.running = not (terminated or truncated)
        return KitchenStep(observation, reward, terminated, truncated)

    def _observe(self, physics: KitchenPhysics) -> Float32:
        self._measured = physics.observe(self._rng)
        observation: Float32 = self._measured.astype(np.float32)
        return observation


class KitchenEnv(gymnasium.Env[Float32, Float32]):
    """`simpl/Kitchen-v0`: 30-number state, 9 velocity actions in [-1, 1], 12.5 Hz, 280 steps.

    Reward is 1 for each subtask of `task` newly completed in order; done when all are. `info` tells
    `subtasks_done` (names in order) and `task`. `reset(options={"task": ...})` changes the task.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  as the base class has it
        "render_modes": ["rgb_array"],
        "render_fps": 1.0 / CONTROL_PERIOD,
    }

    def __init__(
        self,
        task: KitchenTask | str = KITCHEN_TARGET_TASKS[0],
        noise: float = 1.0,
        max_steps: int = MAX_STEPS,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; nothing moves before `reset`.

        Args:
            task: object, or text such as "microwave > kettle".
            noise: factor on the sensor noise; 1 (or True) is the original's, 0 (or False) is none.
            max_steps: actions before truncation.
            render_mode: "rgb_array" or None.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"render_mode {render_mode!r} is unknown; it may be 'rgb_array' or None")
        self.task = _as_task(task)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.physics = KitchenPhysics(noise)
        self._episode = KitchenEpisode(max_steps)
        self._renderer: Any = None

    @property
    def qpos(self) -> Float64:
        """True state (30,) without noise; a copy. What `sim.render` draws."""
        return self.physics.qpos

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Start an episode; `options["task"]`, if given, is the task from now on."""
        super().reset(seed=seed)
        if options and "task" in options:
            self.task = _as_task(options["task"])
        observation = self._episode.reset(self.physics, self.task, self.np_random)
        return observation, self._info()

    def step(self, action: Float32) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
        """See `KitchenEpisode.step`."""
        return (*self._episode.step(self.physics, action), self._info())

    def render(self) -> NDArray[np.uint8] | None:
        """A frame (480, 480, 3) of the present, or None without render_mode 'rgb_array'."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from sim.render import KitchenRenderer  # needs OpenGL, which training does without

            self._renderer = KitchenRenderer()
        frame: NDArray[np.uint8] = self._renderer.draw(self.qpos)
        return frame

    def close(self) -> None:
        """Free the renderer, if any."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _info(self) -> dict[str, Any]:
        tracker = self._episode.tracker
        return {"task": str(self.task), "subtasks_done": tracker.names_done if tracker else ()}


def _as_task(task: KitchenTask | str) -> KitchenTask:
    return parse_kitchen_task(task) if isinstance(task, str) else task
