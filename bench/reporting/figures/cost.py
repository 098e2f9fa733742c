"""What a score costs: against env_steps on a target task, and against seconds of the last stage.

A run's score after an episode is the mean over its tasks of the return over the last ``WINDOW_EPISODES`` episodes; what
it has cost by then is the mean over its tasks of the env_steps, or the largest of the seconds, of those episodes' rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from bench.reporting.figures.drawing import (
    file_name,
    new_panels,
    runs_text,
    score_noun,
    set_score_axis,
    shared_legend,
    tidy,
)
from bench.reporting.figures.learning import panel_title
from bench.reporting.model import LoadedRun, Made, ReportFigure, ReportInputs
from bench.reporting.palette import in_order, looks
from bench.results import target_rows
from bench.statistics.episodes import EpisodeReturns, FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW_EPISODES = 10
Cost = Literal["env_steps", "seconds", "minutes"]
COSTS: Mapping[Cost, tuple[str, str]] = {
    "env_steps": ("env_steps per target task", "env_steps (of the simulator) taken on a target task, mean over tasks"),
    "seconds": (
        "seconds of the last stage",
        "wall-clock seconds of the stage that learns the target tasks, until all of them had so many episodes",
    ),
    "minutes": (
        "minutes from nothing",
        "minutes from nothing: those seconds after the wall time of all stages before (data, skills, meta-training)",
    ),
}
"""(label of the axis, words of the caption)"""
_POINTS = 200


@dataclass(frozen=True)
class CostCurve:
    """Scores of a group's runs at equal costs."""

    cost: FloatArray
    """(P,)"""
    low: FloatArray
    """(P,) the lowest of the runs."""
    mean: FloatArray
    high: FloatArray
    """(P,) the highest of the runs."""


def cost_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """A figure per task distribution and preset: a panel per kind of cost."""
    figures, missing = [], []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        same = {group.label: group for group in inputs.groups if (group.env, group.preset) == (env, preset)}
        groups = [same[label] for label in in_order(list(same))]
        curves = {
            (group.label, cost): curve
            for group in groups
            for cost in COSTS
            if (curve := cost_curve(inputs.runs_of(group), cost)) is not None
        }
        if not curves:
            missing.append(f"cost on {env}, {preset}: the rows have no env_steps and seconds, or too few episodes")
            continue
        figures.append(_cost_figure(env, preset, groups, curves))
    return Made(tuple(figures), tuple(missing))


def cost_curve(runs: tuple[LoadedRun, ...], cost: Cost) -> CostCurve | None:
    """As far as every run goes; None where a run has fewer than ``WINDOW_EPISODES`` episodes."""
    lines = [_run_line_from_nothing(run) if cost == "minutes" else _run_line(run.rows, cost) for run in runs]
    if not lines or any(line is None for line in lines):
        return None
    known = [line for line in lines if line is not None]
    grid = np.linspace(max(costs[0] for costs, _ in known), min(costs[-1] for costs, _ in known), _POINTS)
    scores = np.array([np.interp(grid, costs, values) for costs, values in known])
    return CostCurve(grid, scores.min(axis=0), scores.mean(axis=0), scores.max(axis=0))


def _run_line_from_nothing(run: LoadedRun) -> tuple[FloatArray, FloatArray] | None:
    line = _run_line(run.rows, "seconds")
    before = [stage.get("seconds") for stage in run.record.get("stages", ())[:-1]]
    if line is None or None in before:
        return None
    return (line[0] + sum(before)) / 60, line[1]


def _run_line(rows: pd.DataFrame, cost: Cost) -> tuple[FloatArray, FloatArray] | None:
    """(cost, score) after each episode that all tasks of the run have, from the first full window on."""
    if cost not in rows:
        return None
    table = target_rows(rows)
    by_episode = table.groupby("episode").agg(
        score=("return", "mean"), tasks=("task", "nunique"), cost=(cost, "mean" if cost == "env_steps" else "max")
    )
    complete = by_episode[by_episode["tasks"] == table["task"].nunique()]
    if len(complete) < WINDOW_EPISODES:
        return None
    scores = complete["score"].rolling(WINDOW_EPISODES).mean().to_numpy()[WINDOW_EPISODES - 1 :]
    # A later episode of one task may come before an earlier one of another: seconds are made to grow.
    costs = np.maximum.accumulate(complete["cost"].to_numpy(dtype=float))[WINDOW_EPISODES - 1 :]
    return costs, scores


def _cost_figure(
    env: str, preset: str, groups: list[EpisodeReturns], curves: Mapping[tuple[str, Cost], CostCurve]
) -> ReportFigure:
    noun = score_noun(env)
    caption = (
        f"Mean {noun} of the last {WINDOW_EPISODES} episodes of each target task against what they cost: "
        f"{'; '.join(words for _, words in COSTS.values())}. Line: mean of the runs, as far as all of them go; band: "
        f"lowest to highest run. A stage that algorithms share counts in each. Seconds depend on "
        f"the machine. {runs_text(groups)}."
    )
    alt = f"Line plots for {env}, {preset}, y: {noun}. " + "; ".join(
        f"{label} ends at {curve.mean[-1]:.2f} after {curve.cost[-1]:,.0f} {cost}"
        for (label, cost), curve in curves.items()
    )
    name = file_name("score-by-cost", env, preset)
    return ReportFigure(name, f"What a score costs on {env}, {preset}", caption, alt, partial(_draw, groups, curves))


def _draw(groups: list[EpisodeReturns], curves: Mapping[tuple[str, Cost], CostCurve]) -> Figure:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure, panels = new_panels(len(COSTS), height=3.7)
    look = looks([group.label for group in groups])
    for axes, (cost, (axis_label, _)) in zip(panels, COSTS.items(), strict=True):
        for group in groups:
            curve, own = curves.get((group.label, cost)), look[group.label]
            if curve is None:
                continue
            axes.plot(
                curve.cost, curve.mean, color=own.colour, linestyle=own.line_style, marker=own.marker, markersize=4,
                markevery=_POINTS // 10, linewidth=1.6, label=group.label,
            )  # fmt: skip
            axes.fill_between(curve.cost, curve.low, curve.high, color=own.colour, alpha=0.18, linewidth=0)
        set_score_axis(axes, groups[0])
        axes.set(xlabel=axis_label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        tidy(axes)
    figure.suptitle(panel_title(groups[0].env, groups[0].preset), fontsize="medium")
    shared_legend(figure, panels)
    return figure
