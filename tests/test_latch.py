"""What a guard leaves to its successor."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpl.core.guard_types import Mode
from simpl.core.latch import Held, Latch
from simpl_core.errors import ConfigError


@pytest.mark.parametrize("mode", [Mode.FAULT, Mode.ESTOP, Mode.PAUSED])
def test_a_stop_that_a_person_ends_outlives_the_guard(tmp_path: Path, mode: Mode) -> None:
    file = tmp_path / "guard" / "held.json"
    latch = Latch(file)
    assert latch.left() is None
    for now in (Mode.STOPPED, Mode.RUNNING, mode, mode):
        latch.note(now, "why")
    assert Latch(file).left() == Held(mode, "why")
    latch.note(Mode.STOPPED, "reset")
    assert Latch(file).left() is None


def test_the_successor_forgets_it_when_a_person_has_released_it(tmp_path: Path) -> None:
    file = tmp_path / "held.json"
    Latch(file).note(Mode.ESTOP, "why")
    successor = Latch(file)
    assert successor.left() is not None
    successor.note(Mode.ESTOP, "still")
    assert Latch(file).left() == Held(Mode.ESTOP, "why")
    successor.note(Mode.STOPPED, "reset")
    assert Latch(file).left() is None


def test_where_it_cannot_be_read_nobody_may_move(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text('{"mode": "EST')
    with pytest.raises(ConfigError, match="look after the arm"):
        Latch(tmp_path / "held.json").left()


def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "guard").touch()  # a file where the folder should be
    latch = Latch(tmp_path / "guard" / "held.json")
    with pytest.raises(OSError, match="guard"):
        latch.note(Mode.ESTOP, "why")
    (tmp_path / "guard").unlink()
    latch.note(Mode.ESTOP, "why")
    assert Latch(tmp_path / "guard" / "held.json").left() == Held(Mode.ESTOP, "why")


def test_without_a_file_nothing_is_kept() -> None:
    latch = Latch(None)
    latch.note(Mode.ESTOP, "why")
    assert latch.left() is None
