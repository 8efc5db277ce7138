"""Models on the robot: real bundles, made by the exporter, offered whole, damaged, foreign and stale."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundle import Bundle, diff_files, file_entry
from export.manifest import MANIFEST, Manifest
from export.runtime import PolicyRunner
from export.to_onnx import update_policy
from export.weights import read_weights
from simpl.core import model_store
from simpl.core.model_store import ModelRefusedError, ModelStore, ModelUpdate
from simpl_core.checkpoint import load_models
from simpl_core.errors import BundleError

ROBOT = "6f1f3a86-2f2c-4a51-9d5e-5f0a4cb6a1de"


@pytest.fixture(scope="module")
def base(random_bundle: Path) -> Bundle:
    return Bundle.open(random_bundle)


@pytest.fixture(scope="module")
def make_update(base: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelUpdate]:
    """`make_update(seq, epoch=1, robot=ROBOT)`: a fine-tuned child of the base, as a learner would send it."""

    def make(seq: int, epoch: int = 1, robot: str = ROBOT) -> ModelUpdate:
        policy = load_models(base.path("learner")).skill_policy
        assert policy is not None
        torch.manual_seed(seq)
        with torch.no_grad():
            for parameter in policy.residual.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        origin = {"trained_on": {"robot_uuid": robot, "epoch": epoch, "seq": seq}}
        child = update_policy(base, policy, tmp_path_factory.mktemp("child") / "model", origin)
        changed = {name: (child.folder / name).read_bytes() for name in diff_files(base, child)}
        text = (child.folder / MANIFEST).read_text()
        return ModelUpdate(child.model_version, base.model_version, text, changed, seq)

    return make


@pytest.fixture
def store(base: Bundle, tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", base, ROBOT)


def refusal(store: ModelStore, update: ModelUpdate) -> str:
    with pytest.raises(ModelRefusedError) as caught:
        store.offer(update)
    return caught.value.reason


def test_only_what_changed_travels_and_the_whole_bundle_comes_out(
    store: ModelStore, base: Bundle, make_update: Callable[..., ModelUpdate]
) -> None:
    update = make_update(280)
    assert set(update.files) == {"skill_policy.onnx", "golden.json"}
    model = store.offer(update)
    assert model is not None and store.newest == model and model.trained_on == (1, 280)
    rebuilt = Bundle.open(model.folder)
    assert rebuilt.model_version == update.model_version
    assert (model.folder / "skill_decoder.onnx").read_bytes() == (base.folder / "skill_decoder.onnx").read_bytes()

    def first_action(bundle: Bundle) -> np.ndarray:
        runner = PolicyRunner(bundle)
        runner.begin_episode(np.ones(base.manifest.e_dim), seed=0)
        return runner.act(np.zeros(base.manifest.state_dim)).z

    assert not np.allclose(first_action(rebuilt), first_action(base))


def test_a_repeated_delivery_is_no_news(store: ModelStore, make_update: Callable[..., ModelUpdate]) -> None:
    update = make_update(280)
    assert store.offer(update) is not None
    assert store.offer(update) is None
    assert len(store.accepted) == 1 and not store.refused


def damaged(update: ModelUpdate) -> ModelUpdate:
    data = bytearray(update.files["skill_policy.onnx"])
    data[len(data) // 2] ^= 1
    return replace(update, files={**update.files, "skill_policy.onnx": bytes(data)})


def half_sent(update: ModelUpdate) -> ModelUpdate:
    return replace(update, files={"golden.json": update.files["golden.json"]})


def outside(update: ModelUpdate) -> ModelUpdate:
    return replace(update, files={**update.files, "../../outside.onnx": b"x"})


def unknown_parent(update: ModelUpdate) -> ModelUpdate:
    return _with_manifest(update, lambda m: replace(m, parent_version="0" * 64))


def other_joints(update: ModelUpdate) -> ModelUpdate:
    def swap(manifest: Manifest) -> Manifest:
        names = manifest.robot.joint_names
        return replace(manifest, robot=replace(manifest.robot, joint_names=(names[1], names[0], *names[2:])))

    return _with_manifest(update, swap)


def forged_version(update: ModelUpdate) -> ModelUpdate:
    return replace(update, model_version="f" * 64)


def edited_manifest(update: ModelUpdate) -> ModelUpdate:
    document = json.loads(update.manifest_json)
    document["robot"]["action_scale"][0] = 50.0
    return replace(update, manifest_json=json.dumps(document))


def no_json(update: ModelUpdate) -> ModelUpdate:
    return replace(update, manifest_json=update.manifest_json[:-20])


def contradiction(update: ModelUpdate) -> ModelUpdate:
    return replace(update, trained_on=update.trained_on + 1)


def _with_manifest(update: ModelUpdate, change: Callable[[Manifest], Manifest]) -> ModelUpdate:
    manifest = change(Manifest.from_json(update.manifest_json))
    return replace(
        update,
        manifest_json=manifest.to_json(),
        model_version=manifest.model_version,
        parent_version=str(manifest.parent_version),
    )


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damaged, "does not match its checksum"),
        (half_sent, "lacks skill_policy.onnx"),
        (outside, "outside.onnx"),
        (unknown_parent, "parent 000000000000 is not known"),
        (other_joints, "changes joints"),
        (forged_version, "manifest is that of"),
        (edited_manifest, "its content is"),
        (no_json, "not JSON"),
        (contradiction, "contradicts itself"),
    ],
)
def test_a_bad_update_is_refused_whole_with_the_reason(
    store: ModelStore,
    make_update: Callable[..., ModelUpdate],
    harm: Callable[[ModelUpdate], ModelUpdate],
    reason: str,
    tmp_path: Path,
) -> None:
    good = store.offer(make_update(100))
    bad = harm(make_update(280))
    assert reason in refusal(store, bad)
    assert store.newest == good
    left = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert good is not None and left == [good.version]
    assert not list(tmp_path.rglob("outside.onnx"))


def test_a_model_with_nan_in_it_is_refused(store: ModelStore, make_update: Callable[..., ModelUpdate]) -> None:
    update = make_update(280)
    model = bytearray(update.files["skill_policy.onnx"])
    weight = next(w for w in read_weights(bytes(model)).values() if w.dtype == np.float32 and w.size > 100)
    at = bytes(model).index(weight.tobytes())
    model[at : at + 4] = np.float32(np.nan).tobytes()
    manifest = Manifest.from_json(update.manifest_json)
    files = {**manifest.files, "skill_policy.onnx": file_entry(bytes(model))}
    bad = _with_manifest(update, lambda m: replace(m, files=files))
    bad = replace(bad, files={**update.files, "skill_policy.onnx": bytes(model)})
    assert "not finite" in refusal(store, bad)


def test_a_refusal_is_said_once(store: ModelStore, make_update: Callable[..., ModelUpdate]) -> None:
    bad = damaged(make_update(280))
    for repeated in (False, True, True):
        with pytest.raises(ModelRefusedError) as caught:
            store.offer(bad)
        assert caught.value.repeated is repeated
    assert list(store.refused) == [bad.model_version]


def test_whatever_the_check_of_a_model_raises_is_a_refusal(
    store: ModelStore, make_update: Callable[..., ModelUpdate], monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise ValueError("cannot reshape")

    monkeypatch.setattr(model_store, "materialise", burst)
    bad = make_update(280)
    assert refusal(store, bad) == "its check failed: ValueError('cannot reshape')"
    with pytest.raises(ModelRefusedError) as caught:
        store.offer(bad)
    assert caught.value.repeated and list(store.refused) == [bad.model_version]


def test_stale_and_foreign_models_are_refused(store: ModelStore, make_update: Callable[..., ModelUpdate]) -> None:
    store.offer(make_update(560))
    assert "stale" in refusal(store, make_update(280))
    assert "foreign" in refusal(store, make_update(840, robot="00000000-0000-4000-8000-000000000000"))


def test_a_new_start_of_the_bridge_counts_from_one_and_is_newer(
    store: ModelStore, make_update: Callable[..., ModelUpdate]
) -> None:
    store.offer(make_update(5000, epoch=1))
    assert store.offer(make_update(280, epoch=2)) is not None
    assert "stale" in refusal(store, make_update(6000, epoch=1))


def test_rollback_gives_the_one_before_and_refuses_the_other_for_good(
    store: ModelStore, base: Bundle, make_update: Callable[..., ModelUpdate]
) -> None:
    first, second = store.offer(make_update(280)), make_update(560)
    store.offer(second)
    assert store.rollback(second.model_version) == first
    assert "rolled back" in refusal(store, second)
    assert store.rollback(first.version).version == base.model_version
    with pytest.raises(BundleError, match="no earlier model"):
        store.rollback(base.model_version)
    assert store.offer(make_update(840)) is not None


def test_rollback_gives_up_the_acting_model_and_what_came_after_it(
    store: ModelStore, base: Bundle, make_update: Callable[..., ModelUpdate]
) -> None:
    first, second, third = (make_update(seq) for seq in (280, 560, 840))
    for update in (first, second, third):
        store.offer(update)
    assert store.rollback(second.model_version).version == first.model_version
    assert "rolled back" in refusal(store, second) and "rolled back" in refusal(store, third)
    assert store.rollback(second.model_version).version == base.model_version, "asked again: one more"
    with pytest.raises(BundleError, match="no earlier model"):
        store.rollback(second.model_version)


def test_rollback_keeps_the_first_model_also_where_it_acts_or_an_unknown_one_does(
    store: ModelStore, base: Bundle, make_update: Callable[..., ModelUpdate]
) -> None:
    for acting, seqs in ((base.model_version, (280, 560)), ("f" * 64, (840, 1120))):
        updates = [make_update(seq) for seq in seqs]
        for update in updates:
            store.offer(update)
        assert store.rollback(acting).version == base.model_version
        assert all("rolled back" in refusal(store, update) for update in updates)


def test_old_versions_make_room_but_the_first_stays(
    base: Bundle, tmp_path: Path, make_update: Callable[..., ModelUpdate]
) -> None:
    store = ModelStore(tmp_path / "models", base, ROBOT, keep=2)
    models = [store.offer(make_update(seq)) for seq in (280, 560, 840)]
    kept = [model.folder for model in models[1:] if model is not None]
    assert sorted((tmp_path / "models").iterdir()) == sorted(kept)
    assert Bundle.open(base.folder).model_version == base.model_version
    assert store.path(base.model_version) == base.folder
    with pytest.raises(BundleError, match="is not in"):
        store.path(models[0].version if models[0] else "")
