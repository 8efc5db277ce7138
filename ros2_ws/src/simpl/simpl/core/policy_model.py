"""A bundle on disk -> a policy that may act on this arm. Slow on purpose: it runs away from the control thread."""

from __future__ import annotations

import math
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
        BundleError: the bundle breaks its contract, or was made for another arm.
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
    runner.warm_up()
    return LoadedModel(
        runner=runner,
        version=bundle.model_version,
        e_dim=bundle.manifest.e_dim,
        action_scale=np.array(robot.action_scale, dtype=np.float64),
        periods=periods,
    )


def _same(what: str, given: Sequence[str], wanted: Sequence[str]) -> None:
    """Names in one order on both sides; the first difference is named."""
    if len(given) != len(wanted):
        raise BundleError(f"{what}: the bundle names {len(given)}, the robot profile {len(wanted)}")
    for index, (theirs, ours) in enumerate(zip(given, wanted, strict=True)):
        if theirs != ours:
            raise BundleError(f"{what}: number {index} is {theirs!r} in the bundle, {ours!r} in the robot profile")
