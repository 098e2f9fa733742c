"""Pictures of episodes in the validation worlds: paths in the plane, an angle against time.

Axes: T env_step, D observation feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.pictures import new_figure, save_figure

Episodes = Sequence[NDArray[np.floating[Any]]]


def draw_point_paths(observations_of_episodes: Episodes, tasks: Sequence[Task], path: Path, title: str) -> None:
    """Write a PNG of episodes (T, 2) and, where there is one task per episode, their goals in the same colour.

    Raises ``ValueError`` when there are tasks, but not one per episode.
    """
    _check_tasks(observations_of_episodes, tasks)
    figure = new_figure(5.0, 5.0)
    axes = figure.subplots()
    for index, observations in enumerate(observations_of_episodes):
        colour = f"C{index % 10}"
        axes.plot(observations[:, 0], observations[:, 1], color=colour, linewidth=1.1, alpha=0.7)
        if tasks:
            axes.plot(*tasks[index].spec["goal"], "o", color=colour, markeredgecolor="black", markersize=6)
    axes.plot(0.0, 0.0, "x", color="black")
    axes.set(aspect="equal", xlabel="x", ylabel="y", title=title)
    axes.title.set_fontsize(9)
    save_figure(figure, path)


def draw_pendulum_angles(observations_of_episodes: Episodes, tasks: Sequence[Task], path: Path, title: str) -> None:
    """Write a PNG of the angle from upright (degrees) by env_step, of episodes (T, 3): (cos, sin, velocity).

    Raises ``ValueError`` when there are tasks, but not one per episode.
    """
    _check_tasks(observations_of_episodes, tasks)
    figure = new_figure(7.0, 3.6)
    axes = figure.subplots()
    for index, observations in enumerate(observations_of_episodes):
        degrees = np.degrees(np.arctan2(observations[:, 1], observations[:, 0]))
        # A line through the bottom, where 180 becomes -180, would cross the picture.
        crossings = np.flatnonzero(np.abs(np.diff(degrees)) > 180.0) + 1
        env_steps = np.insert(np.arange(len(degrees), dtype=float), crossings, math.nan)
        axes.plot(env_steps, np.insert(degrees, crossings, math.nan), color=f"C{index % 10}", linewidth=1.1, alpha=0.8)
    axes.axhline(0.0, color="black", linewidth=0.6, linestyle=":")
    axes.set(xlabel="env_step", ylabel="angle from upright, degrees", ylim=(-185.0, 185.0), title=title)
    axes.set_yticks([-180, -90, 0, 90, 180])
    axes.title.set_fontsize(9)
    save_figure(figure, path)


def _check_tasks(observations_of_episodes: Episodes, tasks: Sequence[Task]) -> None:
    if tasks and len(tasks) != len(observations_of_episodes):
        raise ValueError(f"{len(observations_of_episodes)} episodes but {len(tasks)} tasks")
