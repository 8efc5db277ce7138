"""`simpl bench`: how fast training, fine-tuning and rollouts are beside plain implementations, and that both agree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from tyro.conf import subcommand

from simpl_core.errors import ConfigError

if TYPE_CHECKING:
    from simpl_core.bench import Comparison
    from simpl_core.bench_steps import MetaSetting
    from simpl_core.config import MetaConfig


@dataclass(frozen=True)
class BenchSettings:
    """How to measure."""

    repeats: int = 7
    """Rounds in which the contenders take turns, after one that warms up."""
    threads: int = 2
    """Threads for arithmetic and physics; for rollouts also how many environments Gymnasium's have."""
    quick: bool = False
    """Smaller shapes, to see that it works; the ratios say less."""
    json: bool = False
    """Print JSON."""

    def begin(self) -> None:
        """Check the settings and compute with so many threads, as training does."""
        import torch

        from simpl_core.learner import keep_freed_memory

        if self.repeats < 1 or self.threads < 1:
            raise ConfigError(f"repeats and threads must be at least 1, got {self.repeats} and {self.threads}")
        torch.set_num_threads(self.threads)
        keep_freed_memory()

    def report(self, comparisons: Iterable[Comparison]) -> int:
        """Print them as they come; 1 if one of them found other numbers."""
        from simpl_core.bench import describe, machine, plain

        found = []
        if not self.json:
            print(", ".join(f"{name} {value}" for name, value in machine().items()))
        for comparison in comparisons:
            found.append(comparison)
            if not self.json:
                print("\n".join(describe(comparison)), flush=True)
        if self.json:
            print(json.dumps(plain(found), indent=2))
        return 0 if all(comparison.same for comparison in found) else 1


@dataclass(frozen=True)
class BenchTrain(BenchSettings):
    """A gradient step of phase 2 beside a plain one: a Python loop over tasks, contexts encoded one by one.

    kitchen and maze are the papers' shapes (30 tasks x 256, contexts of 2 and 1,024; 30 x 1,024, of 4 and 8,192), fast
    is the preset's. Exit code 1 if the two compute other numbers.

    Example: simpl bench train --shapes kitchen fast
    """

    shapes: tuple[Literal["kitchen", "maze", "fast", "maze-fast"], ...] = ("kitchen", "maze", "fast")
    """Which."""

    def run(self) -> int:
        from simpl_core.bench_steps import compare_meta

        self.begin()
        return self.report(compare_meta(_meta_setting(shape, self.quick), self.repeats) for shape in self.shapes)


@dataclass(frozen=True)
class BenchFinetune(BenchSettings):
    """A gradient step of phase 3 on one task (batch of 256) beside a plain one."""

    def run(self) -> int:
        from simpl_core.bench_steps import compare_finetuning
        from simpl_core.config import ADAPT_PRESETS, META_PRESETS, SKILLS_PRESETS, of_domain

        self.begin()

        def compare(domain: str) -> Comparison:
            preset = of_domain(domain, "official")
            adapt, e_dim = ADAPT_PRESETS[preset], META_PRESETS[preset].e_dim
            name = f"fine-tuning, {domain}: batch of {adapt.batch_size}"
            return compare_finetuning(name, SKILLS_PRESETS[preset], adapt, e_dim, self.repeats)

        return self.report(compare(domain) for domain in ("kitchen", "maze"))


@dataclass(frozen=True)
class BenchRollout(BenchSettings):
    """Rollouts of meta-training with policies in the loop beside Gymnasium's vector environments, one a core.

    Example: simpl bench rollout --domains kitchen --models export/bundles/kitchen/learner
    """

    domains: tuple[Literal["kitchen", "maze"], ...] = ("kitchen", "maze")
    """Where."""
    models: Path | None = None
    """Run folder of phase 2, for a single domain. None: untrained networks of the papers' sizes."""
    slots: int | None = None
    """Of our environment. None: as many as there are training tasks, or 4 with --quick."""

    def run(self) -> int:
        from simpl_core.bench_rollouts import RolloutSetting, compare_rollouts
        from simpl_core.checkpoint import load_models
        from simpl_core.domains import domain

        self.begin()
        if self.models is not None and len(self.domains) != 1:
            raise ConfigError(f"--models belong to one domain; name it with --domains, got {', '.join(self.domains)}")
        models = None if self.models is None else load_models(self.models)

        def compare(name: Literal["kitchen", "maze"]) -> Comparison:
            where = domain(name)
            slots = self.slots or (4 if self.quick else len(where.tasks((), where.training)))
            if models is not None and self.models is not None:
                where.check(models.skills_config.state_dim, self.models)
            return compare_rollouts(RolloutSetting(where, slots, self.threads, models), self.repeats)

        return self.report(map(compare, self.domains))


@dataclass(frozen=True)
class BenchScaling(BenchSettings):
    """Steps a second against the number of environments, cores, tasks and transitions in a context, with a picture.

    Cores are counted up to `--threads`.
    """

    out: Path = Path("runs/bench/scaling.png")
    """Picture to write."""

    def run(self) -> int:
        from simpl_core.bench import machine
        from simpl_core.bench_scaling import (
            as_table,
            context_curves,
            core_curves,
            environment_curves,
            powers,
            task_curves,
        )
        from simpl_core.domains import domain
        from simpl_core.plots_bench import scaling_picture

        self.begin()
        most = (4, 4, 128) if self.quick else (32, 30, 4096)
        places = [domain("kitchen"), domain("maze")]
        curves = [
            *environment_curves(places, powers(most[0]), self.threads, self.repeats),
            *core_curves(places[0], 4 if self.quick else 23, powers(self.threads), self.repeats),
            *task_curves(powers(most[1], 2), self.repeats),
            *context_curves(powers(most[2], 64), self.repeats),
        ]
        scaling_picture(curves, self.out)
        if self.json:
            print(json.dumps({"machine": machine(), "curves": [curve._asdict() for curve in curves]}, indent=2))
        else:
            print("\n".join([*as_table(curves), f"picture in {self.out}"]))
        return 0


def _meta_setting(shape: str, quick: bool) -> MetaSetting:
    from simpl_core.bench_steps import MetaSetting
    from simpl_core.config import META_PRESETS, SKILLS_PRESETS

    preset, skills, tasks = {
        "kitchen": ("official", "official", 23),
        "maze": ("maze-official", "maze-official", 40),
        "fast": ("fast", "official", 23),
        "maze-fast": ("maze-fast", "maze-official", 40),
    }[shape]
    config = _smaller(META_PRESETS[preset]) if quick else META_PRESETS[preset]
    count = config.tasks_small + config.tasks_large
    name = (
        f"meta-training, {shape}{', quick' if quick else ''}: {count} tasks x {config.batch_size}, "
        f"contexts of {config.context_small} and {config.context_large}"
    )
    name += f", {config.context_kept} of them read" if config.context_kept else ""
    return MetaSetting(name, SKILLS_PRESETS[skills], config, tasks)


def _smaller(config: MetaConfig) -> MetaConfig:
    large = min(config.context_large, 256)
    return replace(
        config,
        tasks_small=1,
        tasks_large=5,
        tasks_mixed=min(config.tasks_mixed, 2),
        context_large=large,
        batch_size=min(config.batch_size, 64),
        buffer_size=1000,
        encoder_buffer_size=1000,
    )


BENCHES: dict[str, Any] = {
    "train": BenchTrain,
    "finetune": BenchFinetune,
    "rollout": BenchRollout,
    "scaling": BenchScaling,
}


def bench_group(benches: Mapping[str, Any]) -> Any:
    """The command `simpl bench` with one subcommand for each of `benches`."""
    which: Any = Union[tuple(Annotated[bench, subcommand(name)] for name, bench in benches.items())]  # noqa: UP007  a tuple
    about = "Measure speed beside plain implementations, in turns, and that both compute the same."
    return make_dataclass(
        "Bench", [("which", which)], namespace={"__doc__": about, "run": lambda self: self.which.run()}, frozen=True
    )
