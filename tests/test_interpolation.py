"""A control rate above the model's: what is sent in each control period, and that a transition stays a model's step."""

from __future__ import annotations

import numpy as np
import pytest
from test_policy_loop import E, Rig, make_model

from simpl.core.guard import Flags, Guard, GuardSettings, Mode, Wanted
from simpl.core.interpolation import Interpolation
from simpl.core.plan import RunPlan
from simpl.core.policy_types import PolicyTick
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl.core.recorder import EpisodeRecorder, GuardRecord
from simpl.graph import DEFAULT_TASK
from simpl_core.errors import SimplError

# --- the line between two actions ---------------------------------------------------------------------------------


def test_it_leads_in_a_straight_line_from_the_last_command_to_the_wanted_one() -> None:
    line = Interpolation(4, 2)
    assert line.due
    line.aim(np.array([1.0, -2.0]))
    np.testing.assert_allclose([line.next() for _ in range(4)], [[0.25, -0.5], [0.5, -1], [0.75, -1.5], [1, -2]])
    assert line.due
    line.aim(np.array([0.0, -2.0]))
    np.testing.assert_allclose([line.next() for _ in range(4)], [[0.75, -2], [0.5, -2], [0.25, -2], [0, -2]])


def test_with_one_period_an_action_it_is_the_action_to_the_last_bit() -> None:
    line, rng = Interpolation(1, 9), np.random.default_rng(0)
    for wanted in rng.normal(size=(100, 9)):
        assert line.due
        line.aim(wanted)
        assert line.next() is wanted


def test_periods_without_a_command_do_not_lengthen_an_action() -> None:
    line = Interpolation(8, 1)
    line.aim(np.array([8.0]))
    assert [line.next()[0] for _ in range(2)] == [1.0, 2.0]
    line.skip(3)
    assert line.next()[0] == 6.0
    line.skip(5)
    assert line.due
    line.aim(np.array([-2.0]))
    assert line.next()[0] == 5.0, "from the last command that was sent"


def test_an_action_lasts_a_period_at_least() -> None:
    with pytest.raises(ValueError, match="lasts 0 control periods"):
        Interpolation(0, 1)


# --- the loop -----------------------------------------------------------------------------------------------------


class Interpolating(Rig):
    """A loop whose model acts every fourth tick; joints and time move on between ticks."""

    def __init__(self, **settings) -> None:
        super().__init__(rate_hz=50.0, **settings)
        self.model = make_model()._replace(periods=4)
        self.loop.stage(self.model)
        self.stamp = 0

    def tick(self) -> PolicyTick | None:
        self.stamp += 1
        self.time += 0.02
        self.see(self.stamp, a=float(self.stamp))
        return super().tick()


def test_the_model_is_asked_at_its_own_rate_and_commands_lead_to_what_it_wants() -> None:
    rig = Interpolating(max_steps=3)
    rig.loop.begin_episode(1, E, 0, 1.0)
    ticks = [rig.tick() for _ in range(13)]
    assert rig.model.runner.steps == 3
    assert [(tick.step, tick.substep) for tick in ticks] == [(n // 4, n % 4) for n in range(13)]
    assert [tick.active for tick in ticks] == [True] * 12 + [False]
    assert [tick.skill_start for tick in ticks] == [n == 0 for n in range(13)]
    assert [tick.tick for tick in ticks] == list(range(1, 14))
    assert [tick.stamp for tick in ticks] == list(range(1, 14)), "each from the newest state"
    # Joint a at 1, 5, 9 in the steps: wanted velocities 0.2, 1.0, 1.8.
    wanted = [0.05, 0.1, 0.15, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 0.0]
    np.testing.assert_allclose([tick.velocity[0] for tick in ticks], wanted, rtol=1e-6)
    np.testing.assert_allclose([tick.action[0] for tick in ticks[:12]], np.repeat([0.1, 0.5, 0.9], 4), rtol=1e-6)


def test_an_episode_that_is_ended_within_an_action_ends_after_it() -> None:
    rig = Interpolating()
    rig.loop.begin_episode(1, E, 0, 1.0)
    ticks = [rig.tick() for _ in range(2)]
    ended = rig.loop.end_episode()
    ticks += [rig.tick() for _ in range(3)]
    assert [tick.active for tick in ticks] == [True, True, True, True, False]
    assert (ticks[-1].step, ticks[-1].substep) == (1, 0)
    assert ended.done() and rig.tick() is None


def test_without_states_it_ends_at_once() -> None:
    rig = Interpolating(state_timeout=0.1)
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.tick()
    rig.time += 0.2
    rig.loop.end_episode()
    rig.loop.tick()
    assert not rig.sent[-1].active


def test_skipped_deadlines_are_part_of_the_action() -> None:
    rig = Interpolating()
    rig.loop.begin_episode(1, E, 0, 1.0)
    rig.tick()
    rig.see(2)
    rig.loop.tick(skipped=2)
    assert (rig.sent[-1].step, rig.sent[-1].substep) == (0, 1)
    np.testing.assert_allclose(rig.sent[-1].velocity[0], 0.2, rtol=1e-6)
    rig.tick()
    assert (rig.sent[-1].step, rig.sent[-1].substep) == (1, 0)


def test_in_lockstep_both_rates_are_the_same() -> None:
    with pytest.raises(SimplError, match="lasts 4 control periods; in lockstep"):
        Interpolating(lockstep=True)


# --- the guard ----------------------------------------------------------------------------------------------------


def test_a_reset_within_the_first_action_does_not_move_the_arm_again() -> None:
    guard = Guard(load_profile(find_profile("mujoco_kitchen")), GuardSettings(), lambda: 5.0)
    guard.on_state(np.zeros(9))
    velocity = np.full(9, 0.1)
    assert guard.on_action(Wanted(velocity, 1, 1, 0, True)).mode is Mode.RUNNING
    guard.estop()
    assert guard.reset().success
    assert guard.on_action(Wanted(velocity, 2, 1, 0, True, substep=1)).mode is Mode.STOPPED
    assert guard.on_action(Wanted(velocity, 3, 2, 0, True)).mode is Mode.RUNNING


# --- transitions --------------------------------------------------------------------------------------------------

STATE = np.zeros(30, np.float32)


def episode(steps: int, periods: int) -> list[PolicyTick]:
    """Ticks of a whole episode, the terminal one included; velocities are the ticks' numbers."""
    ticks = []
    for number in range(steps * periods + 1):
        step, substep = divmod(number, periods)
        active = step < steps
        ticks.append(
            PolicyTick(number, number + 1, 1, step, STATE + step, STATE[:10], STATE[:6], substep == 0, STATE[:9],
                       np.full(9, float(number + 1)), "model", 0.1, active, substep)
        )  # fmt: skip
    return ticks


def recorder(steps: int) -> EpisodeRecorder:
    return EpisodeRecorder(1, "finetune", RunPlan(DEFAULT_TASK, max_steps=steps, lockstep=False))


def test_there_is_one_transition_for_each_step_of_the_model_with_the_mean_of_what_was_done() -> None:
    book, ticks = recorder(3), episode(3, 4)
    for tick in ticks:
        book.on_action(tick, 0.0)
        flags = Flags.VELOCITY_LIMIT if tick.tick == 7 else 0
        book.on_guard(GuardRecord(tick.tick, flags, tick.velocity / 2.0))
    taken = book.take(0.0)
    assert book.complete and [one.step for one in taken] == [0, 1, 2]
    assert [one.velocity_wanted[0] for one in taken] == [2.5, 6.5, 10.5]
    assert [one.velocity_executed[0] for one in taken] == [1.25, 3.25, 5.25]
    assert [one.guard_flags for one in taken] == [0, Flags.VELOCITY_LIMIT, 0] and book.interventions == 1
    assert [(one.observation[0], one.next_observation[0]) for one in taken] == [(0, 1), (1, 2), (2, 3)]
    assert [one.stamp for one in taken] == [0, 4, 8]


def test_an_overtaken_command_is_flagged_and_the_mean_is_of_the_others() -> None:
    book, ticks = recorder(1), episode(1, 4)
    for tick in ticks:
        book.on_action(tick, 0.0)
        if tick.tick != 2:
            book.on_guard(GuardRecord(tick.tick, 0, tick.velocity))
    (one,) = book.take(0.0)
    assert one.guard_flags == Flags.STALE_ACTION
    assert one.velocity_executed[0] == pytest.approx((1 + 3 + 4) / 3)


def test_a_stop_within_a_step_breaks_the_episode() -> None:
    book, ticks = recorder(1), episode(1, 4)
    for tick in ticks:
        book.on_action(tick, 0.0)
        mode = Mode.FAULT if tick.tick == 3 else Mode.RUNNING
        book.on_guard(GuardRecord(tick.tick, 0, tick.velocity, mode, "NaN"))
    assert book.take(0.0) == [] and "stopped the arm at step 0: NaN" in book.broken


def test_a_step_whose_beginning_was_lost_is_missed() -> None:
    book, ticks = recorder(2), episode(2, 4)
    for tick in ticks:
        if tick.tick != 5:
            book.on_action(tick, 0.0)
    assert "actions 1 to 1 did not arrive" in book.broken
