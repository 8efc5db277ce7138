"""Robot profile: the limits and names of one arm, read from YAML and checked whole before anything moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from simpl_core.errors import ConfigError

FloatArray = NDArray[np.float64]

_JOINT_KEYS = frozenset({"name", "unit", "position", "velocity", "acceleration"})
_PROFILE_KEYS = frozenset({"name", "description", "control_rate_hz", "position_margin", "joints", "objects"})
_UNITS = ("rad", "m")


@dataclass(frozen=True)
class JointLimits:
    """Limits of one joint; the unit of length is `unit`.

    Attributes:
        name: as in joint_states.
        unit: "rad" or "m".
        position: lowest and highest position; None where the stop is compliant (a gripper's finger).
        velocity: highest speed, either direction [unit/s].
        acceleration: highest change of velocity [unit/s^2]; None where the arm's own controller limits it.
    """

    name: str
    unit: str
    position: tuple[float, float] | None
    velocity: float
    acceleration: float | None


@dataclass(frozen=True)
class RobotProfile:
    """What the control nodes must know about an arm.

    Attributes:
        name: of the profile, for messages to people.
        description: one line.
        control_rate_hz: commands a second [Hz]; one command acts for one period.
        position_margin: distance kept from every position limit [the joint's unit].
        joints: in the order of the command and of the first numbers of the observation.
        objects: names in object_states, in the order of the rest of the observation.
        home: position of each joint (A,) where an episode starts [rad, m]; None where a service puts the arm there.
    """

    name: str
    description: str
    control_rate_hz: float
    position_margin: float
    joints: tuple[JointLimits, ...]
    objects: tuple[str, ...]
    home: tuple[float, ...] | None = None

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints, in order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Name of each number of the observation: joints, then objects."""
        return self.joint_names + self.objects

    @property
    def period(self) -> float:
        """Time between two commands [s]."""
        return 1.0 / self.control_rate_hz

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


def load_profile(path: Path) -> RobotProfile:
    """Read and check a profile.

    Raises:
        ConfigError: the file is missing, is not YAML, has a key too many or too few, or an impossible value.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"robot profile {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"robot profile {path} is not YAML: {' '.join(str(error).split())}") from error
    return parse_profile(document, str(path))


def parse_profile(document: Any, where: str) -> RobotProfile:
    """A profile from what YAML gave.

    Args:
        document: nested dictionaries and lists.
        where: name of the source, for error messages.

    Raises:
        ConfigError: see `load_profile`.
    """
    values = _keys(document, _PROFILE_KEYS, where, optional=frozenset({"home"}))
    joints = tuple(
        _joint(item, f"{where}: joint {index + 1}") for index, item in enumerate(_list(values, "joints", where))
    )
    objects = tuple(_text(item, f"{where}: objects") for item in _list(values, "objects", where))
    profile = RobotProfile(
        name=_text(values["name"], f"{where}: name"),
        description=_text(values["description"], f"{where}: description"),
        control_rate_hz=_number(values["control_rate_hz"], f"{where}: control_rate_hz", above=0.0),
        position_margin=_number(values["position_margin"], f"{where}: position_margin", least=0.0),
        joints=joints,
        objects=objects,
        home=_home(values, where),
    )
    _check_whole(profile, where)
    return profile


def _check_whole(profile: RobotProfile, where: str) -> None:
    if not profile.joints:
        raise ConfigError(f"{where}: joints is empty; an arm has at least one")
    names = profile.observation_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: {twice[0]!r} is named twice")
    low, high = profile.position_bounds()
    for joint, lowest, highest in zip(profile.joints, low, high, strict=True):
        if lowest >= highest:
            raise ConfigError(
                f"{where}: joint {joint.name}: position {joint.position} leaves no room with a margin of "
                f"{profile.position_margin}; wanted [lowest, highest]"
            )
    if profile.home is not None and len(profile.home) != len(profile.joints):
        raise ConfigError(f"{where}: home has {len(profile.home)} numbers, wanted one for each of the joints")


def _joint(item: Any, where: str) -> JointLimits:
    values = _keys(item, _JOINT_KEYS, where)
    name = _text(values["name"], f"{where}: name")
    where = f"{where} ({name})"
    if values["unit"] not in _UNITS:
        raise ConfigError(f"{where}: unit is {values['unit']!r}, wanted one of {', '.join(_UNITS)}")
    acceleration = values["acceleration"]
    return JointLimits(
        name=name,
        unit=values["unit"],
        position=_range(values["position"], f"{where}: position"),
        velocity=_number(values["velocity"], f"{where}: velocity", above=0.0),
        acceleration=None if acceleration is None else _number(acceleration, f"{where}: acceleration", above=0.0),
    )


def _home(values: Mapping[str, Any], where: str) -> tuple[float, ...] | None:
    if values.get("home") is None:
        return None
    return tuple(_number(item, f"{where}: home") for item in _list(values, "home", where))


def _keys(
    document: Any, wanted: frozenset[str], where: str, *, optional: frozenset[str] = frozenset()
) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where} holds a {type(document).__name__}, wanted keys {', '.join(sorted(wanted))}")
    unknown = sorted(str(key) for key in set(document) - wanted - optional)
    if unknown:
        known = ", ".join(sorted(wanted | optional))
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; the keys are {known}")
    missing = sorted(wanted - set(document))
    if missing:
        raise ConfigError(f"{where}: key {missing[0]!r} is missing (null says that there is no such limit)")
    return document


def _list(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = values[key]
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key} is {value!r}, wanted a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} is {value!r}, wanted a text")
    return value.strip()


def _range(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ConfigError(f"{where} is {value!r}, wanted [lowest, highest] or null")
    return _number(value[0], where), _number(value[1], where)


def _number(value: Any, where: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{where} is {value!r}, wanted a finite number")
    if value <= above:
        raise ConfigError(f"{where} is {value}, wanted more than {above}")
    if value < least:
        raise ConfigError(f"{where} is {value}, wanted at least {least}")
    return float(value)
