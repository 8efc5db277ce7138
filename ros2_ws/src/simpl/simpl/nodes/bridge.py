"""Node `bridge`: runs the episodes, keeps every transition and sends it to the learner, takes in new models.

See `simpl.core.bridge_session` for what it does and `docs/interfaces.md` for what it says and hears.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from simpl_interfaces.msg import (
    EpisodeResult,
    EpisodeState,
    GuardState,
    LearnerStatus,
    PolicyAction,
    PolicyStatus,
    TransitionAck,
)
from simpl_interfaces.msg import ModelUpdate as ModelUpdateMessage
from simpl_interfaces.srv import BeginEpisode as BeginEpisodeService
from simpl_interfaces.srv import ResetScene as ResetSceneService
from simpl_interfaces.srv import StageModel as StageModelService
from std_srvs.srv import Trigger

from export.bundle import Bundle
from simpl import interfaces
from simpl.conversions import float32_field, float64_array, from_bundle_files, from_policy_action, header, to_transition
from simpl.core import health
from simpl.core.bridge_session import BridgeSession, Situation
from simpl.core.commands import BeginEpisode, EndEpisode, EpisodeDone, Home, Request, ResetScene, StageModel
from simpl.core.guard import Mode
from simpl.core.labels import Label
from simpl.core.model_store import ModelUpdate
from simpl.core.plan import RunPlan
from simpl.core.recorder import GuardRecord
from simpl.core.transition import Transition
from simpl.graph import DEFAULT_TASK, OPERATOR, PHASES, REWARD_SOURCES, SCENES
from simpl.nodes.diagnostics import Diagnostics
from simpl.nodes.logs import RosHandler
from simpl.nodes.running import FAILED, OK, STEADY, Ending, declare, run_node
from simpl_core.errors import BundleError, ConfigError, SimplError

POLL_PERIOD = 0.02
STATE_PERIOD = 0.2
"""Between two EpisodeState messages when nothing but the step changes [s]."""
SETTLE = 0.3
"""Between seeing everybody and the first episode, for connections to complete in both directions [s]."""
LINGER = 0.5
"""After the last EpisodeState, so that it arrives [s]."""

_LABELS = {
    interfaces.EPISODE_SUCCESS: Label.SUCCESS,
    interfaces.EPISODE_FAILURE: Label.FAILURE,
    interfaces.EPISODE_DISCARD: Label.DISCARD,
}


class BridgeNode(Node):
    """Converts, calls a `BridgeSession`, converts.

    Args:
        ending: told when the run is over.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__("bridge")
        self._ending = ending
        self._log = RosHandler(self)
        run_folder = Path(_required(self, "run_folder", "everything that is written goes below this folder"))
        bundle = Bundle.open(_required(self, "bundle", "folder of the model bundle the run starts from"))
        plan = _declare_plan(self)
        self._exit_when_done = declare(self, "exit_when_done", True, "end the process when the run is over")
        drain_wait = declare(
            self, "drain_wait", 60.0, "longest wait for the learner at the end [s]", between=(0.0, 600.0)
        )
        self._start_wait = declare(
            self, "start_wait", 120.0, "longest wait for the other nodes at the start [s]", between=(1.0, 86_400.0)
        )
        self._transitions = interfaces.TRANSITIONS.publisher(self)
        self._state = interfaces.EPISODE_STATE.publisher(self)
        self._results = interfaces.EPISODE_RESULT.publisher(self)
        self._session = BridgeSession(plan, bundle, run_folder, self, drain_wait=drain_wait)
        for result in self._session.machine.schedule.results:  # of an earlier start: whoever listens sees the whole run
            self.announce(result)
        self._started = False
        self._complete_since: float | None = None
        self._created_at = self._complained_at = time.monotonic()
        self._shown: tuple[object, ...] = ()
        self._shown_at = self._end_at = -math.inf
        self._stop_reason = ""
        self._calls: dict[type, tuple[Client, Callable[[Any, Path | None], Any]]] = {
            BeginEpisode: (interfaces.BEGIN_EPISODE.client(self), _begin_request),
            EndEpisode: (interfaces.END_EPISODE.client(self), _trigger),
            StageModel: (interfaces.STAGE_MODEL.client(self), _stage_request),
        }
        if plan.scene == OPERATOR:
            self._calls[Home] = (interfaces.HOME.client(self), _trigger)
        else:
            self._calls[ResetScene] = (interfaces.SCENE_RESET.client(self), _reset_request)
        self._subscribe()
        for service, label in _LABELS.items():
            service.server(self, partial(self._on_operator, partial(self._session.label, label)))
        interfaces.EPISODE_READY.server(self, partial(self._on_operator, self._session.ready))
        interfaces.EPISODE_STOP.server(self, self._on_stop)
        interfaces.MODEL_ROLLBACK.server(self, self._on_rollback)
        self.create_timer(POLL_PERIOD, self._on_time, clock=STEADY)
        Diagnostics(self, "run", self._health)
        ending.on_signal = self._on_signal
        self._show(force=True)

    def close(self) -> None:
        """Make sure that there is a report, and that all is on disk."""
        self._session.close()
        self._show(force=True)
        self._log.close()

    def _subscribe(self) -> None:
        # Each of these counts, so the readers' queues are as long as the writers'.
        self._needed = [
            interfaces.POLICY_ACTION.subscription(self, self._on_action, qos=interfaces.STREAM),
            interfaces.GUARD_STATE.subscription(self, self._on_guard, qos=interfaces.STREAM),
        ]
        interfaces.POLICY_STATUS.subscription(self, self._on_policy_status)
        interfaces.TRANSITIONS_ACK.subscription(self, self._on_acknowledgement)
        interfaces.MODEL_UPDATE.subscription(self, self._on_model)
        interfaces.LEARNER_STATUS.subscription(self, self._on_learner_status)

    # -- in ------------------------------------------------------------------------------------------------------

    def _on_action(self, message: PolicyAction) -> None:
        self._session.on_action(from_policy_action(message), message.latency_ms, time.monotonic())

    def _on_guard(self, message: GuardState) -> None:
        velocity = float64_array(message.velocity)
        record = GuardRecord(message.tick, message.flags, velocity, Mode(message.mode), message.reason)
        self._session.on_guard(record, time.monotonic())

    def _on_policy_status(self, message: PolicyStatus) -> None:
        self._session.on_policy_status(message.missed)

    def _on_acknowledgement(self, message: TransitionAck) -> None:
        self._session.on_acknowledgement(message.robot_uuid, message.epoch, message.high_water, time.monotonic())

    def _on_learner_status(self, message: LearnerStatus) -> None:
        self._session.on_learner_status(
            message.duplicates, message.model_version, message.metrics_json, time.monotonic()
        )

    def _on_model(self, message: ModelUpdateMessage) -> None:
        try:
            files = from_bundle_files(message.files)
        except BundleError as error:
            self.get_logger().error(f"model update {message.model_version[:12]} arrived damaged: {error}")
            return
        self._session.on_model(
            ModelUpdate(message.model_version, message.parent_version, message.manifest_json, files, message.trained_on)
        )

    def _on_operator(
        self, tell: Callable[[float], None], _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """A label, or that the scene is ready."""
        try:
            tell(time.monotonic())
        except SimplError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, self._session.situation().status
        return response

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop_reason = "stopped by the operator"
        response.success, response.message = True, "the episode ends now, and the run with it"
        return response

    def _on_rollback(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            version = self._session.rollback()
        except BundleError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, f"model {version} is used from the next episode on"
        self.get_logger().warning(response.message)
        return response

    def _on_signal(self) -> None:
        """On the signals' thread: taken up by the timer, so that the arm is stopped in order."""
        self._stop_reason = "interrupted by a signal"

    def _on_time(self) -> None:
        now = time.monotonic()
        if self._stop_reason:
            self._session.stop(self._stop_reason, now)
            self._stop_reason, self._started = "", True
        if not self._started and self._everybody_is_there(now):
            self._started = True
            self._session.start(now)
        self._session.on_time(now)
        self._show()
        if self._session.finished and self._end_at == -math.inf:
            self._end_at = now + LINGER
            self.get_logger().info("the run is over; report.json is written")
        if self._end_at != -math.inf and now >= self._end_at and self._exit_when_done:
            self._ending.request(FAILED if self._session.failed else OK)

    def _everybody_is_there(self, now: float) -> bool:
        missing = [client.srv_name for client, _ in self._calls.values() if not client.service_is_ready()]
        # A subscription knows its name after remapping, which the table does not.
        missing += [heard.topic_name for heard in self._needed if not self.count_publishers(heard.topic_name)]
        if missing:
            self._complete_since = None
            if now - self._created_at > self._start_wait:
                reason = f"waited {self._start_wait:g} s in vain for {', '.join(missing)}"
                self._session.stop(reason, now, failed=True)
                self._started = True
                self.get_logger().fatal(reason)
            if now - self._complained_at > 5.0:
                self._complained_at = now
                self.get_logger().warning(f"waiting for {', '.join(missing)}")
            return False
        if self._complete_since is None:
            self._complete_since = now
        return now - self._complete_since > SETTLE

    # -- out (`simpl.core.bridge_session.Wire`) --------------------------------------------------------------------

    def send(self, transition: Transition) -> None:
        """Publish a transition."""
        self._transitions.publish(to_transition(transition))

    def ask(self, request: Request, model: Path | None) -> None:
        """Call the service behind `request`; the answer comes through the executor, later."""
        client, convert = self._calls[type(request)]
        # A scene is reset for a policy to act in it: without one nobody puts everything back in vain, again and again.
        needed = [client, self._calls[BeginEpisode][0]] if isinstance(request, ResetScene) else [client]
        missing = ", ".join(one.srv_name for one in needed if not one.service_is_ready())
        if missing:
            self._session.on_silence(request, f"service {missing} is not there", time.monotonic())
            return

        def answered(future: Future[Any]) -> None:
            if future.exception() is not None:
                self._session.on_silence(request, str(future.exception()), time.monotonic())
                return
            answer = future.result()
            version = getattr(answer, "model_version", "")
            self._session.on_answer(request, answer.success, answer.message, time.monotonic(), version)

        client.call_async(convert(request, model)).add_done_callback(answered)

    def announce(self, result: EpisodeDone) -> None:
        """Publish the result of an episode."""
        fields = result._asdict() | {"subtasks_done": list(result.subtasks_done)}
        self._results.publish(EpisodeResult(**fields))

    def _health(self) -> health.Health:
        session = self._session
        return health.of_bridge(session.situation(), session.stream.pending, session.stream.resent, session.failed)

    def _show(self, *, force: bool = False) -> None:
        """Publish EpisodeState at once when something changed, and else at a calm rate."""
        now = time.monotonic()
        if not force and now - self._shown_at < POLL_PERIOD:
            return
        situation = self._session.situation()
        news = (situation.phase, situation.episode, situation.subtasks, situation.status, situation.finished)
        if not force and news == self._shown and now - self._shown_at < STATE_PERIOD:
            return
        self._shown, self._shown_at = news, now
        self._state.publish(_episode_state(situation, self.get_clock().now().nanoseconds))


def _episode_state(situation: Situation, stamp: int) -> EpisodeState:
    return EpisodeState(header=header(stamp), **situation._asdict())


def _reset_request(request: ResetScene, _: Path | None) -> ResetSceneService.Request:
    return ResetSceneService.Request(episode=request.episode, seed=request.seed)


def _begin_request(request: BeginEpisode, _: Path | None) -> BeginEpisodeService.Request:
    return BeginEpisodeService.Request(
        episode=request.episode, e=float32_field(request.e), seed=request.seed, temperature=request.temperature
    )


def _trigger(_: Request, __: Path | None) -> Trigger.Request:
    return Trigger.Request()


def _stage_request(_: StageModel, model: Path | None) -> StageModelService.Request:
    return StageModelService.Request(path=str(model.resolve()) if model is not None else "")


def _declare_plan(node: Node) -> RunPlan:
    defaults = RunPlan(DEFAULT_TASK)
    counts = {
        phase: declare(
            node, f"{phase}_episodes", defaults.episodes(phase), f"episodes of phase {phase}", between=(0, 100_000)
        )
        for phase in PHASES
    }
    return RunPlan(
        task=declare(node, "task", DEFAULT_TASK, "subtasks in order, e.g. 'microwave > kettle'"),
        seed=declare(node, "seed", 0, "of embeddings, skill noise and sensor noise", between=(0, 2**31 - 1)),
        max_steps=declare(node, "max_steps", 280, "control steps of an episode", between=(1, 1_000_000)),
        lockstep=declare(node, "lockstep", True, "simulated time waits for commands and models"),
        model_wait=declare(
            node, "model_wait", 10.0, "longest wait between episodes for a new model [s]", between=(0.0, 3600.0)
        ),
        reward=declare(node, "reward", "object_states", f"where rewards come from: {' or '.join(REWARD_SOURCES)}"),
        label_wait=declare(
            node, "label_wait", 0.0, "longest wait for a label after each episode [s]", between=(0.0, 86_400.0)
        ),
        scene=declare(node, "scene", "service", f"who puts the scene back: {' or '.join(SCENES)}"),
        temperature=declare(
            node, "temperature", 1.0, "factor on the skills' scale that fine-tuning cools down to", between=(0.0, 1.0)
        ),
        cool_over=declare(node, "cool_over", 30, "episodes of fine-tuning until it is that cool", between=(0, 100_000)),
        **counts,
    )


def _required(node: Node, name: str, description: str) -> str:
    value: str = declare(node, name, "", description)
    if not value:
        raise ConfigError(f"parameter '{name}' is empty: {description}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `bridge`."""
    return run_node(BridgeNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
