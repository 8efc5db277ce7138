"""D4RL's layout, names and cache; and what a damaged file says."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from simpl_core import dataset
from simpl_core.dataset import locate, normalised_score, open_demonstrations
from simpl_core.errors import DatasetError

Fields = dict[str, np.ndarray]


def fields() -> Fields:
    """Two episodes of 12 and 8 steps; the first ends by a time-out, the second by termination."""
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(20, bool), np.zeros(20, bool)
    timeouts[11] = terminals[19] = True
    return {
        "observations": rng.normal(size=(20, 6)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (20, 2)).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write(path: Path, values: Fields) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name] = value
    return path


def test_episodes_are_split_at_terminals_and_timeouts(tmp_path: Path) -> None:
    values = fields()
    data = open_demonstrations(write(tmp_path / "data.hdf5", values), state_dim=4)
    assert data.bounds.tolist() == [0, 12, 20]
    np.testing.assert_array_equal(data.states, values["observations"][:, :4])


def test_windows_stay_within_an_episode(tmp_path: Path) -> None:
    data = open_demonstrations(write(tmp_path / "data.hdf5", fields()))
    assert data.window_starts(10, np.array([0, 1])).tolist() == [0, 1, 2]
    assert data.window_starts(8, np.array([1])).tolist() == [12]
    with pytest.raises(DatasetError, match="no episode holds 13 steps"):
        data.window_starts(13, np.array([0, 1]))


def test_a_file_without_timeouts_is_read(tmp_path: Path) -> None:
    values = fields()
    del values["timeouts"]
    assert open_demonstrations(write(tmp_path / "data.hdf5", values)).bounds.tolist() == [0, 20]


def _set(name: str, index: tuple[int, ...], value: float) -> Callable[[Fields], None]:
    def damage(values: Fields) -> None:
        values[name][index] = value

    return damage


def _drop(name: str) -> Callable[[Fields], None]:
    def damage(values: Fields) -> None:
        del values[name]

    return damage


def _no_ends(values: Fields) -> None:
    values["terminals"][:] = values["timeouts"][:] = False


def _shorter(values: Fields) -> None:
    values["actions"] = values["actions"][:-3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set("observations", (7, 3), np.nan), "observations hold 1 values .* row 7, column 3"),
        (_set("actions", (5, 1), np.inf), "actions hold 1 values .* row 5, column 1"),
        (_set("actions", (5, 0), 1.5), r"outside \[-1, 1\], the first 1.5 at row 5, column 0"),
        (_drop("actions"), "no actions; the file holds observations, terminals, timeouts"),
        (_no_ends, "no episode ends"),
        (_shorter, r"found \(20, 6\), \(17, 2\), \(20,\)"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, damage: Callable[[Fields], None], message: str) -> None:
    values = fields()
    damage(values)
    with pytest.raises(DatasetError, match=message) as caught:
        open_demonstrations(write(tmp_path / "data.hdf5", values))
    assert "\n" not in str(caught.value)
    assert "data.hdf5" in str(caught.value)


def test_wrong_width(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="have 6 numbers, the state needs 30"):
        open_demonstrations(write(tmp_path / "data.hdf5", fields()), state_dim=30)


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "data.hdf5", fields())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match="truncated or damaged"):
        open_demonstrations(path)


def test_names_are_found_in_the_cache_of_d4rl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    expected = write(tmp_path / "kitchen_microwave_kettle_bottomburner_light-v0.hdf5", fields())
    assert locate("kitchen-mixed-v0") == expected


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"kitchen-complete-v0, kitchen-partial-v0, kitchen-mixed-v0, D4RL/kitchen"):
        locate("kitchen-mixd-v0")


def test_a_download_with_a_wrong_checksum_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.hdf5"
    source.write_bytes(b"something else")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    entry = dataset.PUBLIC_DATASETS["kitchen-mixed-v0"]._replace(url=source.as_uri())
    monkeypatch.setitem(dataset.PUBLIC_DATASETS, "kitchen-mixed-v0", entry)
    with pytest.raises(DatasetError, match="SHA-256"):
        locate("kitchen-mixed-v0")
    assert list((tmp_path / "cache").iterdir()) == []


def test_normalised_score_is_that_of_d4rl() -> None:
    assert normalised_score("kitchen-mixed-v0", 2.0) == 0.5
    with pytest.raises(DatasetError, match="no reference scores"):
        normalised_score("antmaze", 1.0)
