"""All scenarios, in the order of the table."""

from __future__ import annotations

from simpl.faults import book_faults, model_faults, process_faults, sensor_faults
from simpl.faults.scenario import Scenario

SCENARIOS = {
    one.name: one
    for part in (process_faults, sensor_faults, book_faults, model_faults)
    for one in vars(part).values()
    if isinstance(one, Scenario)
}
"""By name."""
