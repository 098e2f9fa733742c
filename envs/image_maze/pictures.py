"""Pictures of the image maze: episodes on their map with what the agent saw, and the offline data.

matplotlib is imported on use. Axes: T env_step, D observation feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.image_maze.views import MazeViews
from envs.maze.layout import Layout
from envs.maze.pictures import draw_paths_on
from envs.pictures import new_figure, save_figure
from envs.trajectories import Trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN_VIEWS = 8
_SHOWN_EPISODES = 4


def draw_episodes(
    layout: Layout,
    start_position: tuple[float, float],
    observations_of_episodes: Sequence[NDArray[np.floating[Any]]],
    tasks: Sequence[Task],
    path: Path,
    title: str,
) -> None:
    """Write a PNG: episodes (T, 7) on the map, and below it what the first one saw, at even intervals.

    Raises ``ValueError`` if there are tasks but not one per episode.
    """
    figure = new_figure(6.0, 7.2)
    map_axes, view_axes = figure.subplots(2, 1, height_ratios=[6.0, 0.85])
    draw_paths_on(layout, start_position, observations_of_episodes, tasks, map_axes)
    map_axes.set_title(title, fontsize=11)
    if len(observations_of_episodes):
        _draw_views(view_axes, layout, observations_of_episodes[0], columns=_SHOWN_VIEWS)
    save_figure(figure, path)


def draw_recorded_episode(
    observations: NDArray[np.floating[Any]], scene: NDArray[np.uint8], path: Path, title: str
) -> None:
    """``draw_episodes`` for a recorded trajectory (T, 7) in the maze whose walls are ``scene``, (X, Y)."""
    start = (float(observations[0, 0]), float(observations[0, 1]))
    draw_episodes(Layout("recorded", scene != 0), start, [observations], [], path, title)


def draw_recorded(layout: Layout, trajectories: Trajectories, path: Path) -> None:
    """Write a PNG: four trajectories in their mazes (``layout`` where they have none of their own), views on their way,
    and how often each fifth of a cell was visited by all of them."""
    from matplotlib.colors import LogNorm

    episodes = trajectories.split()
    shown = np.unique(np.linspace(0, len(episodes) - 1, _SHOWN_EPISODES).astype(int))
    figure = new_figure(3.0 * (_SHOWN_EPISODES + 1), 5.0)
    all_axes = figure.subplots(2, _SHOWN_EPISODES + 1, height_ratios=[3.0, 1.6])
    for axes in all_axes.flat:
        axes.set_axis_off()
    for index, (map_axes, view_axes) in zip(shown, all_axes.T, strict=False):
        observations = episodes[index][0]
        own = layout if trajectories.scenes is None else Layout("recorded", trajectories.scenes[index] != 0)
        draw_paths_on(own, (float(observations[0, 0]), float(observations[0, 1])), [observations], [], map_axes)
        map_axes.set_title(f"trajectory {index}: {len(observations)} env_steps", fontsize=9)
        _draw_views(view_axes, own, observations, columns=4, rows=2)
    density_axes, length_axes = all_axes[:, -1]
    density_axes.set_axis_on()
    length_axes.set_axis_on()
    positions = trajectories.observations[:, :2]
    _, _, _, image = density_axes.hist2d(
        positions[:, 0], positions[:, 1], bins=5 * (int(positions.max()) + 1), norm=LogNorm(vmin=1), cmap="viridis"
    )
    figure.colorbar(image, ax=density_axes, shrink=0.75, label="visits (0.2 x 0.2)")
    density_axes.set_aspect("equal")
    density_axes.set_title(f"{len(positions):,} states in all mazes", fontsize=9)
    length_axes.hist(trajectories.lengths, bins=40, color="#1f6fb4")
    length_axes.set_title(f"lengths of {len(episodes):,} trajectories (env_steps)", fontsize=9)
    save_figure(figure, path)


def _draw_views(
    axes: Axes, layout: Layout, observations: NDArray[np.floating[Any]], columns: int, rows: int = 1
) -> None:
    """What the agent saw at even intervals of an episode (T, 7), newest frames only, in reading order."""
    count = rows * columns
    at = np.linspace(0, len(observations) - 1, count).round().astype(int)
    frames = MazeViews(layout).draw(observations[at].astype(np.float32))[:, :3]
    bordered = np.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=255)
    _, channels, height, width = bordered.shape
    sheet = bordered.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    axes.imshow(sheet.reshape(rows * height, columns * width, channels), interpolation="nearest")
    axes.set_title(f"views from env_step 0 to {at[-1]}", fontsize=8)
    axes.set_axis_off()
