"""`simpl skills`: how good the skills of a run are, before anything is learned on top of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from simpl_core.domains import DomainName
from simpl_core.errors import ConfigError, EnvironmentMissingError

if TYPE_CHECKING:
    from simpl_core.checkpoint import Models
    from simpl_core.dataset import Demonstrations
    from simpl_core.domains import Domain
    from simpl_core.episode import Episode
    from simpl_core.skills_report import HeldOut, Rate, Tally

REPORT, BARS, PICTURE = "report.json", "report.png", "prior.png"


@dataclass(frozen=True)
class Skills:
    """Measure phase 1 on held-out demonstrations: fit, replays of them, and rollouts of the skill prior.

    A replay begins where a demonstration begins, encodes it window by window and lets the decoder act on the means.
    What it achieves of what the demonstration achieved is what the skills can express; what the prior's rollouts
    achieve is what phase 2 starts from.

    Example: simpl skills runs/skills --data ~/demos.hdf5
    """

    models: Positional[Path]
    """Run folder of phase 1 or 2."""
    data: str
    """Demonstrations, path or name as for `simpl train skills`: those that the run was trained on, of which its
    held-out episodes are taken, or others, which are all taken."""
    domain: DomainName = "kitchen"
    """Where they were made."""
    tasks: tuple[str, ...] = ()
    """As for `simpl rollout`: a maze other than the paper's is named by them."""
    replays: int = 40
    """Demonstrations to replay, at most."""
    episodes: int = 40
    """Rollouts of the prior."""
    noise: float = 1.0
    """Factor on the sensor noise; 1 is the original environment's."""
    seed: int = 0
    """Of skills and noise."""
    threads: int = 2
    """Threads for the physics."""
    out: Path | None = None
    """Folder for report.json, report.png and prior.png. None: `report` in the run's."""

    def run(self) -> int:
        from simpl_core.checkpoint import build_models, load_checkpoint
        from simpl_core.dataset import locate, open_demonstrations
        from simpl_core.domains import domain
        from simpl_core.skills_report import held_out, measure_fit

        if min(self.replays, self.episodes) < 1:
            raise ConfigError(f"replays and episodes must be at least 1, got {self.replays} and {self.episodes}")
        where, checkpoint = domain(self.domain), load_checkpoint(self.models)
        models = build_models(checkpoint, str(self.models))
        where.check(models.skills_config.state_dim, self.models)
        data = open_demonstrations(locate(self.data), models.skills_config.state_dim)
        aside = held_out(models.skills_config, checkpoint.provenance, data)
        fit = measure_fit(models, data, aside.episodes)
        tallies, episodes, tasks = self._play(where, models, data, aside)
        self._write(where, data, aside, fit, tallies)
        print("\n".join(_fit_lines(data, aside, fit) + _tally_lines(tallies)))
        self._draw(where, episodes, tasks, tallies)
        return 0

    def _play(
        self, where: Domain, models: Models, data: Demonstrations, aside: HeldOut
    ) -> tuple[dict[str, Tally], list[Episode], list[Any]]:
        """What demonstrations, replays and rollouts achieve; the rollouts and their tasks."""
        from simpl_core.metrics import progress_bar
        from simpl_core.rollout import RolloutJob, SkillActor, collect, follow_prior
        from simpl_core.skills_report import replay_jobs, replayed_states, tally

        horizon = models.skills_config.horizon
        shown = [int(episode) for episode in aside.episodes if data.lengths[episode] >= horizon][: self.replays]
        choice = where.tasks(self.tasks, where.target) if self.tasks else where.undirected
        tasks = [choice[index % len(choice)] for index in range(self.episodes)]
        jobs = replay_jobs(models, data, shown, lambda states: where.retrace(states, choice[0]), self.seed)
        jobs += [RolloutJob(task, seed=self.seed + index) for index, task in enumerate(tasks)]
        actor = SkillActor(models.skill_decoder, models.skill_prior, [follow_prior], horizon)
        env = where.make_env(min(len(jobs), 32), self.threads, self.noise)
        try:
            with progress_bar(len(jobs), "episodes") as bar:
                made = collect(env, actor, jobs, lambda _: bar.advance())
        finally:
            env.close()
        names, replays, free = where.achievements, made[: len(shown)], made[len(shown) :]
        wanted, again = [], []
        for number, job, episode in zip(shown, jobs, replays, strict=False):
            states = replayed_states(data, number, horizon)
            if not episode.terminated:  # the clock may have ended it before the demonstration's own end
                states = states[: len(episode.observations)]
            wanted.append(set(where.achieved(states, job.task)))
            again.append(set(where.achieved(episode.observations, job.task)) & wanted[-1])
        found = [set(where.achieved(episode.observations, task)) for episode, task in zip(free, tasks, strict=True)]
        kinds = {"demonstrations": wanted, "replayed": again, "prior": found}
        return {kind: tally(each, names) for kind, each in kinds.items()}, free, tasks

    @property
    def _folder(self) -> Path:
        return self.out or self.models / "report"

    def _write(
        self, where: Domain, data: Demonstrations, aside: HeldOut, fit: dict[str, float], tallies: dict[str, Tally]
    ) -> None:
        from simpl_core.checkpoint import write_atomically
        from simpl_core.provenance import provenance

        report = {
            "held_out": {"episodes": len(aside.episodes), "seen_by_earlier_runs": aside.seen, **fit},
            "achieved": {kind: found._asdict() for kind, found in tallies.items()},
            "domain": where.name,
            "data_sha256": data.sha256,
            **provenance(seed=self.seed, noise=self.noise),
        }
        write_atomically(self._folder / REPORT, (json.dumps(report, indent=2) + "\n").encode())

    def _draw(
        self, where: Domain, episodes: Sequence[Episode], tasks: Sequence[Any], tallies: dict[str, Tally]
    ) -> None:
        from simpl_core.plots_skills import achievement_bars

        groups = {f"{kind} ({found.episodes})": found.each for kind, found in tallies.items()}
        achievement_bars(where.achievements, groups, self._folder / BARS, f"{self.models.name}: skills")
        written = [REPORT, BARS]
        try:
            where.draw(episodes, tasks, self._folder / PICTURE)
            written.append(PICTURE)
        except EnvironmentMissingError as error:
            print(f"no {PICTURE}: {error}")
        print(f"{', '.join(written)} in {self._folder}")


def _fit_lines(data: Demonstrations, aside: HeldOut, fit: dict[str, float]) -> list[str]:
    seen = f", {aside.seen} of which an earlier run was trained on" if aside.seen else ""
    error = (2.0 * fit["reconstruction"]) ** 0.5
    return [
        f"{len(aside.episodes)} held-out episodes of {data.origin}{seen}; {fit['windows']:.0f} windows",
        f"  reconstruction, 1/2 (a - a')^2   {fit['reconstruction']:8.5f}   (error of an action: {error:.3f})",
        f"  KL(q || N(0, I))                 {fit['divergence']:8.2f} nat",
        f"  KL(q || p)                       {fit['prior_divergence']:8.2f} nat",
        f"  log p(z | s), z ~ q              {fit['prior_log_likelihood']:8.2f} nat",
    ]


def _tally_lines(tallies: dict[str, Tally]) -> list[str]:
    lines = ["in an episode         " + "".join(f"{f'{kind} ({t.episodes})':>24}" for kind, t in tallies.items())]
    for name in next(iter(tallies.values())).each:
        lines.append(f"  {name:20}" + "".join(_cell(found.each[name]) for found in tallies.values()))
    return [*lines, f"  {'together':20}" + "".join(_cell(found.together) for found in tallies.values())]


def _cell(value: Rate) -> str:
    mean, error = value
    return f"{f'{mean:.2f}' if error is None else f'{mean:.2f} +- {error:.2f}':>24}"
