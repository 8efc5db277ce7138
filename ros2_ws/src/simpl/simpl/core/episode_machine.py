"""The episode machine: what the bridge does next, decided from events alone. No ROS, no clock, no disk.

    conditioning (e ~ N(0, I)) -> encode (e*) -> evaluation -> finetune (models swapped in between episodes) -> final

Every method takes an event and returns the commands to carry out; the answers to those come back as events. Between
two episodes: stage a model if another is wanted, reset the scene (or move the arm home and wait until somebody has),
begin; then ticks; then end, with a label if one is wanted. Whatever fails is tried again; an episode that breaks half
way (the policy was restarted, the guard stopped the arm) or is discarded is repeated under a new number. While the
guard has latched a fault or an e-stop nothing goes on; after it the arm goes home only when a person says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.runtime import RewardModel
from sim.tasks import parse_kitchen_task
from simpl.core.commands import (
    BeginEpisode,
    Command,
    Encode,
    EndEpisode,
    EpisodeDone,
    Finish,
    Hold,
    Home,
    Request,
    ResetScene,
    StageModel,
    Store,
)
from simpl.core.guard import HELD, Mode
from simpl.core.labels import Label, make_rewards
from simpl.core.model_choice import ModelChoice
from simpl.core.plan import RunPlan, Schedule
from simpl.core.policy_types import PolicyTick
from simpl.core.recorder import EpisodeRecorder, GuardRecord
from simpl.core.waiting import ANSWER_WAIT, HOME_WAIT, MOST_ABORTS, PATIENCE, RETRY, SILENCE, STOP_WAIT, State
from simpl.graph import OPERATOR
from simpl_core.errors import SimplError

log = logging.getLogger(__name__)


class EpisodeMachine:
    """See the module. Times are seconds of any steady clock; seq counts the Store commands of this machine from 1.

    Attributes:
        schedule: finished episodes, and which is next.
        e_star: (E,) mean of the task encoder after conditioning.
        recorder: of the episode under way.
        present: model version of the episode under way, between two that of the last.
        warnings: what went wrong and was got over, for the report.
        reward_model: pays where rewards are to come from one.
    """

    def __init__(
        self, plan: RunPlan, base_version: str, e_dim: int, done: Sequence[EpisodeDone] = (), last_number: int = 0
    ) -> None:
        """`done` are episodes of earlier starts of the bridge, which used numbers up to `last_number`."""
        self.plan = plan
        self.schedule = Schedule(plan, done)
        self.e_star: NDArray[np.float32] | None = None
        self.warnings: list[str] = []
        self.reward_model: RewardModel | None = None
        self.recorder: EpisodeRecorder | None = None
        self.present = base_version
        self.seq = 0
        self.state = State.IDLE
        self._e_dim = e_dim
        self._models = ModelChoice(base_version, plan.model_wait)
        self._number = last_number
        self._acting = base_version  # what the policy is believed to use in the next episode
        self._request: Request | None = None
        self._deadline = float("inf")
        self._failing_since: float | None = None
        self._retry_at: float | None = None
        self._last_tick = self._episode_start = self._label_by = 0.0
        self._aborts = self._mismatches = 0
        self._may_be_running = last_number > 0  # the policy: since an earlier start, or a BeginEpisode without success
        self._away = ""  # why the arm is not home
        self._unheard = False  # an episode broke, and the guard has said nothing since
        self._latched = ""  # why the guard holds the arm until somebody resets it
        self._rolled_back = False  # since a model was last chosen
        self._stop: Finish | None = None

    # -- what a screen shows -------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """One line for people: what is waited for."""
        if self.state is State.HELD:
            return f"waiting for guard/{'resume' if self._latched.startswith('PAUSED') else 'reset'}: {self._latched}"
        if self.state is State.READY and self._away:
            return f"the arm is not home ({self._away}): see to it, then call episode/ready to try again"
        if self.state is State.MODEL and self.warnings:
            return f"{self.state.value} ({self.warnings[-1]})"
        return self.state.value

    @property
    def version(self) -> str:
        """Model version of the episode under way, or wanted for the next."""
        return self.recorder.model_version or self._acting if self.recorder else self._wanted()

    # -- events --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """Begin, once everything needed is there."""
        return self._between(now)

    def on_action(self, action: PolicyTick, now: float) -> list[Command]:
        """A tick of the policy."""
        if self.recorder is None or action.episode != self.recorder.episode:
            return []
        self._last_tick = now
        self.recorder.on_action(action, now)
        return self._advance(self.recorder, now)

    def on_guard(self, guard: GuardRecord, now: float) -> list[Command]:
        """A record of the guard."""
        self._unheard = False
        self._latched = f"{guard.mode.name}, {guard.reason}" if guard.mode in HELD else ""
        if guard.mode in (Mode.FAULT, Mode.ESTOP) and self.state is not State.READY:
            self._away = f"it was stopped: {guard.reason}"  # kept beyond the reset, which must not set it in motion
        if self.state is State.HELD and not self._latched:
            return self._between(now)
        if self.recorder is None:
            return []
        self.recorder.on_guard(guard)
        return self._advance(self.recorder, now)

    def on_answer(self, request: Request, success: bool, message: str, now: float, version: str = "") -> list[Command]:
        """The answer to a request; answers to older requests are ignored. See `on_silence` for none."""
        if request is not self._request:
            return []
        self._request, self._deadline = None, float("inf")
        if isinstance(request, EndEpisode):
            if not success:
                log.warning("episode %d: the policy did not confirm its end: %s", request.episode, message)
            return self._ended(now)
        if isinstance(request, Home):
            return self._wait_for_ready("" if success else message)
        if not success and not isinstance(request, StageModel):
            return self._failed(request, message, now)
        if isinstance(request, StageModel):
            if not success:
                return self._refused(request, message, now)
            self._acting = request.version
            return self._between(now) if self._latched or self._rolled_back else self._reset(now)
        if isinstance(request, ResetScene):
            return self._begin(now)
        return self._begun(version, now) if isinstance(request, BeginEpisode) else []

    def on_silence(self, request: Request, reason: str, now: float) -> list[Command]:
        """Nobody answered `request`; it is made again."""
        if request is not self._request:
            return []
        if isinstance(request, EndEpisode):
            return self.on_answer(request, False, reason, now)
        self._request, self._deadline = None, float("inf")
        return self._failed(request, reason, now)

    def on_encoded(self, request: Encode, mean: NDArray[np.float32], now: float) -> list[Command]:
        """The task encoder's answer e* (E,)."""
        if request is not self._request:
            return []
        if mean.shape != (self._e_dim,) or not np.isfinite(mean).all():
            return self.on_answer(request, False, f"the task encoder gave {mean}", now)
        self._request, self._deadline, self._failing_since = None, float("inf"), None
        self.e_star = mean.astype(np.float32)
        return self._between(now)

    def on_model(self, version: str, covers: int, now: float) -> list[Command]:
        """A verified model is at hand, trained on transitions of this machine up to seq `covers`."""
        self._models.latest = version
        return self.on_learner(covers, now)

    def on_rollback(self, version: str) -> None:
        """Use `version` from the next episode on, until the learner sends a newer model."""
        self._models.latest = version
        self._rolled_back = True

    def on_label(self, label: Label, now: float) -> list[Command]:
        """The operator's verdict on the episode under way, or just over.

        Raises:
            SimplError: there is none, or it can no longer be labelled.
        """
        if self.recorder is None or self.recorder.complete or self.recorder.broken or self._stop is not None:
            raise SimplError(f"there is no episode to be labelled; now: {self.status}")
        self.recorder.label = label
        return self._advance(self.recorder, now)

    def on_ready(self, now: float) -> list[Command]:
        """The scene is as an episode finds it.

        Raises:
            SimplError: nobody has asked.
        """
        if self.state is not State.READY or self._latched:
            raise SimplError(f"nothing waits for the scene; now: {self._latched or self.status}")
        return self._ask(Home(), State.HOMING, HOME_WAIT, now) if self._away else self._begin(now)

    def on_learner(self, considered: int, now: float) -> list[Command]:
        """The learner lives and has dealt with all transitions up to `considered`, with a new model or without."""
        self._models.considered(considered)
        return self._between(now) if self.state is State.MODEL and self._models.up_to_date else []

    def on_time(self, now: float) -> list[Command]:
        """Time passes; to be called every few ms to tens of ms."""
        if self.state is State.FINISHED:
            return []
        if self._request is not None and now > self._deadline:
            return self.on_silence(self._request, "no answer", now)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            return self._between(now)
        if self.state is State.MODEL and self._models.waited_in_vain(now):
            self._warn(f"no new model within {self.plan.model_wait:g} s; going on with {self._wanted()[:12]}")
            return self._between(now)
        recorder = self.recorder
        if recorder is None:
            return []
        if self.state is State.LABEL and now > self._label_by:
            recorder.settle()
        if self.state is State.RUNNING and now - self._last_tick > SILENCE[self.plan.lockstep]:
            recorder.broken = recorder.broken or f"no tick for {now - self._last_tick:.1f} s"
        return self._advance(recorder, now)

    def request_stop(self, reason: str, now: float, *, failed: bool = False) -> list[Command]:
        """End the run as soon as the arm stands still; the episode under way is given up."""
        if self._stop is not None or self.state is State.FINISHED:
            return []
        self._stop = Finish(reason, failed)
        self._retry_at = None
        if self.state is State.ENDING:
            return []
        if self.state is State.LABEL and self.recorder is not None:
            return self._advance(self.recorder, now)
        if self._may_be_running or self.state in (State.RUNNING, State.BEGINNING, State.HOMING):
            return self._end(now)
        return self._finish()

    # -- between episodes ----------------------------------------------------------------------------------------

    def _between(self, now: float) -> list[Command]:
        self.state = State.IDLE
        if self._stop is not None:
            return self._finish()
        if self._may_be_running:
            self._may_be_running = False
            return self._end(now)
        phase = self.schedule.phase
        if self.schedule.complete:
            return self._finish()
        if self._latched:
            self.state, self._failing_since = State.HELD, None
            log.warning("%s", self.status)
            return []
        if self._unheard:  # a new one may answer the policy before it is heard here
            return self._failed(None, "it has said nothing since an episode broke", now)
        if phase != "conditioning" and self.e_star is None:
            return self._ask(Encode(), State.ENCODING, ANSWER_WAIT, now)
        if self.schedule.adapted and (phase == "final" or self.plan.lockstep) and self._models.must_wait(now):
            self.state = State.MODEL
            return []
        self._models.waited()
        self._rolled_back = False
        wanted = self._wanted()
        if wanted != self._acting:
            return self._ask(StageModel(wanted), State.STAGING, ANSWER_WAIT, now)
        return self._reset(now)

    def _wanted(self) -> str:
        return self._models.latest if self.schedule.adapted else self._models.base

    def _reset(self, now: float) -> list[Command]:
        self._number += 1
        self._episode_start = now
        if self.plan.scene == OPERATOR:
            return self._wait_for_ready(self._away) if self._away else self._ask(Home(), State.HOMING, HOME_WAIT, now)
        return self._ask(ResetScene(self._number, self.schedule.scene_seed()), State.RESETTING, ANSWER_WAIT, now)

    def _wait_for_ready(self, away: str) -> list[Command]:
        self.state, self._away, self._failing_since = State.READY, away, None
        log.warning("%s", self.status)
        return []

    def _begin(self, now: float) -> list[Command]:
        e = self.schedule.embedding(self._e_dim) if self.schedule.phase == "conditioning" else self.e_star
        if e is None or self._latched or self._rolled_back:
            return self._between(now)
        # The recorder is ready before the policy is asked: its first tick may overtake its answer.
        rewards = make_rewards(self.plan.reward, parse_kitchen_task(self.plan.task), e, self.reward_model)
        self.recorder = EpisodeRecorder(self._number, self.schedule.phase, self.plan, rewards)
        self._last_tick = now
        begin = BeginEpisode(self._number, e, self.schedule.skill_seed(), self.schedule.temperature())
        return self._ask(begin, State.BEGINNING, ANSWER_WAIT, now)

    def _begun(self, version: str, now: float) -> list[Command]:
        if version != self._acting and self._mismatches < 2:
            # A policy that was restarted has only the model it was started with.
            self._mismatches += 1
            self._acting = version
            self.recorder = None
            return self._end(now)
        if version != self._acting:
            self._warn(f"the policy acts with {version[:12]} though {self._acting[:12]} was staged")
            self._acting = version
        self._mismatches = 0
        self.present = version
        self._failing_since = None  # not sooner: a reset that works helps little while the policy does not
        self.state, self._last_tick = State.RUNNING, now
        return self._advance(self.recorder, now) if self.recorder else []

    # -- within and after an episode -----------------------------------------------------------------------------

    def _advance(self, recorder: EpisodeRecorder, now: float) -> list[Command]:
        if self._stop is not None:
            recorder.settle()  # whoever could label it has gone
        commands: list[Command] = [Store(transition) for transition in recorder.take(now)]
        self.seq += len(commands)
        if self.state is State.RUNNING and (recorder.over or recorder.broken):
            commands += self._end(now)
        elif self.state in (State.ENDING, State.LABEL) and self._request is None:
            commands += self._ended(now)
        return commands

    def _end(self, now: float) -> list[Command]:
        return self._ask(EndEpisode(self._number), State.ENDING, STOP_WAIT, now)

    def _ended(self, now: float) -> list[Command]:
        recorder = self.recorder
        if recorder is not None and recorder.undecided is not None:
            if self.state is State.LABEL:
                return []
            self._label_by = now + self.plan.label_wait if self.plan.reward != OPERATOR else float("inf")
            self.state = State.LABEL
            return [Hold(recorder.undecided)]
        if recorder is not None and recorder.over and not recorder.complete and not recorder.broken:
            return []  # the guard's last record is on its way; time is limited by the recorder
        self.recorder = None
        if recorder is not None and recorder.complete and recorder.label is not Label.DISCARD:
            return [self._record_result(recorder, now), *self._between(now)]
        if recorder is not None and self._stop is None:
            discarded = recorder.label is Label.DISCARD
            self._unheard = not (discarded or self.plan.lockstep)
            self._aborts += not (self._latched or discarded)  # then somebody looks at it before it happens again
            why = "discarded by the operator" if discarded else recorder.broken or "it did not start"
            self._warn(f"episode {self._number} is repeated: {why}")
            if self._aborts >= MOST_ABORTS:
                self._stop = Finish(f"{self._aborts} episodes in a row broke: {recorder.broken}", failed=True)
        return self._between(now)

    def _record_result(self, recorder: EpisodeRecorder, now: float) -> EpisodeDone:
        self._aborts = 0
        if self.schedule.phase in ("evaluation", "finetune"):
            self._models.learned_from = self.seq
        result = recorder.result(now - self._episode_start)
        self.schedule.add(result)
        return result

    # -- requests ------------------------------------------------------------------------------------------------

    def _ask(self, request: Request, state: State, wait: float, now: float) -> list[Command]:
        self._request, self.state, self._deadline = request, state, now + wait
        return [request]

    def _failed(self, request: Request | None, message: str, now: float) -> list[Command]:
        what = type(request).__name__ if request is not None else "hearing the guard"
        if self._failing_since is None:
            self._failing_since = now
            log.warning("%s failed, trying again: %s", what, message)
        if isinstance(request, BeginEpisode | Home):
            self.recorder = None
            self._may_be_running = True
        if now - self._failing_since > PATIENCE:
            self._stop = Finish(f"{what} failed for {PATIENCE:g} s: {message}", failed=True)
            return self._end(now) if self._may_be_running else self._finish()
        self._retry_at = now + RETRY
        self.state = State.IDLE
        return []

    def _refused(self, request: StageModel, message: str, now: float) -> list[Command]:
        self._warn(f"the policy refused model {request.version[:12]}: {message}; going on with {self._acting[:12]}")
        if self._wanted() == request.version:  # and not another one meanwhile
            self._models.refused(request.version, self._acting)
        return self._between(now)

    def _finish(self) -> list[Command]:
        self.state, self._request, self.recorder = State.FINISHED, None, None
        return [self._stop or Finish()]

    def _warn(self, text: str) -> None:
        log.warning(text)
        self.warnings.append(text)
