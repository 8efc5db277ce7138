"""A model of 12.5 Hz that commands the simulated arm at 100 Hz: real nodes by the wall clock.

What is asserted holds however late a starved machine lets ticks come.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from ros_rig import Log, RosRig, wait_for
from simpl_interfaces.srv import BeginEpisode, ResetScene

from simpl import interfaces as topics
from simpl.conversions import float64_array, from_policy_action
from simpl.core.guard import Flags, Mode
from simpl.core.plan import RunPlan
from simpl.core.profile_files import find_profile
from simpl.core.recorder import EpisodeRecorder, GuardRecord
from simpl.graph import DEFAULT_TASK

PERIODS, STEPS = 8, 12
E = [0.3, -0.2, 0.5, 0.0, 1.0, -1.0]


@pytest.fixture
def rig() -> Iterator[RosRig]:
    rig = RosRig()
    yield rig
    rig.close()


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    document = yaml.safe_load(find_profile("mujoco_kitchen").read_text())
    path = tmp_path / "fast.yaml"
    path.write_text(yaml.safe_dump({**document, "control_rate_hz": 12.5 * PERIODS}))
    return path


def moving_episode(rig: RosRig, actions: Log, states: Log) -> int:
    """The first episode in which the guard lets the arm move: it may meet arm and controller later than we did."""
    for episode in range(1, 100):
        begin = len(actions), len(states)
        assert rig.call(topics.SCENE_RESET, ResetScene.Request(episode=episode, seed=1)).success
        begun = rig.call(topics.BEGIN_EPISODE, BeginEpisode.Request(episode=episode, e=E, seed=1))
        assert begun.success, begun.message
        first = actions.wait(lambda action, number=episode: action.episode == number, start=begin[0])
        judged = states.wait(lambda state, tick=first.tick: state.tick >= tick, start=begin[1])
        if judged.tick == first.tick and judged.mode == Mode.RUNNING:
            return episode
        rig.call(topics.END_EPISODE)
    raise AssertionError(f"never let move: {judged.reason}")


def test_one_transition_for_each_step_and_commands_in_a_straight_line(rig, profile, random_bundle):
    actions = rig.listen(topics.POLICY_ACTION, qos=topics.STREAM)
    states = rig.listen(topics.GUARD_STATE, qos=topics.STREAM)
    rig.start("arm_sim", noise=0.1)
    rig.start("guard", profile=profile, action_timeout=10.0, state_timeout=10.0)
    rig.start("policy", profile=profile, bundle=random_bundle, max_steps=STEPS, state_timeout=5.0, guard_timeout=10.0)
    rig.hears(topics.POLICY_ACTION, topics.GUARD_STATE)
    # At rest the guard repeats its zeros: once one has come all that follows is heard.
    states.wait(lambda state: state.tick == 0)
    episode = moving_episode(rig, actions, states)
    last = actions.wait(lambda action: action.episode == episode and not action.active)
    wait_for(lambda: any(state.tick == last.tick for state in list(states)))
    ticks = [from_policy_action(message) for message in actions if message.episode == episode]

    assert [tick.tick for tick in ticks] == list(range(ticks[0].tick, ticks[0].tick + len(ticks)))
    steps = [list(group) for _, group in itertools.groupby(ticks, key=lambda tick: tick.step)]
    assert [group[0].step for group in steps] == list(range(STEPS + 1)) and not steps[-1][0].active
    begin = np.zeros(9)
    for group in steps[:-1]:
        assert [tick.substep for tick in group] == list(range(len(group))) and len(group) <= PERIODS
        assert len({tick.action.tobytes() for tick in group}) == 1, "the model was asked once"
        assert [tick.skill_start for tick in group] == [group[0].step % 10 == 0] + [False] * (len(group) - 1)
        way = group[0].action.astype(float) * 2.0 - begin
        parts = [float((tick.velocity - begin) @ way / (way @ way)) * PERIODS for tick in group]
        np.testing.assert_allclose(parts, np.round(parts), atol=1e-6)
        assert (np.diff(np.round(parts)) >= 1).all() and round(parts[0]) >= 1 and round(parts[-1]) <= PERIODS
        for tick, part in zip(group, parts, strict=True):
            np.testing.assert_allclose(tick.velocity, begin + way * part / PERIODS, atol=1e-9)
        begin = group[-1].velocity

    # What the bridge makes of it: a transition a step, with the mean of what the guard let through in it.
    book = EpisodeRecorder(episode, "finetune", RunPlan(DEFAULT_TASK, max_steps=STEPS, lockstep=False))
    for tick in ticks:
        book.on_action(tick, 0.0)
    for state in states:
        velocity = float64_array(state.velocity)
        book.on_guard(GuardRecord(state.tick, state.flags, velocity, Mode(state.mode), state.reason))
    taken = book.take(0.0)
    assert not book.broken and [one.step for one in taken] == list(range(STEPS))
    executed = {state.tick: float64_array(state.velocity) for state in states if state.tick}
    for one, group in zip(taken, steps[:-1], strict=True):
        known = [executed[tick.tick] for tick in group if tick.tick in executed]
        np.testing.assert_allclose(one.velocity_wanted, np.mean([tick.velocity for tick in group], axis=0))
        if len(known) == len(group):
            assert not one.guard_flags & Flags.STALE_ACTION
            np.testing.assert_allclose(one.velocity_executed, np.mean(known, axis=0))
        assert one.stamp == group[0].stamp


def test_in_lockstep_a_rate_above_the_models_is_refused(rig, profile, random_bundle):
    rig.start("policy", profile=profile, bundle=random_bundle, lockstep=True)
    status, output = rig.finish("policy", None)
    assert status == 2 and "lasts 8 control periods; in lockstep" in output, output
