"""The bridge's session where its disk refuses what is not the journal."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from episode_world import plan

from export.bundle import Bundle
from simpl.core import bridge_session, stream
from simpl.core.bridge_session import BridgeSession
from simpl.core.commands import EpisodeDone, Request
from simpl.core.transition import Transition

BUNDLE = Path(__file__).parents[1] / "export" / "bundles" / "kitchen"


class Wire:
    """Takes what a session says to the graph."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def send(self, transition: Transition) -> None:
        """Nobody listens."""

    def ask(self, request: Request, model: Path | None) -> None:
        self.asked.append(request)

    def announce(self, result: EpisodeDone) -> None:
        """Nobody listens."""


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_neither_the_timer_nor_the_closing_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in the bridge's timer would kill it with the arm in motion and nobody told to end the episode."""
    session = BridgeSession(plan(), Bundle.open(BUNDLE), tmp_path, Wire())
    session.start(0.0)
    monkeypatch.setattr(stream, "_write", refuse)
    monkeypatch.setattr(bridge_session, "write_report", refuse)
    session.stream._saved = -1  # so that there is something to save
    session.on_time(5.0)
    assert "what was acknowledged is not kept" in caplog.text and not session.finished
    session.stop("the disk is full", 6.0, failed=True)
    session.on_time(7.0)
    assert session.finished and session.failed and "report.json cannot be written" in caplog.text
    session.close()
    assert not session.stream.journal._thread.is_alive(), "the journal is closed"
