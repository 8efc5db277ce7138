"""A trained run as a bundle: graphs written, compared with the networks, then packed.

Nothing is written unless ONNX and PyTorch agree on random and on recorded inputs.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.bundle import Bundle, file_entry, install, write_bundle
from export.graphs import (
    OPSET,
    skill_decoder_graph,
    skill_policy_graph,
    skill_prior_graph,
    task_encoder_graph,
)
from export.manifest import GOLDEN, IN_THE_LOOP, LEARNER, Manifest, Robot, Signature, json_object
from export.robots import KITCHEN
from export.verify import Golden, new_session, write_golden
from simpl_core.checkpoint import Models, build_models, load_checkpoint
from simpl_core.errors import BundleError
from simpl_core.networks import SkillDecoder, SkillPolicy

TOLERANCE = 1e-5
"""|onnx - torch| <= TOLERANCE (1 + |torch|): absolute for small answers, relative for large ones."""

CHECKS = 1000
"""Random inputs, and at most as many recorded ones, on which every network must agree."""

UPDATE_CHECKS = 250
"""As many of each for a fine-tuned policy: an update must not keep a learner waiting."""

LARGEST_CONTEXT = 600
"""Rows of the largest contexts checked: 20 episodes of 28 skills, and some."""

USUAL_CONTEXT, CONTEXTS_A_SIZE = 40, 50
"""The many contexts checked have 1 to so many rows, and so many contexts have the same number."""

GOLDEN_INPUTS, GOLDEN_CONTEXT = 2, 7
"""Inputs of each network that travel with the bundle; rows of a context among them."""

Float32 = NDArray[np.float32]
Inputs = dict[str, Tensor]


def export_bundle(
    run_folder: Path,
    out_folder: Path,
    *,
    recorded: Float32 | None = None,
    robot: Robot = KITCHEN,
    learner: bool = True,
) -> Path:
    """Export a meta-trained run, its checkpoint included, so that a learner can start from the bundle alone.

    Args:
        run_folder: checkpoint of phase 2.
        out_folder: where the bundle goes; an older bundle there is replaced.
        recorded: observed states (M, S), of which up to `CHECKS` are added to the random ones.
        robot: what the numbers mean on the machine.
        learner: include the checkpoint.

    Returns:
        `out_folder`.

    Raises:
        CheckpointError: the run is not there or damaged.
        BundleError: the run is of phase 1, a weight is not finite, sizes differ from `robot`'s, or ONNX and
            PyTorch disagree. Nothing is written.
    """
    run_folder = Path(run_folder)
    checkpoint = load_checkpoint(run_folder)
    models = build_models(checkpoint, str(run_folder))
    bad = [name for name, tensor in checkpoint.tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BundleError(f"{run_folder} cannot be exported: {bad[0]} has numbers that are not finite")
    manifest = _manifest(models, robot, run_folder)
    networks = _networks(models)
    states = _recorded_states(recorded, manifest.state_dim, CHECKS)
    graphs, arithmetic, differences, roundings, golden = {}, {}, {}, {}, {}
    for name, network in networks.items():
        exact, signature = reference(network), manifest.signatures()[name]
        cases = list(_cases(name, manifest, CHECKS, states))
        graphs[name], arithmetic[name], differences[name] = _graph(name, network, exact, cases, signature)
        roundings[name] = _rounding(network, exact, cases, signature)
        golden[name] = _golden(exact, cases[-1], signature)
    check = {
        "random": CHECKS,
        "recorded": len(states),
        "tolerance": TOLERANCE,
        "arithmetic": arithmetic,
        "largest_difference_from_torch_in_float64": differences,
        "rounding_of_torch_in_float32": roundings,
    }
    files: dict[str, bytes | Path] = {f"{name}.onnx": graph for name, graph in graphs.items()}
    files[GOLDEN] = write_golden(golden)
    # Copied, not linked: a later resumed training run must not reach into the bundle.
    if learner:
        files |= {name: (run_folder / Path(name).name).read_bytes() for name in LEARNER}
    provenance = {**checkpoint.provenance, "export_check": check}
    return write_bundle(Path(out_folder), files, dataclasses.replace(manifest, provenance=provenance)).folder


def update_policy(
    parent: Bundle,
    policy: SkillPolicy,
    out_folder: Path,
    provenance: Mapping[str, Any],
    *,
    recorded: Float32 | None = None,
) -> Bundle:
    """A child of `parent` with a fine-tuned skill policy; all else is the parent's, as links where possible.

    Its `learner` files stay those of the exported run: where fine-tuning begins, not where it is.

    Args:
        parent: the bundle that `policy` was fine-tuned from.
        policy: called and read, not changed.
        out_folder: where the child goes.
        provenance: how the update came about; kept in its manifest.
        recorded: observed states (M, S), of which up to `UPDATE_CHECKS` are compared on, besides as many random
            ones and the golden inputs.

    Raises:
        BundleError: a weight is not finite, sizes differ from the parent's, or ONNX and PyTorch disagree.
            Nothing is written.
    """
    name = "skill_policy"
    bad = [key for key, tensor in policy.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BundleError(f"update refused: {name}.{bad[0]} has numbers that are not finite")
    signature = parent.manifest.signatures()[name]
    fixed = {key: torch.from_numpy(value.copy()) for key, value in parent.golden[name].inputs.items()}
    states = _recorded_states(recorded, parent.manifest.state_dim, UPDATE_CHECKS)
    exact, cases = reference(policy), [*_cases(name, parent.manifest, UPDATE_CHECKS, states), fixed]
    graph, _, _ = _graph(name, policy, exact, cases, signature)
    changed = {
        f"{name}.onnx": graph,
        GOLDEN: write_golden({**parent.golden, name: _golden(exact, fixed, signature)}),
    }
    files = {key: changed.get(key, parent.folder / key) for key in parent.manifest.files}
    entries = {**parent.manifest.files, **{key: file_entry(data) for key, data in changed.items()}}
    manifest = dataclasses.replace(
        parent.manifest,
        parent_version=parent.model_version,
        provenance=json_object(provenance, "provenance"),
        files=entries,
    )
    return install(Path(out_folder), files, manifest, known=parent)


def compare(name: str, graph: bytes, network: nn.Module, cases: Iterable[Inputs], signature: Signature) -> float:
    """Run both on the same inputs and return the largest difference, relative to 1 + |torch|.

    `network` computes in float64 (see `reference`).

    Raises:
        BundleError: they differ by more than `TOLERANCE`, or answer with numbers that are not finite.
    """
    try:
        session = new_session(graph)
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error
    outputs = list(signature.outputs)
    largest = 0.0
    for inputs in cases:
        wanted = _answer(network, inputs, outputs)
        given = session.run(outputs, {key: value.numpy() for key, value in inputs.items()})
        for output, ours in zip(outputs, given, strict=True):
            if not (np.isfinite(wanted[output]).all() and np.isfinite(ours).all()):
                raise BundleError(f"{name} answers with {output} that is not finite; no bundle is written")
            largest = max(largest, _difference(ours, wanted[output]))
    if largest > TOLERANCE:
        raise BundleError(
            f"{name}: ONNX and PyTorch differ by {largest:.2g}, more than {TOLERANCE:g}; no bundle is written"
        )
    return largest


def _manifest(models: Models, robot: Robot, run_folder: Path) -> Manifest:
    skills, meta = models.skills_config, models.meta_config
    if meta is None:
        raise BundleError(f"{run_folder} holds skills only; a bundle needs a meta-trained run (`simpl train meta`)")
    sizes = (skills.state_dim, models.action_dim)
    wanted = (len(robot.observation), len(robot.joint_names))
    if sizes != wanted:
        raise BundleError(f"{run_folder} has (observation, action) sizes {sizes}, but {robot.task_family} has {wanted}")
    return Manifest(robot, skills.horizon, skills.z_dim, meta.e_dim, meta.context_kept or None, OPSET)


def _networks(models: Models) -> dict[str, nn.Module]:
    if models.skill_policy is None or models.task_encoder is None:
        raise BundleError("a bundle needs a skill policy and a task encoder")
    if not isinstance(models.skill_decoder, SkillDecoder):
        raise BundleError("a robot runs closed-loop skills, which see the state at every step; these are open-loop")
    return {
        "skill_decoder": models.skill_decoder,
        "skill_policy": models.skill_policy,
        "skill_prior": models.skill_prior,
        "task_encoder": models.task_encoder,
    }


def _graph(
    name: str, network: nn.Module, exact: nn.Module, cases: list[Inputs], signature: Signature
) -> tuple[bytes, str, float]:
    """A network's graph, its arithmetic and its largest difference: float32 in the control loop if it agrees so.

    Raises:
        BundleError: see `compare`.
    """
    writers: dict[str, Callable[..., bytes]] = {
        "skill_decoder": skill_decoder_graph,
        "skill_policy": skill_policy_graph,
        "skill_prior": skill_prior_graph,
        "task_encoder": task_encoder_graph,
    }
    write = writers[name]
    if name in IN_THE_LOOP:
        graph = write(network, signature, fast=True)
        with contextlib.suppress(BundleError):
            return graph, "float32", compare(name, graph, exact, cases, signature)
    graph = write(network, signature)
    return graph, "float64", compare(name, graph, exact, cases, signature)


def _recorded_states(recorded: Float32 | None, state_dim: int, count: int) -> Float32:
    """At most `count` rows, evenly spread over the recording."""
    if recorded is None:
        return np.empty((0, state_dim), np.float32)
    if recorded.ndim != 2 or recorded.shape[1] != state_dim or not np.isfinite(recorded).all():
        raise BundleError(f"recorded states must be finite and (M, {state_dim}); got {recorded.shape}")
    chosen = np.linspace(0, len(recorded) - 1, min(count, len(recorded))).astype(int)
    return np.asarray(recorded[chosen], np.float32)


def _cases(name: str, manifest: Manifest, count: int, recorded: Float32) -> Iterable[Inputs]:
    """Batches of `count` random inputs of a network, then of as many as there are recorded states."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal((count, manifest.state_dim)).astype(np.float32)
    for states in (random, recorded):
        if len(states) == 0:
            continue
        if name == "task_encoder":
            yield from _contexts(states, manifest.z_dim, rng)
            continue
        inputs = {"state": torch.from_numpy(states)}
        for key, size in (("z", manifest.z_dim), ("e", manifest.e_dim)):
            if key in manifest.signatures()[name].inputs:
                inputs[key] = torch.from_numpy(rng.standard_normal((len(states), size)).astype(np.float32))
        yield inputs


def _contexts(states: Float32, z_dim: int, rng: np.random.Generator) -> Iterable[Inputs]:
    """As many contexts as states, and two of the largest size; rows are made of `states`, most masks partial."""
    groups = max(1, len(states) // CONTEXTS_A_SIZE)
    sizes = np.geomspace(1, USUAL_CONTEXT, groups).round().astype(int).tolist()
    for size, batch in [*((size, len(states) // groups) for size in sizes), (LARGEST_CONTEXT, 2)]:
        shape = (batch, size)
        before, after = (states[rng.integers(len(states), size=shape)] for _ in range(2))
        z = rng.standard_normal((*shape, z_dim)).astype(np.float32)
        reward, done = (rng.integers(2, size=(*shape, 1)).astype(np.float32) for _ in range(2))
        rows = np.concatenate([before, z, reward, done, after], axis=-1)
        mask = np.arange(size) < rng.integers(1, size + 1, size=(batch, 1))
        mask[0] = True
        yield {"transitions": torch.from_numpy(rows), "mask": torch.from_numpy(mask)}


def _answer(network: nn.Module, inputs: Inputs, outputs: list[str]) -> dict[str, NDArray[np.floating]]:
    """What a network on the processor says, in its own precision."""
    precision = next(network.parameters()).dtype
    with torch.inference_mode():
        answer = network(*(value if value.dtype == torch.bool else value.to(precision) for value in inputs.values()))
    values = (answer,) if isinstance(answer, Tensor) else answer
    return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}


def _difference(given: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    return float((np.abs(given - wanted) / (1.0 + np.abs(wanted))).max())


def _rounding(network: nn.Module, exact: nn.Module, cases: list[Inputs], signature: Signature) -> float:
    """How far the network's own float32 answers are from what its weights mean: what training lived with."""
    outputs = list(signature.outputs)
    largest = 0.0
    for inputs in cases:
        rounded, wanted = _answer(network, inputs, outputs), _answer(exact, inputs, outputs)
        largest = max(largest, *(_difference(rounded[output], wanted[output]) for output in outputs))
    return largest


def reference(network: nn.Module) -> nn.Module:
    """A copy that computes in float64 on the processor: what the weights mean, without rounding."""
    return copy.deepcopy(network).cpu().double().eval()


def _golden(network: nn.Module, inputs: Inputs, signature: Signature) -> Golden:
    """A few of `inputs` with the network's own answers."""
    few = {name: value[:GOLDEN_INPUTS] for name, value in inputs.items()}
    if "mask" in few:
        few = {name: value[:, :GOLDEN_CONTEXT] for name, value in few.items()}
        few["mask"] = torch.arange(GOLDEN_CONTEXT) < torch.tensor([[GOLDEN_CONTEXT], [GOLDEN_CONTEXT // 2]])
    answers = {name: value.astype(np.float32) for name, value in _answer(network, few, list(signature.outputs)).items()}
    return Golden({name: value.numpy() for name, value in few.items()}, answers)
