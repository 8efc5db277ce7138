"""The agents: what each loss may move, how weights grow, that they learn, and that a restored one goes on the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_domain import META, SKILL, STATE, unit_prior

from simpl_core import equations
from simpl_core.agents import Agent
from simpl_core.agents.simpl import Contexts, Experience, SimplAgent
from simpl_core.agents.spirl import SpirlAgent, start_from_prior
from simpl_core.config import AdaptConfig
from simpl_core.episode import SkillSteps
from simpl_core.errors import ConfigError
from simpl_core.learner import DualWeights, adam, descend, move_targets, torch_threads
from simpl_core.networks import MLP, CriticEnsemble, SkillPolicy

ADAPT = AdaptConfig(batch_size=32, buffer_size=500, learning_rate=3e-3, tau=0.05, delta=2.0, alpha=0.05, gamma=0.5)


def bandit_steps(count: int, best: np.ndarray, seed: int, prior_scale: float = 1.0) -> SkillSteps:
    """One-step episodes with skills from the prior that pay 1 within 0.8 of the best skill."""
    rng = np.random.default_rng(seed)
    z = prior_scale * rng.standard_normal((count, SKILL)).astype(np.float32)
    states = 0.1 * rng.standard_normal((count, STATE)).astype(np.float32)
    rewards = (np.linalg.norm(z - best, axis=1) < 0.8).astype(np.float32)
    return SkillSteps(states, z, rewards, np.ones(count, np.float32), states)


def meta_agent(seed: int = 0, **changes: object) -> SimplAgent:
    agent = SimplAgent(dataclasses.replace(META, **changes), unit_prior(), tasks=3, seed=seed)
    for task in range(3):
        agent.add(task, bandit_steps(200, np.array([task - 1.0, 0.0]), task), replay=True, context=True)
    return agent


def task_agent(seed: int = 0, **changes: object) -> SpirlAgent:
    start = start_from_prior(unit_prior(), hidden=32, layers=2, critics=2, alpha=0.05, seed=0)
    agent = SpirlAgent(start, dataclasses.replace(ADAPT, **changes), np.zeros(0, np.float32), seed)
    agent.add(bandit_steps(400, np.array([1.0, 0.5]), 1))
    return agent


def snapshot(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in agent.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], prefix: str) -> bool:
    names = [name for name in before if name.startswith(prefix)]
    assert names, prefix
    return any(not torch.equal(before[name], after[name]) for name in names)


# --- learner ---------------------------------------------------------------------------------------------------------


def test_targets_move_by_tau() -> None:
    source, target = MLP(2, 3, 1, 1), MLP(2, 3, 1, 1)
    expected = [0.9 * t + 0.1 * s for t, s in zip(target.parameters(), source.parameters(), strict=True)]
    move_targets(target, source, 0.1)
    torch.testing.assert_close(list(target.parameters()), expected)


def test_dual_weights_start_where_told_and_only_grow() -> None:
    weights = DualWeights(1e-4, target=2.0, rate=0.01)
    torch.testing.assert_close(weights.values, torch.tensor([1e-4]), rtol=1e-4, atol=0)
    for _ in range(20):
        weights.update(torch.full((4,), 1.0))
    torch.testing.assert_close(weights.values, torch.tensor([1e-4]), rtol=1e-4, atol=0)
    weights.update(torch.full((4,), 3.0))
    assert weights.values.item() > 1.005e-4


def test_dual_weights_may_move_both_ways() -> None:
    weights = DualWeights(0.5, target=2.0, rate=0.01, only_grow=False)
    weights.update(torch.full((4,), 1.0))
    assert weights.values.item() < 0.5


def test_one_dual_weight_per_task_moves_alone() -> None:
    weights = DualWeights(0.1, target=2.0, rate=0.01, count=3)
    weights.update(torch.tensor([5.0, 5.0, 0.0]), which=torch.tensor([2, 2, 0]))
    low, middle, high = weights.values.tolist()
    assert low == middle == pytest.approx(0.1) and high > 0.1005


def test_a_step_works_out_the_gradient_of_its_own_weights_only() -> None:
    torch.manual_seed(0)
    own, others = MLP(2, 3, 1, 2), MLP(2, 3, 1, 1)
    before = [weight.clone() for weight in own.parameters()]
    descend(others(own(torch.ones(1, 2))).sum(), adam(own.parameters(), 0.1))
    assert all(weight.grad is None for weight in others.parameters())
    assert all(not torch.equal(weight, old) for weight, old in zip(own.parameters(), before, strict=True))


def test_fused_adam_is_adam() -> None:
    one, two = MLP(3, 8, 1, 1), MLP(3, 8, 1, 1)
    two.load_state_dict(one.state_dict())
    optimisers = [adam(one.parameters(), 1e-2), torch.optim.Adam(two.parameters(), 1e-2)]
    x = torch.randn(16, 3)
    for _ in range(10):
        for network, optimiser in zip((one, two), optimisers, strict=True):
            optimiser.zero_grad()
            network(x).square().mean().backward()
            optimiser.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# --- SiMPL -----------------------------------------------------------------------------------------------------------


def test_one_simpl_step_moves_all_that_learns_and_not_the_prior() -> None:
    agent = meta_agent()
    before = snapshot(agent)
    metrics = agent.update(1)
    after = snapshot(agent)
    for learned in ("skill_policy.residual", "critics", "target_critics", "task_encoder", "generator"):
        assert changed(before, after, learned), learned
    for kept in ("skill_policy.prior", "replay", "contexts"):
        assert not changed(before, after, kept), kept
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_encoder_learns_from_the_critics_and_not_from_the_policy() -> None:
    """Every transition here is done, so alpha enters the policy's loss only: the encoder must not notice it."""
    one, two = meta_agent(), meta_agent(alpha_1=5.0, alpha_2=5.0)
    before = snapshot(one)
    for agent in (one, two):
        agent.update(1)
    assert changed(before, snapshot(one), "task_encoder")
    assert not changed(snapshot(one), snapshot(two), "task_encoder")
    assert changed(snapshot(one), snapshot(two), "skill_policy.residual")


def test_the_critics_reach_the_encoder_without_its_bottleneck() -> None:
    agent = meta_agent(encoder_weight_small=1e-30, encoder_weight_large=1e-30)
    before = snapshot(agent)
    agent.update(1)
    assert changed(before, snapshot(agent), "task_encoder")


def test_mixed_contexts_come_from_the_replay() -> None:
    """Only there is a reward: the encoder's input shows it where contexts are mixed, and nowhere else."""
    seen: list[float] = []

    def rewards_read(tasks_mixed: int) -> list[float]:
        agent = meta_agent(tasks_mixed=tasks_mixed)
        column = agent.replay.rows(0).shape[1] - 4 * SKILL - STATE - 2
        for buffer, value in ((agent.replay, 1.0), (agent.contexts, 0.0)):
            for task in range(len(buffer.sizes)):
                buffer.rows(task)[:, column] = value
        seen.clear()
        hook = agent.encoder.register_forward_pre_hook(
            lambda _, inputs: seen.extend(inputs[0][:, :, column].mean(1).tolist())
        )
        agent.update(1)
        hook.remove()
        return list(seen)

    assert rewards_read(0) == [0.0] * 8
    assert rewards_read(5) == [0.0] * 3 + [1.0] * 5


def test_kept_rows_of_mixed_contexts_are_the_rewarded_ones() -> None:
    """Half of the replay pays: of 16 drawn the 4 kept all do, whichever buffer they come from."""
    agent, seen = meta_agent(tasks_mixed=6, context_kept=4), []
    column = STATE + SKILL
    for buffer in (agent.replay, agent.contexts):
        for task in range(len(buffer.sizes)):
            rows = buffer.rows(task)
            rows[:, column] = torch.arange(len(rows)) % 2
    hook = agent.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :, column]))
    agent.update(1)
    hook.remove()
    assert seen[1].shape == (6, 4) and seen[1].eq(1.0).all()


def test_alphas_belong_to_their_context_sizes() -> None:
    """The policy starts near the prior: below every target, until a target is negative for one group."""
    agent = meta_agent(delta_1=-1.0, delta_2=1e3)
    agent.update(5)
    assert agent.alpha_1.values.item() > META.alpha_1
    assert agent.alpha_2.values.item() == pytest.approx(META.alpha_2)


def test_simpl_learns_to_tell_tasks_apart() -> None:
    """Three bandits whose best skills differ: a task's context sends the policy there, another's elsewhere."""
    free = {"alpha_1": 1e-3, "alpha_2": 1e-3, "delta_1": 20.0, "delta_2": 20.0}
    agent = meta_agent(**free, context_large=32, batch_size=32)
    with torch_threads(1):
        agent.update(300)
        assert agent.update(50)["critic/loss"] < 0.1
    means = []
    for task in range(3):
        e = agent.embed(task).expand(64, -1)
        state = torch.randn(64, STATE)
        means.append(agent.act(state, e, agent.policy.prior(state)).mean.mean(0)[0].item())
    assert means[0] < -0.4 and means[2] > 0.4 and means[0] < means[1] < means[2]


@pytest.mark.parametrize("bound", [False, True])
def test_simpl_restored_goes_on_bit_for_bit(bound: bool) -> None:
    agent = meta_agent(bound_targets=bound)
    agent.update(3)
    state = snapshot(agent)
    other = SimplAgent(dataclasses.replace(META, bound_targets=bound), unit_prior(), tasks=3, seed=99)
    other.load_state_dict(state)
    for each in (agent, other):
        each.add(1, bandit_steps(5, np.zeros(2), 7), replay=True, context=False)
        each.update(3)
    one, two = snapshot(agent), snapshot(other)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_simpl_follows_its_seed() -> None:
    one, two, three = meta_agent(0), meta_agent(0), meta_agent(1)
    for agent in (one, two, three):
        agent.update(2)
    assert not changed(snapshot(one), snapshot(two), "skill_policy.residual")
    assert changed(snapshot(one), snapshot(three), "skill_policy.residual")


# --- SPiRL -----------------------------------------------------------------------------------------------------------


def test_spirl_starts_as_the_prior() -> None:
    agent = task_agent()
    state = torch.randn(7, STATE)
    prior = unit_prior()(state)
    policy = agent.act(state, torch.zeros(7, 0), prior)
    torch.testing.assert_close(policy.mean, prior.mean)
    # The policy's scale has a floor of 0.001 on top.
    torch.testing.assert_close(policy.scale, prior.scale + 1e-3)


def test_spirl_finds_the_skill_that_pays() -> None:
    agent = task_agent()
    with torch_threads(1):
        agent.update(400)
    state = torch.randn(64, STATE)
    policy = agent.act(state, torch.zeros(64, 0), agent.policy.prior(state))
    assert (policy.mean.mean(0) - torch.tensor([1.0, 0.5])).norm() < 0.4


class Needle(torch.nn.Module):
    """Critics that hold one skill far off good and give no hint of the way there: (2, B)."""

    def __init__(self, best: torch.Tensor) -> None:
        super().__init__()
        self.best, self.learned = best, torch.nn.Parameter(torch.zeros(1))

    def forward(self, states: torch.Tensor, e: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        near = ((z - self.best).norm(dim=-1) < 0.3).float() + 0.0 * z.sum(-1) + 0.0 * self.learned + 0.0 * e.sum(-1)
        return near.expand(2, -1)


@pytest.mark.parametrize(("imitate", "reached"), [(0.0, False), (1.0, True)])
def test_self_imitation_reaches_a_skill_that_the_gradient_of_q_does_not_show(imitate: float, reached: bool) -> None:
    best = np.array([3.0, -3.0], np.float32)
    config = dataclasses.replace(META, imitate=imitate, delta_1=100.0, delta_2=100.0, learning_rate=6e-3)
    agent = SimplAgent(config, unit_prior(), tasks=3, seed=0)
    nowhere, ones = np.zeros((50, STATE), np.float32), np.ones(50, np.float32)
    for task in range(3):
        agent.add(task, SkillSteps(nowhere, np.tile(best, (50, 1)), ones, ones, nowhere), replay=True, context=True)
    agent.critics, agent.target_critics = Needle(torch.from_numpy(best)), Needle(torch.from_numpy(best))
    with torch_threads(1):
        agent.update(100)
    with torch.no_grad():
        mean = agent.policy(torch.zeros(1, STATE), torch.zeros(1, META.e_dim)).mean.squeeze(0)
    assert ((mean - torch.from_numpy(best)).norm() < 0.7) == reached
    assert reached or mean.norm() < 0.5


def test_self_imitation_moves_the_policy_of_meta_training_alone() -> None:
    plain, imitating = meta_agent(), meta_agent(imitate=5.0)
    for agent in (plain, imitating):
        agent.update(1)
    for name, differ in (("skill_policy.residual", True), ("critics", False), ("task_encoder", False)):
        assert changed(snapshot(plain), snapshot(imitating), name) == differ, name


def test_a_part_of_the_batch_comes_from_the_tasks_own_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards tell where a row comes from: 2 from an own episode, 3 from another task's, which fill the replay."""
    agent, drawn, target = meta_agent(own_fraction=0.25), [], equations.soft_target
    for value, own in ((2.0, True), (3.0, False)):
        steps = bandit_steps(META.buffer_size, np.zeros(2), 0)
        steps = steps._replace(rewards=np.full(META.buffer_size, value, np.float32))
        agent.add_all([Experience(task, steps, replay=True, context=False, own=own) for task in range(3)])

    def spy(rewards: torch.Tensor, *others: object) -> torch.Tensor:
        drawn.append(rewards.view(-1, META.batch_size))
        return target(rewards, *others)

    monkeypatch.setattr(equations, "soft_target", spy)
    agent.update(1)
    assert (drawn[0] == 2.0).sum(1).tolist() == [META.batch_size // 4] * len(drawn[0])
    assert (drawn[0] == 3.0).sum(1).tolist() == [META.batch_size * 3 // 4] * len(drawn[0])


def test_a_heavy_alpha_keeps_the_policy_at_the_prior() -> None:
    start = start_from_prior(unit_prior(), hidden=32, layers=2, critics=2, alpha=50.0, seed=0)
    agent = SpirlAgent(start, ADAPT, np.zeros(0, np.float32), 0)
    agent.add(bandit_steps(400, np.array([1.0, 0.5]), 1))
    assert agent.update(200)["policy/kl"] < 0.01


def test_alpha_grows_while_the_divergence_exceeds_its_target() -> None:
    agent = task_agent(delta=0.0)
    before = agent.alpha
    agent.update(50)
    assert agent.alpha > before


def chain_steps(rewards: list[float], seed: int) -> SkillSteps:
    """An episode cut by its time limit: nothing of it is terminal."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((len(rewards) + 1, STATE)).astype(np.float32)
    z = rng.standard_normal((len(rewards), SKILL)).astype(np.float32)
    zeros = np.zeros(len(rewards), np.float32)
    return SkillSteps(states[:-1], z, np.array(rewards, np.float32), zeros, states[1:])


@pytest.mark.parametrize("bound", [False, True])
def test_targets_promise_no_more_than_the_best_episode_earned(bound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics that start far too high; the best return to go is 1 + 0.5 * 1, of the second episode's first step."""
    highest, loss = [], equations.critic_loss
    start = start_from_prior(unit_prior(), hidden=32, layers=2, critics=2, alpha=0.05, seed=0)
    for name, parameter in start.critics.named_parameters():
        if name.endswith("bias"):
            parameter.data += 30.0
    agent = SpirlAgent(start, dataclasses.replace(ADAPT, bound_targets=bound), np.zeros(0, np.float32), 0)
    for i, rewards in enumerate(([0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0])):
        agent.add(chain_steps(rewards, i))

    def spy(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        highest.append(float(target.max()))
        return loss(values, target)

    monkeypatch.setattr(equations, "critic_loss", spy)
    agent.update(5)
    assert all(value == 1.5 for value in highest) if bound else all(value > 5.0 for value in highest)


@pytest.mark.parametrize("bound", [False, True])
def test_targets_of_phase_2_promise_no_more_than_each_task_has_earned(
    bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Critics that start far too high; task 0 never earns anything, task 1 earns 1 and task 2 earns 1 + 0.5."""
    highest: dict[int, float] = {}
    loss, gamma, size = equations.critic_loss, 0.5, 16
    agent = SimplAgent(dataclasses.replace(META, gamma=gamma, bound_targets=bound), unit_prior(), tasks=3, seed=0)
    for name, parameter in agent.target_critics.named_parameters():
        if name.endswith("bias"):
            parameter.data += 30.0
    for task, rewards in enumerate(([0.0, 0.0], [1.0, 0.0], [1.0, 1.0])):
        for number in range(20):
            agent.add(task, chain_steps(rewards, number), replay=True, context=True)
    drawn: list[torch.Tensor] = []
    draw = agent._draw_contexts

    def note_tasks() -> Contexts:
        contexts = draw()
        drawn.append(contexts.tasks)
        return contexts

    def note_targets(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for task, own in zip(drawn[-1].tolist(), target.split(size), strict=True):
            highest[task] = max(highest.get(task, -1e9), float(own.max()))
        return loss(values, target)

    monkeypatch.setattr(agent, "_draw_contexts", note_tasks)
    monkeypatch.setattr(equations, "critic_loss", note_targets)
    agent.update(5)
    assert set(highest) == {0, 1, 2}
    if bound:
        assert [highest[task] for task in range(3)] == [0.0, 1.0, 1.5]
    else:
        assert min(highest.values()) > 5.0


def test_spirl_trains_copies() -> None:
    start = start_from_prior(unit_prior(), hidden=8, layers=1, critics=2, alpha=0.1, seed=0)
    before = [p.clone() for net in (start.policy, start.critics) for p in net.parameters()]
    agent = SpirlAgent(start, ADAPT, np.zeros(0, np.float32), 0)
    agent.add(bandit_steps(40, np.zeros(2), 1))
    agent.update(3)
    after = [p for net in (start.policy, start.critics) for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("bound", [False, True])
def test_spirl_restored_goes_on_bit_for_bit(bound: bool) -> None:
    agent = task_agent(bound_targets=bound)
    agent.update(3)
    state = snapshot(agent)
    start = start_from_prior(unit_prior(), hidden=32, layers=2, critics=2, alpha=7.0, seed=5)
    other = SpirlAgent(start, dataclasses.replace(ADAPT, bound_targets=bound), np.zeros(0, np.float32), 99)
    other.load_state_dict(state)
    for each in (agent, other):
        each.add(bandit_steps(5, np.zeros(2), 7))
        each.update(3)
    one, two = snapshot(agent), snapshot(other)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_steps_pay_for_new_transitions_once_there_is_a_batch() -> None:
    start = start_from_prior(unit_prior(), hidden=8, layers=1, critics=2, alpha=0.1, seed=0)
    agent = SpirlAgent(start, AdaptConfig(batch_size=256, reuse=256.0), np.zeros(0, np.float32), 0)
    agent.add(bandit_steps(255, np.zeros(2), 1))
    assert agent.steps_for(28) == 0
    agent.add(bandit_steps(28, np.zeros(2), 1))
    assert agent.stored == 283 and agent.steps_for(28) == 28 and agent.steps_for(0) == 0


def test_an_embedding_of_another_size_is_refused() -> None:
    start = start_from_prior(unit_prior(), hidden=8, layers=1, critics=2, alpha=0.1, seed=0)
    with pytest.raises(ConfigError, match=r"shape \(0,\), got \(6,\)"):
        SpirlAgent(start, ADAPT, np.zeros(6, np.float32), 0)


def test_the_embedding_conditions_policy_and_critics() -> None:
    from simpl_core.agents.spirl import Start

    torch.manual_seed(0)
    start = Start(SkillPolicy(unit_prior(), STATE, SKILL, 2, 8, 1), CriticEnsemble(STATE, SKILL, 2, 8, 1), 0.1)
    results = []
    for e in (np.zeros(2, np.float32), np.ones(2, np.float32)):
        agent = SpirlAgent(start, ADAPT, e, 0)
        agent.add(bandit_steps(40, np.zeros(2), 1))
        results.append(agent.update(1))
    assert results[0]["critic/value"] != results[1]["critic/value"]
    assert results[0]["policy/kl"] != results[1]["policy/kl"]


def test_standardised_layers_see_states_with_mean_0_and_variance_1() -> None:
    """On raw states they then answer what fresh layers answer on standardised ones."""
    fresh, agent = meta_agent(), meta_agent()
    states = torch.cat([agent.contexts.rows(task)[:, :STATE] for task in range(len(agent.contexts.sizes))])
    agent.standardise()
    raw = agent.contexts.rows(0)
    seen = raw.clone()
    for place in (slice(0, STATE), slice(raw.shape[1] - STATE, raw.shape[1])):
        seen[:, place] = (raw[:, place] - states.mean(0)) / states.std(0)
    e, z = torch.ones(len(raw), agent.config.e_dim), torch.ones(len(raw), SKILL)
    ours, theirs = raw[:, :STATE], seen[:, :STATE]
    for critics, wanted in ((agent.critics, fresh.critics), (agent.target_critics, fresh.target_critics)):
        torch.testing.assert_close(critics(ours, e, z), wanted(theirs, e, z), rtol=1e-4, atol=1e-5)
    residual = torch.cat([ours, e], dim=1), torch.cat([theirs, e], dim=1)
    torch.testing.assert_close(agent.policy.residual(residual[0]), fresh.policy.residual(residual[1]))
    posterior, wanted = agent.encoder(raw.unsqueeze(0)), fresh.encoder(seen.unsqueeze(0))
    torch.testing.assert_close(posterior.mean, wanted.mean, rtol=1e-4, atol=1e-5)
