"""The lock between a control loop and those who ask things of it: a tick that hangs must not take them with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from simpl_core.errors import SimplError


class TickLock:
    """A lock that can be taken again by its holder, tells how long it has been held, and is not waited for for ever.

    Args:
        patience: longest wait [s].
        now: steady clock [s].
    """

    def __init__(self, patience: float, now: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self._now = now
        self._lock = threading.RLock()
        self._depth = 0
        self._since: float | None = None

    def held(self) -> float:
        """How long it has been held [s], 0 when it is free. Waits for nothing."""
        since = self._since
        return 0.0 if since is None else self._now() - since

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self.patience):
            raise SimplError(f"the control loop hangs: a tick has been going on for {self.held():.1f} s")
        self._depth += 1
        if self._depth == 1:
            self._since = self._now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._since = None
        self._lock.release()
