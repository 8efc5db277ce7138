"""A domain small enough to learn in seconds: an action pays when it points where the task says.

States are (x, y, time), actions and skills are (dx, dy); the decoder plays the skill as it is, the prior is N(0, I).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from simpl_core.checkpoint import Models, load_models, named_tensors, save_checkpoint
from simpl_core.config import MetaConfig, SkillsConfig
from simpl_core.networks import SkillDecoder, SkillEncoder, SkillPrior

STATE, ACTION, SKILL = 3, 2, 2
STEPS, HORIZON = 8, 2
SKILLS = SkillsConfig(horizon=HORIZON, state_dim=STATE, z_dim=SKILL, hidden=32, decoder_middle=1, prior_middle=1)
META = MetaConfig(
    hidden=32,
    layers=2,
    e_dim=2,
    encoder_hidden=16,
    delta_1=0.5,
    alpha_1=0.1,
    tasks_small=2,
    tasks_large=6,
    context_small=2,
    context_large=16,
    batch_size=16,
    buffer_size=200,
    encoder_buffer_size=200,
    reuse=16.0,
    epochs=4,
    learning_rate=3e-3,
    tau=0.05,
    checkpoint_every=1,
)


@dataclass(frozen=True)
class Direction:
    """Task: move along this angle [rad]."""

    angle: float

    def __str__(self) -> str:
        return f"angle {self.angle:.2f}"

    @property
    def vector(self) -> np.ndarray:
        return np.array([np.cos(self.angle), np.sin(self.angle)])


TASKS = [Direction(angle) for angle in (0.0, np.pi / 2, np.pi, 3 * np.pi / 2)]


@dataclass
class ToyStep:
    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class ToyEnv:
    """SlotEnv: reward 1 for a step whose action has a component above 0.5 along the task; `ends` ends at once then."""

    observation_size, action_size = STATE, ACTION

    def __init__(self, num_slots: int, noise: float = 0.0, ends: bool = False) -> None:
        self.num_slots, self.noise, self.ends = num_slots, noise, ends
        self._slots: dict[int, list] = {}
        self.resets: list[tuple[int, str, int]] = []
        self.closed = False

    def reset(self, slot: int, task: Direction, seed: int) -> np.ndarray:
        self._slots[slot] = [task, np.random.default_rng(seed), np.zeros(2), 0]
        self.resets.append((slot, str(task), seed))
        return self._observe(slot)

    def place(self, slot: int, state: np.ndarray) -> np.ndarray:
        self._slots[slot][2] = np.asarray(state[:2], float)
        return self._observe(slot)

    def step(self, slots: np.ndarray, actions: np.ndarray) -> ToyStep:
        rewards, terminated, truncated = [], [], []
        for slot, action in zip(slots, actions, strict=True):
            episode = self._slots[slot]
            paid = float(action @ episode[0].vector > 0.5)
            episode[2] = episode[2] + 0.1 * action
            episode[3] += 1
            rewards.append(paid)
            terminated.append(bool(self.ends and paid))
            truncated.append(episode[3] >= STEPS)
        observations = np.stack([self._observe(slot) for slot in slots])
        return ToyStep(observations, np.array(rewards), np.array(terminated), np.array(truncated))

    def close(self) -> None:
        self.closed = True

    def _observe(self, slot: int) -> np.ndarray:
        _, rng, position, time = self._slots[slot]
        return np.append(position + self.noise * rng.standard_normal(2), time / STEPS).astype(np.float32)


class PlaySkill(nn.Module):
    """A decoder that plays the skill."""

    def decode(self, states: Tensor, z: Tensor) -> Tensor:
        return z.unsqueeze(1).expand(-1, states.shape[1], -1)


def unit_prior() -> SkillPrior:
    """N(0, I) in every state."""
    prior = SkillPrior(STATE, SKILL, SKILLS.hidden, SKILLS.prior_middle)
    for parameter in prior.net[-1].parameters():
        nn.init.zeros_(parameter)
    return prior.eval()


def toy_models() -> Models:
    """Phase 1 as if learned."""
    torch.manual_seed(0)
    encoder = SkillEncoder(STATE, ACTION, SKILL, SKILLS.hidden)
    return Models(SKILLS, ACTION, encoder, PlaySkill(), unit_prior())


def toy_skills_run(folder: Path) -> Path:
    """A finished run of phase 1 with a random decoder."""
    torch.manual_seed(0)
    tensors = named_tensors(
        skill_encoder=SkillEncoder(STATE, ACTION, SKILL, SKILLS.hidden),
        skill_decoder=SkillDecoder(STATE, ACTION, SKILL, SKILLS.hidden, SKILLS.decoder_middle),
        skill_prior=unit_prior(),
    )
    save_checkpoint(folder, tensors, {"skills": dataclasses.asdict(SKILLS), "action_dim": ACTION}, {})
    return folder


def meta_run(folder: Path) -> Path:
    """A run of phase 2 with random networks, two epochs trained."""
    from simpl_core import meta_train

    config = dataclasses.replace(META, epochs=2)
    return meta_train.run(config, toy_skills_run(folder / "skills"), lambda: ToyEnv(4), TASKS, folder / "meta")


def load_toy_models(run: Path) -> Models:
    """Its networks on top of a decoder that plays the skill."""
    return dataclasses.replace(load_models(run), skill_decoder=PlaySkill())


def meta_models(folder: Path) -> Models:
    """Phase 2 as if learned."""
    return load_toy_models(meta_run(folder))
