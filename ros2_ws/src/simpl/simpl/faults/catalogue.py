"""All scenarios, in the order of the table."""

from __future__ import annotations

from simpl.faults import (
    book_faults,
    endurance_faults,
    fuzz_faults,
    model_faults,
    process_faults,
    sensor_faults,
    swap_faults,
)
from simpl.faults.scenario import Scenario

SCENARIOS = {
    one.name: one
    for part in (process_faults, sensor_faults, book_faults, model_faults, endurance_faults, swap_faults, fuzz_faults)
    for one in vars(part).values()
    if isinstance(one, Scenario)
}
"""By name."""
