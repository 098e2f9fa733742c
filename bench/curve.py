"""The picture at the end of a run: its learning curve on the tasks that it adapted to."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import exploration_episodes, learning_curve, smoothed_curve
from envs.core import TARGET

SMOOTHING_EPISODES = 10
_COLOUR = "#0072B2"


def mark_exploration(axes: Axes, episodes: int) -> None:
    """A dotted line where exploration ends and fine-tuning begins, as in the paper's Figure 4."""
    if episodes:
        axes.axvline(episodes, color="0.4", linestyle=":", linewidth=1.0)


def draw_curve(
    table: pd.DataFrame, score_range: tuple[float, float], title: str, path: Path, task_set: str = TARGET
) -> None:
    """Write a PNG: mean return over the tasks of ``task_set`` by episode, raw (faint) and smoothed.

    Raises ``OSError``.
    """
    curve = learning_curve(table)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.index, curve.to_numpy(), color=_COLOUR, alpha=0.3, linewidth=0.8)
    smoothed = smoothed_curve(table, SMOOTHING_EPISODES)
    axes.plot(
        smoothed.index, smoothed.to_numpy(), color=_COLOUR, label=f"centred mean of {SMOOTHING_EPISODES} episodes"
    )
    mark_exploration(axes, exploration_episodes(table))
    low, high = score_range
    if low < 0:  # a bound that no learner is near; where rewards are never negative it is 0, and belongs in the picture
        low = max(low, float(curve.min()))
    margin = 0.02 * (high - low)
    axes.set(
        xlabel=f"{task_set}-task episode", ylabel=f"return, mean over {task_set} tasks", title=title,
        ylim=(low - margin, high + margin),
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)
