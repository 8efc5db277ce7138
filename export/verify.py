"""The checks that a bundle must pass, one by one; each raises `BundleError` with what it found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.manifest import GOLDEN, MANIFEST, Manifest, Signature, parse_json
from export.weights import read_weights
from simpl_core.errors import BundleError

GOLDEN_TOLERANCE = 1e-4
"""Absolute and relative. Ten times what export allows: another processor sums in another order."""

Array = NDArray[Any]


class Golden(NamedTuple):
    """Inputs of one network by name, and what it must answer."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def new_session(model: bytes) -> onnxruntime.InferenceSession:
    """A CPU session of one thread that does not spin.

    Raises:
        BundleError: onnxruntime does not accept the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong comes as an exception
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no other base class
        raise BundleError(f"onnxruntime refuses the model: {' '.join(str(error).split())[:200]}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle at `folder`, checked in itself."""
    if not folder.is_dir():
        raise BundleError("no such folder")
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"no {MANIFEST} in it")
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST} is not a text") from error


def read_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Every file of the folder, each as the manifest says; what is checked here is what gets loaded."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BundleError(f"{name} is a symbolic link")
        if not path.is_dir():
            found.add(name)
    missing, extra = sorted(set(manifest.files) - found), sorted(found - set(manifest.files) - {MANIFEST})
    if missing:
        raise BundleError(f"{', '.join(missing)} missing")
    if extra:
        raise BundleError(f"{', '.join(extra)} not in the manifest")
    contents = {}
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise BundleError(f"{name} has {path.stat().st_size} bytes, wanted {entry.bytes}")
        contents[name] = path.read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != entry.sha256:
            raise BundleError(f"{name} does not match its checksum")
    return contents


def write_golden(golden: Mapping[str, Golden]) -> bytes:
    """Content of golden.json; float32 survives the text exactly."""

    def listed(arrays: Mapping[str, Array]) -> dict[str, Any]:
        return {name: array.tolist() for name, array in arrays.items()}

    cases = {name: {"inputs": listed(g.inputs), "outputs": listed(g.outputs)} for name, g in golden.items()}
    return json.dumps(cases).encode()


def read_golden(content: bytes, manifest: Manifest) -> dict[str, Golden]:
    """What golden.json holds for each network, with the sizes that the manifest promises."""
    document = parse_json(content, GOLDEN)
    golden = {}
    for network, signature in manifest.signatures().items():
        try:
            case = document[network]
            with np.errstate(over="ignore"):  # looked for below
                arrays = [
                    {name: np.asarray(case[side][name], bool if name == "mask" else np.float32) for name in names}
                    for side, names in (("inputs", signature.inputs), ("outputs", signature.outputs))
                ]
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{GOLDEN} has no complete case for {network}: {error!r}") from error
        golden[network] = Golden(*arrays)
        if not all(np.isfinite(array).all() for side in arrays for array in side.values()):
            raise BundleError(f"{GOLDEN}: {network} has numbers that are not finite")
        for name, shape in {**signature.inputs, **signature.outputs}.items():
            given = {**arrays[0], **arrays[1]}[name].shape
            fits = len(given) == len(shape) and all(g > 0 and s in (None, g) for s, g in zip(shape, given, strict=True))
            if not fits:
                raise BundleError(f"{GOLDEN}: {network}: {name} has shape {given}, wanted {shape}")
    return golden


def load_model(network: str, model: bytes) -> onnxruntime.InferenceSession:
    """A session of a model with finite weights."""
    try:
        for name, values in read_weights(model).items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise BundleError(f"weight {name} is not finite")
        return new_session(model)
    except BundleError as error:
        raise BundleError(f"{network}.onnx: {error}") from error


def check_model(network: str, session: onnxruntime.InferenceSession, signature: Signature, golden: Golden) -> None:
    """The session has the inputs and outputs that the manifest promises and gives the golden answers."""
    try:
        _check_signature(session, signature)
        answers = _run(session, golden)
        for name, wanted in golden.outputs.items():
            if not np.isfinite(answers[name]).all():
                raise BundleError(f"output {name} is not finite")
            error = np.abs(answers[name] - wanted)
            if not (error <= GOLDEN_TOLERANCE * (1.0 + np.abs(wanted))).all():
                raise BundleError(f"output {name} is off by {error.max():.2g} from the golden answer")
    except BundleError as error:
        raise BundleError(f"{network}.onnx: {error}") from error


def _run(session: onnxruntime.InferenceSession, golden: Golden) -> dict[str, Array]:
    names = list(golden.outputs)
    try:
        return dict(zip(names, session.run(names, golden.inputs), strict=True))
    except Exception as error:  # onnxruntime's own errors have no other base class
        raise BundleError(f"cannot be run: {' '.join(str(error).split())[:200]}") from error


def _check_signature(session: onnxruntime.InferenceSession, wanted: Signature) -> None:
    for kind, nodes, sizes in (
        ("inputs", session.get_inputs(), wanted.inputs),
        ("outputs", session.get_outputs(), wanted.outputs),
    ):
        found = {node.name: tuple(s if isinstance(s, int) else None for s in node.shape) for node in nodes}
        if found != sizes:
            raise BundleError(f"{kind} are {found}, wanted {sizes}")
        for node in nodes:
            if node.type != ("tensor(bool)" if node.name == "mask" else "tensor(float)"):
                raise BundleError(f"{node.name} is a {node.type}")
