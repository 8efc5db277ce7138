"""Bridge, policy, guard and simulated arm as real processes, and a person beside them: homing, ready, labels, audit."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from ros_rig import RosRig, wait_for

from simpl import interfaces
from simpl.core.audit import audit_run
from simpl.core.journal import read_records
from simpl.core.profile import load_profile
from simpl.core.transition import unpack

CONFIG = Path(__file__).parents[1] / "ros2_ws" / "src" / "simpl" / "config" / "mujoco_kitchen.yaml"
BUNDLE = Path(__file__).parents[1] / "export" / "bundles" / "kitchen"
STEPS = 25
HOME = [0.65, -1.67, 2.14, -2.18, -0.04, 0.31, 1.9, 0.03, 0.02]
"""Up to half a radian from where the simulated arm starts, and nothing stands in between."""


@pytest.fixture
def rig() -> Iterator[RosRig]:
    rig = RosRig()
    yield rig
    rig.close()


class Person:
    """Looks at episode/state and calls the operator's services."""

    def __init__(self, rig: RosRig) -> None:
        self.rig, self.states = rig, rig.listen(interfaces.EPISODE_STATE)

    def sees(self, status: str) -> None:
        try:
            wait_for(lambda: bool(self.states) and self.states[-1].status.startswith(status), 90.0)
        except TimeoutError as error:
            raise AssertionError(f"wanted {status!r}, saw {[one.status for one in self.states[-3:]]}") from error

    def sees_the_end(self) -> None:
        """Of an episode; one that broke on a starved machine is asked for again."""

        def over() -> bool:
            if self.states[-1].status.startswith("waiting for episode/ready"):
                self.calls(interfaces.EPISODE_READY)
            return bool(self.states[-1].status.startswith("waiting for episode/success"))

        wait_for(over, 240.0)

    def calls(self, service: Any) -> Any:
        return self.rig.call(service)


def test_a_person_leads_a_run_and_nothing_is_lost(rig: RosRig, tmp_path: Path) -> None:
    profile = tmp_path / "kitchen_with_home.yaml"
    profile.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG.read_text()), "home": HOME}))
    run = tmp_path / "run"
    commands, joints = rig.listen(interfaces.COMMANDS), rig.listen(interfaces.JOINT_STATES)
    person = Person(rig)
    rig.start("arm_sim", lockstep=True, output_folder=run / "plant")
    rig.start("guard", lockstep=True, action_timeout=10.0, profile=profile)
    rig.start("policy", lockstep=True, bundle=BUNDLE, max_steps=STEPS, profile=profile)
    rig.hears(interfaces.COMMANDS, interfaces.JOINT_STATES)  # or the arm is home before anybody looked
    bridge = rig.start(
        "bridge", bundle=BUNDLE, run_folder=run, max_steps=STEPS, drain_wait=0.5, reward="operator",
        scene="operator", conditioning_episodes=3, evaluation_episodes=0, finetune_episodes=0, final_episodes=0,
    )  # fmt: skip

    # The arm goes home by itself, and waits.
    person.sees("waiting for episode/ready")
    position = np.array(joints[-1].position)
    fixed = [joint.position is not None for joint in load_profile(profile).joints]
    assert np.abs(position - HOME)[fixed].max() < 0.06
    velocities = np.array([list(message.data) for message in commands])
    assert np.abs(velocities).max() <= 2.0 and velocities.any() and not velocities[-1].any()
    assert not person.calls(interfaces.EPISODE_SUCCESS).success

    # Time runs out; only the person knows what it was worth.
    assert person.calls(interfaces.EPISODE_READY).success
    assert not person.calls(interfaces.EPISODE_READY).success
    person.sees_the_end()
    assert person.calls(interfaces.EPISODE_FAILURE).success
    # One that is to be forgotten, and is done again.
    person.sees("waiting for episode/ready")
    person.calls(interfaces.EPISODE_READY)
    person.sees_the_end()
    assert person.calls(interfaces.EPISODE_DISCARD).success
    for _ in range(2):
        person.sees("waiting for episode/ready")
        person.calls(interfaces.EPISODE_READY)
        person.sees_the_end()
        assert person.calls(interfaces.EPISODE_SUCCESS).success
    wait_for(lambda: bridge.poll() is not None)
    assert rig.finish("bridge", None)[0] == 0
    rig.finish("policy", signal.SIGINT)
    rig.finish("guard", signal.SIGINT)
    rig.finish("arm_sim", signal.SIGINT)

    report = json.loads((run / "report.json").read_text())
    assert [(one["score"], one["label"]) for one in report["episodes"]] == [
        (0, "failure"),
        (4, "success"),
        (4, "success"),
    ]
    assert all("is repeated" in warning for warning in report["warnings"])
    assert sum("discarded by the operator" in warning for warning in report["warnings"]) == 1
    stored = [unpack(data) for data in read_records(run / "bridge" / "journal")]
    lengths = Counter(one.episode for one in stored)
    assert sum(length == STEPS for length in lengths.values()) == 4 and len(lengths) <= 3 + len(report["warnings"])
    assert {one.reward_source for one in stored} == {"operator"}
    ends = [(one.reward, one.terminated, one.truncated) for one in stored if one.step == STEPS - 1]
    assert ends == [(0.0, False, True), (0.0, False, False), (4.0, True, False), (4.0, True, False)]

    # No learner ran: the plant's record is compared with the robot's journal.
    audit = audit_run(run)
    assert audit.clean and audit.stream.pending == len(stored) == audit.plant.matched >= 4 * STEPS
    assert audit.plant.unheard > 20, "the ways home belong to no episode"
