"""What a person sees while the graph runs: a live screen on a terminal, one line per episode anywhere else."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simpl.front.progress import LATCHED, Progress, Score

BLOCKS = "▁▂▃▄▅▆▇█"
PHASE_STYLES = {"conditioning": "cyan", "evaluation": "yellow", "finetune": "magenta", "final": "green"}
REFRESH_PER_SECOND = 4


class Screen(Protocol):
    """Somewhere to show progress."""

    def __enter__(self) -> Screen:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was shown last stays."""

    def update(self, note: str = "") -> None:
        """Show what is known now; `note` is what we are doing, when that is not running episodes."""

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""

    def episode(self, score: Score) -> None:
        """An episode is over."""


def make_screen(progress: Progress, console: Console, logs: Path) -> Screen:
    """The live screen on a terminal, else the plain log."""
    return LiveScreen(progress, console, logs) if console.is_terminal else PlainLog(progress, console)


class LiveScreen:
    """Redraws itself a few times a second at the bottom of the terminal."""

    def __init__(self, progress: Progress, console: Console, logs: Path) -> None:
        """Show `progress` on `console`; `logs` is where to look when something is odd."""
        self._progress, self._logs, self._note = progress, logs, ""
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveScreen:
        """Take over the bottom of the terminal."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture and give the terminal back."""
        self._live.stop()

    def update(self, note: str = "") -> None:
        """Redraw."""
        self._note = note or self._note
        self._live.update(render(self._progress, self._logs, self._note), refresh=True)

    def say(self, text: str, style: str = "") -> None:
        """A line above the live part."""
        self._live.console.print(Text(text, style=style))

    def episode(self, score: Score) -> None:
        """Nothing beyond the redraw: the sparkline shows it."""


class PlainLog:
    """For pipes, files and CI: one line per episode."""

    def __init__(self, progress: Progress, console: Console) -> None:
        """Write to `console`."""
        self._progress, self._console, self._note, self._alarm = progress, console, "", ""

    def __enter__(self) -> PlainLog:
        """Nothing to prepare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    def update(self, note: str = "") -> None:
        """A line when the note is a new one, or an alarm."""
        if self._alarm != self._progress.alarm:
            self._alarm = self._progress.alarm
            self.say(self._alarm or "going on")
        if note and note != self._note:
            self._note = note
            self.say(note)

    def say(self, text: str, style: str = "") -> None:
        """A line with the time since the start."""
        self._console.print(Text(f"[{clock(self._progress.elapsed)}] {text}", style=style), soft_wrap=True)

    def episode(self, score: Score) -> None:
        """A line for a finished episode."""
        progress = self._progress
        done = f" ({', '.join(score.subtasks_done)})" if score.subtasks_done else ""
        self.say(
            f"{score.phase} {score.index}/{progress.plan.get(score.phase, 0)}: "
            f"{score.score:g} of {len(progress.subtasks)} subtasks{done}, {score.steps} steps, "
            f"model {short(score.model_version)}, {left(progress)}"
        )


def render(progress: Progress, logs: Path, note: str = "") -> RenderableType:
    """The live screen as one renderable."""
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(ratio=1)
    rows.add_row("run", _overall(progress))
    rows.add_row("phases", _phases(progress))
    rows.add_row("episode", _episode(progress))
    rows.add_row("scores", _sparkline(progress))
    rows.add_row("control", _control(progress))
    rows.add_row("guard", _guard(progress))
    rows.add_row("learner", _learner(progress))
    status = Text(note or progress.alarm or progress.status, style="italic", overflow="ellipsis", no_wrap=True)
    hint = f"logs in {logs}   Ctrl-C stops the arm and ends the run   {progress.hint}"
    foot = Text(hint, style="dim", overflow="ellipsis", no_wrap=True)
    title = Text.assemble(("SiMPL adapt  ", "bold"), " > ".join(progress.subtasks))
    return Panel(Group(rows, status, foot), title=title, title_align="left", border_style="blue")


def clock(seconds: float) -> str:
    """Minutes and seconds, e.g. "3:07"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def short(version: str) -> str:
    """A content-addressed version as people read it: its first ten characters, without the algorithm's name."""
    return version.rsplit(":", 1)[-1][:10] or "-"


def left(progress: Progress) -> str:
    """The estimate of the time left, for people."""
    seconds = progress.seconds_left()
    return "time left not known yet" if seconds is None else f"about {clock(seconds)} left"


def sparkline(scores: list[float], highest: int) -> str:
    """One block per score; an empty one is the lowest, a full one all `highest` subtasks."""
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round(min(1.0, max(0.0, score / max(1, highest))) * top)] for score in scores)


def _overall(progress: Progress) -> RenderableType:
    done, total = progress.done_total
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=max(1, total), completed=done, width=30),
        Text(f"{done}/{total} episodes   {clock(progress.elapsed)} gone, {left(progress)}"),
    )
    return line


def _phases(progress: Progress) -> Text:
    parts = []
    for phase, count in progress.plan.items():
        scores = progress.scores_of(phase)
        style = PHASE_STYLES.get(phase, "")
        mark = "✔" if len(scores) >= count else ("▶" if phase == progress.phase else "·")
        mean = f" mean {sum(scores) / len(scores):.2f}" if scores else ""
        parts.append(Text(f"{mark} {phase} {len(scores)}/{count}{mean}", style=style if scores else f"dim {style}"))
    return Text("   ").join(parts)


def _episode(progress: Progress) -> RenderableType:
    if not progress.phase:
        return Text("waiting for the nodes", style="dim")
    done, open_ = progress.subtasks[: progress.completed], progress.subtasks[progress.completed :]
    names = [*(Text(f"✔ {name}", style="green") for name in done), *(Text(f"· {name}", style="dim") for name in open_)]
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=len(progress.subtasks), completed=progress.completed, width=12),
        Text(f"step {progress.step}/{progress.steps_total}"),
        Text("  ").join(names),
        Text(f"model {short(progress.model_version)}"),
    )
    return line


def _sparkline(progress: Progress, most: int = 60) -> Text:
    text = Text()
    for score in progress.scores[-most:]:
        text.append(sparkline([score.score], len(progress.subtasks)), style=PHASE_STYLES.get(score.phase, ""))
    return text if progress.scores else Text("none yet", style="dim")


def _control(progress: Progress) -> Text:
    health = progress.control
    return Text(
        f"{health.state}   {health.rate_hz:.0f} Hz   {health.missed} of {health.ticks} ticks missed   "
        f"latency {health.latency_ms_p50:.1f} ms, 99 % below {health.latency_ms_p99:.1f} ms"
    )


def _guard(progress: Progress) -> Text:
    health = progress.control
    style = "red" if health.guard_mode in LATCHED else ""
    reason = f" ({health.guard_reason})" if health.guard_reason else ""
    return Text(f"{health.guard_mode}{reason}   {health.interventions} interventions", style=style)


def _learner(progress: Progress) -> Text:
    health = progress.learner
    parts = [health.state, f"{health.stored} transitions stored", f"{health.updates} models"]
    for label, words in (("KL", ("kl", "divergence")), ("alpha", ("alpha",))):
        value = health.metric(*words)
        if value is not None:
            parts.append(f"{label} {value:.3g}")
    if health.restarts:
        parts.append(f"restarted {health.restarts} x")
    return Text("   ".join(parts))
