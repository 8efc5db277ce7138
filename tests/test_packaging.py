"""What gets installed where, and what the build says on a machine that lacks something."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ROS_PACKAGE = ROOT / "ros2_ws" / "src" / "simpl"
VERSION = metadata.version("simpl-core")
REQUIREMENTS = [Requirement(text) for text in metadata.requires("simpl-core") or []]
UNPINNED = {"torch", "simpl-core"}  # chosen by the user; an extra that names another of our extras


def installed_with(*extras: str) -> set[str]:
    """Names that `pip install simpl-core[extras]` asks for."""
    environments = [{"extra": extra} for extra in ("", *extras)]
    return {r.name for r in REQUIREMENTS if r.marker is None or any(r.marker.evaluate(e) for e in environments)}


def pins() -> dict[str, str]:
    """Exact versions for this Python."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [r for r in found if r.marker is None or r.marker.evaluate()]
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in here}


def test_a_robot_gets_neither_torch_nor_a_simulator() -> None:
    robot = installed_with("robot")
    assert "onnxruntime" in robot
    assert not robot & {"torch", "mujoco", "gymnasium", "gymnasium-robotics", "h5py", "onnx", "matplotlib"}
    assert "torch" in installed_with("train")
    assert "mujoco" in installed_with("sim")


def test_everything_installed_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in REQUIREMENTS:
        name = canonicalize_name(requirement.name)
        if name in UNPINNED:
            continue
        assert name in pinned, f"{name} has no line in .ci/constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} against {pinned[name]}"


def test_importing_sim_registers_its_environment() -> None:
    code = "import gymnasium, sim; print(gymnasium.spec('simpl/Kitchen-v0').entry_point)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "sim.kitchen:KitchenEnv", result.stderr


def test_one_version_everywhere() -> None:
    for path in (ROS_PACKAGE / "package.xml", ROOT / "ros2_ws" / "src" / "simpl_interfaces" / "package.xml"):
        assert ElementTree.parse(path).findtext("version") == VERSION, path
    assert f'version="{VERSION}"' in (ROS_PACKAGE / "setup.py").read_text(encoding="utf-8")


def test_ros_dependencies_are_declared() -> None:
    """rosdep installs on a distribution what package.xml names: an import without a line there fails on a robot."""
    declared = {e.text for e in ElementTree.parse(ROS_PACKAGE / "package.xml").iter("exec_depend")}
    used: set[str] = set()
    for path in [*(ROS_PACKAGE / "simpl").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                used.update(alias.name.split(".")[0] for alias in node.names)
    ros = {n for n in used if n.endswith(("_msgs", "_srvs", "_interfaces")) or n in ("rclpy", "launch", "launch_ros")}
    assert "rclpy" in ros
    assert ros <= declared, f"missing in package.xml: {sorted(ros - declared)}"


def test_every_node_is_an_executable() -> None:
    entries = metadata.distribution("simpl").entry_points.select(group="console_scripts")
    assert {entry.name for entry in entries} == {
        "policy",
        "guard",
        "bridge",
        "learner",
        "record",
        "arm_sim",
        "franka_fci",
    }
    for entry in entries:
        module, function = entry.value.split(":")
        tree = ast.parse((ROS_PACKAGE / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, entry.value


@pytest.mark.parametrize(("kind", "source"), [("launch", ROOT / "launch"), ("config", ROS_PACKAGE / "config")])
def test_launch_and_config_files_are_installed(kind: str, source: Path) -> None:
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    shares = [Path(prefix, "share", "simpl", kind) for prefix in prefixes if Path(prefix, "share", "simpl").is_dir()]
    assert shares, "the ROS package is not built: make ros"
    wanted = {path.name for pattern in ("*.launch.py", "*.yaml") for path in source.glob(pattern)}
    assert wanted
    assert wanted <= {path.name for path in shares[0].iterdir()}, "not installed: make ros"


def test_launch_files_need_nothing_but_numpy_and_yaml() -> None:
    """`ros2 launch` runs in the distribution's own Python, which has these two (launch itself reads YAML), no more."""
    code = (
        "import sys, sysconfig, simpl.graph, simpl.runtime_env, simpl.front.preflight, simpl.front.supervisor\n"
        "site = sysconfig.get_path('purelib')\n"
        "files = {name.split('.')[0]: getattr(m, '__file__', None) or '' for name, m in sys.modules.items()}\n"
        "print(*sorted(name for name, file in files.items() if file.startswith(site) and '__editable__' not in name))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "numpy" in result.stdout
    # Loaded by any start of this Python; the last one where the extra `franka` is installed.
    ours = {"simpl", "simpl_core", "sim", "_distutils_hack", "ros_wheels_bootstrapper", "cmeel_pth"}
    assert set(result.stdout.split()) - ours == {"numpy", "yaml"}


def test_sourcing_the_workspace_shows_the_libraries_to_the_launch_files() -> None:
    relative = Path("share", "simpl_interfaces", "environment", "repository.dsv")
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    hooks = [Path(prefix) / relative for prefix in prefixes if (Path(prefix) / relative).is_file()]
    assert hooks, "the ROS workspace is not built: make ros"
    action, variable, folder = hooks[0].read_text(encoding="utf-8").strip().split(";")
    assert (action, variable) == ("prepend-non-duplicate", "PYTHONPATH")
    assert all(Path(folder, package, "__init__.py").is_file() for package in ("simpl_core", "sim", "export"))


def nodes_python(colcons_python: Path, active: Path | None) -> str:
    """The Python that the nodes' executables would name."""
    code = (
        f"import sys, setuptools; sys.executable = {str(colcons_python)!r}\n"
        "from distutils.core import run_setup\n"
        "run_setup('setup.py', stop_after='init')\n"
        "print(sys.executable)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"VIRTUAL_ENV": str(active)} if active else {}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, cwd=ROS_PACKAGE, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


def test_the_nodes_run_in_a_virtual_environment_though_colcon_does_not(tmp_path: Path) -> None:
    active, other, system = tmp_path / "active", tmp_path / "other", tmp_path / "usr"
    for folder in (active, other):
        folder.mkdir()
        (folder / "pyvenv.cfg").touch()
    assert nodes_python(system / "bin" / "python3", active) == str(active / "bin" / "python")
    assert nodes_python(other / "bin" / "python3", active) == str(other / "bin" / "python")
    beside = ROOT / ".venv" / "pyvenv.cfg"
    assert nodes_python(system / "bin" / "python3", None) == str(
        ROOT / ".venv" / "bin" / "python" if beside.is_file() else system / "bin" / "python3"
    )


@pytest.mark.slow
def test_wheel_holds_the_packages_and_their_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("simpl_core", "sim", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, "."], cwd=source, check=True, timeout=300)
    (wheel,) = tmp_path.glob("simpl_core-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"simpl_core", "sim", "export", f"simpl_core-{VERSION}.dist-info"}
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "export" / "bundles").rglob("*") if path.is_file()}
    assert data | {"simpl_core/py.typed", "simpl_core/agents/simpl.py"} <= names


# --- the tools that `make` calls ------------------------------------------------------------------------------------


def run_tool(name: str, *arguments: str, path: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": str(path)} if path else {})}
    for variable in ("ROS_DISTRO", "CC", "CXX"):
        environment.pop(variable, None)
    environment |= more
    command = [shutil.which("bash") or "bash", str(ROOT / ".ci" / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!{shutil.which('sh')}\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_python_that_will_do() -> None:
    assert run_tool("check-python", sys.executable).returncode == 0


def test_a_python_too_old(tmp_path: Path) -> None:
    old = script(tmp_path / "python3", "echo 3.9")
    result = run_tool("check-python", str(old))
    assert result.returncode == 1
    assert f"SiMPL needs Python 3.10 to 3.13; {old} is 3.9." in result.stderr


def test_a_python_the_distribution_was_not_built_for(tmp_path: Path) -> None:
    other = script(tmp_path / "python3", 'case "$2" in *rclpy*) exit 1 ;; *) echo 3.11 ;; esac')
    result = run_tool("check-python", str(other), ROS_DISTRO="kilted")
    assert result.returncode == 1
    assert f"ROS 2 kilted is sourced, but {other} (3.11) cannot import its rclpy." in result.stderr
    fitting = script(tmp_path / "python3", 'case "$2" in *rclpy*) exit 0 ;; *) echo 3.12 ;; esac')
    assert run_tool("check-python", str(fitting), ROS_DISTRO="kilted").returncode == 0


def test_no_python() -> None:
    result = run_tool("check-python", "no-such-python")
    assert result.returncode == 1
    assert "no-such-python is not found" in result.stderr


def bare_machine(folder: Path) -> Path:
    """A PATH with almost nothing on it: no compiler, no package manager, no root."""
    for tool in ("bash", "grep", "sh", "true"):
        (folder / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool}"))
    script(folder / "id", "echo 1000")
    script(folder / "make", "true")
    script(folder / "python3", f'exec {sys.executable} "$@"')
    return folder


def test_missing_compiler_is_named_with_its_remedy(tmp_path: Path) -> None:
    result = run_tool("system-packages", "python3", path=bare_machine(tmp_path))
    assert result.returncode == 1
    assert "SiMPL cannot be built here: missing g++" in result.stderr
    assert "apt-get install -y --no-install-recommends g++" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("made_for", "sourced", "wanted"),
    [
        ("stamps", "kilted", "--clear --system-site-packages"),
        ("stamps-humble", "jazzy", "--clear --system-site-packages"),
        ("stamps-humble", "", "--clear"),
    ],
)
def test_what_was_installed_for_another_ros_is_not_used(
    made_for: str, sourced: str, wanted: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    ignore = shutil.ignore_patterns("build", "install", "log", "__pycache__")
    for name in (".ci", "ros2_ws", "launch"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore, symlinks=True)
    done = tmp_path / ".venv" / made_for
    done.mkdir(parents=True)
    environment = {**os.environ, "ROS_DISTRO": sourced}
    if not sourced:
        del environment["ROS_DISTRO"]
    for stamp in ("venv", "packages", "ros"):
        (done / stamp).touch()
    result = subprocess.run(
        ["make", "-n", "install"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    (creation,) = [line.split() for line in result.stdout.splitlines() if " -m venv " in line]
    assert creation[3:] == [*wanted.split(), ".venv"]
    assert "rm -rf ros2_ws/build ros2_ws/install" in result.stdout


def test_whole_machine_needs_nothing(tmp_path: Path) -> None:
    folder = bare_machine(tmp_path)
    for tool in ("g++", "gcc"):
        script(folder / tool, "true")
    result = run_tool("system-packages", "python3", path=folder)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def build() -> ModuleType:
    specification = importlib.util.spec_from_file_location("build_ros", ROOT / "ros2_ws" / "build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_header_paths_are_repaired_once(build: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "share" / "some_msgs" / "cmake"
    folder.mkdir(parents=True)
    file = folder / "export.cmake"
    foreign = "/opt/python/cp311-cp311"
    file.write_text(
        f'set(A "{foreign}/include/python3.11;{foreign}/lib/python3.11/site-packages/numpy/_core/include;/usr/include")'
    )
    (folder / "other.cmake").write_text("set(B 1)")
    assert build.repair_header_paths(tmp_path) == 1
    repaired = file.read_text()
    assert "/opt/python" not in repaired
    assert all(Path(path).is_dir() for path in repaired.split('"')[1].split(";"))
    assert build.repair_header_paths(tmp_path) == 0
    assert file.read_text() == repaired


def test_build_without_wheels_says_so(build: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="ROS wheels or colcon are missing"):
        build.check_environment(tmp_path)


def test_build_without_compiler_says_so(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "colcon").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler found .*apt-get install g\+\+"):
        build.check_environment(tmp_path)
