"""`simpl reproduce`: each claim of RESULTS.md as a list of commands, run one after the other.

A recipe is data: nothing happens here that the printed commands would not do, and each runs as its own process.
"""

from __future__ import annotations

import ctypes
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal, get_args

from tyro.conf import Positional

from simpl_core.cli_settings import Preset, Settings, changes
from simpl_core.config import ADAPT_PRESETS, of_domain, preset
from simpl_core.domains import DomainName
from simpl_core.errors import ConfigError
from simpl_core.workers import left_to_this_process

LEDGER = "commands.json"
OVERRIDES = ("collect", "skills", "meta", "simpl", "spirl")
CONDITIONING = 20
"""Episodes that the method called plainly `simpl` is conditioned on."""

COLLECTED: Mapping[str, tuple[str, ...]] = {"kitchen": ("tasks=paper",), "maze": ("episodes=4000",)}
"""By domain: options of the demonstrations."""

SHARED = ("batch_size", "reuse", "gamma", "tau", "temperature", "bound_targets")
SPIRL: Mapping[tuple[DomainName, str], tuple[str, ...]] = {
    (domain, "fast"): tuple(
        f"{name}={json.dumps(getattr(ADAPT_PRESETS[of_domain(domain, 'fast')], name))}" for name in SHARED
    )
    for domain in get_args(DomainName)
}
"""By domain and preset: settings that make SPiRL's fine-tuning that of SiMPL; what is between them is meta-training."""

AFTER = ("episodes=5", "reuse=0")
"""Settings that measure conditioning alone: a few episodes after it, with next to no fine-tuning."""

InKitchen = Literal["kitchen", "conditioning", "kitchen-wide", "skills"]
InMaze = Literal["maze40", "maze20", "maze10", "maze-top", "maze-bottom", "maze-easy", "maze-medium"]
Figure = Literal[InKitchen, InMaze]


@dataclass(frozen=True)
class Claim:
    """What a figure shows.

    Attributes:
        domain: where.
        name: of the results.
        methods: compared; `simpl-5` is SiMPL with 5 conditioning episodes and as many episodes in all. None: the
            claim is about phase 1.
        training: family of tasks to meta-train on, trained on once for all claims; "" is the domain's usual one.
        target: family of unseen tasks; "" is the domain's usual one.
        collected: options of demonstrations of its own; without any it shares those of its domain, and the skills.
    """

    domain: DomainName
    name: str
    methods: tuple[str, ...] = ("simpl", "spirl")
    training: str = ""
    target: str = ""
    collected: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """Folder of demonstrations and skills."""
        return self.name if self.collected else self.domain

    @property
    def trained(self) -> str:
        """Folder of meta-training."""
        usual = not self.training or self.training.startswith(self.domain)
        return self.name if usual else f"{self.domain}-{self.training}"


CLAIMS: Mapping[str, Claim] = {
    "kitchen": Claim("kitchen", "kitchen"),
    "conditioning": Claim("kitchen", "kitchen", ("simpl", "simpl-10", "simpl-5")),
    "kitchen-wide": Claim("kitchen", "kitchen-wide", ("simpl",), "wide", "target-wide", ("tasks=play", "episodes=900")),
    "maze40": Claim("maze", "maze40", training="maze40"),
    "maze20": Claim("maze", "maze20", training="maze20"),
    "maze10": Claim("maze", "maze10", training="maze10"),
    "maze-top": Claim("maze", "maze-top", training="top", target="target-top"),
    "maze-bottom": Claim("maze", "maze-bottom", training="top", target="target-bottom"),
    "maze-easy": Claim("maze", "maze-easy", ("simpl",), training="easy", target="target-easy"),
    "maze-medium": Claim("maze", "maze-medium", ("simpl",), training="medium", target="target-medium"),
    "skills": Claim("kitchen", "kitchen", ()),
}


@dataclass(frozen=True)
class Stage:
    """A command, as what follows `simpl`.

    Attributes:
        result: what it leaves when it is done; None has it run every time.
        after: the stage whose result it reads.
    """

    command: tuple[str, ...]
    result: Path | None = None
    after: Stage | None = None

    @property
    def lineage(self) -> list[str]:
        """The commands that its result comes from, its own last."""
        return [*(self.after.lineage if self.after is not None else ()), str(self)]

    def __str__(self) -> str:
        return shlex.join(["simpl", *self.command])


@dataclass(frozen=True)
class Reproduce:
    """Rerun what a claim of RESULTS.md rests on: demonstrations, skills, meta-training, evaluations, figures.

    kitchen: SiMPL and SPiRL on unseen sequences (paper, Figure 4 right). maze40, maze20, maze10: the same on unseen
    goals after meta-training on as many (Figures 4 left and 6). maze-top, maze-bottom: trained at the top, goals there
    and where it was never trained (Figure 6). maze-easy, maze-medium: short tasks (Figures 7 and 8). conditioning: 5
    and 10 conditioning episodes instead of 20. kitchen-wide: demonstrations, training tasks and unseen tasks of any
    order of four subtasks. skills: phase 1 alone, closed and open loop.

    Stages that are finished are skipped and one that was stopped goes on; figures that share stages share them.

    Example: simpl reproduce kitchen --preset small --dry-run
    """

    figure: Positional[Figure]
    """Which."""
    preset: Preset = "fast"
    """Named settings of all stages (see `simpl presets`): official takes days on two cores, small some minutes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the evaluations."""
    seed: int = 0
    """Seed of demonstrations, skills and meta-training."""
    training: tuple[str, ...] = ()
    """Tasks to meta-train on, as for `simpl train meta`. None: the paper's."""
    tasks: tuple[str, ...] = ()
    """Unseen tasks, as for `simpl evaluate`. None: ten, in the kitchen the paper's."""
    data: str | None = None
    """Demonstrations, path or name as for `simpl train skills`. None: they are made (`simpl collect`)."""
    set: Settings = ()
    """Settings that differ from the preset, with their stage before them: skills.iterations=500 meta.epochs=2
    simpl.episodes=30 spirl.delta=3, and options of the demonstrations: collect.episodes=60."""
    out: Path = Path("runs/reproduce")
    """Folder for everything that is made."""
    dry_run: bool = False
    """Print the commands, one a line, and run none."""

    def run(self) -> int:
        stages = self.stages()
        ledger = _Ledger(self.out / LEDGER)
        if self.dry_run:
            print("\n".join(str(stage) for stage in stages))
            return 0
        for number, stage in enumerate(stages, 1):
            done = ledger.finished(stage)
            print(f"[{number}/{len(stages)}] {stage}{'   (finished)' if done else ''}", flush=True)
            code = 0 if done else ledger.run(stage)
            if code:
                print(f"simpl: stopped at stage {number}; the same command goes on from there", file=sys.stderr)
                return code
        return 0

    def stages(self) -> list[Stage]:
        """The commands.

        Raises:
            ConfigError: a setting without a stage, or one that phase 3 does not have.
        """
        claim, settings = CLAIMS[self.figure], self._settings()
        base, folder = self.out / claim.base, self.out / claim.name
        data = self.data or str(base / "demonstrations.hdf5")
        stages = [] if self.data else [self._collect(claim, Path(data), settings["collect"])]
        if not claim.methods:
            return stages + self._skills_measured(claim, data, base, settings["skills"], stages)
        skills = base / "skills"
        stages.append(self._skills(claim, data, skills, settings["skills"], stages))
        training = self.training or ((claim.training,) if claim.training else ())
        given = (*_tasks(training), *_set(settings["meta"]))
        meta = ("train", "meta", str(skills), *self._common(claim), *given)
        stages.append(_into(self.out / claim.trained / "meta", meta, "weights.safetensors", stages))
        trained = stages[-1]
        stages += [self._evaluation(claim, folder, method, settings, trained) for method in claim.methods]
        return [*stages, Stage(("results", str(folder / "results"), "--figures", str(folder / "figures")))]

    def _settings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {name: [] for name in OVERRIDES}
        for setting in self.set:
            stage, _, rest = setting.partition(".")
            if stage not in found or "=" not in rest:
                raise ConfigError(f"--set takes STAGE.KEY=VALUE with a stage of {', '.join(found)}; got {setting!r}")
            found[stage].append(rest)
        return found

    def _common(self, claim: Claim) -> tuple[str, ...]:
        return ("--domain", claim.domain, "--preset", self.preset, "--seed", str(self.seed))

    def _collect(self, claim: Claim, data: Path, options: Sequence[str]) -> Stage:
        given = {option.partition("=")[0] for option in options}
        usual = [
            option for option in claim.collected or COLLECTED[claim.domain] if option.partition("=")[0] not in given
        ]
        flags = [part for option in (*usual, *options) for part in _flag(option)]
        return Stage(("collect", claim.domain, "--out", str(data), "--seed", str(self.seed), *flags), data)

    def _skills(self, claim: Claim, data: str, out: Path, settings: Sequence[str], after: Sequence[Stage]) -> Stage:
        train = ("train", "skills", data, *self._common(claim), *_set(settings))
        return _into(out, train, "weights.safetensors", after)

    def _skills_measured(
        self, claim: Claim, data: str, base: Path, settings: Sequence[str], after: Sequence[Stage]
    ) -> list[Stage]:
        stages = []
        for name, own in (("skills", []), ("skills-open", ["decoder=open", "recovery=0"])):
            trained = self._skills(claim, data, base / name, [*settings, *own], after)
            measure = ("skills", str(base / name), "--data", data, "--domain", claim.domain)
            stages += [trained, _into(base / f"{name}-report", measure, "report.json", [trained])]
        return stages

    def _evaluation(
        self, claim: Claim, folder: Path, method: str, settings: Mapping[str, Sequence[str]], after: Stage
    ) -> Stage:
        name, _, number = method.partition("-")
        simpl = preset(ADAPT_PRESETS, of_domain(claim.domain, self.preset), **changes(settings["simpl"]))
        total = simpl.conditioning_episodes + simpl.episodes
        own = list(settings[name])
        which: tuple[str, ...] = ("--preset", self.preset)
        if name == "spirl":  # as many episodes as SiMPL makes
            own, which = [f"episodes={total}", *SPIRL.get((claim.domain, self.preset), ()), *own], ()
        elif number:
            own += [f"conditioning_episodes={number}", *AFTER]
        elif simpl.conditioning_episodes != CONDITIONING:
            method = f"simpl-{simpl.conditioning_episodes}"
        scores = folder / "results" / f"{claim.name}_{method}.csv"
        where = ("--method", name, "--domain", claim.domain, *which)
        seeds = ("--seeds", *map(str, self.seeds))
        command = (
            "evaluate",
            str(self.out / claim.trained / "meta"),
            *where,
            *seeds,
            *_tasks(self.tasks or ((claim.target,) if claim.target else ())),
            *_set(own),
            "--scores",
            str(scores),
        )
        return Stage((*command, "--out", str(folder / method)), scores, after)


class _Ledger:
    """Which commands ran, for how long, and whether to their end; a command is known by its words."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.is_file() else {}

    def finished(self, stage: Stage) -> bool:
        entry = self._entries.get(str(stage), {})
        whole = bool(entry.get("finished")) and entry.get("lineage") == stage.lineage
        return whole and stage.result is not None and stage.result.exists()

    def run(self, stage: Stage) -> int:
        """Run a stage, from where it stopped if it did; returns its exit code."""
        began, code = time.monotonic(), -1
        before = float(str(self._entries.get(str(stage), {}).get("seconds", 0.0)))
        with left_to_this_process():
            command = [sys.executable, "-m", "simpl_core", *stage.command]
            process = subprocess.Popen(command, preexec_fn=_end_with_parent if sys.platform == "linux" else None)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            code = process.wait()  # it saves first
            raise
        finally:
            seconds = time.monotonic() - began
            date = datetime.now(timezone.utc).isoformat(timespec="seconds")
            result = str(stage.result) if stage.result is not None else None
            for other in [words for words, entry in self._entries.items() if result and entry.get("result") == result]:
                del self._entries[other]  # what it left in the same place is gone
            self._entries[str(stage)] = {
                "finished": code == 0,
                "seconds": round(before + seconds, 1),
                "date": date,
                "result": result,
                "lineage": stage.lineage,
            }
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._entries, indent=2) + "\n")
            print(f"      {timedelta(seconds=round(seconds))}", flush=True)
        return code


_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Runs in the new process: should this one be killed, it is sent SIGTERM, saves and ends."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    _LIBC.prctl(pr_set_pdeathsig, int(signal.SIGTERM))


def _into(out: Path, command: Sequence[str], result: str, before: Sequence[Stage]) -> Stage:
    """`command` with its folder, after the last of those `before`."""
    return Stage((*command, "--out", str(out)), out / result, before[-1] if before else None)


def _tasks(names: Sequence[str]) -> tuple[str, ...]:
    return ("--tasks", *names) if names else ()


def _set(settings: Sequence[str]) -> tuple[str, ...]:
    return ("--set", *settings) if settings else ()


def _flag(option: str) -> tuple[str, ...]:
    name, _, value = option.partition("=")
    flag = name.replace("_", "-")
    if value.lower() in ("true", "false"):
        return (f"--{flag if value.lower() == 'true' else f'no-{flag}'}",)
    return f"--{flag}", value
