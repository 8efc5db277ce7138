"""ONNX answers as PyTorch does, or nothing is written."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import export.to_onnx
from export import to_onnx
from export.bundle import Bundle, describe, diff_files
from export.graphs import skill_decoder_graph, skill_policy_graph, skill_prior_graph
from export.manifest import NETWORKS, Signature
from export.to_onnx import KITCHEN, TOLERANCE, compare, export_bundle, reference, update_policy
from export.verify import new_session
from export.weights import read_operators
from simpl_core.checkpoint import Models, load_checkpoint, load_models, save_checkpoint
from simpl_core.errors import BundleError, CheckpointError
from simpl_core.networks import SkillDecoder, SkillPolicy, SkillPrior


@pytest.fixture(scope="module")
def bundle(random_bundle: Path) -> Bundle:
    return Bundle.open(random_bundle)


@pytest.fixture(scope="module")
def models(random_run: Path) -> Models:
    return load_models(random_run)


def recording(rows: int = 1500) -> np.ndarray:
    """States as a robot visits them: neighbours are close, ranges differ."""
    steps = np.random.default_rng(1).normal(scale=0.03, size=(rows, 30))
    return (steps.cumsum(axis=0) % 3.0 - 1.5).astype(np.float32)


def tuned(policy: SkillPolicy, amount: float = 0.05) -> SkillPolicy:
    """The policy after some training: every trainable weight moved."""
    policy = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.residual.parameters():
            weight += amount * torch.randn(weight.shape, generator=generator)
    return policy


def test_every_graph_is_valid_onnx_of_its_opset(random_bundle, bundle):
    for network in NETWORKS:
        model = onnx.load(random_bundle / f"{network}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert [entry.version for entry in model.opset_import] == [bundle.manifest.opset]


def test_export_checks_random_and_recorded_inputs_and_says_so(random_run, tmp_path):
    out = Bundle.open(export_bundle(random_run, tmp_path / "out", recorded=recording()))
    check = out.manifest.provenance["export_check"]
    assert (check["random"], check["recorded"]) == (1000, 1000)
    differences = check["largest_difference_from_torch_in_float64"]
    assert set(differences) == set(NETWORKS)
    assert max(differences.values()) < 1e-6 < TOLERANCE == 1e-5
    # These random networks are well behaved, so float32 agrees as well; trained ones may not be.
    assert max(check["rounding_of_torch_in_float32"].values()) <= 1e-5


def test_the_same_run_exported_twice_is_the_same_model(random_run, bundle, tmp_path):
    assert Bundle.open(export_bundle(random_run, tmp_path / "again")).model_version == bundle.model_version


def test_a_learner_can_start_from_the_bundle_alone(bundle, models, random_run):
    restored = load_models(bundle.path("learner"))
    assert restored.alpha_2 == models.alpha_2
    assert restored.critics is not None
    assert not (random_run / "weights.safetensors").samefile(bundle.path("learner") / "weights.safetensors")
    for key, value in models.skill_policy.state_dict().items():
        torch.testing.assert_close(restored.skill_policy.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("network", ["skill_decoder", "skill_policy", "skill_prior", "task_encoder"])
def test_a_graph_that_differs_is_refused_and_nothing_is_written(network, random_run, tmp_path, monkeypatch):
    """The graph is written from a network one weight of which is off by a hundredth."""
    right = getattr(export.to_onnx, f"{network}_graph")

    def wrong(module, signature, **how):
        module = copy.deepcopy(module)
        with torch.no_grad():
            list(module.parameters())[-1].view(-1)[0] += 0.01
        return right(module, signature, **how)

    monkeypatch.setattr(export.to_onnx, f"{network}_graph", wrong)
    with pytest.raises(BundleError, match=f"{network}: ONNX and PyTorch differ by .*, more than 1e-05"):
        export_bundle(random_run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def rounds_badly() -> tuple[SkillDecoder, dict[str, torch.Tensor]]:
    """A trained SkillMLP takes a large mean from a small signal: here a decoder that does, and inputs."""
    torch.manual_seed(0)
    decoder = SkillDecoder(30, 9, 10, 128).eval()
    inputs = {"state": 0.01 * torch.randn(500, 30) + 3.0, "z": 0.01 * torch.randn(500, 10)}
    with torch.no_grad():
        decoder.net[0].bias += 30.0
        decoder.train()
        for _ in range(100):
            decoder(*inputs.values())  # lets the running statistics settle, as training would
    return decoder.eval(), inputs


def test_a_network_that_rounds_badly_is_exported_exactly(bundle):
    """Float32 answers are off by more than allowed."""
    decoder, inputs = rounds_badly()
    exact = reference(decoder)
    with torch.no_grad():
        in_float32 = decoder(*inputs.values()).double()
        rounding = (in_float32 - exact(*(x.double() for x in inputs.values()))).abs().max().item()
    signature = bundle.manifest.signatures()["skill_decoder"]
    difference = compare("skill_decoder", skill_decoder_graph(decoder, signature), exact, [inputs], signature)
    assert difference < 1e-6 < TOLERANCE < rounding


def test_what_a_control_loop_waits_for_computes_in_float32_where_that_agrees(random_run, models, bundle, tmp_path):
    signature = bundle.manifest.signatures()["skill_decoder"]
    good, (bad, inputs) = models.skill_decoder, rounds_badly()
    for decoder, fast in ((good, True), (bad, False)):
        exact = reference(decoder)
        graph, arithmetic, difference = to_onnx._graph("skill_decoder", decoder, exact, [inputs], signature)
        assert graph == skill_decoder_graph(decoder, signature, fast=fast)
        assert ("Gemm" in read_operators(graph)) == fast
        assert arithmetic == ("float32" if fast else "float64") and difference <= TOLERANCE
    check = Bundle.open(export_bundle(random_run, tmp_path / "out")).manifest.provenance["export_check"]
    assert check["arithmetic"] == {name: "float32" if name in to_onnx.IN_THE_LOOP else "float64" for name in NETWORKS}


def test_other_batchnorm_statistics_would_be_noticed(models, bundle):
    """The graph of a decoder with fresh statistics is not the graph of the trained one."""
    other = copy.deepcopy(models.skill_decoder)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
    signature = bundle.manifest.signatures()["skill_decoder"]
    inputs = {"state": torch.randn(50, 30), "z": torch.randn(50, 10)}
    graph = skill_decoder_graph(other, signature)
    compare("skill_decoder", graph, reference(other), [inputs], signature)
    with pytest.raises(BundleError, match="differ by"):
        compare("skill_decoder", graph, reference(models.skill_decoder), [inputs], signature)


def test_weights_that_are_not_finite_are_not_exported(random_run, tmp_path):
    run = load_checkpoint(random_run)
    run.tensors["critics.critics.0.0.weight"][0, 0] = torch.nan
    save_checkpoint(tmp_path / "run", run.tensors, run.config, run.provenance)
    with pytest.raises(BundleError, match="critics.critics.0.0.weight has numbers that are not finite"):
        export_bundle(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_meta_trained_run_is_refused(random_run, tmp_path):
    with pytest.raises(CheckpointError, match="is not a finished run"):
        export_bundle(tmp_path, tmp_path / "out")
    run = load_checkpoint(random_run)
    del run.config["meta"]
    save_checkpoint(tmp_path / "skills", run.tensors, run.config, run.provenance)
    with pytest.raises(BundleError, match="holds skills only"):
        export_bundle(tmp_path / "skills", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_robot_of_other_sizes_is_refused(random_run, tmp_path):
    from dataclasses import replace

    small = replace(KITCHEN, joint_names=KITCHEN.joint_names[:7])
    with pytest.raises(BundleError, match=r"sizes \(30, 9\), but kitchen has \(30, 7\)"):
        export_bundle(random_run, tmp_path / "out", robot=small)


@pytest.mark.parametrize("recorded", [np.zeros((5, 29), np.float32), np.full((5, 30), np.nan, np.float32)])
def test_recorded_states_of_no_use_are_refused(random_run, tmp_path, recorded):
    with pytest.raises(BundleError, match=r"recorded states must be finite and \(M, 30\)"):
        export_bundle(random_run, tmp_path / "out", recorded=recorded)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 400), seed=st.integers(0, 10**6), batch=st.integers(1, 3))
def test_the_task_encoder_takes_any_number_of_rows_and_any_mask(rows, seed, batch, bundle, models):
    rng = np.random.default_rng(seed)
    transitions = rng.normal(size=(batch, rows, 72)).astype(np.float32)
    mask = rng.random((batch, rows)) < 0.5
    mask[:, rng.integers(rows)] = True
    mean, scale = bundle.sessions["task_encoder"].run(None, {"transitions": transitions, "mask": mask})
    with torch.no_grad():
        wanted = models.task_encoder(torch.from_numpy(transitions), torch.from_numpy(mask))
    np.testing.assert_allclose(mean, wanted.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scale, wanted.scale, rtol=1e-5, atol=1e-5)


def test_masked_rows_and_the_order_of_rows_do_not_count(bundle):
    session, rng = bundle.sessions["task_encoder"], np.random.default_rng(0)
    rows = rng.normal(size=(1, 20, 72)).astype(np.float32)
    rubbish = 1e3 * rng.normal(size=(1, 13, 72)).astype(np.float32)
    mask = np.arange(33)[None] < 20
    alone = session.run(None, {"transitions": rows, "mask": np.ones((1, 20), bool)})
    padded = session.run(None, {"transitions": np.concatenate([rows, rubbish], axis=1), "mask": mask})
    shuffled = session.run(None, {"transitions": rows[:, rng.permutation(20)], "mask": np.ones((1, 20), bool)})
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    np.testing.assert_allclose(shuffled, alone, atol=1e-5)


@pytest.mark.parametrize("log_scale", [-30.0, -10.0, -5.0, 0.0, 2.0, 30.0])
def test_the_policy_is_exact_where_the_prior_is_very_sure_or_unsure(log_scale):
    """Its scale goes through the inverse of softplus, which loses its digits near 0 in float32.

    A residual of 8 makes of a prior scale of exp(-10) about 0.13, of which 1 - exp(-x) would keep three digits.
    """
    torch.manual_seed(0)
    policy = SkillPolicy(SkillPrior(4, 2, 8, 1), 4, 2, 3, 8, 1).eval()
    with torch.no_grad():
        policy.prior.net[-1].weight.zero_()
        policy.prior.net[-1].bias.copy_(torch.tensor([0.5, -0.5, log_scale, log_scale]))
        policy.residual[-1].weight.zero_()
        policy.residual[-1].bias.copy_(torch.tensor([0.0, 0.0, 8.0, 0.0]))
    signature = Signature({"state": (None, 4), "e": (None, 3)}, {"mean": (None, 2), "scale": (None, 2)})
    session = new_session(skill_policy_graph(policy, signature))
    _, scale = session.run(None, {"state": np.ones((1, 4), np.float32), "e": np.ones((1, 3), np.float32)})
    prior = np.exp(np.clip(log_scale, -10.0, 2.0))
    wanted = 1e-3 + np.log1p(np.expm1(prior) * np.exp([8.0, 0.0]))  # the same in closed form, float64
    np.testing.assert_allclose(scale[0], wanted, rtol=1e-6)


def test_an_unknown_layer_is_refused():
    prior = SkillPrior(4, 2, 8, 1)
    prior.net[1] = nn.Tanh()
    with pytest.raises(BundleError, match="no ONNX form is known for a Tanh layer"):
        skill_prior_graph(prior, Signature({"state": (None, 4)}, {"mean": (None, 2), "scale": (None, 2)}))


class TestUpdatePolicy:
    def test_the_child_has_the_new_policy_and_all_else_of_the_parent(self, bundle, models, tmp_path):
        policy = tuned(models.skill_policy)
        child = update_policy(bundle, policy, tmp_path / "child", {"trained_on": 7}, recorded=recording(300))
        opened = Bundle.open(tmp_path / "child")
        assert opened.model_version == child.model_version != bundle.model_version
        assert opened.manifest.parent_version == bundle.model_version
        assert opened.manifest.provenance == {"trained_on": 7}
        assert diff_files(bundle, child) == ["golden.json", "skill_policy.onnx"]
        assert child.path("skill_decoder").stat().st_ino == bundle.path("skill_decoder").stat().st_ino
        state, e = torch.randn(64, 30), torch.randn(64, 6)
        mean, scale = opened.sessions["skill_policy"].run(None, {"state": state.numpy(), "e": e.numpy()})
        with torch.no_grad():
            wanted = policy(state, e)
        np.testing.assert_allclose(mean, wanted.mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scale, wanted.scale, rtol=1e-5, atol=1e-5)

    def test_an_update_that_computes_otherwise_than_its_parent_says_so(self, bundle, models, tmp_path, monkeypatch):
        assert bundle.arithmetic() == "float32" and "; float32" in describe(bundle)
        monkeypatch.setattr(to_onnx, "IN_THE_LOOP", ())
        child = update_policy(bundle, tuned(models.skill_policy), tmp_path / "child", {})
        assert Bundle.open(child.folder).arithmetic() == "skill_decoder float32, skill_policy float64"
        monkeypatch.undo()
        grandchild = update_policy(child, tuned(models.skill_policy, 0.1), tmp_path / "grandchild", {})
        assert grandchild.arithmetic() == "float32"

    def test_grandchildren_and_other_file_systems(self, bundle, models, tmp_path, monkeypatch):
        """Where no links can be made, files are copied."""

        def refuse(*args, **kwargs):
            raise OSError("cross-device link")

        monkeypatch.setattr(export.bundle.os, "link", refuse)
        child = update_policy(bundle, tuned(models.skill_policy), tmp_path / "child", {})
        grandchild = update_policy(child, tuned(models.skill_policy, 0.1), tmp_path / "grandchild", {})
        assert grandchild.manifest.parent_version == child.model_version
        assert Bundle.open(tmp_path / "grandchild").path("learner").joinpath("config.json").is_file()

    def test_a_policy_gone_wrong_is_refused_and_nothing_is_written(self, bundle, models, tmp_path):
        policy = tuned(models.skill_policy)
        with torch.no_grad():
            policy.residual[0].weight[0, 0] = torch.inf
        with pytest.raises(BundleError, match=r"skill_policy.residual.0.weight has numbers that are not finite"):
            update_policy(bundle, policy, tmp_path / "child", {})
        with torch.no_grad():
            policy.residual[0].weight.fill_(1e30)
            policy.residual[2].weight.fill_(1e30)
        with pytest.raises(BundleError, match="that is not finite"):
            update_policy(bundle, policy, tmp_path / "child", {})
        assert list(tmp_path.iterdir()) == []

    def test_a_graph_that_differs_is_refused(self, bundle, models, tmp_path, monkeypatch):
        graph = skill_policy_graph(models.skill_policy, bundle.manifest.signatures()["skill_policy"])
        monkeypatch.setattr(export.to_onnx, "skill_policy_graph", lambda *_, **__: graph)
        with pytest.raises(BundleError, match="ONNX and PyTorch differ"):
            update_policy(bundle, tuned(models.skill_policy), tmp_path / "child", {})
        assert list(tmp_path.iterdir()) == []

    def test_a_policy_of_other_sizes_is_refused(self, bundle, models, tmp_path):
        policy = SkillPolicy(models.skill_prior, 30, 10, 5, 128, 5)
        with pytest.raises(BundleError, match="skill_policy"):
            update_policy(bundle, policy, tmp_path / "child", {})
        assert list(tmp_path.iterdir()) == []

    def test_provenance_must_be_json(self, bundle, models, tmp_path):
        with pytest.raises(BundleError, match="cannot be written as JSON"):
            update_policy(bundle, models.skill_policy, tmp_path / "child", {"seed": object()})
        update_policy(bundle, models.skill_policy, tmp_path / "child", {"pair": (1, 2), 3: "number"})
        assert json.loads((tmp_path / "child" / "manifest.json").read_text())["provenance"]["3"] == "number"

    def test_it_costs_a_part_of_a_whole_export(self, bundle, models, random_run, tmp_path, monkeypatch):
        """It is done after every episode: one network is written, and compared on a part of an export's inputs."""
        compared = []

        def noting(name, graph, network, cases, signature):
            cases = list(cases)
            compared.append((name, sum(len(next(iter(case.values()))) for case in cases)))
            return compare(name, graph, network, cases, signature)

        monkeypatch.setattr(to_onnx, "compare", noting)
        update_policy(bundle, tuned(models.skill_policy), tmp_path / "update", {}, recorded=recording(20_000))
        golden = len(next(iter(bundle.golden["skill_policy"].inputs.values())))
        assert compared == [("skill_policy", 2 * to_onnx.UPDATE_CHECKS + golden)]
        update = compared.pop()[1]
        export_bundle(random_run, tmp_path / "export", recorded=recording(20_000))
        assert {name for name, _ in compared} == set(NETWORKS)
        assert update < 0.3 * sum(rows for _, rows in compared)
