"""The fault harness itself, and its scenarios as tests: the short set always, all others with `make test-slow`.

A scenario passes when the expected state was reached and nothing was lost or stored twice; of one of endurance a
fiftieth is played. How long it took is told by `simpl faults`; on a machine that is busy with other things it says
nothing.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from sensor_msgs.msg import JointState

from simpl.core.robot_state import CLOCK_SET, RobotState, is_news
from simpl.faults import sensor
from simpl.faults.catalogue import SCENARIOS
from simpl.faults.runner import play_apart
from simpl.faults.scenario import FAIL, LATE, LEFT_OUT, PASS, Outcome, Scenario
from simpl.front import faults_command
from simpl.front.faults_command import FaultsSettings, run_faults
from simpl_core.errors import ConfigError

PORTION = 0.02
SET = [pytest.param(one, marks=() if one.quick else pytest.mark.slow, id=name) for name, one in SCENARIOS.items()]


@pytest.mark.parametrize("scenario", SET)
def test_fault(scenario: Scenario, tmp_path: Path) -> None:
    outcome = play_apart(scenario, tmp_path / "play", PORTION if scenario.endurance else 1.0)
    if outcome.left_out:
        pytest.skip(outcome.left_out)
    assert outcome.sound, f"{outcome.seen}; lost {outcome.lost}, duplicated {outcome.duplicated}\n{outcome.tail}"


def test_the_issue_asks_for_sixteen() -> None:
    assert len(SCENARIOS) >= 16
    assert sum(one.quick for one in SCENARIOS.values()) >= 5


def outcome(**fields: object) -> Outcome:
    known = {"reached": True, "lost": 0, "duplicated": 0, "time_to_zero": 0.1, "within": 0.16}
    return Outcome("one", "a fault", "zeros", **{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, PASS),
        ({"within": None, "time_to_zero": 9.0}, PASS),
        ({"time_to_zero": 0.2}, LATE),
        ({"reached": False}, FAIL),
        ({"lost": 1}, FAIL),
        ({"duplicated": 1, "time_to_zero": 9.0}, FAIL),
        ({"reached": False, "left_out": "needs a moon"}, LEFT_OUT),
        ({"figures": {"kilos": 3.0}, "bounds": {"kilos": (None, 3.0), "not measured": (1.0, 2.0)}}, PASS),
        ({"figures": {"kilos": 3.1}, "bounds": {"kilos": (None, 3.0)}}, LATE),
        ({"figures": {"kilos": 3.1}, "bounds": {"kilos": (4, None)}}, LATE),
    ],
)
def test_verdicts(fields: dict[str, object], verdict: str) -> None:
    assert outcome(**fields).verdict == verdict


@pytest.mark.parametrize(("fields", "status"), [({}, 0), ({"time_to_zero": 1.0}, 1), ({"lost": 3}, 1)])
def test_the_command_plays_what_is_named_and_says_so(
    fields: dict[str, object], status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    played = []

    def play(scenario: Scenario, folder: Path, portion: float) -> Outcome:
        played.append((scenario.name, folder.parent))
        assert portion == 1.0
        return outcome(**fields)

    monkeypatch.setattr("simpl.faults.runner.play_apart", play)
    shown = io.StringIO()
    settings = FaultsSettings(only=("estop_mid_skill", "partition"), out=tmp_path, json=True)
    assert run_faults(settings, Console(file=shown, width=200)) == status
    assert played == [("estop_mid_skill", tmp_path), ("partition", tmp_path)]
    (first, _) = json.loads(shown.getvalue())
    assert first["verdict"] == outcome(**fields).verdict and first["lost"] == fields.get("lost", 0)
    table = io.StringIO()
    Console(file=table, width=200).print(faults_command.outcomes_table([outcome(**fields)]))
    assert f"{fields.get('time_to_zero', 0.1):.3f} s (of 0.16 s)" in table.getvalue()


def test_an_unknown_scenario_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="no scenario 'meteor'; there are policy_sigkill, "):
        run_faults(FaultsSettings(only=("meteor",)))


@pytest.mark.parametrize(("endurance", "count"), [(False, 30), (True, 5)])
def test_endurance_is_played_when_asked_for(endurance: bool, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[bool, float]] = []

    def play(scenario: Scenario, folder: Path, portion: float) -> Outcome:
        played.append((scenario.endurance, portion))
        return outcome(figures={"kills_in_all": 50})

    monkeypatch.setattr("simpl.faults.runner.play_apart", play)
    table = io.StringIO()
    assert run_faults(FaultsSettings(endurance=endurance, portion=0.5), Console(file=table, width=200)) == 0
    assert len(played) >= count and set(played) == {(endurance, 0.5)}
    assert "kills in all 50" in table.getvalue()
    with pytest.raises(ConfigError, match="--portion is 0"):
        run_faults(FaultsSettings(portion=0.0))


def test_a_graph_that_did_not_get_going_is_played_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plays = [outcome(reached=False), outcome(struck=True, reached=False, seen="second")]
    monkeypatch.setattr("simpl.faults.runner._play", lambda *_: plays.pop(0))
    assert play_apart(SCENARIOS["policy_sigkill"], tmp_path).seen == "second"
    plays = [outcome(struck=True, reached=False, seen="first")]
    assert play_apart(SCENARIOS["policy_sigkill"], tmp_path).seen == "first"


def test_a_scenario_that_breaks_fails_and_leaves_no_process(tmp_path: Path) -> None:
    unknown = Scenario("no_such_scenario", "", "", lambda _: "")
    failed = play_apart(unknown, tmp_path / "play")
    assert failed.verdict == FAIL and "KeyError: 'no_such_scenario'" in failed.tail


# -- what the scenarios found ------------------------------------------------------------------------------------------


def test_old_and_repeated_readings_are_no_news_but_a_clock_set_back_is() -> None:
    assert is_news(11, 10) and not is_news(10, 10) and not is_news(9, 10)
    assert is_news(1, CLOCK_SET + 2) and not is_news(1, CLOCK_SET + 1)
    state = RobotState(["a"], [], newer=True)
    for stamp, position, now in ((5, 0.5, 1.0), (4, 0.4, 2.0), (5, 0.6, 3.0)):
        state.update_joints(stamp, ["a"], [position], now)
    newest = state.newest()
    assert newest is not None and (newest.stamp, newest.oldest) == (5, 1.0)
    np.testing.assert_array_equal(newest.observation, np.float32([0.5]))


def test_a_driver_that_stamps_nothing_is_heard() -> None:
    state = RobotState(["a"], [], newer=True)
    for position, now in ((0.5, 1.0), (0.6, 2.0)):
        state.update_joints(0, ["a"], [position], now)
    newest = state.newest()
    assert newest is not None and newest.oldest == 2.0
    np.testing.assert_array_equal(newest.observation, np.float32([0.6]))


def test_what_the_relay_does_to_joint_states() -> None:
    def message(number: int) -> JointState:
        return JointState(name=["a", "b", "c", "d"], position=[float(number), 0.0, 0.0, 0.0])

    def passed(fault: sensor.Fault, count: int) -> list[float]:
        return [one.position[0] for number in range(count) for one in fault(message(number))]

    assert passed(sensor.healthy, 3) == [0, 1, 2] and passed(sensor.silent, 3) == []
    assert passed(sensor.HalfRate(), 5) == [0, 2, 4] and passed(sensor.StaleStamp(), 3) == [0, 0, 0]
    assert passed(sensor.Reordered(behind=4), 8) == [0, 2, 4, 1, 6, 3]
    assert len(sensor.missing_joint(message(0))[0].name) == len(sensor.missing_joint(message(0))[0].position) == 3
    assert np.isnan(sensor.nan(message(0))[0].position[3])
