"""Kills what is left when the supervisor is gone: `python -I -S reaper.py GRACE_SECONDS`, told over standard input.

Every node gets SIGINT from the kernel when its parent dies (`child.py`) and stops cleanly. This process is for those
that do not: it reads `watch PID` and `forget PID`, and at the end of input gives the watched ones some seconds, then
SIGKILL. It holds process file descriptors, so a number the system has given to somebody else is never hit.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time


def main() -> None:
    """Serves until standard input ends, and then cleans up."""
    grace = float(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C or a closed terminal is for the supervisor
    watched: dict[int, int] = {}  # pid -> file descriptor
    for line in sys.stdin:
        verb, pid = line.split()
        if verb == "watch":
            _watch(watched, int(pid))
        elif int(pid) in watched:
            os.close(watched.pop(int(pid)))
    _kill_leftovers(list(watched.values()), grace)


def _watch(watched: dict[int, int], pid: int) -> None:
    try:
        watched[pid] = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return  # gone already; or a kernel or Python without pidfd, where the SIGINT of child.py must do


def _kill_leftovers(descriptors: list[int], grace: float) -> None:
    deadline = time.monotonic() + grace
    alive = set(descriptors)
    while alive and time.monotonic() < deadline:
        ended, _, _ = select.select(list(alive), [], [], max(0.0, deadline - time.monotonic()))
        alive -= set(ended)
    for descriptor in alive:
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
