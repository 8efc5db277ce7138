"""What a guard leaves to its successor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpl.core.guard import Flags, Guard, GuardSettings
from simpl.core.guard_types import Command, Held, Mode
from simpl.core.latch import Latch
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl_core.errors import ConfigError

PROFILE = load_profile(find_profile("mujoco_kitchen"))


def command(mode: Mode, reason: str, velocity: float = 0.0) -> Command:
    return Command(np.array([velocity, 0.0]), 0, mode, Flags.NONE, reason)


@pytest.mark.parametrize("mode", [Mode.FAULT, Mode.ESTOP, Mode.PAUSED])
def test_a_stop_that_a_person_ends_outlives_the_guard(tmp_path: Path, mode: Mode) -> None:
    file = tmp_path / "guard" / "held.json"
    latch = Latch(file)
    assert latch.left() is None
    for now in (Mode.STOPPED, Mode.RUNNING, mode, mode):
        latch.note(command(now, "why"))
    assert Latch(file).left() == Held(mode, "why")
    latch.note(command(Mode.STOPPED, "reset"))
    assert Latch(file).left() is None


def test_the_successor_forgets_it_when_a_person_has_released_it(tmp_path: Path) -> None:
    file = tmp_path / "held.json"
    Latch(file).note(command(Mode.ESTOP, "why"))
    successor = Latch(file)
    assert successor.left() is not None
    successor.note(command(Mode.ESTOP, "still"))
    assert Latch(file).left() == Held(Mode.ESTOP, "why")
    successor.note(command(Mode.STOPPED, "reset"))
    assert Latch(file).left() is None


def test_a_pause_behind_another_stop_outlives_the_guard(tmp_path: Path) -> None:
    file = tmp_path / "held.json"
    latch, guard = Latch(file), Guard(PROFILE, GuardSettings(), lambda: 10.0)
    latch.note(guard.estop())
    for ask, paused in ((guard.pause, True), (guard.resume, False), (guard.pause, True)):
        said = ask().command
        assert said is not None, "whoever keeps it hears of it at once"
        latch.note(said)
        assert Latch(file).left() == Held(Mode.ESTOP, "e-stop pressed", paused)
    held = Latch(file).left()
    assert held is not None
    successor = Guard(PROFILE, GuardSettings(), lambda: 20.0)
    assert successor.take_over(held).mode is Mode.ESTOP
    successor.on_state(np.zeros(len(PROFILE.joints)))
    assert successor.reset().success and successor.mode is Mode.PAUSED
    assert successor.resume().success and successor.mode is Mode.STOPPED


def test_a_file_of_an_earlier_version_says_nothing_of_a_pause(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text('{"mode": "ESTOP", "reason": "why"}')
    assert Latch(tmp_path / "held.json").left() == Held(Mode.ESTOP, "why", paused=False)


def test_where_it_cannot_be_read_nobody_may_move(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text('{"mode": "EST')
    with pytest.raises(ConfigError, match="look after the arm"):
        Latch(tmp_path / "held.json").left()


def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "guard").touch()  # a file where the folder should be
    latch = Latch(tmp_path / "guard" / "held.json")
    with pytest.raises(OSError, match="guard"):
        latch.note(command(Mode.ESTOP, "why"))
    (tmp_path / "guard").unlink()
    latch.note(command(Mode.ESTOP, "why"))
    assert Latch(tmp_path / "guard" / "held.json").left() == Held(Mode.ESTOP, "why")


def test_without_a_file_nothing_is_kept() -> None:
    latch = Latch(None)
    latch.note(command(Mode.ESTOP, "why"))
    assert latch.left() is None


def test_no_disk_holds_up_an_arm_that_slows_down(tmp_path: Path) -> None:
    latch = Latch(tmp_path / "held.json")
    latch.note(command(Mode.PAUSED, "why", velocity=0.2))
    assert not (tmp_path / "held.json").exists()
    latch.note(command(Mode.PAUSED, "why"))
    assert Latch(tmp_path / "held.json").left() == Held(Mode.PAUSED, "why")


@pytest.mark.parametrize(
    ("left", "mode"), [(Mode.FAULT, Mode.ESTOP), (Mode.ESTOP, Mode.ESTOP), (Mode.PAUSED, Mode.PAUSED)]
)
def test_the_successor_is_in_the_stop_until_a_person_releases_it(left: Mode, mode: Mode) -> None:
    guard = Guard(PROFILE, GuardSettings(), lambda: 10.0)
    said = guard.take_over(Held(left, "why"))
    assert (said.mode, said.reason) == (mode, "stopped before this guard was started: why") and not said.velocity.any()
    again = Guard(PROFILE, GuardSettings(), lambda: 10.0).take_over(Held(mode, said.reason))
    assert again.reason == said.reason, "said once, however often it is started"
    guard.on_state(np.zeros(len(PROFILE.joints)))
    (guard.resume if mode is Mode.PAUSED else guard.reset)()
    assert guard.mode is Mode.STOPPED
