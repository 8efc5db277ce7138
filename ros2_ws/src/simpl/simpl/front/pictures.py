"""The pictures of a run: its learning curve, and a video of its best episode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sim.tasks import KitchenTask, SubtaskTracker
from simpl.front.run_report import PHASE_TITLES, ReportError, RunReport

COLOURS = {"conditioning": "#4C78A8", "evaluation": "#E0A030", "finetune": "#9C5FA8", "final": "#3C9C5A"}
RUNNING_MEAN_WINDOW = 5
"""Episodes in the running mean."""


def draw_learning_curve(report: RunReport, path: Path) -> Path:
    """Draw subtasks per episode: every episode as a point, a running mean, and the mean of each phase in words.

    Args:
        report: of the run.
        path: of the PNG; its folder must exist.

    Returns:
        `path`.

    Raises:
        ReportError: the run has no finished episode.
    """
    if not any(report.scores.values()):
        raise ReportError(f"{report.folder} has no finished episode to draw")
    figure = Figure(figsize=(9.0, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    start = 1
    for phase, title in PHASE_TITLES.items():
        scores = report.scores[phase]
        if scores:
            _draw_phase(axes, start, scores, COLOURS[phase], title)
            start += len(scores)
    most = len(report.task)
    axes.set_ylim(-0.25, most + 0.25)
    axes.set_xlim(0.5, start - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(range(most + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"episode   (point: one episode, line: mean of the last {RUNNING_MEAN_WINDOW} of its phase)")
    axes.set_ylabel(f"subtasks completed in order (of {most})")
    axes.set_title(str(report.task) + ("   (interrupted)" if report.interrupted else ""))
    axes.grid(axis="y", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(PHASE_TITLES), fontsize="small", frameon=False)
    figure.savefig(path)
    return path


def running_mean(scores: list[int], window: int = RUNNING_MEAN_WINDOW) -> list[float]:
    """Mean of each score and up to `window` - 1 before it."""
    return [float(np.mean(scores[max(0, index + 1 - window) : index + 1])) for index in range(len(scores))]


def render_best_episode(report: RunReport, path: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Render the best episode with the subtasks as they are completed.

    Args:
        report: of the run.
        path: of the video.
        progress: called with (frames done, frames in all).

    Returns:
        `path`.

    Raises:
        ReportError: no states were recorded, as with a real arm.
        EnvironmentMissingError: OpenGL or ffmpeg is missing.
    """
    from sim.render import render_trajectory  # loads MuJoCo, which a table or a picture does not need

    best = report.best_episode()
    if best is None:
        raise ReportError(f"{report.folder}/plant has no recorded episode; only the simulated arm records its states")
    qpos = report.states(best["episode"])
    heading = f"{PHASE_TITLES.get(best['phase'], best['phase'])}, episode {best['episode']}"
    return render_trajectory(qpos, path, captions=captions(qpos, report.task, heading), progress=progress)


def captions(qpos: np.ndarray, task: KitchenTask, heading: str) -> list[str]:
    """One caption for each state (T, 30): the heading and the task with finished subtasks marked."""
    tracker = SubtaskTracker(task)
    texts = []
    for index, state in enumerate(qpos):
        if index:  # the first state is that of the reset, before any step
            tracker.update(state)
        marks = [f"[{'x' if n < tracker.completed else ' '}] {name}" for n, name in enumerate(task.subtasks)]
        texts.append("\n".join([heading, *marks]))
    return texts


def _draw_phase(axes: Axes, start: int, scores: list[int], colour: str, title: str) -> None:
    episodes = np.arange(start, start + len(scores))
    mean = float(np.mean(scores))
    axes.axvspan(start - 0.5, start + len(scores) - 0.5, color=colour, alpha=0.07, linewidth=0)
    axes.scatter(episodes, scores, s=16, color=colour, alpha=0.6, linewidths=0)
    axes.plot(episodes, running_mean(scores), color=colour, linewidth=2, label=f"{title}: mean {mean:.2f}")
