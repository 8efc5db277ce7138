"""A bundle is taken whole or refused whole, and written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import external_data_helper, numpy_helper

from export.bundle import Bundle, describe, diff_files, materialise, write_bundle
from export.manifest import GOLDEN, MANIFEST, NETWORKS, FileEntry, Manifest
from export.verify import load_model
from export.weights import read_weights
from simpl_core.errors import BundleError


@pytest.fixture
def copy(random_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def bundle(random_bundle: Path) -> Bundle:
    return Bundle.open(random_bundle)


def refusal(folder: Path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit_manifest(folder: Path, edit: Callable[[dict], None]) -> None:
    """Change manifest.json and leave its checksum as it was."""
    document = json.loads((folder / MANIFEST).read_text())
    edit(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def forge(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and put every checksum right, as a faulty but careful writer would."""
    (folder / name).write_bytes(content)
    manifest = Manifest.from_json((folder / MANIFEST).read_text())
    entry = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    manifest = dataclasses.replace(manifest, files={**manifest.files, name: entry})
    (folder / MANIFEST).write_text(manifest.to_json())


def test_a_sound_bundle_opens_and_says_what_it_is(bundle):
    assert set(bundle.sessions) == set(NETWORKS)
    assert (bundle.manifest.state_dim, bundle.manifest.action_dim) == (30, 9)
    assert (bundle.manifest.horizon, bundle.manifest.z_dim, bundle.manifest.e_dim) == (10, 10, 6)
    assert bundle.path("skill_policy").is_file()
    assert bundle.path("learner").is_dir()
    assert bundle.model_version in describe(bundle)
    assert bundle.manifest.robot.joint_names[0] in (bundle.folder / MANIFEST).read_text()


def test_an_unknown_part_is_named_with_those_that_exist(bundle):
    with pytest.raises(BundleError, match=r"no 'reward'; it has skill_decoder, .*learner"):
        bundle.path("reward")


def test_no_folder_no_manifest_and_a_manifest_that_is_no_text(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "no manifest.json" in refusal(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    assert "not a text" in refusal(tmp_path)


def test_missing_extra_short_and_changed_files(copy):
    golden = (copy / GOLDEN).read_bytes()
    (copy / GOLDEN).unlink()
    assert "golden.json missing" in refusal(copy)
    (copy / GOLDEN).write_bytes(golden[:-1])
    assert f"has {len(golden) - 1} bytes, wanted {len(golden)}" in refusal(copy)
    (copy / GOLDEN).write_bytes(golden[:-1] + b" ")
    assert "golden.json does not match its checksum" in refusal(copy)
    (copy / GOLDEN).write_bytes(golden)
    (copy / "learner" / "notes.txt").write_text("hello")
    assert "learner/notes.txt not in the manifest" in refusal(copy)
    (copy / "learner" / "notes.txt").unlink()
    Bundle.open(copy)


def test_a_link_is_refused_even_to_the_right_content(copy, tmp_path):
    outside = tmp_path / "outside.onnx"
    shutil.move(copy / "skill_prior.onnx", outside)
    (copy / "skill_prior.onnx").symlink_to(outside)
    assert "skill_prior.onnx is a symbolic link" in refusal(copy)


def test_a_linked_folder_is_refused(copy, tmp_path):
    shutil.move(copy / "learner", tmp_path / "learner")
    (copy / "learner").symlink_to(tmp_path / "learner")
    assert "learner is a symbolic link" in refusal(copy)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda d: d.update(schema_version=1), "has schema version 1; this program reads 2"),
        (lambda d: d.pop("schema_version"), "has schema version None"),
        (lambda d: d["robot"].update(action_scale=[20.0] * 9), "states model version"),
        (lambda d: d.update(provenance={"command": "another"}), "states model version"),
        (lambda d: d["robot"].update(action_scale=[2.0] * 8), "action_scale has 8 entries, wanted 9"),
        (lambda d: d["robot"].update(action_scale=[-2.0] * 9), "must be positive"),
        (lambda d: d["robot"].update(action_limits=[1.0, -1.0]), "are not lowest, highest"),
        (lambda d: d["robot"].update(control_rate_hz=float("nan")), "NaN is not a finite number"),
        (lambda d: d["robot"].update(control_rate_hz=True), "control_rate_hz is True, not a number"),
        (lambda d: d["robot"].update(joint_names=["a"] * 9), "names something twice"),
        (lambda d: d.update(horizon=0), "horizon is 0, not a positive integer"),
        (lambda d: d.update(horizon="10"), "horizon is '10', not a positive integer"),
        (lambda d: d.update(parent_version="abc"), "parent_version is 'abc'"),
        (lambda d: d.pop("opset"), r"missing ['opset']"),
        (lambda d: d.update(colour="red"), r"unknown ['colour']"),
        (lambda d: d["files"].pop("task_encoder.onnx"), "does not list task_encoder.onnx"),
        (lambda d: d["files"].pop("learner/config.json"), "does not list learner/config.json"),
        (lambda d: d["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}), "lists '../x'; a bundle may hold"),
        (lambda d: d["files"].update({"/etc/passwd": {"sha256": "0" * 64, "bytes": 1}}), "lists '/etc/passwd'"),
        (lambda d: d["files"][GOLDEN].update(sha256="0"), "is '0', not 64 hexadecimal digits"),
    ],
)
def test_a_manifest_is_read_strictly(copy, edit, reason):
    edit_manifest(copy, edit)
    assert reason in refusal(copy)


def test_a_number_that_overflows_is_refused(copy):
    edit_manifest(copy, lambda d: d.update(provenance={"x": 12345.5}))
    (copy / MANIFEST).write_text((copy / MANIFEST).read_text().replace("12345.5", "1e999"))
    assert "1e999 is not a finite number" in refusal(copy)


def test_a_golden_answer_that_any_model_gives_is_refused(copy):
    """1e39 is infinite in single precision, and so is what may be off it."""
    document = json.loads((copy / GOLDEN).read_text())
    document["skill_decoder"]["outputs"]["action"][1][4] = 1e39
    forge(copy, GOLDEN, json.dumps(document).encode())
    assert "golden.json: skill_decoder has numbers that are not finite" in refusal(copy)


def test_a_provenance_nested_without_end_is_refused(copy):
    nested = json.loads("[" * 900 + "]" * 900)
    edit_manifest(copy, lambda d: d.update(provenance={"deep": nested}))
    assert "manifest.json" in refusal(copy)  # which check stops it depends on Python's recursion limits


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"a"', "null"])
def test_a_manifest_that_is_no_object(copy, text):
    (copy / MANIFEST).write_text(text)
    assert "manifest.json" in refusal(copy)


def test_weights_that_are_not_finite_are_refused_with_every_checksum_right(copy):
    model = onnx.load(copy / "skill_decoder.onnx")
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight).copy()
    values.flat[3] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    forge(copy, "skill_decoder.onnx", model.SerializeToString())
    assert f"skill_decoder.onnx: weight {weight.name} is not finite" in refusal(copy)


def test_weights_kept_in_another_file_are_refused(copy):
    model = onnx.load(copy / "skill_decoder.onnx")
    external_data_helper.set_external_data(model.graph.initializer[0], "../../secret.bin")
    model.graph.initializer[0].ClearField("raw_data")
    forge(copy, "skill_decoder.onnx", model.SerializeToString())
    assert "stored in a way that is not accepted" in refusal(copy)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not an onnx file at all"])
def test_files_that_are_no_model_are_refused(copy, content):
    forge(copy, "skill_policy.onnx", content)
    assert "skill_policy.onnx:" in refusal(copy)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_a_model_cut_short_anywhere_is_refused(share, random_bundle):
    model = (random_bundle / "skill_prior.onnx").read_bytes()
    cut = model[: int(share * len(model))]
    with pytest.raises(BundleError, match=r"^skill_prior.onnx: "):
        load_model("skill_prior", cut)


def test_the_weights_read_are_those_that_onnx_reads(random_bundle):
    for network in NETWORKS:
        path = random_bundle / f"{network}.onnx"
        ours = read_weights(path.read_bytes())
        theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        assert set(ours) == set(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values)


def test_another_network_under_a_name_is_refused(copy):
    forge(copy, "skill_prior.onnx", (copy / "skill_policy.onnx").read_bytes())
    assert "skill_prior.onnx: inputs are" in refusal(copy)


def test_a_manifest_with_other_sizes_than_the_models_is_refused(copy):
    manifest = Manifest.from_json((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(dataclasses.replace(manifest, e_dim=7).to_json())
    assert "golden.json: skill_policy: e has shape (2, 6), wanted (None, 7)" in refusal(copy)


def test_an_answer_off_the_golden_one_is_refused(copy):
    document = json.loads((copy / GOLDEN).read_text())
    document["skill_decoder"]["outputs"]["action"][1][4] += 0.01
    forge(copy, GOLDEN, json.dumps(document).encode())
    assert "skill_decoder.onnx: output action is off by 0.01 from the golden answer" in refusal(copy)


def test_a_network_without_golden_answers_is_refused(copy):
    document = json.loads((copy / GOLDEN).read_text())
    del document["task_encoder"]["outputs"]["scale"]
    forge(copy, GOLDEN, json.dumps(document).encode())
    assert "golden.json has no complete case for task_encoder" in refusal(copy)


def test_answers_that_are_not_finite_are_refused(copy):
    """Huge finite weights pass a look at the weights; the golden run sees what they do."""
    model = onnx.load(copy / "skill_decoder.onnx")
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(np.full_like(values, 1e30), weight.name))
    forge(copy, "skill_decoder.onnx", model.SerializeToString())
    assert "skill_decoder.onnx: output action is not finite" in refusal(copy)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed(data, random_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flipped") / "bundle"
    shutil.copytree(random_bundle, folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    path = folder / data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    # A space is no change in the meaning of JSON, so spaces in the manifest are left alone.
    position = data.draw(st.integers(0, len(content) - 1).filter(lambda at: content[at : at + 1].strip() != b""))
    content[position] ^= 1 << data.draw(st.integers(0, 6))
    path.write_bytes(content)
    refusal(folder)
    shutil.rmtree(folder)


def test_writing_replaces_a_bundle_and_nothing_else(bundle, tmp_path):
    files = {name: bundle.folder / name for name in bundle.manifest.files}
    target = tmp_path / "deep" / "target"
    first = write_bundle(target, files, bundle.manifest)
    assert first.model_version == bundle.model_version
    other = dataclasses.replace(bundle.manifest, provenance={"note": "other"})
    second = write_bundle(target, files, other)
    assert Bundle.open(target).model_version == second.model_version != first.model_version
    assert list(target.parent.iterdir()) == [target]
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("precious")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        write_bundle(taken, files, bundle.manifest)
    assert (taken / "thesis.tex").read_text() == "precious"


def test_what_would_be_refused_is_not_written(bundle, tmp_path):
    files = {name: bundle.folder / name for name in bundle.manifest.files}
    with pytest.raises(BundleError, match=r"out is not written: skill_prior.onnx: "):
        write_bundle(tmp_path / "out", {**files, "skill_prior.onnx": b"\x00"}, bundle.manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_leaves_the_old_bundle(bundle, tmp_path, monkeypatch):
    files = {name: bundle.folder / name for name in bundle.manifest.files}
    target = tmp_path / "target"
    write_bundle(target, files, bundle.manifest)
    rename = Path.replace

    def fail_for_the_new_one(self, other):
        if self.name == "new":
            raise OSError("no space left on device")
        return rename(self, other)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises(BundleError, match="no space left"):
        write_bundle(target, files, dataclasses.replace(bundle.manifest, provenance={"note": "other"}))
    monkeypatch.undo()
    assert Bundle.open(target).model_version == bundle.model_version
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture(scope="module")
def child(bundle, tmp_path_factory) -> Bundle:
    """The parent with other answers for the prior: two files and the manifest differ."""
    golden = json.loads((bundle.folder / GOLDEN).read_text())
    golden["skill_prior"]["outputs"]["mean"][0][0] += 1e-6
    files = {name: bundle.folder / name for name in bundle.manifest.files}
    files[GOLDEN] = json.dumps(golden).encode()
    manifest = dataclasses.replace(bundle.manifest, parent_version=bundle.model_version)
    return write_bundle(tmp_path_factory.mktemp("child") / "bundle", files, manifest)


class TestUpdate:
    """A child rebuilt on another machine from its parent and the files that differ."""

    def delivery(self, bundle: Bundle, child: Bundle) -> tuple[dict[str, bytes], str]:
        changed = {name: (child.folder / name).read_bytes() for name in diff_files(bundle, child)}
        return changed, (child.folder / MANIFEST).read_text()

    def test_the_difference_is_enough(self, bundle, child, tmp_path):
        changed, manifest = self.delivery(bundle, child)
        assert list(changed) == [GOLDEN]
        rebuilt = materialise(bundle, changed, manifest, tmp_path / "rebuilt")
        assert rebuilt.model_version == child.model_version == Bundle.open(tmp_path / "rebuilt").model_version
        assert rebuilt.sessions["skill_policy"] is bundle.sessions["skill_policy"]
        assert diff_files(child, rebuilt) == []

    def test_a_repeated_delivery_changes_nothing_and_mends_a_damaged_one(self, bundle, child, tmp_path):
        changed, manifest = self.delivery(bundle, child)
        target = tmp_path / "rebuilt"
        materialise(bundle, changed, manifest, target)
        before = (target / MANIFEST).stat().st_ino
        materialise(bundle, changed, manifest, target)
        assert (target / MANIFEST).stat().st_ino == before
        (target / GOLDEN).unlink()
        materialise(bundle, changed, manifest, target)
        Bundle.open(target)

    def test_what_does_not_fit_is_refused_and_leaves_nothing(self, bundle, child, tmp_path):
        changed, manifest = self.delivery(bundle, child)
        wrong = {GOLDEN: changed[GOLDEN][:-2] + b" }"}
        for files, text, reason in (
            ({}, manifest, "lacks golden.json, and its parent has another one"),
            ({**changed, "../evil": b""}, manifest, "brings '../evil'"),
            (wrong, manifest, "golden.json"),
            (changed, manifest.replace("12.5", "125.0"), "states model version"),
            (changed, "{}", "schema version None"),
        ):
            with pytest.raises(BundleError, match=reason.replace("(", r"\(")):
                materialise(bundle, files, text, tmp_path / "out")
            assert list(tmp_path.iterdir()) == []

    def test_an_update_of_another_parent_is_refused(self, bundle, child, tmp_path):
        changed, manifest = self.delivery(bundle, child)
        with pytest.raises(BundleError, match=f"was made from {bundle.model_version[:12]}, not from"):
            materialise(child, changed, manifest, tmp_path / "out")

    def test_an_update_may_not_change_what_the_robot_relies_on(self, bundle, child, tmp_path):
        changed, _ = self.delivery(bundle, child)
        faster = dataclasses.replace(bundle.manifest.robot, action_scale=(20.0,) * 9)
        manifest = dataclasses.replace(child.manifest, robot=faster)
        with pytest.raises(BundleError, match="changes joints, scales, sizes or control rate"):
            materialise(bundle, changed, manifest.to_json(), tmp_path / "out")


def test_a_robot_needs_neither_torch_nor_onnx_nor_mujoco(random_bundle):
    """In a fresh process where those cannot be imported, a bundle opens and a policy acts."""
    program = """
import sys
for name in ("torch", "onnx", "mujoco", "gymnasium", "safetensors"):
    sys.modules[name] = None
import numpy as np
from export.bundle import Bundle
from export.runtime import PolicyRunner
runner = PolicyRunner(Bundle.open(sys.argv[1]))
runner.begin_episode(np.zeros(6), seed=0)
print(runner.act(np.zeros(30)).action.shape)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, str(random_bundle)], capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.strip() == "(9,)", answer.stderr
