"""Intervals over runs: the t interval of run means by scipy, the jackknife by hand, and what has none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from bench.statistics.aggregates import iqm, mean, median
from bench.statistics.episodes import FloatArray
from bench.statistics.intervals import (
    NO_SPREAD,
    Estimate,
    estimate_over_runs,
    leave_one_out,
    pseudo_values,
)
from tests.statistics_helpers import NAN, score_arrays


@given(scores=score_arrays(min_seeds=3))
def test_of_the_mean_it_is_the_t_interval_of_run_means(scores: FloatArray) -> None:
    estimate = estimate_over_runs(scores, mean)
    runs = scores.mean(axis=1)
    assert estimate.point == pytest.approx(runs.mean())
    if np.ptp(runs):
        expected = stats.t.interval(0.95, len(runs) - 1, runs.mean(), stats.sem(runs))
        assert (estimate.low, estimate.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    else:
        assert estimate == Estimate(estimate.point, None, None, NO_SPREAD)


def test_the_jackknife_by_hand() -> None:
    """The median over two tasks of three runs with the task means 0.2 and 0.6; without a run: as below."""
    scores = np.array([[0.0, 0.3], [0.3, 0.6], [0.3, 0.9]])
    without = leave_one_out(scores, median)
    assert without.tolist() == pytest.approx([(0.3 + 0.75) / 2, (0.15 + 0.6) / 2, (0.15 + 0.45) / 2])
    values = pseudo_values(0.4, without, 3)
    assert values.tolist() == pytest.approx([1.2 - 2 * without[0], 1.2 - 2 * without[1], 1.2 - 2 * without[2]])
    estimate = estimate_over_runs(scores, median)
    half = 4.302652729911275 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert estimate.low == pytest.approx(0.4 - half) and estimate.high == pytest.approx(0.4 + half)
    clipped = estimate_over_runs(scores, median, (0.0, 0.5))
    assert (clipped.low, clipped.high) == (max(0.0, 0.4 - half), 0.5)


@given(scores=score_arrays(min_seeds=3))
def test_without_gaps_all_runs_are_left_out_at_once_and_with_gaps_one_by_one(scores: FloatArray) -> None:
    for statistic in (mean, iqm, median):
        expected = [float(statistic(np.delete(scores, run, axis=0))) for run in range(len(scores))]
        assert leave_one_out(scores, statistic).tolist() == pytest.approx(expected)
        padded = np.concatenate([scores, np.full((1, scores.shape[1]), NAN)])
        assert leave_one_out(padded, statistic)[:-1].tolist() == pytest.approx(expected)


def test_fewer_than_three_runs_have_no_interval_and_say_so() -> None:
    assert estimate_over_runs(np.array([[0.5, 0.75]]), mean) == Estimate(0.625, None, None, "one seed: no interval")
    two = estimate_over_runs(np.array([[0.5], [0.75]]), mean)
    assert two == Estimate(0.625, None, None, "2 seeds: no interval")


def test_runs_that_are_all_alike_have_no_interval_instead_of_one_of_no_width() -> None:
    estimate = estimate_over_runs(np.ones((3, 4)), mean)
    assert estimate == Estimate(1.0, None, None, "all runs have the same score: no interval")


def test_a_task_with_one_run_has_no_interval() -> None:
    scores = np.array([[0.5, 0.5], [0.75, NAN], [0.25, NAN]])
    assert estimate_over_runs(scores, mean) == Estimate(0.5, None, None, "1 task has one seed: no interval")
