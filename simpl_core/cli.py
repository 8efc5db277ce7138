"""`simpl ...`: the composition root. Builds the environment, calls a stage, prints what came of it.

Heavy imports stay inside the commands, so that `simpl --help` is quick and a robot needs no torch.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from simpl_core.cli_bench import BENCHES, bench_group
from simpl_core.cli_collect import Collect
from simpl_core.cli_plot import Plot
from simpl_core.cli_reproduce import Reproduce
from simpl_core.cli_results import Results
from simpl_core.cli_rollout import Rollout
from simpl_core.cli_settings import Preset, Settings, changes
from simpl_core.cli_skills import Skills
from simpl_core.domains import DomainName
from simpl_core.errors import ConfigError, EnvironmentMissingError, SimplError


@dataclass(frozen=True)
class TrainSkills:
    """Phase 1: extract skills, skill decoder and skill prior from demonstrations.

    Example: simpl train skills ~/demos.hdf5 --out runs/skills --preset fast
    """

    data: Positional[str]
    """HDF5 file in D4RL's or Minari's layout, or a name of theirs: kitchen-mixed-v0, D4RL/kitchen/mixed-v2."""
    out: Path = Path("runs/skills")
    """Run folder; an unfinished run there goes on."""
    domain: DomainName = "kitchen"
    """Where the demonstrations were made."""
    preset: Preset = "official"
    """Named settings (see `simpl presets`)."""
    set: Settings = ()
    """Settings that differ from the preset, such as beta=1e-3."""
    parent: Path | None = None
    """Run folder whose networks are trained on, instead of fresh ones."""
    seed: int = 0
    """Seed of networks, batches and the held-out split."""
    device: str = "cpu"
    """What computes: cpu, cuda or cuda:N. Random numbers are the same on all, results equal but for rounding."""
    threads: int = 2
    """Threads for the arithmetic."""

    def run(self) -> int:
        from simpl_core import skills
        from simpl_core.config import SKILLS_PRESETS, preset
        from simpl_core.dataset import open_demonstrations
        from simpl_core.domains import domain

        where, device = domain(self.domain), _use(self.device, self.threads)
        config = preset(SKILLS_PRESETS, where.preset(self.preset), **changes(self.set))
        data = open_demonstrations(_locate(self.data), config.state_dim)
        start = skills.SkillsStart(self.seed, where.sensor_noise, self.parent, where.action_stride, device)
        skills.run(config, data, self.out, start)
        print(f"skills in {self.out}; next: simpl train meta {self.out}")
        return 0


@dataclass(frozen=True)
class TrainMeta:
    """Phase 2: meta-train task encoder, skill policy and critics across training tasks.

    Example: simpl train meta runs/skills --out runs/meta --preset fast
    """

    skills: Positional[Path]
    """Run folder of phase 1."""
    out: Path = Path("runs/meta")
    """Run folder; an unfinished run there goes on."""
    domain: DomainName = "kitchen"
    """Where to train."""
    tasks: tuple[str, ...] = ()
    """Training tasks: a family such as maze40, single tasks, or @FILE with one a line. None: the paper's."""
    preset: Preset = "official"
    """Named settings (see `simpl presets`)."""
    set: Settings = ()
    """Settings that differ from the preset, such as epochs=20."""
    seed: int = 0
    """Seed of networks, exploration and sensor noise."""
    device: str = "cpu"
    """What takes gradient steps: cpu, cuda or cuda:N. A run may go on on another."""
    threads: int = 2
    """Threads for arithmetic and physics."""

    def run(self) -> int:
        from simpl_core import meta_train
        from simpl_core.checkpoint import load_models
        from simpl_core.config import META_PRESETS, preset
        from simpl_core.domains import domain
        from simpl_core.rollout import SlotEnv
        from simpl_core.training_report import draw

        where, device = domain(self.domain), _use(self.device, self.threads)
        config = preset(META_PRESETS, where.preset(self.preset), **changes(self.set))
        where.check(load_models(self.skills).skills_config.state_dim, self.skills)
        tasks = where.tasks(self.tasks, where.training)

        def envs() -> SlotEnv:
            return where.make_env(len(tasks), self.threads, 1.0)

        meta_train.run(config, self.skills, envs, tasks, self.out, seed=self.seed, device=device)
        draw(self.out, self.out)
        print(f"meta-trained models and pictures in {self.out}; next: simpl export {self.out} -o BUNDLE")
        return 0


@dataclass(frozen=True)
class Train:
    """Train phase 1 (skills) or phase 2 (meta)."""

    stage: Annotated[TrainSkills, subcommand("skills")] | Annotated[TrainMeta, subcommand("meta")]

    def run(self) -> int:
        return self.stage.run()


@dataclass(frozen=True)
class Evaluate:
    """Phase 3 in simulation: adapt to each task, write scores per episode, a summary and a plot.

    Example: simpl evaluate runs/meta --method simpl --seeds 0 1 2 --out runs/evaluation
    """

    models: Positional[Path]
    """Run folder of phase 2 (or of phase 1, for spirl)."""
    method: Literal["simpl", "spirl"] = "simpl"
    """SiMPL (conditioned on the task, then fine-tuned) or SPiRL (from the skill prior alone)."""
    domain: DomainName = "kitchen"
    """Where to adapt."""
    tasks: tuple[str, ...] = ()
    """Tasks such as "kettle > microwave" or "8,2 in maze 20:0", families of them, or @FILE with one a line. None: ten
    unseen tasks, in the kitchen the paper's."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each task is adapted to once per seed."""
    preset: Preset | None = None
    """Named settings of phase 3 (see `simpl presets`). None: fast. SPiRL has one set, which `--set` changes."""
    set: Settings = ()
    """Settings that differ from the preset, such as episodes=30."""
    out: Path = Path("runs/evaluation")
    """Folder for CSV, summary and plot; what was done there is kept and gone on from."""
    workers: int | None = None
    """Processes, each with tasks and seeds of its own; the scores do not depend on it. None: one a core."""
    ray: str | None = None
    """Spread over a Ray cluster (extra `ray`) that this machine is part of: HOST:PORT of its head, or auto to find it;
    local to start one for this machine alone. Machines share no disk, but have the same packages. None: processes."""
    device: str = "cpu"
    """What takes gradient steps: cpu, cuda or cuda:N, shared by the processes."""
    scores: Path | None = None
    """Another place for the scores, named as simpl results reads them: docs/results/kitchen_simpl.csv."""

    def run(self) -> int:
        from simpl_core import evaluate
        from simpl_core.checkpoint import load_models
        from simpl_core.config import ADAPT_PRESETS, preset
        from simpl_core.domains import domain, make_env
        from simpl_core.learner import use_device
        from simpl_core.workers_ray import crew

        where, device = domain(self.domain), use_device(self.device)
        if self.method == "spirl" and self.preset is not None:
            raise ConfigError(f"there is one preset for spirl; --set changes it, --preset {self.preset} would not")
        name = where.preset("spirl" if self.method == "spirl" else self.preset or "fast")
        config = preset(ADAPT_PRESETS, name, **changes(self.set))
        tasks = where.tasks(self.tasks, where.target)
        models = load_models(self.models, device)
        where.check(models.skills_config.state_dim, self.models)
        # On a cluster the models travel with the work; here each process reads them.
        load = partial(load_models, self.models, device) if self.ray is None else partial(copy.deepcopy, models)
        measured = evaluate.Evaluation(load, partial(make_env, self.domain), self.method, config)
        with crew(self.ray, self.workers) as workers:
            print(evaluate.run(measured, tasks, self.seeds, self.out, workers.workers, workers.spread))
        if self.scores is not None:
            self.scores.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.out / evaluate.SCORES, self.scores)
        return 0


@dataclass(frozen=True)
class Export:
    """Turn a meta-trained run into a bundle of verified ONNX models for the robot.

    Example: simpl export runs/meta -o bundle
    """

    models: Positional[Path]
    """Run folder of phase 2."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """Folder to write; it appears only if ONNX equals torch to 1e-5 and the whole contract holds."""
    domain: DomainName = "kitchen"
    """What the models move."""
    data: str | None = None
    """Demonstrations (path or D4RL name) whose states serve as the 1,000 recorded inputs of the comparison."""
    learner: bool = True
    """Include what fine-tuning starts from, two thirds of the size; without, the bundle only acts."""

    def run(self) -> int:
        from export.bundle import Bundle, describe
        from export.robots import ROBOTS
        from export.to_onnx import export_bundle
        from simpl_core.checkpoint import load_models
        from simpl_core.dataset import open_demonstrations

        state_dim = load_models(self.models).skills_config.state_dim
        recorded = open_demonstrations(_locate(self.data), state_dim).states if self.data else None
        robot = ROBOTS[self.domain]
        folder = export_bundle(self.models, self.out, recorded=recorded, robot=robot, learner=self.learner)
        print(describe(Bundle.open(folder)))
        return 0


@dataclass(frozen=True)
class BundleCommand:
    """Check a bundle of models: schema, checksums, sizes, finite weights, golden outputs.

    Example: simpl bundle verify bundle
    """

    action: Positional[Literal["verify"]]
    """What to do with it."""
    path: Positional[Path]
    """Bundle folder."""

    def run(self) -> int:
        from export.bundle import Bundle, describe

        print(describe(Bundle.open(self.path)))
        return 0


@dataclass(frozen=True)
class Data:
    """Find (or download) and check demonstrations, and say what is in them.

    Example: simpl data kitchen-mixed-v0
    """

    data: Positional[str]
    """HDF5 file in D4RL's or Minari's layout, or a name of theirs: kitchen-mixed-v0, D4RL/kitchen/mixed-v2."""

    def run(self) -> int:
        from simpl_core.dataset import open_demonstrations

        data = open_demonstrations(_locate(self.data))
        low, middle, high = (int(f(data.lengths)) for f in (min, _median, max))
        print(
            f"{data.origin}\n  sha256    {data.sha256}\n  episodes  {len(data.lengths)}, {low} / {middle} / {high} "
            f"steps (shortest / median / longest)\n  steps     {len(data.actions)}\n  numbers   "
            f"{data.states.shape[1]} observed, {data.actions.shape[1]} actions"
        )
        return 0


@dataclass(frozen=True)
class Presets:
    """Print every hyper-parameter of every stage, with its value in each preset."""

    def run(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from simpl_core import config

        tables: dict[str, dict[str, Any]] = {
            "phase 1: simpl train skills": config.SKILLS_PRESETS,
            "phase 2: simpl train meta": config.META_PRESETS,
            "phase 3: simpl evaluate, simpl adapt": config.ADAPT_PRESETS,
        }
        for title, presets in tables.items():
            for domain, own in config.by_domain(presets).items():
                table = Table("setting", *own, title=f"{title}, {domain}")
                for field in dataclasses.fields(next(iter(own.values()))):
                    table.add_row(field.name, *(str(getattr(value, field.name)) for value in own.values()))
                Console().print(table)
        return 0


COMMANDS = {
    "collect": Collect,
    "train": Train,
    "evaluate": Evaluate,
    "rollout": Rollout,
    "skills": Skills,
    "results": Results,
    "reproduce": Reproduce,
    "plot": Plot,
    "export": Export,
    "bundle": BundleCommand,
    "data": Data,
    "presets": Presets,
}
ROBOT_COMMANDS = ("adapt", "audit", "faults", "record", "replay", "report", "robot")
"""Commands of the ROS package, `simpl.front.commands.COMMANDS`."""
ROBOT_BENCHES = ("control", "onnx", "stream")
"""Its benchmarks, `simpl.front.commands.BENCHES`."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors a user can mend end in one line and exit code 2, Ctrl-C and SIGTERM in 130."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if threading.current_thread() is threading.main_thread():
        # Batch systems, containers and `kill` send SIGTERM: a run saves its state then as it does on Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Waiting OpenMP threads spin for some 20 microseconds, then sleep: without end they rob the cores of whoever works
    # there too, not at all they cost half the speed of a training step. Read when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        return int(_parse(arguments).run())
    except SimplError as error:
        print(f"simpl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("simpl: stopped; a stage that trains goes on from its last saved state", file=sys.stderr)
        return 130


def _parse(arguments: list[str]) -> Any:
    commands: dict[str, Any] = dict(COMMANDS)
    # These belong to the ROS package; a workstation without it still has all the others.
    wanted = bool(arguments) and arguments[0] in ROBOT_COMMANDS
    if wanted or not arguments or arguments[0] in ("-h", "--help"):
        commands |= _robot_commands("COMMANDS", required=wanted)
    benches = dict(BENCHES)
    if arguments[:1] == ["bench"]:
        benches |= _robot_commands("BENCHES", required=len(arguments) > 1 and arguments[1] in ROBOT_BENCHES)
    commands["bench"] = bench_group(benches)
    return tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="simpl",
        description="Skills, meta-training and adaptation of a robot arm to tasks it has never seen.",
        args=arguments,
        config=(OmitArgPrefixes, OmitSubcommandPrefixes),
    )


def _robot_commands(table: str, required: bool) -> dict[str, Any]:
    try:
        from simpl.front import commands
    except ModuleNotFoundError as error:
        if required:
            raise EnvironmentMissingError(
                f"the ROS 2 workspace is not built ({error}); run `make ros`, or source a workspace that holds "
                "the packages simpl and simpl_interfaces"
            ) from error
        return {}
    return dict(getattr(commands, table, {}))


def _locate(data: str) -> Path:
    from simpl_core.dataset import locate

    return locate(data, lambda done, total: print(f"\r{done >> 20} of {total >> 20} MiB", end="", file=sys.stderr))


def _use(device: str, threads: int) -> str:
    """Compute on `device`, with so many threads where it is the processor; returns the device."""
    import torch

    from simpl_core.learner import use_device

    torch.set_num_threads(threads)
    return use_device(device)


def _median(values: Any) -> float:
    import statistics

    return float(statistics.median(values.tolist()))
