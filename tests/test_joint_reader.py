"""Joint states read from their bytes: the same as the message says, whatever changes from one to the next."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from simpl.conversions import from_joint_state, to_joint_state
from simpl.nodes import joint_reader
from simpl.nodes.joint_reader import JointReader

ANY = st.floats(allow_nan=True, allow_infinity=True)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)


@st.composite
def states(draw: st.DrawFn) -> JointState:
    names = draw(st.lists(TEXT, max_size=4))
    stamp = draw(st.integers(0, 2**31 - 1)) * 10**9 + draw(st.integers(0, 10**9 - 1))
    message = to_joint_state(stamp, names, draw(st.lists(ANY, max_size=5)), draw(st.lists(ANY, max_size=5)))
    message.header.frame_id = draw(TEXT)
    return message


@settings(deadline=None)
@given(kinds=st.lists(states(), min_size=1, max_size=3), order=st.lists(st.integers(0, 2), max_size=8), data=st.data())
def test_a_reading_is_what_the_message_says(kinds: list[JointState], order: list[int], data: st.DataObject) -> None:
    """Several senders on one topic, whose numbers change and whose names do not, or do."""
    reader = JointReader()
    for kind in (kinds[number % len(kinds)] for number in order):
        size = len(kind.position)
        kind.position = data.draw(st.lists(ANY, min_size=size, max_size=size))
        wanted, found = from_joint_state(kind), reader.read(serialize_message(kind))
        assert (found.stamp, list(found.names)) == (wanted.stamp, list(wanted.names))
        np.testing.assert_array_equal(found.position, wanted.position)


def test_what_does_not_change_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, full = JointReader(), []
    read = joint_reader.deserialize_message
    monkeypatch.setattr(joint_reader, "deserialize_message", lambda *them: full.append(1) or read(*them))
    for number in range(5):
        found = reader.read(serialize_message(to_joint_state(number, ["a", "bc"], [number, -number], [9.0, 9.0])))
        assert (found.stamp, list(found.position)) == (number, [number, -number])
    assert len(full) == 1
    reader.read(serialize_message(to_joint_state(6, ["a", "other"], [0.0, 0.0])))
    assert len(full) == 2


def test_a_message_that_is_cut_off_is_not_read_beyond_its_end() -> None:
    reader, raw = JointReader(), serialize_message(to_joint_state(1, ["a"], [1.0]))
    reader.read(raw)
    with pytest.raises(RuntimeError, match="deserialize"):
        reader.read(raw[:-30])
