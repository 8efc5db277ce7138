"""Plays one scenario: `python -m simpl.faults.run_one NAME FOLDER PORTION`; the outcome goes to FOLDER/outcome.json."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

from simpl.faults.catalogue import SCENARIOS
from simpl.faults.places import Wire, isolate_shared_memory
from simpl.faults.scenario import OUTCOME, Outcome, Scenario, UnexpectedError
from simpl.faults.stage import Stage
from simpl.front.supervisor import log_tail


def play(scenario: Scenario, folder: Path, portion: float, domain: int | None = None) -> Outcome:
    """Play a scenario in this process, which is in the namespaces it needs; whatever happens, nothing stays behind."""
    outcome = Outcome.of(scenario)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        wire = None
        if scenario.needs == "network":
            # Nothing leaves the namespaces, whatever is said within.
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
            isolate_shared_memory()
            wire = stack.enter_context(Wire())
        stage = Stage(folder, domain, wire, portion)
        stack.callback(stage.rig.close)
        try:
            outcome.seen, outcome.reached = scenario.play(stage), True
        except (UnexpectedError, TimeoutError) as error:
            outcome.seen = str(error)
        except Exception:  # noqa: BLE001  a scenario that breaks is a scenario that failed; the others go on
            outcome.seen = traceback.format_exc()
        outcome.struck = stage.struck
        outcome.time_to_zero, outcome.lost, outcome.duplicated = stage.time_to_zero, stage.lost, stage.duplicated
        outcome.audit, outcome.figures = stage.audit.document() if stage.audit else {}, stage.figures
        if stage.unheard:
            outcome.seen += f" (the arm missed {stage.unheard} commands, so its record was no judge)"
        if not outcome.sound:
            logs = sorted(stage.logs.glob("*.log"))
            outcome.tail = "\n".join(f"--- {log.name}\n{log_tail(log, 30)}" for log in logs)
    outcome.wall_seconds = time.monotonic() - begun
    return outcome


def main() -> int:
    """Play the scenario named on the command line."""
    name, folder, portion = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    given = os.environ.get("ROS_DOMAIN_ID", "")
    outcome = play(SCENARIOS[name], folder, portion, int(given) if given.isdecimal() else None)
    (folder / OUTCOME).write_text(json.dumps(outcome.document()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
