"""Between ROS messages and plain numbers: pure functions, nothing kept, nothing sent.

Numeric sequences are filled through `array.array`: the generated setters take that as it is, while they check a list
or a numpy array number by number (a 30-number state: 1 us instead of 10).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration, Time
from numpy.typing import ArrayLike, NDArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from simpl_interfaces.msg import BundleFile, GuardState, PolicyAction, PolicyStatus
from simpl_interfaces.msg import Transition as TransitionMessage
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from simpl.core.guard import Wanted
from simpl.core.policy_types import PolicyTick
from simpl.core.transition import BITS, DOUBLES, NUMBERS, SINGLES, TEXTS, Transition
from simpl_core.errors import BundleError

if TYPE_CHECKING:
    from simpl.core.guard import Command
    from simpl.core.guard_types import TrajectoryPoint
    from simpl.core.policy_types import LoopStatus

NANOSECONDS = 1_000_000_000


# --- numbers and time ---------------------------------------------------------------------------------------------


def float32_field(values: ArrayLike) -> array[float]:
    """Numbers -> the value of a `float32[]` field."""
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())


def float64_field(values: ArrayLike) -> array[float]:
    """Numbers -> the value of a `float64[]` field."""
    return array("d", np.ascontiguousarray(values, np.float64).tobytes())


def float32_array(field: Sequence[float]) -> NDArray[np.float32]:
    """A `float32[]` field -> an array of its own."""
    return np.array(field, np.float32)


def float64_array(field: Sequence[float]) -> NDArray[np.float64]:
    """A `float64[]` field -> an array of its own."""
    return np.array(field, np.float64)


def to_time(nanoseconds: int) -> Time:
    """Nanoseconds -> stamp."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def from_time(stamp: Time) -> int:
    """Stamp -> nanoseconds, exactly."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def header(nanoseconds: int, frame: str = "") -> Header:
    """A header with this stamp [ns]."""
    return Header(stamp=to_time(nanoseconds), frame_id=frame)


def to_clock(nanoseconds: int) -> Clock:
    """Simulated time [ns] -> message of `/clock`."""
    return Clock(clock=to_time(nanoseconds))


# --- the arm ------------------------------------------------------------------------------------------------------


class JointReading(NamedTuple):
    """What is read of a joint state: stamp [ns], and a position for each name [rad or m]."""

    stamp: int
    names: Sequence[str]
    position: Sequence[float] | NDArray[np.float64]


def from_joint_state(message: JointState) -> JointReading:
    """Message -> what is read of it."""
    return JointReading(from_time(message.header.stamp), message.name, message.position)


def to_joint_state(
    stamp: int, names: Sequence[str], position: ArrayLike, velocity: ArrayLike | None = None
) -> JointState:
    """Joint or object coordinates -> message.

    Args:
        stamp: [ns].
        names: one per coordinate.
        position: (n,) [rad or m].
        velocity: (n,) [rad/s or m/s]; left empty when not given.
    """
    message = JointState(header=header(stamp), name=list(names))
    message.position = float64_field(position)
    if velocity is not None:
        message.velocity = float64_field(velocity)
    return message


def to_velocity_command(velocity: ArrayLike) -> Float64MultiArray:
    """(A,) velocities [rad/s, m/s] -> message of a velocity controller."""
    message = Float64MultiArray()
    message.data = float64_field(velocity)
    return message


def to_trajectory_command(names: Sequence[str], points: Sequence[TrajectoryPoint]) -> JointTrajectory:
    """Points of a trajectory -> message of a trajectory controller, to be begun at once."""
    message = JointTrajectory(joint_names=list(names))
    for point in points:
        seconds, rest = divmod(round(point.time * NANOSECONDS), NANOSECONDS)
        message.points.append(
            JointTrajectoryPoint(
                positions=float64_field(point.position),
                velocities=float64_field(point.velocity),
                time_from_start=Duration(sec=seconds, nanosec=rest),
            )
        )
    return message


# --- policy and guard ---------------------------------------------------------------------------------------------


def to_policy_action(tick: PolicyTick, joints: Sequence[str] = ()) -> PolicyAction:
    """One tick of the policy -> message; `joints` are the names behind its velocities, empty to leave them unsaid."""
    message = PolicyAction(header=header(tick.stamp))
    message.tick, message.episode, message.step, message.substep = tick.tick, tick.episode, tick.step, tick.substep
    message.observation = float32_field(tick.observation)
    message.z, message.e = float32_field(tick.z), float32_field(tick.e)
    message.skill_start, message.active = bool(tick.skill_start), bool(tick.active)
    message.action, message.velocity = float32_field(tick.action), float64_field(tick.velocity)
    message.model_version, message.latency_ms = tick.model_version, tick.latency
    message.joint_names = list(joints)
    return message


def from_policy_action(message: PolicyAction) -> PolicyTick:
    """Message -> one tick of the policy; the inverse of `to_policy_action`."""
    return PolicyTick(
        stamp=from_time(message.header.stamp),
        tick=message.tick,
        episode=message.episode,
        step=message.step,
        observation=float32_array(message.observation),
        z=float32_array(message.z),
        e=float32_array(message.e),
        skill_start=message.skill_start,
        action=float32_array(message.action),
        velocity=float64_array(message.velocity),
        model_version=message.model_version,
        latency=message.latency_ms,
        active=message.active,
        substep=message.substep,
    )


def to_wanted(message: PolicyAction, newest: int = 0) -> Wanted:
    """Message -> the part of it that the guard judges.

    Args:
        message: the action; a stamp of zero says nothing about its age.
        newest: stamp of the newest joint state [ns].
    """
    stamp = from_time(message.header.stamp)
    return Wanted(
        velocity=float64_array(message.velocity),
        tick=message.tick,
        episode=message.episode,
        step=message.step,
        active=message.active,
        age=(newest - stamp) / NANOSECONDS if stamp else 0.0,
        joints=tuple(message.joint_names),
        substep=message.substep,
    )


def to_guard_state(
    command: Command, stamp: int, interventions: int, commands: int, counts: Sequence[int] = ()
) -> GuardState:
    """A command the guard has sent -> message.

    Args:
        command: what was sent.
        stamp: of the action behind it or of the newest joint state [ns].
        interventions: commands so far that differ from what the policy wanted.
        commands: commands so far.
        counts: commands so far by kind, see `Guard.counts`.
    """
    message = GuardState(header=header(stamp), tick=command.tick, mode=int(command.mode), flags=int(command.flags))
    message.reason, message.velocity = command.reason, float64_field(command.velocity)
    message.interventions, message.commands = interventions, commands
    message.flag_counts = array("Q", counts)
    return message


def to_policy_status(status: LoopStatus, stamp: int) -> PolicyStatus:
    """Health of the control loop -> message stamped `stamp` [ns]."""
    message = PolicyStatus(header=header(stamp), state=status.state, ticks=status.ticks, missed=status.missed)
    message.model_version, message.staged_version = status.model_version, status.staged_version
    message.reason = status.reason
    message.rate_hz = float(status.rate_hz)
    message.latency_ms_p50, message.latency_ms_p99 = float(status.latency_p50), float(status.latency_p99)
    return message


# --- transitions and models ---------------------------------------------------------------------------------------

_COPIED = tuple(name for name in ("robot_uuid", *NUMBERS, *BITS, *TEXTS) if name != "stamp")  # the header has that


def to_transition(transition: Transition) -> TransitionMessage:
    """One transition -> message; float32 and float64 are kept to the last bit."""
    message = TransitionMessage(header=header(transition.stamp))
    for name in _COPIED:
        setattr(message, name, getattr(transition, name))
    for name in SINGLES:
        setattr(message, name, float32_field(getattr(transition, name)))
    for name in DOUBLES:
        setattr(message, name, float64_field(getattr(transition, name)))
    return message


def from_transition(message: TransitionMessage) -> Transition:
    """Message -> transition; the inverse of `to_transition`."""
    return Transition(
        stamp=from_time(message.header.stamp),
        **{name: getattr(message, name) for name in _COPIED},
        **{name: float32_array(getattr(message, name)) for name in SINGLES},
        **{name: float64_array(getattr(message, name)) for name in DOUBLES},
    )


def to_bundle_files(files: Mapping[str, bytes]) -> list[BundleFile]:
    """Contents by name -> the files of a ModelUpdate, each with its checksum."""
    return [
        BundleFile(name=name, sha256=hashlib.sha256(data).hexdigest(), data=array("B", data))
        for name, data in files.items()
    ]


def from_bundle_files(files: Sequence[BundleFile]) -> dict[str, bytes]:
    """Files of a ModelUpdate -> contents by name.

    Raises:
        BundleError: a checksum does not fit, or a name comes twice.
    """
    contents: dict[str, bytes] = {}
    for file in files:
        data = bytes(file.data)
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise BundleError(f"{file.name} came with checksum {found[:12]}, announced was {file.sha256[:12]}")
        if file.name in contents:
            raise BundleError(f"{file.name} comes twice in a model update")
        contents[file.name] = data
    return contents
