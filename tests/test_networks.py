"""Properties that the papers' networks must have, whatever their weights."""

import copy

import torch

from simpl_core.networks import Attention, CriticEnsemble, SkillDecoder, SkillPolicy, SkillPrior, TaskEncoder

S, A, Z, E = 5, 3, 4, 2


def test_task_encoder_ignores_order_and_masked_rows() -> None:
    torch.manual_seed(0)
    encoder = TaskEncoder(S, Z, E, hidden=16, inducing=8)
    context = torch.randn(3, 20, 2 * S + Z + 2)
    answer = encoder(context)
    shuffled = encoder(context[:, torch.randperm(20)])
    torch.testing.assert_close(shuffled.mean, answer.mean, atol=1e-5, rtol=1e-4)
    mask = torch.arange(30).expand(3, -1) < 20
    padded = encoder(torch.cat([context, 1e3 * torch.randn(3, 10, context.shape[-1])], dim=1), mask)
    torch.testing.assert_close(padded.mean, answer.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.scale, answer.scale, atol=1e-5, rtol=1e-4)


def test_folded_attention_equals_plain_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 7, 16, heads=4)
    queries, keys = torch.randn(6, 16), torch.randn(3, 11, 7)
    plain = attention(queries.expand(3, -1, -1), keys)
    torch.testing.assert_close(attention.summarise(queries, keys, None), plain, atol=1e-6, rtol=1e-5)


def test_policy_with_zero_residual_is_the_prior() -> None:
    torch.manual_seed(0)
    policy = SkillPolicy(SkillPrior(S, Z, 16, 2), S, Z, E, 16, 2)
    torch.nn.init.zeros_(policy.residual[-1].weight)
    torch.nn.init.zeros_(policy.residual[-1].bias)
    state = torch.randn(7, S)
    prior, answer = policy.prior(state), policy(state, torch.randn(7, E))
    torch.testing.assert_close(answer.mean, prior.mean)
    torch.testing.assert_close(answer.scale, prior.scale + 1e-3, atol=1e-6, rtol=1e-4)


def test_policy_never_trains_its_prior() -> None:
    torch.manual_seed(0)
    policy = SkillPolicy(SkillPrior(S, Z, 16, 2), S, Z, E, 16, 2).train()
    before = copy.deepcopy(policy.prior.state_dict())
    policy(torch.randn(7, S), torch.randn(7, E)).mean.sum().backward()
    assert all(parameter.grad is None for parameter in policy.prior.parameters())
    for name, tensor in policy.prior.state_dict().items():
        torch.testing.assert_close(tensor, before[name], msg=f"{name} moved: BatchNorm must stay in evaluation mode")


def test_decoder_depends_on_state_and_skill() -> None:
    torch.manual_seed(0)
    decoder = SkillDecoder(S, A, Z, 16, 2).eval()
    state, z = torch.randn(6, S), torch.randn(6, Z)
    answer = decoder(state, z)
    assert answer.shape == (6, A)
    assert (decoder(state + 0.1, z) - answer).abs().max() > 1e-4
    assert (decoder(state, z + 0.1) - answer).abs().max() > 1e-4


def test_critics_are_independent() -> None:
    torch.manual_seed(0)
    critics = CriticEnsemble(S, Z, E, 16, 2, count=3)
    values = critics(torch.randn(8, S), torch.randn(8, E), torch.randn(8, Z))
    assert values.shape == (3, 8)
    values[0].sum().backward()
    assert any(parameter.grad.abs().max() > 0 for parameter in critics.critics[0].parameters())
    assert all(parameter.grad.abs().max() == 0 for parameter in critics.critics[1].parameters())


def test_a_direct_chain_is_the_network_bit_for_bit_with_the_weights_it_had() -> None:
    torch.manual_seed(0)
    decoder = SkillDecoder(4, 2, 3, hidden=32, middle=2)
    for _ in range(3):
        decoder(torch.randn(64, 4), torch.randn(64, 3))  # in training mode: running statistics move
    direct, inputs = decoder.eval().net.direct(), torch.randn(16, 7)
    first, before = decoder.net(inputs), inputs.clone()
    assert torch.equal(direct(inputs), first) and torch.equal(inputs, before)
    decoder.load_state_dict(SkillDecoder(4, 2, 3, hidden=32, middle=2).state_dict())
    assert torch.equal(direct(inputs), first) and not torch.equal(decoder.net(inputs), first)
