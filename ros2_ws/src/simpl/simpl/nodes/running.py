"""What every control node does around its work: parameters with ranges, spinning, signals, a clean end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterException, InvalidParameterTypeException, ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from simpl import runtime_env
from simpl.core.profile import RobotProfile, load_profile
from simpl.core.profile_files import find_profile
from simpl_core.errors import SimplError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OK, FAILED, USER_ERROR = 0, 1, 2
_GRACE = 3.0  # time for a clean end before a second signal ends the process for good [s]

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
"""For every timer that safety hangs on: neither simulated time nor a jump of the wall clock stops it."""


class Ending:
    """Ends the spin of a node, from any thread, with an exit status."""

    def __init__(self) -> None:
        self.requested: Future[None] = Future()
        self.status = OK
        self.wake: Callable[[], object] = lambda: None
        self.on_signal: Callable[[], object] = self.request
        """What the first signal does, on the signals' thread; a node that needs time to end sets it, and ends later."""

    def request(self, status: int = OK) -> None:
        """Let the node close and the process exit with `status`; the first non-zero one stays."""
        self.status = self.status or status
        if not self.requested.done():
            self.requested.set_result(None)
        self.wake()


class Shell(Protocol):
    """A node that can be run by `run_node`; it is a `rclpy.node.Node` too."""

    def close(self) -> None:
        """Bring about a safe state: called once, whatever ended the spin, while publishing still works."""


def run_node(make: Callable[[Ending], Any], arguments: Sequence[str] | None = None) -> int:
    """Run a node until a signal, its own wish or an error.

    Args:
        make: builds the node (a `Shell`); may raise SimplError for what a user can mend.
        arguments: command line; the process's own by default.

    Returns:
        Exit status: 0 clean, 1 failed, 2 a user's error.
    """
    runtime_env.prepare()
    ending = Ending()
    _catch_signals(ending)
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # noqa: BLE001  rclpy has no common base for its complaints about arguments
        _complain(str(error))
        return USER_ERROR
    try:
        return _run(make, ending)
    finally:
        if rclpy.ok():
            rclpy.shutdown()
        # Python takes its handlers back while it ends: the launcher's copy of a Ctrl-C must not kill a clean end.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _run(make: Callable[[Ending], Any], ending: Ending) -> int:
    try:
        node = make(ending)
    except (SimplError, ParameterException, InvalidParameterException, InvalidParameterTypeException) as error:
        _complain(str(error))
        return USER_ERROR
    try:
        executor = new_executor()
        executor.add_node(node)
        ending.wake = executor.wake
        # What is there now stays: the garbage collector need not look at it again in the middle of a tick.
        gc.collect()
        gc.freeze()
        # `spin` of the events executor hangs in some releases; waiting for a future does not, and may take months.
        while rclpy.ok() and not ending.requested.done():
            executor.spin_until_future_complete(ending.requested, timeout_sec=1e6)
    except ExternalShutdownException:
        pass
    except Exception:  # noqa: BLE001  one exception in a callback ends the spin: the arm must still be stopped
        node.get_logger().fatal(f"a callback failed:\n{traceback.format_exc()}")
        ending.status = FAILED
    finally:
        try:
            node.close()
        finally:
            node.destroy_node()
    return ending.status


def new_executor(context: Context | None = None) -> Any:
    """One thread for all callbacks: the events executor where the distribution has it (kilted and newer)."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def declare(
    node: Node,
    name: str,
    default: Any,
    description: str,
    *,
    between: tuple[float, float] | None = None,
) -> Any:
    """Declare a parameter, read once at the node's start, and give its value.

    Args:
        node: owner.
        name: of the parameter.
        default: value if nobody sets it; its type is the parameter's.
        description: for `ros2 param describe`.
        between: lowest and highest value of a number.
    """
    descriptor = ParameterDescriptor(description=description, read_only=True)
    if between is not None and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(between[0]), to_value=float(between[1]))]
    elif between is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(between[0]), to_value=int(between[1]))]
    return node.declare_parameter(name, default, descriptor).value


def take_precedence(node: Node, default: int) -> None:
    """Declare the parameter `priority`, and give it to all threads there are; threads that they start inherit it.

    A robot's computer also learns, records and shows pictures, and a control loop must not wait for any of that.
    """
    description = "real-time priority (SCHED_FIFO), where the system grants it (ulimit -r); 0: as any other process"
    refused = set_priority(declare(node, "priority", default, description, between=(0, 98)))
    if refused:
        node.get_logger().info(f"no real-time priority ({refused}): a busy machine may keep this node waiting")


def step_back() -> None:
    """Give the calling thread the least real-time priority if it has inherited one: no control loop waits for it.

    Not an ordinary one: it may hold the interpreter's lock, for which the loop would then wait behind other programs.
    """
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def set_priority(priority: int) -> str:
    """Real-time priority of all threads of this process, 0 for none; why the system refuses it, or empty."""
    if not hasattr(os, "sched_setscheduler"):
        return "this system knows none" if priority else ""
    policy = os.SCHED_FIFO if priority else os.SCHED_OTHER
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))
    except OSError as error:
        return str(error)
    return ""


def declare_profile(node: Node, default: str = "mujoco_kitchen") -> RobotProfile:
    """Declare the parameter `profile` and read the robot profile it names.

    Raises:
        ConfigError: there is no such profile, or it is not a valid one.
    """
    name = declare(node, "profile", default, "robot profile: a path, or the name of one in config/")
    return load_profile(find_profile(name))


def _catch_signals(ending: Ending) -> None:
    """SIGINT and SIGTERM end the spin at once, whichever thread they hit and whatever the executor is doing.

    Python runs a handler only when the main thread is back from C++, where an executor spends its life; the byte
    that the interpreter writes at a signal comes without waiting, and a thread of ours waits for it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_await_signals, args=(ending, reader), name="signals", daemon=True).start()


def _await_signals(ending: Ending, reader: int) -> None:
    os.read(reader, 1)
    ending.on_signal()
    patience = time.monotonic() + _GRACE
    while True:
        number = os.read(reader, 1)[0]
        # At once it is the same Ctrl-C, from the terminal and from a parent. Later somebody presses it again
        # because the clean end hangs.
        if time.monotonic() > patience:
            os._exit(128 + number)


def _complain(message: str) -> None:
    sys.stderr.write(f"{Path(sys.argv[0]).name}: {message}\n")
