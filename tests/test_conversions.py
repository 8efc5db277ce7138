"""Messages and plain numbers: nothing is lost on the way, and the tables of names, numbers and qualities agree."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.serialization import deserialize_message, serialize_message
from simpl_interfaces.msg import BundleFile, GuardState, PolicyAction
from simpl_interfaces.msg import Transition as TransitionMessage

from simpl import conversions, interfaces, runtime_env
from simpl.core.guard import Command, Flags, Mode
from simpl.core.guard_types import TrajectoryPoint
from simpl.core.policy_types import PolicyTick
from simpl.core.transition import Transition
from simpl_core.errors import BundleError

RNG = np.random.default_rng(7)


def single(size: int) -> np.ndarray:
    return RNG.normal(size=size).astype(np.float32)


def tick() -> PolicyTick:
    return PolicyTick(
        stamp=1_700_000_000_123_456_789,
        tick=2**40 + 1,
        episode=3,
        step=279,
        observation=single(30),
        z=single(10),
        e=single(6),
        skill_start=True,
        action=single(9),
        velocity=RNG.normal(size=9),
        model_version="a1b2",
        latency=0.25,
        active=False,
    )


def transition() -> Transition:
    return Transition(
        robot_uuid=str(uuid.UUID(int=5)), epoch=2**50, seq=9, stamp=12_345_678_901, episode=1, step=2,
        phase="finetune", task="kettle > microwave", model_version="a1b2", skill_start=False,
        z=single(10), e=single(6), observation=single(30), next_observation=single(30), action=single(9),
        velocity_wanted=RNG.normal(size=9), velocity_executed=np.zeros(0), guard_flags=36, reward=1.0,
        reward_source="object_states", terminated=False, truncated=True,
    )  # fmt: skip


def over_the_wire(message: object) -> object:
    """What the other side gets."""
    return deserialize_message(serialize_message(message), type(message))


def assert_same(a: object, b: object) -> None:
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_policy_action_there_and_back() -> None:
    sent = tick()
    received = conversions.from_policy_action(over_the_wire(conversions.to_policy_action(sent)))
    for name, value in sent._asdict().items():
        assert_same(value, getattr(received, name))


def test_transition_there_and_back() -> None:
    sent = transition()
    message = over_the_wire(conversions.to_transition(sent))
    assert isinstance(message, TransitionMessage)
    received = conversions.from_transition(message)
    for field in dataclasses.fields(sent):
        assert_same(getattr(sent, field.name), getattr(received, field.name))


def test_nan_reaches_the_guard() -> None:
    """It is the guard's to judge: a conversion that mends or refuses it would hide the fault."""
    sent = tick()._replace(velocity=np.array([np.nan] * 9))
    wanted = conversions.to_wanted(over_the_wire(conversions.to_policy_action(sent)))
    assert np.isnan(wanted.velocity).all()


def test_the_guard_hears_the_age_of_a_state_and_the_order_of_joints() -> None:
    message = over_the_wire(conversions.to_policy_action(tick()._replace(stamp=1_000_000_000), ["a", "b"]))
    wanted = conversions.to_wanted(message, newest=1_250_000_000)
    assert (wanted.age, wanted.joints) == (0.25, ("a", "b"))
    assert conversions.to_wanted(PolicyAction(), newest=1_250_000_000).age == 0.0, "a stamp of zero says nothing"


def test_a_trajectory_keeps_its_times_and_names() -> None:
    points = [
        TrajectoryPoint(np.array([0.1]), np.array([0.2]), 0.08),
        TrajectoryPoint(np.array([0.3]), np.zeros(1), 1.5),
    ]
    message = over_the_wire(conversions.to_trajectory_command(["a"], points))
    assert message.joint_names == ["a"] and (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
    times = [(point.time_from_start.sec, point.time_from_start.nanosec) for point in message.points]
    assert times == [(0, 80_000_000), (1, 500_000_000)]
    assert [(list(p.positions), list(p.velocities)) for p in message.points] == [([0.1], [0.2]), ([0.3], [0.0])]


def test_arrays_are_the_readers_own() -> None:
    message = PolicyAction(z=[1.0, 2.0])
    array = conversions.float32_array(message.z)
    array[0] = 5.0
    assert message.z[0] == 1.0


@pytest.mark.parametrize("nanoseconds", [0, 999_999_999, 1_000_000_000, 1_700_000_000_123_456_789])
def test_time_is_exact(nanoseconds: int) -> None:
    assert conversions.from_time(conversions.to_time(nanoseconds)) == nanoseconds


def test_joint_state() -> None:
    message = conversions.to_joint_state(1_500_000_000, ["a", "b"], [0.5, -1.0])
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 500_000_000)
    assert (list(message.name), list(message.position), list(message.velocity)) == (["a", "b"], [0.5, -1.0], [])


def test_guard_state() -> None:
    command = Command(np.zeros(9), 7, Mode.FAULT, Flags.NONFINITE | Flags.FAULT, "NaN")
    message = over_the_wire(conversions.to_guard_state(command, 5, interventions=2, commands=11, counts=[3, 0, 2**40]))
    assert isinstance(message, GuardState)
    assert message.flags == GuardState.FLAG_NONFINITE + GuardState.FLAG_FAULT
    assert (message.mode, message.tick, message.reason) == (GuardState.FAULT, 7, "NaN")
    assert (message.interventions, message.commands, list(message.flag_counts)) == (2, 11, [3, 0, 2**40])


def test_flags_and_modes_have_one_number_each() -> None:
    """The core knows no ROS, so it has its own copy of the numbers in GuardState.msg."""
    assert {flag.name: int(flag) for flag in Flags if flag} == {
        name.removeprefix("FLAG_"): getattr(GuardState, name) for name in dir(GuardState) if name.startswith("FLAG_")
    }
    assert all(getattr(GuardState, mode.name) == mode for mode in Mode)


def test_bundle_files_there_and_back() -> None:
    contents = {"manifest.json": b"{}", "learner/weights.safetensors": bytes(range(256)) * 100}
    assert conversions.from_bundle_files(conversions.to_bundle_files(contents)) == contents


def test_damaged_bundle_file_is_refused() -> None:
    (file,) = conversions.to_bundle_files({"skill_policy.onnx": b"right"})
    file.data = b"wrong"
    with pytest.raises(BundleError, match=r"skill_policy\.onnx came with checksum"):
        conversions.from_bundle_files([file])


def test_a_name_twice_is_refused() -> None:
    file = BundleFile(name="a", sha256=hashlib.sha256(b"").hexdigest())
    with pytest.raises(BundleError, match="a comes twice"):
        conversions.from_bundle_files([file, file])


@pytest.mark.parametrize("topic", interfaces.TOPICS, ids=lambda topic: topic.name)
def test_writer_and_reader_fit(topic: interfaces.Topic) -> None:
    for reader in (topic.reader, topic.writer):
        # A warning is about what is left to the middleware's default (liveliness); an error means silence.
        compatibility, reason = qos_check_compatible(topic.writer, reader)
        assert compatibility != QoSCompatibility.ERROR, reason
    assert topic.reader.durability == topic.writer.durability


def test_tables_are_whole() -> None:
    named = [value for value in vars(interfaces).values() if isinstance(value, interfaces.Topic | interfaces.Service)]
    assert {id(entry) for entry in named} == {id(entry) for entry in (*interfaces.TOPICS, *interfaces.SERVICES)}
    names = [entry.name for entry in named]
    assert len(set(names)) == len(names)
    # Relative, so that a namespace holds the whole graph; time and health are what all graphs share.
    assert [name for name in names if name.startswith("/")] == ["/clock", "/diagnostics"]


def test_discovery_stays_on_this_machine_unless_asked() -> None:
    assert runtime_env.missing_defaults({"HOME": "/h"}) == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    assert runtime_env.missing_defaults({"HOME": "/h", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}) == {}
    assert runtime_env.missing_defaults({"HOME": "/h", "ROS_DISTRO": "humble"})["ROS_LOCALHOST_ONLY"] == "1"
    assert runtime_env.missing_defaults({})["HOME"]


def test_documentation_lists_every_topic_and_service() -> None:
    listed = (Path(__file__).parents[1] / "docs" / "interfaces.md").read_text()
    for entry in (*interfaces.TOPICS, *interfaces.SERVICES):
        assert f"| `{entry.name}` |" in listed
