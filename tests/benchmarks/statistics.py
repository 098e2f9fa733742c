"""Measured speed of the statistics on rows of a whole study: 8 algorithms, 2 domains, 10 tasks, 5 seeds, 500 episodes.

    make benchmark          # or: python -m tests.benchmarks.statistics

The targets, on one core: all aggregates in 2 s, a curve of 50 points in 2 s.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.statistics.aggregates import aggregate
from bench.statistics.analysis import studies
from bench.statistics.curves import efficiency_curve, episodes_to_threshold
from bench.statistics.improvement import performance_profile, probability_of_improvement
from bench.statistics.scores import window_scores
from bench.timing import time_of
from tests.benchmarks.measures import run_benchmarks
from tests.benchmarks.synthetic_rows import SCORE_RANGES, synthetic_rows
from tests.statistics_helpers import group_episodes

REPETITIONS = 3


def statistics() -> None:
    """All that a report needs."""
    rows = synthetic_rows()
    print(f"{len(rows):,} rows arranged: {time_of(lambda: group_episodes(rows), REPETITIONS).duration()}", flush=True)
    groups = [
        replace(group, score_range=SCORE_RANGES[int(group.env[-1])]) for group in group_episodes(rows).groups
    ]  # fmt: skip
    matrices = [window_scores(group, 490, 500) for group in groups]
    thresholds = np.linspace(0, 1, 101)
    work = {
        "4 aggregates, all 16": lambda: [aggregate(matrix) for matrix in matrices],
        "IQM curve of 50 points, one": lambda: efficiency_curve(groups[0], 10),
        "IQM curves, all 16": lambda: [efficiency_curve(group, 10) for group in groups],
        "mean curves, all 16": lambda: [efficiency_curve(group, 10, "mean") for group in groups],
        "profiles of 101 thresholds, all 16": lambda: [performance_profile(matrix, thresholds) for matrix in matrices],
        "probability of improvement, 2 x 28 pairs": lambda: [
            probability_of_improvement(x.values, y.values)
            for domain in (matrices[:8], matrices[8:])
            for index, x in enumerate(domain)
            for y in domain[index + 1 :]
        ],
        "episodes to a threshold, all 16": lambda: [episodes_to_threshold(group, 0.5) for group in groups],
        "the declared analysis, 2 x 28 pairs": lambda: studies(groups),
    }
    for name, call in work.items():
        print(f"{name}: {time_of(call, REPETITIONS).duration()}", flush=True)


if __name__ == "__main__":
    run_benchmarks({"statistics": statistics})
