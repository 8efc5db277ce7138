"""Compares a robot profile with what was seen of a running robot. Pure: `simpl.front.robot_probe` does the looking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from simpl.core.profile import RobotProfile

JOINT_STATE = "sensor_msgs/msg/JointState"
COMMAND_TYPES = {"velocity": "std_msgs/msg/Float64MultiArray", "trajectory": "trajectory_msgs/msg/JointTrajectory"}
OK, WARNING, ERROR = "ok", "warning", "error"

_OLDEST = 0.5  # a stamp this old is stale: clocks differ, or the sender copies an old one [s]
_FUTURE = 0.05  # clocks of two machines differ by that without harm [s]
_RATE_TOLERANCE = 0.2  # a rate may be this much below the profile's
_SETTLED = 0.05  # a measured position may lie so far beyond the arm's end [rad, m]


class Endpoint(NamedTuple):
    """A topic as the graph shows it: its types, and the nodes that publish and subscribe."""

    types: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()
    subscribers: tuple[str, ...] = ()


class StateMessage(NamedTuple):
    """A JointState: names, positions, its stamp, and when it came [ns], wall clock."""

    names: tuple[str, ...]
    positions: tuple[float, ...]
    stamp: int
    received: int


@dataclass(frozen=True)
class Seen:
    """What was seen of a robot in a while.

    Attributes:
        seconds: how long somebody looked.
        topics: by the name that the profile has for them.
        messages: of the state topics, in order of arrival.
        joint_state_topics: all topics of type JointState on the network.
        simulated_time: stamps are not the wall clock's.
    """

    seconds: float
    topics: Mapping[str, Endpoint] = field(default_factory=dict)
    messages: Mapping[str, Sequence[StateMessage]] = field(default_factory=dict)
    joint_state_topics: tuple[str, ...] = ()
    simulated_time: bool = False


class Finding(NamedTuple):
    """One thing looked at: how it is, and what to do when it is not well."""

    level: str
    text: str
    remedy: str = ""


def check_robot(profile: RobotProfile, seen: Seen) -> list[Finding]:
    """Everything that fits and does not fit between a profile and a robot."""
    findings = [*_joint_states(profile, seen)]
    if profile.objects:
        findings += _states(profile.topics.object_states, "object coordinate", profile.objects, seen)
    return [*findings, *_commands(profile, seen)]


def _joint_states(profile: RobotProfile, seen: Seen) -> Iterator[Finding]:
    topic = profile.topics.joint_states
    yield from _states(topic, "joint", profile.joint_names, seen)
    messages = seen.messages.get(topic, ())
    if not messages or len(seen.topics.get(topic, Endpoint()).publishers) != 1:
        return
    yield from _rate(profile, topic, messages)
    # Positions that are missing or no numbers have been named already.
    last = dict(zip(messages[-1].names, messages[-1].positions, strict=False))
    positions = {name: last[name] for name in profile.joint_names if math.isfinite(last.get(name, math.nan))}
    yield from _places(profile, positions)


def _states(topic: str, what: str, names: Sequence[str], seen: Seen) -> Iterator[Finding]:
    """Whether a state topic is there, fresh and whole."""
    endpoint = seen.topics.get(topic, Endpoint())
    if not endpoint.publishers:
        known = ", ".join(sorted(seen.joint_state_topics)) or "none"
        yield Finding(
            ERROR,
            f"nobody publishes {topic}",
            f"start the driver, or name its topic in the profile under topics:; of this type there are: {known}. Check "
            "ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE and the namespace",
        )
        return
    wrong = [kind for kind in endpoint.types if kind != JOINT_STATE]
    if wrong:
        yield Finding(ERROR, f"{topic} is a {wrong[0]}, wanted {JOINT_STATE}", "name another topic in the profile")
        return
    if len(endpoint.publishers) > 1:
        who = ", ".join(endpoint.publishers)
        yield Finding(ERROR, f"{topic} has {len(endpoint.publishers)} publishers: {who}", "leave one of them running")
    messages = seen.messages.get(topic, ())
    if not messages:
        yield Finding(
            ERROR,
            f"{topic} is published by {endpoint.publishers[0]}, but nothing came in {seen.seconds:.1f} s",
            "is the broadcaster active (ros2 control list_controllers)? Does a firewall stop UDP?",
        )
        return
    yield Finding(OK, f"{topic}: {len(messages)} messages of {', '.join(endpoint.publishers)}")
    yield from _whole(topic, what, names, messages)
    yield from _fresh(topic, messages, seen.simulated_time)


def _whole(topic: str, what: str, names: Sequence[str], messages: Sequence[StateMessage]) -> Iterator[Finding]:
    # Others may share the topic (a gripper of its own): what is about them alone concerns nobody here.
    messages = [message for message in messages if not set(names).isdisjoint(message.names)] or messages
    found = min((message.names for message in messages), key=lambda known: len({*names}.intersection(known)))
    missing = [name for name in names if name not in found]
    if missing:
        yield Finding(
            ERROR,
            f"{topic} lacks {what} {', '.join(missing)}; it has {', '.join(found) or 'no names'}",
            f"write the robot's own names in the profile{_prefix_hint(names, found)}",
        )
        return
    if any(len(message.names) != len(message.positions) for message in messages):
        yield Finding(ERROR, f"{topic}: names and positions differ in number", "mend the driver")
        return
    picked = [[message.positions[message.names.index(name)] for name in names] for message in messages]
    bad = np.flatnonzero(~np.isfinite(picked).all(axis=0))
    if bad.size:
        yield Finding(
            ERROR,
            f"{topic}: {what} {names[int(bad[0])]} is not a finite number",
            "is the sensor connected and calibrated? The guard stops the arm at such a state",
        )
    else:
        yield Finding(OK, f"{topic}: all {len(names)} {what}s, finite")


def _prefix_hint(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Whether all names would fit with something before them."""
    for name in found:
        prefix = name.removesuffix(wanted[0])
        if prefix and prefix != name and all(prefix + other in found for other in wanted):
            return f": with {prefix!r} before each they fit"
    return ""


def _fresh(topic: str, messages: Sequence[StateMessage], simulated: bool) -> Iterator[Finding]:
    stamps = np.array([message.stamp for message in messages], dtype=np.int64)
    if not stamps.all():
        yield Finding(
            ERROR, f"{topic}: stamps are zero", "the driver must stamp each state with the time of its measurement"
        )
        return
    if (np.diff(stamps) <= 0).any():
        yield Finding(ERROR, f"{topic}: stamps stand still or go back", "two senders, or a driver that repeats states")
        return
    if simulated:
        yield Finding(OK, f"{topic}: stamps increase (simulated time)")
        return
    ages = 1e-9 * (np.array([message.received for message in messages], dtype=np.int64) - stamps)
    age = float(np.median(ages))
    if not -_FUTURE <= age <= _OLDEST:
        yield Finding(
            ERROR,
            f"{topic}: stamps are {abs(age):.2f} s {'old' if age > 0 else 'in the future'}",
            "synchronise the clocks (chrony), or find what delays the states",
        )
    else:
        yield Finding(OK, f"{topic}: stamps are fresh ({1e3 * age:.1f} ms old)")


def _rate(profile: RobotProfile, topic: str, messages: Sequence[StateMessage]) -> Iterator[Finding]:
    """By stamps, so that a reader too slow for the sender does not make the sender look slow."""
    if len(messages) < 3:
        yield Finding(ERROR, f"{topic}: {len(messages)} messages tell no rate", "is the driver alive?")
        return
    gaps = 1e-9 * np.diff([message.stamp for message in messages])
    rate = 1.0 / max(float(np.median(gaps)), 1e-9)
    wanted = profile.state_rate_hz or profile.control_rate_hz
    if rate < profile.control_rate_hz * (1.0 - _RATE_TOLERANCE):
        text = f"{topic}: {rate:.1f} Hz, slower than the control rate of {profile.control_rate_hz} Hz"
        yield Finding(ERROR, text, "publish joint states faster, or lower control_rate_hz and the model's rate")
    elif rate < wanted * (1.0 - _RATE_TOLERANCE):
        text = f"{topic}: {rate:.1f} Hz, the profile says {wanted} Hz"
        yield Finding(WARNING, text, "correct state_rate_hz, or find out who slows the driver (or this reader) down")
    else:
        yield Finding(OK, f"{topic}: {rate:.1f} Hz")


def _places(profile: RobotProfile, positions: Mapping[str, float]) -> Iterator[Finding]:
    """Whether positions can be of this arm, in the profile's units."""
    limits = {joint.name: joint for joint in profile.joints}

    def outside(scale: float) -> list[str]:
        ends = ((name, scale * place, limits[name].position) for name, place in positions.items())
        return [name for name, place, end in ends if end and not end[0] - _SETTLED <= place <= end[1] + _SETTLED]

    beyond = outside(1.0)
    if beyond:
        what = ", ".join(f"{name} at {positions[name]:.3f} {limits[name].unit}" for name in beyond)
        degrees = not outside(math.pi / 180.0)
        remedy = "these read like degrees: publish radians (REP 103)" if degrees else "correct the limits"
        yield Finding(ERROR, f"outside the profile's limits: {what}", remedy)
        return
    low, high = profile.position_bounds()
    bounds = dict(zip(profile.joint_names, zip(low, high, strict=True), strict=True))
    close = [name for name, place in positions.items() if not bounds[name][0] <= place <= bounds[name][1]]
    if close:
        yield Finding(WARNING, f"within the margin of a limit: {', '.join(close)}", "move the arm off before a run")
    elif positions:
        yield Finding(OK, "positions are plausible and off the limits")


def _commands(profile: RobotProfile, seen: Seen) -> Iterator[Finding]:
    topic, wanted = profile.command.topic, COMMAND_TYPES[profile.command.interface]
    endpoint = seen.topics.get(topic, Endpoint())
    wrong = [kind for kind in endpoint.types if kind != wanted]
    if wrong:
        yield Finding(ERROR, f"{topic} is a {wrong[0]}, wanted {wanted}", "correct command: interface in the profile")
    elif not endpoint.subscribers:
        controller = profile.command.controller
        yield Finding(
            ERROR,
            f"nobody listens to {topic}",
            f"activate the controller (ros2 control switch_controllers --activate {controller}), or correct command: "
            "topic in the profile",
        )
    else:
        yield Finding(OK, f"{topic}: {', '.join(endpoint.subscribers)} listens")
    others = [name for name in endpoint.publishers if name.rsplit("/", 1)[-1] != "guard"]
    if others:
        who = ", ".join(others)
        yield Finding(ERROR, f"{who} publishes on {topic}", "end it: only the guard may move the arm")
    elif len(endpoint.publishers) > 1:
        yield Finding(ERROR, f"{len(endpoint.publishers)} guards publish on {topic}", "leave one of them running")
    else:
        yield Finding(OK, f"{topic}: nobody but a guard publishes")
