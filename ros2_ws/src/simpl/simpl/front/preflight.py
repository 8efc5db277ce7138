"""What is checked before anything starts, so that a run does not fail minutes later for a reason known at once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpl.front.run_report import REPORT, load_report
from simpl.front.supervisor import installed_executable
from simpl.graph import AdaptSettings, NodeSpec, adapt_graph
from simpl_core.errors import ConfigError, EnvironmentMissingError

if TYPE_CHECKING:
    from export.bundle import Bundle

DISK_NEEDED = 500 * 2**20
"""Free space a run asks for [bytes]; one of 70 episodes writes about a tenth of it."""
DOMAINS_TRIED = 10
"""ROS domains that are tried, from 0, when the user names none."""


@dataclass(frozen=True)
class Ready:
    """Everything a run needs, checked."""

    bundle: Bundle
    """The verified bundle to start from."""
    run_folder: Path
    """Existing, writable, absolute."""
    specs: list[NodeSpec]
    """The node graph."""
    domain_id: int
    """ROS domain of the run."""
    notes: list[str]
    """What a person should know beforehand."""
    video: bool
    """Whether a video can be and is to be made."""


def preflight(settings: AdaptSettings) -> Ready:
    """Check everything.

    Raises:
        SimplError: the first thing that is wrong, in one line.
    """
    from export.bundle import Bundle  # onnxruntime, which the Python that runs `ros2 launch` need not have

    check_ros()
    bundle = Bundle.open(settings.bundle or shipped_bundle())
    bundle.path("learner")  # refuses a bundle without the checkpoint that fine-tuning starts from
    run_folder = prepare_run_folder(settings.out)
    specs = adapt_graph(settings, bundle.folder.resolve(), run_folder)
    for spec in specs:
        installed_executable(spec)
    video, notes = video_possible(settings)
    domain_id, domain_notes = choose_domain(specs)
    return Ready(bundle, run_folder, specs, domain_id, [*notes, *domain_notes], video)


def check_ros() -> None:
    """Raises EnvironmentMissingError when this Python cannot talk ROS; says how to get it."""
    remedy = "`make ros`" + (", then source ros2_ws/install/setup.bash" if os.environ.get("ROS_DISTRO") else "")
    for module in ("rclpy", "simpl_interfaces"):
        if importlib.util.find_spec(module) is None:
            raise EnvironmentMissingError(f"the ROS workspace is not there: no Python module {module}; run {remedy}")


def shipped_bundle() -> Path:
    """Folder of the bundle that comes with the project."""
    import export

    return Path(export.__file__).resolve().parent / "bundles" / "kitchen"


def prepare_run_folder(out: Path | None) -> Path:
    """Create the run's folder and prove that it can be written. One that holds an unfinished run is continued.

    Args:
        out: as the user gave it; runs/adapt/<time> when None.

    Returns:
        Absolute path.

    Raises:
        ConfigError: it holds a finished run, cannot be written, or the disk is nearly full.
    """
    folder = (out or Path("runs") / "adapt" / time.strftime("%Y-%m-%d_%H-%M-%S")).expanduser().absolute()
    if (folder / REPORT).exists() and not load_report(folder).interrupted:
        raise ConfigError(f"{folder} holds a finished run; choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error
    free = shutil.disk_usage(folder).free
    if free < DISK_NEEDED:
        raise ConfigError(f"{free // 2**20} MB are free where {folder} lies; a run asks for {DISK_NEEDED // 2**20} MB")
    return folder


def video_possible(settings: AdaptSettings) -> tuple[bool, list[str]]:
    """Whether a video is wanted and can be drawn here, and what to say about it beforehand."""
    if not (settings.video and settings.use_sim):
        return False, []
    from sim.render import check_opengl

    try:
        check_opengl()
    except EnvironmentMissingError as error:
        return False, [f"there will be no video of the best episode: {error}"]
    return True, []


def choose_domain(
    specs: Sequence[NodeSpec], running: Callable[[int], Sequence[str]] | None = None
) -> tuple[int, list[str]]:
    """The ROS domain to run in: the user's ROS_DOMAIN_ID, else 0, where any `ros2` command line looks.

    Two graphs with the same node names in one domain would command each other's arm, so a domain where our names
    are taken is not used.

    Args:
        specs: the nodes to be started.
        running: lists full names of the nodes in a domain; asks ROS by default.

    Returns:
        Domain, and what to tell the user about it.

    Raises:
        ConfigError: ROS_DOMAIN_ID is no number from 0 to 232, or our names are taken there.
    """
    look = running or _nodes_in
    ours = {f"/{spec.namespace}/{spec.name}".replace("//", "/") for spec in specs}
    given = os.environ.get("ROS_DOMAIN_ID", "").strip()
    if given:
        if not given.isdecimal() or int(given) > 232:
            raise ConfigError(f"ROS_DOMAIN_ID is {given!r}; a number from 0 to 232 is wanted")
        taken = ours.intersection(look(int(given)))
        if taken:
            raise ConfigError(
                f"in ROS domain {given} there are nodes already called {', '.join(sorted(taken))}: another run? "
                "Choose another ROS_DOMAIN_ID or --namespace"
            )
        return int(given), []
    for domain in range(DOMAINS_TRIED):
        if not ours.intersection(look(domain)):
            if domain == 0:
                return 0, []
            return domain, [
                f"another run is in ROS domain 0; this one takes domain {domain} "
                f"(to look at it: export ROS_DOMAIN_ID={domain})"
            ]
    raise ConfigError(f"runs are going on in all ROS domains from 0 to {DOMAINS_TRIED - 1}; set ROS_DOMAIN_ID yourself")


def _nodes_in(domain: int) -> list[str]:
    from simpl.front.monitor import running_nodes  # loads rclpy

    return running_nodes(domain)
