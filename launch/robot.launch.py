"""A real arm's driver, guard and policy: `ros2 launch simpl robot.launch.py profile:=franka_fr3 bundle:=DIR`.

For looking at them and for driving episodes by hand before anything learns (docs/robot.md). Topics are named as the
profile says. Ends on Ctrl-C, with the arm at rest. `ros2 launch simpl robot.launch.py --show-args` explains every
argument.
"""

from __future__ import annotations

from pathlib import Path

from launch import Action, LaunchDescription
from simpl.front.launching import describe, node_action, say
from simpl.graph import AdaptSettings, acting_graph

ARGUMENTS = ("profile", "driver", "robot_ip", "controller_manager", "bundle", "namespace", "max_steps")


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return describe(ARGUMENTS, build, fixed={"use_sim": "false"}, profile="franka_fr3")


def build(settings: AdaptSettings, bundle: Path, _: str) -> list[Action]:
    """Driver (unless the arm has one of its own), guard and policy."""
    nodes = [node_action(spec) for spec in acting_graph(settings, bundle.absolute(), None)]
    return [say(f"profile {settings.profile}; compare it with the robot: simpl robot check {settings.profile}"), *nodes]
