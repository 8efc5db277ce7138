"""What a scenario is and what comes out of it; knows no ROS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simpl.faults.stage import Stage

OUTCOME = "outcome.json"
"""What a scenario that is played apart leaves in its folder."""
Bounds = Mapping[str, tuple[float | None, float | None]]
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
        endurance: takes many minutes, and is played only when asked for; how many, `Stage.part_of` says.
        bounds: between what a figure should lie, by its name; None is open.
    """

    name: str
    fault: str
    expected: str
    play: Callable[[Stage], str]
    within: float | None = None
    needs: str = ""
    quick: bool = False
    endurance: bool = False
    bounds: Bounds = field(default_factory=dict)


def scenario(fault: str, expected: str, **how: Any) -> Callable[[Callable[[Stage], str]], Scenario]:
    """Make a scenario of a function, with its name; `how` are the other attributes of `Scenario`."""

    def make(play: Callable[[Stage], str]) -> Scenario:
        return Scenario(play.__name__, fault, expected, play, **how)

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
        figures: what else was measured, by name; the unit ends the name.
        bounds: between what they should lie, see `Scenario`.
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
    figures: dict[str, float] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=dict)
    tail: str = ""

    @classmethod
    def of(cls, scenario: Scenario, **known: Any) -> Outcome:
        """Of a scenario, with what is known so far."""
        given = (scenario.name, scenario.fault, scenario.expected, scenario.within)
        return cls(*given, bounds=scenario.bounds, **known)

    @property
    def sound(self) -> bool:
        """As expected, and nothing lost or stored twice; whatever time it took."""
        return self.reached and not self.lost and not self.duplicated

    @property
    def verdict(self) -> str:
        """One of PASS, LATE (sound, but later or otherwise beyond a bound), FAIL, LEFT_OUT."""
        if self.left_out:
            return LEFT_OUT
        if not self.sound:
            return FAIL
        late = self.within is not None and self.time_to_zero is not None and self.time_to_zero > self.within
        return LATE if late or self.beyond else PASS

    @property
    def beyond(self) -> list[str]:
        """Names of the figures that lie outside of their bounds."""
        found = {name: self.figures[name] for name in self.bounds if name in self.figures}
        return [name for name, value in found.items() if not _between(value, *self.bounds[name])]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}


def _between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
