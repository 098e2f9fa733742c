"""The figures of rliable, computed and drawn by the library itself (``--method rliable``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reporting.figures.aggregates import METRIC_NAMES, WindowSet, window_sets
from bench.reporting.figures.drawing import file_name
from bench.reporting.figures.learning import bin_width
from bench.reporting.model import Made, ReportFigure, ReportInputs
from bench.reporting.palette import looks
from bench.statistics.aggregates import METRICS
from bench.statistics.with_rliable import (
    CURVE_REPLICATES,
    REPLICATES,
    rliable_aggregates,
    rliable_curves,
    rliable_improvement,
    rliable_profiles,
    usable,
    why_unavailable,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY = (
    f"Computed and drawn by rliable: stratified bootstrap, {REPLICATES:,} replicates "
    f"({CURVE_REPLICATES} for all but aggregates), 95 % intervals, which take the tasks "
    "of a run for independent. Scores from 0 to 1 by the score range."
)


def rliable_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Intervals, profiles, improvement and sample efficiency of each task distribution and preset."""
    reason = why_unavailable()
    if reason is not None:
        return Made((), (f"figures of rliable: {reason}",))
    figures = []
    for windows in window_sets(inputs):
        labels = [label for label, matrix in windows.scores.items() if usable(matrix)]
        drawers: list[tuple[str, str, Any]] = [
            ("intervals", "Aggregates", _draw_intervals), ("profiles", "Performance profiles", _draw_profiles),
            ("efficiency", "Sample efficiency (IQM)", _draw_curves),
        ]  # fmt: skip
        if len(labels) > 1:
            drawers.insert(2, ("improvement", "Probability of improvement", _draw_improvement))
        for name, title, draw in drawers if labels else []:
            figures.append(
                ReportFigure(
                    file_name("rliable", name, windows.env, windows.preset), f"{title} on {windows.where}, by rliable",
                    f"{_BY} {windows.counts_text()}.", f"{title} of {', '.join(labels)}, {windows.where}, by rliable.",
                    partial(_drawn, draw, windows, labels),
                )
            )  # fmt: skip
    return Made(tuple(figures))


def _drawn(draw: Any, windows: WindowSet, labels: Sequence[str]) -> Figure:
    """A figure of pyplot's, taken off it."""
    from matplotlib import pyplot

    colours = {label: look.colour for label, look in looks(labels).items()}
    made: Figure = draw(windows, labels, colours)
    pyplot.close(made)
    return made


def _draw_intervals(windows: WindowSet, labels: Sequence[str], colours: Mapping[str, str]) -> Figure:
    from rliable import plot_utils

    found = rliable_aggregates({label: windows.scores[label] for label in labels})
    points = {label: np.array([found[label][name].point for name in METRICS]) for label in labels}
    ends = {
        label: np.array([[found[label][name].low for name in METRICS], [found[label][name].high for name in METRICS]])
        for label in labels
    }
    figure, _ = plot_utils.plot_interval_estimates(
        points, ends, [METRIC_NAMES[name] for name in METRICS], list(labels), colors=dict(colours), xlabel="score",
        xlabel_y_coordinate=-0.4,
    )  # fmt: skip
    return figure  # type: ignore[no-any-return]


def _draw_profiles(windows: WindowSet, labels: Sequence[str], colours: Mapping[str, str]) -> Figure:
    from rliable import plot_utils

    thresholds = np.linspace(0, 1, 21)
    points, ends = rliable_profiles({label: windows.scores[label] for label in labels}, thresholds)
    axes = plot_utils.plot_performance_profiles(
        points, thresholds, performance_profile_cis=ends, colors=dict(colours), xlabel="score", figsize=(6, 3.8),
        legend=len(labels) > 1,
    )  # fmt: skip
    return axes.figure  # type: ignore[no-any-return]


def _draw_improvement(windows: WindowSet, labels: Sequence[str], colours: Mapping[str, str]) -> Figure:
    from rliable import plot_utils

    found = rliable_improvement({label: windows.scores[label] for label in labels}, CURVE_REPLICATES)
    points = {f"{x},{y}": np.array(estimate.point) for (x, y), estimate in found.items()}
    ends = {f"{x},{y}": np.array([[e.low], [e.high]]) for (x, y), e in found.items()}
    axes = plot_utils.plot_probability_of_improvement(points, ends, figsize=(5, 1.2 + 0.32 * len(points)))
    return axes.figure  # type: ignore[no-any-return]


def _draw_curves(windows: WindowSet, labels: Sequence[str], colours: Mapping[str, str]) -> Figure:
    from rliable import plot_utils

    groups = [windows.groups[label] for label in labels]
    shortest = min(group.returns.shape[2] for group in groups)
    ends, points, intervals = rliable_curves(groups, min(bin_width(shortest), shortest))
    axes = plot_utils.plot_sample_efficiency_curve(
        ends, points, intervals, list(labels), colors=dict(colours), xlabel="target-task episode", ylabel="IQM score",
        figsize=(6, 3.8), labelsize="medium", ticklabelsize="medium",
    )  # fmt: skip
    axes.legend(fontsize="small")
    return axes.figure  # type: ignore[no-any-return]
