"""Robot profiles: what is read, and that nothing half right is accepted."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from simpl.core.profile import load_profile, parse_profile
from simpl_core.errors import ConfigError

CONFIG = Path(__file__).parents[1] / "ros2_ws" / "src" / "simpl" / "config"

DOCUMENT = {
    "name": "two_joints",
    "description": "an arm for tests",
    "control_rate_hz": 10.0,
    "position_margin": 0.1,
    "joints": [
        {"name": "a", "unit": "rad", "position": [-1.0, 2.0], "velocity": 1.5, "acceleration": 4.0},
        {"name": "b", "unit": "m", "position": None, "velocity": 0.5, "acceleration": None},
    ],
    "objects": ["door"],
}


def changed(*path_and_value):
    """The document with the value at a path replaced; `del` removes the key."""
    *path, value = path_and_value
    document = copy.deepcopy(DOCUMENT)
    place = document
    for key in path[:-1]:
        place = place[key]
    if value == "del":
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def test_limits_come_out_in_joint_order_with_the_margin_taken_off():
    profile = parse_profile(DOCUMENT, "test")
    low, high = profile.position_bounds()
    np.testing.assert_allclose(low, [-0.9, -math.inf])
    np.testing.assert_allclose(high, [1.9, math.inf])
    np.testing.assert_array_equal(profile.velocity_limits(), [1.5, 0.5])
    np.testing.assert_array_equal(profile.acceleration_limits(), [4.0, math.inf])
    assert profile.period == pytest.approx(0.1)
    assert profile.observation_names == ("a", "b", "door")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("speed", 3.0), "unknown key 'speed'"),
        (changed("joints", 0, "velocty", 3.0), "unknown key 'velocty'"),
        (changed("joints", 1, "acceleration", "del"), "'acceleration' is missing"),
        (changed("control_rate_hz", 0), "wanted more than 0"),
        (changed("control_rate_hz", "10"), "wanted a finite number"),
        (changed("control_rate_hz", True), "wanted a finite number"),
        (changed("position_margin", -0.1), "wanted at least 0"),
        (changed("position_margin", 1.6), "leaves no room"),
        (changed("joints", 0, "position", [2.0, -1.0]), "leaves no room"),
        (changed("joints", 0, "position", [0.0, math.nan]), "wanted a finite number"),
        (changed("joints", 0, "position", [0.0]), r"wanted \[lowest, highest\]"),
        (changed("joints", 0, "velocity", -1.0), "wanted more than 0"),
        (changed("joints", 0, "velocity", math.inf), "wanted a finite number"),
        (changed("joints", 0, "velocity", 10**400), "wanted a finite number"),
        (changed("joints", 0, "unit", "deg"), "'deg', wanted one of rad, m"),
        (changed("joints", 1, "name", "a"), "'a' is named twice"),
        (changed("objects", ["a"]), "'a' is named twice"),
        (changed("joints", []), "joints is empty"),
        (changed("objects", "door"), "wanted a list"),
        (changed("name", ""), "wanted a text"),
        ([1, 2], "holds a list"),
        (None, "holds a NoneType"),
    ],
)
def test_what_is_wrong_is_named(document, message):
    with pytest.raises(ConfigError, match=message):
        parse_profile(document, "test")


def test_files_that_are_missing_or_no_yaml_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml cannot be read"):
        load_profile(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("joints: [")
    with pytest.raises(ConfigError, match="broken.yaml is not YAML"):
        load_profile(tmp_path / "broken.yaml")


def test_a_file_is_read_like_its_document(tmp_path):
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(DOCUMENT))
    assert load_profile(tmp_path / "two.yaml") == parse_profile(DOCUMENT, "test")


def test_the_kitchen_profile_matches_the_simulator():
    kitchen = pytest.importorskip("sim.kitchen")
    profile = load_profile(CONFIG / "mujoco_kitchen.yaml")
    assert profile.joint_names == kitchen.ROBOT_JOINTS
    assert profile.objects == kitchen.OBJECT_COORDINATES
    assert profile.period == pytest.approx(kitchen.CONTROL_PERIOD)
    np.testing.assert_array_equal(profile.velocity_limits(), kitchen.ACTION_SCALE)
    low, high = profile.position_bounds()
    np.testing.assert_allclose(low[:7], kitchen.POSITION_BOUNDS[:7, 0] - 1e-6, atol=1e-12)
    np.testing.assert_allclose(high[:7], kitchen.POSITION_BOUNDS[:7, 1] + 1e-6, atol=1e-12)
