"""Simulated arm, guard and policy only: `ros2 launch simpl sim.launch.py`.

For looking at them, for driving episodes by hand (services scene/reset, policy/begin_episode, policy/end_episode), or
as a stand-in for a robot. Ends on Ctrl-C.
"""

from __future__ import annotations

from pathlib import Path

from launch import Action, LaunchDescription
from simpl.front.launching import describe, node_action
from simpl.graph import AdaptSettings, acting_graph


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    return describe(("bundle", "rate", "namespace", "max_steps", "seed", "out"), build, rate="real")


def build(settings: AdaptSettings, bundle: Path, out: str) -> list[Action]:
    """The three nodes; episodes are recorded below `out` when it is given."""
    folder = Path(out).expanduser().absolute() if out else None
    return [node_action(spec) for spec in acting_graph(settings, bundle.absolute(), folder)]
