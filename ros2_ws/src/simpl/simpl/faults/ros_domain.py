"""A ROS domain that no other test run on this machine uses: an exclusive lock on a file says whose it is."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import tempfile
from pathlib import Path

DOMAINS = range(50, 100)
"""Above what people use by hand; from 102 on a domain's ports lie among those that Linux gives away."""

# Not the same one again soon: what a killed process has announced outlives it by some seconds.
_CANDIDATES = itertools.cycle(random.SystemRandom().sample(DOMAINS, len(DOMAINS)))


class RosDomain:
    """A domain that is ours until `release`, or until this process ends, however it ends."""

    def __init__(self) -> None:
        """Reserve one that is free.

        Raises:
            RuntimeError: none is.
        """
        for self.number in itertools.islice(_CANDIDATES, len(DOMAINS)):
            if self._locked():
                return
        raise RuntimeError(f"test runs hold all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]}")

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)

    def _locked(self) -> bool:
        # Not inherited by the nodes we start: it would stay locked for as long as one of them hangs.
        path = Path(tempfile.gettempdir()) / f"simpl_test_domain_{self.number}.lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # somebody else's file: his domain
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            return False
        return True
