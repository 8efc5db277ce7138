"""What a run's folder is turned into: learning curve, video of the best episode, table, and the screen before them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from sim.tasks import SUBTASKS, parse_kitchen_task
from simpl.front.pictures import captions, draw_learning_curve, render_best_episode, running_mean
from simpl.front.progress import Progress
from simpl.front.results import make_results
from simpl.front.run_report import ReportError, load_report
from simpl.front.screen import PlainLog, render, sparkline
from simpl_core.errors import EnvironmentMissingError

TASK = "microwave > kettle"


def run_folder(folder: Path, **changes: object) -> Path:
    episodes = [
        {"episode": 1, "phase": "conditioning", "score": 0.0, "steps": 280},
        {"episode": 2, "phase": "evaluation", "score": 1.0, "steps": 280},
        {"episode": 3, "phase": "finetune", "score": 2.0, "steps": 150},
        {"episode": 4, "phase": "final", "score": 2.0, "steps": 120},
        {"episode": 5, "phase": "final", "score": 2.0, "steps": 200},
    ]
    document = {
        "task": TASK,
        "bundle_version": "abcdef0123456789",
        "subtasks_conditioning": [0],
        "subtasks_after_conditioning": [1],
        "subtasks_finetune": [2],
        "subtasks_final": [2, 2],
        "transitions_sent": 10,
        "transitions_stored": 9,
        "model_updates": 1,
        "control": {"rate_hz": 100.0, "ticks": 10, "missed": 0, "latency_ms_p50": 0.5, "latency_ms_p99": 1.0},
        "wall_seconds": 61.0,
        "episodes": episodes,
        "warnings": ["no new model within 10 s"],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document))
    return folder


def record(folder: Path, episode: int, frames: int = 3) -> np.ndarray:
    qpos = np.zeros((frames, 30))
    qpos[:, 22] = np.linspace(0.0, -0.75, frames)  # the microwave opens
    (folder / "plant").mkdir(exist_ok=True)
    np.savez(folder / "plant" / f"episode_{episode:03d}.npz", qpos=qpos)
    return qpos


def test_the_learning_curve_is_a_picture_with_something_in_it(tmp_path) -> None:
    path = draw_learning_curve(load_report(run_folder(tmp_path)), tmp_path / "curve.png")
    picture = matplotlib.image.imread(path)
    height, width = picture.shape[:2]
    assert width > 1.5 * height > 400
    colours = {tuple(colour) for colour in (picture[..., :3].reshape(-1, 3) * 255).astype(int)[::7]}
    assert len(colours) > 50


def test_a_run_without_a_finished_episode_has_no_curve(tmp_path) -> None:
    empty = {f"subtasks_{name}": [] for name in ("conditioning", "after_conditioning", "finetune", "final")}
    with pytest.raises(ReportError, match="no finished episode"):
        draw_learning_curve(load_report(run_folder(tmp_path, **empty)), tmp_path / "curve.png")


def test_the_running_mean_looks_back_only() -> None:
    assert running_mean([0, 2, 4], window=2) == [0.0, 1.0, 3.0]


def test_the_best_episode_has_most_subtasks_in_fewest_steps_among_those_recorded(tmp_path) -> None:
    report = load_report(run_folder(tmp_path))
    assert report.best_episode() is None
    for episode in (1, 3, 5):
        record(tmp_path, episode)
    best = report.best_episode()
    assert best is not None and best["episode"] == 3
    record(tmp_path, 4)
    best = report.best_episode()
    assert best is not None and best["episode"] == 4


def test_captions_tick_off_the_subtasks_in_order_and_never_at_the_reset() -> None:
    start = np.zeros(30)
    microwave, both = start.copy(), start.copy()
    microwave[22] = both[22] = SUBTASKS["microwave"].goal[0]
    both[23:30] = SUBTASKS["kettle"].goal
    texts = captions(np.stack([both, start, microwave, both]), parse_kitchen_task(TASK), "best")
    assert [text.count("[x]") for text in texts] == [0, 0, 1, 2]
    assert texts[2].splitlines() == ["best", "[x] microwave", "[ ] kettle"]


def test_the_video_shows_the_recorded_states(tmp_path) -> None:
    report = load_report(run_folder(tmp_path))
    frames = len(record(tmp_path, 3, frames=4))
    seen: list[tuple[int, int]] = []
    try:
        path = render_best_episode(report, tmp_path / "best.mp4", lambda done, total: seen.append((done, total)))
    except EnvironmentMissingError as error:
        pytest.skip(str(error))
    assert path.read_bytes()[4:8] == b"ftyp"
    assert seen[-1] == (frames, frames)


def test_a_damaged_recording_is_named(tmp_path) -> None:
    report = load_report(run_folder(tmp_path))
    record(tmp_path, 3)
    report.states_file(3).write_bytes(b"not an archive")
    with pytest.raises(ReportError, match="episode_003.npz is not a recorded episode"):
        report.states(3)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "does not exist"), ("{", "is damaged"), ('{"task": "kettle"}', "has no control, subtasks_conditioning")],
)
def test_a_bad_report_is_named(tmp_path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(ReportError, match=words):
        load_report(tmp_path)


def test_results_are_made_even_where_no_video_can_be(tmp_path) -> None:
    output = io.StringIO()
    make_results(run_folder(tmp_path), Console(file=output, width=300), video=True)
    text = output.getvalue()
    assert "no video: " in text and "only the simulated arm records" in text
    assert (tmp_path / "learning_curve.png").is_file()
    for words in ("after fine-tuning", "2.00", "100%", "100 Hz", "1 not acknowledged", "1:01", "no new model"):
        assert words in text, words


# -- while it runs -------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress_with_two_of_five() -> tuple[Progress, Clock]:
    clock = Clock()
    progress = Progress(TASK, {"conditioning": 2, "evaluation": 1, "finetune": 2, "final": 0}, clock)
    for episode, seconds in ((1, 10.0), (2, 14.0)):
        clock.now = seconds
        assert progress.heard_result("conditioning", episode, 1.0, 280, ("microwave",), "abc") is not None
    return progress, clock


def test_time_left_counts_what_is_missing_and_runs_down() -> None:
    progress, clock = progress_with_two_of_five()
    assert progress.seconds_left() == pytest.approx(3 * 7.0)
    clock.now = 16.0
    assert progress.seconds_left() == pytest.approx(3 * 7.0 - 2.0)
    clock.now = 34.0  # an evaluation episode of 20 s; fine-tuning is expected to go like all so far
    progress.heard_result("evaluation", 3, 2.0, 100, ("microwave", "kettle"), "abc")
    assert progress.seconds_left() == pytest.approx(2 * 34.0 / 3)


def test_the_start_of_the_nodes_is_not_taken_for_the_length_of_an_episode() -> None:
    clock = Clock()
    progress = Progress(TASK, {"conditioning": 2}, clock)
    clock.now = 60.0
    progress.heard_step(1, 280, 0)
    clock.now = 63.0
    progress.heard_step(200, 280, 0)
    progress.heard_result("conditioning", 1, 1.0, 280, (), "abc")
    assert progress.seconds_left() == pytest.approx(3.0)


def test_a_result_heard_twice_counts_once() -> None:
    progress, _ = progress_with_two_of_five()
    assert progress.heard_result("conditioning", 2, 1.0, 280, (), "abc") is None
    assert progress.done_total == (2, 5)
    assert Progress(TASK, {}).seconds_left() is None


def test_metrics_that_are_no_numbers_are_left_out() -> None:
    progress, _ = progress_with_two_of_five()
    progress.heard_metrics('{"alpha": 0.5, "kl": NaN, "note": "x"}')
    assert progress.learner.metric("alpha") == 0.5
    assert progress.learner.metric("kl") is None
    progress.heard_metrics("{broken")
    assert progress.learner.metric("alpha") == 0.5


def test_the_live_screen_tells_where_the_run_is() -> None:
    progress, _ = progress_with_two_of_five()
    progress.phase, progress.step, progress.steps_total, progress.completed = "evaluation", 120, 280, 1
    progress.model_version = "0123456789abcdef"
    progress.control.rate_hz, progress.control.missed, progress.control.ticks = 210.0, 3, 700
    progress.learner.stored, progress.learner.restarts = 560, 1
    progress.learner.metrics = {"alpha": 0.04}
    output = io.StringIO()
    Console(file=output, width=140, force_terminal=True, color_system=None).print(render(progress, Path("/logs")))
    text = output.getvalue()
    for words in (
        "2/5 episodes", "0:21 left", "conditioning 2/2 mean 1.00", "step 120/280", "✔ microwave", "· kettle",
        "0123456789", "210 Hz", "3 of 700 ticks missed", "560 transitions stored", "alpha 0.04", "restarted 1 x",
    ):  # fmt: skip
        assert words in text, words


def test_the_plain_log_has_one_line_per_episode() -> None:
    progress, _ = progress_with_two_of_five()
    output = io.StringIO()
    with PlainLog(progress, Console(file=output, width=60)) as log:
        log.episode(progress.scores[-1])
        log.update("stopping")
        log.update("stopping")
    assert output.getvalue().splitlines() == [
        "[0:14] conditioning 2/2: 1 of 2 subtasks (microwave), 280 steps, model abc, about 0:21 left",
        "[0:14] stopping",
    ]


def test_a_sparkline_goes_from_nothing_to_everything() -> None:
    assert sparkline([0, 2, 4, 9], 4) == "▁▅██"
