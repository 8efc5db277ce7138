"""What is written is what is read; what cannot be read is not written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from simpl_core.dataset import open_demonstrations
from simpl_core.dataset_writer import Demonstration, write_demonstrations
from simpl_core.errors import DatasetError


def episode(steps: int, terminated: bool = False, seed: int = 0) -> Demonstration:
    rng = np.random.default_rng(seed)
    return Demonstration(rng.normal(size=(steps, 4)), rng.uniform(-1, 1, (steps, 2)), terminated)


def test_written_episodes_read_back(tmp_path: Path) -> None:
    episodes = [episode(12, seed=1), episode(7, terminated=True, seed=2), episode(1, seed=3)]
    path = write_demonstrations(tmp_path / "new" / "demos.hdf5", iter(episodes), {"seed": 3, "origin": Path("here")})
    data = open_demonstrations(path, state_dim=4)
    assert data.bounds.tolist() == [0, 12, 19, 20]
    np.testing.assert_array_equal(data.states[12:19], np.asarray(episodes[1].observations, np.float32))
    np.testing.assert_array_equal(data.actions[19:], np.asarray(episodes[2].actions, np.float32))
    with h5py.File(path) as file:
        assert np.flatnonzero(file["terminals"][:]).tolist() == [18]
        assert np.flatnonzero(file["timeouts"][:]).tolist() == [11, 19]
        assert dict(file.attrs) == {"seed": 3, "origin": "here"}


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episode"),
        ([episode(3), Demonstration(np.zeros((3, 4)), np.zeros((2, 2)))], r"episode 1: .*\(3, 4\) and \(2, 2\)"),
        ([Demonstration(np.zeros((0, 4)), np.zeros((0, 2)))], "episode 0"),
        ([episode(3), Demonstration(np.zeros((3, 5)), np.zeros((3, 2)))], "different numbers"),
        ([Demonstration(np.full((3, 4), np.nan), np.zeros((3, 2)))], "not finite"),
        ([Demonstration(np.zeros((3, 4)), np.full((3, 2), 1.2))], r"outside \[-1, 1\]"),
    ],
)
def test_what_cannot_be_read_is_not_written(tmp_path: Path, episodes: list[Demonstration], message: str) -> None:
    path = write_demonstrations(tmp_path / "demos.hdf5", [episode(5)], {})
    before = path.read_bytes()
    with pytest.raises(DatasetError, match=message):
        write_demonstrations(path, episodes, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["demos.hdf5"]
