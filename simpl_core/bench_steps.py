"""Gradient steps of phases 2 and 3 beside plain ones, on made-up transitions and fresh networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from simpl_core.agents.simpl import Experience, SimplAgent
from simpl_core.agents.spirl import SpirlAgent, Start
from simpl_core.bench import OURS, Comparison, load_baseline, relative_difference, take_turns
from simpl_core.checkpoint import skill_networks
from simpl_core.config import AdaptConfig, MetaConfig, SkillsConfig
from simpl_core.episode import SkillSteps
from simpl_core.networks import CriticEnsemble, SkillPolicy

TOLERANCE = 1e-3
"""Of losses, divergences and weights over three steps and of the first step's gradients: the same sums, in another
order. With every step Adam makes more of such rounding."""
CHECKED_STEPS = 3
ACTION_DIM = 2  # of the decoder, which takes no part
EPISODE = 28
"""Skill transitions of a made-up episode."""
MOST_PER_TASK = 3000
"""Made-up transitions; buffers that hold more are not filled, which a step does not notice."""


@dataclass(frozen=True)
class MetaSetting:
    """A step of phase 2: sizes of the networks of phase 1, settings, training tasks."""

    name: str
    skills: SkillsConfig
    config: MetaConfig
    tasks: int


class _Plain(Protocol):
    def step(self) -> dict[str, float]: ...


def compare_meta(setting: MetaSetting, repeats: int) -> Comparison:
    """Our step of phase 2 and the plain one."""
    agent = meta_agent(setting)
    baseline = load_baseline("plain_meta").PlainMeta(agent)
    networks = {"encoder's gradient": "encoder", "policy's gradient": "policy"}
    differences = _differences(agent, baseline, networks)
    return take_turns(setting.name, "gradient step", _steps(agent, baseline), repeats, (differences, TOLERANCE))


def compare_finetuning(name: str, skills: SkillsConfig, config: AdaptConfig, e_dim: int, repeats: int) -> Comparison:
    """Our step of phase 3 and the plain one."""
    agent = finetuning_agent(skills, config, e_dim)
    baseline = load_baseline("plain_finetune").PlainFineTuning(agent)
    differences = _differences(agent, baseline, {"policy's gradient": "policy"})
    return take_turns(name, "gradient step", _steps(agent, baseline, 20), repeats, (differences, TOLERANCE))


def _steps(agent: SimplAgent | SpirlAgent, baseline: _Plain, count: int = 1) -> dict[str, Callable[[], int]]:
    def ours() -> int:
        agent.update(count)
        return count

    def plain() -> int:
        for _ in range(count):
            baseline.step()
        return count

    return {OURS: ours, "plain": plain}


def _differences(agent: Any, baseline: Any, networks: dict[str, str]) -> dict[str, float]:
    """Of metrics over some steps, and of gradients in the first: by what was compared."""
    found = {"metrics": 0.0}
    for number in range(CHECKED_STEPS):
        ours, theirs = agent.update(1), baseline.step()
        if ours.keys() != theirs.keys():
            return {f"metrics only one of them has: {', '.join(sorted(ours.keys() ^ theirs.keys()))}": float("inf")}
        apart = [relative_difference(ours[name], theirs[name]) for name in ours]
        found["metrics"] = float(np.max([found["metrics"], *apart]))  # unlike max() it keeps what is not a number
        if number == 0:
            found |= {what: _gradients_apart(getattr(agent, n), getattr(baseline, n)) for what, n in networks.items()}
    return found


def _gradients_apart(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """|g - g'| / |g'| over all parameters of two networks."""
    others = dict(theirs.named_parameters())
    pairs = [(p.grad, others[name].grad) for name, p in ours.named_parameters() if p.grad is not None]
    one, other = (torch.cat([grad.flatten() for grad in side if grad is not None]) for side in zip(*pairs, strict=True))
    return float((one - other).norm() / other.norm())


def meta_agent(setting: MetaSetting, seed: int = 0) -> SimplAgent:
    """An agent whose buffers hold made-up transitions."""
    torch.manual_seed(seed)
    prior = skill_networks(setting.skills, ACTION_DIM).prior.eval()
    agent, config = SimplAgent(setting.config, prior, setting.tasks, seed), setting.config
    for task in range(setting.tasks):
        rng = np.random.default_rng([seed, task])
        for size, replay in ((config.buffer_size, True), (config.encoder_buffer_size, False)):
            steps = _transitions(setting.skills, min(size, MOST_PER_TASK), rng)
            agent.add_all([Experience(task, steps, replay, not replay)])
    return agent


def finetuning_agent(skills: SkillsConfig, config: AdaptConfig, e_dim: int, seed: int = 0) -> SpirlAgent:
    """An agent with twenty made-up episodes, as after conditioning, or a batch if that is more."""
    torch.manual_seed(seed)
    prior = skill_networks(skills, ACTION_DIM).prior.eval()
    sizes = (skills.state_dim, skills.z_dim, e_dim, config.hidden, config.layers)
    start = Start(SkillPolicy(prior, *sizes), CriticEnsemble(*sizes, config.critics), 0.03)
    rng = np.random.default_rng(seed)
    agent = SpirlAgent(start, config, rng.standard_normal(e_dim, dtype=np.float32), seed)
    agent.add(_transitions(skills, max(20 * EPISODE, config.batch_size), rng))
    return agent


def _transitions(skills: SkillsConfig, count: int, rng: np.random.Generator) -> SkillSteps:
    """`count` made-up transitions, a tenth of them rewarded."""

    def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.standard_normal(shape, dtype=np.float32)

    states, z = normal(count, skills.state_dim), normal(count, skills.z_dim)
    rewards = (rng.random(count) < 0.1).astype(np.float32)
    dones = (rng.random(count) < 1.0 / EPISODE).astype(np.float32)
    return SkillSteps(states, z, rewards, dones, normal(count, skills.state_dim))
