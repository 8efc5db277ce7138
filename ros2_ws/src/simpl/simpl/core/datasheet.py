"""What an arm itself allows, from its maker's data sheet: a robot profile may be stricter, never wider."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpl.core.document import DocumentReader, read_yaml

if TYPE_CHECKING:
    from simpl.core.profile import JointLimits, RobotProfile

_KEYS = frozenset({"name", "source", "joints"})
_JOINT_KEYS = frozenset({"unit", "position", "velocity", "acceleration", "jerk"})
_BRAKING_KEYS = frozenset({"deceleration", "offset"})
UNITS = ("rad", "m")
UNIT_HINT = " (REP 103: no degrees, no millimetres)"


@dataclass(frozen=True)
class Braking:
    """How fast an arm lets a joint approach its end: at a distance x no faster than sqrt(2 deceleration x) - offset.

    Attributes:
        deceleration: [unit/s^2].
        offset: [unit/s].
    """

    deceleration: float
    offset: float

    def allows(self, velocity: float, acceleration: float, gap: float) -> bool:
        """Whether braking with `acceleration` from every speed up to `velocity` to a stop keeps below the curve.

        At speed v the place to stop is v^2 / (2 acceleration) away, and the arm's end `gap` beyond it. So the curve
        is kept where 2 deceleration (gap + v^2 / (2 acceleration)) >= (v + offset)^2, a parabola in v.

        Args:
            velocity: highest speed [unit/s].
            acceleration: of the braking [unit/s^2].
            gap: from the place to stop to the arm's own end [unit].
        """

        def room(v: float) -> float:
            return 2.0 * self.deceleration * (gap + v * v / (2.0 * acceleration)) - (v + self.offset) ** 2

        curvature = self.deceleration / acceleration - 1.0
        lowest = min(max(self.offset / curvature, 0.0), velocity) if curvature > 0.0 else velocity
        return min(room(0.0), room(lowest), room(velocity)) >= 0.0


@dataclass(frozen=True)
class JointRating:
    """What one joint of an arm allows; None where the maker names no such limit.

    Attributes:
        unit: "rad" or "m".
        position: lowest and highest position [unit]; None turns without end.
        velocity: highest speed [unit/s].
        acceleration: [unit/s^2].
        jerk: [unit/s^3].
        braking: near an end.
    """

    unit: str
    position: tuple[float, float] | None
    velocity: float
    acceleration: float | None
    jerk: float | None
    braking: Braking | None


@dataclass(frozen=True)
class Datasheet:
    """What an arm allows.

    Attributes:
        name: of the arm.
        source: where the numbers were published.
        joints: from the base to the tip.
    """

    name: str
    source: str
    joints: tuple[JointRating, ...]

    def violations(self, profile: RobotProfile) -> Iterator[str]:
        """Everything in which a profile goes beyond the arm; the profile's joints are the arm's first ones."""
        if len(profile.joints) < len(self.joints):
            yield f"{self.name} has {len(self.joints)} joints, the profile {len(profile.joints)}"
        for joint, rating in zip(profile.joints, self.joints, strict=False):
            for problem in _beyond(joint, rating, profile.position_margin):
                yield f"joint {joint.name}: {problem} ({self.source})"


def load_datasheet(path: Path) -> Datasheet:
    """Read and check a data sheet.

    Raises:
        ConfigError: it cannot be read, or with everything that is wrong in it.
    """
    reader = DocumentReader(f"data sheet {path}")
    values = reader.mapping(read_yaml(path, "data sheet"), "", _KEYS)
    items = reader.items(values["joints"], "joints")
    sheet = Datasheet(
        name=reader.text(values["name"], "name"),
        source=reader.text(values["source"], "source"),
        joints=tuple(_rating(reader, item, f"joint {number}") for number, item in enumerate(items, 1)),
    )
    reader.finish()
    return sheet


def _rating(reader: DocumentReader, item: Any, where: str) -> JointRating:
    values = reader.mapping(item, where, _JOINT_KEYS, frozenset({"braking"}))
    braking = None
    if values.get("braking") is not None:
        curve = reader.mapping(values["braking"], f"{where}: braking", _BRAKING_KEYS)
        braking = Braking(
            reader.number(curve["deceleration"], f"{where}: braking: deceleration", above=0.0),
            reader.number(curve["offset"], f"{where}: braking: offset", least=0.0),
        )
    return JointRating(
        unit=reader.choice(values["unit"], f"{where}: unit", UNITS, UNIT_HINT),
        position=reader.interval(values["position"], f"{where}: position"),
        velocity=reader.number(values["velocity"], f"{where}: velocity", above=0.0),
        acceleration=reader.optional_number(values["acceleration"], f"{where}: acceleration", above=0.0),
        jerk=reader.optional_number(values["jerk"], f"{where}: jerk", above=0.0),
        braking=braking,
    )


def _beyond(joint: JointLimits, rating: JointRating, margin: float) -> Iterator[str]:
    if joint.unit and joint.unit != rating.unit:
        yield f"unit is {joint.unit}, the arm's is {rating.unit}"
        return
    if rating.position is not None:
        if joint.position is None:
            yield f"position is null, the arm ends at {list(rating.position)}"
        elif joint.position[0] < rating.position[0] or joint.position[1] > rating.position[1]:
            yield f"position {list(joint.position)} goes beyond the arm's {list(rating.position)}"
    for name, wanted, most in (
        ("velocity", joint.velocity, rating.velocity),
        ("acceleration", joint.acceleration, rating.acceleration),
        ("jerk", joint.jerk, rating.jerk),
    ):
        if most is not None and wanted is None:
            yield f"{name} is null, the arm allows {most}"
        elif most is not None and wanted is not None and wanted > most:
            yield f"{name} {wanted} goes beyond the arm's {most}"
    if rating.braking and rating.position and joint.position and joint.acceleration:
        gap = margin + min(joint.position[0] - rating.position[0], rating.position[1] - joint.position[1])
        if gap >= 0.0 and not rating.braking.allows(joint.velocity, joint.acceleration, gap):
            yield (
                f"braking with {joint.acceleration} from {joint.velocity} {joint.unit}/s, {gap:.3f} {joint.unit} ahead "
                "of the arm's end, is faster than the arm allows there; raise position_margin, or lower velocity "
                "or acceleration"
            )


def plausible(unit: str) -> tuple[float, float]:
    """Largest position and speed that any arm has, in its unit; beyond them somebody wrote degrees or millimetres."""
    return (8.0 * math.pi, 30.0) if unit == "rad" else (10.0, 10.0)
