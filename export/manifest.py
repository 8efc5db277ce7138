"""manifest.json: what a bundle says about itself, and the strict reading of it (standard library only)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from simpl_core.errors import BundleError

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
GOLDEN = "golden.json"
NETWORKS = ("skill_decoder", "skill_policy", "skill_prior", "task_encoder")
IN_THE_LOOP = ("skill_decoder", "skill_policy")
"""Those that a control loop waits for."""
REWARD = "reward_decoder"
"""Optional: what a step was worth, for robots on which nothing sees the objects."""
LEARNER = ("learner/config.json", "learner/provenance.json", "learner/weights.safetensors")
REQUIRED_FILES = frozenset({GOLDEN, *(f"{network}.onnx" for network in NETWORKS)})
"""A bundle holds these, the three of `LEARNER` or none of them, `REWARD` or not, and nothing else: names are a closed
list, so no manifest can point outside its folder."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

Shape = tuple[int | None, ...]


class Signature(NamedTuple):
    """Named inputs and outputs of a network; None stands for a size that may vary."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


@dataclass(frozen=True)
class Robot:
    """What the numbers that enter and leave the models mean on the machine.

    Attributes:
        task_family: environment the models were trained for, such as "kitchen".
        observation: name of each number of the state, in order.
        observation_units: unit of each ("rad", "m", "m/s", or "1" for a quaternion's parts).
        joint_names: joints that an action moves, in order.
        action_scale: velocity of each joint at action 1, or the force on it.
        action_units: unit of each ("rad/s", "m/s" or "N").
        action_limits: lowest and highest action; the runtime clips to them.
        control_rate_hz: actions a second [Hz].
    """

    task_family: str
    observation: tuple[str, ...]
    observation_units: tuple[str, ...]
    joint_names: tuple[str, ...]
    action_scale: tuple[float, ...]
    action_units: tuple[str, ...]
    action_limits: tuple[float, float]
    control_rate_hz: float


@dataclass(frozen=True)
class FileEntry:
    """Checksum (hexadecimal SHA-256) and size of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes:
        robot: meaning of observation and action.
        horizon: H, control steps a skill lasts.
        z_dim: size of a skill.
        e_dim: size of a task embedding.
        context_kept: skill transitions that the task encoder reads, rewarded ones first; None is all.
        opset: ONNX operator set of the graphs.
        parent_version: model version this one was fine-tuned from, None for an exported run.
        provenance: how the weights came about.
        files: every file of the bundle but the manifest itself.
    """

    robot: Robot
    horizon: int
    z_dim: int
    e_dim: int
    context_kept: int | None
    opset: int
    parent_version: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def state_dim(self) -> int:
        """S, numbers in an observation."""
        return len(self.robot.observation)

    @property
    def action_dim(self) -> int:
        """A, joints moved."""
        return len(self.robot.joint_names)

    @property
    def context_dim(self) -> int:
        """Width of a row [s, z, r, done, s'] of the task encoder's input."""
        return 2 * self.state_dim + self.z_dim + 2

    @property
    def model_version(self) -> str:
        """SHA-256 over all of the above, files included: two bundles of one version are the same."""
        core = json.dumps(self._core(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(core.encode()).hexdigest()

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks in the bundle."""
        return (*NETWORKS, REWARD) if f"{REWARD}.onnx" in self.files else NETWORKS

    def signatures(self) -> dict[str, Signature]:
        """What each network must take and give."""
        reward = Signature({"next_state": (None, self.state_dim), "e": (None, self.e_dim)}, {"reward": (None, 1)})
        state, z, e = (None, self.state_dim), (None, self.z_dim), (None, self.e_dim)
        all_of_them = {
            "skill_decoder": Signature({"state": state, "z": z}, {"action": (None, self.action_dim)}),
            "skill_policy": Signature({"state": state, "e": e}, {"mean": z, "scale": z}),
            "skill_prior": Signature({"state": state}, {"mean": z, "scale": z}),
            "task_encoder": Signature(
                {"transitions": (None, None, self.context_dim), "mask": (None, None)}, {"mean": e, "scale": e}
            ),
            REWARD: reward,
        }
        return {name: all_of_them[name] for name in self.networks}

    def interface(self) -> tuple[Robot, int, int, int]:
        """What a robot relies on and no update may change: robot, H and the sizes of z and e."""
        return self.robot, self.horizon, self.z_dim, self.e_dim

    def to_json(self) -> str:
        """The text of manifest.json."""
        document = {"schema_version": SCHEMA_VERSION, "model_version": self.model_version, **self._core()}
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read and check manifest.json.

        Raises:
            BundleError: not JSON, another schema, a field missing, unknown or of a wrong kind, sizes that
                contradict each other, or a model version that is not the checksum of the rest.
        """
        document = parse_json(text, MANIFEST)
        if not isinstance(document, dict):
            raise BundleError(f"{MANIFEST} holds a {type(document).__name__}, not an object")
        schema = document.pop("schema_version", None)
        if schema != SCHEMA_VERSION:
            raise BundleError(f"{MANIFEST} has schema version {schema!r}; this program reads {SCHEMA_VERSION}")
        stated = document.pop("model_version", None)
        manifest = cls(**_checked(document, cls, MANIFEST))
        _check_sizes(manifest)
        _check_files(manifest.files)
        try:
            version = manifest.model_version
        except RecursionError as error:
            raise BundleError(f"{MANIFEST} is nested too deeply") from error
        if stated != version:
            raise BundleError(f"{MANIFEST} states model version {stated!r}, but its content is {version}")
        return manifest

    def _core(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def json_object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`values` as a reader of the written JSON will see them: lists for tuples, texts for keys.

    Raises:
        BundleError: something in it has no form in JSON.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BundleError(f"{name} cannot be written as JSON: {error}") from error
    return plain


def parse_json(text: str | bytes, name: str) -> Any:
    """JSON without NaN and infinities, which are no JSON and have no place here.

    Raises:
        BundleError: the text is not that.
    """

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"{number} is not a finite number")
        return float(number)

    try:
        return json.loads(text, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not JSON: {error}") from error


def _checked(values: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
    """Fields of dataclass `kind` out of JSON, each of its type; all must be there and no other."""
    wanted = {item.name: str(item.type) for item in dataclasses.fields(kind)}
    if set(values) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(values)), sorted(set(values) - set(wanted))
        raise BundleError(f"{where}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    return {name: _READERS[type_name](values[name], f"{where}: {name}") for name, type_name in wanted.items()}


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
        raise BundleError(f"{where} is {value!r}, not a positive integer")
    return value


def _number(value: Any, where: str) -> float:
    # Comparing with a bound rather than calling isfinite, which overflows on huge integers.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e9 < value < 1e9:
        raise BundleError(f"{where} is {value!r}, not a number of sensible size")
    return float(value)


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise BundleError(f"{where} is {value!r}, not a text")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise BundleError(f"{where} is {value!r}, not a list")
    return list(value)


def _strings(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_string(item, where) for item in _list(value, where))


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    return tuple(_number(item, where) for item in _list(value, where))


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{where} is {value!r}, not an object")
    return value


def _version(value: Any, where: str) -> str | None:
    if value is not None and not (isinstance(value, str) and _SHA256.fullmatch(value)):
        raise BundleError(f"{where} is {value!r}, not null and not 64 hexadecimal digits")
    return value


def _files(value: Any, where: str) -> dict[str, FileEntry]:
    return {
        name: FileEntry(**_checked(_object(entry, f"{where} {name}"), FileEntry, f"{where} {name}"))
        for name, entry in _object(value, where).items()
    }


# One reader for each type that a field above is annotated with.
_READERS: dict[str, Any] = {
    "int": _integer,
    "float": _number,
    "str": _string,
    "int | None": lambda value, where: None if value is None else _integer(value, where),
    "str | None": _version,
    "tuple[str, ...]": _strings,
    "tuple[float, ...]": _numbers,
    "tuple[float, float]": _numbers,
    "dict[str, Any]": _object,
    "dict[str, FileEntry]": _files,
    "Robot": lambda value, where: Robot(**_checked(_object(value, where), Robot, where)),
}


def _check_sizes(manifest: Manifest) -> None:
    robot = manifest.robot
    for name, given, wanted in (
        ("observation_units", robot.observation_units, manifest.state_dim),
        ("action_scale", robot.action_scale, manifest.action_dim),
        ("action_units", robot.action_units, manifest.action_dim),
        ("action_limits", robot.action_limits, 2),
    ):
        if len(given) != wanted:
            raise BundleError(f"{MANIFEST}: robot: {name} has {len(given)} entries, wanted {wanted}")
    for name, names in (("observation", robot.observation), ("joint_names", robot.joint_names)):
        if not names or len(set(names)) != len(names):
            raise BundleError(f"{MANIFEST}: robot: {name} is empty or names something twice")
    if robot.control_rate_hz <= 0 or min(robot.action_scale) <= 0:
        raise BundleError(f"{MANIFEST}: robot: control_rate_hz and action_scale must be positive")
    if robot.action_limits[0] >= robot.action_limits[1]:
        raise BundleError(f"{MANIFEST}: robot: action_limits {robot.action_limits} are not lowest, highest")


def _check_files(files: Mapping[str, FileEntry]) -> None:
    allowed = REQUIRED_FILES | set(LEARNER) | {f"{REWARD}.onnx"}
    unknown = sorted(set(files) - allowed)
    if unknown:
        raise BundleError(f"{MANIFEST} lists {unknown[0]!r}; a bundle may hold {', '.join(sorted(allowed))}")
    learner = set(LEARNER) if set(LEARNER) & set(files) else set()
    missing = sorted((REQUIRED_FILES | learner) - set(files))
    if missing:
        raise BundleError(f"{MANIFEST} does not list {', '.join(missing)}")
    for name, entry in files.items():
        if not _SHA256.fullmatch(entry.sha256):
            raise BundleError(f"{MANIFEST}: sha256 of {name} is {entry.sha256!r}, not 64 hexadecimal digits")
