"""Node `guard`: the only publisher to the controller. See `simpl.core.guard` for what it decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rclpy.duration import Duration
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import JointState
from simpl_interfaces.msg import PolicyAction
from std_srvs.srv import Trigger

from simpl import interfaces
from simpl.conversions import (
    JointReading,
    from_joint_state,
    from_time,
    to_guard_state,
    to_trajectory_command,
    to_velocity_command,
    to_wanted,
)
from simpl.core import health
from simpl.core.guard import Answer, Command, Guard, GuardSettings, Mode
from simpl.core.interventions import InterventionLog
from simpl.core.latch import Latch
from simpl.core.robot_state import NameOrder, StateError
from simpl.nodes.controllers import ControllerWatch
from simpl.nodes.diagnostics import Diagnostics
from simpl.nodes.joint_reader import JointReader
from simpl.nodes.mailbox import Mailbox, Recipient
from simpl.nodes.running import STEADY, declare, declare_profile, run_node, take_precedence

TIMES = (0.01, 10.0)  # sensible time-outs [s]
_LOOK_AROUND = 5  # every so many watchdog ticks the graph is searched for other publishers
_UNNAMED = "_NODE_NAME_UNKNOWN_"  # what the RMW calls a node that it has not heard of
_PRIORITY = 12  # above the policy's: a policy that computes for ever must not keep its guard from stopping the arm
_LONGEST_RAMP = 0.5  # after a signal the arm is slowed down for so long at most [s]


class GuardNode(Recipient):
    """Converts, asks the guard, converts."""

    def __init__(self) -> None:
        super().__init__("guard")
        profile = declare_profile(self)
        self._lockstep = declare(self, "lockstep", False, "simulated time stands still while the policy thinks")
        waits = self._lockstep
        rate = declare(self, "watchdog_rate", 50.0, "looks of the watchdogs a second [Hz]", between=(5.0, 1000.0))
        # With the look that finds it out: zeros within two periods, or 0.1 s if that is longer.
        timeout = 10.0 if waits else max(profile.period, max(0.1, 2.0 * profile.period) - 1.0 / rate)
        settings = GuardSettings(
            declare(self, "action_timeout", timeout, "longest silence of the policy [s]", between=TIMES),
            declare(self, "state_timeout", timeout, "oldest joint state to move on [s]", between=TIMES),
            declare(
                self, "zero_repeat", 0.0 if waits else 0.1, "period of zeros at rest [s]; 0: once", between=(0, 10)
            ),
            look=1.0 / rate,
            lockstep=self._lockstep,
        )
        latch_file = declare(
            self, "latch_file", "", "keeps FAULT, ESTOP and PAUSED for the next guard; '': nobody does"
        )
        self._latch = Latch(Path(latch_file) if latch_file else None)
        self._look = settings.look
        self._guard = Guard(profile, settings)
        self._order = NameOrder(profile.joint_names, "joint")
        self._stamp = -1
        self._tick = 0
        self._early: PolicyAction | None = None
        self._looks = 0
        self._others: list[str] = []
        self._strangers: list[str] = []
        self._log = InterventionLog()
        self._joints = profile.joint_names
        self._follows = profile.command.interface == "trajectory"
        self._commands = (interfaces.TRAJECTORY if self._follows else interfaces.COMMANDS).publisher(self)
        self._states = interfaces.GUARD_STATE.publisher(self)
        self._joint_states: Mailbox | None = None
        if self._lockstep:  # every state is answered
            interfaces.JOINT_STATES.subscription(self, self._on_joint_state)
        else:
            self._joint_states = self.mailbox(interfaces.JOINT_STATES, JointReader().read)
        interfaces.POLICY_ACTION.subscription(self, self._on_action)
        interfaces.GUARD_ESTOP.server(self, self._on_estop)
        interfaces.GUARD_RESET.server(self, self._on_reset)
        interfaces.GUARD_PAUSE.server(self, self._on_pause)
        interfaces.GUARD_RESUME.server(self, self._on_resume)
        self._controllers = ControllerWatch(self, self._commands)
        take_precedence(self, 0 if waits else _PRIORITY)
        self._said: Command | None = None
        Diagnostics(
            self, "safety", lambda: health.of_guard(self._said, self._guard.interventions, self._guard.commands)
        )
        held = self._latch.left()
        if held is not None:
            self._send(self._guard.take_over(held))
        self._on_watch()  # before any action: a starved timer may have its first turn after one
        self.create_timer(1.0 / rate, self._on_watch, clock=STEADY)

    def close(self) -> None:
        """Slow the arm down to zeros and see them arrive."""
        give_up = time.monotonic() + _LONGEST_RAMP
        command = self._guard.shutdown()
        while command.velocity.any() and time.monotonic() < give_up:
            self._send(command)
            time.sleep(self._look)
            command = self._guard.shutdown()
        self._send(self._guard.shutdown(at_once=True))
        self._commands.wait_for_all_acked(Duration(seconds=0.3))

    def _look_at_the_arm(self) -> None:
        """Take the newest joint state in before anything is decided."""
        for reading, received in self._joint_states.news() if self._joint_states is not None else ():
            if self._take(reading, received):
                return

    def _take(self, reading: JointReading, received: float | None = None) -> bool:
        """Whether this was about the arm."""
        try:
            position = self._order.pick(reading.names, reading.position)
        except StateError as error:
            self._send(self._guard.on_invalid_state(str(error)))
            return True
        if position is not None:
            self._stamp = reading.stamp
            self._guard.on_state(position, self._stamp, received)
        return position is not None

    def _on_joint_state(self, message: JointState) -> None:
        if self._take(from_joint_state(message)) and self._early is not None:
            early, self._early = self._early, None
            self._on_action(early)

    def _on_action(self, message: PolicyAction) -> None:
        self._look_at_the_arm()
        stamp = from_time(message.header.stamp)
        if self._lockstep and (stamp > self._stamp or self._commands.get_subscription_count() == 0):
            # The policy was quicker than our own copy of the state it acted on, or the plant is not connected yet.
            # Limits are judged on that state and no other, so that a run can be repeated to the last bit.
            self._early = message
            return
        if self._lockstep and message.tick == self._tick and stamp < self._stamp:
            return  # sent again although the plant has moved on: executed once is enough
        self._tick = message.tick
        self._send(self._guard.on_action(to_wanted(message, self._stamp)), stamp)

    def _on_watch(self) -> None:
        self._looks += 1
        if self._looks % _LOOK_AROUND == 0:
            # Seen twice in a row: a node that has just gone down is announced for a moment longer.
            before, self._others = self._others, self._others_on_the_command_topic()
            self._strangers = [name for name in self._others if name in before]
        self._look_at_the_arm()
        # In lockstep an action waits for the plant to be there.
        controller = "" if self._lockstep else self._controllers.problem()
        self._send(self._guard.watch(self._strangers, controller))

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._send(self._guard.estop())
        response.success, response.message = True, "stopped; guard/reset releases it"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._look_at_the_arm()
        return self._answer(self._guard.reset(), response)

    def _on_pause(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(self._guard.pause(), response)

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(self._guard.resume(), response)

    def _answer(self, answer: Answer, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message, command = answer
        self._send(command)
        return response

    def _send(self, command: Command | None, stamp: int | None = None) -> None:
        if command is None:
            return
        self._said = command
        if self._follows:
            self._commands.publish(to_trajectory_command(self._joints, self._guard.trajectory(command.velocity)))
        else:
            self._commands.publish(to_velocity_command(command.velocity))
        stamp = max(self._stamp, 0) if stamp is None else stamp
        guard = self._guard
        counts = guard.counts.tolist()
        self._states.publish(to_guard_state(command, stamp, guard.interventions, guard.commands, counts))
        self._keep(command)
        line = self._log.note(command, time.monotonic())
        if line and (command.mode is Mode.FAULT or command.mode is Mode.ESTOP):
            self.get_logger().error(line)
        elif line:
            self.get_logger().warning(line)

    def _keep(self, command: Command) -> None:
        try:
            self._latch.note(command)
        except OSError as error:
            self.get_logger().error(f"a restarted guard will not know of this stop: {error}", throttle_duration_sec=5.0)

    def _others_on_the_command_topic(self) -> list[str]:
        """Names of the nodes that publish commands besides this one."""
        if self.count_publishers(self._commands.topic_name) <= 1:
            return []
        policy = f"{self.get_namespace().rstrip('/')}/policy"
        names = []
        for info in self.get_publishers_info_by_topic(self._commands.topic_name):
            unnamed = info.node_name == _UNNAMED and _participant(info) in self._who_says_actions()
            names.append(policy if unnamed else f"{info.node_namespace.rstrip('/')}/{info.node_name}")
        # Once each: a second guard of our name is a stranger too. Our policy sends zeros when it does not hear us.
        for known in (self.get_fully_qualified_name(), policy):
            if known in names:
                names.remove(known)
        return names

    def _who_says_actions(self) -> list[bytes]:
        """A publisher is seen before the name of its node; the policy's is then known by its DDS participant."""
        actions = self.resolve_topic_name(interfaces.POLICY_ACTION.name)
        return [_participant(info) for info in self.get_publishers_info_by_topic(actions)]


def _participant(info: TopicEndpointInfo) -> bytes:
    return bytes(info.endpoint_gid[:12])  # a DDS GUID: 12 of the participant, 4 of the entity


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `guard`."""
    return run_node(lambda _: GuardNode(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
