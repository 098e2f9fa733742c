"""How many seeds a difference needs, by the test that decides (``analysis.py``), from the spread of runs that exist.

The unit is a run: its score is the mean over the target tasks. What counts is how much the difference of two runs
varies from seed to seed. Where the algorithms share seeds, that is seen in the differences themselves, and the power is
that of the paired t-test, F(1, S - 1; S delta^2 / sd^2) by the noncentral F distribution (Cohen 1988, chapter 2);
otherwise it is sqrt(2) times the spread of the runs, and the test has 2 S - 2 degrees of freedom. In a family of m
comparisons the level is alpha / m, Holm's first step: the power to see one difference among m, and more where there are
others to be seen.

Axes: S seed, N task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize, stats

from bench.statistics.comparison import LEVEL
from bench.statistics.episodes import FloatArray
from bench.statistics.intervals import MIN_RUNS
from bench.statistics.scores import ScoreMatrix

LARGEST_SEEDS = 10_000
LEAST_FREEDOM = 6
"""With fewer degrees of freedom a spread is not known well enough for one number of seeds to be advice: at 6, the upper
end of its 80 % interval asks for three times as many seeds."""


@dataclass(frozen=True)
class Spread:
    """How much the difference of two runs of equal seed, or of any two runs, varies."""

    sd: float
    """Standard deviation of the difference of two run means, in the unit of a score."""
    sd_low: float
    """The spread itself is estimated, from few runs: with 80 % confidence it is between these two."""
    sd_high: float
    degrees_of_freedom: float
    paired: bool
    """From differences at equal seeds."""
    run_sd: float
    """Standard deviation of a run mean, pooled over the algorithms."""
    run_correlation: float
    """How much the scores of one run hang together across tasks: the intraclass correlation, 0 if independent."""

    @property
    def is_known(self) -> bool:
        """Well enough for advice."""
        return self.degrees_of_freedom >= LEAST_FREEDOM


def run_spread(matrices: Sequence[ScoreMatrix]) -> Spread | None:
    """Pooled over algorithms, on the tasks that all runs of each have; None when no algorithm has two runs."""
    parts = [(matrix.seeds, scores) for matrix in matrices if (scores := _complete(matrix)) is not None]
    if not parts:
        return None
    run_squares = rest_squares = 0.0
    run_freedom = rest_freedom = 0
    for _, scores in parts:
        n_seeds, n_tasks = scores.shape
        run_means = scores.mean(axis=1, keepdims=True)
        rest = scores - run_means - scores.mean(axis=0) + scores.mean()
        run_squares += float(((run_means - scores.mean()) ** 2).sum())
        rest_squares += float((rest**2).sum())
        run_freedom += n_seeds - 1
        rest_freedom += (n_seeds - 1) * (n_tasks - 1)
    variance = run_squares / run_freedom
    n_tasks = min(scores.shape[1] for _, scores in parts)
    correlation = _intraclass(variance, rest_squares / rest_freedom, n_tasks) if rest_freedom else 0.0
    pooled = _paired_variance(parts)
    of_difference, freedom = (2 * variance, float(run_freedom)) if pooled is None else pooled
    low, high = (of_difference * freedom / stats.chi2.ppf(tail, freedom) for tail in (0.9, 0.1))
    return Spread(
        math.sqrt(of_difference), math.sqrt(low), math.sqrt(high), freedom, pooled is not None, math.sqrt(variance),
        correlation,
    )  # fmt: skip


def _complete(matrix: ScoreMatrix) -> FloatArray | None:
    """Scores on the tasks that all runs have; None with one run."""
    scores = matrix.values[:, ~np.isnan(matrix.values).any(axis=0)]
    return scores if scores.shape[0] >= 2 and scores.shape[1] else None


def _paired_variance(parts: Sequence[tuple[tuple[int, ...], FloatArray]]) -> tuple[float, float] | None:
    """Variance of the difference of two runs of equal seed, and its degrees of freedom; None where no two share seeds.

    In a complete design of A algorithms and S seeds it is twice the residual of the analysis of variance, whose degrees
    of freedom are (A - 1)(S - 1): the pairs are A(A - 1)/2, not all of them news.
    """
    squares, freedom, members = 0.0, 0.0, set()
    for (i, (seeds_a, a)), (j, (seeds_b, b)) in combinations(enumerate(parts), 2):
        shared = [seed for seed in seeds_a if seed in seeds_b]
        if len(shared) < MIN_RUNS:
            continue
        d = a[[seeds_a.index(s) for s in shared]].mean(axis=1) - b[[seeds_b.index(s) for s in shared]].mean(axis=1)
        squares += float(((d - d.mean()) ** 2).sum())
        freedom += len(shared) - 1
        members |= {i, j}
    return (squares / freedom, freedom * 2 / len(members)) if members else None


def _intraclass(run_variance: float, rest_variance: float, n_tasks: int) -> float:
    """Of two-way analysis of variance, seeds by tasks (Shrout & Fleiss 1979, ICC(3,1))."""
    between = n_tasks * run_variance
    total = between + (n_tasks - 1) * rest_variance
    return (between - rest_variance) / total if total else 0.0


def power(seeds: int, difference: float, sd: float, alpha: float = LEVEL, paired: bool = True) -> float:
    """How likely ``seeds`` runs of each algorithm show (p < alpha) a true difference of this size.

    ``sd`` is that of the difference of two runs, which is taken for normally distributed: what simulated scores with a
    floor and a ceiling show is within about 0.03 of it. 0 below ``MIN_RUNS``, where no verdict is given.
    """
    if seeds < MIN_RUNS:
        return 0.0
    if difference == 0:
        return alpha
    if sd == 0:
        return 1.0
    freedom = seeds - 1 if paired else 2 * seeds - 2
    limit = stats.t.ppf(1 - alpha / 2, freedom)
    # Both tails of the noncentral t are one of the noncentral F, which scipy computes without gaps.
    return float(stats.ncf.sf(limit**2, 1, freedom, seeds * (difference / sd) ** 2))


def seeds_needed(
    difference: float, sd: float, wanted_power: float = 0.8, alpha: float = LEVEL, paired: bool = True
) -> int | None:
    """The fewest runs of each algorithm that have this power, ``MIN_RUNS`` at least; None above ``LARGEST_SEEDS``."""
    if power(LARGEST_SEEDS, difference, sd, alpha, paired) < wanted_power:
        return None
    low, high = MIN_RUNS - 1, LARGEST_SEEDS  # power grows with seeds: enough at high, not (or not tried) at low
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, difference, sd, alpha, paired) >= wanted_power
        low, high = (low, middle) if enough else (middle, high)
    return high


def smallest_difference(
    seeds: int, sd: float, wanted_power: float = 0.8, alpha: float = LEVEL, paired: bool = True
) -> float | None:
    """The smallest true difference that so many runs each show with this power (above alpha); None with too few."""
    if seeds < MIN_RUNS:
        return None
    if sd == 0:
        return 0.0
    root = optimize.brentq(lambda effect: power(seeds, effect, 1.0, alpha, paired) - wanted_power, 0.0, 1e3)
    return float(root) * sd
