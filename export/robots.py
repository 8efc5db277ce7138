"""What the numbers that enter and leave the models mean on each machine that `sim` has."""

from __future__ import annotations

from export.manifest import Robot
from sim import maze_tasks
from sim.maze_physics import GEAR
from sim.tasks import ACTION_SCALE, CONTROL_PERIOD, OBJECT_COORDINATES, ROBOT_JOINTS

KITCHEN = Robot(
    task_family="kitchen",
    observation=ROBOT_JOINTS + OBJECT_COORDINATES,
    observation_units=(
        *("rad",) * 7,  # arm
        *("m",) * 2,  # fingers
        *("rad", "m") * 4,  # knobs and their burners
        *("rad", "m"),  # light switch and light
        *("m", "rad", "rad", "rad"),  # slide cabinet, two hinges, microwave
        *("m",) * 3 + ("1",) * 4,  # kettle: place, quaternion
    ),
    joint_names=ROBOT_JOINTS,
    action_scale=(ACTION_SCALE,) * len(ROBOT_JOINTS),
    action_units=("rad/s",) * 7 + ("m/s",) * 2,
    action_limits=(-1.0, 1.0),
    control_rate_hz=1.0 / CONTROL_PERIOD,
)
"""The Franka arm of the kitchen, as `sim` has it."""

MAZE = Robot(
    task_family="maze",
    observation=("x", "y", "velocity_x", "velocity_y"),
    observation_units=("m", "m", "m/s", "m/s"),
    joint_names=("x", "y"),
    action_scale=(GEAR, GEAR),
    action_units=("N", "N"),
    action_limits=(-1.0, 1.0),
    control_rate_hz=1.0 / maze_tasks.CONTROL_PERIOD,
)
"""The ball in the maze, which forces move."""

ROBOTS = {robot.task_family: robot for robot in (KITCHEN, MAZE)}
