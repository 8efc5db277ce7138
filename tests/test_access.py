"""The access policies of SROS 2 allow what the nodes do and nothing else; the ones in the repository are not stale."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from simpl import interfaces
from simpl.access import ACCESS, render_policies
from simpl.core.profile import RobotProfile, load_profile
from simpl.core.profile_files import find_profile

PACKAGE = Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "simpl"
SAYS_HOW_IT_FARES = "nodes/diagnostics.py"
# Sources of each node, and what the interfaces are for that a table of the source names and a loop uses.
SOURCES = {
    "policy": (("nodes/policy.py", "nodes/takeover.py", SAYS_HOW_IT_FARES), "subscription"),
    "guard": (("nodes/guard.py", SAYS_HOW_IT_FARES), ""),
    "bridge": (("nodes/bridge.py", SAYS_HOW_IT_FARES), "server"),
    "learner": (("nodes/learner.py", SAYS_HOW_IT_FARES), ""),
    "arm_sim": (("nodes/arm_sim.py",), ""),
    "franka_fci": (("nodes/franka_fci.py", SAYS_HOW_IT_FARES), ""),
    "adapt_monitor": (("front/monitor.py", "front/keys.py"), "subscription"),
}
VERBS = ("publisher", "subscription", "server", "client")
Rules = dict[tuple[str, str], set[str]]


def interfaces_in(tree: ast.AST) -> set[str]:
    """Names of the interfaces that a piece of source mentions."""
    mentioned = [
        getattr(interfaces, node.attr, None)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "interfaces"
    ]
    return {one.name for one in mentioned if isinstance(one, interfaces.Topic | interfaces.Service)}


def used_by(sources: tuple[str, ...], table: str) -> dict[str, set[str]]:
    """What the sources do with each interface, by verb."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        tree = ast.parse((PACKAGE / "simpl" / source).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS:
                found[node.func.attr] |= interfaces_in(node.func.value)
        if source.endswith("keys.py"):
            found["client"] |= interfaces_in(tree)
        elif table:
            found[table] |= interfaces_in(tree) - set().union(*found.values())
    return found


@pytest.mark.parametrize("node", sorted(SOURCES))
def test_the_table_says_what_the_node_does(node: str) -> None:
    access, found = ACCESS[node], used_by(*SOURCES[node])
    parts = (access.says, access.hears, access.offers, access.calls)
    says, hears, offers, calls = ({one.name for one in part} for part in parts)
    assert (found["publisher"], found["subscription"]) == (says, hears)
    assert (found["server"], found["client"]) == (offers, calls)


def test_everything_has_a_place_in_it() -> None:
    says = {topic.name for access in ACCESS.values() for topic in access.says}
    offers = {service.name for access in ACCESS.values() for service in access.offers}
    assert says == {topic.name for topic in interfaces.TOPICS}
    assert offers == {service.name for service in interfaces.SERVICES}
    nodes = {path.stem for path in (PACKAGE / "simpl" / "nodes").glob("*.py") if "run_node(" in path.read_text()}
    assert nodes - {"running", "bench_peers"} == set(ACCESS) - {"adapt_monitor", "operator"}


def test_the_policies_in_the_repository_are_the_tables() -> None:
    written = (PACKAGE / "security" / "policies.xml").read_text()
    assert written == render_policies(profile("mujoco_kitchen")), "simpl robot policies mujoco_kitchen > policies.xml"


def profile(name: str) -> RobotProfile:
    return load_profile(find_profile(name))


def rules(text: str) -> dict[str, Rules]:
    """Absolute names by enclave, kind and verb, as SROS 2 resolves them."""
    root = ET.fromstring(text)
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    found: dict[str, Rules] = {}
    for enclave in root.iterfind("enclaves/enclave"):
        allowed: Rules = defaultdict(set)
        for one in enclave.iterfind("profiles/profile"):
            place = one.attrib["ns"].rstrip("/")
            for group in one:
                (verb,) = (verb for verb, value in group.attrib.items() if value == "ALLOW")
                for item in group:
                    name = (item.text or "").replace("~", f"{place}/{one.attrib['node']}")
                    allowed[item.tag, verb].add(name if name.startswith("/") else f"{place}/{name}")
        found[enclave.attrib["path"]] = allowed
    return found


def test_nobody_but_the_guard_and_the_policy_in_its_place_commands_the_arm() -> None:
    for name in ("mujoco_kitchen", "kinova_gen3"):
        allowed = rules(render_policies(profile(name)))
        command = "/joint_group_velocity_controller/commands"
        assert {path for path, one in allowed.items() if command in one["topic", "publish"]} == {
            "/simpl/guard",
            "/simpl/policy",
        }
        assert [path for path, one in allowed.items() if "/guard/estop" in one["service", "reply"]] == ["/simpl/guard"]
        assert [path for path, one in allowed.items() if "/policy/action" in one["topic", "publish"]] == [
            "/simpl/policy"
        ]


def test_names_are_those_of_the_robot_and_of_the_namespace() -> None:
    allowed = rules(render_policies(profile("iiwa14"), "/left/"))
    guard = allowed["/simpl/guard"]
    assert guard["topic", "publish"] == {
        "/left/lbr/joint_trajectory_controller/joint_trajectory",
        "/left/guard/state",
        "/diagnostics",
        "/rosout",
        "/parameter_events",
    }
    assert "/left/lbr/joint_states" in guard["topic", "subscribe"]
    assert "/left/guard/set_parameters" in guard["service", "reply"]
    policy = allowed["/simpl/policy"]
    assert policy["topic", "publish"] == {
        "/left/policy/action", "/left/policy/status", "/left/policy/transition_event", "/diagnostics", "/rosout",
        "/parameter_events",
    }  # fmt: skip
    assert "/left/policy/change_state" in policy["service", "reply"]
    assert "/diagnostics" in allowed["/simpl/record"]["topic", "subscribe"]
