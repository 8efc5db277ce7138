"""From the node graph to actions of `ros2 launch`: what the launch files share.

Needs `launch` and `launch_ros`, which come with a ROS 2 distribution; nothing else here does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import Action, LaunchContext, LaunchDescription
from simpl import runtime_env
from simpl.front.preflight import shipped_bundle
from simpl.front.supervisor import INTERRUPT_PATIENCE, installed_share
from simpl.graph import PACKAGE, AdaptSettings, NodeSpec
from simpl_core.errors import ConfigError

RESPAWN_DELAY = 2.0
"""Wait before launch starts a dead node again [s]; launch cannot lengthen it with each death."""

DESCRIPTIONS = {
    "task": "Ordered subtasks of the kitchen, e.g. task:='microwave > kettle > light switch > bottom burner'.",
    "use_sim": (
        "true: start the simulated arm. false: leave it out; a driver must then publish joint_states and "
        "object_states (sensor_msgs/JointState, one stamp), obey joint_group_velocity_controller/commands and offer "
        "the service scene/reset (simpl_interfaces/ResetScene) that puts arm and objects back, but for scene:=operator."
    ),
    "bundle": "Folder of the model bundle to start from; empty: the one that ships with the project.",
    "rate": (
        "sim: the simulation waits for each command, as fast as the machine goes. real: the wall clock sets the "
        "pace. Empty: sim with the simulated arm, real without it."
    ),
    "namespace": "ROS namespace of all nodes and topics.",
    "profile": "Robot profile: a name that `simpl robot list` shows, or a path that ends in .yaml.",
    "driver": "none where the arm's ros2_control runs already; franka_fci: our own driver for a Franka arm.",
    "robot_ip": "Address of the arm's control unit, for the driver.",
    "controller_manager": (
        "Node of ros2_control that the guard asks whether a real arm's controller is active, with driver:=none; empty: "
        "it asks nobody."
    ),
    "episodes": "Fine-tuning episodes.",
    "conditioning": "Episodes with task embeddings drawn from the prior.",
    "evaluation": "Episodes that judge the conditioned policy, and again as many that judge the final one.",
    "max_steps": "Control steps after which an episode ends unfinished.",
    "preset": "Settings of fine-tuning; `simpl presets` lists them.",
    "seed": "Seed of embeddings, skill noise, sensor noise and training.",
    "reward": "Where rewards come from: object_states, or operator (services episode/success and episode/failure).",
    "label_wait": "Seconds to wait for a label after each episode: episode/success, failure or discard.",
    "scene": "Who puts the scene back: service (scene/reset), or operator (the arm goes home; then episode/ready).",
    "out": "Folder for everything that is written; empty: runs/adapt/<time> (adapt) or nowhere (sim).",
}
"""What `ros2 launch ... --show-args` says about each argument."""

TEXTS = (
    "task",
    "namespace",
    "profile",
    "driver",
    "robot_ip",
    "controller_manager",
    "rate",
    "preset",
    "reward",
    "scene",
)

Build = Callable[[AdaptSettings, Path, str], list[Action]]


def describe(
    names: Sequence[str], build: Build, *, fixed: Mapping[str, str] | None = None, **defaults: str
) -> LaunchDescription:
    """A launch description with arguments that are checked like those of `simpl adapt`.

    Args:
        names: arguments it takes, of DESCRIPTIONS.
        build: makes the actions from settings, bundle folder and the text of `out`.
        fixed: texts of settings that are no arguments here.
        defaults: default texts that differ from the settings' own.

    Returns:
        The description. An impossible argument ends the launch with one line that says what was wanted.
    """
    own = {field.name: field.default for field in dataclasses.fields(AdaptSettings)}
    texts = {name: defaults.get(name, "" if own[name] is None else str(own[name]).lower()) for name in names}

    def expand(context: LaunchContext) -> list[Action]:
        given = {name: LaunchConfiguration(name).perform(context).strip() for name in names}
        out = given.pop("out", "")
        settings = read_settings({**(fixed or {}), **given})
        return build(settings, settings.bundle or shipped_bundle(), out)

    runtime_env.prepare()
    arguments = [DeclareLaunchArgument(n, default_value=texts[n], description=DESCRIPTIONS[n]) for n in names]
    return LaunchDescription([*arguments, OpaqueFunction(function=expand)])


def read_settings(texts: dict[str, str]) -> AdaptSettings:
    """Settings from the texts of launch arguments.

    Raises:
        SimplError: a text that is no number, no truth value, or not possible.
    """
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name == "bundle":
            values[name] = Path(text).expanduser() if text else None
        elif name in TEXTS:
            values[name] = text
        elif name == "use_sim":
            values[name] = _truth(name, text)
        elif name == "label_wait":
            values[name] = _number(name, text)
        else:
            values[name] = _whole_number(name, text)
    if not values.get("rate"):
        values["rate"] = "sim" if values.get("use_sim", True) else "real"
    return AdaptSettings(**values)


def node_action(spec: NodeSpec) -> Node:
    """The launch action of a node. Any node that is not started again ends the launch when it exits."""
    share = installed_share()
    files = [str(share / file) for file in spec.parameter_files]
    return Node(
        package=PACKAGE,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        parameters=[*files, {name: _as_it_is(value) for name, value in spec.parameters.items()}],
        remappings=list(spec.remappings),
        additional_env=dict(spec.environment),
        respawn=spec.respawn,
        respawn_delay=RESPAWN_DELAY,
        output="screen",
        sigterm_timeout=str(INTERRUPT_PATIENCE),
        on_exit=None if spec.respawn else Shutdown(reason=f"{spec.name} ended"),
    )


def _as_it_is(value: Any) -> Any:
    """A text stays one: launch would read it as YAML, and `a: b` as a mapping."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value


def say(text: str) -> LogInfo:
    """A line in the launch's own output."""
    return LogInfo(msg=text)


def _truth(name: str, text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ConfigError(f"{name}:={text} is neither true nor false")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{name}:={text} is not a number") from error


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}:={text} is not a whole number") from error
