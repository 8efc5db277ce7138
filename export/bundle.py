"""A model bundle on disk: verified whole when opened, written whole or not at all (numpy and onnxruntime).

- `manifest.json`: what the bundle is; see `export.manifest`.
- `skill_decoder.onnx`: state (B, S), z (B, Z) -> action (B, A).
- `skill_policy.onnx`: state (B, S), e (B, E) -> mean, scale (B, Z).
- `skill_prior.onnx`: state (B, S) -> mean, scale (B, Z).
- `task_encoder.onnx`: transitions (B, N, 2S + Z + 2), mask (B, N) bool -> mean, scale (B, E).
- `reward_decoder.onnx`: optional; next_state (B, S), e (B, E) -> reward (B, 1).
- `golden.json`: inputs of each network with the outputs that PyTorch computed for them.
- `learner/`: optional, the checkpoint from which a learner fine-tunes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from export.manifest import GOLDEN, IN_THE_LOOP, LEARNER, MANIFEST, FileEntry, Manifest, json_object
from export.verify import Golden, check_model, load_model, read_files, read_golden, read_manifest
from export.weights import read_operators
from simpl_core.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check; `sessions` are the very models that were checked, ready to run.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        golden: the answers it was checked against, by network.
        sessions: onnxruntime sessions by network, one thread each.
    """

    folder: Path
    manifest: Manifest
    golden: dict[str, Golden]
    sessions: dict[str, onnxruntime.InferenceSession]

    @classmethod
    def open(cls, folder: str | Path, known: Bundle | None = None) -> Bundle:
        """Read and verify everything.

        Args:
            folder: where the bundle lies.
            known: a bundle already open; of files that are the same in it, it lends the loaded models.

        Raises:
            BundleError: one line with the folder and the first thing found wrong.
        """
        try:
            return _verified(Path(folder), known)
        except BundleError as error:
            raise BundleError(f"bundle {folder} is refused: {error}") from error
        except OSError as error:
            raise BundleError(f"bundle {folder} cannot be read: {error}") from error

    @property
    def model_version(self) -> str:
        """Checksum of everything in the bundle, 64 hexadecimal digits."""
        return self.manifest.model_version

    def path(self, role: str) -> Path:
        """File of a network ("skill_policy"), or the folder "learner".

        Raises:
            BundleError: the bundle has no such part.
        """
        parts = list(self.manifest.networks) + (["learner"] if LEARNER[0] in self.manifest.files else [])
        if role not in parts:
            raise BundleError(f"bundle {self.folder} has no {role!r}; it has {', '.join(parts)}")
        return self.folder / (role if role == "learner" else f"{role}.onnx")

    def arithmetic(self) -> str:
        """What the layers of the networks that a control loop waits for compute in, such as "float32".

        An export chooses anew (`to_onnx`): float32 where that agrees with PyTorch. Read from the graphs; the
        layers of the fast ones are Gemm, and of those alone (`graphs`).

        Raises:
            OSError: a file is gone.
        """
        fast = {role: "Gemm" in read_operators(self.path(role).read_bytes()) for role in IN_THE_LOOP}
        kinds = {role: "float32" if is_fast else "float64" for role, is_fast in fast.items()}
        if len(set(kinds.values())) == 1:
            return kinds[IN_THE_LOOP[0]]
        return ", ".join(f"{role} {kind}" for role, kind in kinds.items())


def describe(bundle: Bundle) -> str:
    """A summary for people, several lines."""
    manifest, robot = bundle.manifest, bundle.manifest.robot
    size = sum(entry.bytes for entry in manifest.files.values())
    origin = manifest.provenance.items()
    source = ", ".join(
        f"{len(value)} {key}" if isinstance(value, list) else f"{key} {value}"
        for key, value in origin
        if not isinstance(value, dict)
    )
    return "\n".join(
        (
            f"bundle   {bundle.folder}",
            f"version  {bundle.model_version}",
            f"parent   {manifest.parent_version or 'none: exported from a training run'}",
            f"robot    {robot.task_family}, {manifest.state_dim} observations, {manifest.action_dim} joints, "
            f"{robot.control_rate_hz:g} Hz",
            f"skills   H {manifest.horizon} steps, z {manifest.z_dim}, e {manifest.e_dim}; {bundle.arithmetic()}",
            f"files    {len(manifest.files)}, {size / 1e6:.1f} MB, opset {manifest.opset}"
            + (", with a checkpoint for the learner" if LEARNER[0] in manifest.files else ""),
            f"made by  {source or 'unknown'}",
            "checked  manifest, checksums, sizes, finite weights, golden outputs: all good",
        )
    )


def write_bundle(folder: Path, files: Mapping[str, bytes | Path], manifest: Manifest) -> Bundle:
    """Write a bundle; it is verified as a reader would before it gets its name. Fills in `manifest.files`.

    A file given as a path is linked, or copied where links cannot be made. An older bundle at `folder` is
    replaced; any other folder with something in it is left alone.

    Raises:
        BundleError: the result would be refused, or `folder` is taken. Nothing is left behind.
    """
    entries = {name: file_entry(content) for name, content in sorted(files.items())}
    provenance = json_object(manifest.provenance, "provenance")
    complete = dataclasses.replace(manifest, files=entries, provenance=provenance)
    return install(folder, files, complete)


def diff_files(parent: Bundle, child: Bundle) -> list[str]:
    """Names of the child's files that the parent lacks or has otherwise; the manifest is not among them."""
    return [name for name, entry in child.manifest.files.items() if parent.manifest.files.get(name) != entry]


def materialise(parent: Bundle, changed: Mapping[str, bytes], manifest_json: str, folder: Path) -> Bundle:
    """Rebuild a child bundle at `folder` from its parent, its manifest and the files that differ.

    A bundle of that version already at `folder` is kept, so that a repeated delivery costs nothing.

    Raises:
        BundleError: the manifest is not a child of `parent`, changes what the robot relies on, lacks a file,
            or the result fails verification. Nothing is left behind.
    """
    manifest = Manifest.from_json(manifest_json)
    update = f"update {manifest.model_version[:12]}"
    if manifest.parent_version != parent.model_version:
        raise BundleError(
            f"{update} was made from {str(manifest.parent_version)[:12]}, not from {parent.model_version[:12]}"
        )
    if manifest.interface() != parent.manifest.interface():
        raise BundleError(f"{update} changes joints, scales, sizes or control rate")
    stray = sorted(set(changed) - set(manifest.files))
    if stray:
        raise BundleError(f"{update} brings {stray[0]!r}, which its manifest does not list")
    files: dict[str, bytes | Path] = {}
    for name, entry in manifest.files.items():
        if name not in changed and parent.manifest.files.get(name) != entry:
            raise BundleError(f"{update} lacks {name}, and its parent has another one")
        files[name] = changed[name] if name in changed else parent.folder / name
    return install(folder, files, manifest, known=parent)


def install(folder: Path, files: Mapping[str, bytes | Path], manifest: Manifest, known: Bundle | None = None) -> Bundle:
    """`write_bundle` for a manifest that is complete; a bundle of its version already at `folder` is kept.

    `known` lends its loaded models (see `Bundle.open`).

    Raises:
        BundleError: see `write_bundle`.
    """
    folder = Path(folder)
    existing = _existing(folder, manifest.model_version, known)
    if existing is not None:
        return existing
    taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if taken and not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} exists and is no bundle; choose another place or remove it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(folder) as temporary:
            fresh = temporary / "new"
            fresh.mkdir()
            for name, content in files.items():
                _place(fresh / name, content)
            _place(fresh / MANIFEST, manifest.to_json().encode())
            bundle = _verified(fresh, known)
            _swap(fresh, folder, temporary / "old")
        _sync(folder.parent)
    except (BundleError, OSError) as error:
        raise BundleError(f"bundle {folder} is not written: {error}") from error
    return dataclasses.replace(bundle, folder=folder)


def _verified(folder: Path, known: Bundle | None) -> Bundle:
    """`Bundle.open`, with reasons that do not name the folder."""
    manifest = read_manifest(folder)
    contents = read_files(folder, manifest)
    golden = read_golden(contents[GOLDEN], manifest)
    sessions = {}
    for name in manifest.networks:
        file = f"{name}.onnx"
        if known is not None and known.manifest.files.get(file) == manifest.files[file]:
            session = known.sessions[name]
        else:
            session = load_model(name, contents[file])
        check_model(name, session, manifest.signatures()[name], golden[name])
        sessions[name] = session
    return Bundle(folder, manifest, golden, sessions)


def _existing(folder: Path, version: str, known: Bundle | None) -> Bundle | None:
    """The bundle at `folder` if it is sound and of that version."""
    try:
        # The manifest alone first: opening a bundle that will be replaced anyway would be wasted time.
        return Bundle.open(folder, known) if read_manifest(folder).model_version == version else None
    except (BundleError, OSError):
        return None


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    """Give `fresh` the name `folder`; what had it goes to `old`, or comes back if that fails."""
    if folder.exists():
        folder.replace(old)
    try:
        fresh.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise


@contextmanager
def _temporary_folder(beside: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=beside.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(target: Path, content: bytes | Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if isinstance(content, Path):
        try:
            os.link(content, target, follow_symlinks=False)
        except OSError:  # another file system, or one without links
            shutil.copyfile(content, target)
        return
    with target.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_entry(content: bytes | Path) -> FileEntry:
    """Checksum and size of a file's content."""
    data = content.read_bytes() if isinstance(content, Path) else content
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))
