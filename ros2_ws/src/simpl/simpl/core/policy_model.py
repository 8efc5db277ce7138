"""A bundle on disk -> a policy that may act on this arm. Slow on purpose: it runs away from the control thread."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.bundle import Bundle
from export.runtime import PolicyRunner
from simpl.core.policy_loop import LoadedModel
from simpl.core.profile import RobotProfile
from simpl_core.errors import BundleError


def load_policy_model(path: Path, profile: RobotProfile) -> LoadedModel:
    """Verify, load and warm up a bundle.

    Args:
        path: folder of the bundle.
        profile: the arm it shall act on.

    Raises:
        BundleError: the bundle breaks its contract, was made for another arm, or is too slow for its rate.
    """
    bundle = Bundle.open(path)
    robot = bundle.manifest.robot
    _same("joints", robot.joint_names, profile.model_joint_names)
    _same("observation", robot.observation, profile.observation_names)
    periods = round(profile.control_rate_hz / robot.control_rate_hz)
    if not math.isclose(robot.control_rate_hz * periods, profile.control_rate_hz, rel_tol=1e-6):
        raise BundleError(
            f"the bundle acts at {robot.control_rate_hz} Hz, robot profile {profile.name} is commanded at "
            f"{profile.control_rate_hz} Hz; that must be the same or a whole multiple of it"
        )
    runner = PolicyRunner(bundle)
    _check_pace(runner, profile)
    runner.warm_up()
    return LoadedModel(
        runner=runner,
        version=bundle.model_version,
        e_dim=bundle.manifest.e_dim,
        action_scale=np.array(robot.action_scale, dtype=np.float64),
        periods=periods,
        arithmetic=bundle.arithmetic(),
    )


def _check_pace(runner: PolicyRunner, profile: RobotProfile) -> None:
    """A skill and an action must be computed within a period; by the processor's time, which no other process takes."""
    manifest = runner.bundle.manifest
    fastest = math.inf
    for _ in range(3):
        runner.begin_episode(np.zeros(manifest.e_dim), 0)
        begun = time.thread_time()
        runner.act(np.zeros(manifest.state_dim))
        fastest = min(fastest, time.thread_time() - begun)
    if fastest > profile.period:
        raise BundleError(
            f"the bundle takes {1e3 * fastest:.0f} ms for an action; the period of robot profile {profile.name} "
            f"is {1e3 * profile.period:.0f} ms"
        )


def _same(what: str, given: Sequence[str], wanted: Sequence[str]) -> None:
    """Names in one order on both sides; the first difference is named."""
    if len(given) != len(wanted):
        raise BundleError(f"{what}: the bundle names {len(given)}, the robot profile {len(wanted)}")
    for index, (theirs, ours) in enumerate(zip(given, wanted, strict=True)):
        if theirs != ours:
            raise BundleError(f"{what}: number {index} is {theirs!r} in the bundle, {ours!r} in the robot profile")
