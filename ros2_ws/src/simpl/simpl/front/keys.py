"""Single keys of the terminal that `simpl adapt` runs in, and what they ask of the graph."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any

from simpl import interfaces

SERVICES = {
    "s": interfaces.EPISODE_SUCCESS,
    "f": interfaces.EPISODE_FAILURE,
    "d": interfaces.EPISODE_DISCARD,
    "r": interfaces.EPISODE_READY,
}
"""What each key calls."""
HINT = "keys: s success, f failure, d discard, r ready"


class Keys:
    """Takes keys as they are pressed, without Enter, while it is entered; Ctrl-C stays what it is.

    Does nothing where the input is no terminal, or one that belongs to somebody else (a job in the background).
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Read from `descriptor`; standard input by default."""
        self._descriptor = _standard_input() if descriptor is None else descriptor
        self._before: list[Any] | None = None

    @property
    def active(self) -> bool:
        """Whether keys are taken."""
        return self._before is not None

    def __enter__(self) -> Keys:
        descriptor = self._descriptor
        if descriptor is not None and os.isatty(descriptor) and _is_ours(descriptor):
            self._before = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None and self._descriptor is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            self._before = None

    def pressed(self) -> str:
        """Keys since the last call."""
        if not self.active or self._descriptor is None:
            return ""
        if not select.select([self._descriptor], [], [], 0.0)[0]:
            return ""
        return os.read(self._descriptor, 64).decode(errors="ignore")


def _standard_input() -> int | None:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None  # closed, or put in its place by somebody


def _is_ours(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()  # else the kernel would stop this process for it
    except OSError:
        return False
