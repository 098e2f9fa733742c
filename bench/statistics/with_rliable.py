"""rliable itself, at run time: its aggregates, intervals, profiles and curves, and how far ours lie from them.

Points are the same by definition (Agarwal et al. 2021, arXiv:2108.13264). Intervals are not: rliable's stratified
bootstrap takes the scores of one run on different tasks for independent, ours has runs as the unit (``intervals.py``).
The package may be absent, or its own requirements too new for it (pandas 3 breaks arch): then ``why_unavailable`` says
so, and everything else works.

rliable 1.2 draws from numpy's global generator whatever it is given, so that is seeded here, and put back.

Axes: R replicate, S seed, N task, P threshold or bin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.statistics.aggregates import METRICS, aggregate
from bench.statistics.episodes import EpisodeReturns, FloatArray
from bench.statistics.intervals import Estimate
from bench.statistics.scores import ScoreMatrix, window_scores

REPLICATES = 2_000
CURVE_REPLICATES = 100
"""Of profiles and curves, where the library counts every point of every replicate in Python."""
RUNS, RLIABLE = "runs", "rliable"
METHODS = (RUNS, RLIABLE)
"""Ours, with runs as the unit; the library's."""


@cache
def why_unavailable() -> str | None:
    """Why rliable cannot be used here, in a line; None where it can."""
    try:
        import rliable.library
        import rliable.metrics  # noqa: F401
    except Exception as error:  # An import that fails deep in a requirement raises what it likes.
        return f"rliable cannot be imported ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return None


def require_rliable() -> None:
    """Raises ``UserError`` where rliable cannot be used."""
    reason = why_unavailable()
    if reason is not None:
        raise UserError(f"--method rliable: {reason}; without it all else works")


@contextmanager
def _seeded(seed: int = 0) -> Iterator[None]:
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def usable(matrix: ScoreMatrix) -> bool:
    """rliable takes complete scores of two runs or more."""
    return matrix.complete and matrix.n_seeds >= 2 and matrix.n_tasks > 0


def rliable_aggregates(
    matrices: Mapping[str, ScoreMatrix], replicates: int = REPLICATES
) -> Mapping[str, Mapping[str, Estimate]]:
    """``METRICS`` with rliable's intervals, by label; of normalised scores where the range is known."""
    from rliable import library, metrics

    scores = {label: _normalised(matrix) for label, matrix in matrices.items() if usable(matrix)}
    if not scores:
        return {}
    functions = (
        metrics.aggregate_iqm,
        metrics.aggregate_median,
        metrics.aggregate_mean,
        metrics.aggregate_optimality_gap,
    )

    def statistics(array: FloatArray) -> FloatArray:
        return np.array([function(array) for function in functions])

    with _seeded():
        points, intervals = library.get_interval_estimates(scores, statistics, reps=replicates)
    return {
        label: {
            name: Estimate(float(points[label][k]), float(intervals[label][0, k]), float(intervals[label][1, k]))
            for k, name in enumerate(METRICS)
        }
        for label in scores
    }


def _normalised(matrix: ScoreMatrix) -> FloatArray:
    return matrix.values if matrix.score_range is None else matrix.normalised().values


def rliable_improvement(
    matrices: Mapping[str, ScoreMatrix], replicates: int = REPLICATES
) -> Mapping[tuple[str, str], Estimate]:
    """Probability of improvement of each pair on the tasks that both have."""
    from rliable import library, metrics

    pairs: dict[tuple[str, str], tuple[FloatArray, FloatArray]] = {}
    for (first, x), (second, y) in combinations(matrices.items(), 2):
        tasks = tuple(task for task in x.tasks if task in y.tasks)
        if tasks and usable(x) and usable(y):
            pairs[first, second] = (x.on_tasks(tasks).values, y.on_tasks(tasks).values)
    with _seeded():
        points, intervals = library.get_interval_estimates(pairs, metrics.probability_of_improvement, reps=replicates)
    return {
        pair: Estimate(float(points[pair]), float(intervals[pair][0, 0]), float(intervals[pair][1, 0]))
        for pair in pairs
    }


def rliable_profiles(
    matrices: Mapping[str, ScoreMatrix], thresholds: FloatArray, replicates: int = CURVE_REPLICATES
) -> tuple[Mapping[str, FloatArray], Mapping[str, FloatArray]]:
    """(points (P,), intervals (2, P)) by label."""
    from rliable import library

    scores = {label: _normalised(matrix) for label, matrix in matrices.items() if usable(matrix)}
    with _seeded():
        points, intervals = library.create_performance_profile(scores, thresholds, reps=replicates)
    return points, intervals


def rliable_curves(
    groups: Sequence[EpisodeReturns], bin_episodes: int, replicates: int = CURVE_REPLICATES
) -> tuple[FloatArray, Mapping[str, FloatArray], Mapping[str, FloatArray]]:
    """Sample efficiency: (episodes at the ends of bins (P,), IQM (P,), intervals (2, P)) by label.

    Over the bins that all runs of all groups have completed.
    """
    from rliable import library, metrics

    ends = [
        stop
        for stop in range(bin_episodes, min(group.returns.shape[2] for group in groups) + 1, bin_episodes)
        if all(usable(window_scores(group, stop - bin_episodes, stop)) for group in groups)
    ]
    cubes = {
        group.label: np.stack([_normalised(window_scores(group, stop - bin_episodes, stop)) for stop in ends], axis=-1)
        for group in groups
    } if ends else {}  # fmt: skip

    def statistics(array: FloatArray) -> FloatArray:
        return np.array([metrics.aggregate_iqm(array[..., place]) for place in range(array.shape[-1])])

    with _seeded():
        points, intervals = library.get_interval_estimates(cubes, statistics, reps=replicates)
    return np.array(ends, dtype=float), points, intervals


@dataclass(frozen=True)
class Agreement:
    """How far ours and rliable's lie apart on the same scores, normalised where the range is known."""

    algorithms: int
    point: float
    """Largest difference of an aggregate."""
    widths: float | None
    """Median ratio of the widths of our intervals to rliable's; None where ours has none."""


def agreement(matrices: Mapping[str, ScoreMatrix], replicates: int = REPLICATES) -> Agreement | None:
    """Over all aggregates of all algorithms; None where rliable can take none of them."""
    theirs = rliable_aggregates(matrices, replicates)
    apart, ratios = [], []
    for label, estimates in theirs.items():
        matrix = matrices[label]
        ours: Mapping[str, Any] = aggregate(matrix if matrix.score_range is None else matrix.normalised())
        for name, estimate in ours.items():
            other = estimates[name]
            apart.append(abs(estimate.point - other.point))
            if estimate.low is not None and other.low is not None and other.high is not None and other.high > other.low:
                ratios.append((estimate.high - estimate.low) / (other.high - other.low))
    return Agreement(len(theirs), max(apart), float(np.median(ratios)) if ratios else None) if theirs else None
