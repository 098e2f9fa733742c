"""How often a nominal 95 % interval holds the truth, by simulation: why the intervals are what they are.

``coverage.csv`` is made by ``python -m bench.statistics.coverage`` (two minutes on one core; the seed is fixed). Scores
are simulated for ten tasks. On task n the score of a run has the Beta distribution with a mean of ``TASK_MEANS`` and
the standard deviation ``SCORE_SD``, as success rates of tasks from hard to solved have. ``run_correlation`` is how much
the scores of one run hang together across tasks, ``pair_correlation`` how much those of two algorithms at equal seeds
do (Gaussian copula). The truth is the statistic of infinitely many runs.

    t      what every interval here is: the jackknife over runs with Student's limits (``intervals.py``)
    task, run, both   the bootstrap's three forms (``bootstrap.py``), measured and not used; ``task`` is rliable's

Of the difference of two equal algorithms (``difference``), what the interval does not hold is called a difference
wrongly: 1 less its coverage is the rate of false verdicts. There scores are means of ten episodes, and also near the
ceiling, near the floor, or either (``TASK_MEANS`` by name), where ties make the interval wider than it says.

Axes: S seed, N task.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from scipy import special, stats

from bench.statistics.aggregates import iqm, mean, median
from bench.statistics.bootstrap import Unit, bootstrap, percentile_interval
from bench.statistics.comparison import LEVEL, difference_test
from bench.statistics.episodes import FloatArray
from bench.statistics.intervals import MIN_RUNS, half_interval, too_few

TASK_MEANS: Mapping[str, tuple[float, ...]] = {
    "mixed": (0.15, 0.3, 0.45, 0.55, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95),
    "ceiling": (0.93, 0.95, 0.96, 0.97, 0.98, 0.98, 0.99, 0.99, 0.995, 0.995),
    "floor": (0.002, 0.002, 0.005, 0.01, 0.01, 0.02, 0.02, 0.05, 0.05, 0.1),
    "either": (0.01, 0.01, 0.02, 0.02, 0.02, 0.95, 0.95, 0.97, 0.98, 0.99),
}
SCORE_SD = 0.2
"""Of the mid tasks; where a mean is too close to 0 or 1 for it, nine tenths of the largest possible."""
SEEDS = (3, 5, 10)
CORRELATIONS = (0.0, 0.3, 0.8)
STATISTICS: Mapping[str, Callable[[FloatArray], FloatArray]] = {"iqm": iqm, "mean": mean, "median": median}
DIFFERENCE = "difference"
STUDENT = "t"
UNITS: tuple[Unit, ...] = ("task", "run", "both")
EPISODES = 10
DATA_SETS = {STUDENT: 20_000, "task": 300, "run": 300, "both": 300}
REPLICATES = 300
COLUMNS = ("tasks", "seeds", "run_correlation", "pair_correlation", "method", "statistic", "coverage", "data_sets")
_TABLE = "coverage.csv"


@dataclass(frozen=True)
class Coverage:
    """A line of the table."""

    tasks: str
    """A name in ``TASK_MEANS``."""
    seeds: int
    run_correlation: float
    pair_correlation: float | None
    """None where one algorithm is looked at."""
    method: str
    statistic: str
    coverage: float
    """Share of simulated data sets whose interval held the truth."""
    data_sets: int


def simulate_pair(
    tasks: str, seeds: int, run_correlation: float, pair_correlation: float, data_sets: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Scores (data_sets, S, N) of two equal algorithms."""
    n_tasks = len(TASK_MEANS[tasks])
    grid, quantiles = _quantiles(tasks)
    common = [rng.standard_normal((data_sets, seeds, width)) for width in (1, n_tasks)]
    sides = []
    for _ in range(2):
        shared, own = (
            np.sqrt(pair_correlation) * one + np.sqrt(1 - pair_correlation) * rng.standard_normal(one.shape)
            for one in common
        )
        ranks = special.ndtr(np.sqrt(run_correlation) * shared + np.sqrt(1 - run_correlation) * own)
        sides.append(np.stack([np.interp(ranks[..., n], grid, quantiles[n]) for n in range(n_tasks)], axis=-1))
    return sides[0], sides[1]


def simulate_scores(seeds: int, run_correlation: float, data_sets: int, rng: np.random.Generator) -> FloatArray:
    """Scores (data_sets, S, N) of one algorithm on mixed tasks."""
    return simulate_pair("mixed", seeds, run_correlation, 0.0, data_sets, rng)[0]


@cache
def _quantiles(tasks: str) -> tuple[FloatArray, FloatArray]:
    """A grid of ranks (G,) and the tasks' scores there, (N, G): interpolation is far faster than the Beta's inverse."""
    grid = np.linspace(0, 1, 4001)
    rows = []
    for task_mean in TASK_MEANS[tasks]:
        largest = np.sqrt(task_mean * (1 - task_mean))
        sd = min(SCORE_SD, 0.9 * largest)
        concentration = (largest / sd) ** 2 - 1
        rows.append(stats.beta.ppf(grid, task_mean * concentration, (1 - task_mean) * concentration))
    return grid, np.array(rows)


@cache
def true_values() -> Mapping[str, float]:
    """Each statistic of infinitely many runs: of scores at evenly spaced ranks, which no seed can change."""
    grid, quantiles = _quantiles("mixed")
    ranks = (np.arange(400_000) + 0.5) / 400_000
    scores = np.stack([np.interp(ranks, grid, row) for row in quantiles], axis=-1)
    return {name: float(statistic(scores)) for name, statistic in STATISTICS.items()}


def simulate_coverage(
    seeds: int, run_correlation: float, method: str, data_sets: int, seed: int, replicates: int = REPLICATES
) -> list[Coverage]:
    """The coverage of each of ``STATISTICS`` of one algorithm."""
    rng = np.random.default_rng([seed, seeds, round(1000 * run_correlation), len(method)])
    truth = np.array([true_values()[name] for name in STATISTICS])
    held = np.zeros(len(STATISTICS))

    def statistics(stack: FloatArray) -> FloatArray:
        return np.stack([statistic(stack) for statistic in STATISTICS.values()], axis=-1)

    data = simulate_scores(seeds, run_correlation, data_sets, rng)
    if method == STUDENT:
        point = statistics(data)
        held += (np.abs(point - truth) <= half_interval(data, statistics, point)).sum(axis=0)
    else:
        (unit,) = [unit for unit in UNITS if unit == method]
        for scores in data:
            low, high = percentile_interval(bootstrap(scores, statistics, replicates, rng, unit))
            held += (low <= truth) & (truth <= high)
    return [
        Coverage("mixed", seeds, run_correlation, None, method, name, float(count) / data_sets, data_sets)
        for name, count in zip(STATISTICS, held, strict=True)
    ]


def simulate_difference(
    tasks: str, seeds: int, run_correlation: float, pair_correlation: float, data_sets: int, seed: int
) -> Coverage:
    """How often the interval of the difference of two equal algorithms, paired by seed, holds 0."""
    key = [seed, len(tasks), seeds, round(1000 * run_correlation), round(1000 * pair_correlation)]
    rng = np.random.default_rng(key)
    chances = simulate_pair(tasks, seeds, run_correlation, pair_correlation, data_sets, rng)
    x, y = (rng.binomial(EPISODES, chance) / EPISODES for chance in chances)
    share = float((difference_test(x, y, paired=True)[2] >= LEVEL).mean())
    return Coverage(tasks, seeds, run_correlation, pair_correlation, STUDENT, DIFFERENCE, share, data_sets)


@cache
def coverage_table() -> tuple[Coverage, ...]:
    """The table that ships with the package."""
    text = (resources.files("bench.statistics") / _TABLE).read_text(encoding="utf-8")
    return tuple(
        Coverage(
            row["tasks"], int(row["seeds"]), float(row["run_correlation"]),
            float(row["pair_correlation"]) if row["pair_correlation"] else None, row["method"], row["statistic"],
            float(row["coverage"]), int(row["data_sets"]),
        )
        for row in csv.DictReader(io.StringIO(text))
    )  # fmt: skip


def stated_coverage(seeds: int, statistic: str = "mean", method: str = STUDENT) -> tuple[float, float]:
    """Lowest and highest coverage on mixed tasks over all correlations, at this number of seeds.

    Between those of the table, at the next lower one; below the lowest, at that.
    """
    known = [one for one in SEEDS if one <= seeds] or [min(SEEDS)]
    found = [
        line.coverage
        for line in coverage_table()
        if (line.tasks, line.seeds, line.statistic, line.method) == ("mixed", known[-1], statistic, method)
    ]
    return min(found), max(found)


def coverage_warning(seeds: int) -> str | None:
    """What a reader of results made from so few seeds must know; None from ten seeds on."""
    reason = too_few(seeds)
    if reason is not None:
        return f"{reason}, and no verdict: at least {MIN_RUNS} seeds are needed"
    if seeds >= 10:
        return None
    low, high = stated_coverage(seeds, DIFFERENCE)
    return (
        f"{seeds} seeds are few: intervals are wide, and hold the truth {100 * low:.0f} to {100 * high:.0f} % of the "
        "time (simulated)"
    )


def lines() -> Iterator[Coverage]:
    """The whole table, simulated."""
    for seeds in SEEDS:
        for correlation in CORRELATIONS:
            for method in (STUDENT, *UNITS):
                yield from simulate_coverage(seeds, correlation, method, DATA_SETS[method], seed=0)
            for pair_correlation in CORRELATIONS:
                for tasks in TASK_MEANS:
                    yield simulate_difference(tasks, seeds, correlation, pair_correlation, DATA_SETS[STUDENT], seed=0)


def main() -> None:
    """Print the table as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines():
        pair_correlation = "" if line.pair_correlation is None else line.pair_correlation
        setting = (line.tasks, line.seeds, line.run_correlation, pair_correlation, line.method, line.statistic)
        writer.writerow([*setting, f"{line.coverage:.4f}", line.data_sets])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
