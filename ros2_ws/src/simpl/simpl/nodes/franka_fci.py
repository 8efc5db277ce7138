"""Node `franka_fci`: a Franka arm over its own network protocol, posing as a ros2_control velocity controller.

For labs without franka_ros2. See `simpl.core.fci_arm` for what it does with commands and stops.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from simpl import interfaces
from simpl.conversions import float64_array, to_joint_state
from simpl.core import health
from simpl.core.fci_arm import Condition, FciArm
from simpl.core.franky_connection import FrankyConnection
from simpl.nodes.diagnostics import Diagnostics
from simpl.nodes.running import STEADY, declare, declare_profile, run_node, take_precedence
from simpl_core.errors import ConfigError

JOINTS = 7
_PRIORITY = 14  # an arm waits for nobody
_QUIET = 1.0  # between two complaints of one kind [s]


class FrankaFciNode(Node):
    """Turns commands into motion and motion into joint states."""

    def __init__(self) -> None:
        super().__init__("franka_fci")
        profile = declare_profile(self, "franka_fr3")
        if len(profile.joints) != JOINTS:
            raise ConfigError(f"robot profile {profile.name} has {len(profile.joints)} joints, this arm {JOINTS}")
        hostname = declare(self, "robot_ip", "", "address of the arm's control unit")
        if not hostname:
            raise ConfigError("parameter 'robot_ip' is empty; it is the address of the arm's control unit")
        realtime = declare(self, "realtime", True, "insist on libfranka's real-time priority, which a real arm needs")
        hold = declare(
            self,
            "hold",
            0.1,
            "a velocity without a successor lasts so long, then the arm brakes [s]",
            between=(0.02, 0.5),
        )
        rate = declare(self, "state_rate", 200.0, "joint states a second [Hz]", between=(10.0, 1000.0))
        self._names = profile.joint_names
        take_precedence(self, _PRIORITY)  # first: the threads that drive the arm inherit it, or take more by themselves
        self._arm = FciArm(lambda: FrankyConnection(hostname, realtime, hold), profile)
        self._condition = self._arm.condition
        self._complained_at = 0.0
        self._joint_states = interfaces.JOINT_STATES.publisher(self)
        self._diagnostics = Diagnostics(self, "arm", lambda: health.of_arm(self._arm))
        interfaces.COMMANDS.subscription(self, self._on_command)
        interfaces.ARM_RECOVER.server(self, self._on_recover)
        self.create_timer(1.0 / rate, self._on_read, clock=STEADY)

    def close(self) -> None:
        """Brake."""
        self._arm.close()

    def _on_command(self, message: Float64MultiArray) -> None:
        problem = self._arm.command(float64_array(message.data))
        now = time.monotonic()
        if problem and now - self._complained_at > _QUIET:  # a broken sender is broken many times a second
            self._complained_at = now
            self.get_logger().error(f"command dropped ({self._arm.dropped} so far): {problem}")
        self._tell()

    def _on_read(self) -> None:
        reading = self._arm.read()
        if reading is not None:
            stamp = self.get_clock().now().nanoseconds
            self._joint_states.publish(to_joint_state(stamp, self._names, reading.position, reading.velocity))
        self._tell()

    def _on_recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        problem = self._arm.recover()
        response.success = not problem
        response.message = problem or "ready; moves after a command of zeros"
        self._tell()
        return response

    def _tell(self) -> None:
        """Say it when the arm's condition has changed."""
        arm = self._arm
        if arm.condition is self._condition:
            return
        self._condition = arm.condition
        if arm.condition is Condition.READY:
            self.get_logger().info("the arm is ready again")
        else:
            self.get_logger().error(
                f"the arm: {arm.condition.value}: {arm.reason}; service {interfaces.ARM_RECOVER.name}"
            )
        self._diagnostics.say()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `franka_fci`."""
    return run_node(lambda _: FrankaFciNode(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
