"""Pictures of the kitchen: when subtasks are completed, what the offline data covers.

An observation holds the joint positions with so little noise that subtasks can be judged on it. Axes: T env_step, D
observation feature, Q joint position (30, the first Q features), S subtask (order of ``SUBTASKS``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.kitchen.physics import ENV_STEP_SECONDS, POSITION_DIM
from envs.kitchen.subtasks import SUBTASK_NAMES, completed, subtasks_of
from envs.pictures import new_figure, save_figure
from envs.trajectories import Trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEVER = -1
_COLOURS = ("#0072b2", "#e69f00", "#000000", "#56b4e9", "#009e73", "#d55e00", "#cc79a7")
"""One per subtask: Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow."""
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def first_completions(observations: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Index of the observation in which each subtask is first complete: (T, D) -> (S,); ``NEVER`` if in none."""
    done = completed(observations[:, :POSITION_DIM])
    return np.where(done.any(axis=0), done.argmax(axis=0), NEVER)


def completion_order(observations: NDArray[np.floating[Any]]) -> list[int]:
    """Indices of the completed subtasks in the order in which they were first complete: (T, D) -> at most S."""
    first = first_completions(observations)
    return [int(index) for index in np.argsort(first, kind="stable") if first[index] != NEVER]


def draw_progress(
    observations_of_episodes: Sequence[NDArray[np.floating[Any]]], tasks: Sequence[Task], path: Path, title: str
) -> None:
    """Write a PNG: a row per episode with a mark where each subtask is first complete, and how often each one was.

    ``observations_of_episodes`` are (T, D) arrays. With one task per episode its subtasks stand before the row, in
    their order. Raises ``ValueError`` if there are tasks but not one per episode, or no episodes.
    """
    episodes = len(observations_of_episodes)
    if episodes == 0 or len(tasks) not in (0, episodes):
        raise ValueError(f"{episodes} episodes and {len(tasks)} tasks; give at least one, and a task for each or none")
    first = np.array([first_completions(observations) for observations in observations_of_episodes])
    figure = new_figure(10.5, 1.7 + 0.2 * max(episodes, 10))
    task_axes, axes, bar_axes = figure.subplots(1, 3, width_ratios=(0.8 if tasks else 0.01, 4.6, 2.2))
    for row, observations in enumerate(observations_of_episodes):
        axes.plot((0, len(observations) - 1), (row, row), color="#c9c9c9", linewidth=1.0, zorder=1)
        if tasks:
            for place, subtask in enumerate(subtasks_of(tasks[row].spec)):
                task_axes.plot(place, row, **_mark(subtask), markersize=7)
    for subtask, name in enumerate(SUBTASK_NAMES):
        rows = np.flatnonzero(first[:, subtask] != NEVER)
        axes.plot(first[rows, subtask], rows, **_mark(subtask), markersize=8, label=name, zorder=3)
    _tidy_rows(task_axes, episodes, "task" if tasks else "")
    task_axes.margins(x=0.2)
    task_axes.set_xticks([])
    task_axes.spines["bottom"].set_visible(False)
    _tidy_rows(axes, episodes, "subtask first complete")
    axes.set_xlabel(f"env_step ({ENV_STEP_SECONDS} s each)")
    axes.set_xlim(left=0)
    _draw_counts(bar_axes, (first != NEVER).sum(axis=0), episodes, "episodes that complete it")
    figure.suptitle(f"{title}: {(first != NEVER).sum(axis=1).mean():.2f} subtasks per episode", fontsize=11)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_progress_on(
    observations_of_episodes: Sequence[NDArray[np.floating[Any]]], tasks: Sequence[Task], axes: Axes
) -> None:
    """A row per episode with a mark where each subtask is first seen complete; observations (T, D) may be some of its.

    Before the row, smaller, the subtasks of its task in their order. Raises ``ValueError`` if there are tasks but not
    one per episode.
    """
    if len(tasks) not in (0, len(observations_of_episodes)):
        raise ValueError(f"{len(observations_of_episodes)} episodes but {len(tasks)} tasks; give one each or none")
    for row, observations in enumerate(observations_of_episodes):
        share = np.linspace(0, 1, len(observations))
        axes.plot((0, 1), (row, row), color="#c9c9c9", linewidth=1.0, zorder=1)
        for subtask in completion_order(observations):
            axes.plot(share[first_completions(observations)[subtask]], row, **_mark(subtask), markersize=7, zorder=3)
        for place, subtask in enumerate(subtasks_of(tasks[row].spec) if tasks else ()):
            axes.plot(-0.45 + 0.1 * place, row, **_mark(subtask), markersize=4)
    for subtask, name in enumerate(SUBTASK_NAMES):
        axes.plot([], [], **_mark(subtask), markersize=7, label=name)
    _tidy_rows(axes, len(observations_of_episodes), "")
    axes.set_xticks([0, 1], ["start", "end"])


def draw_orders(columns: Sequence[tuple[str, Sequence[Task]]], axes: Axes) -> None:
    """The tasks of each (name, tasks) as rows of four marks, the subtasks in the order in which they are asked for."""
    gap = 6
    seen: set[int] = set()
    for column, (name, tasks) in enumerate(columns):
        for row, task in enumerate(tasks):
            for place, subtask in enumerate(subtasks_of(task.spec)):
                label = "_again" if subtask in seen else SUBTASK_NAMES[subtask]
                seen.add(subtask)
                axes.plot(gap * column + place, row, **_mark(subtask), markersize=7, label=label)
        axes.text(gap * column + 1.5, -1.2, f"{name} ({len(tasks)})", ha="center", fontsize=8)
    axes.set_ylim(max(len(tasks) for _, tasks in columns) - 0.4, -2.0)
    axes.margins(x=0.08)
    axes.set_axis_off()


def draw_data_coverage(trajectories: Trajectories, path: Path) -> None:
    """Write a PNG: how many trajectories complete each subtask, their lengths, and which subtask follows which."""
    from matplotlib.ticker import MaxNLocator

    orders = [completion_order(observations) for observations, _ in trajectories.split()]
    follows = np.zeros((1 + len(SUBTASK_NAMES), len(SUBTASK_NAMES)), np.int64)
    for order in orders:
        for before, after in zip([-1, *order], order, strict=False):
            follows[1 + before, after] += 1
    figure = new_figure(14.5, 4.6)
    bar_axes, length_axes, matrix_axes = figure.subplots(1, 3, width_ratios=(1.2, 1.0, 1.3))
    counts = np.bincount([subtask for order in orders for subtask in order], minlength=len(SUBTASK_NAMES))
    _draw_counts(bar_axes, counts, len(orders), "trajectories that complete it")
    length_axes.hist(trajectories.lengths, bins=30, color="#0072b2")
    length_axes.set_xlabel(f"length in env_steps ({ENV_STEP_SECONDS} s each)")
    length_axes.set_ylabel("trajectories")
    length_axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    length_axes.set_title(f"{len(trajectories.observations):,} transitions", fontsize=10)
    _draw_follows(matrix_axes, follows)
    mean = sum(len(order) for order in orders) / len(orders)
    figure.suptitle(f"{len(orders):,} trajectories, {mean:.2f} subtasks each", fontsize=11)
    save_figure(figure, path)


def _mark(subtask: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[subtask],
        "marker": _MARKERS[subtask],
        "linestyle": "none",
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def _tidy_rows(axes: Axes, rows: int, title: str) -> None:
    """Episodes from the top down, without frame and numbers."""
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def _draw_counts(axes: Axes, counts: NDArray[np.int64], total: int, title: str) -> None:
    """A bar per subtask: how many of ``total`` complete it."""
    from matplotlib.ticker import MaxNLocator

    bars = axes.barh(range(len(SUBTASK_NAMES)), counts, color=_COLOURS)
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.set_yticks(range(len(SUBTASK_NAMES)), SUBTASK_NAMES, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * total)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{title} (of {total:,})", fontsize=10)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)


def _draw_follows(axes: Axes, follows: NDArray[np.int64]) -> None:
    """``follows`` (1 + S, S): how often a column's subtask came next after that of the row (row 0: the start)."""
    axes.imshow(np.sqrt(follows), cmap="Blues", aspect="auto", vmax=1.4 * max(float(np.sqrt(follows.max())), 1.0))
    for (row, column), count in np.ndenumerate(follows):
        if count:
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(SUBTASK_NAMES)), SUBTASK_NAMES, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(1 + len(SUBTASK_NAMES)), ("(start)", *SUBTASK_NAMES), fontsize=8)
    axes.set_ylabel("after this subtask ...", fontsize=9)
    axes.set_title("... this one is completed next", fontsize=10)
