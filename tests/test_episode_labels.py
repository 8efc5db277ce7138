"""What an operator may say of an episode, and what becomes of its last step, its reward and the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from episode_world import E_STAR, STEPS, World, begun, plan, state

from export.bundle import Bundle
from simpl.core.bridge_session import BridgeSession
from simpl.core.commands import BeginEpisode, EndEpisode, EpisodeDone, Finish, Home, Request, ResetScene, Store
from simpl.core.episodes import EpisodeAssembler
from simpl.core.guard import Mode
from simpl.core.labels import Label
from simpl.core.plan import RunPlan, open_plan
from simpl.core.recorder import GuardRecord
from simpl.core.transition import Transition
from simpl.core.waiting import State
from simpl_core.errors import ConfigError, SimplError

BUNDLE = Path(__file__).parents[1] / "export" / "bundles" / "kitchen"


def acting(settings: RunPlan, steps: int = 8, **faults: object) -> World:
    """An episode under way, `steps` ticks long so far."""
    world = begun(settings, **faults)
    world.run(until=BeginEpisode)
    (begin,) = world.of(BeginEpisode)
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(steps))
    return world


def label(world: World, verdict: Label) -> None:
    world.do(world.machine.on_label(verdict, world.now))


def tick(world: World, step: int) -> None:
    world.tick(1, step, E_STAR, state(mark=step))


def is_learned_from(transitions: list[Transition]) -> bool:
    assembler = EpisodeAssembler()
    return any(assembler.add(one) is not None for one in transitions)


@pytest.mark.parametrize(("verdict", "reward", "terminated"), [(Label.SUCCESS, 2.0, True), (Label.FAILURE, 0.0, True)])
@pytest.mark.parametrize("source", ["object_states", "operator"])
def test_a_label_ends_the_episode_with_the_next_observation(
    verdict: Label, reward: float, terminated: bool, source: str
) -> None:
    world = acting(plan(reward=source))
    label(world, verdict)
    assert world.machine.state is State.RUNNING
    tick(world, 8)
    world.run(until=EpisodeDone)
    transitions = world.transitions()
    assert [one.step for one in transitions] == list(range(8))
    last = transitions[-1]
    assert (last.reward, last.reward_source) == (reward, "operator")
    assert (last.terminated, last.truncated) == (terminated, False)
    assert {one.reward_source for one in transitions[:-1]} == {source}
    (done,) = world.of(EpisodeDone)
    assert (done.score, done.success, done.label) == (reward, verdict is Label.SUCCESS, verdict.value)
    assert is_learned_from(transitions)


def test_success_pays_what_the_objects_have_not() -> None:
    world = acting(plan(), script={3: ("microwave",)})
    label(world, Label.SUCCESS)
    tick(world, 8)
    world.run(until=EpisodeDone)
    assert [one.reward for one in world.transitions()] == [0, 0, 1, 0, 0, 0, 0, 1]
    assert world.of(EpisodeDone)[0].subtasks_done == ("microwave", "kettle")


def test_a_discarded_episode_is_kept_whole_but_has_no_end_and_is_done_again() -> None:
    world = acting(plan())
    label(world, Label.DISCARD)
    tick(world, 8)
    first = world.transitions()
    assert [one.step for one in first] == list(range(8)), "no step that was executed is missing"
    assert not is_learned_from(first)
    world.run()
    again = world.of(BeginEpisode)[1]
    assert again.episode == 2 and again.seed == world.of(BeginEpisode)[0].seed
    assert len(world.of(EpisodeDone)) == 6
    assert world.machine.warnings == ["episode 1 is repeated: discarded by the operator"]
    assert world.of(Finish) == [Finish()]


def test_discarding_again_and_again_is_no_failure_of_the_machine() -> None:
    world = begun()
    for _ in range(8):
        world.run(until=BeginEpisode)
        begin = world.of(BeginEpisode)[-1]
        world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
        world.act(begin.episode, begin.e, range(3))
        label(world, Label.DISCARD)
        world.tick(begin.episode, 3, begin.e, state())
    world.run()
    assert len(world.of(EpisodeDone)) == 6 and world.of(Finish) == [Finish()]


def test_where_the_operator_alone_rewards_the_end_of_an_episode_waits_for_him() -> None:
    world = begun(plan(reward="operator"))
    world.run(limit=5.0)
    assert world.machine.state is State.LABEL
    assert world.machine.status == "waiting for episode/success, episode/failure or episode/discard"
    assert len(world.transitions()) == STEPS - 1 and not world.of(EpisodeDone)
    assert isinstance(world.of(EndEpisode)[0], EndEpisode), "the arm stands while he thinks"
    label(world, Label.FAILURE)
    last = world.transitions()[-1]
    assert (last.step, last.reward, last.reward_source) == (STEPS - 1, 0.0, "operator")
    assert (last.terminated, last.truncated) == (False, True), "time ran out: bootstrap through it"
    (done,) = world.of(EpisodeDone)
    assert (done.score, done.success, done.label) == (0.0, False, "failure")


def test_a_label_may_come_late_by_so_much() -> None:
    world = begun(plan(label_wait=30.0), script={3: ("microwave",), 7: ("kettle",)})
    world.run(limit=20.0)
    assert world.machine.state is State.LABEL and len(world.transitions()) == 6
    label(world, Label.FAILURE)  # the camera saw what was not there
    assert [one.reward for one in world.transitions()] == [0, 0, 1, 0, 0, 0, 0]
    assert world.transitions()[-1].terminated
    before = world.now
    world.run(limit=29.0)
    assert world.machine.state is State.LABEL and len(world.of(EpisodeDone)) == 1
    world.run(limit=3.0)
    second = world.of(EpisodeDone)[1]
    assert world.now > before + 29.0
    assert (second.score, second.label) == (2.0, ""), "nobody objected: what the objects paid stands"
    assert world.transitions()[-1].reward_source == "object_states"


def test_the_last_of_two_labels_counts_while_the_episode_is_under_way() -> None:
    world = acting(plan())
    label(world, Label.FAILURE)
    label(world, Label.SUCCESS)
    tick(world, 8)
    world.run(until=EpisodeDone)
    assert world.of(EpisodeDone)[0].label == "success"


def test_a_label_without_an_episode_is_refused() -> None:
    world = begun()
    with pytest.raises(SimplError, match="no episode to be labelled; now: resetting the scene"):
        label(world, Label.SUCCESS)
    world.run(until=EpisodeDone)
    with pytest.raises(SimplError, match="no episode to be labelled"):
        label(world, Label.SUCCESS)


def test_a_policy_that_ends_by_itself_after_a_label_breaks_nothing() -> None:
    world = acting(plan())
    label(world, Label.SUCCESS)
    stopped = world.make_tick(1, 8, E_STAR, state(), np.zeros(9, np.float32), active=False)._replace(tick=9)
    world.do(world.machine.on_action(stopped, world.now))
    world.run(until=EpisodeDone)
    assert world.of(EpisodeDone)[0].success


@pytest.mark.parametrize(("source", "counts"), [("operator", False), ("object_states", True)])
def test_a_stop_does_not_wait_for_a_label(source: str, counts: bool) -> None:
    world = begun(plan(reward=source, label_wait=60.0))
    world.run(limit=10.0)
    assert world.machine.state is State.LABEL
    world.do(world.machine.request_stop("interrupted", world.now))
    assert world.of(Finish) == [Finish("interrupted")]
    assert len(world.transitions()) == STEPS, "the last step is stored, judged or not"
    assert bool(world.of(EpisodeDone)) is counts is is_learned_from(world.transitions())


class Wire:
    """Takes what a session says to the graph."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def send(self, transition: Transition) -> None:
        """Nobody listens."""

    def ask(self, request: Request, model: Path | None) -> None:
        self.asked.append(request)

    def announce(self, result: EpisodeDone) -> None:
        raise AssertionError(f"no episode counts here: {result}")


def test_a_bridge_killed_while_it_waits_for_a_label_has_lost_no_step(tmp_path: Path) -> None:
    bundle, wire, settings = Bundle.open(BUNDLE), Wire(), plan(reward="operator")
    session = BridgeSession(settings, bundle, tmp_path, wire)
    session.start(0.0)
    session.on_answer(wire.asked[-1], True, "", 0.0)
    session.on_answer(wire.asked[-1], True, "", 0.0, bundle.model_version)
    world = World(session.machine)
    for step in range(STEPS + 1):
        action = world.make_tick(1, step, E_STAR, state(mark=step), np.zeros(9, np.float32), step < STEPS)
        session.on_action(action._replace(tick=step + 1), 0.1, 0.0)
        session.on_guard(GuardRecord(step + 1, 0, np.ones(9)), 0.0)
    session.on_answer(wire.asked[-1], True, "", 0.0)
    assert session.machine.state is State.LABEL and session.stream.recorded == STEPS - 1
    session.stream.journal.close()  # as the kernel does with the files of a process that is gone

    again = BridgeSession(settings, bundle, tmp_path, wire)
    stored = list(again.stream.transitions())
    assert [one.step for one in stored] == list(range(STEPS)) and stored[-1].next_observation[0] == STEPS
    assert not is_learned_from(stored) and not again.machine.schedule.results
    assert again.machine.seq == again.stream.last_seq == 1, "the learner counts the step of the last start too"
    again.stream.journal.close()
    assert BridgeSession(settings, bundle, tmp_path, wire).stream.recorded == STEPS, "nor is it stored twice"


# --- the scene ----------------------------------------------------------------------------------------------------


def test_the_operator_puts_the_scene_back_after_the_arm_went_home() -> None:
    world = begun(plan(scene="operator"))
    world.run(limit=5.0)
    assert world.machine.state is State.READY
    assert world.machine.status == "waiting for episode/ready: put the scene back"
    assert len(world.of(Home)) == 1 and not world.of(BeginEpisode) and not world.of(ResetScene)
    for _ in range(6):
        world.do(world.machine.on_ready(world.now))
        world.run(limit=5.0)
    assert len(world.of(EpisodeDone)) == 6 == len(world.of(Home))
    assert world.of(Finish) == [Finish()]


def test_ready_is_refused_while_the_arm_is_still_moving() -> None:
    world = begun(plan(scene="operator"))
    with pytest.raises(SimplError, match="nothing waits for the scene; now: moving the arm home"):
        world.do(world.machine.on_ready(world.now))


def test_an_arm_that_does_not_get_home_waits_for_somebody_and_tries_again() -> None:
    world = begun(plan(scene="operator"))
    (home,) = world.of(Home)
    world.queue.clear()
    world.do(world.machine.on_answer(home, False, "joint 3 is 0.31 rad off its way", world.now))
    world.run(limit=5.0)
    assert world.machine.status.startswith("the arm is not home (joint 3 is 0.31 rad off its way)")
    assert len(world.of(Home)) == 1, "nothing moves by itself after that"
    world.do(world.machine.on_ready(world.now))
    world.run(limit=1.0)
    assert len(world.of(Home)) == 2 and world.machine.status.startswith("waiting for episode/ready")


def test_a_latched_guard_keeps_an_episode_from_beginning_when_the_scene_is_ready() -> None:
    world = begun(plan(scene="operator"))
    world.run(limit=1.0)
    world.do(world.machine.on_guard(GuardRecord(0, 256, np.zeros(9), Mode.ESTOP, "pressed"), world.now))
    with pytest.raises(SimplError, match="ESTOP, pressed"):
        world.machine.on_ready(world.now)
    world.do(world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.STOPPED, "reset"), world.now))
    world.do(world.machine.on_ready(world.now))
    assert world.of(BeginEpisode)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("mode", [Mode.ESTOP, Mode.FAULT])
def test_a_reset_alone_does_not_drive_the_arm_home(mode: Mode, quick: bool) -> None:
    world = begun(plan(scene="operator"))
    world.run(limit=1.0)
    world.do(world.machine.on_ready(world.now))
    (begin,) = world.of(BeginEpisode)
    world.queue.clear()
    world.do(world.machine.on_answer(begin, True, "", world.now, "base"))
    world.act(begin.episode, begin.e, range(8))
    world.do(world.machine.on_guard(GuardRecord(0, 256, np.zeros(9), mode, "pressed"), world.now))
    if not quick:  # else the guard is reset before the policy has confirmed the end of the episode
        world.run(limit=1.0)
        assert world.machine.state is State.HELD
    world.do(world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.STOPPED, "reset"), world.now))
    world.run(limit=300.0)
    assert world.machine.status.startswith("the arm is not home (it was stopped: pressed)")
    assert len(world.of(Home)) == 1, "somebody may still stand beside the arm"

    world.do(world.machine.on_ready(world.now))
    world.run(limit=1.0)
    assert len(world.of(Home)) == 2 and world.machine.status == "waiting for episode/ready: put the scene back"
    world.do(world.machine.on_ready(world.now))
    again = world.of(BeginEpisode)[1]
    assert again.seed == begin.seed and again.episode == begin.episode + 1


def test_after_a_pause_the_arm_goes_home_by_itself() -> None:
    world = begun(plan(scene="operator"))
    world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.PAUSED, "paused"), world.now)
    world.run(limit=1.0)
    world.do(world.machine.on_guard(GuardRecord(0, 0, np.zeros(9), Mode.STOPPED, "resumed"), world.now))
    assert world.machine.status.startswith("waiting for episode/ready")


def test_a_stop_on_the_way_home_stops_the_arm_first() -> None:
    world = begun(plan(scene="operator"))
    world.do(world.machine.request_stop("interrupted", world.now))
    assert isinstance(world.log[-1], EndEpisode) and not world.of(Finish)
    world.do(world.machine.on_answer(world.log[-1], True, "", world.now))
    assert world.of(Finish) == [Finish("interrupted")] and not world.of(Store)


# --- the plan -----------------------------------------------------------------------------------------------------


def test_an_older_run_goes_on_and_one_with_other_rewards_does_not(tmp_path) -> None:
    assert open_plan(tmp_path, plan()) is False
    file = tmp_path / "plan.json"
    later = ("reward", "scene", "temperature", "cool_over")
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name not in later})
    )
    assert open_plan(tmp_path, plan(scene="operator", label_wait=3.0, temperature=0.5)) is True
    with pytest.raises(ConfigError, match="reward 'object_states' instead of 'operator'"):
        open_plan(tmp_path, plan(reward="operator"))


@pytest.mark.parametrize("wrong", [{"reward": "guess"}, {"scene": "robot"}, {"label_wait": -1.0}])
def test_an_impossible_plan_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        plan(**wrong)
