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
from simpl_core.plots import learning_curves


def write(path: Path, values: np.ndarray) -> Path:
    """`values` (seeds, tasks, episodes) as a scores file."""
    lines = ["task,seed,episode,score"]
    for (seed, task, episode), score in np.ndenumerate(values):
        lines.append(f"task {task},{seed},{episode + 1},{score:g}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_milestones_average_their_episodes(tmp_path: Path) -> None:
    """Scores equal to their episode: a milestone is the middle of its window; what was not reached is absent."""
    scores = results.read_scores(write(tmp_path / "a_b.csv", np.tile(np.arange(1.0, 203.0), (3, 2, 1))))
    found = results.milestone_scores(scores, conditioning=5)
    assert {name: values[0, 0] for name, values in found.items()} == {
        "20-25": 23.0,
        "50": 50.5,
        "100": 100.5,
        "200": 199.0,  # 196 to 202, where the episodes end
        "conditioned": 8.0,
        "all": 101.5,
    }
    assert found["50"].shape == (3, 2) and all((values == values[0, 0]).all() for values in found.values())


@pytest.mark.parametrize(
    ("episodes", "names"),
    [
        (4, {"all"}),
        (24, {"all", "conditioned"}),
        (25, {"all", "conditioned", "20-25"}),
        (49, {"all", "conditioned", "20-25"}),
        (50, {"all", "conditioned", "20-25", "50"}),
        (299, {"all", "conditioned", "20-25", "50", "100", "200"}),
        (500, {"all", "conditioned", "20-25", "50", "100", "200", "300", "500"}),
    ],
)
def test_a_milestone_past_the_data_is_absent(episodes: int, names: set[str]) -> None:
    found = results.windows(episodes, conditioning=10)
    assert set(found) == names
    assert all(1 <= first <= last <= episodes for first, last in found.values())


def test_the_number_in_a_methods_name_is_its_conditioning() -> None:
    names = ("simpl", "simpl-5", "simpl-10", "simpl-plain", "spirl")
    assert [results.conditioning_episodes(name) for name in names] == [20, 5, 10, 20, 0]


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


def test_methods_of_other_lengths_and_conditioning_stand_side_by_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 5, (2, 3, 60)).astype(float)
    write(tmp_path / "kitchen_simpl.csv", ours)
    write(tmp_path / "kitchen_simpl-5.csv", rng.integers(0, 5, (2, 3, 12)).astype(float))
    write(tmp_path / "kitchen_spirl.csv", rng.integers(0, 3, (1, 3, 30)).astype(float))
    write(tmp_path / "maze40_simpl.csv", rng.integers(0, 2, (2, 1, 310)).astype(float))
    (tmp_path / "kitchen_training.csv").write_text("epoch,return\n1,0.5\n")
    command = [sys.executable, "-m", "simpl_core", "results", str(tmp_path), "--json", "--figures", str(tmp_path / "p")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    assert found == json.loads((tmp_path / "p" / "summary.json").read_text())
    assert {name: set(methods) for name, methods in found.items()} == {
        "kitchen": {"simpl", "simpl-5", "spirl"},
        "maze40": {"simpl"},
    }
    kitchen = found["kitchen"]
    assert set(kitchen["simpl"]) == {"20-25", "50", "conditioned", "all", "curve"}
    assert set(kitchen["simpl-5"]) == {"conditioned", "all", "curve"}
    assert set(kitchen["spirl"]) == {"20-25", "all", "curve"}
    assert {"200", "300"} <= set(found["maze40"]["simpl"]) and "500" not in found["maze40"]["simpl"]
    assert kitchen["simpl-5"]["conditioned"]["episodes"] == [6, 10]
    assert kitchen["simpl"]["50"]["mean"] == pytest.approx(ours[..., 45:55].mean())
    assert kitchen["simpl"]["curve"]["mean"] == pytest.approx(ours.mean((0, 1)), abs=1e-4)
    low, high = kitchen["simpl"]["20-25"]["mean_interval"]
    assert low < kitchen["simpl"]["20-25"]["mean"] < high
    pictures = sorted(path.name for path in (tmp_path / "p").glob("*.png"))
    assert pictures == [f"{name}_{what}.png" for name in ("kitchen", "maze40") for what in ("curves", "first_episodes")]


def test_the_papers_curves_and_each_methods_conditioning_are_drawn(tmp_path: Path) -> None:
    curves = {"simpl": np.ones((2, 30)), "simpl-5": np.ones((1, 12))}
    learning_curves(
        curves, tmp_path / "a.svg", conditioning={"simpl": 20, "simpl-5": 5}, points=results.PAPER["kitchen"]
    )
    text = (tmp_path / "a.svg").read_text()
    for words in ("simpl (2 runs)", "simpl-5 (1 runs)", "SiMPL (paper)", "SPiRL (paper)"):
        assert f"<!-- {words} -->" in text
    assert text.count("stroke-dasharray") >= 4  # two lines of conditioning, two of the paper


def test_runs_of_other_lengths_are_cut_to_the_shortest(tmp_path: Path) -> None:
    path = write(tmp_path / "a_b.csv", np.ones((2, 2, 6)))
    path.write_text(path.read_text().replace("task 1,1,6,1\n", ""))
    assert results.read_scores(path).values.shape == (2, 2, 5)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no <domain>_<method>.csv"):
        results.summarise(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match="task,seed,episode,score"):
        results.read_scores(tmp_path / "other.csv")
    (tmp_path / "part.csv").write_text("task,seed,episode,score\na,0,1,1\nb,0,1,1\na,1,1,2\n")
    with pytest.raises(CheckpointError, match="lacks b with seed 1"):
        results.read_scores(tmp_path / "part.csv")
