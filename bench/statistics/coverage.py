"""How often a nominal 95 % interval holds the truth, by simulation: the figures behind "too few seeds".

``coverage.csv`` is made by ``python -m bench.statistics.coverage`` (ten minutes on one core; the seed is fixed). Scores
are simulated for ten tasks. On task n the score of a run has the Beta distribution with mean ``TASK_MEANS[n]`` and
standard deviation ``SCORE_SD``, as success rates of tasks from hard to solved have. ``run_correlation`` is how much the
scores of one run hang together across tasks (Gaussian copula): 0 is what the stratified bootstrap assumes; shipped
runs on the kitchen have 0.1 to 0.5. The truth is the statistic of infinitely many runs.

Axes: S seed, N task.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from scipy import special, stats

from bench.statistics.aggregates import iqm, mean, median
from bench.statistics.bootstrap import Unit, bootstrap, percentile_interval
from bench.statistics.episodes import FloatArray

TASK_MEANS = (0.15, 0.3, 0.45, 0.55, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95)
SCORE_SD = 0.2
"""Of the mid tasks; where a mean is too close to 0 or 1 for it, nine tenths of the largest possible."""
SEEDS = (3, 5, 10, 20)
RUN_CORRELATIONS = (0.0, 0.3)
STATISTICS: Mapping[str, Callable[[FloatArray], FloatArray]] = {"iqm": iqm, "mean": mean, "median": median}
DATA_SETS = 40_000
REPLICATES = 1_000
COLUMNS = ("seeds", "run_correlation", "unit", "statistic", "coverage", "data_sets")
_TABLE = "coverage.csv"


@dataclass(frozen=True)
class Coverage:
    """A line of the table."""

    seeds: int
    run_correlation: float
    unit: Unit
    """What the bootstrap draws: runs within each task (rliable's), or whole runs."""
    statistic: str
    coverage: float
    """Share of simulated data sets whose interval held the truth."""
    data_sets: int


def simulate_scores(seeds: int, run_correlation: float, data_sets: int, rng: np.random.Generator) -> FloatArray:
    """Scores (data_sets, S, N)."""
    shared = rng.standard_normal((data_sets, seeds, 1))
    own = rng.standard_normal((data_sets, seeds, len(TASK_MEANS)))
    ranks = special.ndtr(np.sqrt(run_correlation) * shared + np.sqrt(1 - run_correlation) * own)
    grid, quantiles = _quantiles()
    return np.stack([np.interp(ranks[..., n], grid, quantiles[n]) for n in range(len(TASK_MEANS))], axis=-1)


@cache
def _quantiles() -> tuple[FloatArray, FloatArray]:
    """A grid of ranks (G,) and the tasks' scores there, (N, G): interpolation is far faster than the Beta's inverse."""
    grid = np.linspace(0, 1, 4001)
    rows = []
    for task_mean in TASK_MEANS:
        largest = np.sqrt(task_mean * (1 - task_mean))
        sd = min(SCORE_SD, 0.9 * largest)
        concentration = (largest / sd) ** 2 - 1
        rows.append(stats.beta.ppf(grid, task_mean * concentration, (1 - task_mean) * concentration))
    return grid, np.array(rows)


@cache
def true_values() -> Mapping[str, float]:
    """Each statistic of infinitely many runs: of scores at evenly spaced ranks, which no seed can change."""
    grid, quantiles = _quantiles()
    ranks = (np.arange(400_000) + 0.5) / 400_000
    scores = np.stack([np.interp(ranks, grid, row) for row in quantiles], axis=-1)
    return {name: float(statistic(scores)) for name, statistic in STATISTICS.items()}


def simulate_coverage(
    seeds: int, run_correlation: float, unit: Unit, data_sets: int, seed: int, replicates: int = REPLICATES
) -> list[Coverage]:
    """The coverage of each of ``STATISTICS``."""
    rng = np.random.default_rng([seed, seeds, round(1000 * run_correlation), len(unit)])
    truth = np.array([true_values()[name] for name in STATISTICS])
    held = np.zeros(len(STATISTICS))

    def statistics(stack: FloatArray) -> FloatArray:
        return np.stack([statistic(stack) for statistic in STATISTICS.values()], axis=-1)

    for scores in simulate_scores(seeds, run_correlation, data_sets, rng):
        low, high = percentile_interval(bootstrap(scores, statistics, replicates, rng, unit))
        held += (low <= truth) & (truth <= high)
    return [
        Coverage(seeds, run_correlation, unit, name, float(count) / data_sets, data_sets)
        for name, count in zip(STATISTICS, held, strict=True)
    ]


@cache
def coverage_table() -> tuple[Coverage, ...]:
    """The table that ships with the package."""
    text = (resources.files("bench.statistics") / _TABLE).read_text(encoding="utf-8")
    return tuple(
        Coverage(
            int(row["seeds"]), float(row["run_correlation"]), "run" if row["unit"] == "run" else "task",
            row["statistic"], float(row["coverage"]), int(row["data_sets"]),
        )
        for row in csv.DictReader(io.StringIO(text))
    )  # fmt: skip


def stated_coverage(seeds: int, statistic: str = "iqm", run_correlation: float = 0.0, unit: Unit = "task") -> float:
    """Coverage at this number of seeds or, between those of the table, at the next lower one; below 3 seeds at 3."""
    lines = {
        line.seeds: line.coverage
        for line in coverage_table()
        if (line.statistic, line.run_correlation, line.unit) == (statistic, run_correlation, unit)
    }
    return lines[max([known for known in lines if known <= seeds], default=min(lines))]


def coverage_warning(seeds: int, run_correlations: Sequence[float] = ()) -> str | None:
    """What a reader of intervals made from so few seeds must know; None from 20 seeds on.

    ``run_correlations``: how much the scores of one run hang together in what is looked at, if that is known.
    """
    if seeds >= max(SEEDS):
        return None
    if seeds < 2:
        return "one seed says nothing about other seeds: no interval"
    alone, together = (stated_coverage(seeds, "iqm", correlation) for correlation in RUN_CORRELATIONS)
    at = "" if seeds in SEEDS else f" (at {max([known for known in SEEDS if known <= seeds], default=min(SEEDS))})"
    here = ""
    if run_correlations:
        ends = dict.fromkeys(f"{end:.2f}" for end in (min(run_correlations), max(run_correlations)))
        here = f"; here it is {' to '.join(ends)}"
    return (
        f"{seeds} seeds are few: a 95 % interval of the IQM holds the truth {100 * alone:.0f} % of the time{at}, and "
        f"{100 * together:.0f} % where the scores of one run hang together (correlation {RUN_CORRELATIONS[1]}){here}"
    )


def main() -> None:
    """Print the table as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for correlation in RUN_CORRELATIONS:
        units: tuple[Unit, ...] = ("task",) if correlation == 0 else ("task", "run")
        for unit in units:
            for seeds in SEEDS:
                for line in simulate_coverage(seeds, correlation, unit, DATA_SETS, seed=0):
                    coverage = f"{line.coverage:.4f}"
                    writer.writerow([seeds, correlation, unit, line.statistic, coverage, line.data_sets])
                sys.stdout.flush()


if __name__ == "__main__":
    main()
