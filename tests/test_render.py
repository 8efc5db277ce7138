"""Pictures show the state they were asked for, videos have all frames, and missing OpenGL is explained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio.v3
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from sim.kitchen import INITIAL_POSITION, KitchenEnv
from sim.render import KitchenRenderer, render_frame, render_trajectory
from simpl_core.errors import ConfigError, EnvironmentMissingError

SMALL = (160, 120)


@pytest.fixture(scope="module")
def renderer() -> Iterator[KitchenRenderer]:
    try:
        with KitchenRenderer(*SMALL) as opened:
            yield opened
    except EnvironmentMissingError as error:
        pytest.skip(str(error))


def opened_microwave() -> NDArray[np.float64]:
    qpos = INITIAL_POSITION.copy()
    qpos[22] = -1.2
    return qpos


def test_a_frame_shows_its_state(renderer: KitchenRenderer) -> None:
    start = renderer.draw(INITIAL_POSITION)
    assert start.shape == (SMALL[1], SMALL[0], 3)
    assert start.dtype == np.uint8
    assert start.std() > 30, "a picture of nothing"
    changed = np.abs(renderer.draw(opened_microwave()).astype(int) - start).max(axis=2) > 20
    rows, columns = np.nonzero(changed)
    # The microwave stands on the left, below the middle; the rest of the kitchen stays as it was.
    assert 0.01 < changed.mean() < 0.3
    assert columns.mean() < 0.45 * SMALL[0]
    assert rows.mean() > 0.4 * SMALL[1]
    np.testing.assert_array_equal(renderer.draw(INITIAL_POSITION), start)


def test_a_caption_is_written_in_the_upper_left(renderer: KitchenRenderer) -> None:
    plain, captioned = renderer.draw(INITIAL_POSITION), renderer.draw(INITIAL_POSITION, "kettle")
    rows, columns = np.nonzero((plain != captioned).any(axis=2))
    assert len(rows) > 50
    assert rows.max() < 0.4 * SMALL[1]
    assert columns.max() < 0.7 * SMALL[0]


def test_renderers_do_not_disturb_each_other(renderer: KitchenRenderer) -> None:
    before = renderer.draw(INITIAL_POSITION)
    with KitchenRenderer(64, 64) as other:
        assert other.draw(INITIAL_POSITION).shape == (64, 64, 3)
        np.testing.assert_array_equal(renderer.draw(INITIAL_POSITION), before)
    np.testing.assert_array_equal(renderer.draw(INITIAL_POSITION), before)


def test_still_as_png(renderer: KitchenRenderer, tmp_path: Path) -> None:
    path = tmp_path / "new" / "still.png"
    frame = render_frame(INITIAL_POSITION, path, *SMALL)
    np.testing.assert_array_equal(imageio.v3.imread(path), frame)
    np.testing.assert_array_equal(frame, renderer.draw(INITIAL_POSITION))


def test_video_has_every_frame(renderer: KitchenRenderer, tmp_path: Path) -> None:
    states = np.linspace(INITIAL_POSITION, opened_microwave(), 10)
    told: list[tuple[int, int]] = []
    path = tmp_path / "new" / "video.mp4"
    render_trajectory(states, path, fps=12.5, size=SMALL, progress=lambda done, total: told.append((done, total)))
    assert told == [(index + 1, 10) for index in range(10)]
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (10, pytest.approx(0.8))
    frames = imageio.v3.imread(path)
    assert frames.shape == (10, SMALL[1], SMALL[0], 3)
    # Compression alters pixels a little; the last frame must be nearer to the last state than to the first.
    last, first = renderer.draw(states[-1]).astype(float), renderer.draw(states[0]).astype(float)
    assert np.abs(frames[-1] - last).mean() < 0.5 * np.abs(frames[-1] - first).mean()
    assert [entry.name for entry in path.parent.iterdir()] == ["video.mp4"]


def test_an_interrupted_video_leaves_nothing(renderer: KitchenRenderer, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_trajectory([INITIAL_POSITION] * 4, tmp_path / "video.mp4", size=SMALL, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("states", [np.zeros((0, 30)), np.zeros((2, 29)), np.full((2, 30), np.nan)])
def test_video_of_no_states_is_refused(states: NDArray[np.float64], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(T, 30\)"):
        render_trajectory(states, tmp_path / "video.mp4")
    with pytest.raises(ValueError, match=r"1 captions .* 2 frames"):
        render_trajectory([INITIAL_POSITION] * 2, tmp_path / "video.mp4", captions=["one"])


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        KitchenRenderer(161, 120)


def test_the_environment_renders_when_asked(renderer: KitchenRenderer) -> None:
    env = KitchenEnv(render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame is not None
    assert frame.shape == (480, 480, 3)
    env.close()
    env.close()
    assert KitchenEnv().render() is None


def test_a_closed_renderer_says_so(renderer: KitchenRenderer) -> None:
    closed = KitchenRenderer(*SMALL)
    closed.close()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.draw(INITIAL_POSITION)


@pytest.mark.parametrize(
    "broken",
    [
        {"PYOPENGL_PLATFORM": "glx"},  # asked for another kind of OpenGL
        {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"},  # libegl1 without any driver
    ],
    ids=["other platform", "no driver"],
)
def test_missing_opengl_is_explained_in_one_line(broken: dict[str, str]) -> None:
    program = (
        "from sim.render import KitchenRenderer\n"
        "from simpl_core.errors import EnvironmentMissingError\n"
        "try:\n    KitchenRenderer(64, 64)\n"
        "except EnvironmentMissingError as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **broken},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("\n") == 1
    assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0" in ran.stdout
