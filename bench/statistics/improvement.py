"""Probability of improvement and performance profiles, as rliable defines them; their intervals are over runs.

Axes: S seed (X and Y: of two algorithms), N task, P threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.statistics.aggregates import mean
from bench.statistics.episodes import FloatArray
from bench.statistics.intervals import CONFIDENCE, NO_SPREAD, interval_over_runs
from bench.statistics.scores import ScoreMatrix


@dataclass(frozen=True)
class Profile:
    """The share of scores above each threshold."""

    thresholds: FloatArray
    """(P,)"""
    point: FloatArray
    """(P,)"""
    low: FloatArray
    """(P,); NaN where there is no interval."""
    high: FloatArray
    note: str | None = None


def wins(x: FloatArray, y: FloatArray) -> FloatArray:
    """(X, Y, N): 1 where a run of X scores above a run of Y on the task, a tie counts half, NaN where one is absent."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the two score matrices have {x.shape[1]} and {y.shape[1]} tasks")
    a, b = x[:, None], y[None]
    won = (a > b) + 0.5 * (a == b)
    return np.where(np.isnan(a) | np.isnan(b), np.nan, won)


def probability_of_improvement(x: FloatArray, y: FloatArray) -> float:
    """How likely a run of X scores above a run of Y on the same task, mean over tasks; a tie counts half.

    ``x`` (X, N) and ``y`` (Y, N) have the same tasks; NaN is an absent score. Each task's value is the Mann-Whitney
    statistic over the number of pairs. Its interval is in ``comparison.py``.
    """
    return float(np.nanmean(wins(x, y), axis=(0, 1)).mean())


def performance_profile(matrix: ScoreMatrix, thresholds: FloatArray, confidence: float = CONFIDENCE) -> Profile:
    """The share of runs and tasks whose score is above each threshold (P,), every task weighing the same."""
    values = matrix.values

    def shares(scores: FloatArray) -> FloatArray:
        above = np.where(np.isnan(scores[..., None]), np.nan, scores[..., None] > thresholds)
        return np.moveaxis(mean(np.moveaxis(above, -1, 0)), 0, -1)  # thresholds lead for the mean: (P, ..., S, N)

    point, low, high, note = interval_over_runs(values, shares, (0.0, 1.0), confidence)
    # Where all runs are above a threshold, or none, the profile has no band there: nothing to warn of.
    return Profile(thresholds, point, low, high, None if note == NO_SPREAD else note)
