"""Arms for the tests of the guard, and who judges what it sends: the fault harness's checker of limits."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from simpl.faults.limit_checker import LimitChecker

__all__ = ["READY", "LimitChecker", "arm"]

FR3 = {
    "name": "fr3_like",
    "description": "numbers of a Franka FR3, for tests",
    "control_rate_hz": 50.0,
    "position_margin": 0.05,
    "joints": [
        {"name": f"fr3_joint{k + 1}", "unit": "rad", "position": list(ends), "velocity": speed, "acceleration": 10.0}
        for k, (ends, speed) in enumerate(
            [
                ((-2.7437, 2.7437), 2.62),
                ((-1.7837, 1.7837), 2.62),
                ((-2.9007, 2.9007), 2.62),
                ((-3.0421, -0.1518), 2.62),
                ((-2.8065, 2.8065), 5.26),
                ((0.5445, 4.5169), 4.18),
                ((-3.0159, 3.0159), 5.26),
            ]
        )
    ],
    "objects": [],
}
FRAMES = {
    "joints": [
        {"xyz": [0, 0, 0.333], "rpy": [0, 0, 0], "axis": [0, 0, 1]},
        {"xyz": [0, 0, 0], "rpy": [-math.pi / 2, 0, 0], "axis": [0, 0, 1]},
        {"xyz": [0, -0.316, 0], "rpy": [math.pi / 2, 0, 0], "axis": [0, 0, 1]},
        {"xyz": [0.0825, 0, 0], "rpy": [math.pi / 2, 0, 0], "axis": [0, 0, 1]},
        {"xyz": [-0.0825, 0.384, 0], "rpy": [-math.pi / 2, 0, 0], "axis": [0, 0, 1]},
        {"xyz": [0, 0, 0], "rpy": [math.pi / 2, 0, 0], "axis": [0, 0, 1]},
        {"xyz": [0.088, 0, 0], "rpy": [math.pi / 2, 0, 0], "axis": [0, 0, 1]},
    ],
    "tool": {"xyz": [0, 0, 0.2104], "rpy": [0, 0, 0]},
}
BOX = {"low": [0.1, -0.45, 0.15], "high": [0.7, 0.45, 0.9]}
READY = np.array([0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4])


def arm(*, jerk: float | None = None, box: bool = False, rate: float = 50.0) -> dict[str, Any]:
    """The document of an FR3-like profile."""
    document = copy.deepcopy(FR3)
    document["control_rate_hz"] = rate
    if jerk is not None:
        document["joints"] = [{**joint, "jerk": jerk} for joint in document["joints"]]
    if box:
        document |= {"kinematics": copy.deepcopy(FRAMES), "workspace": copy.deepcopy(BOX)}
    return document
