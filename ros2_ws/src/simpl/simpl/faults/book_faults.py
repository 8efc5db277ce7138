"""What is between the arm and the learner's disk: the learner itself, two disks, a network."""

from __future__ import annotations

import json
import signal
import threading
import time

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


@scenario("SIGKILL of learner, started again after 3 s", "the arm goes on; all is handed over at the end")
def learner_sigkill(stage: Stage) -> str:
    stage.start_learner()
    stage.start_robot(**SHORT)
    stage.wait_for_motion()
    stage.strike(lambda: stage.signal("learner", signal.SIGKILL))
    stage.goes_on(3.0)
    stage.start_learner()
    stage.finish_run()
    return "went on; all handed over"


@scenario("SIGSTOP of learner for 6 s", "the arm goes on; all is handed over at the end")
def learner_hangs(stage: Stage) -> str:
    stage.start_learner()
    stage.start_robot(**SHORT)
    stage.wait_for_motion()
    stage.strike(lambda: stage.signal("learner", signal.SIGSTOP))
    stage.goes_on(OUTAGE)
    stage.signal("learner", signal.SIGCONT)
    stage.finish_run()
    return "went on; all handed over"


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
    stage.start_learner()
    stage.start_robot(**SHORT)
    stage.wait_for_motion()
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
    stage.start_robot()
    stage.wait_for_motion()
    stage.strike(disk.fill)
    stage.stops()
    status, output = stage.rig.finish("bridge", None)
    if status != 1 or "No space left on device" not in output:
        raise UnexpectedError(f"the bridge ended with status {status}: {output[-300:]}")
    disk.free()
    stage.start_bridge()
    stage.moves_again()
    stage.close_books()
    return "zeros, status 1 with the reason; went on once there was space"


@scenario(
    "the robot's disk is read-only at the start of bridge",
    "it refuses with the reason and the arm does not move; once it can write the run goes on",
    needs="mounts",
)
def robot_disk_read_only(stage: Stage) -> str:
    disk = _robot_disk(stage)
    stage.start_robot()
    stage.wait_for_motion()
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
    stage.moves_again()
    stage.close_books()
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
    wire = _across_the_wire(stage)
    stage.strike(lambda: setattr(wire, "cut", True))
    stage.goes_on(PARTITION)
    wire.cut = False
    stage.finish_run()
    return "went on; all handed over"


@scenario(
    "30 % of all frames between robot and learner are lost for 20 s",
    "the arm goes on; all is handed over at the end",
    needs="network",
)
def packet_loss(stage: Stage) -> str:
    wire = _across_the_wire(stage)
    stage.strike(lambda: setattr(wire, "loss", 0.3))
    stage.goes_on(LOSSY)
    wire.loss = 0.0
    stage.finish_run()
    return "went on; all handed over"


@scenario(
    "each frame between robot and learner takes 0.1 to 0.6 s, and may overtake others",
    "the arm goes on; all is handed over at the end, stored once",
    needs="network",
)
def packet_delay(stage: Stage) -> str:
    wire = _across_the_wire(stage)
    stage.strike(lambda: setattr(wire, "delay", (0.1, 0.6)))
    stage.goes_on(OUTAGE)
    stage.finish_run()
    return "went on; all handed over"


def _across_the_wire(stage: Stage) -> Wire:
    wire = stage.wire
    if wire is None:
        raise UnexpectedError("the scenario was not given a network")
    stage.start_learner(prefix=wire.enter, environment=UDP)
    stage.start_robot(**SHORT)
    stage.wait_for_motion()
    return wire
