"""Builds the ROS workspace: `python ros2_ws/build.py`.

With a ROS 2 distribution sourced (`ROS_DISTRO` is set) this is plain `colcon build` into `ros2_ws/install`.
Without one the workspace is built against the ROS wheels of the virtual environment whose Python runs this
file, and installed into that environment, so that imports and executables work with nothing to source.

The wheels were built elsewhere: their CMake files name the Python and numpy headers of the machine that built
them. Those paths are replaced before the build; doing so again changes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent
NUMPY_HEADERS = re.compile(r"/opt/python/[^;\"\s]+/numpy/_core/include")
PYTHON_HEADERS = re.compile(r"/opt/python/[^;\"\s/]+/include/python3\.\d+")


class BuildError(Exception):
    """Something this machine lacks; the message says what and how to get it."""


def main() -> int:
    """Builds for the distribution that is sourced, or else for the wheels in this environment."""
    parser = argparse.ArgumentParser(description="Build the ROS workspace of SiMPL.")
    parser.add_argument("--clean", action="store_true", help="build from nothing")
    arguments = parser.parse_args()
    if arguments.clean:
        for folder in ("build", "install", "log"):
            shutil.rmtree(WORKSPACE / folder, ignore_errors=True)
    try:
        if os.environ.get("ROS_DISTRO"):
            build_for_distribution(os.environ["ROS_DISTRO"])
        else:
            build_for_wheels(Path(sys.prefix))
    except BuildError as error:
        print(f"ros2_ws/build.py: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"ros2_ws/build.py: colcon failed ({error.returncode}); its log is above", file=sys.stderr)
        return 1
    return 0


def build_for_distribution(name: str) -> None:
    """Runs `colcon build` against the installed distribution.

    Raises:
        BuildError: colcon is not installed.
    """
    colcon_script = shutil.which("colcon")
    if colcon_script is None:
        raise BuildError(f"ROS 2 {name} is sourced without colcon: apt-get install python3-colcon-common-extensions")
    environment = dict(os.environ)
    if sys.prefix != sys.base_prefix:
        environment["VIRTUAL_ENV"] = sys.prefix  # the nodes' executables name it, see `setup.py` of package simpl
    subprocess.run([colcon_script, "build", "--symlink-install"], cwd=WORKSPACE, env=environment, check=True)


def build_for_wheels(prefix: Path) -> None:
    """Builds both packages against the ROS wheels in `prefix` and installs them there.

    Args:
        prefix: root of the virtual environment.

    Raises:
        BuildError: not a virtual environment, the wheels are missing, or there is no C++ compiler.
    """
    check_environment(prefix)
    patched = repair_header_paths(prefix)
    print(f"ROS wheels in {prefix}: {patched} CMake files repaired", flush=True)
    environment = build_environment(prefix)
    # The interfaces are compiled and copied. The Python package is linked, so that edits take effect at once.
    colcon(["--paths", "src/simpl_interfaces", "--cmake-args", *cmake_arguments()], prefix, environment)
    colcon(["--paths", "src/simpl", "--symlink-install"], prefix, environment)
    link = Path(sysconfig.get_path("purelib"), "simpl-ros-workspace.pth")
    link.write_text(f"{WORKSPACE / 'build' / 'simpl'}\n", encoding="utf-8")


def check_environment(prefix: Path) -> None:
    """Raises BuildError with the remedy when the machine cannot build."""
    if prefix == Path(sys.base_prefix):
        raise BuildError(f"{sys.executable} is no virtual environment and no ROS distribution is sourced: `make ros`")
    if not (prefix / "share" / "rclpy").is_dir() or not (prefix / "bin" / "colcon").exists():
        raise BuildError(f"ROS wheels or colcon are missing in {prefix}: `make ros`, or pip install '.[ros,ros-build]'")
    if shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None:
        raise BuildError("no C++ compiler found (c++, g++, or $CXX): apt-get install g++")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise BuildError(f"no Python.h in {sysconfig.get_path('include')}: apt-get install python3-dev")


def repair_header_paths(prefix: Path) -> int:
    """Points the wheels' CMake files to the headers of this Python and this numpy.

    Args:
        prefix: root of the virtual environment.

    Returns:
        How many files changed: 0 the second time.
    """
    import numpy  # here, because a machine with a distribution may build without it

    changed = 0
    for path in sorted((prefix / "share").glob("*/cmake/*.cmake")):
        text = path.read_text(encoding="utf-8")
        new = NUMPY_HEADERS.sub(numpy.get_include(), text)
        new = PYTHON_HEADERS.sub(sysconfig.get_path("include"), new)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed += 1
    return changed


def build_environment(prefix: Path) -> dict[str, str]:
    """Environment for colcon: the wheels' prefix first on every search path."""
    environment = dict(os.environ)
    environment["PATH"] = f"{prefix / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["AMENT_PREFIX_PATH"] = str(prefix)
    environment["CMAKE_PREFIX_PATH"] = str(prefix)
    environment["COLCON_DEFAULTS_FILE"] = os.devnull  # a user's defaults must not change the layout
    environment["MAKEFLAGS"] = f"-j{os.cpu_count() or 2}"  # colcon's own choice waits while the machine is busy
    environment["PYTHONWARNINGS"] = "ignore"  # setuptools' notice on `develop`, which colcon relies on
    for name in ("PYTHONPATH", "COLCON_PREFIX_PATH"):
        environment.pop(name, None)
    return environment


def cmake_arguments() -> list[str]:
    """Pins Python to the one running this file, also where CMake would find another; joins sources to save time."""
    python = [f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY"]
    joined = ["-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=20"]
    return [*python, *joined, "-DBUILD_TESTING=OFF", "-Wno-dev"]


def colcon(arguments: list[str], prefix: Path, environment: dict[str, str]) -> None:
    """Runs one `colcon build` that installs straight into the virtual environment."""
    command = [str(prefix / "bin" / "colcon"), "build", "--merge-install", "--install-base", str(prefix)]
    subprocess.run([*command, *arguments], cwd=WORKSPACE, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
