"""`--device`: what is refused, and that nothing mixes devices; on a GPU, that it computes what the processor does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from pretend_device import MixedDevicesError, pretended_cuda
from safetensors.torch import load_file
from test_skills import CONFIG, demonstrations
from torch import Tensor
from toy_domain import META, TASKS, ToyEnv, meta_models, toy_skills_run

from simpl_core import cli, meta_train, skills
from simpl_core.adapt import Adaptation, adapt_in_simulation
from simpl_core.checkpoint import Models, load_checkpoint, save_tensors
from simpl_core.config import AdaptConfig
from simpl_core.errors import ConfigError
from simpl_core.learner import use_device

Device = Callable[[], AbstractContextManager[object]]

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(params=["pretended", pytest.param("real", marks=gpu)])
def cuda(request: pytest.FixtureRequest) -> Device:
    """Within it "cuda" exists: computed by the processor, with every mixture of devices an error; or a real one."""
    if request.param == "real":
        use_device("cuda")
        return nullcontext
    return _pretended


@contextmanager
def _pretended() -> Iterator[None]:
    with pretended_cuda() as operations:
        yield
    assert operations.seen > 500  # it did compute there


def test_the_processor_is_always_there() -> None:
    assert use_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no device '{name}' here; there is cpu"):
        use_device(name)


@pytest.mark.parametrize(
    "command", [["train", "skills", "demos.hdf5"], ["train", "meta", "runs/skills"], ["evaluate", "runs/meta"]]
)
def test_every_command_refuses_it_in_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--device", "cuda:99"]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("simpl: no device 'cuda:99' here; there is cpu") and len(message.splitlines()) == 1


@pytest.mark.parametrize("decoder", ["closed", "open"])
def test_phase_1_ends_where_the_processor_does(
    tmp_path: Path, decoder: Literal["closed", "open"], monkeypatch: pytest.MonkeyPatch, cuda: Device
) -> None:
    """Joint part and prior's own, through a stop and a resumption on the other device."""
    config = dataclasses.replace(
        CONFIG, decoder=decoder, sensor_noise=1.0, iterations=6, prior_iterations=5, checkpoint_every=4, log_every=5
    )
    start = skills.SkillsStart(3, sensor_noise=np.array([0.1, 0.1]))
    whole = skills.run(config, demonstrations(), tmp_path / "cpu", start)
    update = skills._Run.update

    def until_9(run: skills._Run) -> dict[str, Tensor]:
        if run.step == 9:
            raise KeyboardInterrupt
        return update(run)

    with monkeypatch.context() as patch:
        patch.setattr(skills._Run, "update", until_9)
        with cuda(), pytest.raises(KeyboardInterrupt):
            skills.run(config, demonstrations(), tmp_path / "parts", start._replace(device="cuda"))
    parts = skills.run(config, demonstrations(), tmp_path / "parts", start)
    one, two = load_checkpoint(whole).tensors, load_checkpoint(parts).tensors
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=2e-3, atol=2e-4)


def test_phase_2_goes_on_on_another_device(tmp_path: Path, cuda: Device) -> None:
    run_skills = toy_skills_run(tmp_path / "skills")

    def run(name: str, epochs: int, device: str) -> dict[str, Tensor]:
        config = dataclasses.replace(META, epochs=epochs)
        out = meta_train.run(config, run_skills, lambda: ToyEnv(4), TASKS, tmp_path / name, seed=3, device=device)
        return load_checkpoint(out).tensors

    with cuda():
        run("parts", 1, "cuda")
    two, one = run("parts", 2, "cpu"), run("whole", 2, "cpu")
    assert all(tensor.device.type == "cpu" for tensor in two.values())
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=5e-2, atol=5e-3)


def test_phase_3_is_saved_and_restored_on_another_device(tmp_path: Path, cuda: Device) -> None:
    config = AdaptConfig(conditioning_episodes=4, episodes=3, batch_size=16, buffer_size=200, reuse=16.0)
    models = meta_models(tmp_path)
    run = _adapted(models, config)
    state, e = torch.randn(5, 3), torch.randn(5, 2)
    with torch.no_grad():
        prior = models.skill_prior(state)
    with cuda():
        there = _adapted(dataclasses.replace(models, device="cuda"), config)
        save_tensors(tmp_path / "state.safetensors", there.state_dict())
        answer = there.act(state, e, prior).mean
    assert there.scores == run.scores
    back = Adaptation("simpl", models, config, TASKS[0], seed=0)
    back.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for other in (answer, back.act(state, e, prior).mean):
        torch.testing.assert_close(other, run.act(state, e, prior).mean, rtol=1e-3, atol=1e-4)


def _adapted(models: Models, config: AdaptConfig) -> Adaptation:
    run = Adaptation("simpl", models, config, TASKS[0], seed=0)
    adapt_in_simulation(ToyEnv(4), models, [run])
    return run


def test_the_pretended_device_finds_mixtures() -> None:
    with pretended_cuda():
        here, there = torch.ones(3, 4), torch.ones(3, 4).to("cuda")
        assert (here.device.type, there.device.type) == ("cpu", "cuda")
        assert (2.0 * there + torch.tensor(1.0)).sum().device.type == "cuda"
        assert there.cpu().device.type == "cpu" and there[torch.tensor([0])].device.type == "cuda"
        for mixture in (lambda: here + there, lambda: torch.nn.Linear(4, 2)(there), lambda: torch.cat([here, there])):
            with pytest.raises(MixedDevicesError):
                mixture()
        with pytest.raises(TypeError, match="copy it to the host"):
            there.numpy()
