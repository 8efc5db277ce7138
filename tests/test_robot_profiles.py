"""The profiles that come with the package, and what a data sheet refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simpl.core.datasheet import Braking, load_datasheet
from simpl.core.profile import RobotProfile, load_profile, parse_profile
from simpl.core.profile_files import find_datasheet, find_profile, installed_profiles
from simpl.core.robot_state import RobotState
from simpl_core.errors import ConfigError

ARMS = ("franka_fr3", "iiwa14", "kinova_gen3")


def document(name: str) -> Any:
    return yaml.safe_load(find_profile(name).read_text())


def refused(changed: Any, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_profile(changed, "test")
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return message


def turn(axis: tuple[float, ...], angle: float) -> np.ndarray:
    """Rodrigues' formula (3, 3), written apart from the package's own."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross


def tool(profile: RobotProfile, positions: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and place of the tool in the base's frame."""
    rotation, place = np.eye(3), np.zeros(3)
    kinematics = profile.kinematics
    frames = [*((joint.origin, joint.axis) for joint in kinematics.joints), (kinematics.tool, (0.0, 0.0, 1.0))]
    for (origin, axis), angle in zip(frames, (*positions, 0.0), strict=True):
        place = place + rotation @ origin.xyz
        roll, pitch, yaw = origin.rpy
        rotation = rotation @ turn((0, 0, 1), yaw) @ turn((0, 1, 0), pitch) @ turn((1, 0, 0), roll) @ turn(axis, angle)
    return rotation, place


def test_there_are_profiles_of_three_arms_and_the_simulator():
    assert set(installed_profiles()) == {*ARMS, "mujoco_kitchen"}


@pytest.mark.parametrize(
    ("name", "first", "place"),
    [
        # The first is known from Franka's documents; the others are worked out by hand from link lengths.
        ("franka_fr3", "fr3_joint1", (0.3069, 0.0, 0.4869)),
        ("iiwa14", "lbr_A1", (0.42 * 0.5 + 0.4 * math.cos(math.radians(30)), 0.0, 0.3977)),
        ("kinova_gen3", "joint_1", (0.4567, 0.0013, 0.4337)),
    ],
)
def test_home_is_where_the_arm_expects_it_and_inside_the_workspace(name, first, place):
    profile = load_profile(find_profile(name))
    assert profile.joint_names[0] == first and len(profile.joints) == 7
    _, found = tool(profile, profile.home)
    np.testing.assert_allclose(found, place, atol=2e-4)
    assert (found > profile.workspace.low).all() and (found < profile.workspace.high).all()


@pytest.mark.parametrize("name", ["franka_fr3", "iiwa14"])
def test_the_tool_looks_down_at_home(name):
    profile = load_profile(find_profile(name))
    rotation, _ = tool(profile, profile.home)
    np.testing.assert_allclose(rotation[:, 2], (0.0, 0.0, -1.0), atol=1e-5)


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("limit", ["velocity", "acceleration", "jerk", "lower", "upper"])
def test_a_limit_beyond_the_arms_own_is_refused(name, limit):
    sheet = load_datasheet(find_datasheet(name))
    checked = 0
    for index, rating in enumerate(sheet.joints):
        changed = document(name)
        joint = changed["joints"][index]
        if limit in ("lower", "upper"):
            if rating.position is None:
                continue
            edge = ("lower", "upper").index(limit)
            joint["position"][edge] = rating.position[edge] + (-1e-4, 1e-4)[edge]
            words = "position", "goes beyond the arm's"
        elif getattr(rating, limit) is None:
            continue
        else:
            joint[limit] = getattr(rating, limit) * 1.0001
            words = f"{limit} {joint[limit]} goes beyond the arm's {getattr(rating, limit)}", joint["name"]
        refused(changed, *words)
        checked += 1
    assert checked or (name, limit) in {("iiwa14", "acceleration"), ("iiwa14", "jerk"), ("kinova_gen3", "jerk")}


def test_every_problem_is_listed_at_once():
    changed = document("franka_fr3")
    changed["colour"] = "white"
    del changed["description"]
    changed["joints"][0]["velocity"] = 150.0
    changed["joints"][1]["unit"] = "deg"
    changed["joints"][2]["position"] = [-170, 170]
    changed["joints"][3]["jerk"] = None
    changed["home"][4] = math.nan
    changed["command"]["interface"] = "torque"
    changed["topics"]["odometry"] = "odom"
    changed["kinematics"]["joints"][5]["axis"] = [0, 0, 2]
    changed["workspace"]["low"] = [1.0, 1.0, 1.0]
    changed["state_rate_hz"] = 10.0
    message = refused(
        changed,
        "unknown key 'colour'",
        "'description' is missing",
        "joint fr3_joint1: velocity 150.0 goes beyond the arm's 2.62",
        "joint 1 (fr3_joint1): no arm goes that far or fast",
        "unit is 'deg', wanted one of rad, m (REP 103: no degrees, no millimetres)",
        "joint fr3_joint3: position [-170.0, 170.0] goes beyond",
        "jerk is null, the arm allows 5000.0",
        "home is nan, wanted a finite number",
        "wanted one of velocity, trajectory",
        "topics: unknown key 'odometry'",
        "is not of length 1",
        "workspace: from [1.0, 1.0, 1.0]",
        "state_rate_hz: 10.0 is less than control_rate_hz",
    )
    assert message.startswith("test has ") and message.count("\n  - ") == int(message.split()[2])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("home", [0.0] * 6, "wanted a list of 7"),
        ("home", [0.0, 1.75, 0.0, -2.0, 0.0, 1.5, 0.0], "home: 1.75 is out of bounds for fr3_joint2, margin included"),
        ("model_names", {"fr3_joint9": "panda_joint9"}, "'fr3_joint9' is neither a joint nor an object"),
        ("kinematics", None, "workspace: needs kinematics"),
        ("datasheet", "r2d2", "there is no data sheet 'r2d2'; there are: franka_fr3, iiwa14, kinova_gen3"),
        ("control_rate_hz", "1e2", "write 1.0e+3"),
        ("kinematics", {"joints": [{"xyz": [0, 0, 0], "rpy": [0, 0, 0], "axis": [0, 0, 1]}] * 8}, "has 8 joints"),
        ("position_margin", 0.02, "is faster than the arm allows there; raise position_margin"),
    ],
)
def test_what_does_not_fit_together_is_named(key, value, words):
    refused(document("franka_fr3") | {key: value}, words)


def test_a_value_that_is_there_twice_is_refused(tmp_path):
    text = find_profile("franka_fr3").read_text()
    (tmp_path / "twice.yaml").write_text(text.replace("velocity: 1.0,", "velocity: 1.0, velocity: 2.0,", 1))
    with pytest.raises(ConfigError, match="key 'velocity' is there twice"):
        load_profile(tmp_path / "twice.yaml")


def test_a_jerk_limit_needs_an_acceleration_limit_and_kinematics_turning_joints():
    changed = document("mujoco_kitchen")
    changed["joints"][0]["jerk"] = 10.0
    frame = {"xyz": [0, 0, 0], "rpy": [0, 0, 0], "axis": [0, 0, 1]}
    changed["kinematics"] = {"joints": [frame] * 9}
    refused(changed, "there is no acceleration limit for it", "turning joints only; panda_finger_joint1 is in m")


def test_a_data_sheet_beside_the_profile_is_found_and_checked(tmp_path):
    sheet = {
        "name": "mine",
        "source": "my data sheet",
        "joints": [{"unit": "m", "position": [0.0, 0.4], "velocity": 0.2, "acceleration": None, "jerk": None}],
    }
    joint = {"name": "lift", "unit": "m", "position": [0.05, 0.35], "velocity": 0.3, "acceleration": 1.0}
    changed = document("iiwa14") | {"datasheet": "mine.yaml", "joints": [joint], "home": [0.2]}
    changed = {key: value for key, value in changed.items() if key not in ("kinematics", "workspace")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(sheet))
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(ConfigError, match=r"velocity 0.3 goes beyond the arm's 0.2 \(my data sheet\)"):
        load_profile(tmp_path / "profile.yaml")
    joint["velocity"] = 0.2
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(changed))
    assert load_profile(tmp_path / "profile.yaml").datasheet.joints[0].position == (0.0, 0.4)


@pytest.mark.parametrize("seed", range(20))
def test_braking_is_judged_as_a_simulation_of_it_does(seed):
    """Each case is braked in small steps from many speeds and held against the curve itself."""
    rng = np.random.default_rng(seed)
    curve = Braking(rng.uniform(1.0, 20.0), rng.uniform(0.0, 0.7))
    velocity, acceleration, gap = rng.uniform(0.2, 3.0), rng.uniform(1.0, 20.0), rng.uniform(0.0, 0.3)
    speeds = np.linspace(0.0, velocity, 4001)
    distance = gap + speeds**2 / (2.0 * acceleration)
    slack = np.sqrt(2.0 * curve.deceleration * distance) - curve.offset - speeds
    if abs(slack.min()) > 1e-6:
        assert curve.allows(velocity, acceleration, gap) == (slack.min() > 0.0)


def test_the_shipped_fr3_brakes_below_the_arms_curve():
    """Tick by tick: the profile's braking, held for a whole period at each speed, against the published curve."""
    profile = load_profile(find_profile("franka_fr3"))
    for joint, rating in zip(profile.joints, profile.datasheet.joints, strict=True):
        end = rating.position[1]
        stop = joint.position[1] - profile.position_margin
        speeds = np.linspace(0.0, joint.velocity, 1001)
        nearest = end - (stop - speeds**2 / (2.0 * joint.acceleration))
        allowed = np.sqrt(2.0 * rating.braking.deceleration * nearest) - rating.braking.offset
        assert (speeds < np.minimum(allowed, rating.velocity)).all(), joint.name


OLDER_FR3 = (  # as in libfranka's rate_limiting.h: ends [rad], twice the deceleration [rad/s^2], offset [rad/s]
    ((-2.7501, 2.7501), 12.0, 0.30),
    ((-1.7918, 1.7918), 5.17, 0.20),
    ((-2.9065, 2.9065), 7.0, 0.20),
    ((-3.0481, -0.1458), 8.0, 0.30),
    ((-2.8101, 2.8101), 34.0, 0.35),
    ((0.54092, 4.5205), 11.0, 0.35),
    ((-3.0196, 3.0196), 34.0, 0.35),
)


def test_the_shipped_fr3_brakes_below_the_curve_of_older_arms_too():
    """Their ends are nearer than the data sheet's, which is of the newer robot model: at low speed that is stricter."""
    profile = load_profile(find_profile("franka_fr3"))
    for joint, (ends, deceleration, offset) in zip(profile.joints, OLDER_FR3, strict=True):
        gap = profile.position_margin + min(joint.position[0] - ends[0], ends[1] - joint.position[1])
        assert Braking(deceleration / 2.0, offset).allows(joint.velocity, joint.acceleration, gap), joint.name


def test_a_model_may_call_things_otherwise():
    changed = document("franka_fr3") | {
        "objects": ["cup_x"],
        "model_names": {"fr3_joint1": "panda_joint1", "cup_x": "x"},
    }
    profile = parse_profile(changed, "test")
    assert profile.joint_names[:2] == ("fr3_joint1", "fr3_joint2")
    assert profile.model_joint_names[:2] == ("panda_joint1", "fr3_joint2")
    assert profile.observation_names == (*profile.model_joint_names, "x")


def test_topics_are_remapped_where_the_robot_calls_them_otherwise():
    iiwa = parse_profile(document("iiwa14"), "test")
    assert dict(iiwa.remappings) == {
        "joint_states": "lbr/joint_states",
        "joint_trajectory_controller/joint_trajectory": "lbr/joint_trajectory_controller/joint_trajectory",
    }
    assert iiwa.command.controller == "joint_trajectory_controller"
    assert load_profile(find_profile("mujoco_kitchen")).remappings == ()


def test_an_arm_without_objects_has_a_whole_state():
    state = RobotState(("a", "b"), ())
    state.update_joints(5, ["b", "a"], [2.0, 1.0], 0.5)
    np.testing.assert_array_equal(state.paired().observation, [1.0, 2.0])
    assert state.newest().stamp == 5 and state.paired_stamp() == 5


def test_numbers_are_the_documents_own():
    original = document("kinova_gen3")
    profile = parse_profile(copy.deepcopy(original), "test")
    np.testing.assert_array_equal(profile.velocity_limits(), [joint["velocity"] for joint in original["joints"]])
    assert np.isinf(profile.jerk_limits()).all()
    assert profile.home == tuple(original["home"])
    np.testing.assert_array_equal(load_profile(Path(find_profile("franka_fr3"))).jerk_limits(), np.full(7, 1000.0))
