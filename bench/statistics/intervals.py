"""Intervals over runs: what another set of seeds could have given.

The unit is a run. What its tasks share (skills, meta-training, luck) makes its scores hang together, so only runs count
as independent; the tasks stay as they are. Of a statistic of scores (S, N), the jackknife's pseudo-values

    v_s = S theta - (S - 1) theta_without_s                 theta_without_s: of the scores without run s

take the place of S independent observations of it, and the interval is Student's,

    theta -+ t(S - 1) * sd(v) / sqrt(S)

(Tukey 1958; Miller, "The jackknife: a review", Biometrika 1974). For the mean v_s is the mean of run s, and this is the
usual t interval. It was chosen by measured coverage: with few runs every bootstrap is too narrow (``coverage.py``).

Axes: S seed (a run), N task; statistics may have further axes behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from bench.statistics.episodes import FloatArray

CONFIDENCE = 0.95
MIN_RUNS = 3
"""As many runs an interval, and a verdict, needs at least: two have no spread worth the name."""

Statistic = Callable[[FloatArray], FloatArray]
"""(..., S, N) to (..., K) or to (...)."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    point: float
    low: float | None
    """None where there is no interval: ``note`` says why."""
    high: float | None
    note: str | None = None


def too_few(runs: int) -> str | None:
    """Why so many runs have no interval, or None where they have one."""
    if runs >= MIN_RUNS:
        return None
    return f"{'one seed' if runs == 1 else f'{runs} seeds'}: no interval"


NO_SPREAD = "all runs have the same score: no interval"


def leave_one_out(scores: FloatArray, statistic: Statistic) -> FloatArray:
    """``statistic`` of scores (..., S, N) without each of the runs, (..., S, K) or (..., S).

    NaN where a task then has no score at all. With gaps only for a single matrix, (S, N).
    """
    n_seeds = scores.shape[-2]
    if not np.isnan(scores).any():
        others = np.array([[other for other in range(n_seeds) if other != run] for run in range(n_seeds)])
        return np.asarray(statistic(scores[..., others, :]))
    parts = []
    for run in range(n_seeds):
        rest = np.delete(scores, run, axis=0)
        parts.append(None if np.isnan(rest).all(axis=0).any() else np.asarray(statistic(rest)))
    shape = next((part.shape for part in parts if part is not None), ())
    return np.array([np.full(shape, np.nan) if part is None else part for part in parts], dtype=float)


def half_interval(
    scores: FloatArray, statistic: Statistic, point: FloatArray, confidence: float = CONFIDENCE
) -> FloatArray:
    """Half the interval of a ``statistic`` (..., K) that is ``point`` for scores (..., S, N)."""
    n_seeds = scores.shape[-2]
    axis = scores.ndim - 2
    values = pseudo_values(np.expand_dims(point, axis), leave_one_out(scores, statistic), n_seeds)
    return np.asarray(t_limit(n_seeds - 1, confidence) * values.std(axis=axis, ddof=1) / np.sqrt(n_seeds))


def pseudo_values(point: FloatArray | float, without: FloatArray, n_seeds: int) -> FloatArray:
    """The jackknife's, of a statistic and its values without each run."""
    return np.asarray(n_seeds * np.asarray(point) - (n_seeds - 1) * without)


@cache
def t_limit(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's distribution."""
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))


def interval_over_runs(
    scores: FloatArray,
    statistic: Statistic,
    limits: tuple[float | None, float | None] = (None, None),
    confidence: float = CONFIDENCE,
) -> tuple[FloatArray, FloatArray, FloatArray, str | None]:
    """(point, low, high, note) of a statistic of scores (S, N); the ends are NaN where there is no interval.

    ``limits``: lowest and highest possible value, which no interval passes. ``note`` says why there is none.
    """
    point = np.asarray(statistic(scores), dtype=float)
    absent = np.full_like(point, np.nan)
    note = too_few(len(scores))
    if note is not None:
        return point, absent, absent, note
    single = int(((~np.isnan(scores)).sum(axis=0) == 1).sum())
    if single:
        return point, absent, absent, f"{single} task{'s have' if single > 1 else ' has'} one seed: no interval"
    half = half_interval(scores, statistic, point, confidence)
    known = half > 1e-12 * np.maximum(1.0, np.abs(point))  # sums in another order differ in the last digits
    low, high = (np.where(known, end, np.nan) for end in (point - half, point + half))
    if limits != (None, None):
        low, high = (np.clip(end, *limits) for end in (low, high))
    return point, np.asarray(low), np.asarray(high), None if known.all() else NO_SPREAD


def estimate_over_runs(
    scores: FloatArray,
    statistic: Statistic,
    limits: tuple[float | None, float | None] = (None, None),
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The same for a statistic that is one number."""
    point, low, high, note = interval_over_runs(scores, statistic, limits, confidence)
    return as_estimate(float(point), float(low), float(high), note)


def as_estimate(point: float, low: float, high: float, note: str | None) -> Estimate:
    """An estimate whose interval is left out where its ends are NaN."""
    if np.isnan(low):
        return Estimate(point, None, None, note)
    return Estimate(point, low, high)
