"""Who notices that another one is gone or stuck: the policy's watch over the guard, and over its own ticks."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from simpl_interfaces.msg import GuardState

from simpl.core.guard import Flags, Mode
from simpl.core.guard_watch import LOOK, GuardWatch, guard_patience
from simpl.core.policy_loop import LoadedModel, LoopSettings, PolicyLoop, PolicyTick
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl.core.robot_state import RobotState
from simpl.nodes import takeover
from simpl.nodes.guard import GuardNode
from simpl.nodes.policy import PolicyNode
from simpl_core.errors import SimplError

PATIENCE = 30.0
NOT_NAMED = "_NODE_NAME_UNKNOWN_"


def test_silence_is_counted_from_the_oldest_action_without_an_answer():
    watch = GuardWatch(patience=0.16)
    assert watch.silence(5.0) == 0.0 and not watch.silent(5.0)
    watch.sent(10.0)
    watch.sent(10.08)
    assert watch.silence(10.15) == pytest.approx(0.15) and not watch.silent(10.15)
    assert watch.silent(10.17)
    watch.heard()
    assert not watch.silent(99.0)


@pytest.mark.parametrize(("rate", "within"), [(5.0, 0.4), (12.5, 0.16), (20.0, 0.12), (50.0, 0.1), (100.0, 0.1)])
def test_zeros_are_there_two_periods_after_the_guards_death(rate, within):
    """It dies right after an answer: the next action is the first that waits, and the look comes just too early."""
    period = 1.0 / rate
    assert period + guard_patience(period) + LOOK <= within + 1e-9
    assert guard_patience(period) >= 0.05, "a machine that is busy for a moment is no dead guard"


def test_a_guard_is_given_up_once_and_lost_until_it_is_heard():
    watch = GuardWatch(patience=0.16, give_up=1.0)
    watch.sent(10.0)
    assert not watch.gives_up(10.9) and not watch.lost
    assert watch.gives_up(11.1) and watch.lost
    assert not watch.gives_up(11.2), "said once"
    watch.heard()
    assert not watch.lost


def test_while_the_arm_moves_another_word_is_due_without_an_action():
    watch = GuardWatch(patience=0.1)
    watch.heard(due=10.02)
    assert watch.silence(10.01) == 0.0 and not watch.silent(10.11) and watch.silent(10.13)
    watch.heard(due=10.2)
    watch.sent(10.15)
    assert watch.silence(10.2) == pytest.approx(0.05), "an action is answered at once, whatever is due later"
    watch.heard(due=10.04)
    watch.sent(10.06)
    assert watch.silence(10.06) == pytest.approx(0.02), "nor does it put off what has been due"
    watch.heard()
    assert watch.silence(99.0) == 0.0, "a guard at rest may be silent"


class Desk:
    """A takeover with a clock and without a graph."""

    def __init__(self, monkeypatch, patience=0.05, profile="mujoco_kitchen"):
        self.time, self.zeros, self.zeros_at, self.publishers, self.words = 10.0, [], [], [], []
        publisher = SimpleNamespace(publish=lambda zeros: (self.zeros.append(zeros), self.zeros_at.append(self.time)))
        self.zeros_when_said = []
        logger = SimpleNamespace(error=lambda _: self.zeros_when_said.append(len(self.zeros)))
        node = SimpleNamespace(
            get_logger=lambda: logger,
            destroy_publisher=lambda _: self.publishers.clear(),
            mailbox=lambda _: SimpleNamespace(news=self.news),
        )
        monkeypatch.setattr(takeover, "time", SimpleNamespace(monotonic=lambda: self.time))
        tables = {
            "COMMANDS": SimpleNamespace(publisher=lambda _: self.publishers.append(publisher) or publisher),
            "GUARD_STATE": None,
        }
        monkeypatch.setattr(takeover, "interfaces", SimpleNamespace(**tables))
        self.profile = load_profile(find_profile(profile))  # the kitchen's: 12.5 Hz
        self.takeover = takeover.Takeover(node, self.profile, patience)
        self.takeover.look()

    def hears(self, mode, velocity):
        self.takeover._on_guard(self.word(mode, velocity))

    def word(self, mode, velocity, **fields):
        return GuardState(mode=int(mode), velocity=[velocity] * len(self.profile.joints), **fields)

    def news(self):
        """What a mailbox gives: the newest first, each once."""
        words, self.words = self.words, []
        return iter([(word, self.time) for word in reversed(words)])

    def looks_at(self, moment):
        self.time = moment
        self.takeover.look()
        return self

    def looks(self, seconds, step=0.02):
        """Look after each step, for so long."""
        until = self.time + seconds - 1e-9
        while self.time < until:
            self.time += step
            self.takeover.look()
        return self


@pytest.mark.parametrize(
    ("mode", "spared", "zeros"),
    [
        (Mode.STOPPED, 0.12, 0.04),  # a ramp: a command each look; 0.08 + 0.05 s
        (Mode.PAUSED, 0.12, 0.04),
        (Mode.RUNNING, 0.20, 0.04),  # somebody jogs: as long as the guard's own watchdog waits; 0.16 + 0.05 s
    ],
)
def test_a_guard_that_dies_while_the_arm_moves_by_itself_is_replaced(monkeypatch, mode, spared, zeros):
    desk = Desk(monkeypatch)
    desk.hears(mode, 0.3)
    assert not desk.looks(spared).zeros
    assert desk.looks(zeros).zeros
    desk.hears(mode, 0.0)
    desk.zeros.clear()
    assert not desk.looks(5.0).zeros and not desk.takeover.watch.lost


def test_zeros_wait_for_no_reader_of_the_log(monkeypatch):
    desk = Desk(monkeypatch)
    desk.hears(Mode.STOPPED, 0.3)
    desk.looks(0.2)
    assert desk.zeros_when_said == [1], "said once, when the first zeros were out"


@pytest.mark.parametrize("patience", [0.02, 0.05])
def test_while_the_guard_answers_nobody_else_has_a_publisher(monkeypatch, patience):
    desk = Desk(monkeypatch, patience)
    for _ in range(50):
        desk.hears(Mode.RUNNING, 0.0)
        assert not desk.looks(0.04).publishers
    desk.takeover.watch.sent(desk.time)
    desk.looks(patience - 0.005, step=0.005)
    assert desk.publishers and not desk.zeros, "made before it is needed"


def test_a_silent_guard_is_told_of_once(monkeypatch):
    desk = Desk(monkeypatch)
    desk.takeover.watch.sent(desk.time)
    assert desk.looks(0.9).takeover.outcome() == ""
    assert desk.looks(0.2).takeover.outcome() == "the guard does not answer"
    assert desk.looks(0.2).takeover.outcome() == ""


def test_a_policy_that_was_away_itself_reads_the_answers_before_it_takes_over(monkeypatch):
    desk = Desk(monkeypatch)
    desk.takeover.watch.sent(desk.time)
    assert not desk.looks(0.2, step=0.2).zeros
    desk.hears(Mode.RUNNING, 0.0)
    assert not desk.looks(0.06).zeros
    desk.takeover.watch.sent(desk.time)
    desk.looks(0.2, step=0.2)
    assert desk.looks(0.02).zeros, "nothing was there to be read"
    desk.takeover._let_go()
    desk.zeros.clear()
    assert desk.looks(0.4, step=0.2).zeros, "once: it may be away again and again"


@pytest.mark.parametrize("away", [1.3, 30.0])
def test_a_policy_that_was_stopped_hears_the_guard_out_before_it_gives_it_up(monkeypatch, away):
    """What was said to a stopped process comes late; the zeros do not wait, the end of the episode does."""
    desk = Desk(monkeypatch)
    desk.takeover.watch.sent(desk.time)
    desk.looks(away, step=away)
    assert desk.looks(0.9).zeros and desk.takeover.outcome() == ""
    assert desk.looks(0.2).takeover.outcome() == "the guard does not answer"
    desk.takeover.watch.heard()
    desk.takeover.watch.sent(desk.time)
    assert desk.looks(1.3, step=0.1).takeover.outcome(), "late looks are no reason to wait for ever"


def test_a_look_takes_the_newest_word_that_waits(monkeypatch):
    desk = Desk(monkeypatch)
    for _ in range(100):
        desk.takeover.watch.sent(desk.time, tick=1)
        desk.words = [desk.word(Mode.STOPPED, 0.3), desk.word(Mode.RUNNING, 0.0, tick=1)]  # only the older one moves
        desk.looks(0.02)
    assert not desk.looks(5.0).publishers and not desk.zeros and desk.takeover.outcome() == ""
    desk.words = [desk.word(Mode.RUNNING, 0.0), desk.word(Mode.STOPPED, 0.3)]
    assert desk.looks(0.2).zeros, "the arm moves by the newest one, and nobody ends it"


@pytest.mark.parametrize("patience", [0.03, 0.05, 0.115])
def test_zeros_begin_when_the_patience_is_over_and_not_before(monkeypatch, patience):
    desk, sent = Desk(monkeypatch, patience), 10.0
    desk.takeover.watch.sent(sent)
    for moment in (sent + 0.5 * patience, sent + 0.999 * patience):
        assert not desk.looks_at(moment).zeros
    assert desk.publishers, "who is to hear the zeros must have found us by then"
    assert len(desk.looks_at(sent + 1.001 * patience).zeros) == 1
    assert not any(desk.zeros[0].data) and len(desk.zeros[0].data) == len(desk.profile.joints)


def test_zeros_are_repeated_for_two_seconds_and_then_nobody_has_a_publisher(monkeypatch):
    desk = Desk(monkeypatch)
    desk.takeover.watch.sent(desk.time)
    desk.looks(1.9, step=0.005)
    assert np.diff(desk.zeros_at).min() > 0.019 and np.diff(desk.zeros_at).max() < 0.026
    assert desk.publishers
    desk.looks(8.0, step=0.005)
    assert desk.zeros_at[-1] - desk.zeros_at[0] == pytest.approx(2.0, abs=0.03)
    assert not desk.publishers and desk.zeros_when_said == [1], "once, however long the guard is away"


def test_a_guard_that_comes_back_is_left_alone_at_once_and_replaced_when_it_dies_again(monkeypatch):
    desk = Desk(monkeypatch)
    desk.takeover.watch.sent(desk.time, tick=1)
    assert desk.looks(0.1, step=0.005).zeros
    said = len(desk.zeros)
    desk.words = [desk.word(Mode.RUNNING, 0.0, tick=1)]
    desk.looks(0.005, step=0.005)
    assert len(desk.zeros) == said and not desk.publishers, "not one more beside the guard's own"
    desk.looks(1.0, step=0.005)
    assert len(desk.zeros) == said and not desk.publishers
    desk.takeover.watch.sent(desk.time, tick=2)
    assert len(desk.looks(0.1, step=0.005).zeros) > said
    assert len(desk.zeros_when_said) == 2, "told of again"


@pytest.mark.parametrize("rate", [12.5, 50.0, 100.0])
@pytest.mark.parametrize("look", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("death", [0.001, 0.5, 0.999, 1.0])
def test_zeros_come_in_time_whenever_in_a_period_the_guard_dies(monkeypatch, rate, look, death):
    """It answers each action within a millisecond, until it dies a part of a period after one; we look in between.

    The arm moves (RUNNING). The first look is a part of `LOOK` after the first action; 1.0 is a death in the moment of
    the next action, which gets no answer.
    """
    period = 1.0 / rate
    desk = Desk(monkeypatch, guard_patience(period))
    desk.takeover._period = period
    start, actions = desk.time, 20
    dies = start + (actions + death) * period
    events = sorted(
        [(start + k * period, 0, k + 1) for k in range(2 * actions)]
        + [(start + k * period + 1e-3, 1, k + 1) for k in range(2 * actions) if start + k * period + 1e-3 < dies]
        + [(start + look * LOOK + k * LOOK, 2, 0) for k in range(round((2 * actions * period) / LOOK))]
    )
    for moment, kind, tick in events:
        desk.time = moment
        if kind == 0:
            desk.takeover.watch.sent(moment, tick)
        elif kind == 1:
            desk.words.append(desk.word(Mode.RUNNING, 0.3, tick=tick))
        else:
            desk.takeover.look()
        assert not desk.zeros or moment > dies, "it lives"
    assert desk.zeros_at[0] - dies <= max(0.1, 2.0 * period) + 1e-9
    assert desk.zeros_at[0] - dies > guard_patience(period) - 1e-3


def test_who_follows_trajectories_comes_to_rest_without_us_but_the_episode_ends(monkeypatch):
    desk = Desk(monkeypatch, profile="iiwa14")
    desk.takeover.watch.sent(desk.time)
    desk.looks(1.1)
    assert not desk.zeros and desk.takeover.outcome() == "the guard does not answer"
    assert desk.takeover.may_end()


def test_the_policy_may_end_when_the_arm_is_at_rest_or_the_zeros_have_been_heard(monkeypatch):
    desk = Desk(monkeypatch)
    assert desk.takeover.may_end(), "nothing has moved"
    desk.takeover.watch.sent(desk.time, tick=1)
    assert not desk.takeover.may_end(), "nobody knows yet what has become of the last action"
    desk.hears(Mode.RUNNING, 0.3)
    assert not desk.takeover.may_end()
    desk.hears(Mode.STOPPED, 0.0)
    assert desk.takeover.may_end()
    for speed, may_end in ((0.3, False), (0.0, True)):
        desk.takeover.watch.sent(desk.time, tick=2)
        desk.words = [desk.word(Mode.STOPPED, speed, flags=int(Flags.SHUTDOWN))]
        desk.looks(0.005, step=0.005)
        assert desk.takeover.may_end() == may_end, "the guard ended with the arm at rest, or did not"
        desk.takeover.watch.sent(desk.time, tick=3)
        assert desk.takeover.may_end() == may_end, "an action that came after its end moves nothing"
    desk.hears(Mode.RUNNING, 0.0)
    desk.takeover.watch.sent(desk.time, tick=4)
    desk.looks(0.06, step=0.005)
    assert desk.zeros and not desk.takeover.may_end(), "discovery takes its time"
    assert desk.looks(0.3, step=0.005).takeover.may_end()


def test_an_answer_that_overtakes_the_end_of_publishing_leaves_nothing_unanswered():
    """The guard answers a tick within a fraction of a millisecond, on another thread of the policy."""
    watch = GuardWatch(patience=0.1)
    node = SimpleNamespace(
        _actions=SimpleNamespace(publish=lambda _: watch.heard(tick=1)),
        _takeover=SimpleNamespace(watch=watch),
        _profile=load_profile(find_profile("mujoco_kitchen")),
    )
    tick = PolicyTick(1, 1, 1, 0, *[np.zeros(3, np.float32)] * 3, True, *[np.zeros(9)] * 2, "model", 0.1, False)
    PolicyNode._on_tick(node, tick)
    assert watch.silence(time.monotonic() + 60.0) == 0.0


class Decision(NamedTuple):
    action: np.ndarray
    z: np.ndarray
    skill_start: bool


class StuckRunner:
    """A model that does not come back before it is let go."""

    def __init__(self):
        self.inside, self.let_go = threading.Event(), threading.Event()

    def begin_episode(self, e, seed, temperature=1.0):
        pass

    def act(self, observation):
        self.inside.set()
        self.let_go.wait(PATIENCE)
        return Decision(np.zeros(2, np.float32), np.zeros(4, np.float32), True)


def test_a_tick_that_hangs_is_told_of_and_takes_nobody_with_it():
    state, runner, sent = RobotState(["a", "b"], ["door"]), StuckRunner(), []
    loop = PolicyLoop(state, sent.append, LoopSettings(rate_hz=50.0, hang_timeout=0.2, state_timeout=PATIENCE))
    loop.stage(LoadedModel(runner, "stuck", 3, np.ones(2)))
    now = time.monotonic()
    state.update_joints(1, ["a", "b"], [0.0, 0.0], now)
    state.update_objects(1, ["door"], [0.0], now)
    loop.begin_episode(1, np.zeros(3), 0, False)
    assert (loop.status().state, loop.busy()) == ("active", 0.0)
    loop.start()
    try:
        assert runner.inside.wait(PATIENCE)
        while loop.busy() <= 0.2:
            time.sleep(0.01)
        status = loop.status()
        assert status.state == "error" and "a tick has been going on for" in status.reason
        for ask in (loop.end_episode, lambda: loop.stage(LoadedModel(runner, "next", 3, np.ones(2)))):
            with pytest.raises(SimplError, match="the control loop hangs"):
                ask()
        assert sent == []
    finally:
        runner.let_go.set()
    until = time.monotonic() + PATIENCE
    while loop.busy() > 0.2 and time.monotonic() < until:  # a starved thread lets go when it runs again
        time.sleep(0.01)
    ended = loop.end_episode("somebody said so")
    assert ended.result(PATIENCE)
    assert not sent[-1].active
    assert (loop.status().state, loop.status().reason) == ("terminal", "somebody said so")
    loop.stop()


def announced(name: str, participant: int) -> SimpleNamespace:
    """A publisher as the graph tells of it."""
    return SimpleNamespace(node_name=name, node_namespace="/", endpoint_gid=[participant] * 12 + [0] * 4)


@pytest.mark.parametrize(
    ("publishers", "strangers"),
    [
        ([("guard", 1)], []),
        ([("guard", 1), ("policy", 2)], []),
        ([("guard", 1), (NOT_NAMED, 2)], []),
        ([("guard", 1), (NOT_NAMED, 3)], [f"/{NOT_NAMED}"]),
        ([("guard", 1), ("policy", 2), (NOT_NAMED, 2)], ["/policy"]),
        ([("guard", 1), ("guard", 4)], ["/guard"]),
        ([("guard", 1), ("teleop", 2)], ["/teleop"]),
    ],
)
def test_the_guard_knows_the_policy_before_its_name_is_known(publishers, strangers):
    """Participant 2 publishes actions; names come after publishers, and late where a node has just been started."""
    seen = {"commands": [announced(*each) for each in publishers], "policy/action": [announced("policy", 2)]}
    guard = SimpleNamespace(
        _commands=SimpleNamespace(topic_name="commands"),
        count_publishers=lambda topic: len(seen[topic]),
        get_publishers_info_by_topic=seen.__getitem__,
        get_namespace=lambda: "/",
        get_fully_qualified_name=lambda: "/guard",
        resolve_topic_name=lambda name: name,
    )
    guard._who_says_actions = lambda: GuardNode._who_says_actions(guard)
    assert GuardNode._others_on_the_command_topic(guard) == strangers
