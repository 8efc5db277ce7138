"""Minari's layout and names, and that the kitchen's positions are the right ones of its 59 numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import h5py
import numpy as np
import pytest

from simpl_core import cli
from simpl_core.dataset import locate, open_demonstrations
from simpl_core.dataset_minari import KITCHEN_STATE
from simpl_core.errors import DatasetError, EnvironmentMissingError, SimplError

NAME = "D4RL/kitchen/mixed-v2"
LENGTHS = {0: 4, 1: 3, 2: 5, 10: 6}
"""Steps of each episode; by name, 10 would come before 2."""


def write(path: Path, damage: Callable[[h5py.File], None] | None = None) -> Path:
    """A file as the package writes the kitchen's: number = 1000 episode + step + position / 100."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for episode, steps in LENGTHS.items():
            group = file.create_group(f"episode_{episode}")
            group.attrs["total_steps"] = steps
            seen = 1000.0 * episode + np.arange(steps + 1)[:, None] + np.arange(59) / 100
            group["observations/observation"] = seen
            group["observations/achieved_goal/microwave"] = np.zeros((steps + 1, 1))
            group["observations/desired_goal/microwave"] = np.zeros((steps + 1, 1))
            group["actions"] = np.full((steps, 9), episode / 100)
            group["rewards"], group["infos"] = np.zeros(steps), np.zeros(steps + 1)
            group["terminations"] = np.zeros(steps, bool)
            group["truncations"] = np.arange(steps) == steps - 1
        if damage is not None:
            damage(file)
    return path


def test_episodes_in_order_without_the_last_observation(tmp_path: Path) -> None:
    data = open_demonstrations(write(tmp_path / "main_data.hdf5"), state_dim=30)
    assert data.lengths.tolist() == [4, 3, 5, 6]
    assert data.states.shape == (18, 30) and data.actions.shape == (18, 9)
    for (episode, steps), first in zip(LENGTHS.items(), data.bounds, strict=False):
        np.testing.assert_allclose(data.states[first : first + steps, 0], 1000 * episode + np.arange(steps))
        np.testing.assert_allclose(data.actions[first : first + steps], episode / 100)
    # 9 robot positions, then the 21 objects' from number 18 on; 39 and after are velocities again.
    expected = np.r_[np.arange(9), 18 + np.arange(21)] / 100
    np.testing.assert_allclose(data.states[0], expected, rtol=1e-6)


def test_the_positions_are_those_of_the_kitchen(franka_kitchen: gymnasium.Env) -> None:
    """In the real environment: the chosen numbers are MuJoCo's positions, in the project's order."""
    franka_kitchen.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1.0, 1.0, (3, 9)):
        observation = franka_kitchen.step(action)[0]["observation"]
    qpos = franka_kitchen.unwrapped.data.qpos
    np.testing.assert_allclose(observation[KITCHEN_STATE], qpos)
    assert np.abs(observation - np.resize(qpos, 59)).max() > 0.1


def test_a_plain_observation_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "maze.hdf5"
    with h5py.File(path, "w") as file:
        file["episode_0/observations"], file["episode_0/actions"] = np.arange(12.0).reshape(3, 4), np.zeros((2, 2))
        file["episode_1/observations"], file["episode_1/actions"] = np.zeros((1, 4)), np.zeros((0, 2))
    data = open_demonstrations(path)
    assert data.states.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and data.bounds.tolist() == [0, 2]


def _replace(name: str, value: np.ndarray | None) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_replace("episode_2/actions", None), "episode_2: no actions; it holds infos, observations, rewards"),
        (_replace("episode_1/observations/observation", None), "episode_1: no observations/observation; there is ach"),
        (_replace("episode_0/actions", np.zeros((5, 9))), r"episode_0: wanted .* found \(5, 59\), \(5, 9\)"),
        (_replace("episode_10/actions", np.full((6, 9), 2.0)), r"54 actions lie outside \[-1, 1\]"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, damage: Callable[[h5py.File], None], message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        open_demonstrations(write(tmp_path / "main_data.hdf5", damage))
    assert "\n" not in str(caught.value)


def test_a_name_is_found_in_minaris_cache_and_a_folder_is_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "minari", None)  # not needed to read
    path = write(tmp_path / NAME / "data" / "main_data.hdf5")
    assert locate(NAME) == path and locate(str(tmp_path / NAME)) == path
    assert cli.main(["data", NAME]) == 0
    assert "episodes  4, 3 / 4 / 6 steps" in capsys.readouterr().out


def test_a_missing_name_is_downloaded_by_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def download(name: str) -> None:
        write(tmp_path / name / "data" / "main_data.hdf5")

    monkeypatch.setitem(sys.modules, "minari", SimpleNamespace(download_dataset=download))
    assert open_demonstrations(locate(NAME)).lengths.tolist() == [4, 3, 5, 6]


def _no_host(_: str) -> None:
    raise ConnectionError("no\nroute")


@pytest.mark.parametrize(
    ("package", "error", "message"),
    [
        (None, EnvironmentMissingError, "install simpl-core with its 'minari' extra, or give the path"),
        (SimpleNamespace(download_dataset=_no_host), DatasetError, r"\(ConnectionError: no route\); put its data/main"),
        (SimpleNamespace(download_dataset=lambda _: None), DatasetError, "only HDF5 is read"),
    ],
)
def test_what_hinders_a_download_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: object, error: type[SimplError], message: str
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "minari", package)
    with pytest.raises(error, match=message):
        locate(NAME)
