"""Who may say and hear what: one table, from which the access policies of SROS 2 are written (`docs/security.md`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from simpl import interfaces as i
from simpl.core.profile import RobotProfile
from simpl.core.profile_parts import COMMAND_TOPICS

ENCLAVES = "/simpl"
"""Enclaves are named /simpl/<node>, whatever the namespace of the graph."""

Kind = Literal["node", "lifecycle", "tool"]


@dataclass(frozen=True)
class Access:
    """What a node needs, and so all that it is allowed.

    Attributes:
        says: topics it publishes.
        hears: topics it subscribes to.
        offers: services it answers.
        calls: services it asks.
        kind: "lifecycle" for a managed node; "tool" for one without parameters and a log of its own.
    """

    says: tuple[i.Topic, ...] = ()
    hears: tuple[i.Topic, ...] = ()
    offers: tuple[i.Service, ...] = ()
    calls: tuple[i.Service, ...] = ()
    kind: Kind = "node"


LABELS = (i.EPISODE_SUCCESS, i.EPISODE_FAILURE, i.EPISODE_DISCARD, i.EPISODE_READY)

ACCESS: Mapping[str, Access] = {
    "policy": Access(
        # Commands: zeros in the place of a guard that is silent.
        says=(i.POLICY_ACTION, i.POLICY_STATUS, i.COMMANDS, i.DIAGNOSTICS),
        hears=(i.JOINT_STATES, i.OBJECT_STATES, i.GUARD_STATE),
        offers=(i.BEGIN_EPISODE, i.END_EPISODE, i.HOME, i.STAGE_MODEL),
        kind="lifecycle",
    ),
    "guard": Access(
        says=(i.COMMANDS, i.TRAJECTORY, i.GUARD_STATE, i.DIAGNOSTICS),
        hears=(i.JOINT_STATES, i.POLICY_ACTION),
        offers=(i.GUARD_ESTOP, i.GUARD_RESET, i.GUARD_PAUSE, i.GUARD_RESUME),
    ),
    "bridge": Access(
        says=(i.TRANSITIONS, i.EPISODE_STATE, i.EPISODE_RESULT, i.DIAGNOSTICS),
        hears=(
            i.POLICY_ACTION, i.GUARD_STATE, i.POLICY_STATUS, i.TRANSITIONS_ACK, i.MODEL_UPDATE, i.LEARNER_STATUS,
        ),
        offers=(*LABELS, i.EPISODE_STOP, i.MODEL_ROLLBACK),
        calls=(i.BEGIN_EPISODE, i.END_EPISODE, i.STAGE_MODEL, i.HOME, i.SCENE_RESET),
    ),
    "learner": Access(
        says=(i.TRANSITIONS_ACK, i.MODEL_UPDATE, i.LEARNER_STATUS, i.DIAGNOSTICS), hears=(i.TRANSITIONS,)
    ),
    "arm_sim": Access(
        says=(i.JOINT_STATES, i.OBJECT_STATES, i.CLOCK), hears=(i.COMMANDS,), offers=(i.SCENE_RESET,)
    ),
    "franka_fci": Access(says=(i.JOINT_STATES, i.DIAGNOSTICS), hears=(i.COMMANDS,), offers=(i.ARM_RECOVER,)),
    "record": Access(hears=i.TOPICS),
    "adapt_monitor": Access(
        hears=(i.EPISODE_STATE, i.EPISODE_RESULT, i.POLICY_STATUS, i.LEARNER_STATUS, i.GUARD_STATE),
        calls=LABELS,
        kind="tool",
    ),
    # A person at the `ros2` command line: may look at everything and press every button, and command no arm.
    "operator": Access(
        hears=i.TOPICS,
        calls=(
            i.GUARD_ESTOP, i.GUARD_RESET, i.GUARD_PAUSE, i.GUARD_RESUME, *LABELS, i.EPISODE_STOP, i.MODEL_ROLLBACK,
            i.HOME, i.ARM_RECOVER,
        ),
        kind="tool",
    ),
}  # fmt: skip
"""By node name."""

_PARAMETERS = ("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
               "set_parameters_atomically", "get_type_description")  # fmt: skip
_LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")


def render_policies(profile: RobotProfile, namespace: str = "") -> str:
    """The policies of all nodes as `ros2 security generate_artifacts -p` reads them (SROS 2 policy, version 0.2.0).

    Args:
        profile: what the robot calls the topics, and the kind of its controller.
        namespace: ROS namespace of the graph.
    """
    place = f"/{namespace.strip('/')}"
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<policy version="0.2.0">', "  <enclaves>"]
    for name, access in ACCESS.items():
        lines += [
            f'    <enclave path="{ENCLAVES}/{name}">',
            "      <profiles>",
            f'        <profile ns="{place}" node="{name}">',
            *_profile(access, profile),
            "        </profile>",
            "      </profiles>",
            "    </enclave>",
        ]
    return "\n".join([*lines, "  </enclaves>", "</policy>", ""])


def _profile(access: Access, profile: RobotProfile) -> Iterator[str]:
    own, called = _own_services(access.kind), dict(profile.remappings)
    idle = {topic for kind, topic in COMMAND_TOPICS.items() if kind != profile.command.interface}

    def topics(wanted: Iterable[i.Topic]) -> list[str]:
        return [called.get(topic.name, topic.name) for topic in wanted if topic.name not in idle]

    logs = [] if access.kind == "tool" else ["/rosout", "/parameter_events"]
    changes = ["~/transition_event"] if access.kind == "lifecycle" else []
    yield from _rules("service", "reply", [*(service.name for service in access.offers), *own])
    yield from _rules("service", "request", [service.name for service in access.calls])
    yield from _rules("topic", "publish", [*topics(access.says), *logs, *changes])
    yield from _rules("topic", "subscribe", [*topics(access.hears), *logs[1:]])


def _own_services(kind: Kind) -> list[str]:
    names = {"tool": (), "node": _PARAMETERS, "lifecycle": (*_PARAMETERS, *_LIFECYCLE)}[kind]
    return [f"~/{name}" for name in names]


def _rules(what: str, verb: str, names: list[str]) -> Iterator[str]:
    if names:
        yield f'          <{what}s {verb}="ALLOW">'
        yield from (f"            <{what}>{name}</{what}>" for name in names)
        yield f"          </{what}s>"
