"""Phase 2: meta-training over a set of tasks (SiMPL Sec. 4.2), one loop for any environment with slots.

An epoch makes two episodes per task, one with e from the prior N(0, I) and one with e ~ q(e | context), and then
takes as many gradient steps as the new transitions allow. Episodes with e from the prior are all that contexts hold,
because they are all that a new task can offer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpl_core.agents.simpl import Experience, SimplAgent
from simpl_core.checkpoint import Models, load_checkpoint, load_models, named_tensors, save_checkpoint
from simpl_core.config import MetaConfig
from simpl_core.episode import Episode, Float32, to_skill_steps
from simpl_core.errors import ConfigError
from simpl_core.learner import keep_freed_memory
from simpl_core.metrics import MetricsWriter, peak_memory, progress_bar
from simpl_core.provenance import provenance
from simpl_core.resume import load_resume, save_resume, sole_writer
from simpl_core.rollout import RolloutJob, SkillActor, SlotEnv, collect
from simpl_core.training_report import draw

PRIOR, POSTERIOR = "prior", "posterior"
PICTURES_EVERY = 600.0
"""Between two drawings of a run under way [s], made when its state is saved; `simpl plot` draws at any time."""


class MetaTrainer:
    """The agent, its environment and how far training has come."""

    def __init__(
        self, config: MetaConfig, models: Models, env: SlotEnv, tasks: Sequence[Any], *, seed: int = 0
    ) -> None:
        """`models` of phase 1, on whose device the agent computes; `tasks` are what `env` is reset to."""
        if not tasks:
            raise ConfigError("meta-training needs at least one task, got none")
        self.config, self.tasks, self.seed = config, list(tasks), seed
        self.agent = SimplAgent(config, models.skill_prior, len(self.tasks), seed, models.device)
        horizon = models.skills_config.horizon
        self._actor = SkillActor(models.skill_decoder, models.skill_prior, [self.agent.act], horizon)
        self._env = env
        self._judge = judge_of(env) if config.share_episodes else None
        self._rounds = 0  # of episodes, warm-up included: seeds are drawn from it
        self.epoch = 0

    @property
    def missing(self) -> tuple[list[int], list[int]]:
        """Tasks whose contexts, and tasks whose replay, are too small to train on."""
        contexts, replay = self.agent.contexts.sizes.tolist(), self.agent.own.sizes.tolist()
        return (
            [task for task, size in enumerate(contexts) if size < self.config.context_large],
            [task for task, size in enumerate(replay) if size < self.config.batch_size],
        )

    def warm_up_round(self) -> None:
        """One episode for each task that lacks data: for contexts with e from the prior, then for replay."""
        contexts, replay = self.missing
        if contexts:
            self._collect(contexts, PRIOR, replay=False)
        else:
            self._collect(replay, POSTERIOR, replay=True)

    def train_epoch(self) -> dict[str, float]:
        """Two episodes per task and the gradient steps they pay for; returns metrics."""
        began = time.monotonic()
        every = list(range(len(self.tasks)))
        before = self._collect(every, PRIOR, replay=True)
        after = self._collect(every, POSTERIOR, replay=True)
        collected = time.monotonic()
        metrics = self.agent.update(self.steps_for(sum(len(episode.skills) for episode in before + after)))
        self.epoch += 1
        metrics["seconds/rollout"] = collected - began
        metrics["seconds/gradient"] = time.monotonic() - collected
        metrics["memory/peak_mb"] = peak_memory()
        return metrics | self._returns(before, "prior") | self._returns(after, "posterior")

    def steps_for(self, transitions: int) -> int:
        """Gradient steps that `transitions` new skill transitions allow."""
        config = self.config
        return max(1, int(config.reuse * transitions / (config.tasks_small + config.tasks_large) / config.batch_size))

    def _collect(self, tasks: Sequence[int], kind: str, *, replay: bool) -> list[Episode]:
        seeds = np.random.SeedSequence([self.seed, self._rounds]).generate_state(len(self.tasks))
        embeddings = [self._embedding(task, kind) for task in tasks]
        jobs = [
            RolloutJob(self.tasks[task], e, int(seeds[task]), label=kind)
            for task, e in zip(tasks, embeddings, strict=True)
        ]
        episodes = collect(self._env, self._actor, jobs)
        experience: list[Experience] = []
        for task, episode in zip(tasks, episodes, strict=True):
            experience.append(Experience(task, to_skill_steps(episode), replay, kind == PRIOR))
            if self._judge is not None:
                experience += self._shared(task, episode, self._judge, replay=replay, context=kind == PRIOR)
        self.agent.add_all(experience)
        self._rounds += 1
        return episodes

    def _shared(
        self, source: int, episode: Episode, judge: Judge, *, replay: bool, context: bool
    ) -> Iterator[Experience]:
        """`episode` for the other tasks: for contexts as it is, for replay where it earns no less, but something."""
        for task in range(len(self.tasks)):
            if task == source:
                continue
            judged = judge(episode, self.tasks[task])
            earns = judged.score >= max(episode.score, 1.0)
            yield Experience(task, to_skill_steps(judged), replay and earns, context, own=False)

    def _embedding(self, task: int, kind: str) -> Float32:
        if kind == PRIOR:
            rng = np.random.default_rng([self.seed, self._rounds, task])
            return rng.standard_normal(self.config.e_dim, dtype=np.float32)
        return self.agent.embed(task).numpy()

    def _returns(self, episodes: Sequence[Episode], kind: str) -> dict[str, float]:
        scores = [episode.score for episode in episodes]
        per_task = {f"return_{kind}/{i:02d} {self.tasks[i]}": score for i, score in enumerate(scores)}
        return {f"return/{kind}": float(np.mean(scores)), **per_task}

    def state_dict(self) -> dict[str, Tensor]:
        """Agent and progress as flat tensors."""
        return self.agent.state_dict() | {"progress": torch.tensor([self.epoch, self._rounds])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`'s answer."""
        self.agent.load_state_dict(state)
        self.epoch, self._rounds = state["progress"].tolist()


Judge = Callable[[Episode, Any], Episode]
"""An episode as another task would have rewarded and ended it."""


def judge_of(env: SlotEnv) -> Judge:
    """`env.judge`.

    Raises:
        ConfigError: it has none.
    """
    judge: Judge | None = getattr(env, "judge", None)
    if judge is None:
        raise ConfigError(f"share_episodes needs an environment that judges episodes; {type(env).__name__} does not")
    return judge


def run(
    config: MetaConfig,
    skills_run: Path,
    make_env: Callable[[], SlotEnv],
    tasks: Sequence[Any],
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Meta-train on top of the skills in `skills_run`, into the folder `out`; gradient steps are taken on `device`.

    A run that was killed goes on where its last state was saved, to the same result, be it on another device.

    Returns:
        `out`, holding weights.safetensors (skills included), config.json, provenance.json and metrics.csv.

    Raises:
        CheckpointError: `skills_run` is no finished run, or `out` holds the state of one with other settings.
        ConfigError: no tasks, or a buffer smaller than an episode.
        KeyboardInterrupt: after the state was saved.
    """
    models = load_models(skills_run, device)
    skills_sha = hashlib.sha256((skills_run / "weights.safetensors").read_bytes()).hexdigest()
    identity = {
        "stage": "meta",
        "seed": seed,
        "skills": skills_sha,
        "tasks": [str(task) for task in tasks],
        "meta": _settings(config),
    }
    _check_sizes(config)
    keep_freed_memory()
    with sole_writer(out):
        state = load_resume(out, identity)
        env = make_env()
        try:
            trainer = MetaTrainer(config, models, env, tasks, seed=seed)
            if state is not None:
                trainer.load_state_dict(state)
            _train(trainer, out, identity, skills_run)
        finally:
            env.close()
    return out


def _settings(config: MetaConfig) -> dict[str, Any]:
    """Settings that make a run another one."""
    values = dataclasses.asdict(config)
    del values["epochs"]  # a run may be made longer or shorter while it is under way
    later = {"precision": "float32", "bound_targets": False}  # states saved before there was a choice do not name it
    return {name: value for name, value in values.items() if (name, value) not in later.items()}


def _check_sizes(config: MetaConfig) -> None:
    if config.context_large > config.encoder_buffer_size or config.batch_size > config.buffer_size:
        raise ConfigError(
            f"context_large {config.context_large} and batch_size {config.batch_size} must fit into "
            f"encoder_buffer_size {config.encoder_buffer_size} and buffer_size {config.buffer_size}"
        )
    if not 0 <= config.tasks_mixed <= config.tasks_large:
        raise ConfigError(f"tasks_mixed are some of tasks_large {config.tasks_large}, got {config.tasks_mixed}")
    if not 0.0 <= config.own_fraction <= 1.0:
        raise ConfigError(f"own_fraction is a part of each batch, from 0 to 1, got {config.own_fraction}")


def _train(trainer: MetaTrainer, out: Path, identity: dict[str, Any], skills_run: Path) -> None:
    """Warm-up and epochs; an interrupt saves the state after the last whole round, which `safe` holds."""
    safe, drawn = trainer.state_dict(), time.monotonic()
    writer = MetricsWriter(out, trainer.epoch)
    try:
        for state in _warm_up(trainer):
            safe = state
        if trainer.epoch == 0:
            save_resume(out, identity, safe)
        with progress_bar(trainer.config.epochs, "meta-training", trainer.epoch) as bar:
            while trainer.epoch < trainer.config.epochs:
                metrics = trainer.train_epoch()
                safe = trainer.state_dict()
                writer.write(trainer.epoch, metrics)
                bar.advance(1, f"return {metrics['return/prior']:.2f} -> {metrics['return/posterior']:.2f}")
                if trainer.epoch % trainer.config.checkpoint_every == 0:
                    save_resume(out, identity, safe)
                    _save(trainer, out, identity, skills_run)
                    if time.monotonic() - drawn > PICTURES_EVERY:
                        draw(out, out)
                        drawn = time.monotonic()
    except KeyboardInterrupt:
        save_resume(out, identity, safe)
        raise
    finally:
        writer.close()
    save_resume(out, identity, safe)
    _save(trainer, out, identity, skills_run)


def _warm_up(trainer: MetaTrainer) -> Iterator[dict[str, Tensor]]:
    """The state after each of its rounds; the last one's comes when nothing is left to do."""
    config, agent, count = trainer.config, trainer.agent, len(trainer.tasks)

    def done() -> int:
        contexts = agent.contexts.sizes.clamp(max=config.context_large).sum()
        return int(contexts + agent.own.sizes.clamp(max=config.batch_size).sum())

    total = count * (config.context_large + config.batch_size)
    if not any(trainer.missing):
        return
    with progress_bar(total, "warm-up (skill transitions)", done()) as bar:
        shown = done()
        while any(trainer.missing):
            trainer.warm_up_round()
            bar.advance(done() - shown)
            shown = done()
            if any(trainer.missing):
                yield trainer.state_dict()
    if config.standardise:
        agent.standardise()
    yield trainer.state_dict()


def _save(trainer: MetaTrainer, out: Path, identity: dict[str, Any], skills_run: Path) -> None:
    """The run's checkpoint, self-contained: the skills it stands on are in it."""
    skills = load_checkpoint(skills_run)
    agent = trainer.agent
    tensors = named_tensors(
        skill_policy=agent.policy,
        critics=agent.critics,
        target_critics=agent.target_critics,
        task_encoder=agent.encoder,
    )
    own = {name: tensor for name, tensor in skills.tensors.items() if name.split(".")[0].startswith("skill_")}
    state = {"alpha_1": float(agent.alpha_1.values), "alpha_2": float(agent.alpha_2.values), "epoch": trainer.epoch}
    meta = dataclasses.asdict(trainer.config)
    config = {key: skills.config[key] for key in ("skills", "action_dim")} | {"meta": meta, "state": state}
    origin = provenance(
        seed=identity["seed"],
        tasks=identity["tasks"],
        epochs=trainer.epoch,
        skills_sha256=identity["skills"],
        skills=skills.provenance,
    )
    save_checkpoint(out, own | tensors, config, origin)
