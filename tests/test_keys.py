"""Keys at the terminal become calls of the operator's services."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from ros_rig import RosRig, wait_for
from std_srvs.srv import Trigger

from simpl import interfaces
from simpl.core.waiting import State
from simpl.front import keys
from simpl.front.keys import SERVICES, Keys
from simpl.front.monitor import Monitor
from simpl.front.progress import Progress


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_keys_come_without_enter_and_the_terminal_is_given_back(terminal, monkeypatch) -> None:
    master, slave = terminal
    monkeypatch.setattr(keys, "_is_ours", lambda _: True)  # a test has no terminal of its own
    before = termios.tcgetattr(slave)
    with Keys(slave) as taken:
        assert taken.active and taken.pressed() == ""
        assert termios.tcgetattr(slave)[3] & termios.ISIG, "Ctrl-C still interrupts"
        os.write(master, b"sq")
        wait_for(lambda: taken.pressed() == "sq")
    assert termios.tcgetattr(slave) == before


def test_somebody_elses_terminal_and_a_pipe_are_left_alone(terminal) -> None:
    reader, writer = os.pipe()
    for descriptor in (terminal[1], reader):
        with Keys(descriptor) as taken:
            assert not taken.active and taken.pressed() == ""
    os.close(reader)
    os.close(writer)


def test_a_key_calls_its_service_and_says_what_came_of_it() -> None:
    rig, said = RosRig(), []

    def discard(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = False, "there is no episode to be labelled"
        return response

    try:
        interfaces.EPISODE_DISCARD.server(rig.node, discard)
        with Monitor(Progress("kettle", {}), "", rig.domain) as monitor:
            wait_for(lambda: monitor._clients["d"].service_is_ready())
            for key in "dxS":
                monitor.press(key, said.append)

            def answered() -> bool:
                monitor.poll()
                return len(said) == 2

            wait_for(answered)
    finally:
        rig.close()
    assert set(said) == {
        "episode/success: nobody offers it",
        "episode/discard: refused: there is no episode to be labelled",
    }


def test_what_waits_for_a_person_is_an_alarm() -> None:
    progress = Progress("kettle", {})
    for state in (State.READY, State.LABEL):
        progress.status = state.value
        assert progress.alarm == state.value
    progress.status = State.RUNNING.value
    assert progress.alarm == ""
    assert set(SERVICES) == set("sfdr")
