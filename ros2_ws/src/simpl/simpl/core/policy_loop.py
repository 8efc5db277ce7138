"""The control loop of the policy: one tick, its episode, and when the next tick is due. No ROS, no disk, no network.

Two clocks drive it. In real time the loop ticks on absolute deadlines of the steady clock with the newest state there
is (`core/phase.py` leads them behind the states' arrivals). In lockstep it ticks once for each new stamp that joints
and objects share, as fast as the plant answers.

Where an action lasts several control periods the ticks between are interpolated. An episode ends between two actions.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from simpl.core.policy_types import (
    NOTHING,
    Decision,
    Episode,
    FloatArray,
    LoadedModel,
    LoopSettings,
    LoopStatus,
    PolicyTick,
    Settling,
    Window,
)
from simpl.core.robot_state import RobotState, Snapshot
from simpl.core.tick_lock import TickLock
from simpl_core.errors import ConfigError, SimplError

__all__ = ["LoadedModel", "LoopSettings", "LoopStatus", "PolicyLoop", "PolicyTick"]

_LATE = 0.5  # periods; a tick later than this counts as missed
_LOCKSTEP_POLL = 0.05  # longest sleep between looks at deadlines in lockstep [s]


class PolicyLoop:
    """Ticks a policy on its own thread.

    `stage`, `begin_episode` and `end_episode` are called from other threads; a lock keeps them out of a tick, and they
    raise SimplError when a tick hangs.

    Args:
        state: written by the receiving thread.
        publish: sends a tick; called on the loop's thread, must not block.
        settings: how to tick.
        on_failure: told once, on the loop's thread, when a tick raised; the loop has then ended.
        now: steady clock [s].
        shift: in real time, asked after each tick: how much later than a period after it the next one is [s].
    """

    def __init__(
        self,
        state: RobotState,
        publish: Callable[[PolicyTick], None],
        settings: LoopSettings,
        on_failure: Callable[[Exception], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        shift: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._state = state
        self._publish = publish
        self._settings = settings
        self._on_failure = on_failure
        self._now, self._shift = now, shift
        self._lock = TickLock(settings.hang_timeout, now)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._model: LoadedModel | None = None
        self._staged: LoadedModel | None = None
        self.previous: LoadedModel | None = None
        """The model before the last swap, kept so that a rollback needs no loading."""
        self._episode: Episode | None = None
        self._settling: Settling | None = None
        self._failure: Exception | None = None
        self._waiters: list[Future[bool]] = []
        self._outcome, self._reason = "idle", ""
        self._ticks = 0
        self._missed = 0
        self._latencies = Window()
        self._starts = Window()

    # -- from the service thread ---------------------------------------------------------------------------------

    def stage(self, model: LoadedModel) -> None:
        """Let `model`, loaded and warm, act from the next episode on.

        Raises:
            SimplError: see `LoopSettings.check`.
        """
        self._settings.check(model)
        with self._lock:
            self._staged = model

    def model(self, version: str) -> LoadedModel | None:
        """The acting, staged or previous model of that version, if it is one of them."""
        with self._lock:
            kept = (self._model, self._staged, self.previous)
            return next((model for model in kept if model is not None and model.version == version), None)

    def begin_episode(self, number: int, e: FloatArray, seed: int, temperature: float) -> str:
        """Swap a staged model in and start ticking.

        Args:
            number: of the episode, copied into every tick.
            e: task embedding (E,).
            seed: of the skill noise.
            temperature: factor on the scale of the skills; 0 takes their mean.

        Returns:
            The model version that acts.

        Raises:
            SimplError: the loop has failed or has no model, an episode is running, or `e` is unusable.
        """
        with self._lock:
            self._check_free()
            model = self._staged or self._model
            if model is None:
                raise SimplError("no model is loaded")
            e = np.array(e, dtype=np.float32)
            if e.shape != (model.e_dim,) or not np.isfinite(e).all():
                raise SimplError(f"the task embedding has shape {e.shape}, wanted {model.e_dim} finite numbers")
            # Before anything is swapped: a model that refuses leaves the old one in place.
            model.runner.begin_episode(e, seed, temperature)
            if model is not self._model:
                self.previous, self._model = self._model, model
            self._staged = None
            self._settle(False)
            self._episode = Episode(number, e, model, self._settings.max_steps)
            self._outcome, self._reason = "active", ""
        self._wake()
        return model.version

    def move(self, mover: LoadedModel) -> Future[None]:
        """Let `mover` act between two episodes, as episode 0, until it has nothing more to do or is ended.

        Returns:
            Done once the arm was told to stop.

        Raises:
            SimplError: the loop has failed, or an episode is running.
        """
        with self._lock:
            self._check_free()
            mover.runner.begin_episode(NOTHING, 0)
            self._settle(False)
            self._episode = episode = Episode(0, NOTHING, mover, sys.maxsize)
            self._outcome, self._reason = "active", ""
        self._wake()
        return episode.over

    def _check_free(self) -> None:
        if self._failure is not None:
            raise SimplError(f"the control loop has failed: {self._failure}")
        if self._episode is not None:
            what = f"episode {self._episode.number}" if self._episode.number else "the way home"
            raise SimplError(f"{what} is still running; end it first")

    def end_episode(self, reason: str = "") -> Future[bool]:
        """Send the terminal tick; `status` tells the reason, if there is one.

        Returns:
            Done once the arm was told to stop, and in lockstep once the plant has answered, so that a reset
            sent afterwards cannot be overtaken by the last command. False: it did not answer in time.
        """
        ended: Future[bool] = Future()
        with self._lock:
            if self._episode is not None:
                self._waiters.append(ended)
                if not self._episode.ending:
                    self._episode.ending, self._reason = True, reason
                    self._episode.end_by = self._now() + self._settings.settle_timeout
            elif self._settling is not None:
                self._settling.waiting.append(ended)
            else:
                ended.set_result(True)
        self._wake()
        return ended

    def status(self) -> LoopStatus:
        """Health of the loop right now. Asked without the lock: a tick that hangs is what it must tell of."""
        p50, p99 = (1e3 * self._latencies.quantile(level) for level in (0.5, 0.99))
        model, staged, busy = self._model, self._staged, self._lock.held()
        failure = f"a tick has been going on for {busy:.1f} s" if busy > self._lock.patience else self._failure
        return LoopStatus(
            state="error" if failure else self._outcome,
            model_version=model.version if model else "",
            staged_version=staged.version if staged else "",
            ticks=self._ticks,
            missed=self._missed,
            rate_hz=self._starts.rate(self._now()),
            latency_p50=p50,
            latency_p99=p99,
            reason=str(failure or self._reason),
            arithmetic=model.arithmetic if model else "",
        )

    def busy(self) -> float:
        """How long the tick under way has taken so far [s]; 0 between ticks."""
        return self._lock.held()

    # -- the loop ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tick on a thread of its own until `stop`.

        Raises:
            ConfigError: it runs already.
        """
        if self._thread is not None:
            raise ConfigError("the control loop runs already")
        self._stopping.clear()
        self._thread = threading.Thread(target=self.run, name="policy-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; an episode under way gets its terminal tick first, so the arm is told to stop."""
        self._stopping.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout=2.0 + 1.0 / self._settings.rate_hz)
            self._thread = None

    def run(self) -> None:
        """Tick until `stop` or a failure; the body of the thread."""
        try:
            if self._settings.lockstep:
                self._run_lockstep()
            else:
                self._run_real_time()
            self._abandon()
        except Exception as error:  # noqa: BLE001  whatever it was, the arm must be told to stop and somebody told why
            self._fail(error)

    def _run_lockstep(self) -> None:
        while not self._stopping.is_set():
            with self._state.changed:
                self._state.changed.wait_for(self._due, timeout=_LOCKSTEP_POLL)
            self.tick()

    def _run_real_time(self) -> None:
        period = 1.0 / self._settings.rate_hz
        deadline = self._now()
        while not self._stopping.is_set():
            time.sleep(max(0.0, deadline - self._now()))
            late, skipped = self._now() - deadline, 0
            if late > _LATE * period:
                # No burst to catch up: what was due in the past is skipped, and counted.
                skipped = int(late / period)
                self._missed += 1 + skipped if self._episode is not None else 0
                deadline += skipped * period
            self.tick(skipped)
            deadline += period + self._shift()

    def _due(self) -> bool:
        """Whether a lockstep tick has something to do."""
        if self._stopping.is_set():
            return True
        stamp = self._state.paired_stamp()
        episode, settling = self._episode, self._settling
        if episode is not None:
            return stamp is not None and stamp != episode.last_stamp
        return settling is not None and stamp != settling.stamp

    def tick(self, skipped: int = 0) -> None:
        """One look at the state: act, end the episode, or nothing; `skipped` periods went by without one."""
        now = self._now()
        with self._lock:
            episode, lockstep = self._episode, self._settings.lockstep
            if episode is None:
                self._check_settled(now)
                return
            snapshot = self._state.paired() if lockstep else self._state.newest()
            fresh = snapshot is not None and (
                snapshot.stamp != episode.last_stamp
                if lockstep
                else now - snapshot.oldest <= self._settings.state_timeout
            )
            due = episode.commands.skip(skipped)
            if episode.ending and (due or not fresh) and (fresh or not lockstep or now >= episode.end_by):
                self._finish(episode, snapshot, now)
            elif not fresh or snapshot is None:
                self._wait(episode, now)
            elif due and episode.step >= episode.max_steps:
                self._finish(episode, snapshot, now)
            else:
                self._act(episode, snapshot, now, due)

    def _act(self, episode: Episode, snapshot: Snapshot, now: float, due: bool) -> None:
        """The next command of the action under way, or the first one of a new action."""
        episode.substep += 1
        if due:
            episode.decision = episode.model.runner.act(snapshot.observation)
            if episode.decision is None:
                self._finish(episode, snapshot, now)
                return
            episode.commands.aim(episode.decision.action.astype(np.float64) * episode.model.action_scale)
            episode.step, episode.substep = episode.step + 1, 0
        episode.last = self._send(episode, snapshot, now, episode.decision, episode.commands.next())
        episode.sent_at = now

    def _wait(self, episode: Episode, now: float) -> None:
        """There is no new state to act on."""
        if not self._settings.lockstep:
            self._missed += 1
        elif episode.last is not None and now - episode.sent_at >= self._settings.resend_after:
            episode.sent_at = now
            self._publish(episode.last)

    def _finish(self, episode: Episode, snapshot: Snapshot | None, now: float) -> None:
        """Terminal tick: the observation after the last action, and zero velocity."""
        if snapshot is not None:
            self._send(episode, snapshot, now, None, np.zeros_like(episode.model.action_scale))
        self._episode = None
        episode.over.set_result(None)
        self._outcome = "terminal"
        waiting, self._waiters = self._waiters, []
        stamp = snapshot.stamp if snapshot is not None else -1
        self._settling = Settling(stamp, now + self._settings.settle_timeout, waiting)
        if not self._settings.lockstep or snapshot is None:
            self._settle(True)

    def _send(
        self,
        episode: Episode,
        snapshot: Snapshot,
        now: float,
        decision: Decision | None,
        velocity: NDArray[np.float64],
    ) -> PolicyTick:
        self._ticks += 1
        self._starts.add(now)
        tick = PolicyTick(
            stamp=snapshot.stamp,
            tick=self._ticks,
            episode=episode.number,
            step=episode.step - (decision is not None),
            observation=snapshot.observation,
            z=decision.z if decision else NOTHING,
            e=episode.e,
            skill_start=bool(decision and decision.skill_start and not episode.substep),
            action=decision.action if decision else np.zeros(velocity.size, dtype=np.float32),
            velocity=velocity,
            model_version=episode.model.version,
            latency=1e3 * (self._now() - snapshot.received),
            active=decision is not None,
            substep=episode.substep if decision else 0,
        )
        self._publish(tick)
        if decision is not None:  # a terminal tick may report an observation that is old on purpose
            self._latencies.add(self._now() - snapshot.received)
        return tick

    def _check_settled(self, now: float) -> None:
        settling = self._settling
        if settling is None:
            return
        stamp = self._state.paired_stamp()
        if stamp is not None and stamp != settling.stamp:
            self._settle(True)
        elif now >= settling.until:
            self._settle(False)

    def _settle(self, answered: bool) -> None:
        settling, self._settling = self._settling, None
        for waiting in settling.waiting if settling else ():
            waiting.set_result(answered)

    def _abandon(self) -> None:
        """The thread ends: an episode still running gets its terminal tick at once."""
        with self._lock:
            if self._episode is not None:
                newest = self._state.newest()
                self._finish(self._episode, newest, self._now())
            self._settle(False)
            self._outcome = "idle"

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._failure = error
            try:
                self._abandon()
            except Exception as second:  # noqa: BLE001  publishing itself is broken; the guard's watchdog stops the arm
                error.__context__ = second
            for waiting in self._waiters:
                waiting.set_result(False)
            if self._episode is not None:
                self._episode.over.set_exception(error)
        self._on_failure(error)

    def _wake(self) -> None:
        with self._state.changed:
            self._state.changed.notify_all()
