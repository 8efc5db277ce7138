"""`precision=bfloat16`: where it computes, where it must not, and that what is learned stays the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_agents import meta_agent
from test_skills import CONFIG, demonstrations
from torch import Tensor, nn

from simpl_core.config import META_PRESETS, SKILLS_PRESETS, MetaConfig, SkillsConfig, preset
from simpl_core.errors import ConfigError
from simpl_core.learner import arithmetic
from simpl_core.networks import MLP, SkillEncoder, SkillMLP
from simpl_core.skills import SkillModel, SkillTrainer
from simpl_core.windows import WindowSampler


def kinds_read(network: nn.Module, kind: type[nn.Module], *inputs: Tensor) -> list[torch.dtype]:
    """Of what each layer of that kind answers with, in the order of the calls."""
    seen: list[torch.dtype] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], answer: Tensor) -> None:
        seen.append(answer.dtype)

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, kind)]
    with arithmetic("bfloat16", "cpu"):
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("network", [MLP(3, 32, 3, 2), SkillMLP(3, 32, 2, 2)])
def test_first_and_last_layers_stay_in_single_precision(network: nn.Module) -> None:
    first, *between, last = kinds_read(network, nn.Linear, torch.randn(16, 3))
    assert first is last is torch.float32
    assert len(between) == 2 and set(between) == {torch.bfloat16}


def test_a_network_without_hidden_layers_is_its_linear_layer() -> None:
    network, x = MLP(3, 32, 0, 2), torch.randn(16, 3)
    torch.testing.assert_close(network(x), network.first(x))
    assert kinds_read(network, nn.Linear, x) == [torch.float32]


def test_the_skill_encoder_reads_and_answers_in_single_precision() -> None:
    encoder = SkillEncoder(3, 2, 2, 32)
    states, actions = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    assert kinds_read(encoder, nn.Linear, states, actions) == [torch.float32] * 2
    with arithmetic("bfloat16", "cpu"):
        lowered = encoder(states, actions)
    exact = encoder(states, actions)
    assert lowered.mean.dtype is lowered.scale.dtype is torch.float32
    assert 0.0 < float((lowered.mean - exact.mean).abs().max().detach()) < 0.02  # the LSTM between them is lowered


def test_a_small_difference_of_a_large_coordinate_is_not_rounded_away() -> None:
    """Between 16 and 32 the numbers of bfloat16 are an eighth apart; a maze has cells of size 1."""
    network = MLP(1, 32, 2, 1)
    with arithmetic("bfloat16", "cpu"):
        here, there = network(torch.tensor([[20.0], [20.05]]))
    assert float((here - there).abs()) > 0.0
    assert float(here) == pytest.approx(float(network(torch.tensor([[20.0]]))), rel=0.02)


def gradient(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_gradients_of_phase_2_point_the_same_way() -> None:
    exact, lowered = meta_agent(), meta_agent(precision="bfloat16")
    metrics = exact.update(1), lowered.update(1)
    assert metrics[0] != metrics[1]
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, rel=0.03, abs=3e-3), name
    for network in ("policy", "critics", "encoder"):
        one, other = gradient(getattr(exact, network)), gradient(getattr(lowered, network))
        assert float(torch.cosine_similarity(one, other, dim=0)) > 0.995, network


def test_gradients_of_phase_1_point_the_same_way() -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = SkillModel(dataclasses.replace(CONFIG, precision=precision), action_dim=2)
        windows = WindowSampler(demonstrations(), CONFIG, 0).sample(64, torch.Generator().manual_seed(0))
        terms = model.losses(windows, torch.randn(64, 2, generator=torch.Generator().manual_seed(1)))
        terms["loss"].backward()
        assert terms["loss"].dtype is torch.float32
        found.append(gradient(model))
    assert float(torch.cosine_similarity(*found, dim=0)) > 0.99
    assert not torch.equal(*found)


def test_weights_and_moments_stay_in_single_precision() -> None:
    trainer = SkillTrainer(dataclasses.replace(CONFIG, precision="bfloat16"), 2, seed=0)
    trainer.update(WindowSampler(demonstrations(), CONFIG, 0))
    tensors = [*trainer.model.parameters(), *(m["exp_avg"] for m in trainer.optimiser.state.values())]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    agent = meta_agent(precision="bfloat16")
    agent.update(1)
    assert all(t.dtype is not torch.bfloat16 for t in agent.state_dict().values())


def test_the_papers_settings_compute_in_single_precision_and_others_are_refused() -> None:
    assert SKILLS_PRESETS["official"].precision == META_PRESETS["official"].precision == "float32"
    for table, stage in ((SKILLS_PRESETS, SkillsConfig), (META_PRESETS, MetaConfig)):
        assert isinstance(preset(table, "fast", precision="bfloat16"), stage)
        with pytest.raises(ConfigError, match="float32, bfloat16"):
            preset(table, "fast", precision="float16")
