"""ROS package `simpl`: five nodes, their configuration, and the launch files (`launch` links to the repository's)."""

from pathlib import Path

from setuptools import find_packages, setup

NODES = ("policy", "guard", "bridge", "learner", "arm_sim")

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
        ("share/simpl/launch", sorted(map(str, Path("launch").glob("*.launch.py")))),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    entry_points={"console_scripts": [f"{node} = simpl.nodes.{node}:main" for node in NODES]},
)
