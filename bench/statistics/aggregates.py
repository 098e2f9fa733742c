"""Aggregate scores with rliable's definitions, and their intervals.

Each function maps scores (..., S, N) to (...): one matrix, or R replicates of it at once. NaN is an absent score, and
the leading axes must all lack equally many. Where nothing is absent these are rliable's ``aggregate_*`` exactly. Where
runs are missing on some tasks, mean, median and optimality gap still give every task the same weight; the IQM pools all
scores that there are, so a task with more runs weighs more.

Axes: R replicate, S seed, N task.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.statistics.episodes import FloatArray
from bench.statistics.intervals import CONFIDENCE, Estimate, as_estimate, interval_over_runs
from bench.statistics.scores import ScoreMatrix

METRICS = ("iqm", "median", "mean", "optimality_gap")


def task_means(scores: FloatArray) -> FloatArray:
    """Mean over the runs of each task, (..., N)."""
    present = ~np.isnan(scores)
    if present.all():
        return np.asarray(scores.mean(axis=-2))
    return np.asarray(scores.sum(axis=-2, where=present) / present.sum(axis=-2))


def mean(scores: FloatArray) -> FloatArray:
    """Mean over tasks of the mean over runs."""
    return np.asarray(task_means(scores).mean(axis=-1))


def median(scores: FloatArray) -> FloatArray:
    """Median over tasks of the mean over runs."""
    return np.asarray(np.median(task_means(scores), axis=-1))


def iqm(scores: FloatArray) -> FloatArray:
    """Interquartile mean: of all scores of all tasks, the mean without the lowest and the highest quarter.

    Each quarter is rounded down to whole scores, as in ``scipy.stats.trim_mean``.
    """
    pooled = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)  # NaN comes last
    count = int((~np.isnan(pooled)).sum(axis=-1).flat[0])
    cut = int(0.25 * count)
    return np.asarray(pooled[..., cut : count - cut].mean(axis=-1))


def optimality_gap(scores: FloatArray, gamma: float = 1.0) -> FloatArray:
    """How far below ``gamma`` the scores are in the mean, where those above it count as ``gamma``."""
    return gamma - mean(np.minimum(scores, gamma))


def point_estimate(matrix: ScoreMatrix, metric: str) -> float | None:
    """One of ``METRICS``; the optimality gap is None where the score range is not known."""
    if metric == "optimality_gap":
        return None if matrix.score_range is None else float(optimality_gap(matrix.normalised().values))
    return float({"iqm": iqm, "median": median, "mean": mean}[metric](matrix.values))


def aggregate(matrix: ScoreMatrix, confidence: float = CONFIDENCE) -> Mapping[str, Estimate]:
    """All ``METRICS`` that can be had, each with its interval over runs.

    Mean, median and IQM are in the unit of the scores. The optimality gap is on scores normalised by the score range
    (0: every run is perfect; 1: all have the lowest score), and left out where that is not known.
    """
    if not matrix.values.size:
        raise ValueError("there are no scores to aggregate")
    names = METRICS if matrix.score_range is not None else METRICS[:3]
    low, high = matrix.score_range or (0.0, 1.0)

    def statistics(scores: FloatArray) -> FloatArray:
        means = task_means(scores)
        columns = [iqm(scores), np.median(means, axis=-1), means.mean(axis=-1)]
        if "optimality_gap" in names:
            columns.append((high - task_means(np.minimum(scores, high)).mean(axis=-1)) / (high - low))
        return np.stack(columns, axis=-1)

    point, lows, highs, note = interval_over_runs(matrix.values, statistics, confidence=confidence)
    if matrix.score_range is not None:
        ends = np.array([[low] * 3 + [0.0], [high] * 3 + [1.0]])
        lows, highs = np.clip(lows, *ends), np.clip(highs, *ends)
    return {name: as_estimate(float(point[k]), float(lows[k]), float(highs[k]), note) for k, name in enumerate(names)}
