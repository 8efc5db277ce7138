"""The launch files start the same nodes as `simpl adapt`. Needs `launch_ros`, which a ROS 2 distribution brings."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="launch files run where a ROS 2 distribution brings launch_ros")

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchContext
from simpl.graph import AdaptSettings, acting_graph, adapt_graph
from simpl_core.errors import ConfigError, TaskError

LAUNCH = Path(__file__).resolve().parents[1] / "launch"


def expand(file: str, **arguments: str) -> list[Node]:
    """The nodes that a launch file starts with these arguments."""
    description = runpy.run_path(str(LAUNCH / file))["generate_launch_description"]()
    context = LaunchContext()
    nodes: list[Any] = []
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            assert entity.description, f"argument {entity.name} of {file} is not described"
            default = "".join(part.perform(context) for part in entity.default_value)
            context.launch_configurations[entity.name] = arguments.pop(entity.name, default)
        elif isinstance(entity, OpaqueFunction):
            nodes += [action for action in entity.execute(context) if isinstance(action, Node)]
    assert not arguments, f"{file} has no arguments {arguments}"
    return nodes


def names(nodes: list[Node]) -> list[str]:
    return [node.node_executable for node in nodes]


def test_adapt_starts_the_nodes_of_the_graph(tmp_path) -> None:
    nodes = expand("adapt.launch.py", out=str(tmp_path), task="kettle > microwave")
    expected = adapt_graph(AdaptSettings(), tmp_path, tmp_path)
    assert names(nodes) == [spec.executable for spec in expected]


def test_without_the_simulated_arm_the_wall_clock_rules(tmp_path) -> None:
    assert "arm_sim" not in names(expand("adapt.launch.py", out=str(tmp_path), use_sim="false"))
    with pytest.raises(ConfigError, match="no real arm"):
        expand("adapt.launch.py", out=str(tmp_path), use_sim="false", rate="sim")


def test_sim_starts_plant_guard_and_policy(tmp_path) -> None:
    expected = acting_graph(AdaptSettings(rate="real"), tmp_path, None)
    assert names(expand("sim.launch.py")) == [spec.executable for spec in expected]


def test_record_starts_the_recorder_alone(tmp_path) -> None:
    assert names(expand("record.launch.py", file=str(tmp_path / "a.mcap"), topics="joint_states, /camera/info")) == [
        "record"
    ]


def test_robot_starts_what_the_profile_needs(tmp_path) -> None:
    assert names(expand("robot.launch.py")) == ["guard", "policy"]
    with_driver = expand("robot.launch.py", driver="franka_fci", robot_ip="10.0.0.2")
    assert names(with_driver) == ["franka_fci", "guard", "policy"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"task": "kettle > toaster"}, TaskError, "unknown subtask 'toaster'"),
        ({"episodes": "many"}, ConfigError, "episodes:=many is not a whole number"),
        ({"use_sim": "perhaps"}, ConfigError, "neither true nor false"),
    ],
)
def test_an_impossible_argument_is_named(tmp_path, arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        expand("adapt.launch.py", out=str(tmp_path), **arguments)
