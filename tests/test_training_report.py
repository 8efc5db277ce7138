"""Pictures of meta-training: the plane by hand, posteriors as the encoder says them, a run drawn from its folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_domain import META, STATE, TASKS, meta_run, toy_skills_run

from simpl_core import training_report
from simpl_core.buffer import ReplayBuffer, RowLayout
from simpl_core.errors import CheckpointError
from simpl_core.networks import TaskEncoder
from simpl_core.plots_training import embedding_picture, principal_plane, return_picture


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_run(tmp_path_factory.mktemp("run"))


def test_the_plane_holds_the_two_directions_of_largest_variance() -> None:
    """Variances 9 : 4 : 1 along axes that are turned; 13 of 14 parts are in the plane, in this order."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    points = rng.standard_normal((20_000, 3)) * (3.0, 2.0, 1.0) @ turned + 5.0
    plane = principal_plane(points)
    assert plane.held == pytest.approx(13 / 14, abs=0.01)
    assert abs(plane.directions @ turned.T) == pytest.approx(np.eye(3)[:2], abs=0.05)
    flat = plane.project(points)
    assert flat.std(0) == pytest.approx([3.0, 2.0], rel=0.03) and flat.mean(0) == pytest.approx([0.0, 0.0], abs=1e-9)
    alone = principal_plane(np.arange(3.0)[:, None])  # a line has no second direction
    assert alone.project(np.array([[0.0], [2.0]]))[:, 1].tolist() == [0.0, 0.0] and alone.held == 1.0


@pytest.mark.parametrize("kept", [0, 3])
def test_posteriors_are_what_the_encoder_says_of_each_tasks_contexts(kept: int) -> None:
    """Where all rows of a task are the same, so is every context: the answer is the encoder's on that row."""
    layout = RowLayout(STATE, 2)
    torch.manual_seed(0)
    encoder, contexts = TaskEncoder(STATE, 2, META.e_dim, 16).eval(), ReplayBuffer(2, 50, layout.context_width)
    rows = torch.randn(2, 1, layout.context_width)
    for task in range(2):
        contexts.append(task, rows[task].expand(20 + task, -1))
    config = dataclasses.replace(META, context_kept=kept)
    found = training_report.task_posteriors(encoder, contexts, config, layout)
    assert found.means.shape == found.samples.shape == (2, training_report.CONTEXTS, META.e_dim)
    with torch.no_grad():
        wanted = encoder(rows.expand(-1, kept or META.context_large, -1))
    assert found.means == pytest.approx(np.repeat(wanted.mean.numpy()[:, None], training_report.CONTEXTS, 1), abs=1e-5)
    assert 0.1 < ((found.samples - found.means) / wanted.scale.numpy()[:, None]).std() < 3.0
    again = training_report.task_posteriors(encoder, contexts, config, layout)
    assert (again.samples == found.samples).all()


def test_a_run_is_drawn_from_its_folder(run: Path, tmp_path: Path) -> None:
    before = {path.name for path in run.iterdir()}
    written = training_report.draw(run, tmp_path / "pictures")
    assert [path.name for path in written] == ["returns.png", "statistics.png", "embeddings.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)
    assert {path.name for path in run.iterdir()} == before
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "resume.pt").unlink()
    assert [path.name for path in training_report.draw(copy, copy)] == ["returns.png", "statistics.png"]


def test_pictures_name_every_task(tmp_path: Path) -> None:
    names = [str(task) for task in TASKS]
    rng = np.random.default_rng(0)
    embedding_picture(rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 3, 5)), names, tmp_path / "e.svg", "toy")
    series = {name: (np.arange(1.0, 6.0), rng.random(5)) for name in names}
    return_picture(series, series, tmp_path / "r.svg", "toy")
    for picture in ("e.svg", "r.svg"):
        text = (tmp_path / picture).read_text()
        assert all(f"{name} -->" in text for name in names), picture


def test_metrics_are_read_by_name(run: Path) -> None:
    metrics = training_report.read_metrics(run / "metrics.csv")
    epochs, values = metrics["return/posterior"]
    per_task = [metrics[f"return_posterior/{i:02d} {task}"][1] for i, task in enumerate(TASKS)]
    assert epochs.tolist() == [1.0, 2.0]
    assert values == pytest.approx(np.mean(per_task, 0), rel=1e-4)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metrics.csv is no file of metrics"):
        training_report.draw(tmp_path, tmp_path)
    skills = toy_skills_run(tmp_path / "skills")
    (skills / "metrics.csv").write_text("step,name,value\n10,loss,0.5\n")
    with pytest.raises(CheckpointError, match="not of a run of phase 2"):
        training_report.draw(skills, tmp_path)
