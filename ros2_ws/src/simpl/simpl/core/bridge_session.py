"""The bridge without its ROS shell: episode machine, journal and stream, model store and report, put together.

One thread calls every method but none waits: verifying a model and encoding the task happen on a worker thread, whose
results are taken up by `on_time`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from export.bundle import Bundle
from export.runtime import PolicyRunner, RewardModel
from sim.tasks import parse_kitchen_task
from simpl.core.commands import Command, Encode, EpisodeDone, Finish, Hold, Request, StageModel, Store
from simpl.core.episode_log import EpisodeLog, HeldStep
from simpl.core.episode_machine import EpisodeMachine
from simpl.core.episodes import EpisodeAssembler, RecordedEpisode
from simpl.core.journal import JournalError
from simpl.core.labels import Label
from simpl.core.model_store import ModelRefusedError, ModelStore, ModelUpdate, StoredModel
from simpl.core.plan import RunPlan, open_plan
from simpl.core.policy_types import PolicyTick
from simpl.core.recorder import GuardRecord
from simpl.core.report import RunFacts, StreamCounts, build_report, is_finished, write_report
from simpl.core.stream import TransitionStream
from simpl.core.transition import Transition
from simpl.graph import REWARD_MODEL
from simpl_core.episode import context_rows, to_skill_steps
from simpl_core.errors import ConfigError, SimplError

STOP_DRAIN = 4.0
"""Longest wait for the learner at the end of a run that was stopped [s]."""
SAVE_PERIOD = 1.0
"""Between two notes of what was acknowledged [s]."""

log = logging.getLogger(__name__)


class Wire(Protocol):
    """What the shell does for the session; none of it may wait."""

    def send(self, transition: Transition) -> None:
        """Publish a transition."""

    def ask(self, request: Request, model: Path | None) -> None:
        """Call the service behind `request`; its answer goes to `on_answer`, its absence to `on_silence`."""

    def announce(self, result: EpisodeDone) -> None:
        """Publish the result of an episode."""


class Situation(NamedTuple):
    """Where the run is, field by field as in EpisodeState.msg."""

    phase: str
    episode: int
    episodes_total: int
    step: int
    steps_total: int
    subtasks: int
    task: str
    model_version: str
    status: str
    wall_seconds: float
    finished: bool


class BridgeSession:
    """See the module. Times `now` are seconds of the steady clock.

    Attributes:
        finished: the report is written; nothing more will happen.
    """

    def __init__(self, plan: RunPlan, bundle: Bundle, folder: Path, wire: Wire, *, drain_wait: float = 10.0) -> None:
        """Open or continue the run in `folder`.

        Raises:
            ConfigError: the folder holds another run or a finished one. JournalError: its journal cannot be used.
            BundleError: rewards are to come from the bundle, and it has no reward decoder.
        """
        self._folder, self._wire, self._bundle = Path(folder), wire, bundle
        self._drain_wait = drain_wait
        if is_finished(self._folder / "report.json"):
            raise ConfigError(f"{self._folder} holds a finished run; choose another folder")
        reward_model = RewardModel(bundle) if plan.reward == REWARD_MODEL else None  # before anything is written
        continued = open_plan(self._folder / "bridge", plan)
        self._started = (self._folder / "bridge" / "plan.json").stat().st_mtime if continued else time.time()
        self._log = EpisodeLog(self._folder / "bridge" / "episodes.jsonl")
        self._tally = tally = self._log.tally
        self._stream = TransitionStream(self._folder / "bridge", wire.send)
        self._stream.resent = tally.resent
        self._models = ModelStore(
            self._folder / "models", bundle, self._stream.robot_uuid, tally.models_accepted, tally.models_refused
        )
        self._held = HeldStep(self._folder / "bridge" / "held.transition")
        self._recover_held()
        self._assembler = EpisodeAssembler()
        self._conditioning: list[RecordedEpisode] = []
        self._highest_episode = 0
        done = self._read_back(parse_kitchen_task(plan.task).subtasks) if continued else []
        self._machine = EpisodeMachine(plan, bundle.model_version, bundle.manifest.e_dim, done, self._highest_episode)
        self._machine.seq = self._stream.last_seq  # a held step may have been stored already
        self._machine.warnings = tally.warnings
        self._machine.reward_model = reward_model
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bridge-worker")
        self._jobs: list[tuple[Future[Any], Callable[[Future[Any], float], None]]] = []
        self._last_time: float | None = None
        self._saved_at = self._drain_until = 0.0
        self._duplicates = 0
        self._finish: Finish | None = None
        self.finished = False

    @property
    def failed(self) -> bool:
        """Whether the run ended before its end without anybody's wish."""
        return self._finish is not None and self._finish.failed

    @property
    def machine(self) -> EpisodeMachine:
        """The episode machine, to look at."""
        return self._machine

    @property
    def stream(self) -> TransitionStream:
        """The transition stream, to look at."""
        return self._stream

    # -- events --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin with the first episode; the nodes it needs should be there."""
        self._perform(self._machine.start(now), now)

    def on_action(self, tick: PolicyTick, latency_ms: float, now: float) -> None:
        """A tick of the policy; `latency_ms` from state to action."""
        if tick.active and tick.episode:  # episode 0 is the arm's way home
            self._tally.control.tick(tick.episode, latency_ms, now)
        self._perform(self._machine.on_action(tick, now), now)

    def on_guard(self, record: GuardRecord, now: float) -> None:
        """A record of the guard."""
        self._perform(self._machine.on_guard(record, now), now)

    def on_answer(self, request: Request, success: bool, message: str, now: float, version: str = "") -> None:
        """The answer to a request made through the wire."""
        self._perform(self._machine.on_answer(request, success, message, now, version), now)

    def on_silence(self, request: Request, reason: str, now: float) -> None:
        """A request made through the wire found nobody."""
        self._perform(self._machine.on_silence(request, reason, now), now)

    def on_acknowledgement(self, robot_uuid: str, epoch: int, high_water: int, now: float) -> None:
        """The learner has stored all transitions of `epoch` up to `high_water`."""
        self._stream.acknowledge(robot_uuid, epoch, high_water, now)

    def on_policy_status(self, missed: int) -> None:
        """The policy's count of late ticks."""
        self._tally.control.status(missed)

    def on_learner_status(self, duplicates: int, model_version: str, metrics_json: str, now: float) -> None:
        """How far the learner is: it need not be waited for when it has looked at an episode and made no model.

        `model_version` is its newest; while that is on its way here, it is waited for all the same.
        """
        self._duplicates = max(self._duplicates, duplicates)
        try:
            metrics = json.loads(metrics_json or "{}")
            epoch, seq = int(metrics.get("considered_epoch", 0)), int(metrics.get("considered_seq", 0))
        except (ValueError, AttributeError, TypeError):
            log.warning("a learner status without readable metrics: %.80s", metrics_json)
            return
        if epoch == self._stream.epoch and (not model_version or self._models.knows(model_version)):
            self._perform(self._machine.on_learner(seq, now), now)

    def on_model(self, update: ModelUpdate) -> None:
        """A model from the learner: verified aside, staged before the next episode that may use it."""
        self._jobs.append((self._worker.submit(self._models.offer, update), self._model_checked))

    def rollback(self) -> str:
        """Go back to the model before the present one; returns its version. Raises BundleError if there is none."""
        model = self._models.rollback(self._machine.present)
        self._machine.on_rollback(model.version)
        return model.version

    def label(self, label: Label, now: float) -> None:
        """The operator's verdict; raises SimplError where there is nothing to be judged."""
        self._perform(self._machine.on_label(label, now), now)

    def ready(self, now: float) -> None:
        """The scene was put back; raises SimplError if nobody waits for it."""
        self._perform(self._machine.on_ready(now), now)

    def stop(self, reason: str, now: float, *, failed: bool = False) -> None:
        """End the run cleanly and soon; the report says that it was interrupted, and why."""
        self._perform(self._machine.request_stop(reason, now, failed=failed), now)

    def on_time(self, now: float) -> None:
        """To be called every 10 to 50 ms."""
        if self.finished:
            return
        if self._last_time is not None and self._finish is None:
            phase, seconds = self._machine.schedule.phase, self._tally.phase_seconds
            seconds[phase] = seconds.get(phase, 0.0) + now - self._last_time
        self._last_time = now
        for job in [job for job in self._jobs if job[0].done()]:
            self._jobs.remove(job)
            job[1](job[0], now)
        self._perform(self._machine.on_time(now), now)
        self._stream.poll(now)
        if now - self._saved_at > SAVE_PERIOD:
            self._saved_at = now
            self._stream.save()
        if self._finish is not None and (not self._stream.pending or now > self._drain_until):
            self._conclude(self._finish)

    def situation(self) -> Situation:
        """For a person or a screen."""
        machine, plan, schedule = self._machine, self._machine.plan, self._machine.schedule
        recorder = machine.recorder
        total = plan.episodes(schedule.phase)
        status = machine.status
        if self._finish is not None:
            status = self._finish.reason or ("finished" if self.finished else "handing over the last transitions")
        return Situation(
            phase=schedule.phase,
            episode=min(schedule.index + 1, total),
            episodes_total=total,
            step=recorder.steps if recorder else 0,
            steps_total=plan.max_steps,
            subtasks=recorder.rewards.completed if recorder else 0,
            task=plan.task,
            model_version=machine.version,
            status=status,
            wall_seconds=time.time() - self._started,
            finished=self.finished,
        )

    def close(self) -> None:
        """Whatever happened: write a report if there is none yet, flush the journal."""
        if not self.finished:
            self._conclude(self._finish or Finish("the bridge was stopped", failed=True))
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._stream.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _perform(self, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, Store):
                self._store(command.transition, now)
            elif isinstance(command, Hold):
                self._held.keep(replace(command.transition, robot_uuid=self._stream.robot_uuid))
            elif isinstance(command, EpisodeDone):
                log.info(
                    "%s %d: %d of %d subtasks in %d steps",
                    command.phase, self._machine.schedule.count(command.phase), command.score,
                    len(self._machine.plan.task.split(">")), command.steps,
                )  # fmt: skip
                self._wire.announce(command)
                self._note(command)
            elif isinstance(command, Finish):
                self._finish = command
                # Whoever wants the run to stop may soon insist: the report is there first, and mended after the wait.
                self._drain_until = now + (min(self._drain_wait, STOP_DRAIN) if command.reason else self._drain_wait)
                if command.reason:
                    self._write_report(command)
            elif isinstance(command, Encode):
                self._jobs.append((self._worker.submit(self._encode), self._encoded(command)))
            else:
                path = self._models.path(command.version) if isinstance(command, StageModel) else None
                self._wire.ask(command, path)

    def _store(self, transition: Transition, now: float) -> None:
        try:
            named = self._stream.append(transition, now)
        except JournalError as error:
            # What cannot be recorded must not go on: the arm is stopped rather than the data lost.
            log.error("%s", error)
            self.stop(str(error), now, failed=True)
            return
        self._held.drop()
        if named.phase == "conditioning":
            self._collect(named)

    def _recover_held(self) -> None:
        """An earlier start was killed while it waited for a label: the step is stored, the episode has no end."""
        held = self._held.take()
        place = held and (held.episode, held.step)
        if held is not None and all((one.episode, one.step) != place for one in self._stream.transitions()):
            self._stream.append(replace(held, terminated=False, truncated=False), 0.0)
        self._held.drop()

    def _note(self, result: EpisodeDone) -> None:
        self._tally.resent = self._stream.resent
        try:
            self._log.append(result)
        except OSError as error:  # the journal decides whether the run can go on
            log.warning("the counts of episode %d are not kept for another start: %s", result.episode, error)

    def _collect(self, transition: Transition) -> RecordedEpisode | None:
        complete = self._assembler.add(transition)
        if complete is not None and complete.phase == "conditioning":
            self._conditioning.append(complete)
        return complete

    def _encode(self) -> np.ndarray:
        rows = [context_rows(to_skill_steps(one.episode)) for one in self._conditioning]
        return PolicyRunner(self._bundle).encode(np.concatenate(rows)).mean

    def _encoded(self, request: Encode) -> Callable[[Future[Any], float], None]:
        def take(job: Future[Any], now: float) -> None:
            try:
                self._perform(self._machine.on_encoded(request, job.result(), now), now)
            except SimplError as error:
                self._perform(self._machine.on_silence(request, str(error), now), now)

        return take

    def _model_checked(self, job: Future[Any], now: float) -> None:
        try:
            model: StoredModel | None = job.result()
        except ModelRefusedError as error:
            if not error.repeated:
                log.warning("%s", error)
                self._machine.warnings.append(str(error))
            return
        if model is not None and model.version not in self._models.refused:  # rolled back since it was checked
            covers = model.trained_on[1] if model.trained_on[0] == self._stream.epoch else 0
            self._perform(self._machine.on_model(model.version, covers, now), now)

    def _read_back(self, subtasks: tuple[str, ...]) -> list[EpisodeDone]:
        """Finished episodes of earlier starts, from the journal: the only record there is of them."""
        done = []
        for transition in self._stream.transitions():
            self._highest_episode = max(self._highest_episode, transition.episode)
            complete = self._collect(transition)
            if complete is not None:
                done.append(self._log.results.get(complete.key[2]) or _result_of(complete, subtasks))
        if done:
            log.warning("going on after %d episodes of an earlier start", len(done))
        return done

    def _conclude(self, finish: Finish) -> None:
        if self._stream.pending:
            log.warning("%d transitions are in the journal but not acknowledged by a learner", self._stream.pending)
        self._write_report(finish)
        self.finished = True

    def _write_report(self, finish: Finish) -> None:
        stream, self._tally.resent = self._stream, self._stream.resent
        counts = StreamCounts(stream.sent, stream.acknowledged, stream.pending, self._duplicates)
        facts = RunFacts(
            bundle_version=self._bundle.model_version,
            robot_uuid=stream.robot_uuid,
            wall_seconds=time.time() - self._started,
            bridge_starts=stream.epoch,
            interrupted=bool(finish.reason),
            reason=finish.reason,
        )
        report = build_report(self._machine.plan, self._machine.schedule.results, counts, self._tally, facts)
        try:
            write_report(self._folder / "report.json", report)
        except OSError as error:  # the arm stands by now; what the report would say is in the journal
            log.error("report.json cannot be written: %s", error)


def _result_of(recorded: RecordedEpisode, subtasks: tuple[str, ...]) -> EpisodeDone:
    """From transitions alone: the bridge was killed between the last of them and its note."""
    episode, score = recorded.episode, recorded.episode.score
    return EpisodeDone(
        episode=recorded.key[2],
        phase=recorded.phase,
        score=score,
        steps=len(episode),
        model_version=str(episode.header["model_version"]),
        success=int(score) == len(subtasks),
        guard_interventions=0,
        wall_seconds=float(episode.time_stamps[-1] - episode.time_stamps[0]),
        subtasks_done=subtasks[: int(score)],
    )
