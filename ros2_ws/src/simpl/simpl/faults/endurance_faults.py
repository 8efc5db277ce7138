"""Faults again and again, and for long: what is stored and how control goes on are counted over the whole of it.

A robot has cores of its own. Here its nodes go before whatever else the machine does, where they may: an arm that is
starved misses commands, and its record is no judge then.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import time

import numpy as np

from simpl import interfaces as topics
from simpl.core.journal import read_records
from simpl.core.transition import unpack
from simpl.faults.book_faults import across_the_wire
from simpl.faults.places import before_others
from simpl.faults.rig import Log, wait_for
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.stage import PATIENCE, START_PATIENCE, Stage
from simpl.front.bench_numbers import quantiles, split

LONG = {"episodes": 2, "finetune": 10_000, "steps": 100}
"""A run that lasts for as long as it is let; an episode of 8 s."""
NEVER_LATER = 1.0
"""What is older than this when the bridge dies must be on the disk [s]."""


@scenario(
    "50 SIGKILLs of learner, at moments drawn by chance, while it stores and trains",
    "the arm goes on; all is handed over once",
    endurance=True,
)
def learner_killed_50_times(stage: Stage) -> str:
    draw, kills = random.Random(50), round(stage.part_of(50))
    acknowledged = stage.rig.listen(topics.TRANSITIONS_ACK)
    stage.start_learner()
    stage.set_in_motion(**LONG, prefix=before_others())
    for _ in range(kills):
        time.sleep(draw.uniform(0.0, 4.0))
        stage.strike(lambda: stage.signal("learner", signal.SIGKILL))
        stage.goes_on()
        stage.start_learner()
    _ends(stage, acknowledged)
    stage.figures["kills"] = kills
    return "went on; all handed over"


@scenario(
    "20 SIGKILLs of bridge, at moments drawn by chance in mid episode",
    "all but the last second is on the disk each time; each new bridge goes on; all is handed over once",
    endurance=True,
    bounds={"oldest_newest_on_disk_s": (None, NEVER_LATER)},
)
def bridge_killed_20_times(stage: Stage) -> str:
    draw, kills, ages = random.Random(20), round(stage.part_of(20)), []
    acknowledged = stage.rig.listen(topics.TRANSITIONS_ACK)
    stage.start_learner()
    stage.set_in_motion(**LONG, prefix=before_others())
    begun = time.monotonic()
    for _ in range(kills):
        time.sleep(draw.uniform(1.5, 7.0))
        stage.strike(lambda: stage.signal("bridge", signal.SIGKILL))
        ages.append(_age_on_disk(stage, time.time_ns()))
        _is_on_the_disk(stage, begun, time.monotonic())
        begun = time.monotonic()
        _next_bridge(stage)
    stage.wait_for_motion()
    _ends(stage, acknowledged)
    stage.figures |= {"kills": kills, "oldest_newest_on_disk_s": max(ages)}
    return "went on each time; all handed over"


def _next_bridge(stage: Stage) -> None:
    """Start it, and wait until it has begun an episode."""
    acting = stage.actions[-1].episode
    stage.start_bridge(prefix=before_others())
    wait_for(lambda: stage.actions[-1].episode > acting, PATIENCE, "the new bridge begins no episode")


def _age_on_disk(stage: Stage, now: int) -> float:
    """How old the newest step in the journal is at `now` [ns], in [s]."""
    return (now - max(unpack(data).stamp for data in read_records(stage.run / "bridge" / "journal"))) / 1e9


def _is_on_the_disk(stage: Stage, begun: float, killed: float) -> None:
    """Whether all that the policy did in the episode under way, but for the last second, was recorded."""
    stored = {(one.episode, one.step) for one in map(unpack, read_records(stage.run / "bridge" / "journal"))}
    heard = list(zip(stage.actions.times, stage.actions, strict=False))
    acting = heard[-1][1].episode
    due = {one.step for at, one in heard if begun < at < killed - NEVER_LATER and one.episode == acting and one.active}
    lost = due - {step for episode, step in stored if episode == acting}
    if lost:
        raise UnexpectedError(f"{len(lost)} steps older than {NEVER_LATER:g} s were not on the disk: {sorted(lost)}")


@scenario(
    "the cable between robot and learner is cut for ten minutes",
    "the arm goes on; the backlog comes over in a twentieth of the time or less; all is handed over once",
    needs="network",
    endurance=True,
    bounds={"drained_times_real_time": (20.0, None), "p99_change_percent": (-5.0, 5.0)},
)
def partition_ten_minutes(stage: Stage) -> str:
    acknowledged = stage.rig.listen(topics.TRANSITIONS_ACK)
    missed = stage.rig.listen(topics.POLICY_STATUS)
    wire = across_the_wire(stage, episodes=10_000, prefix=before_others())
    marks = [time.monotonic()]
    for cut, seconds in ((False, 180.0), (True, 600.0)):
        wire.cut = cut
        stage.strike(lambda: None)
        stage.goes_on(stage.part_of(seconds, 10.0))
        marks.append(time.monotonic())
    behind = acknowledged[-1].stored
    backlog = _recorded(stage)
    wire.cut = False
    wait_for(lambda: acknowledged[-1].stored >= backlog, START_PATIENCE, "the backlog is not handed over")
    marks.append(time.monotonic())
    stage.strike(lambda: None)
    stage.goes_on(stage.part_of(180.0, 10.0))
    marks.append(time.monotonic())
    late = missed[-1].missed
    _ends(stage, acknowledged)
    first = next(at for at, one in zip(acknowledged.times, acknowledged, strict=False) if one.stored > behind)
    cut, drained = marks[2] - marks[1], marks[3] - marks[2]
    stage.figures |= {"cut_s": cut, "backlog": backlog - behind, "drained_s": drained}
    stage.figures["first_word_after_s"] = first - marks[2]
    stage.figures |= {"drained_times_real_time": cut / drained, "late_ticks": late, **_tick(stage, marks)}
    return "went on; all handed over"


def _tick(stage: Stage, marks: list[float]) -> dict[str, float]:
    """From a joint state to its action [ms]: while the learner was heard, while it was not, while it caught up."""
    before, cut, draining, after = (_latencies(stage, *span) for span in itertools.pairwise(marks))
    heard, alone, busy = (quantiles(part) for part in ([*before, *after], cut, draining))
    if heard is None or alone is None:
        raise UnexpectedError("no tick was heard")
    named = {"p50_with_learner_ms": heard.p50, "p50_without_ms": alone.p50}
    named |= {"p99_with_learner_ms": heard.p99, "p99_without_ms": alone.p99}
    named["p99_change_percent"] = 100.0 * (alone.p99 / heard.p99 - 1.0)
    return named | ({"p99_catching_up_ms": busy.p99} if busy else {})


def _latencies(stage: Stage, begin: float, end: float) -> list[np.ndarray]:
    """Of the ticks between two times [s, steady clock], in blocks [s]."""
    heard = list(zip(stage.actions.times, stage.actions, strict=False))
    acted = [(at, one.latency_ms / 1e3) for at, one in heard if one.active]
    return split(*zip(*acted, strict=True), begin, end)


def _recorded(stage: Stage) -> int:
    return len(read_records(stage.run / "bridge" / "journal"))


def _ends(stage: Stage, acknowledged: Log) -> None:
    """All is handed over, then the run is ended and its books are closed."""
    recorded = _recorded(stage)
    wait_for(lambda: acknowledged[-1].stored >= recorded, START_PATIENCE, "not all is handed over")
    stage.rig.call(topics.EPISODE_STOP)
    stage.finish_run()
    report = json.loads((stage.run / "report.json").read_text())
    lasted = stage.actions.times[-1] - stage.actions.times[0]
    stage.figures |= {"transitions": _recorded(stage), "sent_again": report["stream"]["resent"], "seconds": lasted}
    stage.figures["models"] = report["model_updates"]
