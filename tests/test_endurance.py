"""What the scenarios of endurance judge by; they themselves are played by test_faults.py."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from limit_checker import READY, LimitChecker, arm

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from rclpy.serialization import serialize_message

from export.bundle import Bundle
from simpl.conversions import from_bundle_files, to_guard_state, to_velocity_command, to_wanted
from simpl.core.guard import Command, Guard, GuardSettings, Mode, Wanted
from simpl.core.journal import Journal
from simpl.core.model_store import ModelStore, ModelUpdate
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl.core.transition import Transition, pack
from simpl.faults import endurance_faults, fuzz_faults, swap_faults
from simpl.faults.rig import Log, wait_for
from simpl.faults.scenario import UnexpectedError
from simpl.front.stream_journal import blank

SPEED = np.full(7, 2.0)


def transition(episode: int, step: int) -> Transition:
    return dataclasses.replace(blank(step), robot_uuid="6f1f3a86-2f2c-4a51-9d5e-5f0a4cb6a1de", epoch=1, episode=episode)


def test_what_is_older_than_a_second_must_be_on_the_disk_when_the_bridge_dies(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "bridge" / "journal")
    heard = Log()
    for step in range(40):
        heard.append(types.SimpleNamespace(episode=3, step=step, active=True))
        heard.times[-1] = 100.0 + 0.08 * step
    stage: Any = types.SimpleNamespace(actions=heard, run=tmp_path)
    killed = heard.times[-1]
    for step in range(28):
        journal.append(pack(transition(episode=3, step=step)))
    journal.flush()
    endurance_faults._is_on_the_disk(stage, 100.0, killed)  # 27 is younger than a second
    with pytest.raises(UnexpectedError, match=r"1 steps older than 1 s were not on the disk: \[28\]"):
        endurance_faults._is_on_the_disk(stage, 100.0, killed + 0.15)
    journal.close()


def page(velocities: Any, place: Any = READY) -> list[fuzz_faults.Heard]:
    """Heard 1 ms apart, each decided on within the 2 ms before."""
    return [fuzz_faults.Heard(1e-3 * k, 1e-3 * (k - 2), one, place) for k, one in enumerate(velocities)]


def test_a_change_of_velocity_is_judged_by_the_time_that_may_have_passed() -> None:
    steps, limit = np.arange(400), np.full(2, 3.0)
    steady = np.outer(0.003 * steps, [1.0, -1.0]) + 0.001  # exactly at the limit
    assert fuzz_faults.too_quick(page(steady), limit, 1) == fuzz_faults.too_quick(page(steady), limit, 100) == 0
    assert fuzz_faults.too_quick(page(1.05 * steady), limit, 100) == 300, "the bound is tight over a hundred commands"
    jump = steady + (steps >= 200)[:, None] * 0.1
    assert fuzz_faults.too_quick(page(jump), limit, 1) == 1
    stop = np.where(steps[:, None] == 200, 0.0, steady)
    stop[201:] = np.outer(0.003 * (steps[201:] - 200), [1.0, 1.0])
    assert fuzz_faults.too_quick(page(stop), limit, 1) == 0, "zeros may come at once"


def test_a_page_of_commands_is_judged() -> None:
    document = {**arm(), "position_margin": 0.0}
    checker = LimitChecker(document)
    steady = np.outer(0.009 * np.arange(400), np.ones(7)) + 0.001
    steady[150:] = 0.0

    def judged(velocity: Any, place: Any = READY, bad_from: int = 150) -> str:
        return " ".join(fuzz_faults.problems(page(velocity, place), checker, bad_from))

    assert judged(steady) == ""
    for change, word in ((steady * 1.5, "too quickly"), (steady * 2.0, "too fast"), (steady * np.nan, "not finite")):
        assert word in judged(change), word
    assert "after an impossible action" in judged(steady, bad_from=100)
    assert "beyond its margin" in judged(steady, READY + 3.0)
    assert "6 numbers" in judged(steady[:, :6])

    assert "after an impossible action" in judged(steady, bad_from=149), "one is enough"


MOVED = "the arm was to move after an impossible action"


class Credulous(Guard):
    """Lets the first action through that it must not: with the joints in another order."""

    let_through = 0

    def on_action(self, wanted: Wanted) -> Command:
        if wanted.joints and not self.let_through:
            self.let_through += 1
            wanted = wanted._replace(joints=())
        return super().on_action(wanted)


class Wire:
    """The graph of a `Listener` without a graph: a guard that answers, on the listener's own thread.

    Args:
        guard: who answers.
        overtaken: its word about a command comes before the command.
        lost: the number of the one command that never comes.
    """

    def __init__(self, guard: Guard, overtaken: bool, lost: int = 0) -> None:
        self.guard, self.overtaken, self.lost = guard, overtaken, lost
        self.actions: queue.Queue[Any] = queue.Queue()
        self.hears: dict[str, Any] = {}
        self.looks: list[Any] = []

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For all that the listener asks ROS for."""
        node = types.SimpleNamespace(
            create_timer=lambda _, callback: self.looks.append(callback), destroy_node=lambda: None
        )
        tables = {
            name: types.SimpleNamespace(
                publisher=lambda _, name=name: types.SimpleNamespace(publish=getattr(self, f"on_{name.lower()}", None)),
                subscription=lambda _, callback, name=name, **__: self.hears.update({name: callback}),
                client=lambda _: None,
            )
            for name in ("POLICY_ACTION", "JOINT_STATES", "COMMANDS", "GUARD_STATE", "GUARD_RESET")
        }
        executor = types.SimpleNamespace(
            add_node=lambda _: None, wake=lambda: None, spin_until_future_complete=self.spin
        )
        monkeypatch.setattr(fuzz_faults, "topics", types.SimpleNamespace(STREAM=None, **tables))
        monkeypatch.setattr(fuzz_faults.rclpy, "create_node", lambda *_, **__: node)
        monkeypatch.setattr(fuzz_faults, "new_executor", lambda _: executor)

    def on_policy_action(self, message: Any) -> None:
        self.actions.put(message)

    def on_joint_states(self, message: Any) -> None:
        self.guard.on_state(np.array(message.position))

    def spin(self, closed: Any, _: float) -> None:
        looked_at = 0.0
        while not closed.done():
            if time.monotonic() - looked_at > fuzz_faults.STATES:
                looked_at = time.monotonic()
                for look in self.looks:
                    look()
                self.say(self.guard.watch())
            with contextlib.suppress(queue.Empty):
                self.say(self.guard.on_action(to_wanted(self.actions.get(timeout=0.001))))

    def say(self, command: Command | None) -> None:
        if command is None:
            return
        state = to_guard_state(command, 0, self.guard.interventions, self.guard.commands, self.guard.counts.tolist())
        words = [("COMMANDS", to_velocity_command(command.velocity)), ("GUARD_STATE", serialize_message(state))]
        for name, message in reversed(words) if self.overtaken else words:
            if name == "GUARD_STATE" or self.guard.commands != self.lost:
                self.hears[name](message)


def play(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> str:
    """One page of calm actions and impossible ones, the first of them a movement of other joints; what is wrong."""
    wire.stand_in(monkeypatch)
    monkeypatch.setattr(fuzz_faults, "LOST", 0.5)
    monkeypatch.setattr(fuzz_faults, "PATIENCE", 3.0)
    document = yaml.safe_load(find_profile(fuzz_faults.PROFILE).read_text())
    listener = fuzz_faults.Listener(types.SimpleNamespace(context=None), document)  # type: ignore[arg-type]
    try:
        wait_for(listener.is_answered, 10.0)
        calm = [{"velocity": np.full(7, 0.05)}] * 60
        others = {"velocity": np.full(7, -0.05), "joint_names": listener.names[::-1]}
        rest = [{"velocity": np.full(7, np.nan)}] * 3
        listener.page(calm, [others, *rest])
        return " ".join(listener.judge())
    finally:
        listener.close()


@pytest.mark.parametrize("overtaken", [False, True])
@pytest.mark.parametrize(
    ("kind", "found"), [(Guard, ""), (Credulous, "the arm was to move after an impossible action")]
)
def test_one_impossible_action_that_is_let_through_is_seen(
    kind: type[Guard], found: str, overtaken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command is the first after the last possible one's, whatever overtakes what on its way."""
    guard = kind(load_profile(find_profile(fuzz_faults.PROFILE)), GuardSettings())
    assert play(Wire(guard, overtaken), monkeypatch) == found
    assert guard.mode is Mode.FAULT and getattr(guard, "let_through", 1) == 1


def test_a_page_of_which_a_command_was_not_heard_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(load_profile(find_profile(fuzz_faults.PROFILE)), GuardSettings())
    with pytest.raises(TimeoutError, match="the guard does not answer any more"):
        play(Wire(guard, overtaken=False, lost=30), monkeypatch)


def test_hostile_wishes_are_numbers_beyond_the_limits_and_impossible_ones_are_each_a_fault() -> None:
    draw = np.random.default_rng(0)
    profile = load_profile(find_profile(fuzz_faults.PROFILE))
    checker: Any = types.SimpleNamespace(size=7, speed=SPEED)
    wishes = fuzz_faults.possible(draw, checker, 5000)
    velocities = np.array([one["velocity"] for one in wishes])
    assert velocities.shape == (5000, 7) and np.isfinite(velocities).all()
    assert 0.2 < (np.abs(velocities) > SPEED).any(axis=1).mean() < 0.95
    assert sum("stamp" in one for one in wishes) > 5
    for tick, one in enumerate(fuzz_faults.impossible(draw, profile.joint_names) * 3):
        guard = Guard(profile, GuardSettings())
        guard.on_state(np.array([0.0, -0.78, 0.0, -2.35, 0.0, 1.57, 0.78]))
        wanted = Wanted(one["velocity"], tick, 1, 0, True, joints=tuple(one["joint_names"]))
        assert guard.on_action(wanted).mode is Mode.FAULT, one


def test_each_model_of_the_restless_learner_is_another_and_is_taken_in(random_bundle: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    base = Bundle.open(random_bundle)
    network = onnx.load(random_bundle / swap_faults.NETWORK)
    newest = transition(episode=1, step=0)
    store = ModelStore(tmp_path / "models", base, newest.robot_uuid)
    for seq in (5, 6):
        newest.seq = seq
        message = swap_faults.variant(base, network, newest)
        files = from_bundle_files(message.files)
        told = (message.model_version, message.parent_version, message.manifest_json, files, message.trained_on)
        model = store.offer(ModelUpdate(*told))
        assert model is not None and model.trained_on == (newest.epoch, seq)
    assert len(set(store.accepted)) == 2
