"""Results: milestones and intervals of scores files, computed by hand where that can be done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simpl_core import results
from simpl_core.errors import CheckpointError, ConfigError


def write(path: Path, values: np.ndarray) -> Path:
    """`values` (seeds, tasks, episodes) as a scores file."""
    lines = ["task,seed,episode,score"]
    for (seed, task, episode), score in np.ndenumerate(values):
        lines.append(f"task {task},{seed},{episode + 1},{score:g}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_milestones_average_their_episodes(tmp_path: Path) -> None:
    scores = results.read_scores(write(tmp_path / "a_b.csv", np.tile(np.arange(1.0, 61.0), (3, 2, 1))))
    found = results.milestone_scores(scores)
    assert set(found) == {"all", "20-25", "50"}
    assert (found["20-25"] == 23.0).all() and (found["50"] == 50.5).all()
    assert found["50"].shape == (3, 2)


def test_estimates_by_hand() -> None:
    """Of eight values the lowest and highest two do not count for the interquartile mean: (2 + 3 + 4 + 5) / 4."""
    found = results.estimate(np.array([[100.0, 3, 1, 4], [2, 5, 6, -50]]))
    assert found.iqm == 3.5
    assert found.mean == pytest.approx(71 / 8)


def test_the_interval_is_about_seeds_within_tasks() -> None:
    """Tasks that differ while their seeds agree leave nothing uncertain; seeds that differ do, as sigma / sqrt(n)."""
    agree = results.estimate(np.array([[0.0, 4.0], [0.0, 4.0], [0.0, 4.0]]))
    assert agree.mean_interval == (2.0, 2.0) and agree.mean == 2.0
    values = np.random.default_rng(0).standard_normal((400, 1))
    low, high = results.estimate(values).mean_interval
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_the_command_prints_every_method_and_draws(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / "kitchen_simpl.csv", rng.integers(0, 5, (2, 3, 30)).astype(float))
    write(tmp_path / "kitchen_spirl.csv", rng.integers(0, 3, (2, 3, 30)).astype(float))
    (tmp_path / "kitchen_training.csv").write_text("epoch,return\n1,0.5\n")
    command = [sys.executable, "-m", "simpl_core", "results", str(tmp_path), "--json", "--figures", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    assert set(found["kitchen"]) == {"simpl", "spirl"}
    low, high = found["kitchen"]["simpl"]["20-25"]["mean_interval"]
    assert low < found["kitchen"]["simpl"]["20-25"]["mean"] < high
    assert (tmp_path / "kitchen_curves.png").read_bytes()[:4] == b"\x89PNG"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no <domain>_<method>.csv"):
        results.summarise(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match="task,seed,episode,score"):
        results.read_scores(tmp_path / "other.csv")
    (tmp_path / "part.csv").write_text("task,seed,episode,score\na,0,1,1\nb,0,1,1\na,1,1,2\n")
    with pytest.raises(CheckpointError, match="lacks b with seed 1"):
        results.read_scores(tmp_path / "part.csv")
