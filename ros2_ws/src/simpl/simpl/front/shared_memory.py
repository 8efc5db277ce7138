"""Shared memory that Fast DDS, the usual ROS middleware, leaves behind when a node is killed with SIGKILL."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
SETTLED = 5.0
"""A segment as young as this [s] may belong to a process that is about to lock it."""


def remove_dead_segments(folder: Path = FOLDER) -> int:
    """Removes segments whose owner is gone, half a megabyte each; returns how many.

    An owner holds an exclusive lock on the file `<segment>_el` as long as it lives; `fastdds shm clean` goes by the
    same rule. Segments of other users are left alone.
    """
    removed = 0
    for lock in folder.glob("fastdds_" + "[0-9a-f]" * 16 + "_el"):
        try:
            if time.time() - lock.stat().st_mtime < SETTLED:
                continue
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
                lock.unlink()
                removed += 1
        except OSError:  # locked: its owner lives; or somebody else was quicker, or it is not ours
            continue
    return removed
