"""Plays a scenario in a process of its own, in the namespaces it needs; nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from simpl.faults.places import missing, namespaces
from simpl.faults.scenario import OUTCOME, Outcome, Scenario

LIMIT, LONG_LIMIT = 1200.0, 7200.0
"""Longest time for one scenario, and for one of endurance [s]; each of its waits has a shorter one."""


def play_apart(scenario: Scenario, folder: Path, portion: float = 1.0) -> Outcome:
    """Play a scenario in a process of its own; its files go below `folder`, which is created.

    Of one of endurance, `portion` is played. Where the graph did not get going, so that the fault was never done, it is
    played once more.
    """
    why = missing(scenario.needs)
    if why:
        return Outcome.of(scenario, left_out=why)
    outcome = _play(scenario, folder, portion)
    return outcome if outcome.struck else _play(scenario, folder / "again", portion)


def _play(scenario: Scenario, folder: Path, portion: float) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    what = [scenario.name, str(folder), str(portion)]
    command = [*namespaces(scenario.needs), sys.executable, "-m", "simpl.faults.run_one", *what]
    with (folder / "harness.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LONG_LIMIT if scenario.endurance else LIMIT)
    finally:  # also after Ctrl-C: the nodes are in the session of the scenario
        _end_session(process)
    try:
        document: dict[str, Any] = json.loads((folder / OUTCOME).read_text())
    except (OSError, ValueError):
        tail = (folder / "harness.log").read_text(errors="replace")[-2000:]
        return Outcome.of(scenario, seen=f"the harness ended with status {process.returncode}", tail=tail)
    document.pop("verdict")
    return Outcome(**document)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it left nothing behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
