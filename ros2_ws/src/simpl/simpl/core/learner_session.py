"""The learner without its ROS shell: stores what it receives, fine-tunes on whole episodes, makes new bundles.

Two threads share it: one receives, stores and acknowledges and never waits for training; the other trains. What is on
disk (the store, one checkpoint, the newest model) is enough to go on after a kill at any moment: an update that was
not checkpointed is made again from the same experience.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from export.bundle import Bundle, diff_files
from export.manifest import MANIFEST
from export.to_onnx import update_policy
from simpl.core.episodes import EpisodeAssembler, RecordedEpisode
from simpl.core.model_store import ModelUpdate
from simpl.core.plan import LEARNED_FROM
from simpl.core.transition import Transition
from simpl.core.transition_store import Acknowledgement, TransitionStore
from simpl_core.adapt import FineTuner
from simpl_core.checkpoint import load_models
from simpl_core.config import AdaptConfig
from simpl_core.episode import SkillSteps, to_skill_steps
from simpl_core.errors import BundleError, CheckpointError
from simpl_core.provenance import provenance

TRAINED = ("evaluation", "finetune")
"""Phases after whose episodes there is an update; their embedding is e*."""

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far learning has come; what a checkpoint keeps besides tensors.

    Attributes:
        episodes: (robot, epoch, episode) of those in the buffer, in order.
        skill_steps_due: new skill transitions that no update has paid for yet.
        updates: models made.
        model_version: of the newest.
        considered: (epoch, seq) of the newest transition of a handled episode, whether it led to a model or not.
        e_star: (E,) the embedding that is trained.
    """

    episodes: list[tuple[str, int, int]] = field(default_factory=list)
    skill_steps_due: int = 0
    updates: int = 0
    gradient_steps: int = 0
    model_version: str = ""
    considered: tuple[int, int] = (0, 0)
    e_star: list[float] = field(default_factory=list)


class LearnerSession:
    """See the module.

    Attributes:
        progress: of learning; written by the training thread only.
        metrics: of the newest update.
        stopping: once set, an update under way is given up; the next start makes it from the same experience.
    """

    def __init__(self, bundle: Bundle, folder: Path, config: AdaptConfig, seed: int) -> None:
        """Open or create the learner's state in `folder`; `bundle` must hold a checkpoint to start from.

        Raises:
            BundleError: it does not. JournalError, CheckpointError: the state cannot be read.
        """
        self._bundle, self._config, self._seed, self._folder = bundle, config, seed, Path(folder)
        self._models = load_models(bundle.path("learner"))
        self._origin = provenance()
        self._assembler = EpisodeAssembler()
        self._ready: queue.SimpleQueue[RecordedEpisode] = queue.SimpleQueue()
        self._waiting: list[RecordedEpisode] = []
        self._tuner: FineTuner | None = None
        self.progress = Progress()
        self.metrics: dict[str, float] = {}
        self.stopping = threading.Event()
        self._good: dict[str, torch.Tensor] = {}  # the tuner's state that the last sound model came from
        self._since_good: list[SkillSteps] = []
        self._settled = (0, 0)  # `considered`, once the model that came of it, if any, is made
        self.store = TransitionStore(self._folder / "store")
        self._restore()

    # -- the receiving thread ------------------------------------------------------------------------------------

    def receive(self, transition: Transition) -> bool:
        """Store a transition; returns whether it was new.

        Raises:
            JournalError: it could not be stored; it will not be acknowledged, so it will come again.
        """
        if not self.store.add(transition):
            return False
        self._assemble(transition)
        return True

    def acknowledge(self) -> list[Acknowledgement]:
        """What is safe on disk; waits for the disk. Raises JournalError if it refuses."""
        return self.store.acknowledge()

    def close(self) -> None:
        """Flush the store."""
        self.store.close()

    # -- the training thread -------------------------------------------------------------------------------------

    def train(self, wait: float, on_phase: Callable[[str], object] = str) -> ModelUpdate | None:
        """Learn from all episodes that are complete; waits up to `wait` s for one. A new model, if there is one.

        `on_phase` is told "training" and "waiting" as it goes.

        Raises:
            BundleError: the trained policy is not fit for a robot (not finite, say); the checkpoint stays behind.
        """
        episodes = self._take(wait)
        if not episodes:
            return None
        self._waiting += episodes
        if self._tuner is None:
            first = next((one for one in self._waiting if one.phase in TRAINED), None)
            if first is None:
                return None  # conditioning: e* is not known yet, and the bridge expects no model
            self._start(first.e)
        self._learn(self._waiting)
        self._waiting = []
        on_phase("training")
        try:
            return self._update()
        finally:
            if not self.stopping.is_set():
                self._settled = self.progress.considered
            on_phase("waiting")

    def newest_model(self) -> ModelUpdate | None:
        """The last model made, also by an earlier start; None if there is none."""
        folder = self._folder / "model"
        if not (folder / MANIFEST).is_file():
            return None
        try:
            return self._as_update(Bundle.open(folder))
        except BundleError as error:
            log.warning("the newest model cannot be offered again: %s", error)
            return None

    def status(self) -> dict[str, Any]:
        """Numbers for LearnerStatus.metrics_json."""
        epoch, seq = self._settled
        return {**self.metrics, "considered_epoch": epoch, "considered_seq": seq}

    # -- inside --------------------------------------------------------------------------------------------------

    def _assemble(self, transition: Transition) -> None:
        if transition.phase not in LEARNED_FROM:
            return
        complete = self._assembler.add(transition)
        if complete is not None:
            self._ready.put(complete)

    def _take(self, wait: float) -> list[RecordedEpisode]:
        taken = []
        try:
            taken.append(self._ready.get(timeout=wait))
            while True:
                taken.append(self._ready.get_nowait())
        except queue.Empty:
            return taken

    def _start(self, e: np.ndarray) -> None:
        self.progress.e_star = [float(value) for value in e]
        self._tuner = self._new_tuner()

    def _learn(self, episodes: Sequence[RecordedEpisode]) -> None:
        for one in episodes:
            steps = to_skill_steps(one.episode)
            self.progress.considered = max(self.progress.considered, (one.key[1], one.last_seq))
            if one.phase == "conditioning" and not self._config.use_conditioning:
                continue
            if self._tuner is not None:
                self._tuner.add(steps)
                self._since_good.append(steps)
            if one.phase in TRAINED and not np.allclose(one.e, self.progress.e_star):
                log.warning("episode %s was made with another embedding than the one that is trained", one.key)
            self.progress.episodes.append(one.key)
            self.progress.skill_steps_due += len(steps.z) if one.phase in TRAINED else 0

    def _update(self) -> ModelUpdate | None:
        tuner, progress = self._tuner, self.progress
        steps = tuner.steps_for(progress.skill_steps_due) if tuner is not None else 0
        if tuner is None or steps == 0:
            return None  # less experience than a batch: what is due stays due
        metrics = self._descend(tuner, steps)
        if self.stopping.is_set():
            return None
        self.metrics = metrics
        progress.skill_steps_due = 0
        progress.gradient_steps += steps
        progress.updates += 1
        try:
            update = self._as_update(self._export(tuner))
        except BundleError:
            self._step_back()
            raise
        progress.model_version = update.model_version
        self._save(tuner)
        return update

    def _descend(self, tuner: FineTuner, steps: int) -> dict[str, float]:
        """Gradient steps one by one, so that a stop need not wait for all of them; the mean of their metrics."""
        taken = []
        while len(taken) < steps and not self.stopping.is_set():
            taken.append(tuner.update(1))
        return {name: sum(one[name] for one in taken) / len(taken) for name in (taken[0] if taken else ())}

    def _step_back(self) -> None:
        """Training went astray: back to the last sound state, with all experience since."""
        self._tuner = self._new_tuner()
        if self._good:
            self._tuner.load_state_dict(self._good)
        for steps in self._since_good:
            self._tuner.add(steps)

    def _new_tuner(self) -> FineTuner:
        return FineTuner(self._models, self._config, np.asarray(self.progress.e_star, np.float32), self._seed)

    def _export(self, tuner: FineTuner) -> Bundle:
        epoch, seq = self.progress.considered
        robot = self.progress.episodes[-1][0]
        origin = {
            **self._origin,
            "trained_on": {"robot_uuid": robot, "epoch": epoch, "seq": seq},
            "episodes": len(self.progress.episodes),
            "gradient_steps": self.progress.gradient_steps,
            "e_star": self.progress.e_star,
            "seed": self._seed,
        }
        return update_policy(self._bundle, tuner.policy, self._folder / "model", origin)

    def _as_update(self, model: Bundle) -> ModelUpdate:
        # Always against the bundle that the run started from: a robot that missed an update can use the next.
        return ModelUpdate(
            model_version=model.model_version,
            parent_version=self._bundle.model_version,
            manifest_json=(model.folder / MANIFEST).read_text(),
            files={name: (model.folder / name).read_bytes() for name in diff_files(self._bundle, model)},
            trained_on=int(model.manifest.provenance["trained_on"]["seq"]),
        )

    def _save(self, tuner: FineTuner) -> None:
        path = self._folder / "checkpoint.safetensors"
        temporary = path.with_name(".checkpoint.safetensors")
        tensors = {name: tensor.detach().contiguous() for name, tensor in tuner.state_dict().items()}
        save_file(tensors, temporary, {"progress": json.dumps(vars(self.progress))})
        temporary.replace(path)
        self._good, self._since_good = tensors, []

    def _restore(self) -> None:
        path = self._folder / "checkpoint.safetensors"
        if path.is_file():
            self._go_on(path)
        seen = set(self.progress.episodes)  # the checkpoint's buffer may be older than the store
        for transition in self.store.replay():
            one = self._assembler.add(transition) if transition.phase in LEARNED_FROM else None
            if one is not None and one.key not in seen:
                self._ready.put(one)
        if self.store.stored:
            log.info(
                "restored %d transitions, %d updates; %d episodes are new to the model",
                self.store.stored, self.progress.updates, self._ready.qsize(),
            )  # fmt: skip

    def _go_on(self, path: Path) -> None:
        """Continue the checkpoint."""
        try:
            with safe_open(path, framework="pt") as file:
                saved = json.loads(file.metadata()["progress"])
                tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.progress = Progress(**saved)
            self.progress.considered = (int(saved["considered"][0]), int(saved["considered"][1]))
            self.progress.episodes = [(robot, epoch, number) for robot, epoch, number in saved["episodes"]]
            self._tuner = self._new_tuner()
            self._tuner.load_state_dict(tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} cannot be read, or is of another version: {error}; remove it to train anew from the store"
            ) from error
        self._good, self._settled = tensors, self.progress.considered
