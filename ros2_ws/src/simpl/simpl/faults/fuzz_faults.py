"""A million hostile actions on the wire, against the guard's own process; who hears what comes of it knows no guard."""

from __future__ import annotations

import itertools
import math
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import rclpy
import yaml
from numpy.typing import NDArray
from rclpy.task import Future
from simpl_interfaces.msg import PolicyAction
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from simpl import interfaces as topics
from simpl.conversions import float64_array, float64_field, header, to_joint_state
from simpl.core.profile_files import find_profile
from simpl.faults.limit_checker import LimitChecker
from simpl.faults.rig import RosRig, wait_for
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.stage import PATIENCE, Stage
from simpl.nodes.running import new_executor

PROFILE = "franka_fr3"
PAGE, IMPOSSIBLE = 2_000, 20
"""Actions between two judgements, and so many at the end of each that are impossible."""
STATES = 0.005
"""Between two joint states [s]."""
ARM_HOLDS = 0.1
"""After such a silence of its commands the arm stops by itself, as drivers do [s]."""
WINDOW = 100
"""Commands over which a change of velocity is judged by time."""
TICK = struct.Struct("<20xQ")
"""Where a GuardState on the wire says which action it answers: behind the stamp and an empty name of a frame."""
NUMBER = struct.Struct("<Q")
"""Its last number: how many commands the guard has sent."""
SETTLED = 20
"""So many looks 0.01 s apart must agree on how many commands went out before we heard any."""
LOST = 2.0
"""After so long without an answer an action is sent again [s]."""
NAMESPACE = "hostile"
"""The stage's listeners would keep a million messages of each topic."""

Actions = list[dict[str, Any]]


@scenario(
    "1,000,000 hostile actions: beyond all limits, not finite, of other joints, too old",
    "no impossible one moves the arm; every command that is heard keeps the limits",
    endurance=True,
)
def fuzz_1000000(stage: Stage) -> str:
    profile, pages = stage.logs / "profile.yaml", round(stage.part_of(1_000_000, PAGE) / PAGE)
    document = yaml.safe_load(find_profile(PROFILE).read_text())
    del document["datasheet"]  # its path is relative to the profile's
    profile.write_text(yaml.safe_dump(document))
    listener, draw = Listener(stage.rig, document), np.random.default_rng(pages)
    try:
        # Who judges hears every command; as in a controller, only the newest one would count.
        depth = {f"qos_overrides./{NAMESPACE}/{topics.COMMANDS.name}.publisher.depth": 1000}
        stage.rig.start("guard", profile=profile, remap={"__ns": f"/{NAMESPACE}"}, **depth)
        wait_for(listener.is_answered, PATIENCE, "the guard does not answer")
        stage.strike(lambda: None)
        for _ in range(pages):
            listener.page(possible(draw, listener.checker, PAGE - IMPOSSIBLE), impossible(draw, listener.names))
            wrong = listener.judge()
            if wrong:
                raise UnexpectedError(f"after {listener.actions} actions: {'; '.join(wrong)}")
            wait_for(listener.is_released, PATIENCE, "guard/reset is refused for ever")
    finally:
        listener.close()
    stage.figures |= {"actions": pages * PAGE, "impossible": pages * IMPOSSIBLE, "commands_heard": listener.commands}
    stage.figures |= {"fastest_of_its_limit": listener.fastest, "nearest_to_an_end_rad": listener.nearest}
    return "none through; all limits kept"


class Heard(NamedTuple):
    """A command (A,) [rad/s] and where the arm was when it came (A,) [rad]; times of the steady clock [s].

    One action is on its way at a time. The guard decided on the command before `time`, when it came, and after `since`,
    when the action before the one on its way was sent.
    """

    time: float
    since: float
    velocity: NDArray[np.float64]
    position: NDArray[np.float64]


class Listener:
    """Plays policy and arm to a guard: hears each command and moves by it; an action that is answered brings the next.

    An action is answered when the guard has said so and all the commands are here that it had sent by then, whichever
    comes first: what is heard after the first impossible action is an answer to none before it.

    Attributes:
        checker: of the limits.
        names: of the joints.
        actions: sent so far.
        commands: heard so far.
        fastest: speed that was commanded, as a part of the joint's limit.
        nearest: distance that was left to the end of a joint [rad].
    """

    def __init__(self, rig: RosRig, document: dict[str, Any]) -> None:
        """The arm that `document`, a profile, describes; at its home."""
        # The margin is there for what the guard cannot know exactly, such as how long a command lasts.
        self.checker = LimitChecker({**document, "position_margin": 0.0})
        self.names = [joint["name"] for joint in document["joints"]]
        self.actions = self.commands = 0
        self.fastest, self.nearest = 0.0, np.inf
        self._position = np.array(document["home"])
        self._velocity, self._at = np.zeros(self._position.size), time.monotonic()
        self._left: Iterator[dict[str, Any]] = iter(())
        self._bad_from = 0
        self._said = self._unheard = 0  # commands, as the guard counts them; those before we were there
        self._due = math.inf  # so many must be here before the next action, once this one is answered
        self._done = threading.Event()
        self._tick = self._episode = 0
        self._sent = (0.0, 0.0)  # when the last two actions were
        self._turn_the_page()
        self._node = rclpy.create_node("listener", namespace=NAMESPACE, context=rig.context)
        self._out = topics.POLICY_ACTION.publisher(self._node)
        self._states = topics.JOINT_STATES.publisher(self._node)
        self._reset = topics.GUARD_RESET.client(self._node)
        topics.COMMANDS.subscription(self._node, self._on_command, qos=topics.STREAM)
        topics.GUARD_STATE.subscription(self._node, self._on_answer, raw=True)
        self._node.create_timer(STATES, self._on_time)
        self._executor = new_executor(rig.context)
        self._executor.add_node(self._node)
        self._closed: Future[None] = Future()
        self._thread = threading.Thread(target=self._executor.spin_until_future_complete, args=(self._closed, 1e6))
        self._thread.start()

    def close(self) -> None:
        """Say and hear nothing any more."""
        self._closed.set_result(None)
        self._executor.wake()
        self._thread.join()
        self._node.destroy_node()

    def is_released(self) -> bool:
        """Whether the fault of the page before could be left; then a new one begins, and the arm is at rest."""
        answered = threading.Event()
        future = self._reset.call_async(Trigger.Request())
        future.add_done_callback(lambda _: answered.set())
        if not (answered.wait(LOST) and future.result().success):
            return False
        self._turn_the_page()
        return True

    def _turn_the_page(self) -> None:
        self._heard: list[Heard] = []
        self._episode += 1

    def is_answered(self) -> bool:
        """Whether an action at rest has brought a command about, and it is known how many there were before it."""
        self._act({"velocity": np.zeros(len(self.names))})
        unheard = set()
        for _ in range(SETTLED):  # the guard repeats its zeros meanwhile: a command and its answer, one after the other
            time.sleep(0.01)
            unheard.add(self._said - self.commands)
        self._unheard = max(unheard)
        return bool(self._heard) and self._said > 0 and len(unheard) == 1

    def page(self, first: Actions, then: Actions) -> None:
        """Send all of them, each when the one before is answered; `then` are impossible.

        Raises:
            TimeoutError: no answer comes any more.
        """
        self._due = math.inf
        self._done.clear()
        self._bad_from = 2**63
        self._left = itertools.chain(first, self._mark(), then)
        deadline, seen = time.monotonic() + PATIENCE, self.actions
        self._next()
        while not self._done.wait(LOST):
            if seen == self.actions:
                self._next()
            seen = self.actions
            if time.monotonic() > deadline:
                raise TimeoutError("the guard does not answer any more")

    def judge(self) -> list[str]:
        """What is wrong with what was heard on this page."""
        heard = list(self._heard)  # zeros go on coming meanwhile
        found = problems(heard, self.checker, self._bad_from)
        if not found:
            places = np.array([one.position for one in heard])
            left = np.minimum(self.checker.high - places, places - self.checker.low)
            self.nearest = min(self.nearest, float(left.min()))
            part = np.abs([one.velocity for one in heard]) / self.checker.speed
            self.fastest = max(self.fastest, float(part.max()))
        return found

    def _mark(self) -> Iterator[dict[str, Any]]:
        """Note where the impossible ones begin."""
        self._bad_from = len(self._heard)
        yield from ()  # so that this is not done before its turn comes

    def _act(self, fields: dict[str, Any]) -> None:
        self._tick += 1
        self.actions += 1
        self._sent, self._due = (self._sent[1], time.monotonic()), math.inf
        stamp = fields.get("stamp", time.time_ns())
        message = PolicyAction(header=header(stamp), tick=self._tick, episode=self._episode, active=True)
        message.velocity = float64_field(fields["velocity"])
        message.joint_names = fields.get("joint_names", [])
        self._out.publish(message)

    def _next(self) -> None:
        fields = next(self._left, None)
        if fields is None:
            self._done.set()
        else:
            self._act(fields)

    def _on_command(self, message: Float64MultiArray) -> None:
        command, now = float64_array(message.data), self._move()
        self.commands += 1
        self._heard.append(Heard(now, self._sent[0], command, self._position))
        if command.shape == self._velocity.shape and np.isfinite(command).all():
            self._velocity = command
        self._go_on()

    def _on_answer(self, message: bytes) -> None:
        self._said = NUMBER.unpack(message[-NUMBER.size :])[0]
        if TICK.unpack_from(message)[0] == self._tick:
            self._due = self._said - self._unheard
            self._go_on()

    def _go_on(self) -> None:
        """Send the next action if the last one is answered."""
        if self.commands >= self._due:
            self._due = math.inf
            self._next()

    def _on_time(self) -> None:
        self._move()
        self._states.publish(to_joint_state(time.time_ns(), self.names, self._position))

    def _move(self) -> float:
        """The arm goes on as it was told last; the time now."""
        now = time.monotonic()
        held_from = (self._heard[-1].time if self._heard else now) + ARM_HOLDS
        passed = min(now, held_from) - self._at
        if passed > 0.0:
            self._position = self._position + self._velocity * passed
        self._at = now
        return now


def problems(heard: Sequence[Heard], checker: LimitChecker, bad_from: int) -> list[str]:
    """What is wrong with a page of commands; the impossible ones began when `bad_from` of them had been heard."""
    sent, positions = [one.velocity for one in heard], [one.position for one in heard]
    # Of the time between two only that it counts as a period at most: what is shorter, `too_quick` judges.
    found = checker.problems(np.arange(len(sent)) * checker.period, sent, [*positions, positions[-1]])
    if found:
        return found
    if np.any(sent[bad_from:]):
        found.append("the arm was to move after an impossible action")
    hasty = sum(too_quick(heard, checker.acceleration, span) for span in (1, WINDOW))
    return [*found, *([f"{hasty} changes of velocity came too quickly"] if hasty else [])]


def too_quick(heard: Sequence[Heard], limit: NDArray[np.float64], span: int) -> int:
    """How many commands differ from the one `span` before by more than `limit` (A,) allows in the time between.

    Args:
        heard: N commands; zeros are a stop, which may come at once.
        limit: acceleration [rad/s^2].
        span: so many commands lie between the two.
    """
    velocity = np.array([one.velocity for one in heard])
    passed = np.array([one.time for one in heard[span:]]) - np.array([one.since for one in heard[:-span]])
    beyond = (np.abs(velocity[span:] - velocity[:-span]) > limit * passed[:, None] + 1e-9).any(axis=1)
    stops = np.cumsum(~velocity.any(axis=1))
    return int((beyond & (stops[span:] == stops[:-span])).sum())


def possible(draw: np.random.Generator, checker: LimitChecker, count: int) -> Actions:
    """Wishes that are numbers, in spells of one malice each."""
    actions: Actions = []
    while len(actions) < count:
        kind, base = int(draw.integers(KINDS)), draw.normal(size=checker.size)
        length = min(int(10.0 ** draw.uniform(0.0, 3.3)), count - len(actions))
        actions += [{"velocity": wish(kind, draw, base, step, checker.speed)} for step in range(length)]
    for number in draw.integers(count, size=count // 500):
        actions[number]["stamp"] = 1  # made from a state of long ago
    return actions


KINDS = 8
"""Of malice, see `wish`."""


def wish(
    kind: int, draw: np.random.Generator, base: NDArray[np.float64], step: int, speed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The velocity (A,) of a spell's step, finite; `base` (A,) is the spell's own, `speed` (A,) the joints' limits."""
    if kind == 0:  # full speed in one direction, to the ends
        return np.sign(base) * speed
    if kind == 1:  # beyond all measure
        return np.sign(base) * 1e308
    if kind == 2:  # to and fro
        return 5.0 * base * (-1.0) ** step
    if kind == 3:  # all magnitudes, subnormal numbers included
        return base * 10.0 ** draw.uniform(-320.0, 300.0, base.size)
    if kind == 4:  # one ulp beyond
        return np.nextafter(np.copysign(speed, base), np.copysign(np.inf, base))
    if kind == 5:  # one joint at a time
        return np.where(np.arange(base.size) == step % base.size, 3.0 * speed, 0.0)
    if kind == 6:  # ever faster
        return base * 1.1 ** min(step, 500)
    return 0.1 * base  # calm


def impossible(draw: np.random.Generator, names: Sequence[str]) -> Actions:
    """Wishes that are not numbers, or not for these joints."""
    actions: Actions = []
    for _ in range(IMPOSSIBLE):
        velocity = draw.normal(size=len(names))
        kind = draw.integers(3)
        if kind == 0:
            velocity[draw.integers(len(names))] = draw.choice([np.nan, np.inf, -np.inf])
        elif kind == 1:
            velocity = draw.normal(size=draw.choice([size for size in range(15) if size != len(names)]))
        actions.append({"velocity": velocity, "joint_names": [*names][::-1] if kind == 2 else []})
    return actions
