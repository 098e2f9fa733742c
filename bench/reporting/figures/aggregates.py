"""How good the algorithms are in one window of episodes, with rliable's figures: intervals, profiles, improvement.

The window is the last of ``bench.results.WINDOWS`` that every algorithm of a panel has completed on some task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench.reporting.figures.drawing import (
    INTERVAL,
    file_name,
    long_label_inches,
    new_panels,
    notes_text,
    score_name,
    score_noun,
    seeds_warning,
    set_score_axis,
    tidy,
)
from bench.reporting.model import Made, ReportFigure, ReportInputs
from bench.reporting.palette import in_order, looks
from bench.results import WINDOWS
from bench.statistics.aggregates import aggregate
from bench.statistics.comparison import compare, mirrored
from bench.statistics.episodes import EpisodeReturns, FloatArray
from bench.statistics.improvement import Profile, performance_profile
from bench.statistics.intervals import Estimate
from bench.statistics.scores import ScoreMatrix, window_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC_NAMES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
_SCORES = ("iqm", "median", "mean")
"""Metrics in the unit of a score."""
THRESHOLDS = 101


@dataclass(frozen=True)
class WindowSet:
    """The scores of all algorithms on one task distribution at one preset, in one window."""

    env: str
    preset: str
    start: int
    stop: int
    groups: Mapping[str, EpisodeReturns]
    """By label, in the order of legends; only those that completed the window on some task."""
    scores: Mapping[str, ScoreMatrix]
    """By label."""

    @property
    def where(self) -> str:
        return f"{self.env}, {self.preset}, episodes {self.start}-{self.stop}"

    def notes(self) -> list[str]:
        """What is missing."""
        return [f"{label}: {gap}" for label, matrix in self.scores.items() for gap in matrix.gaps()]

    def counts_text(self) -> str:
        return "; ".join(
            f"{label}: {matrix.n_seeds} seed{'' if matrix.n_seeds == 1 else 's'} x {matrix.n_tasks} tasks"
            for label, matrix in self.scores.items()
        )


def window_sets(inputs: ReportInputs) -> list[WindowSet]:
    """One per task distribution and preset."""
    found = []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        same = {group.label: group for group in inputs.groups if (group.env, group.preset) == (env, preset)}
        found.append(_window_set(env, preset, {label: same[label] for label in in_order(list(same))}))
    return found


def _window_set(env: str, preset: str, groups: Mapping[str, EpisodeReturns]) -> WindowSet:
    shortest = min(group.returns.shape[2] for group in groups.values())
    for start, stop in reversed(((0, shortest), *WINDOWS)):
        scores = {label: window_scores(group, start, stop) for label, group in groups.items()}
        if all(matrix.values.size for matrix in scores.values()):
            return WindowSet(env, preset, start, stop, groups, scores)
    # Some algorithm has no complete window on any task, not even that of the shortest: the others are shown.
    kept = {label: matrix for label, matrix in scores.items() if matrix.values.size}
    return WindowSet(env, preset, 0, shortest, {label: groups[label] for label in kept}, kept)


def interval_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """rliable's interval plot: each aggregate of each algorithm with its interval."""
    return Made(tuple(_interval_figure(windows) for windows in window_sets(inputs) if windows.scores))


def _interval_figure(windows: WindowSet) -> ReportFigure:
    estimates = {label: aggregate(matrix) for label, matrix in windows.scores.items()}
    noun = score_noun(windows.env)
    caption = (
        f"Aggregates of {noun} in episodes {windows.start}-{windows.stop} with {INTERVAL} intervals "
        "over runs (rliable's definitions; the optimality gap is on scores from 0 to 1, less is better; axes do not "
        "start at 0). "
        f"{windows.counts_text()}.{notes_text(windows.notes() + _no_interval(estimates))}"
        f"{seeds_warning(list(windows.groups.values()))}"
    )
    alt = f"Interval plot, {windows.where}. " + "; ".join(
        f"{label}: " + ", ".join(f"{METRIC_NAMES[metric]} {_estimate(e)}" for metric, e in own.items())
        for label, own in estimates.items()
    )
    return ReportFigure(
        file_name("intervals", windows.env, windows.preset), f"Aggregate scores on {windows.where}", caption, alt,
        partial(_draw_intervals, windows, estimates),
    )  # fmt: skip


def _no_interval(estimates: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    return [f"{label}: {e.note}" for label, own in estimates.items() for e in own.values() if e.note][:1]


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.point:.2f}"
    return f"{estimate.point:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _draw_intervals(windows: WindowSet, estimates: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    metrics = list(dict.fromkeys(metric for own in estimates.values() for metric in own))
    labels = list(estimates)
    figure, panels = new_panels(len(metrics), len(metrics), width=2.7, height=1.15 + 0.3 * len(labels))
    look = looks(labels)
    for column, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        for row, label in enumerate(labels):
            estimate, own = estimates[label][metric], look[label]
            if estimate.low is not None and estimate.high is not None:
                axes.barh(
                    row, estimate.high - estimate.low, left=estimate.low, height=0.55, color=own.colour, alpha=0.55
                )
            axes.plot(estimate.point, row, own.marker, color=own.colour, markeredgecolor="black", markersize=6)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_yticks(range(len(labels)), labels if column == 0 else [])
        axes.set_title(METRIC_NAMES[metric] + (", less is better" if metric == "optimality_gap" else ""), fontsize=9)
        axes.set_xlabel(
            "share of the range" if metric == "optimality_gap" else score_name(next(iter(windows.groups.values()))),
            fontsize=8,
        )
        axes.tick_params(labelsize=8)
        axes.set_xlim(_limits(estimates, [metric] if metric == "optimality_gap" else _SCORES))
        tidy(axes)
    return figure


def _limits(estimates: Mapping[str, Mapping[str, Estimate]], metrics: Sequence[str]) -> tuple[float, float]:
    """Of one axis for all these metrics, so that their panels can be compared by eye."""
    shown = [own[metric] for own in estimates.values() for metric in metrics]
    ends = [end for e in shown for end in (e.point, e.low, e.high) if end is not None]
    margin = max(0.08 * (max(ends) - min(ends)), 0.01)
    return min(ends) - margin, max(ends) + margin


def profile_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Performance profiles: the share of runs and tasks that score above each threshold."""
    return Made(tuple(_profile_figure(windows) for windows in window_sets(inputs) if windows.scores))


def _profile_figure(windows: WindowSet) -> ReportFigure:
    profiles = {label: performance_profile(m, _thresholds(windows)) for label, m in windows.scores.items()}
    single = [f"{label}: {profile.note}" for label, profile in profiles.items() if profile.note]
    caption = (
        f"Performance profile: the share of runs and tasks whose {score_noun(windows.env)} in episodes "
        f"{windows.start}-{windows.stop} is above a threshold; higher is better, and where two lines cross neither is "
        f"better throughout. One panel for each algorithm, the others grey behind. "
        f"Band: {INTERVAL} interval over seeds, of each point. {windows.counts_text()}."
        f"{notes_text(windows.notes() + single)}{seeds_warning(list(windows.groups.values()))}"
    )
    middle = THRESHOLDS // 2
    alt = f"Performance profile, {windows.where}. Share of runs and tasks above the middle of the axis: " + ", ".join(
        f"{label} {profile.point[middle]:.2f}" for label, profile in profiles.items()
    )
    return ReportFigure(
        file_name("profiles", windows.env, windows.preset), f"Performance profiles on {windows.where}", caption, alt,
        partial(_draw_profiles, windows, profiles),
    )  # fmt: skip


def _thresholds(windows: WindowSet) -> FloatArray:
    """Over the possible scores; from the lowest there is where that is not known, or negative and so never near."""
    values = np.concatenate([matrix.values.ravel() for matrix in windows.scores.values()])
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    known = next(iter(windows.scores.values())).score_range
    if known is not None:
        lowest, highest = (known[0] if known[0] >= 0 else lowest), known[1]
    return np.linspace(lowest, highest, THRESHOLDS)


def _draw_profiles(windows: WindowSet, profiles: Mapping[str, Profile]) -> Figure:
    """A panel for each algorithm: its own profile and band, those of the others grey behind."""
    figure, panels = new_panels(len(profiles), 4, width=2.5, height=2.3)
    look = looks(list(profiles))
    example = next(iter(windows.groups.values()))
    for place, (axes, (label, profile)) in enumerate(zip(panels, profiles.items(), strict=True)):
        for other in profiles.values():
            axes.step(other.thresholds, other.point, where="post", color="0.8", linewidth=0.8, zorder=1)
        colour = look[label].colour
        axes.step(profile.thresholds, profile.point, where="post", color=colour, linewidth=1.8, label=label)
        axes.fill_between(
            profile.thresholds, profile.low, profile.high, step="post", color=colour, alpha=0.25, linewidth=0
        )
        set_score_axis(axes, example, "x", "above ")
        axes.set(ylim=(-0.02, 1.02), ylabel="share of runs and tasks" if place % 4 == 0 else "")
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        tidy(axes)
    return figure


def improvement_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """The matrix of probabilities that the row's algorithm scores above the column's."""
    figures, missing = [], []
    for windows in window_sets(inputs):
        if len(windows.scores) < 2:
            missing.append(f"probability of improvement on {windows.where}: needs two algorithms")
            continue
        figures.append(_improvement_figure(windows))
    return Made(tuple(figures), tuple(missing))


def _improvement_figure(windows: WindowSet) -> ReportFigure:
    labels = list(windows.scores)
    matrix: dict[tuple[str, str], Estimate] = {}
    for index, first in enumerate(labels):
        for second in labels[index + 1 :]:
            found = compare(windows.groups[first], windows.groups[second], (windows.start, windows.stop))
            if found is not None:
                matrix[first, second] = found.improvement
                matrix[second, first] = mirrored(found.improvement, 1.0)
    caption = (
        f"Probability of improvement: how likely a run of the row's algorithm scores above a run of the column's on "
        f"the same task, mean over tasks, a tie counting half; in brackets the {INTERVAL} interval. Episodes "
        f"{windows.start}-{windows.stop}. {windows.counts_text()}.{notes_text(windows.notes())}"
        f"{seeds_warning(list(windows.groups.values()))}"
    )
    alt = f"Matrix of probabilities of improvement, {windows.where}: " + "; ".join(
        f"{first} above {second} {_estimate(estimate)}" for (first, second), estimate in matrix.items()
    )
    return ReportFigure(
        file_name("improvement", windows.env, windows.preset), f"Probability of improvement on {windows.where}",
        caption, alt, partial(_draw_improvement, labels, matrix),
    )  # fmt: skip


def _draw_improvement(labels: Sequence[str], matrix: Mapping[tuple[str, str], Estimate]) -> Figure:
    size = len(labels)
    beside = long_label_inches(labels)
    # Those below are turned by 30 degrees: they are half as high as they are long.
    figure, (axes,) = new_panels(1, width=2.6 + 0.85 * size + beside, height=1.5 + 0.62 * size + beside / 2)
    values = np.full((size, size), np.nan)
    for (first, second), estimate in matrix.items():
        row, column = labels.index(first), labels.index(second)
        values[row, column] = estimate.point
        ends = "" if estimate.low is None else f"\n[{estimate.low:.2f}, {estimate.high:.2f}]"
        dark = abs(estimate.point - 0.5) > 0.33
        axes.text(
            column, row, f"{estimate.point:.2f}{ends}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_facecolor("0.88")  # of the diagonal
    image = axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(size), labels, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(size), labels, fontsize=8)
    axes.set(xlabel="... above a run of this", ylabel="a run of this ...")
    figure.colorbar(image, ax=axes, label="probability")
    return figure
