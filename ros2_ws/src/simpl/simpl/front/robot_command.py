"""`simpl robot`: the profiles there are, what one says, whether a running robot is like it, its access policies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from simpl.core.profile import RobotProfile, load_profile
from simpl.core.profile_files import find_profile, installed_profiles
from simpl.core.robot_check import ERROR, OK, WARNING, check_robot
from simpl_core.errors import ConfigError

_MARKS = {OK: "[green]ok[/]", WARNING: "[yellow]look[/]", ERROR: "[red]wrong[/]"}


@dataclass(frozen=True)
class RobotSettings:
    """List robot profiles, show one, compare one with a running robot, or print access policies of SROS 2 for it.

    Example: simpl robot check franka_fr3
    """

    action: Annotated[Literal["list", "show", "check", "policies"], tyro.conf.Positional]
    """What to do."""
    profile: Annotated[str, tyro.conf.Positional] = ""
    """Name of a profile, or path of one that ends in .yaml."""
    namespace: str = ""
    """check, policies: ROS namespace of the robot's topics."""
    seconds: float = 4.0
    """check: how long to listen."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_robot(self)


def run_robot(settings: RobotSettings, console: Console | None = None) -> int:
    """Do it: 0, or 1 where something is wrong with the robot.

    Raises:
        ConfigError: there is no such profile, or something is wrong in it.
    """
    console = console or Console()
    if settings.action == "list":
        return _list(console)
    if not settings.profile:
        raise ConfigError(f"name a profile: simpl robot {settings.action} PROFILE; `simpl robot list` shows them")
    profile = load_profile(find_profile(settings.profile))
    if settings.action == "show":
        return _show(profile, console)
    if settings.action == "policies":
        from simpl.access import render_policies  # loads ROS

        console.out(render_policies(profile, settings.namespace), end="", highlight=False)
        return 0
    return _check(profile, settings, console)


def _list(console: Console) -> int:
    table = Table("profile", "joints", "control", "commands", "what", box=None)
    for name, path in sorted(installed_profiles().items()):
        robot = load_profile(path)
        rate = f"{robot.control_rate_hz:g} Hz"
        table.add_row(name, str(len(robot.joints)), rate, robot.command.interface, robot.description)
    console.print(table)
    return 0


def _show(profile: RobotProfile, console: Console) -> int:
    sheet = profile.datasheet
    console.print(f"[bold]{profile.name}[/]: {profile.description}")
    console.print(f"  held against   {sheet.source if sheet else 'no data sheet'}", highlight=False)
    states = f", {profile.state_rate_hz:g} Hz" if profile.state_rate_hz else ""
    console.print(f"  joint states   {profile.topics.joint_states}{states}", highlight=False)
    console.print(f"  object states  {profile.topics.object_states if profile.objects else 'none'}", highlight=False)
    command = f"{profile.command.topic}, {profile.command.interface}, {profile.control_rate_hz:g} Hz"
    console.print(f"  commands       {command}", highlight=False)
    box = profile.workspace
    walls = " x ".join(f"{low:g}..{high:g}" for low, high in zip(box.low, box.high, strict=True)) if box else "no"
    console.print(f"  workspace      {walls}{' m' if box else ' limit'}", highlight=False)
    table = Table("joint", "position", "velocity", "acceleration", "jerk", "home", box=None)
    low, high = profile.position_bounds()
    for index, joint in enumerate(profile.joints):
        rating = sheet.joints[index] if sheet and index < len(sheet.joints) else None
        span = f"{low[index]:.3f} to {high[index]:.3f} {joint.unit}" if math.isfinite(low[index]) else "free"
        table.add_row(
            joint.name,
            span,
            _limit(joint.velocity, rating and rating.velocity),
            _limit(joint.acceleration, rating and rating.acceleration),
            _limit(joint.jerk, rating and rating.jerk),
            f"{profile.home[index]:.3f}" if profile.home else "",
        )
    console.print(table)
    return 0


def _limit(value: float | None, most: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:g}" + (f" ({100.0 * value / most:.0f} %)" if most else "")


def _check(profile: RobotProfile, settings: RobotSettings, console: Console) -> int:
    from simpl.front.robot_probe import look

    findings = check_robot(profile, look(profile, settings.namespace, settings.seconds))
    table = Table(box=None, show_header=False)
    for level, text, remedy in findings:
        table.add_row(_MARKS[level], text + (f"\n[dim]{remedy}[/]" if remedy else ""))
    console.print(table)
    wrong = sum(finding.level == ERROR for finding in findings)
    console.print(f"{wrong} wrong" if wrong else f"{profile.name}: the robot is as the profile says")
    return int(wrong > 0)
