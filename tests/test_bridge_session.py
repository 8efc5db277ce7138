"""The bridge's session where its disk refuses what is not the journal, and where a model is taken back or broken."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from episode_world import plan

from export.bundle import Bundle
from simpl.core import bridge_session, model_store, stream
from simpl.core.bridge_session import BridgeSession
from simpl.core.commands import EpisodeDone, Request
from simpl.core.model_store import ModelUpdate
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


@pytest.fixture
def session(tmp_path: Path) -> Iterator[BridgeSession]:
    made = BridgeSession(plan(), Bundle.open(BUNDLE), tmp_path, Wire())
    yield made
    made.close()


def update(session: BridgeSession, seq: int) -> ModelUpdate:
    """A child of the session's bundle that differs from it in its origin alone."""
    base = Bundle.open(BUNDLE).manifest
    origin = {"robot_uuid": session.stream.robot_uuid, "epoch": session.stream.epoch, "seq": seq}
    child = replace(base, parent_version=base.model_version, provenance={"trained_on": origin})
    return ModelUpdate(child.model_version, base.model_version, child.to_json(), {}, seq)


def offer(session: BridgeSession, model: ModelUpdate, now: float) -> None:
    """Until it is checked, and the session has looked at the outcome."""
    session.on_model(model)
    job = session._jobs[-1][0]
    job.exception(timeout=60.0)
    session.on_time(now)


def test_a_rollback_gives_up_the_model_that_acts_although_a_newer_one_has_come(session: BridgeSession) -> None:
    base = Bundle.open(BUNDLE).model_version
    acting, pending = update(session, 1), update(session, 2)
    offer(session, acting, 1.0)
    session.machine.present = acting.model_version
    offer(session, pending, 2.0)
    assert session.rollback() == base
    assert session._models.refused.keys() == {acting.model_version, pending.model_version}


def test_a_model_that_is_rolled_back_before_the_session_has_heard_of_it_is_not_used(session: BridgeSession) -> None:
    model = update(session, 1)
    session.on_model(model)
    session._jobs[-1][0].result(timeout=60.0)
    session.rollback()
    session.on_time(1.0)
    assert session.machine._models.latest == Bundle.open(BUNDLE).model_version


def test_a_model_whose_check_fails_ends_no_session_and_is_told_of_once(
    session: BridgeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise ValueError("cannot reshape")

    monkeypatch.setattr(model_store, "materialise", burst)
    for now in (1.0, 2.0):
        offer(session, update(session, 1), now)
    (warning,) = session.machine.warnings
    assert "is refused: its check failed: ValueError('cannot reshape')" in warning and not session.finished
