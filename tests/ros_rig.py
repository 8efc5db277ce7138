"""For tests of real nodes: the rig of the fault harness."""

from simpl.faults.rig import PATIENCE, Log, RosRig, wait_for

__all__ = ["PATIENCE", "Log", "RosRig", "wait_for"]
