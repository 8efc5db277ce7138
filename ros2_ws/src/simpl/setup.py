"""ROS package `simpl`: its nodes, their configuration, and the launch files (`launch` links to the repository's)."""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

NODES = ("policy", "guard", "bridge", "learner", "record", "arm_sim", "franka_fci")
REPOSITORY = Path(__file__).resolve().parents[3]


def nodes_python() -> str:
    """The Python that the nodes' executables name: one that has simpl_core and its needs.

    A distribution's colcon runs in the system's Python, which lacks them. So a virtual environment is preferred: the
    one that colcon runs in, the active one, or `.venv` beside this workspace.
    """
    active = os.environ.get("VIRTUAL_ENV")
    candidates = [Path(sys.executable).parents[1], *([Path(active)] if active else []), REPOSITORY / ".venv"]
    environments = [folder for folder in candidates if (folder / "pyvenv.cfg").is_file()]
    return str(environments[0] / "bin" / "python") if environments else sys.executable


# What setuptools writes into the executables' first line. Its option for that, build_scripts.executable, is not read
# by `develop`, which colcon's --symlink-install uses.
sys.executable = nodes_python()

setup(
    name="simpl",
    version="0.1.0",
    description="SiMPL on a robot: policy, guard, bridge and learner nodes, and a simulated arm to try them on.",
    maintainer="SiMPL founders",
    maintainer_email="maintainers@simpl.invalid",
    license="MIT",
    packages=find_packages(include=["simpl", "simpl.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/simpl"]),
        ("share/simpl", ["package.xml"]),
        ("share/simpl/config", sorted(map(str, Path("config").glob("*.yaml")))),
        ("share/simpl/config/datasheets", sorted(map(str, Path("config/datasheets").glob("*.yaml")))),
        ("share/simpl/launch", sorted(map(str, Path("launch").glob("*.launch.py")))),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    entry_points={"console_scripts": [f"{node} = simpl.nodes.{node}:main" for node in NODES]},
)
