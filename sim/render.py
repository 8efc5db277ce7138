"""Pictures and videos of the kitchen, drawn without a screen (OpenGL through EGL, no GPU needed).

Shadows, reflections and multisampling are off: they make a frame cost 780 ms instead of 28 ms on a processor.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import ctypes
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.kitchen import load_kitchen_model
from sim.tasks import CONTROL_PERIOD, STATE_SIZE
from simpl_core.errors import ConfigError, EnvironmentMissingError

Frame = NDArray[np.uint8]

SIZE = 480
"""Default width and height [pixels]."""

CAMERA_LOOKAT, CAMERA_DISTANCE = (-0.2, 0.5, 2.0), 2.2  # [m]
CAMERA_AZIMUTH, CAMERA_ELEVATION = 70.0, -35.0  # [degree]

GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"


class KitchenRenderer:
    """Draws states of the kitchen; a context manager. It belongs to the thread that made it."""

    def __init__(self, width: int = SIZE, height: int = SIZE) -> None:
        """Open OpenGL and load the kitchen with all that is there to be seen.

        Args:
            width: of the frames [pixels], even because videos need it.
            height: likewise.

        Raises:
            ConfigError: a size that is not even and positive.
            EnvironmentMissingError: OpenGL cannot be opened; names the packages to install.
        """
        for name, size in (("width", width), ("height", height)):
            if size < 2 or size % 2:
                raise ConfigError(f"{name} must be an even number of pixels, got {size}")
        # A copy: the limits of the frame buffer are part of the model, which others may be drawing too.
        self._model = copy.copy(load_kitchen_model(visual=True))
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = width, height
        self._model.vis.quality.offsamples = 0
        self._data = mujoco.MjData(self._model)
        self._gl: mujoco.egl.GLContext | None = _open_gl(width, height)
        # One left open would complain at the interpreter's exit, when EGL is shut down before it.
        atexit.register(self.close)
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option, self._camera = mujoco.MjvOption(), _camera()
        self._viewport = mujoco.MjrRect(0, 0, width, height)

    def draw(self, qpos: ArrayLike, caption: str = "") -> Frame:
        """Frame (height, width, 3) of the state `qpos` (30,), with `caption` in its upper left corner."""
        if self._gl is None:
            raise ValueError("this renderer is closed")
        self._gl.make_current()
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        if caption:
            font, corner = mujoco.mjtFont.mjFONT_NORMAL, mujoco.mjtGridPos.mjGRID_TOPLEFT
            mujoco.mjr_overlay(font, corner, self._viewport, caption, "", self._context)
        frame = np.empty((self._viewport.height, self._viewport.width, 3), np.uint8)
        mujoco.mjr_readPixels(frame, None, self._viewport, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL counts rows from below

    def close(self) -> None:
        """Give the graphics memory back; closing twice does no harm."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
            atexit.unregister(self.close)

    def __enter__(self) -> KitchenRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_opengl() -> None:
    """Open and close OpenGL, to know beforehand whether anything can be drawn on this machine.

    Raises:
        EnvironmentMissingError: OpenGL cannot be opened; names the packages to install.
    """
    _open_gl(2, 2).free()


def render_frame(
    qpos: ArrayLike, path: Path | None = None, width: int = SIZE, height: int = SIZE, caption: str = ""
) -> Frame:
    """A still (height, width, 3) of the state `qpos` (30,), written to `path` as PNG if one is given."""
    with KitchenRenderer(width, height) as renderer:
        frame = renderer.draw(qpos, caption)
    if path is not None:
        import imageio.v3  # only here: drawing without writing needs no image library

        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.v3.imwrite(path, frame)
    return frame


def render_strip(
    episodes: Sequence[ArrayLike], path: Path, frames: int = 8, width: int = SIZE // 2, height: int = SIZE // 2
) -> Frame:
    """Stills of `episodes`, states (T, 30) at the control rate: a row each, evenly spread in time; written as PNG."""
    import imageio.v3

    rows = []
    with KitchenRenderer(width, height) as renderer:
        for states in map(np.asarray, episodes):
            steps = np.linspace(0, len(states) - 1, frames).astype(int)
            rows.append(np.hstack([renderer.draw(states[t], f"{CONTROL_PERIOD * t:.1f} s") for t in steps]))
    strip: Frame = np.vstack(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.v3.imwrite(path, strip)
    return strip


def render_trajectory(
    qpos: ArrayLike,
    path: Path,
    fps: float = 1.0 / CONTROL_PERIOD,
    size: tuple[int, int] = (SIZE, SIZE),
    captions: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a video (H.264, mp4) of the states `qpos` (T, 30), one frame each; real time at the default rate.

    Args:
        qpos: true states, one a frame.
        path: of the video; it appears when it is complete.
        fps: frames a second.
        size: (width, height), even numbers of pixels.
        captions: text for each frame.
        progress: called after each frame with (frames done, frames in all).

    Raises:
        ValueError: no states, another width, NaN, or another number of captions.
        ConfigError: an odd size.
        EnvironmentMissingError: OpenGL or ffmpeg is missing.
    """
    states = np.asarray(qpos, np.float64)
    if states.ndim != 2 or len(states) == 0 or states.shape[1] != STATE_SIZE or not np.isfinite(states).all():
        raise ValueError(f"qpos must be (T, {STATE_SIZE}) finite numbers, T > 0; got shape {states.shape}")
    if captions is not None and len(captions) != len(states):
        raise ValueError(f"{len(captions)} captions were given for {len(states)} frames")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished.mp4")
    try:
        with KitchenRenderer(*size) as renderer, contextlib.closing(_video(unfinished, fps, size)) as video:
            for index, state in enumerate(states):
                video.send(renderer.draw(state, captions[index] if captions else "").tobytes())
                if progress is not None:
                    progress(index + 1, len(states))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _video(path: Path, fps: float, size: tuple[int, int]) -> Generator[None, bytes, None]:
    """A started ffmpeg that takes frames by `send` and finishes the file on `close`."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise EnvironmentMissingError(
            f"writing a video needs ffmpeg: install the package imageio-ffmpeg ({error})"
        ) from error
    # x264 rounds sizes up to multiples of 16 unless told not to; quality 7 of 10 is about 1 MB a minute.
    video: Generator[None, bytes, None] = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps, quality=7, macro_block_size=2
    )
    video.send(None)  # type: ignore[arg-type]  # starts the generator
    return video


def _camera() -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = CAMERA_LOOKAT
    camera.distance, camera.azimuth, camera.elevation = CAMERA_DISTANCE, CAMERA_AZIMUTH, CAMERA_ELEVATION
    return camera


def _open_gl(width: int, height: int) -> mujoco.egl.GLContext:
    """An OpenGL context without a screen, current in this thread.

    Not `mujoco.Renderer`: which OpenGL that takes is settled by the environment when `mujoco` is imported, and
    asking for EGL there would keep machines without it from even simulating.
    """
    try:
        # PyOpenGL raises AttributeError when it finds no libEGL, ArgumentError when no libOpenGL, GLError when
        # no driver serves them; MuJoCo turns other refusals into ImportError or RuntimeError.
        from mujoco.egl import GLContext
        from OpenGL.error import GLError
    except (ImportError, AttributeError, ctypes.ArgumentError) as error:
        raise _no_gl(error) from error
    try:
        # In two steps, because one that failed half-way complains when it is collected about what it lacks.
        context = GLContext.__new__(GLContext)
        context._context = None
        context.__init__(width, height)
        context.make_current()
    except (GLError, ImportError, RuntimeError) as error:
        raise _no_gl(error) from error
    return context


def _no_gl(error: Exception) -> EnvironmentMissingError:
    reason = " ".join(str(error).split())
    return EnvironmentMissingError(
        f"drawing needs OpenGL through EGL, which could not be opened ({reason}); "
        f"on Debian or Ubuntu: apt-get install {GL_PACKAGES}"
    )
