"""THE node graph, once, as plain data.

Both front doors read it: `simpl adapt` starts these nodes as processes of its own (`simpl.front.supervisor`), and
`ros2 launch simpl adapt.launch.py` turns the same specifications into launch actions. Knows no ROS library, so that
it can be read, tested and printed anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sim.tasks import parse_kitchen_task
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl_core.config import ADAPT_PRESETS
from simpl_core.errors import ConfigError

ParameterValue = bool | int | float | str | Sequence[float] | Sequence[str]

PACKAGE = "simpl"
"""ROS package that installs the nodes' executables, their configuration and the launch files."""

PHASES = ("conditioning", "evaluation", "finetune", "final")
"""Phases of a run, in order."""

DEFAULT_TASK = "kettle > bottom burner > light switch > slide cabinet"
"""One of the paper's ten target tasks."""

STOP_ORDER = (("policy", "bridge"), ("guard",), ("learner",), ("arm_sim", "franka_fci"))
"""Who is told to stop together, and before whom: no more actions and no new episode, books closed while the guard still
watches, then its zeros, then the learner, and the plant last."""

RATES = ("sim", "real")
"""Who waits for whom: the simulation for the commands, or everybody for the wall clock."""

OPERATOR = "operator"
"""The person beside the arm."""
REWARD_MODEL = "reward_model"
"""The reward decoder of the bundle that a run starts from."""
REWARD_SOURCES = ("object_states", OPERATOR, REWARD_MODEL)
"""Who says what a step was worth; labels of the operator count beside the others, too."""
SCENES = ("service", OPERATOR)
"""Who puts the scene back between two episodes."""

SIMULATED = "mujoco_kitchen"
"""Robot profile of the arm that `arm_sim` simulates."""

DRIVERS = ("none", "franka_fci")
"""Nodes of ours that drive an arm; none: its maker's ros2_control does."""

_LIMITS = {
    "episodes": (0, 100_000),
    "conditioning": (1, 100_000),
    "evaluation": (0, 100_000),
    "seed": (0, 2**31 - 1),
    "max_steps": (1, 1_000_000),
    "label_wait": (0, 86_400),
}
_NAMESPACE = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class AdaptSettings:
    """Adapt a bundled model to one unseen task, on the simulated arm or on a real one."""

    task: str = DEFAULT_TASK
    """Ordered subtasks, e.g. "microwave > kettle > light switch > bottom burner"."""
    episodes: int = 30
    """Fine-tuning episodes after conditioning and evaluation."""
    conditioning: int = 20
    """Episodes with task embeddings drawn from the prior; they identify the task."""
    evaluation: int = 10
    """Episodes that judge the conditioned policy, and again as many that judge the final one."""
    rate: Literal["sim", "real"] = "sim"
    """sim: the simulation waits for each command, as fast as it goes; real: the wall clock sets the pace."""
    bundle: Path | None = None
    """Model bundle to start from; the one that ships with the project when not given."""
    out: Path | None = None
    """Folder for everything the run writes; runs/adapt/<time> when not given."""
    preset: str = "fast"
    """Settings of fine-tuning; `simpl presets` lists them."""
    seed: int = 0
    """Of embeddings, skill noise, sensor noise and training."""
    namespace: str = ""
    """ROS namespace of all nodes and topics."""
    profile: str = SIMULATED
    """Robot profile: a name that `simpl robot list` shows, or a path that ends in .yaml."""
    driver: Literal["none", "franka_fci"] = "none"
    """Driver to start for a real arm; none where its maker's ros2_control runs already."""
    robot_ip: str = ""
    """Address of the arm's control unit, for the driver."""
    controller_manager: str = "/controller_manager"
    """Node of ros2_control that the guard asks whether the controller is active, for a real arm without a driver of
    ours. Empty: nobody is asked, and an arm whose controller went down goes on by itself when it comes up again."""
    max_steps: int = 280
    """Control steps after which an episode ends unfinished."""
    use_sim: bool = True
    """Start the simulated arm; without it a driver must offer its topics, and scene/reset unless scene is operator."""
    reward: Literal["object_states", "operator", "reward_model"] = "object_states"
    """Where rewards come from; reward_model needs a bundle with a reward decoder. The services episode/success,
    episode/failure and episode/discard (on the screen: keys s, f, d) count beside all of them."""
    label_wait: float = 0.0
    """Seconds to wait for a label after each episode; where the operator alone rewards it has no end."""
    scene: Literal["service", "operator"] = "service"
    """Who puts the scene back: the service scene/reset, or a person, after the arm went home, who then calls
    episode/ready (on the screen: key r)."""
    video: bool = True
    """Render the best episode to a video at the end."""

    def __post_init__(self) -> None:
        parse_kitchen_task(self.task)
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}, at most {most}")
        if self.preset not in ADAPT_PRESETS:
            raise ConfigError(f"no preset {self.preset!r}; there are {', '.join(ADAPT_PRESETS)}")
        for name, known in (("rate", RATES), ("reward", REWARD_SOURCES), ("scene", SCENES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; there are {', '.join(known)}")
        if self.rate == "sim" and not self.use_sim:
            raise ConfigError("rate 'sim' stops time between commands, which no real arm does; use rate 'real'")
        self._check_robot()
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigError(f"namespace {self.namespace!r} is not one; write it as 'left_arm' or '/lab/left_arm'")

    def _check_robot(self) -> None:
        if self.driver not in DRIVERS:
            raise ConfigError(f"driver is {self.driver!r}; there are {', '.join(DRIVERS)}")
        if self.use_sim and (self.profile != SIMULATED or self.driver != "none"):
            raise ConfigError(
                f"the simulated arm is {SIMULATED} and needs no driver; leave it out (--no-use-sim, use_sim:=false) "
                f"for profile {self.profile!r} and driver {self.driver!r}"
            )
        if (self.driver == "none") != (not self.robot_ip):
            raise ConfigError(f"driver is {self.driver!r} and robot_ip {self.robot_ip!r}: a driver needs an address")

    @property
    def has_ros2_control(self) -> bool:
        """Whether the arm is a real one that its maker's ros2_control drives."""
        return not self.use_sim and self.driver == "none" and self.profile != SIMULATED

    @property
    def episodes_per_phase(self) -> dict[str, int]:
        """How many episodes each phase has, in order."""
        return dict(zip(PHASES, (self.conditioning, self.evaluation, self.episodes, self.evaluation), strict=True))


@dataclass(frozen=True)
class NodeSpec:
    """One node: what to start, how to call it, and what its death means."""

    name: str
    """Node name; with the namespace it is what `ros2 node list` shows."""
    executable: str
    """File in the package's `lib/simpl`."""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    """ROS parameters; they win over those of the files."""
    parameter_files: tuple[str, ...] = ()
    """Parameter files relative to the package's share folder, e.g. "config/guard.yaml"."""
    remappings: tuple[tuple[str, str], ...] = ()
    """(from, to) name pairs."""
    namespace: str = ""
    """ROS namespace, empty for the root."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables set for this node only."""
    respawn: bool = False
    """Start it again when it dies: its work is durable and the others do not need it at every moment."""
    ends_run: bool = False
    """Its clean exit is the end of the run."""


def adapt_graph(settings: AdaptSettings, bundle: Path, run_folder: Path) -> list[NodeSpec]:
    """The nodes of an adaptation run.

    Args:
        settings: what the user asked for.
        bundle: folder of the verified bundle to start from.
        run_folder: everything that is written goes below it.

    Returns:
        Specifications in the order in which they are started.
    """
    actors = acting_graph(settings, bundle, run_folder)
    common: dict[str, ParameterValue] = {"bundle": str(bundle), "run_folder": str(run_folder), "seed": settings.seed}
    counts = {f"{phase}_episodes": count for phase, count in settings.episodes_per_phase.items()}
    preset = ADAPT_PRESETS[settings.preset]
    learner = NodeSpec(
        "learner", "learner", {**common, "preset": settings.preset}, environment=_TRAINING_THREADS, respawn=True
    )
    bridge = NodeSpec(
        "bridge",
        "bridge",
        {
            **common,
            **counts,
            "task": str(parse_kitchen_task(settings.task)),
            "max_steps": settings.max_steps,
            "lockstep": settings.rate == "sim",
            "reward": settings.reward,
            "label_wait": float(settings.label_wait),
            "scene": settings.scene,
            "temperature": preset.temperature,
            "cool_over": preset.cool_over,
        },
        environment=_ONE_THREAD,
        ends_run=True,
    )
    return [*actors, _placed(learner, settings), _placed(bridge, settings)]


def acting_graph(settings: AdaptSettings, bundle: Path, run_folder: Path | None) -> list[NodeSpec]:
    """The nodes that act: simulated arm or driver, guard and policy, without episodes or learning.

    Args:
        settings: what the user asked for.
        bundle: folder of the bundle that acts.
        run_folder: the simulated arm records its episodes below it, and the guard the stop it is in; None records
            nothing.
    """
    lockstep = settings.rate == "sim"
    profile = str(find_profile(settings.profile).absolute()) if settings.profile != SIMULATED else SIMULATED
    records = str(run_folder / "plant") if run_folder else ""
    plant = NodeSpec(
        "arm_sim",
        "arm_sim",
        {"lockstep": lockstep, "seed": settings.seed, "output_folder": records},
        environment=_ONE_THREAD,
    )
    driver = NodeSpec(
        "franka_fci", "franka_fci", {"profile": profile, "robot_ip": settings.robot_ip}, environment=_ONE_THREAD
    )
    guard = NodeSpec(
        "guard",
        "guard",
        {
            "profile": profile,
            "lockstep": lockstep,
            "latch_file": str(run_folder / "guard" / "held.json") if run_folder else "",
            "controller_manager": settings.controller_manager if settings.has_ros2_control else "",
        },
        environment=_ONE_THREAD,
    )
    policy = NodeSpec(
        "policy",
        "policy",
        {"profile": profile, "bundle": str(bundle), "lockstep": lockstep, "max_steps": settings.max_steps},
        environment=_ONE_THREAD,
    )
    plants = [plant] if settings.use_sim else [driver] if settings.driver == "franka_fci" else []
    return [_placed(spec, settings) for spec in (*plants, guard, policy)]


def record_graph(file: Path, topics: Sequence[str] = (), namespace: str = "", profile: str = SIMULATED) -> NodeSpec:
    """The node that records a graph in `namespace` to `file`: `topics`, or all that the graph has with `profile`."""
    parameters = {"output": str(file), "topics": list(topics) or [""]}
    names = load_profile(find_profile(profile)).remappings
    return NodeSpec(
        "record",
        "record",
        parameters,
        remappings=names,
        environment={**_ONE_THREAD, **_enclave("record")},
        namespace=namespace.strip("/"),
    )


def stop_rank(spec: NodeSpec) -> int:
    """Position of a node in the order of stopping; unknown nodes stop last."""
    return next((rank for rank, names in enumerate(STOP_ORDER) if spec.name in names), len(STOP_ORDER))


def render_parameters(spec: NodeSpec) -> str:
    """The node's parameters as the text of a ROS parameter file.

    Strings are quoted, so that no value changes its type on the way (a bundle called "1e3" stays text).

    Raises:
        ConfigError: a number that is not finite.
    """
    lines = [f"  {name}: {_yaml(name, value)}" for name, value in spec.parameters.items()]
    # A node without parameters of its own needs no section: ROS refuses an empty one.
    return "\n".join(["/**:", " ros__parameters:", *lines, ""]) if lines else ""


def _yaml(name: str, value: ParameterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"parameter {name} is {value}; a finite number is wanted")
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")  # YAML 1.1 reads 1e-3 as text
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "[" + ", ".join(_yaml(name, item) for item in value) + "]"


def _placed(spec: NodeSpec, settings: AdaptSettings) -> NodeSpec:
    names = load_profile(find_profile(settings.profile)).remappings
    environment = {**spec.environment, **_enclave(spec.name)}
    return replace(spec, namespace=settings.namespace.strip("/"), remappings=names, environment=environment)


def _enclave(node: str) -> dict[str, str]:
    """Who a node is where ROS_SECURITY_ENABLE is true; without it nobody asks."""
    return {"ROS_SECURITY_ENCLAVE_OVERRIDE": f"/simpl/{node}"}


# The control path must not share its core with a thread pool, and pools that spin-wait starve everybody else.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_TRAINING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
