"""A small world for the episode machine: policy, guard, plant and learner, one event at a time, as in the graph."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from sim.tasks import SUBTASKS
from simpl.core.commands import (
    BeginEpisode,
    Command,
    Encode,
    EndEpisode,
    Home,
    ResetScene,
    StageModel,
    Store,
)
from simpl.core.episode_machine import EpisodeMachine
from simpl.core.plan import RunPlan
from simpl.core.policy_types import PolicyTick
from simpl.core.recorder import GuardRecord
from simpl.core.transition import Transition
from simpl.core.waiting import State

E_DIM, STEPS = 6, 20
E_STAR = np.arange(E_DIM, dtype=np.float32)
TASK = "microwave > kettle"


def plan(**changes: object) -> RunPlan:
    settings: dict[str, object] = {
        "conditioning": 2, "evaluation": 1, "finetune": 2, "final": 1, "max_steps": STEPS, "model_wait": 5.0,
    }  # fmt: skip
    return RunPlan(TASK, **(settings | changes))  # type: ignore[arg-type]


def state(*done: str, mark: float = 0.0) -> np.ndarray:
    """An observation (30,) in which these subtasks are complete; `mark` goes where no subtask looks."""
    observation = np.full(30, 9.0, np.float32)
    observation[0] = mark
    for name in done:
        observation[list(SUBTASKS[name].indices)] = SUBTASKS[name].goal
    return observation


@dataclass
class World:
    """Policy, guard, plant and learner, one event at a time; faults are switched on by tests."""

    machine: EpisodeMachine
    now: float = 0.0
    log: list[Command] = field(default_factory=list)
    policy_version: str = "base"
    staged: str | None = None
    policy_tick: int = 0
    script: dict[int, tuple[str, ...]] = field(default_factory=dict)  # step -> subtasks complete from then on
    learner_alive: bool = True
    trained: int = 0  # models made
    trained_seq: int = 0
    queue: deque[Command] = field(default_factory=deque)

    def do(self, commands: list[Command]) -> None:
        self.log += commands
        self.queue.extend(commands)

    def run(self, until: type[Command] | None = None, limit: float = 1000.0) -> None:
        """Carry out commands until one of kind `until` came, or nothing is left to do."""
        stop = self.now + limit
        while self.now < stop and self.machine.state is not State.FINISHED:
            if not self.queue:
                self.now += 0.02
                self.do(self.machine.on_time(self.now))
                self.learn()
                continue
            command = self.queue.popleft()
            if until is not None and isinstance(command, until):
                return
            self.carry_out(command)

    def carry_out(self, command: Command) -> None:
        machine = self.machine
        if isinstance(command, StageModel):
            self.staged = command.version
            self.do(machine.on_answer(command, True, "", self.now))
        elif isinstance(command, ResetScene | EndEpisode | Home):
            self.do(machine.on_answer(command, True, "", self.now))
        elif isinstance(command, BeginEpisode):
            self.policy_version, self.staged = self.staged or self.policy_version, None
            self.do(machine.on_answer(command, True, "", self.now, self.policy_version))
            self.act(command.episode, command.e)
        elif isinstance(command, Encode):
            self.do(machine.on_encoded(command, E_STAR, self.now))

    def act(self, episode: int, e: np.ndarray, steps: range = range(STEPS + 1)) -> None:
        """The policy's ticks of an episode, each followed by the guard's record."""
        for step in steps:
            done = tuple(name for first, names in self.script.items() if step >= first for name in names)
            self.tick(episode, step, e, state(*done, mark=step))

    def tick(self, episode: int, step: int, e: np.ndarray, observation: np.ndarray) -> None:
        self.now += 0.004
        self.policy_tick += 1
        active = step < STEPS
        action = np.full(9, step, np.float32)
        self.do(self.machine.on_action(self.make_tick(episode, step, e, observation, action, active), self.now))
        self.do(self.machine.on_guard(GuardRecord(self.policy_tick, 0, action.astype(float) / 2), self.now))

    def make_tick(
        self, episode: int, step: int, e: np.ndarray, observation: np.ndarray, action: np.ndarray, active: bool
    ) -> PolicyTick:
        return PolicyTick(
            stamp=80_000_000 * step, tick=self.policy_tick, episode=episode, step=step, observation=observation,
            z=np.full(10, step // 10, np.float32), e=e, skill_start=step % 10 == 0, action=action,
            velocity=2 * action.astype(float), model_version=self.policy_version, latency=0.001, active=active,
        )  # fmt: skip

    def learn(self) -> None:
        waiting = self.machine.state is State.MODEL
        if waiting and self.learner_alive and self.machine.seq > self.trained_seq:
            self.trained += 1
            self.trained_seq = self.machine.seq
            self.do(self.machine.on_model(f"model-{self.trained}", self.trained_seq, self.now))

    # -- what came of it

    def of(self, kind: type) -> list:
        return [command for command in self.log if isinstance(command, kind)]

    def transitions(self, phase: str | None = None) -> list[Transition]:
        return [c.transition for c in self.of(Store) if phase is None or c.transition.phase == phase]


def begun(settings: RunPlan | None = None, **faults: object) -> World:
    machine = EpisodeMachine(settings or plan(), "base", E_DIM)
    world = World(machine, **faults)  # type: ignore[arg-type]
    world.do(machine.start(0.0))
    return world
