"""A million hostile actions against the guard, judged by a checker that was written from the definitions.

An ideal arm integrates what the guard lets through; `limit_checker` recomputes every limit from the commands alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from limit_checker import READY, LimitChecker, arm

from simpl.core.guard import Command, Flags, Guard, GuardSettings, Mode, MotionLimits, Wanted
from simpl.core.kinematics import ForwardKinematics
from simpl.core.profile import parse_profile

KITCHEN = Path(__file__).parents[1] / "ros2_ws" / "src" / "simpl" / "config" / "mujoco_kitchen.yaml"
CHUNK = 2_000  # actions between two judgements

NOT_NUMBERS: list[Any] = [
    None, "go", ["1", "2"], {}, object(), [None], b"\x00", 1j, True, [[1.0], [1.0, 2.0]], [10**400],
    np.datetime64(0, "s"),
]  # fmt: skip


class World:
    """A guard, an arm that obeys it to the last bit, and a policy that means harm.

    Args:
        document: of the profile.
        seed: of everything that is drawn.
        shake: how unevenly time passes between two actions, as a part of the period.
    """

    def __init__(self, document: dict[str, Any], seed: int, shake: float) -> None:
        self.checker = LimitChecker(document)
        self.time, self.shake = 1000.0, shake
        self.guard = Guard(parse_profile(document, "test"), GuardSettings(), lambda: self.time)
        self.rng = np.random.default_rng(seed)
        size = self.checker.size
        self.position = (
            READY.copy() if size == READY.size else np.array([0.0, -1.0, 0.0, -2.0, 0.0, 2.0, 0.0, 0.0, 0.0])
        )
        self.velocity = np.zeros(size)
        self.times: list[float] = []
        self.sent: list[Any] = []
        self.positions = [self.position]
        self.flags = Flags.NONE
        self.faults = 0
        self.tick = self.episode = 0
        self._wishes = self._adversary()

    def act(self) -> None:
        """One hostile action, and a reset when it was refused for good."""
        wish, impossible = next(self._wishes)
        command = self.send(wish)
        assert (command.mode is Mode.FAULT) == impossible, f"{wish!r}: {command}"
        if command.mode is Mode.FAULT:
            self.faults += 1
            self.obey(self.guard.estop().velocity, 0.2)
            self.guard.on_state(self.position)
            answer = self.guard.reset()
            assert answer.success and answer.command is not None, answer.message
            self.obey(answer.command.velocity)
            self.episode += 1

    def send(self, wish: Any, seconds: float | None = None) -> Command:
        """One action, whose command acts for so long [s]; a period, more or less, by default."""
        self.tick += 1
        self.guard.on_state(self.position)
        command = self.guard.on_action(Wanted(wish, self.tick, self.episode, self.tick, True))
        self.flags |= command.flags
        self.obey(command.velocity, seconds)
        return command

    def judge(self) -> list[str]:
        """What the checker finds wrong with everything sent so far; then begin a new page."""
        problems = self.checker.problems(np.array(self.times), self.sent, np.array(self.positions))
        # The new page begins at rest, as the checker assumes.
        self.obey(self.guard.estop().velocity, 0.2)
        self.guard.on_state(self.position)
        assert self.guard.reset().success
        self.episode += 1
        self.times, self.sent, self.positions = [], [], [self.position]
        return problems

    def obey(self, velocity: Any, seconds: float | None = None) -> None:
        """Move as commanded until the next command."""
        period = self.checker.period
        passed = period * (1.0 + self.shake * self.rng.uniform(-1.0, 1.0)) if seconds is None else seconds
        self.times.append(self.time)
        self.sent.append(velocity)
        self.velocity = np.array(velocity, dtype=np.float64)
        self.position = self.position + self.velocity * passed
        self.positions.append(self.position)
        self.time += passed

    def _adversary(self) -> Iterator[tuple[Any, bool]]:
        """Wishes and whether they are impossible: spells of one malice each, impossible ones strewn in between."""
        rng, checker = self.rng, self.checker
        size = checker.size
        bounded = np.isfinite(checker.low) & np.isfinite(checker.high)
        middle = np.where(bounded, checker.low, 0.0) / 2 + np.where(bounded, checker.high, 0.0) / 2
        for _ in itertools.count():
            kind, base = rng.integers(9), rng.normal(size=size)
            for step in range(int(rng.integers(1, 40))):
                if rng.random() < 0.02:
                    yield self._impossible(), True
                if kind == 0:  # calm
                    yield 0.1 * base, False
                elif kind == 1:  # full speed, one direction
                    yield np.sign(base) * checker.speed, False
                elif kind == 2:  # to and fro
                    yield base * 5.0 * (-1) ** step, False
                elif kind == 3:  # noise over many magnitudes, subnormal numbers included
                    yield base * 10.0 ** rng.uniform(-320.0, 300.0, size), False
                elif kind == 4:  # to the nearest ends
                    yield np.where(self.position > middle, 1.0, -1.0) * rng.choice([1e-3, 1.0, 1e308]), False
                elif kind == 5:  # faster than last time
                    yield self.velocity * 1.5 + 1e-3 * base, False
                elif kind == 6:  # exactly at the limits, and one ulp beyond
                    yield np.nextafter(np.copysign(checker.speed, base), math.inf * rng.choice([-1.0, 1.0])), False
                elif kind == 7:  # one joint only
                    yield np.where(np.arange(size) == rng.integers(size), 3.0 * checker.speed, 0.0), False
                else:  # numbers of other types
                    yield [int(9 * number) for number in base], False

    def _impossible(self) -> Any:
        rng, size = self.rng, self.checker.size
        kind = rng.integers(4)
        if kind == 0:
            wish = rng.normal(size=size)
            wish[rng.integers(size)] = rng.choice([math.nan, math.inf, -math.inf])
            return wish
        if kind == 1:
            wrong = int(rng.choice([count for count in range(2 * size) if count != size]))
            return rng.normal(size=wrong)
        if kind == 2:
            return rng.normal(size=[(1, size), (size, 1), (size, size)][int(rng.integers(3))])
        return NOT_NUMBERS[int(rng.integers(len(NOT_NUMBERS)))]


def kitchen() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(KITCHEN.read_text())
    return document


WORLDS = {
    "kitchen": (kitchen(), 0.0, 0.50),
    "acceleration": (arm(rate=12.5), 0.0, 0.25),
    "uneven": (arm(), 0.4, 0.15),
    "box": (arm(box=True), 0.0, 0.04),
    "jerk": (arm(jerk=5000.0, box=True), 0.0, 0.04),
    "soft": (arm(jerk=100.0), 0.0, 0.02),
}
"""Profile, unevenness of time, and the part of all actions that it gets: dear limits get fewer."""


def fuzz(name: str, actions: int, seed: int) -> World:
    document, shake, _ = WORLDS[name]
    world = World(document, seed, shake)
    for start in range(0, actions, CHUNK):
        for _ in range(min(CHUNK, actions - start)):
            world.act()
        problems = world.judge()
        assert not problems, f"{name}, seed {seed}, actions {start} to {start + CHUNK}: {problems}"
    return world


LIMITS = {
    "kitchen": Flags.VELOCITY_LIMIT,
    "acceleration": Flags.VELOCITY_LIMIT | Flags.ACCELERATION_LIMIT | Flags.POSITION_LIMIT,
    "uneven": Flags.ACCELERATION_LIMIT | Flags.POSITION_LIMIT,
    "box": Flags.WORKSPACE_LIMIT,
    "jerk": Flags.JERK_LIMIT,
    "soft": Flags.JERK_LIMIT | Flags.POSITION_LIMIT,
}


@pytest.mark.parametrize("name", WORLDS)
def test_fifty_thousand_hostile_actions(name: str) -> None:
    world = fuzz(name, round(50_000 * WORLDS[name][2]), seed=1)
    assert LIMITS[name] in world.flags, "the limits that this is about were never reached"
    assert world.faults > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_a_million_hostile_actions(name: str) -> None:
    for seed in range(10):
        fuzz(name, round(100_000 * WORLDS[name][2]), seed=100 + seed)


@settings(max_examples=60, deadline=None)
@given(
    wishes=st.lists(arrays(float, 7, elements=st.floats(-1e308, 1e308)), min_size=1, max_size=12),
    pauses=st.lists(st.floats(0.2, 1.2), min_size=12, max_size=12),
    jerk=st.sampled_from([None, 5000.0, 100.0]),
)
def test_no_sequence_of_numbers_breaks_a_limit(wishes: list[Any], pauses: list[float], jerk: float | None) -> None:
    """What hypothesis thinks of, unevenly in time; then the policy falls silent and the arm is told to pause."""
    world = World(arm(jerk=jerk, box=jerk != 100.0), 0, 0.0)
    for wish, pause in zip(wishes, pauses, strict=False):
        world.send(wish, pause * world.checker.period)
    answer = world.guard.pause().command
    while answer is not None and answer.velocity.any():
        world.obey(answer.velocity)
        world.guard.on_state(world.position)
        answer = world.guard.watch()
    assert not world.judge()


def test_the_checker_sees_what_is_wrong() -> None:
    """Each limit broken on purpose, by as little as matters."""
    checker = LimitChecker(arm(jerk=100.0, box=True))
    count, period = 40, checker.period
    times = np.arange(count) * period
    gentle = np.minimum(np.arange(1, count + 1) * 0.01, 0.1)  # 0.5 rad/s^2, 25 rad/s^3
    good = np.outer(gentle, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])

    def judged(velocities: Any, start: Any = READY) -> str:
        path = np.vstack([start, start + np.cumsum(np.asarray(velocities) * period, axis=0)])
        return " ".join(checker.problems(times, velocities, path))

    assert judged(good) == ""
    assert "7 numbers" not in judged(good) and "8 numbers" in " ".join(
        checker.problems(times, [np.zeros(8)] * 3, [READY] * 4)
    )
    for change, word in (
        (lambda v: np.where(np.arange(count)[:, None] == 20, np.nan, v), "not finite"),
        (lambda v: v * 60.0, "too fast"),
        (lambda v: v + (np.arange(count)[:, None] == 20) * 0.25, "accelerates too much"),
        (lambda v: v + (np.arange(count)[:, None] == 20) * 0.05, "jerks too much"),
    ):
        assert word in judged(change(good)), word
    assert "beyond its margin" in judged(good, READY + np.array([0, 0, 0, 0, 0, 0, 2.18]))
    assert "out of the box" in judged(good, np.array([1.5, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785]))


def test_a_tool_that_was_pushed_out_of_its_box_may_only_come_back() -> None:
    limits = MotionLimits(parse_profile(arm(box=True), "test"))
    outside = READY + np.array([1.5, 0, 0, 0, 0, 0, 0])  # x is 0.02 m there, the wall is at 0.1
    turn = np.array([0.5, 0, 0, 0, 0, 0, 0])
    assert limits.overrun(turn, outside) == (Flags.WORKSPACE_LIMIT, "the tool is outside of its box and moving on")
    assert limits.overrun(-turn, outside) == limits.overrun(turn, READY) == (Flags.NONE, "")
    still = np.zeros(7)
    velocity, flags = limits.apply(turn, still, outside)
    assert not velocity.any() and flags & Flags.WORKSPACE_LIMIT
    assert limits.apply(-turn, still, outside)[0][0] < 0.0


def test_both_forward_kinematics_agree_and_know_where_the_ready_pose_is() -> None:
    """Ours by matrices from the tool inwards, the checker's by quaternions from the base; and the maker's number."""
    document = arm(box=True)
    kinematics = parse_profile(document, "test").kinematics
    assert kinematics is not None
    positions = np.random.default_rng(0).uniform(-3.0, 3.0, (50, 7))
    ours = ForwardKinematics(kinematics)
    np.testing.assert_allclose(ours.tool(positions), LimitChecker(document).tool(positions), atol=1e-12)
    np.testing.assert_allclose(ours.tool(READY), [0.3069, 0.0, 0.4869], atol=1e-4)
