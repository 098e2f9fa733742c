"""How many seeds a difference needs, from the spread of runs that exist.

The unit is a run: its score is the mean over the target tasks. Two algorithms with n runs each are compared by a
two-sided t-test of the run means, whose power is that of the noncentral F distribution (Cohen 1988, chapter 2). The
spread between runs holds everything that a seed changes: the adaptation on each task, and what all tasks of a run
share. It is pooled over the algorithms, whose means may differ.

Axes: S seed, N task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from bench.statistics.scores import ScoreMatrix

LARGEST_SEEDS = 10_000


@dataclass(frozen=True)
class Spread:
    """How much run means differ between seeds of the same algorithm."""

    sd: float
    """Standard deviation of the run mean, in the unit of a score."""
    sd_low: float
    """The spread itself is estimated, from few runs: with 80 % confidence it is between these two."""
    sd_high: float
    degrees_of_freedom: int
    """Runs less one per algorithm."""
    run_correlation: float
    """How much the scores of one run hang together across tasks: the intraclass correlation, 0 if independent."""


def run_spread(matrices: Sequence[ScoreMatrix]) -> Spread | None:
    """Pooled over algorithms, on the tasks that all runs of each have; None when no algorithm has two runs."""
    run_squares = rest_squares = 0.0
    run_freedom = rest_freedom = 0
    tasks_seen = []
    for matrix in matrices:
        scores = matrix.values[:, ~np.isnan(matrix.values).any(axis=0)]
        n_seeds, n_tasks = scores.shape
        if n_seeds < 2 or not n_tasks:
            continue
        run_means = scores.mean(axis=1, keepdims=True)
        rest = scores - run_means - scores.mean(axis=0) + scores.mean()
        run_squares += float(((run_means - scores.mean()) ** 2).sum())
        rest_squares += float((rest**2).sum())
        run_freedom += n_seeds - 1
        rest_freedom += (n_seeds - 1) * (n_tasks - 1)
        tasks_seen.append(n_tasks)
    if not run_freedom:
        return None
    variance = run_squares / run_freedom
    low, high = (variance * run_freedom / stats.chi2.ppf(tail, run_freedom) for tail in (0.9, 0.1))
    correlation = _intraclass(variance, rest_squares / rest_freedom, min(tasks_seen)) if rest_freedom else 0.0
    return Spread(math.sqrt(variance), math.sqrt(low), math.sqrt(high), run_freedom, correlation)


def _intraclass(run_variance: float, rest_variance: float, n_tasks: int) -> float:
    """Of two-way analysis of variance, seeds by tasks (Shrout & Fleiss 1979, ICC(3,1))."""
    between = n_tasks * run_variance
    total = between + (n_tasks - 1) * rest_variance
    return (between - rest_variance) / total if total else 0.0


def power(seeds: int, difference: float, sd: float, alpha: float = 0.05) -> float:
    """How likely ``seeds`` runs of each algorithm show (p < alpha) a true difference of this size."""
    if difference == 0:
        return alpha
    if sd == 0:
        return 1.0
    freedom = 2 * seeds - 2
    limit = stats.t.ppf(1 - alpha / 2, freedom)
    # Both tails of the noncentral t are one of the noncentral F, which scipy computes without gaps.
    return float(stats.ncf.sf(limit**2, 1, freedom, difference**2 * seeds / (2 * sd**2)))


def seeds_needed(difference: float, sd: float, wanted_power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest runs of each algorithm that have this power, 2 at least; None above ``LARGEST_SEEDS``."""
    if power(LARGEST_SEEDS, difference, sd, alpha) < wanted_power:
        return None
    low, high = 1, LARGEST_SEEDS  # power grows with seeds: enough at high, not (or not tried) at low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, difference, sd, alpha) >= wanted_power else (middle, high)
    return high


def smallest_difference(seeds: int, sd: float, wanted_power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest true difference that so many runs each show with this power (above alpha); None with one."""
    if seeds < 2:
        return None
    if sd == 0:
        return 0.0
    root = optimize.brentq(lambda effect: power(seeds, effect, 1.0, alpha) - wanted_power, 0.0, 1e3)
    return float(root) * sd
