"""The policy's watch over the guard: when it falls silent, zeros in its place, and word of it."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable

import numpy as np
from rclpy.publisher import Publisher
from simpl_interfaces.msg import GuardState

from simpl import interfaces
from simpl.conversions import to_velocity_command
from simpl.core.guard import Flags, Mode
from simpl.core.guard_watch import LOOK, GuardWatch, next_word
from simpl.core.profile import RobotProfile
from simpl.nodes.mailbox import Recipient

_AFTER_PAUSE = 0.02  # for words that are on their way, where we were away ourselves [s]
_AWAY = 0.5  # who has not looked for so long cannot say that the guard was silent [s]
_DISCOVERY = 0.03  # until the controller hears somebody new [s]
_KEPT = 1.0  # a publisher that was not needed, for the next time the guard is late [s]
_ZEROS_EVERY = 0.02  # [s]
_ZEROS_FOR = 2.0  # a controller that has not heard by then never will [s]
_ZEROS_AT_LEAST = 0.3  # before who says them may end: discovery takes its time [s]


class Takeover:
    """Hears the guard, and stops the arm when nothing is heard; on a thread of its own, which waits for no callback.

    A velocity controller goes on with its last command, so somebody must end it. The publisher exists only from when
    the guard's word is late to its return: while the guard answers it is the only one. A trajectory ends at rest by
    itself.

    Args:
        node: the policy.
        profile: of the robot.
        patience: see `GuardWatch`.
    """

    def __init__(self, node: Recipient, profile: RobotProfile, patience: float) -> None:
        self.watch = GuardWatch(patience)
        self._node, self._period, self._patience = node, profile.period, patience
        self._zeros = to_velocity_command(np.zeros(len(profile.joints)))
        self._takes_velocities = profile.command.interface == "velocity"
        self._publisher: Publisher | None = None
        self._words = node.mailbox(interfaces.GUARD_STATE)
        self._made_at = self._until = self._said_at = self._looked_at = self._back_at = -math.inf
        self._waits = self._guard_ended = False
        self._outcome = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, on_failure: Callable[[], object]) -> None:
        """Look until `close`; `on_failure` is told, on our thread, when that is impossible."""
        self._thread = threading.Thread(target=self._run, args=(on_failure,), name="takeover", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def outcome(self) -> str:
        """Why the episode is over, once; else empty."""
        outcome = self._outcome
        if outcome:  # else our thread may say one in this very moment, which must not be wiped away
            self._outcome = ""
        return outcome

    def may_end(self) -> bool:
        """Whether nobody needs us: the guard has the arm at rest, or had when it ended, or has been stood in for."""
        if self._stands_in:
            return time.monotonic() > self._until - _ZEROS_FOR + _ZEROS_AT_LEAST
        return self._guard_ended or not self._takes_velocities or not self.watch.waits

    def look(self) -> None:
        """Hear the guard; take over, or let go."""
        now = time.monotonic()
        away, self._looked_at = now - self._looked_at, now
        late = away > self._patience
        if away > _AWAY:
            self._back_at = now
        for message, _ in self._words.news():
            self._on_guard(message)
            break
        # Where we were away ourselves the guard's words may be on their way: once, they are waited for.
        self._waits = late and not self._waits and not self._stands_in and self.watch.silent(now)
        if self._waits:
            return
        if self._takes_velocities:
            self._stand_in(now)
        if self.watch.gives_up(now, self._back_at):
            self._outcome = "the guard does not answer"

    @property
    def _stands_in(self) -> bool:
        return self._until > -math.inf

    def _stand_in(self, now: float) -> None:
        silence = self.watch.silence(now)
        if self._publisher is None and silence > max(0.0, self._patience - _DISCOVERY):
            # Before it is known whether it is needed: whoever is to hear it must find it first.
            self._publisher, self._made_at = interfaces.COMMANDS.publisher(self._node), now
        begins = self.watch.silent(now) and not self._stands_in
        if begins:
            self._until = now + _ZEROS_FOR
        if self._publisher is not None and self._stands_in and now < self._until:
            self._say_zeros(self._publisher, now)
        elif self._stands_in or (not silence and now > self._made_at + _KEPT):
            self._let_go()
        if begins:  # after the zeros: who reads our log may have stopped reading
            self._node.get_logger().error(f"the guard has been silent for {silence:.3f} s: zeros in its place")

    def _say_zeros(self, publisher: Publisher, now: float) -> None:
        if now - self._said_at >= _ZEROS_EVERY:
            self._said_at = now
            publisher.publish(self._zeros)

    def _on_guard(self, message: GuardState) -> None:
        due = math.inf
        self._guard_ended = bool(message.flags & Flags.SHUTDOWN) and not any(message.velocity)
        if any(message.velocity):
            due = time.monotonic() + next_word(self._period, slowing=message.mode != Mode.RUNNING)
        self.watch.heard(message.reason if message.flags & Flags.STALE_STATE else "", due, message.tick)
        if self._stands_in:
            self._let_go()

    def _let_go(self) -> None:
        self._until = self._said_at = -math.inf
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None

    def _run(self, on_failure: Callable[[], object]) -> None:
        try:
            while not self._over.wait(_AFTER_PAUSE if self._waits else LOOK):
                self.look()
        except Exception:  # noqa: BLE001  nobody would stop the arm of a dead guard any more
            self._node.get_logger().fatal(f"the guard cannot be watched:\n{traceback.format_exc()}")
            on_failure()
