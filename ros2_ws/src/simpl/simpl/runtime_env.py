"""Environment variables that ROS needs before it is started.

Call `prepare()` at the top of a program that starts ROS. A robot on a network is opted into, never a default:
whatever the user has set stays as it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping


def prepare() -> None:
    """Sets what is missing in this process: local discovery, a home for log files."""
    os.environ.update(missing_defaults(os.environ))


def missing_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `environment`; those it has are respected.

    Nothing leaves the machine by default: ROS otherwise announces itself by multicast to the whole network, and two
    labs with one domain number drive each other's arms.
    """
    wanted = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "HOME": tempfile.gettempdir()}
    if environment.get("ROS_DISTRO") == "humble":  # older than the variable above
        wanted["ROS_LOCALHOST_ONLY"] = "1"
    return {name: value for name, value in wanted.items() if not environment.get(name)}
