"""The episode machine against a small world that answers as the graph does: what it asks for, what it stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from episode_world import E_DIM, E_STAR, STEPS, World, begun, plan, state

from simpl.core import waiting
from simpl.core.commands import (
    BeginEpisode,
    Encode,
    EndEpisode,
    EpisodeDone,
    Finish,
    ResetScene,
    StageModel,
    Store,
)
from simpl.core.episode_machine import EpisodeMachine
from simpl.core.guard import Mode
from simpl.core.plan import Schedule, open_plan
from simpl.core.recorder import GUARD_WAIT, EpisodeRecorder, GuardRecord
from simpl.core.waiting import State
from simpl_core.errors import ConfigError

# --- a run without faults -----------------------------------------------------------------------------------------


def test_a_run_goes_through_its_phases_with_the_right_models() -> None:
    world = begun()
    world.run()
    done: list[EpisodeDone] = world.of(EpisodeDone)
    assert [(one.phase, one.model_version) for one in done] == [
        ("conditioning", "base"),
        ("conditioning", "base"),
        ("evaluation", "base"),
        ("finetune", "model-1"),  # learned from the evaluation, too
        ("finetune", "model-2"),
        ("final", "model-3"),
    ]
    assert world.of(Finish) == [Finish()]
    assert len(world.of(Encode)) == 1
    assert [type(c).__name__ for c in world.log if not isinstance(c, Store)][:5] == [
        "ResetScene",
        "BeginEpisode",
        "EndEpisode",
        "EpisodeDone",
        "ResetScene",
    ]
    assert not world.machine.warnings


def test_embeddings_are_fresh_during_conditioning_and_fixed_after_it() -> None:
    world = begun()
    world.run()
    embeddings = [command.e for command in world.of(BeginEpisode)]
    assert not np.array_equal(embeddings[0], embeddings[1])
    assert all(np.array_equal(e, E_STAR) for e in embeddings[2:])


def test_fine_tuning_cools_the_skills_down_and_the_judged_episodes_are_as_cool_as_it_has_got() -> None:
    world = begun(plan(temperature=0.4, cool_over=4))
    world.run()
    np.testing.assert_allclose([one.temperature for one in world.of(BeginEpisode)], [1, 1, 1, 1, 0.85, 0.7])


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    def choices(seed: int) -> list[tuple[object, ...]]:
        world = begun(plan(seed=seed))
        world.run()
        begins = [(c.episode, c.seed, *c.e.tolist()) for c in world.of(BeginEpisode)]
        return begins + [tuple(c) for c in world.of(ResetScene)]

    assert choices(3) == choices(3)
    first, second = choices(3), choices(4)
    assert not {c[1] for c in first} & {c[1] for c in second}
    seeds = [c[1] for c in first]
    assert len(set(seeds)) == len(seeds)


def test_transitions_are_observation_action_next_observation() -> None:
    world = begun()
    world.run(until=EpisodeDone)
    transitions = world.transitions()
    assert len(transitions) == STEPS
    for k, one in enumerate(transitions):
        assert one.step == k
        assert one.observation[0] == k and one.next_observation[0] == k + 1
        assert np.all(one.action == k) and np.all(one.velocity_wanted == 2 * k)
        assert np.all(one.velocity_executed == k / 2)
        assert one.skill_start == (k % 10 == 0)
        assert (one.terminated, one.truncated) == (False, k == STEPS - 1)
        assert one.task == "microwave > kettle" and one.reward_source == "object_states"


def test_rewards_pay_in_order_and_the_task_ends_the_episode() -> None:
    # The kettle is done first and pays only when the microwave is, together with it.
    world = begun(script={3: ("kettle",), 7: ("microwave",)})
    world.run(until=EpisodeDone)
    transitions = world.transitions()
    assert [one.reward for one in transitions] == [0.0] * 6 + [2.0]
    assert transitions[-1].terminated and not transitions[-1].truncated
    (done,) = world.of(EpisodeDone)
    assert done.success and done.score == 2 and done.steps == 7
    assert done.subtasks_done == ("microwave", "kettle")


def test_seq_counts_what_was_stored() -> None:
    world = begun()
    world.run()
    assert world.machine.seq == len(world.transitions()) == 6 * STEPS


# --- the guard's records ------------------------------------------------------------------------------------------


def recorder_with(*guards: GuardRecord, steps: int = 3, lockstep: bool = True) -> EpisodeRecorder:
    world = begun()
    recorder = EpisodeRecorder(1, "conditioning", plan(lockstep=lockstep))
    for guard in guards:
        recorder.on_guard(guard)
    for step in range(steps):
        action = np.full(9, step, np.float32)
        world.policy_tick = 100 + step
        recorder.on_action(world.make_tick(1, step, E_STAR, state(), action, True), 0.0)
    return recorder


def test_guard_records_are_matched_by_tick_not_by_order_of_arrival() -> None:
    recorder = recorder_with(GuardRecord(101, 4, np.full(9, 1.5)), GuardRecord(100, 0, np.full(9, 0.5)))
    first, second = recorder.take(0.0)
    assert first.velocity_executed[0] == 0.5 and first.guard_flags == 0
    assert second.velocity_executed[0] == 1.5 and second.guard_flags == 4
    assert recorder.interventions == 1


def test_a_transition_waits_for_the_guard_but_not_for_ever() -> None:
    recorder = recorder_with()
    assert recorder.take(0.0) == [] and not recorder.broken
    assert recorder.take(GUARD_WAIT) == []
    assert recorder.broken == "the guard's record of step 0 did not arrive"


def test_a_skipped_guard_record_is_not_waited_for_when_a_later_one_came() -> None:
    recorder = recorder_with(GuardRecord(101, 0, np.zeros(9)))
    assert recorder.take(0.0) == []
    assert recorder.broken


def test_an_action_the_guard_did_not_let_through_makes_no_transition() -> None:
    stopped = GuardRecord(101, 256, np.zeros(9), Mode.ESTOP, "e-stop pressed")
    recorder = recorder_with(GuardRecord(100, 0, np.zeros(9)), stopped, GuardRecord(102, 0, np.zeros(9)), steps=4)
    assert [one.step for one in recorder.take(0.0)] == [0]
    assert recorder.broken == "the guard stopped the arm at step 1: e-stop pressed"
    assert recorder.take(0.0) == [] and not recorder.complete


def test_zeros_of_the_guard_break_an_episode_only_between_its_actions() -> None:
    zeros = GuardRecord(0, 32, np.zeros(9), Mode.STOPPED, "no action for 2.0 s")
    recorder = recorder_with(zeros, GuardRecord(100, 0, np.zeros(9)))  # at rest before the first action
    assert not recorder.broken
    recorder.on_guard(zeros)
    assert recorder.broken == "the guard stopped the arm: no action for 2.0 s"


def test_commands_without_an_action_are_not_taken_for_one() -> None:
    recorder = recorder_with(GuardRecord(0, 16, np.zeros(9), Mode.STOPPED))
    assert recorder.take(0.0) == []


def test_actions_that_come_late_twice_or_for_another_episode_change_nothing() -> None:
    world = begun()
    world.run(until=EpisodeDone)
    before = len(world.transitions())
    for episode, step in ((1, STEPS), (1, 3), (7, 0)):
        world.do(world.machine.on_action(world.make_tick(episode, step, E_STAR, state(), np.zeros(9), True), world.now))
    assert len(world.transitions()) == before


# --- faults -------------------------------------------------------------------------------------------------------


def test_a_restarted_policy_costs_one_episode_which_is_repeated() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(8))  # then it dies; the plant waits
    world.run()
    repeated = world.of(BeginEpisode)[1]
    assert repeated.episode == begin.episode + 1
    assert repeated.seed == begin.seed and np.array_equal(repeated.e, begin.e)
    assert len(world.of(EpisodeDone)) == 6
    abandoned = [one for one in world.transitions() if one.episode == begin.episode]
    assert abandoned and not any(one.terminated or one.truncated for one in abandoned)
    assert "is repeated: no tick for" in world.machine.warnings[0]


@pytest.mark.parametrize("lockstep", [False, True])
def test_by_the_wall_clock_no_episode_begins_after_a_broken_one_until_the_guard_is_heard(lockstep: bool) -> None:
    """A new guard may hear and answer the policy before it is heard here: then nobody knows what was executed."""
    world = begun(plan(lockstep=lockstep))
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(8))
    world.run(limit=waiting.SILENCE[lockstep] + waiting.PATIENCE / 2)
    if lockstep:  # there an idle guard is silent
        assert len(world.of(EpisodeDone)) == 6
        return
    assert len(world.of(ResetScene)) == 1 and not world.of(EpisodeDone)
    world.do(world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.STOPPED, ""), world.now))
    world.run()
    assert len(world.of(EpisodeDone)) == 6


def test_a_restarted_policy_gets_its_model_again() -> None:
    world = begun()
    while not world.of(EpisodeDone) or world.of(EpisodeDone)[-1].phase != "finetune":
        world.run(until=EpisodeDone)
    world.policy_version = "base"  # restarted between two episodes, after model-1 acted
    world.staged = None
    world.learner_alive = False  # so no new model is staged anyway
    world.run()
    assert [one.model_version for one in world.of(EpisodeDone)][3:] == ["model-1"] * 3
    assert [command.version for command in world.of(StageModel)].count("model-1") == 2


def test_a_lost_action_breaks_the_episode_rather_than_its_transitions() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(5))
    world.act(begin.episode, begin.e, range(7, 9))
    world.run()
    steps = [one.step for one in world.transitions() if one.episode == begin.episode]
    assert steps == [0, 1, 2, 3]
    assert "actions 5 to 6 did not arrive" in world.machine.warnings[0]
    assert len(world.of(EpisodeDone)) == 6


def test_by_the_wall_clock_a_pause_for_something_late_is_flagged_and_goes_on() -> None:
    zeros = GuardRecord(0, 32, np.zeros(9), Mode.STOPPED, "no action for 0.2 s")
    moving = [GuardRecord(tick, 0, np.ones(9)) for tick in (100, 101, 102)]
    late = GuardRecord(103, 64, np.zeros(9), Mode.STOPPED, "joint state is 0.2 s old")
    recorder = recorder_with(moving[0], moving[1], zeros, moving[2], late, steps=5, lockstep=False)
    taken = recorder.take(0.0)
    assert not recorder.broken
    assert sum(one.guard_flags for one in taken) == 32 + 64 and recorder.interventions == 2
    assert taken[3].guard_flags == 64 and not taken[3].velocity_executed.any()
    pressed = recorder_with(moving[0], GuardRecord(0, 256, np.zeros(9), Mode.ESTOP, "pressed"), lockstep=False)
    assert pressed.broken == "the guard stopped the arm: pressed"


def test_by_the_wall_clock_an_action_may_be_overtaken_but_a_silent_guard_breaks_the_episode() -> None:
    # The guard reads the newest action only: on a busy machine 101 was there before it had looked at 100.
    recorder = recorder_with(GuardRecord(101, 0, np.ones(9)), steps=4, lockstep=False)
    overtaken, executed = recorder.take(0.0)
    assert overtaken.guard_flags == 32 and overtaken.velocity_executed.size == 0
    assert executed.guard_flags == 0 and executed.velocity_executed.size == 9
    assert recorder.interventions == 1 and not recorder.broken
    assert recorder.take(GUARD_WAIT) == [] and recorder.broken  # of 102 it says nothing for long


@pytest.mark.parametrize("mode", [Mode.ESTOP, Mode.FAULT, Mode.PAUSED])
def test_a_latched_guard_costs_the_episode_and_holds_the_run_until_its_reset(mode: Mode) -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(8))
    world.do(world.machine.on_guard(GuardRecord(0, 256, np.zeros(9), mode, "somebody said so"), world.now))
    assert isinstance(world.log[-1], EndEpisode)
    world.run(limit=300.0)  # longer than any patience
    assert world.machine.state is State.HELD
    release = "guard/resume" if mode is Mode.PAUSED else "guard/reset"
    assert world.machine.status == f"waiting for {release}: {mode.name}, somebody said so"
    assert len(world.of(ResetScene)) == 1 and not world.of(EpisodeDone)

    world.do(world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.STOPPED, "reset"), world.now))
    world.run()
    again = world.of(BeginEpisode)[1]
    assert again.episode == begin.episode + 1 and again.seed == begin.seed
    assert len(world.of(EpisodeDone)) == 6
    abandoned = [one for one in world.transitions() if one.episode == begin.episode]
    assert [one.step for one in abandoned] == list(range(7))  # a transition needs the next observation
    assert world.machine.warnings == ["episode 1 is repeated: the guard stopped the arm: somebody said so"]


def test_a_guard_that_latches_between_episodes_lets_none_begin() -> None:
    world = begun()
    world.run(until=ResetScene)
    world.do(world.machine.on_guard(GuardRecord(0, 256, np.zeros(9), Mode.ESTOP, "pressed"), world.now))
    world.do(world.machine.on_answer(world.of(ResetScene)[0], True, "", world.now))
    assert world.machine.state is State.HELD and not world.of(BeginEpisode)
    assert not world.machine.warnings


def test_a_guard_that_latches_while_a_model_is_loaded_has_no_scene_reset() -> None:
    world = begun()
    world.run(until=StageModel)
    resets = len(world.of(ResetScene))
    world.do(world.machine.on_guard(GuardRecord(0, 256, np.zeros(9), Mode.ESTOP, "pressed"), world.now))
    world.do(world.machine.on_answer(world.of(StageModel)[0], True, "", world.now))
    assert world.machine.state is State.HELD and len(world.of(ResetScene)) == resets
    world.do(world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.STOPPED, "reset"), world.now))
    assert len(world.of(ResetScene)) == resets + 1 and len(world.of(StageModel)) == 1


def test_a_stop_ends_a_run_that_is_held() -> None:
    world = begun()
    world.run(until=ResetScene)
    world.do(world.machine.on_guard(GuardRecord(0, 256, np.zeros(9), Mode.ESTOP, "pressed"), world.now))
    world.do(world.machine.on_answer(world.of(ResetScene)[0], True, "", world.now))
    world.do(world.machine.request_stop("interrupted", world.now))
    assert world.of(Finish) == [Finish("interrupted")]


def test_an_observation_with_nan_breaks_the_episode() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(5))
    broken = state()
    broken[4] = np.nan
    world.tick(begin.episode, 5, begin.e, broken)
    world.run()
    assert all(np.isfinite(one.next_observation).all() for one in world.transitions())
    assert "not finite" in world.machine.warnings[0]


def test_the_first_tick_may_overtake_the_answer() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.act(begin.episode, begin.e)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.run(until=EpisodeDone)
    assert len(world.transitions()) == STEPS


@pytest.mark.parametrize("kind", [ResetScene, BeginEpisode, Encode])
def test_what_fails_is_tried_again_with_pauses(kind: type) -> None:
    world = begun()
    failures = 0
    while failures < 4:
        world.run(until=kind)
        failures += 1
        request = world.of(kind)[-1]
        world.do(world.machine.on_silence(request, "nobody there", world.now))
    assert world.now >= 3 * waiting.RETRY
    world.run()
    assert len(world.of(EpisodeDone)) == 6


@pytest.mark.parametrize("kind", [ResetScene, BeginEpisode])
def test_a_service_that_never_comes_ends_the_run_with_a_reason(kind: type) -> None:
    world = begun()
    while world.machine.state is not State.FINISHED and world.now < 500:
        world.run(until=kind)
        if world.machine.state is not State.FINISHED:
            world.do(world.machine.on_silence(world.of(kind)[-1], "the service is not there", world.now))
    (finish,) = world.of(Finish)
    assert "the service is not there" in finish.reason and finish.failed
    assert isinstance(world.log[-2], EndEpisode) == (kind is BeginEpisode), "it may have begun without a word"
    assert world.now == pytest.approx(waiting.PATIENCE, abs=2.0)


def test_an_answer_to_an_older_request_is_ignored() -> None:
    world = begun()
    world.run(until=ResetScene)
    (first,) = world.of(ResetScene)
    world.now += waiting.ANSWER_WAIT + 0.1
    world.do(world.machine.on_time(world.now))  # given up
    assert world.machine.on_answer(first, True, "", world.now) == []


def test_a_begin_without_answer_is_ended_before_the_next() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    world.now += waiting.ANSWER_WAIT + 0.1  # the policy may have begun all the same
    world.do(world.machine.on_time(world.now))
    world.run(until=EpisodeDone)
    names = [type(c).__name__ for c in world.log if not isinstance(c, Store)]
    assert names[:5] == ["ResetScene", "BeginEpisode", "EndEpisode", "ResetScene", "BeginEpisode"]


def test_a_policy_that_refuses_a_model_goes_on_with_the_one_it_has() -> None:
    world = begun()
    world.run(until=StageModel)
    (request,) = world.of(StageModel)
    world.do(world.machine.on_answer(request, False, "golden output off", world.now))
    world.run()
    assert [one.model_version for one in world.of(EpisodeDone)][3:] == ["base", "model-2", "model-3"]
    assert "refused model model-1: golden output off" in world.machine.warnings[0]


def test_a_dead_learner_is_waited_for_once() -> None:
    world = begun(plan(finetune=6), learner_alive=False)
    world.run()
    assert len(world.of(EpisodeDone)) == 10
    assert len(world.machine.warnings) == 1 and "no new model within 5 s" in world.machine.warnings[0]
    assert world.now < 2 * 5.0 + 10 * STEPS * 0.004 + 2.0


def test_a_learner_that_comes_back_is_used_again() -> None:
    world = begun(plan(finetune=6), learner_alive=False)
    while len(world.of(EpisodeDone)) < 5:
        world.run(until=EpisodeDone)
    world.learner_alive = True
    world.do(world.machine.on_learner(0, world.now))
    world.run()
    versions = [one.model_version for one in world.of(EpisodeDone)]
    assert versions[3] == "base" and versions[-1].startswith("model-")


def test_a_learner_without_enough_data_is_not_waited_for() -> None:
    world = begun(learner_alive=False)
    while world.machine.state is not State.FINISHED:
        world.run(until=EpisodeDone)
        if world.machine.state is not State.FINISHED:
            world.do(world.machine.on_learner(world.machine.seq, world.now))
    assert not world.machine.warnings
    assert world.now < 5.0


def test_on_the_wall_clock_only_the_final_phase_waits() -> None:
    world = begun(plan(lockstep=False, finetune=3))
    world.run()
    assert [one.model_version for one in world.of(EpisodeDone)][3:] == ["base"] * 3 + ["model-1"]


def test_rollback_is_used_from_the_next_episode_until_a_newer_model_comes() -> None:
    world = begun(plan(finetune=4))
    while len(world.of(EpisodeDone)) < 4:
        world.run(until=EpisodeDone)
    world.machine.on_rollback("base")
    world.learner_alive = False
    while len(world.of(EpisodeDone)) < 5:
        world.run(until=EpisodeDone)
    world.learner_alive = True
    world.do(world.machine.on_learner(0, world.now))
    world.run()
    versions = [one.model_version for one in world.of(EpisodeDone)]
    assert versions[3:5] == ["model-1", "base"]
    assert versions[-1].startswith("model-")


@pytest.mark.parametrize("kind", [StageModel, ResetScene])
def test_a_rollback_counts_in_the_next_episode_also_when_the_model_is_staged_already(kind: type) -> None:
    world = begun()
    world.run(until=StageModel)
    (staged,) = world.of(StageModel)
    if kind is ResetScene:
        world.carry_out(staged)
        world.run(until=ResetScene)
    world.machine.on_rollback("base")
    world.learner_alive = False
    world.carry_out(world.of(kind)[-1])
    while len(world.of(EpisodeDone)) < 4:
        world.run(until=EpisodeDone)
    assert world.of(EpisodeDone)[-1].model_version == "base" == world.machine.present


def test_a_refused_model_brings_nothing_back_that_was_rolled_back() -> None:
    world = begun(plan(finetune=4))
    world.run(until=StageModel)
    world.carry_out(world.of(StageModel)[0])
    world.run(until=StageModel)
    assert (world.machine.present, world.of(StageModel)[-1].version) == ("model-1", "model-2")
    world.machine.on_rollback("base")
    world.do(world.machine.on_answer(world.of(StageModel)[-1], False, "golden output off", world.now))
    assert world.of(StageModel)[-1].version == "base"


def test_asking_for_the_phase_takes_no_longer_in_a_long_run() -> None:
    world = begun()
    world.run()
    done = world.of(EpisodeDone)
    schedule = Schedule(plan(), done[:3])
    schedule.add(done[3])
    schedule.results = Unread(schedule.results)
    assert (schedule.phase, schedule.index, schedule.complete) == ("finetune", 1, False)


class Unread(list[EpisodeDone]):
    """A bridge asks several times within 20 ms."""

    def __iter__(self) -> Iterator[EpisodeDone]:
        raise AssertionError("all results were looked at")


# --- stopping -----------------------------------------------------------------------------------------------------


def test_a_stop_in_mid_episode_ends_it_first() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(8))
    world.do(world.machine.request_stop("interrupted by a signal", world.now))
    assert isinstance(world.log[-1], EndEpisode) and not world.of(Finish)
    world.run()
    assert world.of(Finish) == [Finish("interrupted by a signal")]
    assert not world.of(EpisodeDone)


def test_a_stop_ends_even_if_the_policy_is_gone() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.do(world.machine.request_stop("interrupted", world.now))
    for _ in range(100):
        world.now += 0.02
        world.do(world.machine.on_time(world.now))
    assert world.of(Finish) == [Finish("interrupted")]


def test_a_stop_ends_what_a_begin_without_answer_may_have_begun() -> None:
    world = begun()
    world.run(until=BeginEpisode)
    world.now += waiting.ANSWER_WAIT + 0.1
    world.do(world.machine.on_time(world.now))
    world.do(world.machine.request_stop("interrupted", world.now))
    assert isinstance(world.log[-1], EndEpisode) and not world.of(Finish)
    world.do(world.machine.on_answer(world.log[-1], True, "", world.now))
    assert world.of(Finish) == [Finish("interrupted")]


@pytest.mark.parametrize("kind", [ResetScene, Encode, StageModel])
def test_a_stop_between_episodes_ends_at_once(kind: type) -> None:
    world = begun()
    world.run(until=kind)
    world.do(world.machine.request_stop("interrupted", world.now))
    assert isinstance(world.log[-1], Finish)
    assert world.machine.on_answer(world.of(kind)[-1], True, "", world.now) == []


def test_an_episode_that_is_over_counts_although_the_stop_came() -> None:
    world = begun()
    world.run(until=EndEpisode)
    world.do(world.machine.request_stop("interrupted", world.now))
    world.do(world.machine.on_answer(world.of(EndEpisode)[-1], True, "", world.now))
    assert len(world.of(EpisodeDone)) == 1 and world.machine.state is State.FINISHED


# --- going on after a restart of the bridge -----------------------------------------------------------------------


def test_a_restarted_bridge_goes_on_where_the_journal_ends() -> None:
    world = begun()
    while len(world.of(EpisodeDone)) < 4:
        world.run(until=EpisodeDone)
    machine = EpisodeMachine(plan(), "base", E_DIM, world.of(EpisodeDone), last_number=4)
    again = World(machine, policy_version="model-1", policy_tick=world.policy_tick)
    again.do(machine.start(0.0))
    again.run()
    assert [one.phase for one in again.of(EpisodeDone)] == ["finetune", "final"]
    assert again.of(EpisodeDone)[0].episode > 4
    assert len(machine.schedule.results) == 6
    assert all(np.array_equal(command.e, E_STAR) for command in again.of(BeginEpisode))


def test_a_restarted_bridge_ends_an_episode_that_still_runs_before_it_touches_the_scene() -> None:
    world = World(EpisodeMachine(plan(), "base", E_DIM, last_number=4))
    world.do(world.machine.start(0.0))
    assert world.log == [EndEpisode(4)], "its policy has not noticed that the bridge was killed"
    world.run(until=BeginEpisode)
    assert [type(command) for command in world.log] == [EndEpisode, ResetScene, BeginEpisode]
    assert world.log[-1].episode == 5 and not world.machine.warnings


def test_a_folder_of_another_run_is_not_continued(tmp_path: Path) -> None:
    assert open_plan(tmp_path, plan()) is False
    assert open_plan(tmp_path, plan(model_wait=1.0)) is True
    with pytest.raises(ConfigError, match="another run, with seed 0 instead of 5"):
        open_plan(tmp_path, plan(seed=5))
