"""Recordings are opened and understood by readers that are not ours: `mcap` with `mcap-ros2-support`, and `rosbags`."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")
pytest.importorskip("mcap")

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message, serialize_message
from rich.console import Console
from ros_rig import RosRig, wait_for
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from simpl_interfaces.msg import EpisodeResult, GuardState, ModelUpdate, Transition
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from simpl import conversions, interfaces
from simpl.core.recording import CHUNK, Recording, RecordingError, read_recording
from simpl.definitions import describe_type, message_class
from simpl.front.record_command import ReplaySettings, publish, run_replay
from simpl_core.errors import EnvironmentMissingError

RNG = np.random.default_rng(3)


def transition(seq: int) -> Transition:
    message = Transition(robot_uuid="r", epoch=2**40, seq=seq, phase="finetune", task="kettle", reward=0.5)
    message.header = conversions.header(1_700_000_000_123_456_789 + seq)
    for name in ("z", "e", "next_observation", "action", "velocity_executed"):
        setattr(message, name, [1.0, 2.0])
    message.observation = conversions.float32_field(RNG.normal(size=30))
    message.velocity_wanted = conversions.float64_field(RNG.normal(size=9))
    message.terminated = seq % 2 == 0
    return message


def filled(kind: Any) -> Any:
    """A message with something in every list of numbers: rclpy serialises empty ones with stray bytes behind them."""
    message = kind()
    for name, field in kind.get_fields_and_field_types().items():
        if field in ("sequence<double>", "sequence<float>"):
            setattr(message, name, [0.5, -1.25, 3.0])
    return message


def same(theirs: Any, ours: Any) -> None:
    """What a foreign reader has decoded against the message that was written, field by field."""
    for name in ours.get_fields_and_field_types():
        mine, other = getattr(ours, name), getattr(theirs, name)
        if hasattr(mine, "get_fields_and_field_types"):
            same(other, mine)
        elif isinstance(mine, str | bool | int | float):
            assert other == mine, name
        else:
            assert len(other) == len(mine), name
            for a, b in zip(other, mine, strict=True):
                same(a, b) if hasattr(b, "get_fields_and_field_types") else _equal(a, b, name)


def _equal(a: Any, b: Any, name: str) -> None:
    assert a == b, name


def by_mcap(path: Path) -> list[tuple[str, int, Any]]:
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [(c.topic, m.log_time, content) for _, c, m, content in reader.iter_decoded_messages()]


def by_rosbags(path: Path) -> list[tuple[str, int, Any]]:
    """With the definitions in the file alone: the store starts with what `rosbags` needs itself."""
    store = get_typestore(Stores.EMPTY)
    with Reader(path) as reader:
        for connection in reader.connections:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        return [(c.topic, t, store.deserialize_cdr(raw, c.msgtype)) for c, t, raw in reader.messages()]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[tuple[str, int, Any]]]:
    """A file over several chunks with every message type of the graph, and what was written."""
    path = tmp_path / "a.mcap"
    messages = [(f"/{topic.name.strip('/')}", filled(topic.type)) for topic in interfaces.TOPICS]
    messages += [("/transitions", transition(seq)) for seq in range(300)]
    update = ModelUpdate(files=conversions.to_bundle_files({"a.onnx": bytes(range(256)) * 700}))
    messages.append(("/model_update", update))
    result = [(topic, 1000 + 10 * number, message) for number, (topic, message) in enumerate(messages)]
    with Recording(path) as recording:
        for topic in interfaces.TOPICS:
            recording.add_topic(f"/{topic.name.strip('/')}", describe_type(topic.type))
        for topic, stamp, message in result:
            recording.write(topic, stamp, serialize_message(message))
        recording.close()
    return path, result


@pytest.mark.parametrize("read", [by_mcap, by_rosbags])
def test_foreign_readers_find_every_message_and_every_number_in_it(read: Any, written: Any) -> None:
    path, expected = written
    found = read(path)
    assert [(topic, stamp) for topic, stamp, _ in found] == [(topic, stamp) for topic, stamp, _ in expected]
    for (_, _, theirs), (_, _, ours) in zip(found, expected, strict=True):
        same(theirs, ours)


def test_the_file_has_an_index_of_all_there_is(written: Any) -> None:
    path, expected = written
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics.message_count == len(expected)
    assert summary.statistics.chunk_count > 2
    assert {c.topic for c in summary.channels.values()} == {f"/{t.name.strip('/')}" for t in interfaces.TOPICS}
    schemas = {schema.name: schema.data.decode() for schema in summary.schemas.values()}
    assert "MSG: std_msgs/Header" in schemas["simpl_interfaces/msg/Transition"]
    assert "MSG: builtin_interfaces/Time" in schemas["simpl_interfaces/msg/Transition"]
    assert "FLAG_ESTOP=256" in schemas["simpl_interfaces/msg/GuardState"], "constants and comments come with it"


def test_our_reader_gives_back_the_bytes(written: Any) -> None:
    path, expected = written
    found = list(read_recording(path))
    assert [(one.topic, one.stamp) for one in found] == [(topic, stamp) for topic, stamp, _ in expected]
    for one, (_, _, message) in zip(found, expected, strict=True):
        assert deserialize_message(one.data, message_class(one.type)) == message
    assert message_class(found[0].type) is interfaces.TOPICS[0].type


def test_a_recorder_that_was_killed_leaves_all_but_its_last_chunk(written: Any, caplog: Any) -> None:
    path, expected = written
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 10, len(whole) // 3):
        path.write_bytes(whole[:size])
        found = list(read_recording(path))
        assert [one.stamp for one in found] == [stamp for _, stamp, _ in expected[: len(found)]]
        assert sum(len(one.data) for one in found) > size - 2 * CHUNK
    assert "has no proper end" in caplog.text


def test_a_topic_may_be_recorded_for_months(tmp_path: Path) -> None:
    """Messages are numbered with 32 bits: at 1 kHz these are used up after 49 days."""
    with Recording(tmp_path / "long.mcap") as recording:
        recording.add_topic("/joint_states", describe_type(Float64MultiArray))
        recording.counts["/joint_states"] = 2**32 - 2
        for stamp in (1, 2, 3):
            recording.write("/joint_states", stamp, serialize_message(Float64MultiArray(data=[1.0])))
    assert [one.stamp for one in read_recording(tmp_path / "long.mcap")] == [1, 2, 3]


def test_what_is_no_recording_is_refused(tmp_path: Path, written: Any) -> None:
    text = tmp_path / "b.mcap"
    text.write_text("no recording at all, but long enough to be one")
    with pytest.raises(RecordingError, match="is no MCAP file"):
        list(read_recording(text))
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        list(read_recording(tmp_path / "none.mcap"))
    with pytest.raises(RecordingError, match="cannot be written: File exists"):
        Recording(written[0])
    with pytest.raises(EnvironmentMissingError, match="nowhere_msgs/msg/Thing is not known here"):
        message_class("nowhere_msgs/msg/Thing")


def test_replay_prints_json(written: Any) -> None:
    path, expected = written
    out = io.StringIO()
    settings = ReplaySettings(path, topics=("/model_update", "/transitions"), print=True)
    assert run_replay(settings, Console(file=out, width=80)) == 0
    documents = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(documents) == 303
    last, update = documents[-2], documents[-1]
    assert update["message"]["files"][0]["data"] == "179200 bytes"
    assert last["topic"] == "/transitions" and last["message"]["seq"] == 299
    assert last["message"]["velocity_wanted"] == list(expected[-2][2].velocity_wanted)


# --- in a graph ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[RosRig]:
    rig = RosRig()
    yield rig
    rig.close()


def test_the_node_records_what_it_hears_and_replay_says_it_again(rig: RosRig, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "deep" / "run.mcap"
    rig.start("record", output=path, topics='["transitions", "episode/result", "joint_states", "elsewhere/force"]')
    sent = interfaces.TRANSITIONS.publisher(rig.node)
    joints = interfaces.JOINT_STATES.publisher(rig.node)
    latched = interfaces.EPISODE_RESULT.publisher(rig.node)
    latched.publish(EpisodeResult(episode=7, subtasks_done=["kettle"], label="success"))  # before anybody listens
    other = rig.node.create_publisher(Float64MultiArray, "elsewhere/force", 10)
    wait_for(lambda: all(one.get_subscription_count() for one in (sent, other, joints)))
    joints.publish(conversions.to_joint_state(5, ["a"], [0.5]))  # as drivers do: no velocity, no effort
    messages = [transition(seq) for seq in range(200)]
    for message in messages:
        sent.publish(message)
        other.publish(Float64MultiArray(data=[float(message.seq)]))
    assert sent.wait_for_all_acked() and other.wait_for_all_acked()
    status, output = rig.finish("record", signal.SIGINT)
    assert status == 0 and "/transitions 200" in output, output

    found = by_mcap(path)
    heard = [content for topic, _, content in found if topic == "/transitions"]
    for theirs, ours in zip(heard, messages, strict=True):
        same(theirs, ours)
    assert [content.label for topic, _, content in found if topic == "/episode/result"] == ["success"]
    forces = [content.data[0] for topic, _, content in found if topic == "/elsewhere/force"]
    assert forces == [float(seq) for seq in range(200)]
    (state,) = [content for topic, _, content in by_rosbags(path) if topic == "/joint_states"]
    assert (state.name, list(state.position), len(state.velocity)) == (["a"], [0.5], 0)
    assert len(by_rosbags(path)) == len(found) == 402

    again = rig.listen(dataclasses.replace(interfaces.TRANSITIONS, name="/replay/transitions"))
    live = rig.listen(interfaces.TRANSITIONS)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(rig.domain))
    monkeypatch.setattr("simpl.front.record_command.DISCOVERY", 60.0)  # it ends when the listener is found
    counts = publish(path, ("/transitions",), "replay", 0.0)
    assert counts == {"/transitions": 200}
    wait_for(lambda: len(again) == 200)
    assert [message.seq for message in again] == list(range(200)) and again[5] == messages[5]
    assert not live, "an old recording is not heard on the live topics"


def test_a_profile_says_what_the_topics_are_called(rig: RosRig, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    process = subprocess.Popen(
        [sys.executable, "-m", "simpl_core", "record", str(path), "--profile", "iiwa14", "--namespace", "left"],
        env={**os.environ, "ROS_DOMAIN_ID": str(rig.domain)},
        text=True,
    )
    rig.processes["record"] = process  # ended with the rig if the test does not get so far
    name = "/left/lbr/joint_trajectory_controller/joint_trajectory"
    sender = dataclasses.replace(interfaces.TRAJECTORY, name=name).publisher(rig.node)
    wait_for(lambda: sender.get_subscription_count() > 0, 90.0)
    message = JointTrajectory(joint_names=["a" * 1000])
    # Until a whole chunk is in the file: a signal may overtake a single message.
    wait_for(lambda: sender.publish(message) or path.stat().st_size > CHUNK, 90.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(90.0) == 0
    assert {topic for topic, _, _ in by_mcap(path)} == {name}


def test_a_killed_recorder_leaves_a_readable_file(rig: RosRig, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    process = rig.start("record", output=path, topics='["guard/state"]')
    sender = interfaces.GUARD_STATE.publisher(rig.node)
    wait_for(lambda: sender.get_subscription_count() > 0)
    for tick in range(3000):
        sender.publish(GuardState(tick=tick, velocity=conversions.float64_field(RNG.normal(size=9))))
    assert sender.wait_for_all_acked()
    wait_for(lambda: path.stat().st_size > CHUNK)
    process.kill()
    process.wait()
    found = list(read_recording(path))
    assert found and [one.topic for one in found] == ["/guard/state"] * len(found)


@pytest.mark.parametrize(("failures", "arrives"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_message_that_cannot_be_written_at_once_is_written_again(rig: RosRig, monkeypatch, failures, arrives) -> None:
    heard = rig.listen(interfaces.GUARD_STATE)
    sender, tries, write = interfaces.GUARD_STATE.publisher(rig.node), [], Publisher.publish

    def busy(self, message):
        tries.append(message)
        if len(tries) <= failures:
            raise interfaces.RCLError("cannot publish data")
        write(self, message)

    wait_for(lambda: sender.get_subscription_count() > 0)
    monkeypatch.setattr(Publisher, "publish", busy)
    if arrives:
        sender.publish(GuardState(tick=7))
        monkeypatch.undo()
        wait_for(lambda: [one.tick for one in heard] == [7])
    else:
        with pytest.raises(interfaces.RCLError):
            sender.publish(GuardState(tick=7))
    assert len(tries) == min(failures + 1, 3)
