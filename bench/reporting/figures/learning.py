"""Scores against episodes of the target tasks: the paper's figures 4, 6 (panels), 10 and 11.

A panel is a task distribution at a preset; a line is the mean over tasks and runs of the return in bins of episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.errors import UserError
from bench.lookup import find_task_distribution
from bench.reporting.figures.drawing import (
    INTERVAL,
    new_panels,
    notes_text,
    runs_text,
    score_noun,
    seeds_warning,
    set_score_axis,
    shared_legend,
    tidy,
)
from bench.reporting.model import ReportFigure, ReportInputs
from bench.reporting.palette import Look, algorithm_of, in_order, looks
from bench.results import exploration_episodes
from bench.statistics.curves import EfficiencyCurve, efficiency_curve
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.intervals import MIN_RUNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = ((60, 10), (20, 5), (10, 2), (0, 1))
"""(at least so many episodes, episodes per bin). All divide 20, so a bin never reaches across the exploration's end."""
NO_INTERVAL = "one seed: no interval"
_MOST_BANDS = 3
"""With more lines that have intervals, a panel has bars instead of bands."""
_BARS = 5
"""Of each line."""
_MARKS = 12
"""A line has about so many markers."""


@dataclass(frozen=True)
class LearningPanel:
    """What is drawn of one task distribution at one preset."""

    env: str
    preset: str
    groups: tuple[EpisodeReturns, ...]
    """One line each, in the order of the legend."""
    curves: Mapping[str, EfficiencyCurve]
    """By label."""
    exploration: Mapping[str, int]
    """Exploration episodes by label, of those that have any."""
    published: pd.DataFrame
    """Published curves of these algorithms here, as far as the episodes go."""


def learning_panel(
    inputs: ReportInputs,
    env: str,
    preset: str,
    labels: Sequence[str] | None = None,
    first_episodes: int | None = None,
) -> LearningPanel:
    """The panel of ``env`` at ``preset``; only these labels, only the ``first_episodes``, where they are given."""
    chosen = {
        group.label: group
        for group in inputs.groups
        if (group.env, group.preset) == (env, preset) and (labels is None or group.label in labels)
    }
    groups = tuple(cut(chosen[label], first_episodes) for label in in_order(list(chosen)))
    episodes = max(group.returns.shape[2] for group in groups)
    bin_episodes = bin_width(episodes)
    explored = {
        group.label: max(exploration_episodes(run.rows) for run in inputs.runs_of(group)) for group in groups
    }  # fmt: skip
    names = {algorithm_of(group.label) for group in groups}
    published = inputs.published
    published = published[
        (published["domain"] == env)
        & published["algorithm"].str.lower().isin(names)
        & (published["episode"] <= episodes)
    ]
    return LearningPanel(
        env, preset, groups,
        {group.label: efficiency_curve(group, min(bin_episodes, group.returns.shape[2]), "mean") for group in groups},
        {label: number for label, number in explored.items() if 0 < number < episodes}, published,
    )  # fmt: skip


def bin_width(episodes: int) -> int:
    """Episodes per bin of a curve over so many."""
    return next(width for least, width in _BINS if episodes >= least)


def cut(group: EpisodeReturns, episodes: int | None) -> EpisodeReturns:
    """The first episodes of a group; all of them for None."""
    return group if episodes is None else replace(group, returns=group.returns[:, :, :episodes])


def learning_figure(name: str, title: str, panels: Sequence[LearningPanel]) -> ReportFigure:
    """Panels side by side."""
    groups = [group for panel in panels for group in panel.groups]
    widths = sorted({curve.bin_episodes for panel in panels for curve in panel.curves.values()})
    single = all(len(group.seeds) == 1 for group in groups)
    band = NO_INTERVAL if single else f"bands, or bars: {INTERVAL} interval over seeds, of a bin"
    nouns = " and ".join(dict.fromkeys(score_noun(panel.env) for panel in panels))
    marked = any(panel.exploration for panel in panels)
    names_of_explorers = ", ".join(dict.fromkeys(label for panel in panels for label in panel.exploration))
    few = any(len(group.seeds) < MIN_RUNS for group in groups)
    published = any(len(panel.published) for panel in panels)
    notes = [
        f"{panel.env}, {label}: {note}"
        for panel in panels
        for label, curve in panel.curves.items()
        for note in curve_notes(curve)
    ]
    caption = (
        f"Mean return ({nouns}) of the training episodes on the target tasks, in bins of "
        f"{' or '.join(map(str, widths))} episode{'' if widths == [1] else 's'}; {band}. "
        f"{f'Shaded: {names_of_explorers} explore and do not learn on the task yet. ' if marked else ''}"
        f"{'Thin and dotted: fewer than three seeds. ' if few else ''}"
        f"{'Dashed: the curves of the paper, mean of 3 seeds. ' if published else ''}"
        f"{' '.join(f'{panel.env}, {panel.preset}: {runs_text(panel.groups)}.' for panel in panels)}"
        f"{notes_text(notes)}{seeds_warning(groups)}"
    )
    alt = "Line plot, x: target-task episode, y: " + "; ".join(map(_panel_text, panels))
    return ReportFigure(name, title, caption, alt, partial(draw_learning, tuple(panels)))


def curve_notes(curve: EfficiencyCurve) -> list[str]:
    """The curve's notes; that there is no interval is said once, and not again for each bin."""
    if len(curve.seeds) and (curve.seeds == 1).all():
        return [NO_INTERVAL, *(note for note in curve.notes if NO_INTERVAL not in note)]
    return list(curve.notes)


def _panel_text(panel: LearningPanel) -> str:
    lines = []
    for label, curve in panel.curves.items():
        ends = curve.starts + curve.bin_episodes
        places = sorted({0, len(curve.point) // 2, len(curve.point) - 1}) if len(curve.point) else []
        values = ", ".join(f"{curve.point[i]:.2f} in episodes {curve.starts[i]}-{ends[i]}" for i in places)
        lines.append(f"{label} {values}")
    return f"{score_noun(panel.env)} on {panel.env}. {'; '.join(lines)}"


def draw_learning(panels: Sequence[LearningPanel]) -> Figure:
    """All panels, with one legend."""
    figure, all_axes = new_panels(len(panels), width=5.6 if len(panels) == 1 else 4.6, height=3.9)
    look = looks([group.label for panel in panels for group in panel.groups])
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_panel(axes, panel, look)
    shared_legend(figure, all_axes)
    return figure


def _draw_panel(axes: Axes, panel: LearningPanel, look: Mapping[str, Look]) -> None:
    from matplotlib.ticker import MaxNLocator

    banded = sum(len(group.seeds) >= MIN_RUNS for group in panel.groups)
    for place_of_line, group in enumerate(panel.groups):
        curve, own = panel.curves[group.label], look[group.label]
        episodes = curve.starts + (curve.bin_episodes - 1) / 2
        explored = panel.exploration.get(group.label, 0)
        for part, place in _parts(curve, explored):
            axes.plot(
                episodes[part], curve.point[part], color=own.colour, marker=own.marker,
                markevery=max(1, len(episodes) // _MARKS), label=group.label if place == 0 else "_later",
                **line_kind(len(group.seeds), own),
            )  # fmt: skip
        if banded <= _MOST_BANDS:
            axes.fill_between(episodes, curve.low, curve.high, color=own.colour, alpha=0.18, linewidth=0)
        else:
            # Each line in bins of its own: many bands on one another would be mud.
            some = slice(
                place_of_line * len(episodes) // (len(panel.groups) * _BARS), None, max(1, len(episodes) // _BARS)
            )
            axes.vlines(episodes[some], curve.low[some], curve.high[some], color=own.colour, alpha=0.55, linewidth=1.4)
    for algorithm, part in panel.published.groupby("algorithm"):
        label = next(label for label in look if algorithm_of(label) == str(algorithm).lower())
        axes.plot(part["episode"], part["mean"], "--", color=look[label].colour, linewidth=1.1, label="_paper")
    if len(panel.published):
        axes.plot([], [], "--", color="0.35", linewidth=1.1, label="in the paper")
    if panel.exploration:
        axes.axvspan(0, max(panel.exploration.values()), color="0.5", alpha=0.12, linewidth=0, zorder=0)
    set_score_axis(axes, panel.groups[0])
    axes.set(
        xlabel="target-task episode",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(panel_title(panel.env, panel.preset), fontsize="medium")
    axes.set_xlim(0, max(group.returns.shape[2] for group in panel.groups))
    tidy(axes)


def _parts(curve: EfficiencyCurve, explored: int) -> list[tuple[slice, int]]:
    """A line is broken where exploration ends: nothing was learned on the task before, so nothing leads across."""
    at = int(np.searchsorted(curve.starts, explored)) if explored else 0
    return [(slice(0, at), 0), (slice(at, None), 1)] if 0 < at < len(curve.starts) else [(slice(0, None), 0)]


def line_kind(seeds: int, look: Look) -> dict[str, Any]:
    """How a line of so many seeds is drawn: thin and dotted, where they are too few for a band."""
    if seeds < MIN_RUNS:
        return {"linestyle": ":", "linewidth": 1.0, "markersize": 3}
    return {"linestyle": look.line_style, "linewidth": 1.6, "markersize": 4}


def panel_title(env: str, preset: str) -> str:
    """The task distribution, with how many tasks it is trained and tested on where that is known."""
    try:
        tasks = find_task_distribution(env)
    except UserError:
        return f"{env}, {preset}"
    return f"{env}, {preset}\n{len(tasks.train_tasks)} training, {len(tasks.target_tasks)} target tasks"
