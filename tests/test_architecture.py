"""What may import what, and how large things may grow: the rules of ARCHITECTURE.md, kept by reading the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROS_PACKAGE = ROOT / "ros2_ws" / "src" / "simpl"
ROS_LIBRARIES = {"rclpy", "rcl_interfaces", "lifecycle_msgs", "sensor_msgs", "std_msgs", "std_srvs", "rosgraph_msgs"}
ROS = ROS_LIBRARIES | {"builtin_interfaces", "diagnostic_msgs", "simpl_interfaces", "launch", "launch_ros"}
PHYSICS = {"mujoco", "gymnasium_robotics"}

# Modules that a module or package must not import, wherever in the file the import stands; first match decides.
FORBIDDEN: list[tuple[str, set[str]]] = [
    ("simpl_core.cli", ROS | PHYSICS),  # the composition root: it may know everything but the drivers beneath
    ("simpl_core.cli_collect", ROS | PHYSICS),
    ("simpl_core.domains", ROS | PHYSICS),
    ("simpl_core.errors", ROS | PHYSICS | {"torch", "sim", "export", "simpl"}),
    ("simpl_core.episode", ROS | PHYSICS | {"torch", "sim", "export", "simpl"}),
    ("simpl_core", ROS | PHYSICS | {"gymnasium", "sim", "export", "simpl"}),
    ("sim", ROS | {"torch", "onnxruntime", "export", "simpl"}),
    ("export.to_onnx", ROS | PHYSICS | {"simpl"}),
    ("export.graphs", ROS | PHYSICS | {"simpl", "sim"}),
    ("export", ROS | PHYSICS | {"torch", "onnx", "simpl"}),
    ("simpl.core.learner_session", ROS | PHYSICS),
    ("simpl.core", ROS | PHYSICS | {"torch"}),
    ("simpl.graph", ROS | PHYSICS | {"torch"}),
    ("simpl.nodes.arm_sim", PHYSICS | {"torch"}),  # MuJoCo is reached through `sim`
    ("simpl.nodes.learner", PHYSICS | {"launch", "launch_ros"}),
    ("simpl", PHYSICS | {"torch"}),
    ("launch", PHYSICS | {"torch", "rclpy", "sim"}),
]

# Imports within simpl_core point downwards: a module may import what stands in an earlier row, never a later one.
LAYERS = [
    {
        "errors",
        "provenance",
        "resume",
        "metrics",
        "plots",
        "plots_bench",
        "plots_maze",
        "plots_skills",
        "plots_training",
        "dataset_minari",
    },
    {"workers"},
    {"config", "episode", "dataset", "results"},
    {"dataset_writer"},
    {"windows"},
    {"distributions"},
    {"networks"},
    {"equations", "checkpoint", "buffer"},
    {"learner"},
    {"stacked"},
    {"rollout", "training_report", "workers_ray"},
    {"agents", "agents.simpl", "agents.spirl"},
    {"skills", "meta_train", "adapt"},
    {"evaluate", "skills_report"},
    {"domains", "cli_settings", "bench"},
    {"bench_rollouts", "bench_steps"},
    {"bench_scaling"},
    {"cli_bench", "cli_collect", "cli_plot", "cli_reproduce", "cli_results", "cli_rollout", "cli_skills"},
    {"cli"},
    {"__main__"},
]

# A file of this name inside a package reads like the library, and is it in a wrong import.
OWNED_NAMES = {"onnx", "mujoco", "torch", "numpy", "gymnasium", "rclpy", "rich", "tyro", "math", "logging", "random"}

LONGEST_FILE = 400  # lines; around 300 is the aim
LONGEST_FUNCTION = 60
MOST_ARGUMENTS = 7


class Module(NamedTuple):
    """A source file and its dotted name."""

    name: str
    path: Path
    tree: ast.Module


def _modules() -> Iterator[Module]:
    trees = [(ROOT, "simpl_core"), (ROOT, "sim"), (ROOT, "export"), (ROOT, "launch"), (ROS_PACKAGE, "simpl")]
    for base, package in trees:
        for path in sorted((base / package).rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            yield Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))


MODULES = {module.name: module for module in _modules()}
BUILD_TOOL = ROOT / "ros2_ws" / "build.py"
HAND_WRITTEN = [*MODULES.values(), Module("build", BUILD_TOOL, ast.parse(BUILD_TOOL.read_text(encoding="utf-8")))]


def _imports(tree: ast.AST) -> set[str]:
    """Dotted names that a piece of code imports: `from a import b` counts as `a` and, if there is one, module `a.b`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}: names are written in full here"
            found.add(node.module or "")
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(name for name in names if name in MODULES)
    return found


def _imports_at_start(tree: ast.Module) -> set[str]:
    """As `_imports`, without those inside functions and under `if TYPE_CHECKING`."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]
    return _imports(ast.Module(kept, []))


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_rules_cover_every_module() -> None:
    assert len(MODULES) > 50
    unruled = [name for name in MODULES if not any(_is_in(name, package) for package, _ in FORBIDDEN)]
    assert not unruled


@pytest.mark.parametrize("name", MODULES)
def test_no_forbidden_import(name: str) -> None:
    forbidden = next(modules for package, modules in FORBIDDEN if _is_in(name, package))
    wrong = {wanted for wanted in _imports(MODULES[name].tree) if wanted.split(".")[0] in forbidden}
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_physics_is_imported_in_sim_only() -> None:
    users = {name for name, module in MODULES.items() if {n.split(".")[0] for n in _imports(module.tree)} & PHYSICS}
    assert users
    assert all(name.startswith("sim.") for name in users), users


def test_ros_is_imported_in_the_workspace_and_launch_files_only() -> None:
    users = {name for name, module in MODULES.items() if {n.split(".")[0] for n in _imports(module.tree)} & ROS}
    assert "simpl.nodes.guard" in users
    assert all(name.split(".")[0] in ("simpl", "launch") for name in users), users


def test_layers_of_simpl_core_point_one_way() -> None:
    rank = {f"simpl_core.{name}": row for row, names in enumerate(LAYERS) for name in names}
    unknown = [n for n in MODULES if n.startswith("simpl_core.") and n not in rank]
    assert not unknown, f"give {unknown} a place in LAYERS"
    upward = [
        f"{name} imports {wanted}"
        for name, row in rank.items()
        if name in MODULES
        for wanted in _imports(MODULES[name].tree)
        if rank.get(wanted, -1) > row
    ]
    assert not upward


def test_no_import_cycle() -> None:
    graph = {name: _imports_at_start(module.tree) & MODULES.keys() for name, module in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for wanted in sorted(graph[name] - {name}):
                visit(wanted, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        (
            "sim, sim.tasks, sim.maze_tasks, simpl_core.episode, simpl_core.errors",
            {"torch", "mujoco", "gymnasium", "h5py", "rclpy"},
        ),
        ("export, export.bundle, export.runtime", {"torch", "onnx", "mujoco", "gymnasium", "rclpy"}),
        ("simpl_core.cli", {"torch", "mujoco", "rclpy", "matplotlib"}),
        ("simpl.nodes.policy, simpl.nodes.guard, simpl.nodes.bridge", {"torch", "onnx", "mujoco", "gymnasium"}),
        ("simpl.nodes.learner", {"mujoco", "gymnasium"}),
        ("simpl.nodes.arm_sim", {"torch", "onnxruntime"}),
        ("simpl.graph", {"torch", "mujoco", "rclpy", "launch"}),
    ],
)
def test_what_a_fresh_process_has_loaded(imports: str, absent: set[str]) -> None:
    """The rule above reads sources; this one asks Python, so that no detour through another module escapes."""
    if "simpl.nodes" in imports:
        pytest.importorskip("rclpy")
    code = f"import sys, {imports}; print(*sorted({absent!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize("module", HAND_WRITTEN, ids=lambda module: module.name)
def test_size(module: Module) -> None:
    lines = len(module.path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{module.path.relative_to(ROOT)} has {lines} lines: split it"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        assert length < LONGEST_FUNCTION, f"{module.name}.{node.name} has {length} lines"
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        assert count <= MOST_ARGUMENTS, f"{module.name}.{node.name} has {count} arguments: pass a named whole"


def test_names() -> None:
    assert not [name for name in MODULES if "." in name and name.split(".")[-1] in OWNED_NAMES]
    for folder in ("launch", "tests"):
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py would shadow a package of that name"
