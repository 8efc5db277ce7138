"""`Connection` to a real arm: franky-control, which has libfranka inside. The only module that knows franky."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from simpl.core.fci_arm import ArmLostError, ArmStoppedError, FloatArray, Reading
from simpl_core.errors import EnvironmentMissingError

_BRAKING = 1.0  # longest wait for the arm to stand before the session ends [s]


class FrankyConnection:
    """One session.

    Args:
        hostname: of the arm's control unit.
        realtime: insist on real-time priority for the 1 kHz loop, as a real arm needs.
        hold: how long a velocity lasts without a new one [s].

    Raises:
        EnvironmentMissingError: franky is not installed.
        ArmLostError: the arm cannot be reached.
    """

    def __init__(self, hostname: str, realtime: bool, hold: float) -> None:
        try:
            import franky
        except ModuleNotFoundError as error:
            raise EnvironmentMissingError(f"{error}; the driver needs it: pip install '.[franka]'") from error
        self._franky: Any = franky
        self._errors = tuple(
            value for value in vars(franky).values() if isinstance(value, type) and issubclass(value, Exception)
        )
        self._hold = franky.Duration(round(1000.0 * hold))
        config = franky.RealtimeConfig.Enforce if realtime else franky.RealtimeConfig.Ignore
        try:
            self._robot = franky.Robot(hostname, realtime_config=config)
        except (*self._errors, RuntimeError) as error:
            raise ArmLostError(f"no arm at {hostname}: {error}") from error

    def stream(self, velocity: FloatArray) -> None:
        """Go on at this velocity (7,) [rad/s] for `hold`."""
        with self._named():
            self._robot.move(self._franky.JointVelocityMotion(velocity, self._hold), asynchronous=True)

    def check(self) -> None:
        """Raises what stopped the motion under way, if anything has."""
        with self._named():
            self._robot.poll_motion()  # what it returns is whether the motion is over, whatever its documentation says

    def read(self) -> Reading:
        """The newest state."""
        with self._named():
            state = self._robot.current_joint_state
        return Reading(state.position.ravel(), state.velocity.ravel())

    def recover(self) -> None:
        """Leave a reflex."""
        with self._named():
            if not self._robot.recover_from_errors():
                raise ArmStoppedError("the arm's own recovery failed; look at its status light and its Desk")

    def close(self) -> None:
        """Brake to a stop."""
        with self._named():
            if self._robot.is_in_control:
                self._robot.move(self._franky.JointVelocityStopMotion(), asynchronous=True)
                self._robot.join_motion(_BRAKING)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of franky as ours."""
        try:
            yield
        except self._franky.NetworkException as error:
            raise ArmLostError(str(error)) from error
        except (*self._errors, RuntimeError) as error:
            raise ArmStoppedError(str(error)) from error
