"""What a scenario is and what comes out of it; knows no ROS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simpl.faults.stage import Stage

OUTCOME = "outcome.json"
"""What a scenario that is played apart leaves in its folder."""
PASS, LATE, FAIL, LEFT_OUT = "pass", "late", "FAIL", "left out"


class UnexpectedError(Exception):
    """The graph did something else than was expected; the message says what was seen."""


@dataclass(frozen=True)
class Scenario:
    """A fault and the end state that is expected.

    Attributes:
        name: for the command line.
        fault: what is done.
        expected: what must come of it.
        play: does it to a graph; returns what was seen, raises UnexpectedError or TimeoutError.
        within: longest time from the fault to zero velocity [s]; None where the arm is not to stop, or no time is said.
        needs: what the machine must allow, see `simpl.faults.places`: "mounts", "network", "compiler", "onnx".
        quick: belongs to the short set.
    """

    name: str
    fault: str
    expected: str
    play: Callable[[Stage], str]
    within: float | None = None
    needs: str = ""
    quick: bool = False


def scenario(
    fault: str, expected: str, *, within: float | None = None, needs: str = "", quick: bool = False
) -> Callable[[Callable[[Stage], str]], Scenario]:
    """Make a scenario of a function, with its name; see `Scenario`."""

    def make(play: Callable[[Stage], str]) -> Scenario:
        return Scenario(play.__name__, fault, expected, play, within, needs, quick)

    return make


@dataclass
class Outcome:
    """What became of a scenario.

    Attributes:
        seen: in a few words.
        struck: the fault was done; a graph that was never in motion says nothing about it.
        reached: the expected end state came.
        time_to_zero: from the fault to the first command of zeros after the last that moved [s], by a listener of our
            own on the command topic; None where the arm was not to stop.
        lost: transitions that are in no book though older than a second, by the audit; None where there was none.
        duplicated: transitions stored twice, by the audit.
        left_out: why it could not be played here.
        wall_seconds: it took.
        audit: all its numbers.
        tail: ends of the nodes' logs, of a scenario that failed.
    """

    name: str
    fault: str
    expected: str
    within: float | None = None
    seen: str = ""
    struck: bool = False
    reached: bool = False
    time_to_zero: float | None = None
    lost: int | None = None
    duplicated: int | None = None
    left_out: str = ""
    wall_seconds: float = 0.0
    audit: dict[str, Any] = field(default_factory=dict)
    tail: str = ""

    @classmethod
    def of(cls, scenario: Scenario, **known: Any) -> Outcome:
        """Of a scenario, with what is known so far."""
        return cls(scenario.name, scenario.fault, scenario.expected, scenario.within, **known)

    @property
    def sound(self) -> bool:
        """As expected, and nothing lost or stored twice; whatever time it took."""
        return self.reached and not self.lost and not self.duplicated

    @property
    def verdict(self) -> str:
        """One of PASS, LATE (sound, but the arm stopped later than it should), FAIL, LEFT_OUT."""
        if self.left_out:
            return LEFT_OUT
        if not self.sound:
            return FAIL
        late = self.within is not None and self.time_to_zero is not None and self.time_to_zero > self.within
        return LATE if late else PASS

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}
