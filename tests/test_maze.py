"""The maze in MuJoCo, the same in closed form, and many at once: each is what the others are."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import sim
from sim.maze import MazeEnv, MazePhysics, load_maze_model
from sim.maze_layout import MazeLayout
from sim.maze_physics import MASS, MAX_SPEED, RADIUS, WallMap, advance
from sim.maze_tasks import PAPERS_MAZE, MazeTask, maze_tasks
from sim.maze_vector import MazeVector
from simpl_core.episode import Episode
from simpl_core.errors import ConfigError

LAYOUT = MazeLayout(20, 2)
TASK = MazeTask(LAYOUT.cells[0], LAYOUT)


def pushes(seed: int, steps: int) -> NDArray[np.float32]:
    """Slowly changing forces (steps, 2) that soon drive the ball into walls."""
    rng, rows, push = np.random.default_rng(seed), [], np.zeros(2)
    for _ in range(steps):
        push = np.clip(0.95 * push + 0.3 * rng.normal(size=2), -1.0, 1.0)
        rows.append(push)
    return np.array(rows, np.float32).reshape(steps, 2)


def somewhere(rng: np.random.Generator) -> NDArray[np.float64]:
    """A state (4,) in a random free cell, moving."""
    cell = LAYOUT.cells[rng.integers(len(LAYOUT.cells))]
    return np.concatenate([cell + rng.uniform(-0.3, 0.3, 2), rng.uniform(-MAX_SPEED, MAX_SPEED, 2)])


def test_mass_is_what_the_model_says() -> None:
    model = load_maze_model(LAYOUT)
    assert model.body_mass[1] == pytest.approx(MASS, rel=1e-12) == pytest.approx(4.18879, rel=1e-6)
    assert model.opt.timestep == 0.01
    assert model.actuator_gear[:, 0].tolist() == [100.0, 100.0]


def test_closed_form_is_mujoco_over_600_steps_with_contacts() -> None:
    """Free runs drift apart only by rounding, which a wall's corner amplifies."""
    physics, walls = MazePhysics(LAYOUT), WallMap()
    places = np.array([walls.add("maze", LAYOUT.walls)])
    contacts, errors = 0, []
    for seed in range(8):
        state = somewhere(np.random.default_rng(seed))
        physics.load(state)
        ours, error = state[None], 0.0
        for push in pushes(seed, 600).astype(np.float64):
            physics.step(push)
            ours = advance(ours, push[None], walls, places)
            contacts += physics.contacts
            error = max(error, float(np.abs(ours[0] - physics.state).max()))
        errors.append(error)
    assert contacts > 500
    assert np.median(errors) < 1e-9
    assert max(errors) < 1e-6


def test_each_step_is_mujocos_however_many_walls_are_touched() -> None:
    """From MuJoCo's own state at every step: nothing adds up, so every contact must agree to rounding."""
    physics, walls = MazePhysics(LAYOUT), WallMap()
    places = np.array([walls.add("maze", LAYOUT.walls)])
    touched, worst = set(), 0.0
    for seed in range(100, 112):
        physics.load(somewhere(np.random.default_rng(seed)))
        for push in pushes(seed, 400).astype(np.float64):
            expected = advance(physics.state[None], push[None], walls, places)[0]
            physics.step(push)
            touched.add(physics.contacts)
            worst = max(worst, float(np.abs(expected - physics.state).max()))
    assert touched >= {0, 1, 2}
    assert worst < 1e-10


def test_the_ball_never_gets_into_a_wall() -> None:
    """At full force and speed in 200 places at once, the centre keeps away from every wall."""
    rng, walls = np.random.default_rng(0), WallMap()
    states = np.stack([somewhere(rng) for _ in range(200)])
    places = np.tile(walls.add("maze", LAYOUT.walls), (200, 1))
    boxes, nearest = np.argwhere(LAYOUT.walls), np.inf
    push = np.zeros((200, 2))
    for step in range(150):
        if step % 10 == 0:
            push = rng.choice([-1.0, 0.0, 1.0], (200, 2))
        states = advance(states, push, walls, places)
        outside = np.maximum(np.abs(states[:, None, :2] - boxes) - 0.5, 0.0)
        nearest = min(nearest, float(np.linalg.norm(outside, axis=2).min()))
    assert 0.02 < nearest < RADIUS
    assert np.abs(states[:, 2:]).max() < MAX_SPEED + 0.25


def test_vector_and_environment_make_the_same_episode() -> None:
    """Slots of different layouts, moving at different times, against one environment each."""
    tasks = [TASK, maze_tasks("target", MazeLayout(12, 1))[0], MazeTask((10, 12))]
    vector, steps = MazeVector(3), 300
    actions = [pushes(0, steps), pushes(1, steps), np.tile(np.array([0.0, 1.0], np.float32), (steps, 1))]
    seen = [[vector.reset(slot, task, seed=slot)] for slot, task in enumerate(tasks)]
    rewards: list[list[float]] = [[], [], []]
    over = [False] * 3
    rng = np.random.default_rng(0)
    while waiting := [slot for slot in range(3) if not over[slot] and len(rewards[slot]) < steps]:
        chosen = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
        result = vector.step(chosen, np.array([actions[slot][len(rewards[slot])] for slot in chosen]))
        for row, slot in enumerate(chosen):
            seen[slot].append(result.observations[row])
            rewards[slot].append(float(result.rewards[row]))
            over[slot] = bool(result.terminated[row])
    for slot, task in enumerate(tasks):
        env = MazeEnv(task)
        observation, _ = env.reset(seed=slot)
        np.testing.assert_array_equal(observation, seen[slot][0])
        for push, theirs, reward in zip(actions[slot], seen[slot][1:], rewards[slot], strict=False):
            observation, own, terminated, _, _ = env.step(push)
            np.testing.assert_allclose(observation, theirs, atol=1e-5)
            assert own == reward == float(terminated)
    assert rewards[2][-1] == 1.0 and over == [False, False, True], "the near goal is met, the far ones are not"


def test_an_episode_ends_at_the_goal_or_after_its_steps() -> None:
    vector = MazeVector(2, max_steps=40)
    vector.reset(0, MazeTask((10, 12)), seed=0)
    vector.reset(1, MazeTask((1, 19)), seed=0)
    for step in range(1, 41):
        slots = [0, 1] if vector._running[0] else [1]
        result = vector.step(slots, np.tile([0.0, 1.0], (len(slots), 1)))
        if len(slots) == 2 and result.terminated[0]:
            assert result.rewards.tolist() == [1.0, 0.0]
            assert result.truncated.tolist() == [False, False]
            assert np.linalg.norm(result.observations[0, :2] - (10, 12)) <= 1.0
        assert bool(result.truncated[-1]) == (step == 40)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[0, 1\]"):
        vector.step([0, 1], np.zeros((2, 2)))
    assert vector.reset(1, TASK, seed=1).shape == (4,)
    assert not vector.step([1], np.zeros((1, 2))).truncated[0]


def test_mistakes_are_refused() -> None:
    vector = MazeVector(3)
    vector.reset(0, TASK, seed=0)
    with pytest.raises(ValueError, match="named twice"):
        vector.step([0, 0], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="slots are 0 to 2"):
        vector.step([-1], np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"must be \(1, 2\).*got \(2,\)"):
        vector.step([0], np.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        vector.step([0], np.full((1, 2), np.nan))
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step([1], np.zeros((1, 2)))
    with pytest.raises(ConfigError, match="num_slots"):
        MazeVector(0)
    assert vector.step([], np.zeros((0, 2))).observations.shape == (0, 4)


def test_gymnasium_accepts_the_environment() -> None:
    sim.register_envs()
    env = gymnasium.make("simpl/Maze-v0", task="8,2", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space m(in|ax)imum value is.*")
        check_env(env.unwrapped)
    assert env.unwrapped.task == MazeTask((8, 2))
    env.close()


def test_the_environment_takes_tasks_and_other_mazes() -> None:
    env = MazeEnv()
    assert env.task == maze_tasks("target", PAPERS_MAZE)[0]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(2, np.float32))
    observation, info = env.reset(seed=1, options={"task": "3,3 in maze 12:4"})
    assert info == {"task": "3,3 in maze 12:4", "success": False}
    assert np.abs(observation[:2] - 6.0).max() <= 0.1
    assert env.render() is None
    with pytest.raises(ValueError, match="2 finite numbers"):
        env.step(np.array([np.nan, 0.0], np.float32))
    with pytest.raises(ConfigError, match="render_mode"):
        MazeEnv(render_mode="human")


def test_a_frame_shows_walls_goal_and_ball() -> None:
    env = MazeEnv("8,2", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame is not None and frame.shape == (480, 480, 3) and frame.dtype == np.uint8

    def pixel(x: float, y: float) -> tuple[int, ...]:
        scale = 480 / 22
        return tuple(int(c) for c in frame[479 - int((y + 0.5) * scale), int((x + 0.5) * scale)])

    ball, goal, wall, floor = pixel(10, 10), pixel(8, 2), pixel(0, 5), pixel(18, 6)
    assert len({ball, goal, wall, floor}) == 4
    assert pixel(10.25, 10) == ball and pixel(10.6, 10) == floor
    assert pixel(8.0, 1.2) == goal


def test_judged_by_its_own_task_an_episode_stays_what_it_was() -> None:
    """And by another: it ends where it first passes that goal, or earns nothing."""
    goal, passed, elsewhere = (MazeTask(cell, PAPERS_MAZE) for cell in ((10, 14), (10, 12), (1, 1)))
    env = MazeVector(1)
    states, rewards, done = [env.reset(0, goal, seed=0)], [], False
    while not done:
        step = env.step([0], [[0.0, 0.3]])
        states.append(step.observations[0])
        rewards.append(float(step.rewards[0]))
        done = bool(step.terminated[0])
    length = len(rewards)
    episode = Episode(
        observations=np.array(states),
        actions=np.zeros((length, 2), np.float32),
        rewards=np.array(rewards, np.float32),
        terminated=True,
        truncated=False,
        skills=np.zeros((-(-length // 10), 1), np.float32),
        skill_starts=np.arange(0, length, 10),
        time_stamps=np.arange(length + 1) * 0.01,
    )
    again = env.judge(episode, goal)
    np.testing.assert_array_equal(again.rewards, episode.rewards)
    assert again.terminated and len(again) == length and len(again.skills) == len(episode.skills)
    shorter = env.judge(episode, passed)
    assert shorter.terminated and shorter.score == 1.0 and 0 < len(shorter) < length
    distances = np.linalg.norm(shorter.observations[1:, :2] - passed.goal, axis=1)
    assert distances[-1] <= 1.0 < distances[:-1].min()
    assert shorter.skill_starts[-1] < len(shorter) and len(shorter.observations) == len(shorter) + 1
    missed = env.judge(episode, elsewhere)
    assert missed.score == 0.0 and missed.truncated and not missed.terminated and len(missed) == length
