"""Parts of a robot profile: where commands go and states come from, where the tool is and may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from simpl.core.document import DocumentReader

INTERFACES = ("velocity", "trajectory")
"""What a controller takes: velocities (std_msgs/Float64MultiArray), or short trajectories that end at rest."""

COMMAND_TOPICS = {
    "velocity": "joint_group_velocity_controller/commands",
    "trajectory": "joint_trajectory_controller/joint_trajectory",
}
"""Where each kind of controller listens unless a profile says otherwise."""


class Pose(NamedTuple):
    """Where a frame stands in the one before it, as <origin> of a URDF: xyz [m], then roll, pitch, yaw [rad]."""

    xyz: tuple[float, ...]
    rpy: tuple[float, ...]


class JointFrame(NamedTuple):
    """The frame of a joint at its zero, in the frame before it, and the axis (3,) of length 1 it turns about."""

    origin: Pose
    axis: tuple[float, ...]


@dataclass(frozen=True)
class Kinematics:
    """From the base to the tool.

    Attributes:
        joints: frames of the first joints of the arm, from the base on; those after them move no tool (fingers).
        tool: the tool's frame in the last joint's.
    """

    joints: tuple[JointFrame, ...]
    tool: Pose


@dataclass(frozen=True)
class Workspace:
    """The box in which the tool may be, corners (3,) in the frame of the arm's base [m]."""

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class CommandInterface:
    """Where commands go.

    Attributes:
        interface: "velocity" or "trajectory".
        topic: of the controller.
    """

    interface: str = "velocity"
    topic: str = COMMAND_TOPICS["velocity"]

    @property
    def controller(self) -> str:
        """Name of the controller."""
        return self.topic.split("/")[-2] if "/" in self.topic else ""


@dataclass(frozen=True)
class StateTopics:
    """Where states come from."""

    joint_states: str = "joint_states"
    object_states: str = "object_states"


def read_command(reader: DocumentReader, value: Any) -> CommandInterface:
    """Key `command`; the usual velocity controller where it is absent."""
    if value is None:
        return CommandInterface()
    values = reader.mapping(value, "command", frozenset({"interface"}), frozenset({"topic"}))
    interface = reader.choice(values["interface"], "command: interface", INTERFACES)
    topic = values.get("topic", COMMAND_TOPICS.get(interface, "?"))
    return CommandInterface(interface, reader.text(topic, "command: topic"))


def read_topics(reader: DocumentReader, value: Any) -> StateTopics:
    """Key `topics`; the nodes' own names where it is absent."""
    if value is None:
        return StateTopics()
    values = reader.mapping(value, "topics", frozenset(), frozenset({"joint_states", "object_states"}))
    return StateTopics(**{name: reader.text(topic, f"topics: {name}") for name, topic in values.items()})


def read_kinematics(reader: DocumentReader, value: Any) -> Kinematics | None:
    """Key `kinematics`, or None."""
    if value is None:
        return None
    values = reader.mapping(value, "kinematics", frozenset({"joints"}), frozenset({"tool"}))
    items = enumerate(reader.items(values["joints"], "kinematics: joints"), 1)
    frames = tuple(_frame(reader, item, f"kinematics: joint {number}") for number, item in items)
    tool = values.get("tool") or {"xyz": [0.0] * 3, "rpy": [0.0] * 3}
    where = "kinematics: tool"
    return Kinematics(frames, _pose(reader, reader.mapping(tool, where, frozenset({"xyz", "rpy"})), where))


def _frame(reader: DocumentReader, item: Any, where: str) -> JointFrame:
    values = reader.mapping(item, where, frozenset({"xyz", "rpy", "axis"}))
    axis = reader.numbers(values["axis"], f"{where}: axis", 3)
    if abs(math.hypot(*axis) - 1.0) > 1e-6:
        reader.note(where, f"axis {list(axis)} is not of length 1")
    return JointFrame(_pose(reader, values, where), axis)


def _pose(reader: DocumentReader, values: Mapping[str, Any], where: str) -> Pose:
    return Pose(*(reader.numbers(values[key], f"{where}: {key}", 3) for key in ("xyz", "rpy")))


def read_workspace(reader: DocumentReader, value: Any) -> Workspace | None:
    """Key `workspace`, or None."""
    if value is None:
        return None
    values = reader.mapping(value, "workspace", frozenset({"low", "high"}))
    low, high = (reader.numbers(values[key], f"workspace: {key}", 3) for key in ("low", "high"))
    if any(lowest >= highest for lowest, highest in zip(low, high, strict=True)):
        reader.note("workspace", f"from {list(low)} to {list(high)} is empty")
    return Workspace(low, high)
