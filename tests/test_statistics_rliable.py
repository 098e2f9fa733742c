"""rliable as the oracle: equal points, and a bootstrap that is its own within Monte-Carlo error.

rliable 1.2.0 draws from numpy's global generator whatever ``random_state`` it is given, so that is what is seeded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from rliable import library, metrics

from bench.statistics.aggregates import METRICS, iqm, mean, median, point_estimate
from bench.statistics.bootstrap import bootstrap, percentile_interval
from bench.statistics.episodes import FloatArray
from bench.statistics.improvement import performance_profile, probability_of_improvement
from tests.statistics_helpers import matrix

ORACLES: dict[str, Callable[[FloatArray], float]] = {
    "iqm": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality_gap": metrics.aggregate_optimality_gap,
}
SETS = 20
BATCHES = 25
"""Intervals of ours, each of as many replicates as rliable's: how far one lies from another is the error allowed."""


@pytest.fixture(autouse=True)
def numpy_global_generator() -> Iterator[None]:
    """Seeded, and put back afterwards."""
    state = np.random.get_state()
    np.random.seed(0)
    yield
    np.random.set_state(state)


def score_sets() -> Iterator[tuple[FloatArray, FloatArray]]:
    """Pairs (X, N), (Y, N) of all shapes; every third with many ties, as few episodes give them."""
    rng = np.random.default_rng(7)
    for index in range(SETS):
        n_tasks = int(rng.integers(1, 13))
        x, y = (rng.beta(2, 1 + rng.random(n_tasks), (int(rng.integers(2, 11)), n_tasks)) for _ in range(2))
        yield (np.round(x * 4) / 4, np.round(y * 4) / 4) if index % 3 == 0 else (x, y)


def test_points_are_those_of_rliable() -> None:
    for x, y in score_sets():
        for name, oracle in ORACLES.items():
            assert point_estimate(matrix(x, (0.0, 1.0)), name) == pytest.approx(oracle(x), abs=1e-9), name
        expected = metrics.probability_of_improvement(x, y)
        assert probability_of_improvement(x, y) == pytest.approx(expected, abs=1e-9)
        thresholds = np.linspace(-0.1, 1.1, 13)
        profile = performance_profile(matrix(x), thresholds)
        np.testing.assert_allclose(profile.point, library.score_distributions(x, thresholds), atol=1e-9)


def rliable_interval(scores: Any, function: Callable[..., FloatArray], replicates: int) -> FloatArray:
    """Ends (2, statistics)."""
    _, intervals = library.get_interval_estimates({"it": scores}, function, reps=replicates)
    return np.asarray(intervals["it"])


def check_interval(expected: FloatArray, batches: FloatArray, name: str) -> list[float]:
    """Ends (2,) against those of ``BATCHES`` (B, 2) intervals of ours: distances in standard errors."""
    error = batches.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(batches))
    distances = np.abs(batches.mean(axis=0) - expected)
    # An end that never moves, as where all scores are equal, must be equal.
    return [float(d / e) if e > 1e-9 else (0.0 if d < 1e-9 else np.inf) for d, e in zip(distances, error, strict=True)]


def distances_from_rliable(x: FloatArray, replicates: int) -> list[float]:
    """In Monte-Carlo standard errors, of both ends of all intervals, of the stratified bootstrap."""
    oracle = rliable_interval(x, lambda s: np.array([ORACLES[name](s) for name in METRICS]), replicates)

    def statistics(stack: FloatArray) -> FloatArray:
        means = stack.mean(axis=-2)
        gap = 1 - np.minimum(means, 1.0).mean(axis=-1)  # no score is above 1
        return np.stack([iqm(stack), median(stack), mean(stack), gap], axis=-1)

    ours = np.array(
        [
            np.transpose(percentile_interval(bootstrap(x, statistics, replicates, np.random.default_rng(b))))
            for b in range(BATCHES)
        ]
    )  # (B, metrics, 2)
    return [d for index, name in enumerate(METRICS) for d in check_interval(oracle[:, index], ours[:, index], name)]


def test_intervals_of_one_set_are_those_of_rliable() -> None:
    x, _ = next(score_sets())
    assert max(distances_from_rliable(x, 1_000)) < 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_intervals_of_all_sets_are_those_of_rliable() -> None:
    """160 ends: with errors alone, one in 370 is beyond 3 standard errors."""
    distances = np.array([distances_from_rliable(x, 2_000) for x, _ in score_sets()])
    print(
        f"ends beyond 3 standard errors: {(distances > 3).sum()} of {distances.size}; the largest {distances.max():.2f}"
    )
    assert (distances > 3).sum() <= 3
    assert distances.max() < 5
