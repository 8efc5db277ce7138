"""Record the graph's topics to an MCAP file: `ros2 launch simpl record.launch.py file:=run1.mcap`. Ends on Ctrl-C.

What `simpl record` does; `--show-args` explains every argument.
"""

from __future__ import annotations

import time
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import Action, LaunchContext, LaunchDescription
from simpl import runtime_env
from simpl.front.launching import node_action, say
from simpl.graph import SIMULATED, record_graph

ARGUMENTS = {
    "file": "File to write, which must not exist; empty: runs/recordings/<time>.mcap.",
    "topics": "Topics to record, separated by commas, also others than the graph's; empty: all of the graph's.",
    "namespace": "ROS namespace of the graph.",
    "profile": "Robot profile of the graph, which may call its topics otherwise; empty: the simulated arm's.",
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    runtime_env.prepare()
    arguments = [DeclareLaunchArgument(n, default_value="", description=text) for n, text in ARGUMENTS.items()]
    return LaunchDescription([*arguments, OpaqueFunction(function=build)])


def build(context: LaunchContext) -> list[Action]:
    """The one node."""
    file, topics, namespace, profile = (LaunchConfiguration(name).perform(context).strip() for name in ARGUMENTS)
    path = Path(file or Path("runs") / "recordings" / time.strftime("%Y-%m-%d_%H-%M-%S.mcap")).expanduser().absolute()
    wanted = [name.strip() for name in topics.split(",") if name.strip()]
    return [say(f"recording to {path}"), node_action(record_graph(path, wanted, namespace, profile or SIMULATED))]
