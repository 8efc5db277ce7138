"""The policy as a robot runs it: observation in, action out, skills on their clock (no torch)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from export.bundle import Bundle
from export.manifest import REWARD
from simpl_core.episode import positive_first
from simpl_core.errors import InferenceError

Float32 = NDArray[np.float32]


class SkillAction(NamedTuple):
    """What to do now.

    Attributes:
        action: (A,) float32, clipped to the manifest's limits.
        z: (Z,) float32, the skill in force.
        skill_start: whether the skill was chosen at this step.
        skill_step: control steps since it was chosen, 0 to H - 1.
    """

    action: Float32
    z: Float32
    skill_start: bool
    skill_step: int


class TaskEmbedding(NamedTuple):
    """q(e | c): mean (E,) and scale (E,), float32; e* is the mean."""

    mean: Float32
    scale: Float32


class BoundModel:
    """One network with its buffers: a call reads and writes the same memory every time."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        """Buffers for a batch of one."""
        self._session = session
        self._binding = session.io_binding()
        # The arrays are kept: onnxruntime uses their memory and holds no reference to them.
        self.inputs, self.outputs = (
            {node.name: np.zeros((1, node.shape[1]), np.float32) for node in nodes}
            for nodes in (session.get_inputs(), session.get_outputs())
        )
        for name, array in self.inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in self.outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self) -> None:
        """From `inputs` to `outputs`."""
        self._session.run_with_iobinding(self._binding)


class PolicyRunner:
    """Runs a bundle's policy for one robot: a new skill every H steps, the decoder at every step.

    Not for use by two threads at once.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Take over the sessions that were verified when the bundle was opened."""
        self.bundle = bundle
        manifest = bundle.manifest
        self._horizon = manifest.horizon
        self._lowest, self._highest = manifest.robot.action_limits
        self._policy = BoundModel(bundle.sessions["skill_policy"])
        self._decoder = BoundModel(bundle.sessions["skill_decoder"])
        self._encoder = bundle.sessions["task_encoder"]
        self._z = self._decoder.inputs["z"][0]  # a view: writing the skill is setting the decoder's input
        self._noise = np.zeros(manifest.z_dim, np.float32)
        self._rng: np.random.Generator | None = None
        self._temperature = np.float32(1.0)
        self._step = 0

    @property
    def model_version(self) -> str:
        """Of the bundle that is running."""
        return self.bundle.model_version

    def begin_episode(self, e: ArrayLike, seed: int, temperature: float = 1.0) -> None:
        """Start over with task embedding `e` (E,) and a fresh skill clock.

        Args:
            e: task embedding.
            seed: of the skills' noise; the same seed and observations give the same actions.
            temperature: factor on the scale of the skills; 0 takes their mean.

        Raises:
            InferenceError: `e` has another size or is not finite, or seed or temperature are negative.
        """
        embedding = _vector(e, self.bundle.manifest.e_dim, "task embedding")
        if seed < 0:
            raise InferenceError(f"seed is {seed}; it must not be negative")
        if not 0.0 <= temperature < np.inf:
            raise InferenceError(f"temperature is {temperature}; it must be finite and not negative")
        self._policy.inputs["e"][0] = embedding
        # As in `simpl_core.rollout`: an environment reset with this seed draws its sensor noise from the seed itself.
        self._rng = np.random.default_rng([seed, 1])
        self._temperature = np.float32(temperature)
        self._step = 0

    def act(self, observation: ArrayLike) -> SkillAction:
        """The action (A,) for an observation (S,); moves the skill clock on by one.

        Raises:
            InferenceError: no episode was begun, the observation has another size or is not finite, or the
                model answers with numbers that are not finite. The clock stays where it was.
        """
        if self._rng is None:
            raise InferenceError("act was called before begin_episode")
        state = _vector(observation, self.bundle.manifest.state_dim, "observation")
        skill_step = self._step % self._horizon
        self._decoder.inputs["state"][0] = state
        if skill_step == 0:
            self._policy.inputs["state"][0] = state
            self._choose_skill(self._rng)
        self._decoder.run()
        action = self._decoder.outputs["action"][0]
        if not np.isfinite(action).all():
            raise InferenceError("the skill decoder answers with numbers that are not finite")
        self._step += 1
        return SkillAction(action.clip(self._lowest, self._highest), self._z.copy(), skill_step == 0, skill_step)

    def encode(self, context: ArrayLike) -> TaskEmbedding:
        """The task behind skill transitions (N, 2S + Z + 2), N >= 1, rows [s, z, r, done, s'].

        Of many rows the encoder reads as many as it was trained on (the manifest's `context_kept`).

        Raises:
            InferenceError: no rows, rows of another width, or numbers that are not finite.
        """
        rows = np.asarray(context, np.float32)
        width = self.bundle.manifest.context_dim
        if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != width:
            raise InferenceError(f"a context must be (N >= 1, {width}); got {rows.shape}")
        if not np.isfinite(rows).all():
            raise InferenceError("the context has numbers that are not finite")
        rows = positive_first(rows, self.bundle.manifest.state_dim, self.bundle.manifest.context_kept or 0)
        mask = np.ones((1, len(rows)), np.bool_)
        mean, scale = self._encoder.run(["mean", "scale"], {"transitions": rows[None], "mask": mask})
        return TaskEmbedding(mean[0], scale[0])

    def warm_up(self, calls: int = 50) -> None:
        """Run every network, so that the first real tick is as fast as the rest; ends any episode."""
        width = self.bundle.manifest.context_dim
        for model in (self._policy, self._decoder):
            for _ in range(calls):
                model.run()
        self.encode(np.zeros((1, width), np.float32))
        self._rng = None

    def _choose_skill(self, rng: np.random.Generator) -> None:
        self._policy.run()
        mean, scale = self._policy.outputs["mean"][0], self._policy.outputs["scale"][0]
        if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
            raise InferenceError("the skill policy answers with numbers that are not finite")
        rng.standard_normal(dtype=np.float32, out=self._noise)
        self._noise *= self._temperature
        self._noise *= scale
        np.add(mean, self._noise, out=self._z)


class RewardModel:
    """What steps were worth, by a bundle's reward decoder; for one thread."""

    def __init__(self, bundle: Bundle) -> None:
        """Take over the session that was verified when the bundle was opened.

        Raises:
            BundleError: the bundle has no reward decoder.
        """
        bundle.path(REWARD)
        self._manifest = bundle.manifest
        self._model = BoundModel(bundle.sessions[REWARD])

    def reward(self, next_state: ArrayLike, e: ArrayLike) -> float:
        """The reward of a step that ended in `next_state` (S,), for the task with embedding `e` (E,).

        Raises:
            InferenceError: a wrong size, or a number that is not finite, before or after.
        """
        self._model.inputs["next_state"][0] = _vector(next_state, self._manifest.state_dim, "state")
        self._model.inputs["e"][0] = _vector(e, self._manifest.e_dim, "task embedding")
        self._model.run()
        reward = float(self._model.outputs["reward"][0, 0])
        if not np.isfinite(reward):
            raise InferenceError("the reward decoder answers with a number that is not finite")
        return reward


def _vector(values: ArrayLike, size: int, what: str) -> Float32:
    vector = np.asarray(values, np.float32)
    if vector.shape != (size,):
        raise InferenceError(f"{what} must have shape ({size},); got {vector.shape}")
    if not np.isfinite(vector).all():
        at = np.flatnonzero(~np.isfinite(vector))
        raise InferenceError(f"{what} is not finite at {at[:5].tolist()}")
    return vector
