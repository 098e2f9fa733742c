"""Pictures of the maze: episodes on the map, goals of the task distributions, coverage of the offline data.

Positions are joint positions (x to the right, y up); see ``envs.maze.layout`` for how they relate to cells.
matplotlib is imported on use, since most commands draw nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.maze.layout import Layout
from envs.maze.physics import CELL_CENTRE_OFFSET
from envs.maze.planner import Cell
from envs.pictures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WALL = "#4a4e58"
_FLOOR = "#fbfaf7"
_TRAIN = "#2e9e4f"
_TARGET = "#d6322d"
_VALIDATION = "#2f6fd0"
_START = "#f5b800"


def draw_paths(
    layout: Layout,
    start_position: tuple[float, float],
    observations_of_episodes: Sequence[NDArray[np.floating[Any]]],
    tasks: Sequence[Task],
    path: Path,
    title: str,
) -> None:
    """Write a PNG of episodes on the map: ``draw_paths_on``."""
    figure, (axes,) = new_panels(1, 1, panel_inches=5.0)
    draw_paths_on(layout, start_position, observations_of_episodes, tasks, axes)
    axes.set_title(title, fontsize=11)
    save_figure(figure, path)


def draw_paths_on(
    layout: Layout,
    start_position: tuple[float, float],
    observations_of_episodes: Sequence[NDArray[np.floating[Any]]],
    tasks: Sequence[Task],
    axes: Axes,
) -> None:
    """Episodes on the map.

    ``observations_of_episodes`` are (T, D) arrays whose first two features are the position. With one task per episode
    every distinct task has a colour, its goal in the same colour; with no tasks all paths are drawn alike. Raises
    ``ValueError`` if there are tasks but not one per episode.
    """
    if len(tasks) not in (0, len(observations_of_episodes)):
        raise ValueError(f"{len(observations_of_episodes)} episodes but {len(tasks)} tasks; give one each or none")
    draw_map(axes, layout)
    names = sorted({task.name for task in tasks})
    colours = dict(zip(names, _colours(len(names)), strict=True))
    alpha = float(np.clip(12.0 / max(len(observations_of_episodes), 1), 0.25, 0.9))
    for index, observations in enumerate(observations_of_episodes):
        colour = colours[tasks[index].name] if tasks else "#1f6fb4"
        axes.plot(observations[:, 0], observations[:, 1], color=colour, alpha=alpha, linewidth=1.1, zorder=2)
    for task in {task.name: task for task in tasks}.values():
        x, y = task.spec["goal"]
        axes.add_patch(_circle(x, y, 1.0, colours[task.name]))
        axes.plot(x, y, "o", color=colours[task.name], markeredgecolor="white", markersize=8, zorder=5)
    _draw_start(axes, start_position)


def draw_goals(
    layout: Layout,
    start_position: tuple[float, float],
    panels: Sequence[tuple[str, Sequence[Cell], Sequence[Cell], Sequence[Cell]]],
    path: Path,
) -> None:
    """Write a PNG with a map per (name, training goals, target goals, validation goals): ``draw_goals_on``."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, all_axes = new_panels(rows, columns, panel_inches=3.1)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, train_goals, target_goals, validation_goals) in zip(all_axes, panels, strict=False):
        draw_goals_on(layout, start_position, train_goals, target_goals, validation_goals, axes)
        sizes = f"{len(train_goals)} training, {len(target_goals)} target, {len(validation_goals)} validation"
        axes.set_title(f"{name}\n{sizes} goals", fontsize=9)
    save_figure(figure, path)


def draw_goals_on(
    layout: Layout,
    start_position: tuple[float, float],
    train_goals: Sequence[Cell],
    target_goals: Sequence[Cell],
    validation_goals: Sequence[Cell],
    axes: Axes,
) -> None:
    """One map with its goals: training tasks are circles, target tasks squares, validation tasks triangles, so that not
    only colour tells them."""
    draw_map(axes, layout)
    for goals, colour, marker, label in (
        (train_goals, _TRAIN, "o", "training goal"),
        (target_goals, _TARGET, "s", "target goal"),
        (validation_goals, _VALIDATION, "^", "validation goal"),
    ):
        xs, ys = np.transpose(goals)
        axes.scatter(xs, ys, s=34, color=colour, marker=marker, edgecolor="white", linewidth=0.6, zorder=4, label=label)
    _draw_start(axes, start_position)


def draw_coverage(
    layout: Layout, positions: NDArray[np.float32], lines: Sequence[NDArray[np.float32]], path: Path
) -> None:
    """Write a PNG: how often each fifth of a cell was visited by ``positions`` (N, 2), and some ``lines`` (T, 2)."""
    from matplotlib.colors import LogNorm

    figure, (density_axes, line_axes) = new_panels(1, 2, panel_inches=4.6)
    edges = [np.arange(0, 5 * size + 1) / 5 - 0.5 + CELL_CENTRE_OFFSET for size in layout.walls.shape]
    counts, _, _ = np.histogram2d(positions[:, 0], positions[:, 1], bins=edges)
    draw_map(density_axes, layout)
    mesh = density_axes.pcolormesh(
        edges[0], edges[1], np.ma.masked_equal(counts.T, 0), norm=LogNorm(vmin=1), cmap="viridis", zorder=1.5
    )
    figure.colorbar(mesh, ax=density_axes, shrink=0.75, label="visits (0.2 x 0.2)")
    density_axes.set_title(f"{len(positions):,} states", fontsize=11)
    draw_map(line_axes, layout)
    for line, colour in zip(lines, _colours(len(lines)), strict=True):
        line_axes.plot(line[:, 0], line[:, 1], color=colour, linewidth=1.2, alpha=0.9)
        line_axes.plot(*line[0, :2], "o", color=colour, markersize=4)
    line_axes.set_title(f"{len(lines)} trajectories (dot: start)", fontsize=11)
    save_figure(figure, path)


def new_panels(rows: int, columns: int, panel_inches: float) -> tuple[Figure, list[Axes]]:
    """A figure and its axes."""
    figure = new_figure(columns * panel_inches, rows * (panel_inches + 0.3))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw_map(axes: Axes, layout: Layout) -> None:
    """Walls and floor."""
    from matplotlib.colors import ListedColormap

    size_x, size_y = layout.walls.shape
    low = CELL_CENTRE_OFFSET - 0.5
    axes.imshow(
        layout.walls.T,
        origin="lower",
        extent=(low, low + size_x, low, low + size_y),
        cmap=ListedColormap([_FLOOR, _WALL]),
        interpolation="nearest",
        zorder=1,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_start(axes: Axes, start_position: tuple[float, float]) -> None:
    for colour, width, size, label in (("#3a3200", 4.2, 9.0, "_outline"), (_START, 2.4, 8.0, "start")):
        axes.plot(
            *start_position, "x", color=colour, markersize=size, markeredgewidth=width, zorder=6, label=label,
            linestyle="none",
        )  # fmt: skip


def _circle(x: float, y: float, radius: float, colour: Any) -> Any:
    from matplotlib.patches import Circle

    return Circle((x, y), radius, facecolor=colour, edgecolor=colour, alpha=0.18, zorder=3)


def _colours(count: int) -> list[Any]:
    """Distinct colours: the qualitative ten, or as many steps as needed around the colour wheel."""
    import matplotlib

    if count <= 10:
        return [matplotlib.colormaps["tab10"](index) for index in range(count)]
    return [matplotlib.colormaps["hsv"](index / count) for index in range(count)]
