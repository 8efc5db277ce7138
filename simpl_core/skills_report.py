"""Phase 1 measured on episodes that it was not trained on: fit, replays of demonstrations, and what is achieved.

A replay begins where a demonstration begins. The encoder reads the demonstration window by window, and the decoder acts
on the posteriors' means in the real environment: what a skill space keeps of a demonstration, without the prior's part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from simpl_core.checkpoint import Models, SkillNetworks
from simpl_core.config import SkillsConfig
from simpl_core.dataset import Demonstrations
from simpl_core.episode import Float32
from simpl_core.rollout import RolloutJob
from simpl_core.skills import fit
from simpl_core.windows import Windows, split_episodes

MOST_WINDOWS = 4096
"""Windows, evenly spread, on which the fit is measured."""


class HeldOut(NamedTuple):
    """Episodes to measure on.

    Attributes:
        episodes: (E,) int64, by number.
        seen: how many of them an earlier run, whose networks this one went on from, was trained on.
    """

    episodes: NDArray[np.int64]
    seen: int


def held_out(config: SkillsConfig, provenance: Mapping[str, Any], data: Demonstrations) -> HeldOut:
    """The episodes of `data` that a run kept aside, or all of them if it was trained on other data.

    Args:
        config: of phase 1.
        provenance: of a run of phase 1, or of phase 2, which has that of its skills in it.
        data: demonstrations.
    """
    run: Mapping[str, Any] | None = provenance.get("skills", provenance)
    lineage: list[Mapping[str, Any]] = []
    while run:
        lineage.append(run)
        run = run.get("parent")
    splits = [
        split_episodes(len(data.lengths), config.held_out_fraction, int(run["seed"]))
        if run.get("data_sha256") == data.sha256
        else (np.empty(0, np.int64), np.arange(len(data.lengths)))
        for run in lineage
    ]
    own = splits[0][1] if splits else np.arange(len(data.lengths))
    earlier = {int(episode) for training, _ in splits[1:] for episode in training}
    return HeldOut(own, sum(int(episode) in earlier for episode in own))


def measure_fit(models: Models, data: Demonstrations, episodes: NDArray[np.int64]) -> dict[str, float]:
    """How the networks fit the windows of `episodes`: see `skills.fit`, with both divergences in nat per skill.

    Raises:
        DatasetError: no episode holds a window.
    """
    config = models.skills_config
    starts = torch.from_numpy(data.window_starts(config.horizon, episodes))
    starts = starts[:: -(-len(starts) // MOST_WINDOWS)]
    rows = starts[:, None] + torch.arange(config.horizon)
    states, actions = torch.from_numpy(data.states)[rows], torch.from_numpy(data.actions)[rows]
    windows = Windows(states, actions, states[:, 0], states, actions)
    values = fit(SkillNetworks(models.skill_encoder, models.skill_decoder, models.skill_prior), windows)
    return {"windows": float(len(starts)), **values, "divergence": values["divergence"] * config.z_dim}


def replayed_states(data: Demonstrations, episode: int, horizon: int) -> Float32:
    """States of a demonstration as far as whole windows of `horizon` steps cover it, and the next if there is one."""
    first, end = data.bounds[episode], data.bounds[episode + 1]
    steps = (end - first) // horizon * horizon
    return data.states[first : min(first + steps + 1, end)]


@torch.no_grad()
def replay_jobs(
    models: Models, data: Demonstrations, episodes: Sequence[int], task_of: Callable[[Float32], Any], seed: int
) -> list[RolloutJob]:
    """Episodes that replay demonstrations through encoder and decoder.

    Args:
        models: of phase 1 or 2.
        data: demonstrations.
        episodes: which of them; each holds at least a window.
        task_of: states (T, S) -> the task under which they are replayed.
        seed: of the sensor noise.
    """
    horizon, jobs = models.skills_config.horizon, []
    for number, episode in enumerate(episodes):
        first = int(data.bounds[episode])
        count = int(data.lengths[episode]) // horizon
        rows = slice(first, first + count * horizon)
        states, actions = (
            torch.from_numpy(array[rows]).view(count, horizon, -1) for array in (data.states, data.actions)
        )
        z = models.skill_encoder(states, actions).mean.numpy()
        task = task_of(replayed_states(data, episode, horizon))
        job_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
        jobs.append(RolloutJob(task, seed=job_seed, label="replay", skills=z, start=data.states[first]))
    return jobs


Rate = tuple[float, float | None]
"""A mean and its standard error, which one value alone does not tell."""


class Tally(NamedTuple):
    """What episodes achieved: averages with their standard errors.

    Attributes:
        episodes: how many.
        together: achievements an episode.
        each: per name, the fraction of episodes in which it was achieved.
    """

    episodes: int
    together: Rate
    each: dict[str, Rate]


def tally(achieved: Sequence[Collection[str]], names: Sequence[str]) -> Tally:
    """Count `names` over episodes, of each of which `achieved` holds those it achieved; at least one episode."""
    table = np.array([[name in found for name in names] for found in achieved], np.float64)
    each = {name: _mean(column) for name, column in zip(names, table.T, strict=True)}
    return Tally(len(table), _mean(table.sum(1)), each)


def _mean(values: NDArray[np.float64]) -> Rate:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
