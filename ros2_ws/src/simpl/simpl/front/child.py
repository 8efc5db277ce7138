"""Becomes a node that does not outlive its parent: `python -I -S child.py PARENT_PID EXECUTABLE ARGUMENT...`.

A script on purpose, run without site packages: it lives for milliseconds between fork and exec. Doing this in the
parent (`preexec_fn`) would run Python in a fork of a process with ROS threads, which can hang.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Asks the kernel for SIGINT at the parent's death, then turns into the node."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # A shell that starts us in the background ignores SIGINT for all its children; our clean stop needs it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import ctypes  # takes a while: only now, so that a SIGINT meanwhile ends us without a traceback

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the request was in place
        sys.exit("the parent is gone; not starting")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
