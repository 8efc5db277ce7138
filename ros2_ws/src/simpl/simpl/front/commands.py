"""The commands that the `simpl` command line has when the ROS workspace is built."""

from __future__ import annotations

from dataclasses import dataclass

from simpl.front.audit_command import AuditSettings
from simpl.front.bench_command import BenchControl, BenchOnnx
from simpl.front.bench_stream import BenchStream
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


COMMANDS = {
    "adapt": Adapt,
    "audit": AuditSettings,
    "faults": FaultsSettings,
    "record": RecordSettings,
    "replay": ReplaySettings,
    "report": ReportSettings,
    "robot": RobotSettings,
}

BENCHES = {"control": BenchControl, "onnx": BenchOnnx, "stream": BenchStream}
"""Subcommands of `simpl bench`."""
