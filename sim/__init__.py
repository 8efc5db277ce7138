"""Tasks and physics: what the learner and the robot's tests act in. No torch, no ROS.

Importing this package, `sim.tasks` or `sim.maze_tasks` needs numpy alone; MuJoCo is loaded by `sim.kitchen`,
`sim.maze` and their users.
"""

from __future__ import annotations

import sys

KITCHEN_ID, MAZE_ID = "simpl/Kitchen-v0", "simpl/Maze-v0"


def register_envs() -> None:
    """Make `gymnasium.make("simpl/Kitchen-v0", task=...)` and the maze work; calling it again changes nothing."""
    import gymnasium

    for name, entry_point in ((KITCHEN_ID, "sim.kitchen:KitchenEnv"), (MAZE_ID, "sim.maze:MazeEnv")):
        if name not in gymnasium.registry:
            # No `max_episode_steps` here: environments truncate by themselves, as their copies in vectors do.
            gymnasium.register(id=name, entry_point=entry_point)


# Gymnasium's convention is that importing a package registers its environments, as in
# `gymnasium.make("sim:simpl/Kitchen-v0")`. A robot has no Gymnasium, so none is loaded for it here.
if "gymnasium" in sys.modules:
    register_envs()
