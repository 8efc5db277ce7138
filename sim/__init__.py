"""Tasks and physics: what the learner and the robot's tests act in. No torch, no ROS.

Importing this package, or `sim.tasks`, needs numpy alone; MuJoCo is loaded by `sim.kitchen` and its users.
"""

from __future__ import annotations

import sys

KITCHEN_ID = "simpl/Kitchen-v0"


def register_envs() -> None:
    """Make `gymnasium.make("simpl/Kitchen-v0", task=...)` work; calling it again changes nothing."""
    import gymnasium

    if KITCHEN_ID not in gymnasium.registry:
        # No `max_episode_steps` here: the environment truncates by itself, as its copies in `sim.vector` do.
        gymnasium.register(id=KITCHEN_ID, entry_point="sim.kitchen:KitchenEnv")


# Gymnasium's convention is that importing a package registers its environments, as in
# `gymnasium.make("sim:simpl/Kitchen-v0")`. A robot has no Gymnasium, so none is loaded for it here.
if "gymnasium" in sys.modules:
    register_envs()
