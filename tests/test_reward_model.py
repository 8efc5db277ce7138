"""A bundle may bring a reward decoder; its rewards then reach the transitions, and say where they come from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from episode_world import STEPS, World, plan, state
from onnx import TensorProto, helper, numpy_helper

from export.bundle import Bundle, write_bundle
from export.manifest import GOLDEN, MANIFEST, REWARD
from export.runtime import RewardModel
from simpl.core.bridge_session import BridgeSession
from simpl.core.commands import BeginEpisode, EpisodeDone
from simpl.core.episode_machine import EpisodeMachine
from simpl.core.labels import Label
from simpl_core.errors import BundleError, InferenceError

KITCHEN = Path(__file__).parents[1] / "export" / "bundles" / "kitchen"
S, E = 30, 6
RNG = np.random.default_rng(0)
WEIGHTS = np.concatenate([np.eye(S, 1), np.full((E, 1), 0.5)]).astype(np.float32)
"""reward = first number of the state + half the sum of e."""


def decoder(bias: float = 0.0) -> bytes:
    """Two inputs, one matrix, one output."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", k]) for n, k in (("next_state", S), ("e", E))]
    output = helper.make_tensor_value_info("reward", TensorProto.FLOAT, ["B", 1])
    nodes = [
        helper.make_node("Concat", ["next_state", "e"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "w", "b"], ["reward"]),
    ]
    weights = [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array([bias], np.float32), "b")]
    graph = helper.make_graph(nodes, "reward", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def bundle_with(folder: Path, model: bytes, answers_of: float = 0.0) -> Bundle:
    """The kitchen's bundle and a reward decoder, whose golden answers have this bias."""
    parent = Bundle.open(KITCHEN)
    states, e = RNG.normal(size=(2, S)).astype(np.float32), RNG.normal(size=(2, E)).astype(np.float32)
    reward = np.concatenate([states, e], axis=1) @ WEIGHTS + answers_of
    golden = json.loads((KITCHEN / GOLDEN).read_text())
    inputs = {"next_state": states.tolist(), "e": e.tolist()}
    golden[REWARD] = {"inputs": inputs, "outputs": {"reward": reward.tolist()}}
    files: dict[str, bytes | Path] = {name: KITCHEN / name for name in parent.manifest.files if name != MANIFEST}
    files |= {GOLDEN: json.dumps(golden).encode(), f"{REWARD}.onnx": model}
    return write_bundle(folder, files, parent.manifest)


@pytest.fixture(scope="module")
def rewarding(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_with(tmp_path_factory.mktemp("bundle") / "b", decoder())


def test_the_bundle_holds_it_and_its_golden_answers_are_checked(rewarding: Bundle, tmp_path: Path) -> None:
    assert Bundle.open(rewarding.folder).path(REWARD).name == "reward_decoder.onnx"
    with pytest.raises(BundleError, match="reward_decoder.onnx: output reward is off by 1"):
        bundle_with(tmp_path / "b", decoder(bias=1.0))
    with pytest.raises(BundleError, match="has no 'reward_decoder'"):
        RewardModel(Bundle.open(KITCHEN))


def test_the_model_pays_what_it_computes_and_nothing_that_is_no_number(rewarding: Bundle) -> None:
    model, e = RewardModel(rewarding), np.arange(E, dtype=np.float32)
    assert model.reward(state(mark=3.0), e) == pytest.approx(3.0 + 7.5)
    with pytest.raises(InferenceError, match="not finite"):
        model.reward(np.full(S, np.nan), e)
    with pytest.raises(InferenceError, match="not finite"):
        model.reward(np.full(S, 3e38), np.full(E, 3e38))


def test_its_rewards_reach_the_transitions_with_their_source(rewarding: Bundle) -> None:
    machine = EpisodeMachine(plan(reward="reward_model"), "base", E)
    machine.reward_model = RewardModel(rewarding)
    world = World(machine)
    world.do(machine.start(0.0))
    world.run(until=EpisodeDone)
    half = 0.5 * float(world.of(BeginEpisode)[0].e.sum())
    transitions = world.transitions()
    assert [one.reward for one in transitions] == pytest.approx([step + 1 + half for step in range(STEPS)], rel=1e-5)
    assert {one.reward_source for one in transitions} == {"reward_model"}
    (done,) = world.of(EpisodeDone)
    assert done.score == pytest.approx(sum(one.reward for one in transitions))
    assert (done.success, done.subtasks_done) == (False, ())


def test_the_operator_has_the_last_word(rewarding: Bundle) -> None:
    machine = EpisodeMachine(plan(reward="reward_model", label_wait=9.0), "base", E)
    machine.reward_model = RewardModel(rewarding)
    world = World(machine)
    world.do(machine.start(0.0))
    world.run(limit=2.0)
    world.do(machine.on_label(Label.FAILURE, world.now))
    last = world.transitions()[-1]
    assert (last.reward, last.reward_source) == (0.0, "operator")


def test_a_model_that_gives_no_number_breaks_the_episode_and_not_the_bridge() -> None:
    class Broken:
        def reward(self, next_state: object, e: object) -> float:
            raise InferenceError("the reward decoder answers with a number that is not finite")

    machine = EpisodeMachine(plan(reward="reward_model"), "base", E)
    machine.reward_model = Broken()  # type: ignore[assignment]
    world = World(machine)
    world.do(machine.start(0.0))
    world.run()
    assert not world.transitions() and "not finite" in world.of(type(world.log[-1]))[-1].reason


def test_a_run_that_asks_for_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no 'reward_decoder'"):
        BridgeSession(dataclasses.replace(plan(), reward="reward_model"), Bundle.open(KITCHEN), tmp_path, None)  # type: ignore[arg-type]
