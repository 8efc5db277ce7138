"""Bundles that must not act: damaged, half written, too slow. All are offered while another one acts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from simpl import interfaces as topics
from simpl.faults.scenario import UnexpectedError, scenario
from simpl.faults.stage import PATIENCE, Stage
from simpl_core.errors import SimplError

WIDTH = 2000
"""Of the matrices that a slow model multiplies at each step: 16 GFLOP."""


def _is_refused(stage: Stage, folder: Path, words: str) -> str:
    """Stage the bundle in mid episode; the reason why it is refused, while the arm goes on with the other one."""
    stage.set_in_motion()
    acts = stage.actions[-1].model_version
    answers = []
    request = topics.STAGE_MODEL.type.Request(path=str(folder))
    stage.strike(lambda: answers.append(stage.rig.call(topics.STAGE_MODEL, request, 2 * PATIENCE)))
    if answers[0].success or words not in answers[0].message:
        raise UnexpectedError(f"accepted: {answers[0].success}, message: {answers[0].message!r}")
    stage.goes_on(1.0)
    if {action.model_version for action in stage.since(stage.actions)} != {acts}:
        raise UnexpectedError("another model acted")
    stage.close_books()
    return f"refused ({answers[0].message.rpartition(': ')[2][:90]}); went on"


@scenario("a bundle with one bit turned", "refused with the reason; the model that acts goes on", quick=True)
def bundle_corrupt(stage: Stage) -> str:
    folder = stage.logs.parent / "corrupt"
    shutil.copytree(stage.bundle, folder)
    network = folder / "skill_decoder.onnx"
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)
    return _is_refused(stage, folder, "skill_decoder.onnx")


@scenario("a bundle whose copy ended half way", "refused with the reason; the model that acts goes on")
def bundle_half_written(stage: Stage) -> str:
    folder = stage.logs.parent / "half"
    shutil.copytree(stage.bundle, folder, ignore=shutil.ignore_patterns("learner", "task_encoder.onnx"))
    network = folder / "skill_policy.onnx"
    content = network.read_bytes()
    network.write_bytes(content[: len(content) // 2])
    return _is_refused(stage, folder, ".onnx")


@scenario(
    "a sound bundle whose model takes longer than a control period",
    "refused with the reason; the model that acts goes on",
    needs="onnx",
)
def bundle_too_slow(stage: Stage) -> str:
    folder = stage.logs.parent / "slow"
    try:
        make_slow(stage.bundle, folder)
    except SimplError as error:
        raise UnexpectedError(f"the slow bundle could not be made: {error}") from error
    return _is_refused(stage, folder, "period")


def make_slow(source: Path, folder: Path) -> None:
    """Write a bundle that answers as `source` does, after a product of large matrices of zeros at each step."""
    import onnx
    from onnx import helper, numpy_helper

    from export.bundle import Bundle, write_bundle

    bundle = Bundle.open(source)
    model = onnx.load(source / "skill_decoder.onnx")
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["quick_action" if name == "action" else name for name in node.output]
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.0, np.float32), "slow_zero"),
            numpy_helper.from_array(np.array([WIDTH, WIDTH], np.int64), "slow_shape"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["state"], ["slow_sum"], keepdims=0),
            helper.make_node("Mul", ["slow_sum", "slow_zero"], ["slow_none"]),
            helper.make_node("Expand", ["slow_none", "slow_shape"], ["slow_matrix"]),
            helper.make_node("MatMul", ["slow_matrix", "slow_matrix"], ["slow_product"]),
            helper.make_node("ReduceSum", ["slow_product"], ["slow_nothing"], keepdims=0),
            helper.make_node("Add", ["quick_action", "slow_nothing"], ["action"]),
        ]
    )
    files: dict[str, bytes | Path] = {
        name: source / name for name in bundle.manifest.files if not name.startswith("learner/")
    }
    files["skill_decoder.onnx"] = model.SerializeToString()
    write_bundle(folder, files, dataclasses.replace(bundle.manifest, parent_version=None))
