"""The audit finds what was lost, stored twice, altered or made up, and is content with a run in which nothing was."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from simpl.core.audit import Audit, audit_run
from simpl.core.journal import Journal, read_records
from simpl.core.stream import TransitionStream
from simpl.core.transition import Transition, pack, unpack
from simpl.core.transition_store import TransitionStore
from simpl.front.audit_command import AuditSettings, run_audit
from simpl_core.errors import ConfigError

STEPS, EPISODES, PERIOD = 6, 4, 80_000_000
RNG = np.random.default_rng(0)


def step_of(episode: int, step: int, stamp: int, velocity: np.ndarray, *, ends: bool) -> Transition:
    numbers = np.full(3, step, np.float32)
    return Transition(
        "", 0, 0, stamp, episode, step, "finetune", "kettle", "v", step == 0, numbers, numbers, numbers, numbers + 1,
        numbers, velocity, velocity, 0, 0.0, "object_states", False, ends,
    )  # fmt: skip


class Run:
    """A run as plant, bridge and learner leave it: four episodes, the third given up after half of its steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wire: list[Transition] = []
        stream = TransitionStream(folder / "bridge", lambda _: None)
        self.plant: dict[int, tuple[list[int], list[np.ndarray]]] = {}
        stamp = 0
        for episode in range(1, EPISODES + 1):
            stamps, commands = self.plant[episode] = ([], [])
            for step in range(STEPS):
                stamp += PERIOD
                velocity = RNG.normal(size=2)
                stamps.append(stamp)
                commands.append(velocity)
                if episode != 3 or step < STEPS // 2:
                    made = step_of(episode, step, stamp, velocity, ends=step == STEPS - 1)
                    self.wire.append(stream.append(made, 0.0))
            stamp += PERIOD
            stamps.append(stamp)
            commands.append(np.zeros(2))  # the guard's stop
        stream.acknowledge(stream.robot_uuid, stream.epoch, len(self.wire), 0.0)
        self.learned = [(stream.robot_uuid, stream.epoch, episode) for episode in (1, 2, 4)]
        stream.close()

    def store(self, transitions: list[Transition]) -> None:
        kept = TransitionStore(self.folder / "learner" / "store")
        for one in transitions:
            kept.add(one)
        kept.close()

    def write(self) -> Audit:
        """Everything to disk, then the audit."""
        if not (self.folder / "learner").exists():
            self.store(self.wire)
        folder = self.folder / "plant"
        folder.mkdir()
        for episode, (stamps, commands) in self.plant.items():
            times = np.array(stamps)
            np.savez(
                folder / f"episode_{episode:03d}.npz",
                stamps=times - PERIOD // 2, command_stamps=times, commands=np.array(commands), qpos=np.zeros((1, 2)),
            )  # fmt: skip
        progress = {"progress": json.dumps({"episodes": self.learned})}
        save_file({"a": np.zeros(1)}, self.folder / "learner" / "checkpoint.safetensors", progress)
        return audit_run(self.folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_a_run_in_which_nothing_was_lost(run: Run) -> None:
    audit = run.write()
    count = (EPISODES - 1) * STEPS + STEPS // 2
    assert audit.clean
    assert (audit.stream.journal, audit.stream.store, audit.stream.pending) == (count, count, 0)
    assert (audit.plant.records, audit.plant.commands, audit.plant.matched) == (EPISODES, EPISODES * STEPS, count)
    assert audit.plant.unheard == STEPS - STEPS // 2, "the tail of the episode that was given up"
    assert (audit.buffer.complete, audit.buffer.learned, audit.buffer.given_up) == (3, 3, 1)


def faults(audit: Audit) -> dict[str, int]:
    parts = (dataclasses.asdict(part) for part in (audit.stream, audit.plant, audit.buffer))
    names = ("lost", "twice", "altered", "unknown", "gaps", "invented", "unfounded")
    return {f"{at}.{name}": part[name] for at, part in enumerate(parts) for name in names if part.get(name)}


def lose_one_in_the_store(run: Run) -> None:
    run.store([one for one in run.wire if one.seq != 9])


def alter_one_in_the_store(run: Run) -> None:
    run.store([dataclasses.replace(one, reward=1.0) if one.seq == 9 else one for one in run.wire])


def invent_one(run: Run) -> None:
    run.store([dataclasses.replace(one, velocity_executed=np.ones(2)) if one.seq == 9 else one for one in run.wire])


def store_one_twice(run: Run) -> None:
    run.store(run.wire)
    journal = Journal(run.folder / "learner" / "store")
    journal.append(pack(run.wire[8]))
    journal.close()


def never_hear_of_one(run: Run) -> None:
    """Executed, but the bridge never knew."""
    stamps, commands = run.plant[2]
    stamps.insert(3, stamps[3] - PERIOD // 2)
    commands.insert(3, np.ones(2))


def learn_twice(run: Run) -> None:
    run.learned.append(run.learned[0])


def learn_from_half_an_episode(run: Run) -> None:
    robot, epoch, _ = run.learned[0]
    run.learned.append((robot, epoch, 3))


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        # The plant did it, so its loss shows there too; and an episode with a hole cannot have been learned from.
        (lose_one_in_the_store, {"0.lost": 1, "1.lost": 1, "2.unfounded": 1}),
        (alter_one_in_the_store, {"0.altered": 1}),
        (invent_one, {"0.altered": 1, "1.invented": 1, "1.lost": 1}),
        (store_one_twice, {"0.twice": 1}),
        (never_hear_of_one, {"1.lost": 1}),
        (learn_twice, {"2.twice": 1}),
        (learn_from_half_an_episode, {"2.unfounded": 1}),
    ],
)
def test_each_fault_is_found_and_named(run: Run, spoil: Callable[[Run], None], wanted: dict[str, int]) -> None:
    spoil(run)
    audit = run.write()
    assert not audit.clean and faults(audit) == wanted


@pytest.mark.parametrize("flags", [64, 0])
def test_a_stop_that_the_plant_could_not_hear_yet_is_none_it_has_missed(run: Run, flags: int) -> None:
    stamps, commands = run.plant[1]
    stamps[0], commands[0] = stamps[0] - PERIOD // 4, np.zeros(2)  # of the reset, before the episode
    first = dataclasses.replace(run.wire[0], velocity_executed=np.zeros(2), guard_flags=flags)
    run.store([first, *run.wire[1:]])
    plant = run.write().plant
    assert plant.resting == (flags != 0) and not plant.lost
    assert (plant.invented == 0) == (flags != 0), "zeros that nobody has sent, unless it was a stop"


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("hours", [[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [0, -1, -1, -1, 0, 0, 0]])
def test_a_clock_that_is_set_in_mid_episode_hides_and_invents_nothing(run: Run, hours: list[int], lost: int) -> None:
    stamps, commands = run.plant[2]
    shift = dict(zip(stamps, 3600 * 10**9 * np.array(hours), strict=True))
    run.plant[2] = ([stamp + shift[stamp] for stamp in stamps], commands)
    kept = [one for one in run.wire if not (lost and one.episode == 2 and one.step == 3)]
    run.store([dataclasses.replace(one, stamp=one.stamp + shift.get(one.stamp, 0) - PERIOD // 8) for one in kept])
    plant = run.write().plant
    assert (plant.lost, plant.invented, plant.uncovered) == (lost, 0, 0)


def test_what_is_on_its_way_is_not_lost(run: Run) -> None:
    run.store(run.wire[:12])
    (run.folder / "bridge" / "acknowledged.json").write_text(json.dumps({"records": 12}))
    run.learned = run.learned[:2]
    audit = run.write()
    assert audit.clean and audit.stream.pending == len(run.wire) - 12


def test_order_of_arrival_is_told_but_no_fault(run: Run) -> None:
    run.store([*run.wire[:5], run.wire[7], *run.wire[5:7], *run.wire[8:]])
    audit = run.write()
    assert audit.clean and audit.stream.overtaken == 2


def test_a_gap_in_the_journal_is_found(run: Run) -> None:
    records = read_records(run.folder / "bridge" / "journal")
    for file in (run.folder / "bridge" / "journal").glob("*.journal"):
        file.unlink()
    journal = Journal(run.folder / "bridge" / "journal")
    for data in records:
        if unpack(data).seq != 4:
            journal.append(data)
    journal.close()
    audit = run.write()
    assert audit.stream.gaps == 1 and audit.stream.unknown == 1


def test_the_command_says_it_and_its_exit_status_too(run: Run, tmp_path: Path) -> None:
    run.write()
    out = io.StringIO()
    assert run_audit(AuditSettings(run.folder), Console(file=out, width=140)) == 0
    assert "clean" in out.getvalue() and "commands that moved the arm" in out.getvalue()
    out = io.StringIO()
    assert run_audit(AuditSettings(run.folder, json=True), Console(file=out, width=140)) == 0
    assert json.loads(out.getvalue())["plant"]["matched"] == 21
    for path in (run.folder / "learner" / "store").glob("*.journal"):
        path.unlink()
    assert run_audit(AuditSettings(run.folder), Console(file=io.StringIO())) == 1
    with pytest.raises(ConfigError, match="holds no run: there is no bridge/journal"):
        audit_run(tmp_path)
