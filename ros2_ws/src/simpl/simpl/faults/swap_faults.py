"""A thousand models, one after the other: does every one of them act, and does anything grow?"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from simpl_interfaces.msg import ModelUpdate, TransitionAck
from simpl_interfaces.msg import Transition as TransitionMessage

from export.bundle import Bundle, file_entry
from simpl import interfaces as topics
from simpl.conversions import from_transition, to_bundle_files
from simpl.core.transition import Transition
from simpl.core.transition_store import TransitionStore
from simpl.faults.rig import wait_for
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.stage import START_PATIENCE, Stage

NETWORK = "skill_policy.onnx"
"""The file that fine-tuning changes."""
WARM = 50
"""Swaps after which memory counts: allocators and caches have got to their size."""
SWAP = 10.0
"""Longest time for one, in the mean [s]."""
ACK_PERIOD = 0.05
"""As the learner's own [s]."""
GROWS = 5.0
"""Memory may by so much [%]."""


@scenario(
    "1,000 models, each offered on the wire, verified, staged and swapped in",
    "each acts in an episode; memory of policy and bridge stays within 5 %",
    needs="onnx",
    endurance=True,
    bounds={f"{node}_memory_change_percent": (None, GROWS) for node in ("policy", "bridge")},
)
def swaps_1000(stage: Stage) -> str:
    swaps = round(stage.part_of(1000))
    warm = min(WARM, swaps // 2)
    learner = RestlessLearner(stage)
    stage.set_in_motion(episodes=1, finetune=100_000, steps=20, lockstep=True)
    sizes = []
    for count in (warm, swaps):
        wait_for(lambda count=count: len(learner.acted) > count, START_PATIENCE + SWAP * count, "no more models act")
        sizes.append({node: resident(stage.rig.processes[node].pid) for node in ("policy", "bridge")})
    stage.strike(lambda: stage.rig.call(topics.EPISODE_STOP))
    stage.finish_run()
    learner.close()
    refused = json.loads((stage.run / "report.json").read_text())["models_refused"]
    if refused:
        raise UnexpectedError(f"{len(refused)} models were refused: {next(iter(refused.values()))}")
    stage.figures |= {"models_that_acted": len(learner.acted) - 1}
    for node, before in sizes[0].items():
        stage.figures |= {f"{node}_memory_mb": before, f"{node}_memory_afterwards_mb": sizes[1][node]}
        stage.figures[f"{node}_memory_change_percent"] = 100.0 * (sizes[1][node] / before - 1.0)
    return "every model acted"


class RestlessLearner:
    """Stores what it hears as the learner does, and offers a new model after each episode, without any training.

    Attributes:
        acted: versions that made what it has heard.
    """

    def __init__(self, stage: Stage) -> None:
        import onnx

        node = stage.rig.node
        self.acted: set[str] = set()
        self._base = Bundle.open(stage.bundle)
        self._network: Any = onnx.load(stage.bundle / NETWORK)
        self._store = TransitionStore(stage.run / "learner" / "store")
        self._acks = topics.TRANSITIONS_ACK.publisher(node)
        self._models = topics.MODEL_UPDATE.publisher(node)
        topics.TRANSITIONS.subscription(node, self._on_transition)
        node.create_timer(ACK_PERIOD, self._acknowledge)

    def close(self) -> None:
        """Flush the store."""
        self._store.close()

    def _on_transition(self, message: TransitionMessage) -> None:
        transition = from_transition(message)
        new = self._store.add(transition)
        if new and (transition.terminated or transition.truncated):
            self.acted.add(transition.model_version)
            self._models.publish(variant(self._base, self._network, transition))

    def _acknowledge(self) -> None:
        for ack in self._store.acknowledge():
            self._acks.publish(TransitionAck(**ack._asdict()))


def variant(base: Bundle, network: Any, newest: Transition) -> ModelUpdate:
    """Another version of `base` that answers alike: its name is within the file of `network`, an ONNX model."""
    network.doc_string = f"after transition {newest.seq}"
    data = network.SerializeToString()
    origin = {"robot_uuid": newest.robot_uuid, "epoch": newest.epoch, "seq": newest.seq}
    manifest = dataclasses.replace(
        base.manifest,
        parent_version=base.model_version,
        files={**base.manifest.files, NETWORK: file_entry(data)},
        provenance={"trained_on": origin},
    )
    return ModelUpdate(
        model_version=manifest.model_version,
        parent_version=base.model_version,
        manifest_json=manifest.to_json(),
        files=to_bundle_files({NETWORK: data}),
        trained_on=newest.seq,
    )


def resident(pid: int) -> float:
    """Memory of a process that is in the machine's [MB]."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
