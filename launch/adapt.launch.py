"""The whole loop: `ros2 launch simpl adapt.launch.py task:='microwave > kettle' use_sim:=true`.

The nodes are those of `simpl.graph`, which `simpl adapt` starts too. The launch ends when the run is over. The
learner is started again when it dies: its work is on disk. `ros2 launch simpl adapt.launch.py --show-args` explains
every argument.
"""

from __future__ import annotations

from pathlib import Path

from launch import Action, LaunchDescription
from simpl.front.launching import describe, node_action, say
from simpl.front.preflight import prepare_run_folder
from simpl.graph import AdaptSettings, adapt_graph

ARGUMENTS = (
    "task",
    "use_sim",
    "bundle",
    "rate",
    "namespace",
    "profile",
    "driver",
    "robot_ip",
    "controller_manager",
    "episodes",
    "conditioning",
    "evaluation",
    "max_steps",
    "preset",
    "seed",
    "reward",
    "label_wait",
    "scene",
    "out",
)


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return describe(ARGUMENTS, build, rate="")


def build(settings: AdaptSettings, bundle: Path, out: str) -> list[Action]:
    """All five nodes, or four where a driver takes the place of the simulated arm."""
    run_folder = prepare_run_folder(Path(out) if out else None)
    nodes = [node_action(spec) for spec in adapt_graph(settings, bundle.absolute(), run_folder)]
    return [say(f"task {settings.task}; results in {run_folder}; pictures of them: simpl report {run_folder}"), *nodes]
