"""All scenarios, in the order of the table."""

from __future__ import annotations

from simpl.faults import book_faults, model_faults, process_faults, sensor_faults
from simpl.faults.scenario import SCENARIOS, Scenario

__all__ = ["PARTS", "SCENARIOS", "Scenario"]

PARTS = (process_faults, sensor_faults, book_faults, model_faults)
"""Modules whose functions they are."""
