"""A graph by the wall clock, set in motion for a fault: simulated arm, guard, policy, bridge, and a learner if wanted.

What happened is told by listeners of the stage's own on the graph's topics and, afterwards, by the audit of the files.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simpl import interfaces as topics
from simpl.core.audit import Audit, audit_run, read_plant
from simpl.core.guard import Flags, Mode
from simpl.core.journal import read_records
from simpl.core.transition import unpack
from simpl.faults.places import Wire
from simpl.faults.rig import Log, RosRig, wait_for
from simpl.faults.scenario import UnexpectedError
from simpl.front.preflight import shipped_bundle

PATIENCE = 90.0
"""Longest wait for what is expected [s]: machines are slow and busy, and a time is told anyhow."""
START_PATIENCE = 300.0
"""The same for a graph that starts, and for a learner, which loads PyTorch first [s]."""
HOLD = 0.5
"""Zeros that last so long count as a stop [s]."""
MOVES = 0.01
"""A faster joint moves [rad/s, m/s]."""
STEPS = 250
"""Control steps of an episode: 20 s."""
_NEVER = ("altered", "unknown", "gaps", "invented", "unfounded")  # numbers of the audit


class Stage:
    """See the module.

    Attributes:
        rig: the processes.
        run: folder of the run.
        bundle: that acts.
        commands: everything on the command topic.
        guard: everything the guard says of it.
        actions: everything the policy wants.
        struck: the fault was done.
        time_to_zero: of the newest stop [s].
        audit: of the run, once it was made.
        unheard: commands, from the first that moves the arm on, that we heard and the arm did not.
        wire: to a second machine, for a scenario that needs one.
        figures: what a scenario has measured, by name; the unit ends the name.
    """

    def __init__(self, folder: Path, domain: int | None = None, wire: Wire | None = None, portion: float = 1.0) -> None:
        """Nothing is started yet; files go below `folder`; `portion` is for `part_of`."""
        self.wire = wire
        self.figures: dict[str, float] = {}
        self._portion = portion
        self.run = folder / "run"
        self.logs = folder / "logs"
        for each in (self.run, self.logs):
            each.mkdir(parents=True, exist_ok=True)
        self.bundle = shipped_bundle()
        self.rig = RosRig(domain, self.logs)
        self.commands = self.rig.listen(topics.COMMANDS, qos=topics.STREAM)
        self.guard = self.rig.listen(topics.GUARD_STATE)
        self.actions = self.rig.listen(topics.POLICY_ACTION, qos=topics.STREAM)
        self._learner_said = self.rig.listen(topics.LEARNER_STATUS)
        self.time_to_zero: float | None = None
        self.audit: Audit | None = None
        self.unheard = 0
        self._skipped = 0
        self._learns = False
        self.struck = False
        self._struck_at = 0.0
        self._struck: dict[int, int] = {}

    def part_of(self, count: float, least: float = 1.0) -> float:
        """So many kills, seconds, swaps of a scenario of endurance are to be done, of `count` in all."""
        return max(least, count * self._portion)

    # -- the graph -------------------------------------------------------------------------------------------------

    def start_robot(
        self,
        *,
        episodes: int = 3,
        finetune: int = 0,
        steps: int = STEPS,
        arm: dict[str, str] | None = None,
        policy: str = "",
        **any_: Any,
    ) -> None:
        """Arm, guard, policy and bridge.

        Args:
            episodes: of conditioning.
            finetune: episodes of fine-tuning after them; a run has no others.
            steps: of each.
            arm: remappings of the arm, to put something between it and the others.
            policy: module that stands in for the policy's own.
            any_: further arguments of `RosRig.start` for each of them.
        """
        self._plan = {"conditioning_episodes": episodes, "finetune_episodes": finetune, "max_steps": steps}
        self.rig.start("arm_sim", remap=arm, output_folder=self.run / "plant", **any_)
        self.start_guard(**any_)
        self.start_policy(module=policy, **any_)
        self.start_bridge(**any_)

    def start_guard(self, **any_: Any) -> None:
        """The guard, for the first time or again."""
        self.rig.start("guard", latch_file=self.run / "guard" / "held.json", **any_)

    def start_policy(self, **any_: Any) -> None:
        """The policy, for the first time or again."""
        self.rig.start("policy", bundle=self.bundle, max_steps=self._plan["max_steps"], **any_)

    def start_bridge(self, **any_: Any) -> None:
        """The bridge, for the first time or again."""
        none = {f"{phase}_episodes": 0 for phase in ("evaluation", "final")}
        books = {"bundle": self.bundle, "run_folder": self.run, "lockstep": False}
        self.rig.start("bridge", **{**books, **none, **self._plan, **any_})

    def start_learner(self, **any_: Any) -> None:
        """A learner, for the first time or again; waits until it is ready. Start it before the bridge."""
        self._learns = True
        heard = len(self._learner_said)
        self.rig.start("learner", bundle=self.bundle, run_folder=self.run, preset="small", **any_)
        wait_for(lambda: len(self._learner_said) > heard, START_PATIENCE, "the learner does not come up")

    def wait_for_motion(self, step: int = 15) -> None:
        """Until the arm moves, in the middle of a skill, `step` steps or more into an episode."""
        start = len(self.actions)

        def mid_skill(action: Any) -> bool:
            return action.active and action.episode > 0 and action.step >= step and action.step % 10 in (3, 4, 5, 6)

        try:
            self.actions.wait(mid_skill, start=start, patience=START_PATIENCE)
            start = len(self.commands)
            self.commands.wait(moves, start=start, patience=PATIENCE)
        except TimeoutError as error:
            last = self.guard[-1].reason if self.guard else "the guard has said nothing"
            raise TimeoutError(f"the arm does not move ({last})") from error

    def signal(self, node: str, number: int) -> None:
        """Send a signal to a node; one that is killed is forgotten."""
        if number == signal.SIGKILL:
            self.rig.finish(node, number)
        else:
            self.rig.processes[node].send_signal(number)

    def set_in_motion(self, **how: Any) -> None:
        """Start the robot, see `start_robot`, and wait until the arm moves."""
        self.start_robot(**how)
        self.wait_for_motion()

    # -- the fault and what follows ----------------------------------------------------------------------------------

    def strike(self, fault: Callable[[], object]) -> None:
        """Do it, and count time and messages from now on."""
        self._struck = {id(log): len(log) for log in (self.commands, self.guard, self.actions)}
        self._struck_at, self.struck = time.monotonic(), True
        fault()

    def since(self, log: Log) -> list[Any]:
        """What was heard since the fault."""
        return list(log)[self._struck[id(log)] :]

    def stops(self) -> float:
        """Wait until the arm is commanded zero and stays so; the time from the fault to the first of the zeros [s].

        Raises:
            TimeoutError: it goes on, or nothing is commanded at all.
        """
        found: list[float] = []

        def stopped() -> bool:
            found[:] = self._zero_since()
            return bool(found) and time.monotonic() - found[0] > HOLD

        wait_for(stopped, PATIENCE, "the arm was never commanded to stop")
        self.time_to_zero = found[0] - self._struck_at
        return self.time_to_zero

    def _zero_since(self) -> list[float]:
        """When the zeros began that are still the last word; empty if they are not, or nothing was said."""
        start = self._struck[id(self.commands)]
        times, words = self.commands.times[start:], list(self.commands)[start:]
        first: list[float] = []
        for at, word in zip(times, words, strict=False):
            if any(word.data):
                first = []
            elif not first:
                first = [at]
        return first

    def stays_stopped(self, seconds: float = 1.0) -> None:
        """For so long nothing but zeros is commanded."""
        heard = len(self.commands)
        time.sleep(seconds)
        if any(any(word.data) for word in list(self.commands)[heard:]):
            raise UnexpectedError("the arm was commanded to move again")

    def goes_on(self, seconds: float = 0.0) -> None:
        """Wait until the arm is commanded to move `seconds` or more after the fault."""
        due = self._struck_at + seconds

        def moved() -> bool:
            return any(at > due and moves(word) for at, word in zip(self.commands.times, self.commands, strict=False))

        wait_for(moved, PATIENCE + seconds, "the arm does not go on")

    def moves_again(self) -> None:
        """Wait for a command that moves the arm, from now on."""
        self.strike(lambda: None)
        self.goes_on()

    def recovers(self) -> None:
        """Wait until the arm moves again; then the books."""
        self.moves_again()
        self.close_books()

    def guard_says(self, flag: Flags, mode: Mode | None = None) -> str:
        """Wait for a word of the guard since the fault with `flag`; its reason."""

        def wanted(word: Any) -> bool:
            return bool(word.flags & flag) and mode in (None, word.mode)

        try:
            start = self._struck[id(self.guard)]
            return str(self.guard.wait(wanted, start=start, patience=PATIENCE).reason)
        except TimeoutError as error:
            last = self.guard[-1].reason if self.guard else "nothing"
            raise TimeoutError(f"the guard never says {flag.name}; its last word: {last}") from error

    def refuses_reset(self) -> str:
        """The guard's reason not to leave a latched stop while its cause is there."""
        answer = self.rig.call(topics.GUARD_RESET)
        if answer.success:
            raise UnexpectedError("guard/reset was granted while the fault was there")
        return str(answer.message)

    def reset(self) -> None:
        """Leave a latched stop, as soon as the guard lets us."""
        wait_for(lambda: bool(self.rig.call(topics.GUARD_RESET).success), PATIENCE, "guard/reset is refused for ever")

    # -- the books -----------------------------------------------------------------------------------------------------

    def finish_run(self) -> None:
        """Wait for the end of the run: the bridge leaves with status 0 when all is handed over."""
        process = self.rig.processes["bridge"]
        wait_for(lambda: process.poll() is not None, 2 * PATIENCE, "the run does not come to its end")
        if process.returncode != 0:
            raise UnexpectedError(f"the bridge ended with status {process.returncode}")
        del self.rig.processes["bridge"]
        self.close_books()

    def close_books(self) -> None:
        """Stop what is left, in order, and audit the run."""
        for node in ("bridge", "policy", "guard", "arm_sim", "learner"):
            if node in self.rig.processes:
                self.rig.finish(node, signal.SIGINT)
        self.audit = audit = audit_run(self.run)
        journal = [unpack(data) for data in read_records(self.run / "bridge" / "journal")]
        if not journal:
            raise UnexpectedError("nothing was recorded, so nothing could be lost")
        steps: dict[tuple[int, int], set[int]] = {}
        for one in journal:
            steps.setdefault((one.epoch, one.episode), set()).add(one.step)
        self._skipped = sum(max(each) + 1 - len(each) for each in steps.values())
        # A starved arm may miss a command, of which a newer one takes the place. Then its record is no judge.
        obeyed = [command.any() for record in read_plant(self.run / "plant") for command in record.commands]
        self.unheard = max(0, _since_motion([any(word.data) for word in self.commands]) - _since_motion(obeyed))
        wrong = {**asdict(audit.stream), **asdict(audit.buffer), **({} if self.unheard else asdict(audit.plant))}
        wrong = {name: wrong[name] for name in _NEVER if wrong.get(name)}
        if wrong:
            raise UnexpectedError(f"the audit is not clean: {wrong}")

    @property
    def lost(self) -> int | None:
        """Of steps by the audit: not stored though executed or acknowledged, and, with a learner, not handed over."""
        audit = self.audit
        if audit is None:
            return None
        by_plant = 0 if self.unheard else audit.plant.lost
        return by_plant + self._skipped + audit.stream.lost + (audit.stream.pending if self._learns else 0)

    @property
    def duplicated(self) -> int | None:
        """By the audit: in a book twice."""
        return None if self.audit is None else self.audit.stream.twice + self.audit.buffer.twice


def _since_motion(moving: Sequence[bool]) -> int:
    """How many commands there are from the first that moves on."""
    return len(moving) - moving.index(True) if True in moving else 0


def moves(command: Any) -> bool:
    """Whether a Float64MultiArray moves the arm."""
    return any(abs(value) > MOVES for value in command.data)
