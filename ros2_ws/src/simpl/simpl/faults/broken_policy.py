"""The node `policy`, in which an inference fails or hangs as soon as a file says so: for the fault harness alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.runtime import PolicyRunner, SkillAction
from simpl.nodes import policy

ORDERS = "SIMPL_BROKEN_POLICY"
"""Variable with the path of the file; it holds one of the words below."""
RAISE, HANG = "raise", "hang"


def broken(act: Callable[..., SkillAction], orders: Path) -> Callable[..., SkillAction]:
    """`act` that looks for orders first."""

    def look_and_act(runner: PolicyRunner, *arguments: Any) -> SkillAction:
        order = orders.read_text() if orders.exists() else ""
        if order == RAISE:
            raise RuntimeError("the fault harness says so")
        if order == HANG:
            orders.unlink()
            time.sleep(2.0)
        return act(runner, *arguments)

    return look_and_act


if __name__ == "__main__":
    PolicyRunner.act = broken(PolicyRunner.act, Path(os.environ[ORDERS]))  # type: ignore[method-assign]
    raise SystemExit(policy.main())
