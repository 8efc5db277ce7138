"""The commands that the `simpl` command line has only when the ROS workspace is built."""

from __future__ import annotations

from dataclasses import dataclass

from simpl.front.report_command import ReportSettings
from simpl.front.robot_command import RobotSettings
from simpl.graph import AdaptSettings


@dataclass(frozen=True)
class Adapt(AdaptSettings):
    """Adapt a bundled model to one unseen task: runs the whole ROS graph, on a simulated arm or a real one."""

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.adapt_command import run_adapt

        return run_adapt(self)


@dataclass(frozen=True)
class Report(ReportSettings):
    """Make picture, video and table of a run again from its folder."""

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.report_command import run_report

        return run_report(self)


@dataclass(frozen=True)
class Robot(RobotSettings):
    """List robot profiles, show one, or compare one with a running robot.

    Example: simpl robot check franka_fr3
    """

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.robot_command import run_robot

        return run_robot(self)
