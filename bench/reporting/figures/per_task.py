"""Task by task: a heat map of algorithms and target tasks, and each task's learning curves.

A mean over tasks may hide that some are solved and others are not; here they are apart. Drawn by seaborn.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.reporting.figures.aggregates import WindowSet, window_sets
from bench.reporting.figures.drawing import (
    counted,
    file_name,
    long_label_inches,
    new_panels,
    score_name,
    score_noun,
    shared_legend,
    tidy,
)
from bench.reporting.figures.learning import bin_width
from bench.reporting.model import Made, ReportFigure, ReportInputs
from bench.reporting.palette import looks
from bench.statistics.aggregates import task_means
from bench.statistics.scores import window_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 5
_MOST_TASKS = 15
"""With more target tasks than that, curves are too small to read."""


def per_task_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Of each task distribution and preset with two target tasks or more."""
    figures = []
    for windows in window_sets(inputs):
        table = task_table(windows)
        if table.shape[1] < 2:
            continue
        figures.append(_heat_map(windows, table))
        if table.shape[1] <= _MOST_TASKS:
            figures.append(_curves(windows))
    return Made(tuple(figures))


def task_table(windows: WindowSet) -> pd.DataFrame:
    """Mean score over runs, by algorithm (rows) and target task (columns); easiest tasks first."""
    columns = {
        label: pd.Series(task_means(matrix.values), index=list(matrix.tasks), dtype=float)
        for label, matrix in windows.scores.items()
    }
    table = pd.DataFrame(columns).T
    order = table.mean().sort_values(ascending=False, kind="stable").index
    return table[order]


def _task_names(windows: WindowSet) -> dict[int, str]:
    return {
        task: name
        for group in windows.groups.values()
        for task, name in zip(group.tasks, group.task_names, strict=True)
    }


def _heat_map(windows: WindowSet, table: pd.DataFrame) -> ReportFigure:
    noun = score_noun(windows.env)
    caption = (
        f"Mean {noun} of each target task in episodes {windows.start}-{windows.stop}, the tasks that are easiest over "
        f"all algorithms first. {windows.counts_text()}."
    )
    alt = f"Heat map, {windows.where}. " + "; ".join(
        f"{label}: from {row.min():.2f} to {row.max():.2f}" for label, row in table.iterrows()
    )
    return ReportFigure(
        file_name("tasks-scores", windows.env, windows.preset), f"Scores task by task on {windows.where}", caption, alt,
        partial(_draw_heat_map, windows, table),
    )  # fmt: skip


def _draw_heat_map(windows: WindowSet, table: pd.DataFrame) -> Figure:
    import seaborn

    names = _task_names(windows)
    tasks, rows = [names[task] for task in table.columns], list(map(str, table.index))
    example = next(iter(windows.groups.values()))
    width = 2.6 + 0.62 * table.shape[1] + long_label_inches(rows)
    # Tasks below are turned by 40 degrees: two thirds as high as they are long.
    figure, (axes,) = new_panels(1, width=width, height=1.5 + 0.34 * len(table) + long_label_inches(tasks) * 2 / 3)
    low, high = example.score_range or (float(table.min().min()), float(table.max().max()))
    low = max(low, float(table.min().min())) if low < 0 else low
    seaborn.heatmap(
        table, ax=axes, vmin=low, vmax=high, cmap="cividis", annot=True, fmt=".2f", xticklabels=False,
        yticklabels=False, annot_kws={"fontsize": 7}, linewidths=0.5, cbar_kws={"label": score_name(example)},
    )  # fmt: skip
    axes.set(xlabel="target task", ylabel="")
    axes.set_xticks(np.arange(len(tasks)) + 0.5, tasks, rotation=40, ha="right", fontsize=7)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0, fontsize=8)
    return figure


def _curves(windows: WindowSet) -> ReportFigure:
    noun = score_noun(windows.env)
    seeds = "; ".join(f"{label}: {counted(len(group.seeds), 'seed')}" for label, group in windows.groups.items())
    caption = (
        f"Mean {noun} of the training episodes of each target task, in bins, mean over runs, one panel for each task. "
        f"{seeds}."
    )
    alt = f"Line plots of {noun} by episode, a panel for each target task of {windows.env}, {windows.preset}."
    return ReportFigure(
        file_name("tasks-curves", windows.env, windows.preset),
        f"Learning each target task of {windows.env}, {windows.preset}", caption, alt, partial(_draw_curves, windows),
    )  # fmt: skip


def _draw_curves(windows: WindowSet) -> Figure:
    names = _task_names(windows)
    tasks = list(task_table(windows).columns)
    figure, panels = new_panels(len(tasks), _COLUMNS, width=2.1, height=1.75)
    look = looks(list(windows.groups))
    example = next(iter(windows.groups.values()))
    for axes, task in zip(panels, tasks, strict=True):
        for label, group in windows.groups.items():
            if task not in group.tasks:
                continue
            width = bin_width(group.returns.shape[2])
            starts = range(0, group.returns.shape[2] - width + 1, width)
            values = []
            for start in starts:
                scores = window_scores(group, start, start + width)
                own = scores.values[:, scores.tasks.index(task)] if task in scores.tasks else np.array([np.nan])
                values.append(float(np.nanmean(own)) if not np.isnan(own).all() else np.nan)
            own_look = look[label]
            axes.plot(
                [start + width / 2 for start in starts], values, color=own_look.colour, linestyle=own_look.line_style,
                linewidth=1.1, label=label,
            )  # fmt: skip
        axes.set_title(names[task], fontsize=7)
        axes.tick_params(labelsize=6)
        if example.score_range is not None and example.score_range[0] >= 0:
            low, high = example.score_range
            axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        tidy(axes)
    figure.supxlabel("target-task episode", fontsize=8)
    figure.supylabel(score_name(example), fontsize=8)
    shared_legend(figure, panels)
    return figure
