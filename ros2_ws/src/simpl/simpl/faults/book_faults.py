"""What is between the arm and the learner's disk: the learner itself, two disks, a network."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from simpl import interfaces as topics
from simpl.faults.places import SmallDisk, Wire
from simpl.faults.rig import wait_for
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.stage import PATIENCE, Stage

SHORT = {"episodes": 6, "steps": 60}
"""A run of half a minute."""
OUTAGE = 6.0
"""[s]; longer than the bridge waits for an acknowledgement before it sends again."""
PARTITION = 25.0
"""[s]; longer than DDS believes in a machine that is silent."""
LOSSY = 20.0
"""[s]; DDS answers a list of lost messages with datagrams of many frames, of which one is always lost as well: while it
lasts little comes through."""
ACK_DELAY = 2.5
"""[s]"""
UDP = {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
"""A learner on another machine shares no memory with the robot."""


def _with_a_learner(stage: Stage, run: Mapping[str, Any] = SHORT, **how: Any) -> None:
    """A short run under way, with a learner that is started as `how` says."""
    stage.start_learner(**how)
    stage.set_in_motion(**run)


def _hands_over(stage: Stage) -> str:
    """To the end of the run."""
    stage.finish_run()
    return "went on; all handed over"


@scenario("SIGKILL of learner, started again after 3 s", "the arm goes on; all is handed over at the end")
def learner_sigkill(stage: Stage) -> str:
    _with_a_learner(stage)
    stage.strike(lambda: stage.signal("learner", signal.SIGKILL))
    stage.goes_on(3.0)
    stage.start_learner()
    return _hands_over(stage)


@scenario("SIGSTOP of learner for 6 s", "the arm goes on; all is handed over at the end")
def learner_hangs(stage: Stage) -> str:
    _with_a_learner(stage)
    stage.strike(lambda: stage.signal("learner", signal.SIGSTOP))
    stage.goes_on(OUTAGE)
    stage.signal("learner", signal.SIGCONT)
    return _hands_over(stage)


@scenario("each acknowledgement comes 2.5 s late", "the arm goes on; what is sent again is stored once")
def slow_acknowledgement(stage: Stage) -> str:
    slow = topics.Topic("transitions/ack_slow", topics.TRANSITIONS_ACK.type, topics.STREAM, topics.STREAM)
    out = topics.TRANSITIONS_ACK.publisher(stage.rig.node)

    def later(message: object) -> None:
        threading.Timer(ACK_DELAY, out.publish, [message]).start()

    slow.subscription(stage.rig.node, later)
    stage.start_learner(remap={topics.TRANSITIONS_ACK.name: slow.name})
    stage.strike(lambda: stage.start_robot(**SHORT))
    stage.finish_run()
    time.sleep(ACK_DELAY)  # the last timers are done before their publisher goes
    resent = json.loads((stage.run / "report.json").read_text())["stream"]["resent"]
    if not resent:
        raise UnexpectedError("nothing was sent again, so nothing was tried")
    return f"went on; {resent} sent again, stored once"


@scenario(
    "the learner's disk is full for 6 s",
    "the arm goes on; nothing is acknowledged that is not stored; all is handed over at the end",
    needs="mounts",
)
def learner_disk_full(stage: Stage) -> str:
    disk = SmallDisk(stage.run / "learner")
    _with_a_learner(stage)
    stage.strike(disk.fill)
    stage.goes_on(OUTAGE)
    disk.free()
    died = stage.rig.processes["learner"].poll() is not None
    if died:  # `simpl adapt` does the same
        stage.start_learner()
    stage.finish_run()
    return f"went on{'; the learner ended and was started again' if died else ''}; all handed over"


@scenario(
    "the robot's disk is full",
    "what cannot be recorded does not go on: zeros, the bridge ends with status 1; with space again the run goes on",
    needs="mounts",
)
def robot_disk_full(stage: Stage) -> str:
    disk = _robot_disk(stage)
    stage.set_in_motion()
    stage.strike(disk.fill)
    stage.stops()
    status, output = stage.rig.finish("bridge", None)
    if status != 1 or "No space left on device" not in output:
        raise UnexpectedError(f"the bridge ended with status {status}: {output[-300:]}")
    disk.free()
    stage.start_bridge()
    stage.recovers()
    return "zeros, status 1 with the reason; went on once there was space"


@scenario(
    "the robot's disk is read-only at the start of bridge",
    "it refuses with the reason and the arm does not move; once it can write the run goes on",
    needs="mounts",
)
def robot_disk_read_only(stage: Stage) -> str:
    disk = _robot_disk(stage)
    stage.set_in_motion()
    stage.rig.finish("bridge", signal.SIGINT)
    disk.read_only(True)
    stage.start_bridge()
    stage.strike(lambda: None)
    bridge = stage.rig.processes["bridge"]
    wait_for(lambda: bridge.poll() is not None, PATIENCE, "the bridge does not end")
    status, output = stage.rig.finish("bridge", None)
    if status == 0 or "Read-only file system" not in output or "Traceback" in output:
        raise UnexpectedError(f"the bridge ended with status {status}: {output[-300:]}")
    stage.stays_stopped()
    disk.read_only(False)
    stage.start_bridge()
    stage.recovers()
    return f"refused with status {status}; went on once it could write"


def _robot_disk(stage: Stage) -> SmallDisk:
    """For all that the robot writes but the plant's own record, which judges the rest."""
    disk = SmallDisk(stage.run)
    record = stage.logs.parent / "plant"
    record.mkdir()
    (stage.run / "plant").symlink_to(record, target_is_directory=True)
    return disk


@scenario(
    "the cable between robot and learner is cut for 25 s",
    "the arm goes on; all is handed over at the end",
    needs="network",
)
def partition(stage: Stage) -> str:
    wire = across_the_wire(stage)
    stage.strike(lambda: setattr(wire, "cut", True))
    stage.goes_on(PARTITION)
    wire.cut = False
    return _hands_over(stage)


@scenario(
    "30 % of all frames between robot and learner are lost for 20 s",
    "the arm goes on; all is handed over at the end",
    needs="network",
)
def packet_loss(stage: Stage) -> str:
    wire = across_the_wire(stage)
    stage.strike(lambda: setattr(wire, "loss", 0.3))
    stage.goes_on(LOSSY)
    wire.loss = 0.0
    return _hands_over(stage)


@scenario(
    "each frame between robot and learner takes 0.1 to 0.6 s, and may overtake others",
    "the arm goes on; all is handed over at the end, stored once",
    needs="network",
)
def packet_delay(stage: Stage) -> str:
    wire = across_the_wire(stage)
    stage.strike(lambda: setattr(wire, "delay", (0.1, 0.6)))
    stage.goes_on(OUTAGE)
    return _hands_over(stage)


def across_the_wire(stage: Stage, **run: Any) -> Wire:
    """A run under way, a short one by default, with the learner at the other end of this wire."""
    wire = stage.wire
    if wire is None:
        raise UnexpectedError("the scenario was not given a network")
    _with_a_learner(stage, run or SHORT, prefix=wire.enter, environment=UDP)
    return wire
