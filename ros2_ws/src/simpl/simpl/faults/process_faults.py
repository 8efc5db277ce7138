"""Processes that are killed, stopped, or fail: and who stops the arm then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from simpl import interfaces as topics
from simpl.core.guard import Flags, Mode
from simpl.core.journal import read_records
from simpl.core.transition import unpack
from simpl.faults import broken_policy
from simpl.faults.rig import wait_for
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.stage import PATIENCE, Stage

TWO_PERIODS = 0.16
"""Within so long a dead policy or guard is replaced by zeros [s]."""
CTRL_C = 1.0
"""Within so long a Ctrl-C ends in zeros [s]."""


def _stops(stage: Stage, fault: Callable[[], object], **how: Any) -> None:
    """Do it to an arm in motion, started as `how` says, and see it commanded zero."""
    stage.set_in_motion(**how)
    stage.strike(fault)
    stage.stops()


def _policy_gets(stage: Stage, number: int) -> str:
    """A signal; the guard's reason for its zeros."""
    _stops(stage, lambda: stage.signal("policy", number))
    return stage.guard_says(Flags.STALE_ACTION)


def _inference_is_told(stage: Stage, order: str) -> None:
    orders = stage.logs / "orders"
    environment = {broken_policy.ORDERS: str(orders)}
    _stops(stage, lambda: orders.write_text(order), policy=broken_policy.__name__, environment=environment)


@scenario(
    "SIGKILL of policy in mid episode",
    "the guard commands zero; a new policy goes on with the run",
    within=TWO_PERIODS,
    quick=True,
)
def policy_sigkill(stage: Stage) -> str:
    reason = _policy_gets(stage, signal.SIGKILL)
    stage.start_policy()
    stage.recovers()
    return f"zeros ({reason}); went on with a new one"


@scenario(
    "SIGSTOP of policy in mid episode",
    "the guard commands zero; after SIGCONT the run goes on",
    within=TWO_PERIODS,
)
def policy_sigstop(stage: Stage) -> str:
    reason = _policy_gets(stage, signal.SIGSTOP)
    stage.signal("policy", signal.SIGCONT)
    stage.recovers()
    return f"zeros ({reason}); went on"


@scenario(
    "an exception within a tick of policy",
    "the policy commands zero, says why and ends with status 1; a new one goes on",
    within=TWO_PERIODS,
)
def policy_exception(stage: Stage) -> str:
    _inference_is_told(stage, broken_policy.RAISE)
    status, output = stage.rig.finish("policy", None)
    if status != 1 or "the fault harness says so" not in output:
        raise UnexpectedError(f"the policy ended with status {status}")
    stage.start_policy()
    stage.recovers()
    return "zeros, a traceback and status 1; went on with a new one"


@scenario(
    "an inference that hangs for 2 s",
    "the guard commands zero; the run goes on when it comes back",
    within=2 * TWO_PERIODS,  # it begins to hang with the next tick
)
def policy_inference_hangs(stage: Stage) -> str:
    _inference_is_told(stage, broken_policy.HANG)
    reason = stage.guard_says(Flags.STALE_ACTION)
    stage.recovers()
    return f"zeros ({reason}); went on"


@scenario(
    "SIGKILL of guard in mid episode",
    "the policy commands zero in its place; a new guard takes over and the run goes on",
    within=TWO_PERIODS,
    quick=True,
)
def guard_sigkill(stage: Stage) -> str:
    _stops(stage, lambda: stage.signal("guard", signal.SIGKILL))
    stage.start_guard()
    stage.recovers()
    return "zeros by the policy; went on with a new guard"


@scenario(
    "SIGSTOP of guard in mid episode",
    "the policy commands zero in its place; after SIGCONT the run goes on",
    within=TWO_PERIODS,
)
def guard_sigstop(stage: Stage) -> str:
    _stops(stage, lambda: stage.signal("guard", signal.SIGSTOP))
    stage.signal("guard", signal.SIGCONT)
    stage.recovers()
    return "zeros by the policy; went on"


@scenario(
    "SIGKILL of bridge in mid episode",
    "what was done is on the disk but for the last second; a new bridge goes on with the run",
)
def bridge_sigkill(stage: Stage) -> str:
    stage.set_in_motion()
    stage.strike(lambda: stage.signal("bridge", signal.SIGKILL))
    now = time.time_ns()
    newest = max(unpack(data).stamp for data in read_records(stage.run / "bridge" / "journal"))
    age = (now - newest) / 1e9
    if age > 1.0:
        raise UnexpectedError(f"the newest transition on the disk is {age:.2f} s old")
    stage.start_bridge()
    acting = stage.actions[-1].episode
    wait_for(lambda: stage.actions[-1].episode > acting, PATIENCE, "the new bridge begins no episode")
    stage.wait_for_motion()
    stage.close_books()
    return f"newest transition on the disk {age:.2f} s old; went on with a new one"


@scenario(
    "guard/estop in the middle of a skill",
    "zeros, latched until guard/reset; nothing of the stop is learned; then the next episode moves",
    within=TWO_PERIODS,
    quick=True,
)
def estop_mid_skill(stage: Stage) -> str:
    _stops(stage, lambda: stage.rig.call(topics.GUARD_ESTOP))
    stage.guard_says(Flags.ESTOP, Mode.ESTOP)
    stage.stays_stopped()
    stage.reset()
    stage.recovers()
    if any(unpack(data).guard_flags & Flags.ESTOP for data in read_records(stage.run / "bridge" / "journal")):
        raise UnexpectedError("a step of the stop was recorded as an experience")
    return "zeros, latched; went on after the reset"


@scenario(
    "SIGKILL of guard in an e-stop",
    "a new guard stays in it until guard/reset; then the next episode moves",
    within=TWO_PERIODS,
)
def guard_sigkill_in_estop(stage: Stage) -> str:
    _stops(stage, lambda: stage.rig.call(topics.GUARD_ESTOP))
    stage.guard_says(Flags.ESTOP, Mode.ESTOP)
    stage.signal("guard", signal.SIGKILL)
    heard = len(stage.guard)
    stage.start_guard()
    stage.guard.wait(lambda word: word.mode == Mode.ESTOP, start=heard, patience=PATIENCE)
    stage.stays_stopped()
    stage.reset()
    stage.recovers()
    return "zeros; the new guard stayed in the e-stop; went on after the reset"


@scenario(
    "a second node publishes commands",
    "a fault: zeros, latched; guard/reset is refused while it is there; then the next episode moves",
)
def two_publishers(stage: Stage) -> str:
    stranger: list[Any] = []
    _stops(stage, lambda: stranger.append(topics.COMMANDS.publisher(stage.rig.node)))
    reason = stage.guard_says(Flags.SECOND_PUBLISHER, Mode.FAULT)
    stage.refuses_reset()
    stage.rig.node.destroy_publisher(stranger[0])
    stage.reset()
    stage.recovers()
    return f"fault ({reason}); went on after the reset"


@scenario(
    "Ctrl-C on `simpl adapt` in mid episode",
    "zeros; every node ends; status 130; nothing lost",
    within=CTRL_C,
)
def ctrl_c(stage: Stage) -> str:
    options = ["--rate", "real", "--no-video", "--conditioning", "3", "--evaluation", "0", "--episodes", "0"]
    with (stage.logs / "adapt.log").open("wb") as log:
        adapt = stage.rig.processes["adapt"] = subprocess.Popen(
            [sys.executable, "-m", "simpl_core", "adapt", "--out", str(stage.run), *options],
            env={**os.environ, "ROS_DOMAIN_ID": str(stage.rig.domain), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    stage.wait_for_motion()
    stage.strike(lambda: adapt.send_signal(signal.SIGINT))
    stage.stops()
    wait_for(lambda: adapt.poll() is not None, PATIENCE, "simpl adapt does not end")
    stage.rig.processes.clear()
    if adapt.returncode != 130:
        raise UnexpectedError(f"simpl adapt ended with status {adapt.returncode}")
    stage.stays_stopped()
    stage.close_books()
    return "zeros, status 130"
