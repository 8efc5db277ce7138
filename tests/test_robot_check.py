"""`simpl robot`: every kind of misfit between a profile and a robot is found and named, and real graphs are judged."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl.core.robot_check import ERROR, OK, WARNING, Endpoint, Seen, StateMessage, check_robot
from simpl_core.errors import ConfigError

PROFILE = dataclasses.replace(load_profile(find_profile("franka_fr3")), objects=("cup_x", "cup_y"))
JOINTS, OBJECTS, COMMANDS = "franka/joint_states", "object_states", "joint_group_velocity_controller/commands"
STATE, VELOCITIES = ("sensor_msgs/msg/JointState",), ("std_msgs/msg/Float64MultiArray",)
START = 1_700_000_000_000_000_000


def messages(names, positions, *, rate=1000.0, count=100, age=0.002, step=1.0) -> list[StateMessage]:
    gap = int(1e9 / rate)
    stamps = [START + int(step * number * gap) for number in range(count)]
    received = [START + number * gap + int(1e9 * age) for number in range(count)]
    return [StateMessage(tuple(names), tuple(positions), *times) for times in zip(stamps, received, strict=True)]


def robot(**changes) -> Seen:
    """A robot that is as the profile says, but for the changes."""
    seen = Seen(
        seconds=4.0,
        topics={
            JOINTS: Endpoint(STATE, ("/joint_state_broadcaster",), ("/guard",)),
            OBJECTS: Endpoint(STATE, ("/camera",), ()),
            COMMANDS: Endpoint(VELOCITIES, ("/guard",), ("/joint_group_velocity_controller",)),
        },
        messages={JOINTS: messages(PROFILE.joint_names, PROFILE.home), OBJECTS: messages(PROFILE.objects, (0.1, 0.2))},
        joint_state_topics=("/franka/joint_states", "/object_states"),
    )
    topics = dict(seen.topics) | changes.pop("topics", {})
    heard = dict(seen.messages) | changes.pop("messages", {})
    return dataclasses.replace(seen, topics=topics, messages=heard, **changes)


def wrong(seen: Seen, level: str = ERROR) -> str:
    return "\n".join(f"{text} -> {remedy}" for found, text, remedy in check_robot(PROFILE, seen) if found == level)


def test_a_robot_that_fits_is_well():
    assert {finding.level for finding in check_robot(PROFILE, robot())} == {OK}


def test_joints_in_another_order_and_more_of_them_fit():
    names = ("gripper", *reversed(PROFILE.joint_names))
    assert not wrong(robot(messages={JOINTS: messages(names, (0.04, *reversed(PROFILE.home)))}))


def test_a_gripper_on_the_same_topic_is_told_of_and_ends_no_check():
    arm, hand = messages(PROFILE.joint_names, PROFILE.home), messages(("finger_1", "finger_2"), (0.04, 0.04))
    heard = [message for pair in zip(hand, arm, strict=True) for message in pair]
    two = {JOINTS: Endpoint(STATE, ("/arm_broadcaster", "/hand_broadcaster"))}
    told = wrong(robot(topics=two, messages={JOINTS: heard}))
    assert "has 2 publishers" in told and "lacks" not in told
    cut = messages(PROFILE.joint_names[:6], PROFILE.home[:6])
    assert "lacks joint fr3_joint7" in wrong(robot(topics=two, messages={JOINTS: [*cut, *heard]}))


@pytest.mark.parametrize(
    ("topic", "endpoint", "words"),
    [
        (JOINTS, Endpoint(), "nobody publishes franka/joint_states"),
        (
            JOINTS,
            Endpoint(("std_msgs/msg/String",), ("/a",)),
            "is a std_msgs/msg/String, wanted sensor_msgs/msg/JointState",
        ),
        (JOINTS, Endpoint(STATE, ("/a", "/b")), "has 2 publishers: /a, /b -> leave one"),
        (OBJECTS, Endpoint(), "nobody publishes object_states"),
        (COMMANDS, Endpoint(VELOCITIES, ("/guard",)), "--activate joint_group_velocity_controller"),
        (COMMANDS, Endpoint(VELOCITIES, ("/guard", "/teleop"), ("/c",)), "/teleop publishes on joint_group"),
        (COMMANDS, Endpoint(VELOCITIES, ("/a/guard", "/b/guard"), ("/c",)), "2 guards publish"),
        (
            COMMANDS,
            Endpoint(("trajectory_msgs/msg/JointTrajectory",), (), ("/c",)),
            "is a trajectory_msgs/msg/JointTrajectory, wanted std_msgs/msg/Float64MultiArray",
        ),
    ],
)
def test_a_topic_that_does_not_fit_is_named(topic, endpoint, words):
    assert words in wrong(robot(topics={topic: endpoint}))


def bent(**joints: float) -> tuple[float, ...]:
    return tuple(joints.get(name, place) for name, place in zip(PROFILE.joint_names, PROFILE.home, strict=True))


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        ([], "nothing came in 4.0 s"),
        (messages(PROFILE.joint_names[:6], PROFILE.home[:6]), "lacks joint fr3_joint7"),
        (messages([f"left_{name}" for name in PROFILE.joint_names], PROFILE.home), "with 'left_' before each they fit"),
        (messages(PROFILE.joint_names, PROFILE.home[:6]), "names and positions differ in number"),
        (messages(PROFILE.joint_names, bent(fr3_joint3=math.nan)), "fr3_joint3 is not a finite number"),
        (messages(PROFILE.joint_names, np.degrees(PROFILE.home)), "these read like degrees"),
        (messages(PROFILE.joint_names, bent(fr3_joint2=2.5)), "fr3_joint2 at 2.500 rad -> correct the limits"),
        (messages(PROFILE.joint_names, PROFILE.home, rate=20.0), "20.0 Hz, slower than the control rate of 50.0"),
        (messages(PROFILE.joint_names, PROFILE.home, count=2), "tell no rate"),
        (messages(PROFILE.joint_names, PROFILE.home, age=3.0), "stamps are 3.00 s old -> synchronise"),
        (messages(PROFILE.joint_names, PROFILE.home, age=-2.0), "2.00 s in the future"),
        (messages(PROFILE.joint_names, PROFILE.home, step=0.0), "stamps stand still or go back"),
        ([message._replace(stamp=0) for message in messages(PROFILE.joint_names, PROFILE.home)], "stamps are zero"),
    ],
)
def test_states_that_do_not_fit_are_named(heard, words):
    assert words in wrong(robot(messages={JOINTS: heard}))


def test_a_slow_driver_and_a_joint_in_the_margin_are_worth_a_look():
    heard = messages(PROFILE.joint_names, bent(fr3_joint2=1.75), rate=200.0)
    looks = wrong(robot(messages={JOINTS: heard}), WARNING)
    assert "200.0 Hz, the profile says 1000.0" in looks and "margin of a limit: fr3_joint2" in looks
    assert not wrong(robot(messages={JOINTS: heard}))


def test_simulated_time_has_no_age():
    assert "old" in wrong(robot(messages={JOINTS: messages(PROFILE.joint_names, PROFILE.home, age=9.0)}))
    late = {
        topic: messages(names, places, age=9.0)
        for topic, names, places in (
            (JOINTS, PROFILE.joint_names, PROFILE.home),
            (OBJECTS, PROFILE.objects, (0.1, 0.2)),
        )
    }
    assert not wrong(robot(messages=late, simulated_time=True))


def test_what_is_there_is_said_when_a_topic_is_missing():
    assert "/franka/joint_states" in wrong(robot(topics={JOINTS: Endpoint()}))


# -- the command -----------------------------------------------------------------------------------------------------


def printed(*arguments: str) -> tuple[int, str]:
    pytest.importorskip("rclpy")
    from simpl.front.robot_command import RobotSettings, run_robot

    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    return run_robot(RobotSettings(*arguments), console), console.export_text()


def test_list_and_show_print_what_the_profiles_say():
    status, text = printed("list")
    assert status == 0 and all(name in text for name in ("franka_fr3", "iiwa14", "kinova_gen3", "mujoco_kitchen"))
    status, text = printed("show", "franka_fr3")
    assert status == 0
    for words in (
        "-2.644 to 2.644 rad",
        "1 (38 %)",
        "franka/joint_states, 1000 Hz",
        "0.15..0.75 x",
        "Franka Control Interface",
    ):
        assert words in text


def test_a_profile_must_be_named():
    pytest.importorskip("rclpy")
    from simpl.front.robot_command import RobotSettings, run_robot

    with pytest.raises(ConfigError, match="simpl robot check PROFILE"):
        run_robot(RobotSettings("check"))


@pytest.fixture
def rig() -> Iterator:
    pytest.importorskip("rclpy")
    pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")
    from ros_rig import RosRig

    rig = RosRig()
    yield rig
    rig.close()


def simpl_robot_check(rig, profile: str) -> tuple[int, str]:
    import os

    answer = subprocess.run(
        [sys.executable, "-m", "simpl_core", "robot", "check", profile],
        env={**os.environ, "ROS_DOMAIN_ID": str(rig.domain), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def test_the_simulated_arm_is_as_its_profile_says_and_not_as_anothers(rig):
    from ros_rig import wait_for

    from simpl import interfaces as topics

    states = rig.listen(topics.JOINT_STATES)
    rig.start("arm_sim")
    wait_for(lambda: len(states) > 20, patience=180.0)  # busy machines start a node slowly
    status, text = simpl_robot_check(rig, "mujoco_kitchen")
    assert status == 0, text
    assert "the robot is as the profile says" in text
    status, text = simpl_robot_check(rig, "franka_fr3")
    assert status == 1, text
    assert "nobody publishes franka/joint_states" in text and "/joint_states" in text
