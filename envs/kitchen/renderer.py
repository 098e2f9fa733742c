"""Episodes of the kitchen as they look: single frames, contact sheets, videos; drawn offscreen, without a display.

An observation holds the joint positions with so little noise that it is drawn as it is. Axes: T env_step, D observation
feature, Q joint position (30, the first Q features), H, W pixels.
"""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.core import EpisodeRenderer, PictureError, Task
from envs.gl import open_contexts, why_no_gl
from envs.kitchen.physics import ENV_STEP_SECONDS, POSITION_DIM, load_model
from envs.kitchen.pictures import NEVER, first_completions
from envs.kitchen.subtasks import SUBTASK_NAMES
from envs.pictures import new_figure, save_figure

FRAME_PIXELS = 400
ENDINGS = (".mp4", ".png", ".gif")
MAX_GEOMS = 500
"""The kitchen has 119."""
_SHEET_COLUMNS = 4
_SHEET_DPI = 100
CAPTION_PIXELS = 96
"""Four lines; with it the height of a frame divides by 16, as video codecs like it."""
_CAPTION_LETTERS = 55
"""What fits into a line."""


class KitchenRenderer:
    """Draws kitchens of given joint positions; a context manager, since it holds memory of the graphics library.

    The camera is that of ``FrankaKitchen-v1``. Shadows, multisampling and reflections are off: with them a frame of
    400 x 400 takes 25 times as long on a CPU. Raises ``PictureError`` where nothing can draw.
    """

    def __init__(self, width: int = FRAME_PIXELS, height: int = FRAME_PIXELS, caption_pixels: int = 0) -> None:
        """Frames have ``height`` rows of pixels and below them ``caption_pixels`` more for a caption."""
        self.model = load_model(visual=True)
        self.model.vis.global_.offwidth, self.model.vis.global_.offheight = width, height + caption_pixels
        self.model.vis.quality.offsamples = 0
        self.data = mujoco.MjData(self.model)
        self.camera = mujoco.MjvCamera()
        self.camera.distance, self.camera.azimuth, self.camera.elevation = 2.2, 70.0, -35.0
        self.camera.lookat = (-0.2, 0.5, 2.0)
        self.options = mujoco.MjvOption()
        self.scene = mujoco.MjvScene(self.model, maxgeom=MAX_GEOMS)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.scene.flags[flag] = False
        self.viewport = mujoco.MjrRect(0, caption_pixels, width, height)
        self._caption_viewport = mujoco.MjrRect(0, 0, width, caption_pixels)
        self._gl, self._context = open_contexts(self.model, width, height + caption_pixels)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def render(self, positions: NDArray[np.floating[Any]], caption: str = "") -> NDArray[np.uint8]:
        """Joint positions (Q,) -> a frame (H, W, 3), the lines of ``caption`` below the kitchen."""
        self.data.qpos[:] = positions
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        category = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self.model, self.data, self.options, None, self.camera, category, self.scene)
        whole = mujoco.MjrRect(0, 0, self.viewport.width, self._caption_viewport.height + self.viewport.height)
        frame = np.empty((whole.height, whole.width, 3), np.uint8)
        self._gl.make_current()
        mujoco.mjr_render(self.viewport, self.scene, self._context)
        if self._caption_viewport.height:
            mujoco.mjr_rectangle(self._caption_viewport, 0.0, 0.0, 0.0, 1.0)
            font, place = mujoco.mjtFont.mjFONT_NORMAL, mujoco.mjtGridPos.mjGRID_TOPLEFT
            mujoco.mjr_overlay(font, place, self._caption_viewport, caption, "", self._context)
        mujoco.mjr_readPixels(frame, None, whole, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL's rows begin at the bottom

    def close(self) -> None:
        """Free the graphics library's memory; nothing can be drawn any more."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def __enter__(self) -> KitchenRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def render_episodes(
    episodes: Sequence[NDArray[np.floating[Any]]], tasks: Sequence[Task], path: Path, title: str
) -> None:
    """An ``EpisodeRenderer.render``: videos show the episodes one after the other, a PNG has a contact sheet."""
    if path.suffix != ".png":
        write_video(episodes, path, titles=[task.name for task in tasks])
        return
    draw_contact_sheet(episodes, path, "\n".join(dict.fromkeys([title, *(task.name for task in tasks)])))


def draw_contact_sheet(episodes: Sequence[NDArray[np.floating[Any]]], path: Path, title: str, frames: int = 12) -> None:
    """Write a PNG: ``frames`` views of each episode at even intervals, its first and last observation among them.

    ``episodes`` are (T, D) arrays. Each view says its env_step and which subtasks have been completed until then.
    Raises ``PictureError``.
    """
    columns = min(_SHEET_COLUMNS, frames)
    rows_each = -(-frames // columns)
    figure = new_figure(2.6 * columns, 2.95 * rows_each * len(episodes) + 0.5)
    axes_of_episodes = figure.subplots(rows_each * len(episodes), columns, squeeze=False)
    for axes in figure.axes:
        axes.set_axis_off()
    with KitchenRenderer() as renderer:
        for row, observations in enumerate(episodes):
            shown = np.linspace(0, len(observations) - 1, frames).round().astype(int)
            first = first_completions(observations)
            for axes, env_step in zip(axes_of_episodes[row * rows_each :].flat, shown, strict=False):
                axes.imshow(renderer.render(observations[env_step, :POSITION_DIM]))
                place = f"env_step {env_step}" if len(episodes) == 1 else f"episode {row + 1}, env_step {env_step}"
                axes.set_title(f"{place}\n{textwrap.fill(_done_text(first, env_step), 42)}", fontsize=7.5)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path, dots_per_inch=_SHEET_DPI)


def write_video(
    episodes: Sequence[NDArray[np.floating[Any]]],
    path: Path,
    titles: Sequence[str] = (),
    frames_per_second: float = 1 / ENV_STEP_SECONDS,
) -> None:
    """Write an mp4 or a GIF, by the ending of ``path``: a frame per observation, one episode after the other.

    ``episodes`` are (T, D) arrays. Each frame says its env_step and which subtasks have been completed until then,
    under its episode's title, if there is one. By default as fast as it happened. Raises ``PictureError``.
    """
    reason = why_not(path.suffix)
    if reason is not None:
        raise PictureError(reason)
    with (
        KitchenRenderer(caption_pixels=CAPTION_PIXELS) as renderer,
        _open_video(path, frames_per_second) as video,
    ):
        for episode, observations in enumerate(episodes):
            first = first_completions(observations)
            title = titles[episode] if titles else f"episode {episode + 1}"
            for env_step, positions in enumerate(observations[:, :POSITION_DIM]):
                done = textwrap.fill(_done_text(first, env_step), _CAPTION_LETTERS)
                video.append_data(renderer.render(positions, f"{title}\nenv_step {env_step}\n{done}"))


def why_not(ending: str) -> str | None:
    """An ``EpisodeRenderer.why_not``."""
    if ending not in ENDINGS:
        return f"no picture of an episode can end in {ending!r}; valid: {', '.join(ENDINGS)}"
    if ending == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        return "an mp4 needs imageio-ffmpeg, which is not installed: pip install 'simpl-bench[video]'"
    return why_no_gl()


def _open_video(path: Path, frames_per_second: float) -> Any:
    """imageio's writer: a context manager with ``append_data(frame)``."""
    import imageio.v2 as imageio

    if path.suffix == ".gif":
        return imageio.get_writer(path, duration=1000 / frames_per_second, loop=0)
    return imageio.get_writer(path, fps=frames_per_second, ffmpeg_log_level="error")


def _done_text(first: NDArray[np.int64], env_step: int) -> str:
    """The subtasks completed until ``env_step``, in the order in which that happened."""
    order = np.argsort(first, kind="stable")
    return "done: " + ", ".join(SUBTASK_NAMES[index] for index in order if NEVER < first[index] <= env_step)


EPISODE_RENDERER = EpisodeRenderer(endings=ENDINGS, render=render_episodes, why_not=why_not)
