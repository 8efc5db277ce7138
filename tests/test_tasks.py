"""Task sets, reading tasks, and the reward that pays subtasks once and in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.tasks import (
    KITCHEN_TARGET_TASKS,
    KITCHEN_TASKS,
    KITCHEN_TRAIN_TASKS,
    OBJECT_COORDINATES,
    ROBOT_JOINTS,
    STATE_SIZE,
    SUBTASKS,
    KitchenTask,
    SubtaskTracker,
    ever_completed,
    is_unseen,
    parse_kitchen_task,
    rewards_along,
)
from simpl_core.errors import TaskError


def state_with(*done: str) -> NDArray[np.float64]:
    """A state in which exactly the named subtasks are at their goal and everything else is at zero."""
    state = np.zeros(STATE_SIZE)
    for name in done:
        state[list(SUBTASKS[name].indices)] = SUBTASKS[name].goal
    return state


def test_the_papers_task_sets() -> None:
    assert len(KITCHEN_TRAIN_TASKS) == len(set(KITCHEN_TRAIN_TASKS)) == 23
    assert len(KITCHEN_TARGET_TASKS) == len(set(KITCHEN_TARGET_TASKS)) == 10
    assert all(len(task) == 4 for task in KITCHEN_TRAIN_TASKS + KITCHEN_TARGET_TASKS)
    # The order is the paper's: first and last of each list.
    assert str(KITCHEN_TRAIN_TASKS[0]) == "microwave > kettle > bottom burner > slide cabinet"
    assert str(KITCHEN_TRAIN_TASKS[22]) == "bottom burner > top burner > light switch > slide cabinet"
    assert str(KITCHEN_TARGET_TASKS[0]) == "microwave > bottom burner > light switch > top burner"
    assert str(KITCHEN_TARGET_TASKS[9]) == "microwave > kettle > bottom burner > hinge cabinet"


def test_the_wide_sets_hold_the_papers_training_tasks_and_share_nothing_with_any_target() -> None:
    wide, unseen = KITCHEN_TASKS["wide"], KITCHEN_TASKS["target-wide"]
    assert len(set(wide)) == 60 and len(set(unseen)) == 20
    assert set(KITCHEN_TRAIN_TASKS) < set(wide)
    assert not set(wide) & {*unseen, *KITCHEN_TARGET_TASKS}
    assert not set(unseen) & {*KITCHEN_TRAIN_TASKS, *KITCHEN_TARGET_TASKS}
    assert {task.subtasks[0] for task in unseen} == set(SUBTASKS)  # the paper's begin with three of the seven
    # Always the same ones: runs and results are named by the set.
    assert str(unseen[0]) == "slide cabinet > microwave > kettle > bottom burner"


def test_target_tasks_are_unseen_and_order_makes_another_task() -> None:
    assert all(is_unseen(task) for task in KITCHEN_TARGET_TASKS)
    assert not any(is_unseen(task) for task in KITCHEN_TRAIN_TASKS)
    assert is_unseen(KitchenTask(tuple(reversed(KITCHEN_TRAIN_TASKS[0].subtasks))))


def test_every_subtask_reads_object_coordinates_of_its_own() -> None:
    indices = [index for subtask in SUBTASKS.values() for index in subtask.indices]
    assert len(indices) == len(set(indices))
    names = (*ROBOT_JOINTS, *OBJECT_COORDINATES)
    assert len(names) == len(set(names)) == STATE_SIZE
    read = {name: [names[index] for index in subtask.indices] for name, subtask in SUBTASKS.items()}
    assert read["bottom burner"] == ["bottom_left_knob", "bottom_left_burner"]
    assert read["hinge cabinet"] == ["left_hinge_cabinet", "right_hinge_cabinet"]
    assert read["kettle"] == list(OBJECT_COORDINATES[-7:])


@pytest.mark.parametrize(
    "text",
    [
        "microwave > kettle > light switch",
        "  Microwave->KETTLE ->light_switch ",
        "microwave,kettle,light   switch",
        "microwave → kettle, Light_Switch",
    ],
)
def test_parse_accepts_how_people_write(text: str) -> None:
    assert parse_kitchen_task(text) == KitchenTask(("microwave", "kettle", "light switch"))


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("microvave > kettle", ["'microvave'", "did you mean 'microwave'", *SUBTASKS]),
        ("kettle > dance", ["'dance'", *SUBTASKS]),
        ("kettle > microwave > Kettle", ["'kettle' is named twice"]),
        ("kettle >> microwave", ["missing", "'kettle >> microwave'"]),
        ("  ", ["empty task", *SUBTASKS]),
    ],
)
def test_parse_says_what_is_wrong_in_one_line(text: str, fragments: list[str]) -> None:
    with pytest.raises(TaskError) as error:
        parse_kitchen_task(text)
    message = str(error.value)
    assert all(fragment in message for fragment in fragments), message
    assert "\n" not in message


@given(st.permutations(list(SUBTASKS)), st.integers(1, len(SUBTASKS)))
def test_any_ordered_list_reads_back(order: list[str], length: int) -> None:
    task = KitchenTask(tuple(order[:length]))
    assert parse_kitchen_task(str(task)) == task


@pytest.mark.parametrize("name", SUBTASKS)
def test_subtask_is_complete_within_a_distance_of_0_3(name: str) -> None:
    goal, index = state_with(name), SUBTASKS[name].indices[0]
    for offset, complete in ((0.0, True), (0.299, True), (-0.299, True), (0.301, False), (-0.301, False)):
        moved = goal.copy()
        moved[index] += offset
        assert SUBTASKS[name].is_complete(moved) is complete
    elsewhere = goal + 5.0
    elsewhere[list(SUBTASKS[name].indices)] -= 5.0
    assert SUBTASKS[name].is_complete(elsewhere)


def test_distance_is_euclidean_over_all_coordinates() -> None:
    hinge = SUBTASKS["hinge cabinet"]
    state = state_with("hinge cabinet")
    state[list(hinge.indices)] += (0.2, 0.2)  # 0.283
    assert hinge.is_complete(state)
    state[list(hinge.indices)] += (0.02, 0.02)  # 0.311
    assert not hinge.is_complete(state)


def test_a_state_with_nan_completes_nothing() -> None:
    assert not any(subtask.is_complete(np.full(STATE_SIZE, np.nan)) for subtask in SUBTASKS.values())


def test_tracker_pays_each_subtask_once_in_order() -> None:
    tracker = SubtaskTracker(parse_kitchen_task("microwave > kettle"))
    assert tracker.update(state_with()) == 0.0
    assert tracker.update(state_with("microwave")) == 1.0
    assert tracker.update(state_with("microwave")) == 0.0
    assert (tracker.completed, tracker.done, tracker.names_done) == (1, False, ("microwave",))
    assert tracker.update(state_with("kettle")) == 1.0  # the microwave was closed again, but it is paid
    assert (tracker.completed, tracker.done, tracker.names_done) == (2, True, ("microwave", "kettle"))
    assert tracker.update(state_with("microwave", "kettle")) == 0.0


def test_done_early_pays_when_its_turn_comes_only_if_it_still_holds() -> None:
    task = parse_kitchen_task("microwave > kettle > light switch")
    tracker = SubtaskTracker(task)
    assert tracker.update(state_with("kettle", "light switch")) == 0.0
    assert tracker.update(state_with("microwave", "kettle")) == 2.0  # the light was put out meanwhile
    assert tracker.names_done == ("microwave", "kettle")
    tracker = SubtaskTracker(task)
    assert tracker.update(state_with("microwave", "kettle", "light switch")) == 3.0
    assert tracker.done


def test_subtasks_that_ever_held_in_any_order() -> None:
    states = np.zeros((3, 30))
    states[1, 22] = -0.75
    states[2, 19] = 0.37
    assert ever_completed(states) == ("slide cabinet", "microwave")


@given(st.permutations(list(SUBTASKS)), st.integers(0, 2**31 - 1))
def test_rewards_along_states_are_the_trackers(order: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = np.zeros((40, STATE_SIZE), np.float32)
    for name, subtask in SUBTASKS.items():
        held = rng.random(40) < (0.15 if name != order[0] else 0.5)
        states[np.ix_(held, subtask.indices)] = subtask.goal
    task = KitchenTask(tuple(order[:3]))
    tracker, paid = SubtaskTracker(task), []
    for state in states:
        paid.append(tracker.update(state))
        if tracker.done:
            break
    rewards, done = rewards_along(task, states)
    np.testing.assert_array_equal(rewards, paid)
    assert done == tracker.done
