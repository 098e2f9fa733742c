"""Probability of improvement and performance profiles, as rliable defines them.

Both are linear in how often each run is drawn, so replicates are drawn as counts, (S, R) per task, and never as scores.

Axes: R replicate, S seed (X and Y: of two algorithms), N task, P threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.statistics.bootstrap import (
    CONFIDENCE,
    REPLICATES,
    Estimate,
    interval_caveat,
    percentile_interval,
    why_no_interval,
)
from bench.statistics.episodes import FloatArray
from bench.statistics.scores import ScoreMatrix

CURVE_REPLICATES = 2_000
"""Replicates for the interval at each point of a curve."""


@dataclass(frozen=True)
class Profile:
    """The share of scores above each threshold."""

    thresholds: FloatArray
    """(P,)"""
    point: FloatArray
    """(P,)"""
    low: FloatArray | None
    """(P,); None with one seed."""
    high: FloatArray | None
    note: str | None = None


def probability_of_improvement(
    x: FloatArray,
    y: FloatArray,
    replicates: int = REPLICATES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """How likely a run of X scores above a run of Y on the same task, mean over tasks; a tie counts half.

    ``x`` (X, N) and ``y`` (Y, N) have the same tasks; NaN is an absent score. Each task's value is the Mann-Whitney
    statistic over the number of pairs.
    """
    pairs = list(_columns(x, y))
    wins = [(a[:, None] > b) + 0.5 * (a[:, None] == b) for a, b in pairs]  # N arrays (X, Y)
    point = float(np.mean([win.mean() for win in wins]))
    note = why_no_interval(x, y)
    if note is not None:
        return Estimate(point, None, None, note)
    rng = np.random.default_rng(seed)
    total = np.zeros(replicates)
    for win in wins:
        x_shares = _draw_shares(win.shape[0], replicates, rng)
        y_shares = _draw_shares(win.shape[1], replicates, rng)
        total += ((win.T @ x_shares) * y_shares).sum(axis=0)
    low, high = percentile_interval(total / len(wins), confidence)
    return Estimate(point, float(low), float(high), interval_caveat(x, y))


def performance_profile(
    matrix: ScoreMatrix,
    thresholds: FloatArray,
    replicates: int = CURVE_REPLICATES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Profile:
    """The share of runs and tasks whose score is above each threshold (P,), every task weighing the same."""
    columns = [column[~np.isnan(column)] for column in matrix.values.T]
    above = [(column[:, None] > thresholds).astype(float) for column in columns]  # N arrays (S, P)
    point = np.mean([part.mean(axis=0) for part in above], axis=0)
    note = why_no_interval(matrix.values)
    if note is not None:
        return Profile(thresholds, point, None, None, note)
    rng = np.random.default_rng(seed)
    total = np.zeros((replicates, len(thresholds)))
    for part in above:
        total += _draw_shares(len(part), replicates, rng).T @ part
    low, high = percentile_interval(total / len(above), confidence)
    return Profile(thresholds, point, low, high, interval_caveat(matrix.values))


def _columns(x: FloatArray, y: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the two score matrices have {x.shape[1]} and {y.shape[1]} tasks")
    for a, b in zip(x.T, y.T, strict=True):
        yield a[~np.isnan(a)], b[~np.isnan(b)]


def _draw_shares(runs: int, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Shares (S, R) of each run among as many draws, with replacement, as there are runs."""
    # Counting draws in bytes is twenty times as fast as drawing multinomial counts.
    kind = np.uint8 if runs < 256 else np.int32
    drawn = rng.integers(0, runs, (runs, replicates), dtype=kind)
    counts = np.stack([(drawn == run).sum(axis=0, dtype=kind) for run in range(runs)])
    return np.asarray(counts / runs)
