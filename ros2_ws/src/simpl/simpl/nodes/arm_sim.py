"""Node `arm_sim`: the kitchen in MuJoCo posing as an arm of ros2_control, with cameras that see the objects.

In lockstep it publishes a state, waits for one command, lets one control period pass and publishes the next state:
time stands still without commands. In real time it follows the wall clock and obeys the newest command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rclpy.node import Node
from simpl_interfaces.srv import ResetScene
from std_msgs.msg import Float64MultiArray

from sim.kitchen import OBJECT_COORDINATES, ROBOT_JOINTS
from simpl import interfaces
from simpl.conversions import float64_array, to_clock, to_joint_state
from simpl.core.kitchen_plant import PERIOD_NS, SLICE, KitchenPlant
from simpl.nodes.running import STEADY, declare, run_node, take_precedence

REPUBLISH = 0.05  # lockstep: best-effort readers may lose a state, and somebody may come late [s]
_PRIORITY = 14  # an arm waits for nobody
_CATCH_UP = 5  # real time: at most so many slices at once after a pause of the machine


class ArmSimNode(Node):
    """Turns commands into states."""

    def __init__(self) -> None:
        super().__init__("arm_sim")
        self._lockstep = declare(self, "lockstep", False, "wait for a command instead of following the wall clock")
        seed = declare(self, "seed", 0, "of the sensor noise until the first scene/reset", between=(0, 2**62))
        noise = declare(self, "noise", 1.0, "factor on the sensors' noise", between=(0.0, 10.0))
        timeout = declare(
            self, "command_timeout", 0.2, "real time: the arm holds still after this silence [s]", between=(0.01, 10.0)
        )
        folder = declare(self, "output_folder", "", "where records of episodes go; empty: nowhere")
        self._folder = Path(folder) if folder else None
        self._plant = KitchenPlant(noise, timeout)
        self._episode = 0
        self._size = len(ROBOT_JOINTS)
        self._joints, self._objects = list(ROBOT_JOINTS), list(OBJECT_COORDINATES)
        self._joint_states = interfaces.JOINT_STATES.publisher(self)
        self._object_states = interfaces.OBJECT_STATES.publisher(self)
        self._clock_topic = interfaces.CLOCK.publisher(self) if self._lockstep else None
        self._published_at = 0.0
        self._slices_due = time.monotonic()
        self._plant.reset(seed, self._next_stamp())
        interfaces.COMMANDS.subscription(self, self._on_command)
        interfaces.SCENE_RESET.server(self, self._on_reset)
        if self._lockstep:
            self.create_timer(REPUBLISH, self._on_silence, clock=STEADY)
        else:
            self.create_timer(SLICE, self._on_slice, clock=STEADY)
        take_precedence(self, 0 if self._lockstep else _PRIORITY)
        self._publish()

    def close(self) -> None:
        """Keep the record of the episode under way."""
        self._save()

    def _on_command(self, message: Float64MultiArray) -> None:
        velocity = float64_array(message.data)
        # As ros2_control's controllers do: what cannot be executed is dropped, and the last command stays.
        if velocity.shape != (self._size,) or not abs(velocity).max() < float("inf"):
            self.get_logger().error(f"command dropped: wanted {self._size} finite velocities, got {velocity.tolist()}")
        elif self._lockstep:
            self._plant.step(velocity, self._next_stamp())
            self._publish()
        else:
            self._plant.command(velocity, time.monotonic(), time.time_ns())

    def _on_silence(self) -> None:
        if time.monotonic() - self._published_at >= REPUBLISH:
            self._publish()

    def _on_slice(self) -> None:
        now = time.monotonic()
        behind = int((now - self._slices_due) / SLICE) + 1
        for _ in range(min(behind, _CATCH_UP)):
            self._plant.advance(now, time.time_ns())
        self._slices_due += behind * SLICE
        if behind > 0:
            self._publish()

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        response.success, response.message = True, ""
        try:
            self._save()
        except OSError as error:
            # The arm works without its record; whoever asked is told.
            response.message = f"the record of episode {self._episode} was not written: {error}"
            self.get_logger().error(response.message)
        self._episode = request.episode
        self._plant.reset(request.seed, self._next_stamp())
        self._publish()
        return response

    def _save(self) -> None:
        if self._folder is not None:
            self._plant.record.save(self._folder, self._episode)

    def _next_stamp(self) -> int:
        """Lockstep: simulated time, which goes on through resets. Real time: now."""
        return self._plant.stamp + PERIOD_NS if self._lockstep else time.time_ns()

    def _publish(self) -> None:
        plant, size = self._plant, self._size
        self._published_at = time.monotonic()
        self._object_states.publish(to_joint_state(plant.stamp, self._objects, plant.measured[size:]))
        self._joint_states.publish(to_joint_state(plant.stamp, self._joints, plant.measured[:size]))
        if self._clock_topic is not None:
            self._clock_topic.publish(to_clock(plant.stamp))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `arm_sim`."""
    return run_node(lambda _: ArmSimNode(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
