"""The commands that the `simpl` command line has when the ROS workspace is built."""

from __future__ import annotations

from dataclasses import dataclass

from simpl.front.audit_command import AuditSettings
from simpl.front.faults_command import FaultsSettings
from simpl.front.record_command import RecordSettings, ReplaySettings
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
class Audit(AuditSettings):
    """Was anything lost? Compares the plant's own record, the robot's journal and the learner's store of a run."""

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.audit_command import run_audit

        return run_audit(self)


@dataclass(frozen=True)
class Faults(FaultsSettings):
    """Kill, stop, fill, cut and break things in real node graphs; a table of what was expected and what was seen."""

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.faults_command import run_faults

        return run_faults(self)


@dataclass(frozen=True)
class Record(RecordSettings):
    """Record the graph's topics to an MCAP file until Ctrl-C."""

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.record_command import run_record

        return run_record(self)


@dataclass(frozen=True)
class Replay(ReplaySettings):
    """Publish a recording's messages again, or print them."""

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.record_command import run_replay

        return run_replay(self)


@dataclass(frozen=True)
class Robot(RobotSettings):
    """List robot profiles, show one, or compare one with a running robot.

    Example: simpl robot check franka_fr3
    """

    def run(self) -> int:
        """Run it; the process's exit status."""
        from simpl.front.robot_command import run_robot

        return run_robot(self)


COMMANDS = {
    "adapt": Adapt,
    "audit": Audit,
    "faults": Faults,
    "record": Record,
    "replay": Replay,
    "report": Report,
    "robot": Robot,
}
