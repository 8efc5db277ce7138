"""Recipes: the printed commands are real ones, belong together, and are run, skipped and gone on from."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import pytest

from simpl_core import cli, results
from simpl_core.cli_reproduce import CLAIMS, SPIRL, Figure, Reproduce, Stage, _Ledger
from simpl_core.cli_settings import changes
from simpl_core.config import ADAPT_PRESETS, of_domain
from simpl_core.errors import ConfigError


def commands(*arguments: str) -> list[list[str]]:
    parsed = cli._parse(["reproduce", *arguments])
    assert isinstance(parsed, Reproduce)
    return [list(stage.command) for stage in parsed.stages()]


@pytest.mark.parametrize("figure", get_args(Figure))
def test_every_recipe_is_made_of_commands_that_exist_and_read_what_was_written(figure: str, tmp_path: Path) -> None:
    written: set[str] = set()
    stages = Reproduce(figure, out=tmp_path).stages()
    for stage in stages:
        command = cli._parse(list(stage.command))  # an option that does not exist would exit here
        read = [word for word in stage.command[1:] if word.startswith(str(tmp_path)) and "/figures" not in word]
        made = [stage.command[i + 1] for i, word in enumerate(stage.command) if word in ("--out", "--scores")]
        assert set(read) - set(made) <= written, f"{stage} reads what nobody wrote"
        written.update(made)
        written.update(str(Path(path).parent) for path in made)
        assert stage.result is None or any(str(stage.result).startswith(path) for path in made)
        assert callable(command.run)
    assert len({str(stage) for stage in stages}) == len(stages)


def test_the_figures_are_the_claims() -> None:
    assert set(get_args(Figure)) == set(CLAIMS)


def test_methods_make_as_many_episodes_in_all_and_are_named_as_the_results_read_them() -> None:
    """20 + 180 episodes, SPiRL 200 with the same fine-tuning; with fewer to condition on, what they give."""
    found = {}
    for command in [*commands("kitchen"), *commands("conditioning")]:
        if command[0] == "evaluate":
            scores = Path(command[command.index("--scores") + 1]).stem
            settings = command[command.index("--set") + 1 : command.index("--scores")] if "--set" in command else []
            found[scores] = settings
    assert found == {
        "kitchen_simpl": [],
        "kitchen_spirl": ["episodes=200", *SPIRL["kitchen", "fast"]],
        "kitchen_simpl-10": ["conditioning_episodes=10", "episodes=5", "reuse=0"],
        "kitchen_simpl-5": ["conditioning_episodes=5", "episodes=5", "reuse=0"],
    }
    assert [results.conditioning_episodes(name.split("_")[1]) for name in found] == [20, 0, 10, 5]


@pytest.mark.parametrize("domain", ["kitchen", "maze"])
def test_fine_tuning_without_meta_training_is_the_same_fine_tuning(domain: Literal["kitchen", "maze"]) -> None:
    simpl, spirl = (ADAPT_PRESETS[of_domain(domain, name)] for name in ("fast", "spirl"))
    spirl = replace(spirl, **changes(SPIRL[domain, "fast"]))
    same = ("batch_size", "reuse", "gamma", "tau", "temperature", "cool_over", "bound_targets", "learning_rate")
    assert [getattr(spirl, name) for name in same] == [getattr(simpl, name) for name in same]


def test_settings_reach_their_stage_alone() -> None:
    given = ["collect.layout_seed=7", "skills.beta=1e-3", "meta.epochs=2", "simpl.episodes=6", "spirl.delta=3"]
    shown = ["--preset", "small", "--seeds", "5", "6", "--tasks", "8,2", "--training", "maze40 in maze 20:7"]
    by_name = {" ".join(command[:2]): command for command in commands("maze40", *shown, "--set", *given)}
    assert {"--layout-seed", "7"} <= set(by_name["collect maze"])
    assert by_name["train skills"][by_name["train skills"].index("--set") :][1] == "beta=1e-3"
    assert {"epochs=2", "maze40 in maze 20:7", "maze-small"} - set(by_name["train meta"]) == {"maze-small"}
    evaluations = [command for command in commands("maze40", *shown, "--set", *given) if command[0] == "evaluate"]
    assert [("episodes=6" in c, "delta=3" in c, "episodes=10" in c) for c in evaluations] == [
        (True, False, False),
        (False, True, True),  # maze-small: 4 conditioning episodes, and the 6 given
    ]
    assert all(command[command.index("--seeds") + 1 :][:4] == ["5", "6", "--tasks", "8,2"] for command in evaluations)
    assert any("maze40_simpl-4.csv" in word for word in evaluations[0])


def test_demonstrations_are_made_as_they_were_for_the_results() -> None:
    assert commands("maze40")[0][-2:] == ["--episodes", "4000"]
    assert commands("kitchen")[0][-2:] == ["--tasks", "paper"]
    made = commands("maze40", "--set", "collect.episodes=6", "collect.keep_failures=True")[0]
    assert made[-3:] == ["--episodes", "6", "--keep-failures"]
    assert commands("kitchen", "--set", "collect.keep_failures=false")[0][-1] == "--no-keep-failures"


def test_a_claim_of_its_own_tasks_has_demonstrations_and_skills_of_its_own() -> None:
    wide, narrow = commands("kitchen-wide"), commands("kitchen")
    assert wide[0][-4:] == ["--tasks", "play", "--episodes", "900"]
    meta, evaluation = (
        next(c for c in wide if c[: len(kind)] == list(kind)) for kind in (("train", "meta"), ("evaluate",))
    )
    assert meta[meta.index("--tasks") + 1] == "wide" and evaluation[evaluation.index("--tasks") + 1] == "target-wide"
    outs = [{c[c.index("--out") + 1] for c in found if "--out" in c} for found in (wide, narrow)]
    assert not outs[0] & outs[1]


def test_goals_at_the_top_and_at_the_bottom_are_of_one_training() -> None:
    """Paper, Figure 6 (b) and (c): what differs is where the unseen goals are."""
    top, bottom = commands("maze-top"), commands("maze-bottom")
    assert top[:3] == bottom[:3]  # demonstrations, skills, meta-training
    assert top[2][:2] == ["train", "meta"] and top[2][top[2].index("--tasks") + 1] == "top"
    for found, target in ((top, "target-top"), (bottom, "target-bottom")):
        evaluations = [command for command in found if command[0] == "evaluate"]
        assert [command[command.index("--method") + 1] for command in evaluations] == ["simpl", "spirl"]
        assert all(command[command.index("--tasks") + 1] == target for command in evaluations)
        assert all(command[1] == top[2][top[2].index("--out") + 1] for command in evaluations)
    assert commands("maze40")[1] == top[1]  # one skill space for all of the maze


def test_given_demonstrations_are_not_made() -> None:
    found = commands("kitchen", "--data", "play.hdf5")
    assert found[0][:3] == ["train", "skills", "play.hdf5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kitchen", "--set", "episodes=3"], "STAGE.KEY=VALUE with a stage of collect, skills, meta, simpl, spirl"),
        (["kitchen", "--set", "simpl.epissodes=3"], "has no epissodes"),
    ],
)
def test_errors(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        commands(*arguments)


def test_a_dry_run_prints_the_commands_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "kitchen", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [" ".join(shlex.split(line)[1:3]) for line in lines[:3]]
    assert first == ["collect kitchen", "train skills", "train meta"]
    assert lines[-1].startswith("simpl results ") and not (tmp_path / "out").exists()


def test_a_stage_is_run_until_it_is_finished_and_its_result_is_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A command that fails is not finished; one that ended well is, as long as what it left is there."""
    path, result = tmp_path / "commands.json", tmp_path / "result"
    wrong, right = Stage(("data", str(tmp_path / "none")), result), Stage(("presets",), result)
    assert _Ledger(path).run(wrong) == 2 and "no file" in capfd.readouterr().err
    assert _Ledger(path).run(right) == 0
    result.touch()
    assert not _Ledger(path).finished(wrong) and _Ledger(path).finished(right)
    assert not _Ledger(path).finished(Stage(("presets",)))  # what has no result of its own is run every time
    result.unlink()
    assert not _Ledger(path).finished(right)


def test_a_stage_is_done_again_where_what_it_reads_has_changed(tmp_path: Path) -> None:
    path, first, second = tmp_path / "commands.json", tmp_path / "first", tmp_path / "second"
    for result in (first, second):
        result.touch()
    before, other = Stage(("presets",), first), Stage(("presets", "--help"), first)
    reader = Stage(("bench", "--help"), second, before)
    for stage in (before, reader):
        assert _Ledger(path).run(stage) == 0
    assert _Ledger(path).finished(reader)
    assert not _Ledger(path).finished(Stage(reader.command, second, other))
    assert _Ledger(path).run(other) == 0
    assert _Ledger(path).finished(other) and not _Ledger(path).finished(before), "another's result is in its place"


TINY = [
    *("collect.episodes=4", "skills.iterations=40", "skills.checkpoint_every=20", "skills.log_every=10"),
    *("skills.held_out_fraction=0.25", "meta.epochs=1", "meta.context_large=28", "meta.batch_size=16"),
    *("simpl.conditioning_episodes=2", "simpl.episodes=2", "simpl.batch_size=16"),
]


@pytest.mark.slow
def test_a_figure_from_demonstrations_to_pictures_with_a_stop_between(tmp_path: Path) -> None:
    tasks = ["--seeds", "3", "--tasks", "kettle", "--training", "kettle", "microwave"]
    arguments = ["reproduce", "kitchen", "--preset", "small", *tasks, "--set", *TINY, "--out", str(tmp_path)]
    command = [sys.executable, "-m", "simpl_core", *arguments]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        metrics = tmp_path / "kitchen" / "skills" / "metrics.csv"
        deadline = time.monotonic() + 1800
        while not metrics.exists() and first.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGTERM)
        output, errors = first.communicate(timeout=300)
    finally:
        first.kill()
    assert first.returncode == 130, errors
    assert "[2/6] simpl train skills" in output and "goes on from its last saved state" in errors
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "[1/6]" in second.stdout.splitlines()[0] and second.stdout.splitlines()[0].endswith("(finished)")
    summary = results.summarise(tmp_path / "kitchen" / "results")["kitchen"]
    assert {name: (found.tasks, found.seeds, found.episodes) for name, found in summary.items()} == {
        "simpl-2": (1, 1, 4),
        "spirl": (1, 1, 4),
    }
    assert (tmp_path / "kitchen" / "figures" / "kitchen_curves.png").read_bytes()[:4] == b"\x89PNG"
    third = subprocess.run(command, capture_output=True, text=True, check=False)
    assert third.stdout.count("(finished)") == 5
