"""Judges a stream of commands by the definitions of the limits. Knows nothing of the guard: only numbers of the arm.

Everything is recomputed from what was sent and when: velocity, its differences, and where an arm that integrates these
velocities exactly gets to. An immediate stop (all zeros) is always allowed: it is the one thing that may break the
limits of change.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class LimitChecker:
    """Finds what is wrong with a stream of commands for the arm that `document` describes."""

    def __init__(self, document: dict[str, Any]) -> None:
        joints = document["joints"]
        self.size = len(joints)
        self.period = 1.0 / document["control_rate_hz"]
        self.speed = np.array([joint["velocity"] for joint in joints])
        self.acceleration = np.array([joint["acceleration"] or math.inf for joint in joints])
        self.jerk = np.array([joint.get("jerk") or math.inf for joint in joints])
        margin = document["position_margin"]
        ends = np.array([joint["position"] or (-math.inf, math.inf) for joint in joints])
        self.low, self.high = ends[:, 0] + margin, ends[:, 1] - margin
        self.box = document.get("workspace")
        self.frames = document.get("kinematics")

    def problems(self, times: Any, velocities: Any, positions: Any) -> list[str]:
        """What is wrong, with the number of the command; empty when all is well.

        Args:
            times: of the commands (N,) [s].
            velocities: what was sent (N, A).
            positions: where an ideal arm was (N + 1, A): before each command and after the last.
        """
        wrong = [f"{k}: {len(v)} numbers" for k, v in enumerate(velocities) if len(v) != self.size]
        if wrong:
            return wrong
        velocity = np.array(velocities, dtype=np.float64)
        found: list[tuple[str, Any]] = [("not finite", ~np.isfinite(velocity))]
        found.append(("too fast", np.abs(velocity) > self.speed * (1 + 1e-12)))
        stop = ~velocity.any(axis=1)
        # The arm is at rest before the first command. A change is judged by the time since the last one.
        before = np.vstack([np.zeros(self.size), velocity[:-1]])
        passed = np.clip(np.diff(times, prepend=times[0] - self.period), 1e-6, self.period)[:, None]
        gained = np.where(stop[:, None], 0.0, (velocity - before) / passed)
        found.append(("accelerates too much", np.abs(gained) > self.acceleration * (1 + 1e-6) + 1e-5))
        change = (gained - np.vstack([np.zeros(self.size), gained[:-1]])) / passed
        after_stop = np.concatenate([[False], stop[:-1]])
        loose = 1e-5 / passed**2  # what rounding and the snap to zero of a standing joint make of a jerk
        jerky = np.abs(change) > self.jerk * (1 + 1e-6) + loose
        found.append(("jerks too much", jerky & ~stop[:, None] & ~after_stop[:, None]))
        positions = np.asarray(positions)
        found.append(("beyond its margin", (positions > self.high + 1e-6) | (positions < self.low - 1e-6)))
        if self.box is not None:
            found.append(("out of the box", self.outside(positions)))
        return [f"{np.argwhere(bad)[0]}: {text}" for text, bad in found if bad.any()]

    def outside(self, positions: Any) -> Any:
        """Where (N, A) the tool is beyond a wall: (N, 3)."""
        tool = self.tool(positions)
        return (tool < np.array(self.box["low"])) | (tool > np.array(self.box["high"]))

    def tool(self, positions: Any) -> Any:
        """Forward kinematics by quaternions, from the base outwards: (N, A) -> (N, 3)."""
        positions = np.atleast_2d(positions)
        count = len(positions)
        here, turned = np.zeros((count, 3)), np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))
        for index, frame in enumerate(self.frames["joints"]):
            here = here + _turn(turned, np.array(frame["xyz"], dtype=float))
            for angle, axis in zip(reversed(frame["rpy"]), ([0, 0, 1], [0, 1, 0], [1, 0, 0]), strict=True):
                turned = _times(turned, _about(axis, np.full(count, float(angle))))
            turned = _times(turned, _about(frame["axis"], positions[:, index]))
        return here + _turn(turned, np.array(self.frames["tool"]["xyz"], dtype=float))


def _about(axis: Any, angle: Any) -> Any:
    axis = np.array(axis, dtype=float) / np.linalg.norm(axis)
    return np.concatenate([np.cos(angle / 2)[:, None], np.sin(angle / 2)[:, None] * axis], axis=1)


def _times(p: Any, q: Any) -> Any:
    scalar = p[:, :1] * q[:, :1] - (p[:, 1:] * q[:, 1:]).sum(axis=1, keepdims=True)
    return np.concatenate([scalar, p[:, :1] * q[:, 1:] + q[:, :1] * p[:, 1:] + np.cross(p[:, 1:], q[:, 1:])], axis=1)


def _turn(q: Any, vector: Any) -> Any:
    across = 2.0 * np.cross(q[:, 1:], vector)
    return vector + q[:, :1] * across + np.cross(q[:, 1:], across)
