"""Robot profile: names, limits and connections of one arm, read from YAML and checked whole before anything moves.

`docs/robot.md` says how to write one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpl.core.datasheet import UNIT_HINT, UNITS, Datasheet, load_datasheet, plausible
from simpl.core.document import DocumentReader, read_yaml
from simpl.core.kinematics import MARGIN, Box
from simpl.core.profile_files import find_datasheet
from simpl.core.profile_parts import (
    COMMAND_TOPICS,
    CommandInterface,
    Kinematics,
    StateTopics,
    Workspace,
    read_command,
    read_kinematics,
    read_topics,
    read_workspace,
)
from simpl_core.errors import ConfigError

FloatArray = NDArray[np.float64]

_JOINT_KEYS = frozenset({"name", "unit", "position", "velocity", "acceleration"})
_PROFILE_KEYS = frozenset({"name", "description", "control_rate_hz", "position_margin", "joints", "objects"})
_OPTIONAL_KEYS = frozenset(
    {"datasheet", "state_rate_hz", "command", "topics", "model_names", "home", "kinematics", "workspace"}
)


@dataclass(frozen=True)
class JointLimits:
    """Limits of one joint; the unit of length is `unit`.

    Attributes:
        name: as in joint_states.
        unit: "rad" or "m".
        position: lowest and highest position; None where the stop is compliant (a gripper's finger).
        velocity: highest speed, either direction [unit/s].
        acceleration: highest change of velocity [unit/s^2]; None where the arm's own controller limits it.
        jerk: highest change of acceleration [unit/s^3]; None where the arm's own controller limits it.
    """

    name: str
    unit: str
    position: tuple[float, float] | None
    velocity: float
    acceleration: float | None
    jerk: float | None = None


@dataclass(frozen=True)
class RobotProfile:
    """What the control nodes must know about an arm.

    Attributes:
        name: of the profile, for messages to people.
        description: one line.
        control_rate_hz: commands a second [Hz]; one command acts for one period. That of the models, or a whole
            multiple of it.
        position_margin: distance kept from every position limit [the joint's unit].
        joints: in the order of the command and of the first numbers of the observation.
        objects: names in object_states, in the order of the rest of the observation.
        model_names: what the model calls a joint or object where it is not the robot's own name.
        command: where commands go.
        topics: where states come from.
        state_rate_hz: joint states a second [Hz]; None where that is not known.
        home: positions in which episodes begin [rad or m]; None where there is no such pose.
        kinematics: where the tool is; None where nobody has written it down.
        workspace: where the tool may be; None where that is not limited.
        datasheet: what the arm itself allows; None for a simulated one.
    """

    name: str
    description: str
    control_rate_hz: float
    position_margin: float
    joints: tuple[JointLimits, ...]
    objects: tuple[str, ...]
    model_names: Mapping[str, str] = field(default_factory=dict)
    command: CommandInterface = field(default_factory=CommandInterface)
    topics: StateTopics = field(default_factory=StateTopics)
    state_rate_hz: float | None = None
    home: tuple[float, ...] | None = None
    kinematics: Kinematics | None = None
    workspace: Workspace | None = None
    datasheet: Datasheet | None = None

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints on the robot, in order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def model_joint_names(self) -> tuple[str, ...]:
        """What a model calls the joints, in order."""
        return self._as_model_says(self.joint_names)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """What a model calls each number of the observation: joints, then objects."""
        return self._as_model_says(self.joint_names + self.objects)

    @property
    def period(self) -> float:
        """Time between two commands [s]."""
        return 1.0 / self.control_rate_hz

    @property
    def remappings(self) -> tuple[tuple[str, str], ...]:
        """(name in the nodes, name on this robot) of every topic that is called differently there."""
        pairs = (
            ("joint_states", self.topics.joint_states),
            ("object_states", self.topics.object_states),
            (COMMAND_TOPICS.get(self.command.interface, ""), self.command.topic),
        )
        return tuple((ours, theirs) for ours, theirs in pairs if ours != theirs)

    def position_bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest allowed positions (A,), margin taken off; infinite where there is no limit."""
        lowest, highest = self.position_ends()
        return lowest + self.position_margin, highest - self.position_margin

    def position_ends(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest positions (A,) of the arm itself; infinite where there is no limit."""
        ends = np.array([joint.position or (-math.inf, math.inf) for joint in self.joints], dtype=np.float64)
        return ends[:, 0], ends[:, 1]

    def velocity_limits(self) -> FloatArray:
        """Highest speeds (A,) [unit/s]."""
        return np.array([joint.velocity for joint in self.joints], dtype=np.float64)

    def acceleration_limits(self) -> FloatArray:
        """Highest accelerations (A,) [unit/s^2]; infinite where there is no limit."""
        return np.array([joint.acceleration or math.inf for joint in self.joints], dtype=np.float64)

    def jerk_limits(self) -> FloatArray:
        """Highest jerks (A,) [unit/s^3]; infinite where there is no limit."""
        return np.array([joint.jerk or math.inf for joint in self.joints], dtype=np.float64)

    def _as_model_says(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.model_names.get(name, name) for name in names)


def load_profile(path: Path) -> RobotProfile:
    """Read and check a profile, and the data sheet it names.

    Raises:
        ConfigError: the file is missing or is not YAML; or with everything that is wrong in it: keys too many or too
            few, impossible values, limits beyond the arm's own.
    """
    return parse_profile(read_yaml(path, "robot profile"), f"robot profile {path}", path.parent)


def parse_profile(document: Any, source: str, folder: Path | None = None) -> RobotProfile:
    """A profile from what YAML gave.

    Args:
        document: nested dictionaries and lists.
        source: name of the document, for error messages.
        folder: where a data sheet that is named by a relative path lies.

    Raises:
        ConfigError: see `load_profile`.
    """
    reader = DocumentReader(source)
    values = reader.mapping(document, "", _PROFILE_KEYS, _OPTIONAL_KEYS)
    items = enumerate(reader.items(values["joints"], "joints"), 1)
    joints = tuple(_joint(reader, item, f"joint {number}") for number, item in items)
    profile = RobotProfile(
        name=reader.text(values["name"], "name"),
        description=reader.text(values["description"], "description"),
        control_rate_hz=reader.number(values["control_rate_hz"], "control_rate_hz", above=0.0),
        position_margin=reader.number(values["position_margin"], "position_margin", least=0.0),
        joints=joints,
        objects=tuple(reader.text(item, "objects") for item in reader.items(values["objects"], "objects")),
        model_names=_model_names(reader, values.get("model_names")),
        command=read_command(reader, values.get("command")),
        topics=read_topics(reader, values.get("topics")),
        state_rate_hz=reader.optional_number(values.get("state_rate_hz"), "state_rate_hz", above=0.0),
        home=None if values.get("home") is None else reader.numbers(values["home"], "home", len(joints)),
        kinematics=read_kinematics(reader, values.get("kinematics")),
        workspace=read_workspace(reader, values.get("workspace")),
        datasheet=_datasheet(reader, values.get("datasheet"), folder),
    )
    _check_whole(profile, reader)
    reader.finish()
    return profile


def _check_whole(profile: RobotProfile, reader: DocumentReader) -> None:
    """What no single value shows."""
    if not profile.joints:
        if not reader.problems:
            reader.note("", "joints is empty; an arm has at least one")
        return
    names = profile.joint_names + profile.objects
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        reader.note("", f"{name!r} is named twice")
    for name in sorted(set(profile.model_names) - set(names)):
        reader.note("model_names", f"{name!r} is neither a joint nor an object of this profile")
    low, high = profile.position_bounds()
    for index, joint in enumerate(profile.joints):
        if joint.position and joint.position[0] < joint.position[1] and low[index] >= high[index]:
            margin = profile.position_margin
            reader.note(f"joint {joint.name}", f"position {joint.position} leaves no room with a margin of {margin}")
        if profile.home and (profile.home[index] < low[index] or profile.home[index] > high[index]):
            reader.note("home", f"{profile.home[index]} is out of bounds for {joint.name}, margin included")
    if profile.kinematics:
        turning = profile.joints[: len(profile.kinematics.joints)]
        if len(turning) < len(profile.kinematics.joints):
            reader.note("kinematics", f"has {len(profile.kinematics.joints)} joints, the arm {len(turning)}")
        for joint in turning:
            if joint.unit == "m":
                reader.note("kinematics", f"knows turning joints only; {joint.name} is in m")
    if profile.workspace and not profile.kinematics:
        reader.note("workspace", "needs kinematics, which say where the tool is")
    if profile.home and profile.workspace and profile.kinematics and not reader.problems:
        tool = Box(profile.workspace, profile.kinematics).misses(np.array(profile.home))
        if tool is not None:
            x, y, z = tool
            reader.note(
                "home", f"the tool is at ({x:.3f}, {y:.3f}, {z:.3f}) m there, not {MARGIN} m within the workspace"
            )
    if profile.state_rate_hz is not None and profile.state_rate_hz < profile.control_rate_hz:
        reader.note("state_rate_hz", f"{profile.state_rate_hz} is less than control_rate_hz")
    if profile.datasheet:
        reader.problems += profile.datasheet.violations(profile)


def _joint(reader: DocumentReader, item: Any, where: str) -> JointLimits:
    values = reader.mapping(item, where, _JOINT_KEYS, frozenset({"jerk"}))
    name = reader.text(values["name"], f"{where}: name")
    where = f"{where} ({name})"
    joint = JointLimits(
        name=name,
        unit=reader.choice(values["unit"], f"{where}: unit", UNITS, UNIT_HINT),
        position=reader.interval(values["position"], f"{where}: position"),
        velocity=reader.number(values["velocity"], f"{where}: velocity", above=0.0),
        acceleration=reader.optional_number(values["acceleration"], f"{where}: acceleration", above=0.0),
        jerk=reader.optional_number(values.get("jerk"), f"{where}: jerk", above=0.0),
    )
    if joint.jerk is not None and joint.acceleration is None:
        reader.note(where, f"jerk is {joint.jerk}, but there is no acceleration limit for it to build up to")
    furthest, fastest = plausible(joint.unit)
    if joint.unit and (joint.velocity > fastest or max(map(abs, joint.position or (0.0,))) > furthest):
        reader.note(where, f"no arm goes that far or fast; position is in {joint.unit}, velocity in {joint.unit}/s")
    return joint


def _datasheet(reader: DocumentReader, value: Any, folder: Path | None) -> Datasheet | None:
    if value is None:
        return None
    try:
        return load_datasheet(find_datasheet(str(value), folder))
    except ConfigError as error:
        reader.note("datasheet", str(error))
        return None


def _model_names(reader: DocumentReader, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        reader.note("model_names", f"is {value!r}, wanted pairs of the robot's name and the model's")
        return {}
    return {str(ours): reader.text(theirs, f"model_names: {ours}") for ours, theirs in value.items()}
