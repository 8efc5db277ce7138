"""report.json from a run of known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simpl.core.commands import EpisodeDone
from simpl.core.episode_log import ControlLog, EpisodeLog, Tally
from simpl.core.plan import RunPlan
from simpl.core.report import RunFacts, StreamCounts, build_report, write_report

AGREED = {
    "task", "bundle_version", "conditioning_episodes", "finetune_episodes", "subtasks_conditioning",
    "subtasks_after_conditioning", "subtasks_finetune", "subtasks_final", "transitions_sent", "transitions_stored",
    "model_updates", "control", "wall_seconds",
}  # fmt: skip


def done(phase: str, score: int, episode: int = 1) -> EpisodeDone:
    return EpisodeDone(episode, phase, float(score), 280, "v1", False, 3, 1.25, ("microwave",)[:score])


def facts(**changes: object) -> RunFacts:
    settings: dict[str, object] = {
        "bundle_version": "base", "robot_uuid": "r", "wall_seconds": 12.344, "bridge_starts": 1, "interrupted": False,
        "reason": "",
    }  # fmt: skip
    return RunFacts(**(settings | changes))  # type: ignore[arg-type]


def report(**changes: object) -> dict:
    results = [done("conditioning", 0), done("conditioning", 1), done("evaluation", 1), done("finetune", 1)]
    counts = StreamCounts(sent=1120, stored=1119, unacknowledged=1, duplicates_dropped=6)
    tally = Tally(phase_seconds={"conditioning": 3.0}, models_refused={"bad": "damaged"}, models_accepted=["a", "b"])
    return build_report(RunPlan("microwave > kettle"), results, counts, tally, facts(**changes))


def test_the_agreed_keys_and_their_values() -> None:
    document = report()
    assert set(document) >= AGREED
    assert set(document["control"]) == {
        "rate_hz",
        "ticks",
        "missed",
        "latency_ms_p50",
        "latency_ms_p99",
        "wall_seconds",
    }
    assert document["task"] == "microwave > kettle"
    assert document["conditioning_episodes"] == 2 and document["finetune_episodes"] == 1
    assert document["subtasks_conditioning"] == [0, 1]
    assert document["subtasks_after_conditioning"] == [1]
    assert document["subtasks_finetune"] == [1]
    assert document["subtasks_final"] == []
    assert (document["transitions_sent"], document["transitions_stored"]) == (1120, 1119)
    assert document["model_updates"] == 2 and document["wall_seconds"] == 12.34
    assert document["guard_interventions"] == 12
    assert [one["model_version"] for one in document["episodes"]] == ["v1"] * 4


def test_it_survives_json_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.json"
    write_report(path, report(interrupted=True, reason="interrupted by a signal"))
    document = json.loads(path.read_text())
    assert document["interrupted"] is True and document["subtasks_conditioning"] == [0, 1]
    assert [item.name for item in path.parent.iterdir()] == ["report.json"]


def test_nan_never_gets_into_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "report.json", report(wall_seconds=float("nan")))
    assert not (tmp_path / "report.json").exists()


def test_control_figures_are_quantiles_and_rates_within_episodes() -> None:
    control = ControlLog()
    latencies = np.arange(1, 101, dtype=float)
    for number, latency in enumerate(latencies):
        # Two episodes of 50 ticks at 10 Hz with a break of a minute between them.
        control.tick(number // 50, latency, 0.1 * number + (60.0 if number >= 50 else 0.0))
    summary = control.summary()
    assert summary["ticks"] == 100
    assert summary["rate_hz"] == pytest.approx(10.0)
    assert summary["latency_ms_p50"] == pytest.approx(np.quantile(latencies, 0.5))
    assert summary["latency_ms_p99"] == pytest.approx(np.quantile(latencies, 0.99))


def test_missed_ticks_add_up_over_restarts_of_the_policy() -> None:
    control = ControlLog()
    for missed in (0, 2, 5, 1, 1, 4):  # restarted after 5
        control.status(missed)
    assert control.missed == 9


def test_counts_go_on_over_restarts_of_the_bridge_and_a_torn_line_costs_one_episode(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    latencies = np.arange(1, 31, dtype=float)
    for start in range(3):  # three starts of the bridge, an episode of ten ticks at 10 Hz in each, and a death
        log = EpisodeLog(path)
        for number in range(10):
            log.tally.control.tick(start, latencies[10 * start + number], 0.1 * number)
        log.tally.control.status(missed=2)
        log.tally.phase_seconds["finetune"] = log.tally.phase_seconds.get("finetune", 0.0) + 1.5
        log.tally.warnings.append(f"warning {start}")
        log.append(done("finetune", 1, episode=start))
        log.tally.control.tick(start + 100, 1e6, 0.0)  # of an episode that was never finished
        with path.open("a") as file:
            file.write('\n{"result": {"epis')
    whole = EpisodeLog(path)
    assert whole.tally.control.summary() == {
        "rate_hz": pytest.approx(10.0), "ticks": 30, "missed": 6,
        "latency_ms_p50": pytest.approx(np.quantile(latencies, 0.5)),
        "latency_ms_p99": pytest.approx(np.quantile(latencies, 0.99)),
    }  # fmt: skip
    assert whole.tally.phase_seconds == {"finetune": 4.5}
    assert whole.tally.warnings == ["warning 0", "warning 1", "warning 2"]
    assert whole.results == {start: done("finetune", 1, episode=start) for start in range(3)}


def test_a_line_has_what_is_new_and_all_lines_together_have_everything(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for start in range(2):
        log = EpisodeLog(path)
        for episode in range(50 * start, 50 * start + 50):
            log.tally.warnings.append(f"warning {episode}")
            log.tally.models_accepted.append(f"{episode:064d}")
            log.tally.models_refused[f"bad {episode}"] = "damaged"
            log.append(done("finetune", 1, episode=episode))
    tally = EpisodeLog(path).tally
    assert tally.warnings == [f"warning {episode}" for episode in range(100)]
    assert tally.models_accepted == [f"{episode:064d}" for episode in range(100)]
    assert tally.models_refused == {f"bad {episode}": "damaged" for episode in range(100)}
    lines = path.read_text().splitlines()[1:]
    assert len(lines) == 100 and len(lines[-1]) < len(lines[0]) + 20, "a line does not grow with the run"


def test_a_file_whose_lines_have_everything_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for episode in range(3):  # as versions before wrote it
        note = {
            "phase_seconds": {"finetune": 2.0 * episode}, "warnings": ["one", "two", "three"][:episode],
            "models_refused": {"bad": "damaged"}, "models_accepted": ["a", "b", "c"][: episode + 1], "resent": episode,
            "result": done("finetune", 1, episode=episode)._asdict(), "missed": 0, "seconds": 0.0, "intervals": 0,
            "latencies": [1.0],
        }  # fmt: skip
        with path.open("a") as file:
            file.write("\n" + json.dumps(note))
    log = EpisodeLog(path)
    log.tally.models_accepted.append("d")
    log.append(done("final", 1, episode=3))
    tally = EpisodeLog(path).tally
    assert (tally.warnings, tally.models_refused) == (["one", "two"], {"bad": "damaged"})
    assert (tally.models_accepted, tally.resent) == (["a", "b", "c", "d"], 2)
    assert tally.phase_seconds == {"finetune": 4.0} and len(tally.control.latencies) == 3


def test_a_run_without_a_tick_has_a_report_too() -> None:
    assert ControlLog().summary() == {
        "rate_hz": 0.0, "ticks": 0, "missed": 0, "latency_ms_p50": 0.0, "latency_ms_p99": 0.0,
    }  # fmt: skip
