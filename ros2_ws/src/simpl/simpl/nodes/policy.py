"""Node `policy` (lifecycle): from state to wanted velocity at the control rate. See `simpl.core.policy_loop`."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from sensor_msgs.msg import JointState
from simpl_interfaces.srv import BeginEpisode, StageModel
from std_srvs.srv import Trigger

from simpl import interfaces
from simpl.conversions import JointReading, float32_array, from_joint_state, to_policy_action, to_policy_status
from simpl.core import health
from simpl.core.guard_watch import guard_patience
from simpl.core.homing import HomeRunner
from simpl.core.phase import Phase
from simpl.core.policy_loop import LoadedModel, LoopSettings, PolicyLoop, PolicyTick
from simpl.core.policy_model import load_policy_model
from simpl.core.robot_state import RobotState, StateError
from simpl.nodes.diagnostics import Diagnostics
from simpl.nodes.joint_reader import JointReader
from simpl.nodes.mailbox import Mailbox, Recipient
from simpl.nodes.running import (
    FAILED,
    STEADY,
    USER_ERROR,
    Ending,
    declare,
    declare_profile,
    run_node,
    step_back,
    take_precedence,
)
from simpl.nodes.takeover import Takeover
from simpl_core.errors import ConfigError, SimplError

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
T = TypeVar("T")
Update = Callable[[int, Sequence[str], Any, float], bool]

_GUARD_PATIENCE = 5.0  # for discovery at the start [s]
_POLL = 0.002  # how soon an awaited result is noticed [s]
_LOOK = 0.02  # between two looks at what the guard's watch has found, and at the loop [s]
_LEAVES = 1.0  # after a signal the arm is waited for so long at most [s]
_PRIORITY = 10  # below the guard's
_HANGS = 10.0  # a tick that takes longer never ends [s]


class PolicyNode(Recipient, LifecycleNode):
    """Feeds a `PolicyLoop` with states and publishes its ticks.

    Configure loads the bundle, activate starts the loop's thread; both happen by themselves with `autostart`.

    Args:
        ending: told when the node cannot go on.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__("policy")
        self._ending = ending
        self._bundle = declare(self, "bundle", "", "folder of the model bundle to start with")
        self._profile = declare_profile(self)
        rate = self._profile.control_rate_hz
        self._settings = LoopSettings(
            rate_hz=declare(self, "rate_hz", rate, "control rate; the profile's own [Hz]", between=(0.1, 1000.0)),
            lockstep=declare(self, "lockstep", False, "tick once per new state instead of by the wall clock"),
            max_steps=declare(self, "max_steps", 280, "actions in an episode", between=(1, 1_000_000)),
            state_timeout=declare(
                self, "state_timeout", 0.2, "real time: oldest state to act on [s]", between=(0.01, 10.0)
            ),
        )
        self._deterministic = declare(
            self, "deterministic", False, "always take the mean skill, whatever temperature an episode asks for"
        )
        self._autostart = declare(self, "autostart", True, "configure and activate without being told")
        self._mailboxes: list[tuple[Mailbox, Update]] = []
        self._state = RobotState(self._profile.joint_names, self._profile.objects, newer=not self._settings.lockstep)
        self._phase = Phase(self._profile.period)
        self._loop = PolicyLoop(
            self._state, self._on_tick, self._settings, self._on_loop_failure, shift=self._phase.shift
        )
        self._active = False
        self._worker = futures.ThreadPoolExecutor(1, "model-loading", initializer=step_back)
        self._complained_at = 0.0
        self._actions = interfaces.POLICY_ACTION.publisher(self)
        self._status = interfaces.POLICY_STATUS.publisher(self)
        updates = (
            (interfaces.JOINT_STATES, self._state.update_joints),
            (interfaces.OBJECT_STATES, self._state.update_objects),
        )
        if self._settings.lockstep:  # every state is answered
            for topic, update in updates:
                topic.subscription(self, partial(self._on_state, update))
        else:
            self._mailboxes = [(self.mailbox(topic, JointReader().read), update) for topic, update in updates]
            self._state.look = self._look
        # A group of their own: while one of them waits, states go on coming in.
        group = MutuallyExclusiveCallbackGroup()
        interfaces.BEGIN_EPISODE.server(self, self._on_begin_episode, group=group)
        interfaces.END_EPISODE.server(self, self._on_end_episode, group=group)
        interfaces.STAGE_MODEL.server(self, self._on_stage_model, group=group)
        # Alone: the way home takes seconds, and ending it must not wait for its end.
        interfaces.HOME.server(self, self._on_home, group=MutuallyExclusiveCallbackGroup())
        self.create_timer(1.0, self._publish_status, clock=STEADY)
        # In lockstep nothing moves while the guard is silent.
        self._missed = 0
        Diagnostics(self, "control loop", self._health)
        self._told_to_end, self._leaving = False, None
        take_precedence(self, 0 if self._settings.lockstep else _PRIORITY)
        self._takeover = self._watch_over_the_guard()
        if self._takeover is not None:
            ending.on_signal = self._on_signal
            self._takeover.start(lambda: ending.request(FAILED))
        self.create_timer(_LOOK, self._on_watch, clock=STEADY)
        if self._autostart:
            self._start()

    def _watch_over_the_guard(self) -> Takeover | None:
        patience = declare(
            self,
            "guard_timeout",
            guard_patience(self._profile.period),
            "real time: silence of the guard after which zeros are sent in its place [s]",
            between=(0.01, 10.0),
        )
        return None if self._settings.lockstep else Takeover(self, self._profile, patience)

    def close(self) -> None:
        """End an episode under way with a terminal tick, and the thread."""
        self._loop.stop()
        if self._takeover is not None:
            self._takeover.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    # -- lifecycle -----------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify, load and warm up the bundle."""
        try:
            if not self._bundle:
                raise ConfigError("parameter 'bundle' is empty; it names the folder of a model bundle")
            if abs(self._settings.rate_hz / self._profile.control_rate_hz - 1.0) > 1e-6:
                raise ConfigError(
                    f"rate_hz is {self._settings.rate_hz}; robot profile {self._profile.name} is driven at "
                    f"{self._profile.control_rate_hz} Hz"
                )
            self._stage(load_policy_model(Path(self._bundle), self._profile))
        except SimplError as error:
            self.get_logger().fatal(str(error))
            return FAILURE
        except Exception:  # noqa: BLE001  rclpy would swallow it without a word
            self.get_logger().fatal(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the thread; it does nothing until an episode begins."""
        self._loop.start()
        self._active = True
        self._publish_status()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the episode, if any, and the thread."""
        self._active = False
        self._loop.stop()
        self._publish_status()
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As `on_deactivate`, and for good."""
        self._active = False
        self._loop.stop()
        return super().on_shutdown(state)

    def _start(self) -> None:
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            self._ending.request(USER_ERROR)

    # -- states in, ticks out ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """On the loop's thread: take the newest states in."""
        for mailbox, update in self._mailboxes:
            for reading, received in mailbox.news():
                if self._take(update, reading, received):
                    if update == self._state.update_joints:
                        self._phase.saw(mailbox.looked - received, mailbox.interval)
                    break

    def _on_state(self, update: Update, message: JointState) -> None:
        self._take(update, from_joint_state(message), time.monotonic())

    def _take(self, update: Update, reading: JointReading, received: float) -> bool:
        """Whether it was one that `update` could use."""
        now = time.monotonic()
        try:
            return update(*reading, received)
        except StateError as error:
            if now - self._complained_at > 1.0:  # a broken sensor is broken a hundred times a second
                self._complained_at = now
                self.get_logger().error(f"state refused ({self._state.rejected} so far): {error}")
        return False

    def _on_tick(self, tick: PolicyTick) -> None:
        """On the loop's thread."""
        if self._takeover is not None:  # before it goes out: the answer may be here before `publish` is back
            self._takeover.watch.sent(time.monotonic(), tick.tick)
        self._actions.publish(to_policy_action(tick, self._profile.joint_names))

    def _on_loop_failure(self, error: Exception) -> None:
        """On the loop's thread, after it has told the arm to stop."""
        self.get_logger().fatal("a tick failed:\n" + "".join(traceback.format_exception(error)))
        self._publish_status()
        self._ending.request(FAILED)

    def _on_watch(self) -> None:
        """Neither a guard that is gone nor a tick that hangs goes unnoticed."""
        lost = self._takeover.outcome() if self._takeover is not None else ""
        if lost:
            self.get_logger().error(f"{lost}; the episode ends")
            with contextlib.suppress(SimplError):  # it hangs too: said below
                self._loop.end_episode(lost)
            self._publish_status()
        if self._told_to_end and self._takeover is not None:
            self._leave(self._takeover)
        if self._loop.busy() > _HANGS and not self._ending.requested.done():
            self.get_logger().fatal(
                f"a tick has been going on for {self._loop.busy():.1f} s; the guard has stopped the arm"
            )
            self._publish_status()
            self._ending.request(FAILED)

    def _on_signal(self) -> None:
        """On the signals' thread. The guard may be dead, and who killed it, or saw it die, ends us too."""
        self._told_to_end = True

    def _leave(self, takeover: Takeover) -> None:
        """End once the arm is seen to be at rest; the node goes on hearing the guard until then."""
        if self._leaving is None:
            ended: futures.Future[bool] = futures.Future()
            with contextlib.suppress(SimplError):  # a tick hangs; the guard has stopped the arm
                ended = self._loop.end_episode()
            self._leaving = ended, time.monotonic() + _LEAVES
        ended, give_up = self._leaving
        if time.monotonic() > give_up or (ended.done() and takeover.may_end()):
            self._ending.request()

    def _health(self) -> health.Health:
        status, before = self._loop.status(), self._missed
        self._missed = status.missed
        return health.of_policy(status, before)

    def _publish_status(self) -> None:
        self._status.publish(to_policy_status(self._loop.status(), self.get_clock().now().nanoseconds))

    # -- services ------------------------------------------------------------------------------------------------

    async def _on_begin_episode(
        self, request: BeginEpisode.Request, response: BeginEpisode.Response
    ) -> BeginEpisode.Response:
        try:
            self._check_active()
            await self._wait_for_guard()
            temperature = 0.0 if self._deterministic else request.temperature
            response.model_version = self._loop.begin_episode(
                request.episode, float32_array(request.e), request.seed, temperature
            )
            response.success = True
        except SimplError as error:
            response.message = str(error)
        self._publish_status()
        return response

    async def _on_end_episode(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        try:
            if self._active:
                answered = await self._finished(self._loop.end_episode())
                response.message = "" if answered else "the plant has not answered the last command"
        except SimplError as error:
            response.success, response.message = False, str(error)
        self._publish_status()
        return response

    async def _on_home(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._profile.home is None:
            response.success = True
            response.message = f"robot profile {self._profile.name} has no home pose; the arm stays where it is"
            return response
        runner = HomeRunner(self._profile)
        try:
            self._check_active()
            await self._wait_for_guard()
            await self._finished(self._loop.move(runner.as_model()))
            response.success, response.message = runner.arrived, runner.outcome
        except Exception as error:  # noqa: BLE001  whoever asked must hear that the arm is not home
            response.message = str(error)
        self._publish_status()
        return response

    async def _on_stage_model(self, request: StageModel.Request, response: StageModel.Response) -> StageModel.Response:
        loading = self._worker.submit(load_policy_model, Path(request.path), self._profile)
        try:
            model = await self._finished(loading)
            self._stage(model)
            response.success, response.model_version = True, model.version
        except SimplError as error:
            response.message = str(error)
            self.get_logger().error(f"model refused: {error}")
        except Exception as error:  # noqa: BLE001  the running model must survive whatever a new one does
            response.message = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"model refused:\n{traceback.format_exc()}")
        self._publish_status()
        return response

    def _stage(self, model: LoadedModel) -> None:
        """Let it act from the next episode on, and say how it computes: each export chooses that anew."""
        self._loop.stage(model)
        before = self._loop.status().arithmetic
        line = f"model {model.version[:12]} is ready for the next episode; it computes in {model.arithmetic}"
        if before and before != model.arithmetic:
            self.get_logger().warning(f"{line}, the model that acts in {before}")
        else:
            self.get_logger().info(line)

    async def _wait_for_guard(self) -> None:
        """An action that no guard hears, or lets pass, is lost; in lockstep time would stand still for ever."""
        patience = time.monotonic() + _GUARD_PATIENCE
        guards = self.resolve_topic_name(interfaces.GUARD_STATE.name)
        while True:
            problem = ""
            if not (self._actions.get_subscription_count() and self.count_publishers(guards)):
                problem = f"no guard listens to {self._actions.topic_name}"
            elif self._takeover is not None and self._takeover.watch.lost:
                # A dead guard stays announced for a while: once lost it counts only when it speaks.
                problem = "no guard answers any more"
            elif self._takeover is not None and self._takeover.watch.blind:
                problem = f"the guard would let nothing move: {self._takeover.watch.blind}"
            if not problem:
                return
            if time.monotonic() > patience:
                raise SimplError(problem)
            await self._pause(0.02)

    def _check_active(self) -> None:
        if not self._active:
            raise SimplError("the policy node is not active; configure and activate it first")

    async def _pause(self, seconds: float) -> None:
        """Let other callbacks run for a while."""
        over: Future[None] = Future(executor=self.executor)
        timer = self.create_timer(seconds, lambda: over.set_result(None), clock=STEADY)
        try:
            await over
        finally:
            self.destroy_timer(timer)

    async def _finished(self, future: futures.Future[T]) -> T:
        """The result of what another thread does, while the executor goes on with other callbacks."""
        ours: Future[None] = Future(executor=self.executor)
        future.add_done_callback(lambda _: ours.set_result(None))
        # The events executor resumes a waiting callback only after some other event, so there must be events.
        poll = self.create_timer(_POLL, lambda: None, clock=STEADY)
        try:
            await ours
        finally:
            self.destroy_timer(poll)
        return future.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `policy`."""
    return run_node(PolicyNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
