"""Aggregates, the bootstrap, probability of improvement, profiles: by hand, and what must not change them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics.aggregates import METRICS, aggregate, iqm, mean, median, optimality_gap, point_estimate
from bench.statistics.bootstrap import bootstrap, percentile_interval, resample
from bench.statistics.episodes import FloatArray
from bench.statistics.improvement import performance_profile, probability_of_improvement
from tests.statistics_helpers import NAN, matrix, score_arrays

POINT = {"iqm": iqm, "median": median, "mean": mean}


def test_aggregates_by_hand() -> None:
    scores = np.array([[0.0, 0.5, 1.0], [0.2, 0.9, 1.0], [0.1, 0.7, 1.0]])
    assert mean(scores) == pytest.approx((0.1 + 0.7 + 1.0) / 3)
    assert median(scores) == pytest.approx(0.7)
    # 9 scores, a quarter rounded down is 2: without 0, 0.1 and 1, 1.
    assert iqm(scores) == pytest.approx((0.2 + 0.5 + 0.7 + 0.9 + 1.0) / 5)
    assert optimality_gap(scores) == pytest.approx(1 - (0.1 + 0.7 + 1.0) / 3)
    assert optimality_gap(scores, gamma=0.5) == pytest.approx(0.5 - (0.1 + 0.5 + 0.5) / 3)


def test_absent_scores_leave_every_task_its_weight() -> None:
    scores = np.array([[0.0, 1.0], [0.5, NAN], [0.25, NAN]])
    assert mean(scores) == pytest.approx((0.25 + 1.0) / 2)
    assert median(scores) == pytest.approx((0.25 + 1.0) / 2)
    assert iqm(scores) == pytest.approx((0.25 + 0.5) / 2)  # of 0, 0.25, 0.5, 1
    assert optimality_gap(scores) == pytest.approx((0.75 + 0.0) / 2)


@pytest.mark.parametrize("name", POINT)
@given(scores=score_arrays(), shift=st.integers(-64, 64).map(lambda number: number / 64), order=st.randoms())
def test_point_estimates_follow_shift_and_scale_and_ignore_the_order_of_runs(
    name: str, scores: FloatArray, shift: float, order: object
) -> None:
    statistic = POINT[name]
    expected = statistic(scores)
    rng = np.random.default_rng(getattr(order, "randrange")(2**32))  # noqa: B009
    assert statistic(rng.permuted(scores, axis=0)) == pytest.approx(expected, abs=1e-12)  # within each task
    assert statistic(scores[:, rng.permutation(scores.shape[1])]) == pytest.approx(expected, abs=1e-12)
    assert statistic(scores + shift) == pytest.approx(expected + shift, abs=1e-12)
    assert statistic(3 * scores) == pytest.approx(3 * expected, abs=1e-12)
    assert scores.min() - 1e-12 <= expected <= scores.max() + 1e-12


@given(scores=score_arrays())
def test_the_optimality_gap_is_what_the_mean_lacks_where_no_score_is_above(scores: FloatArray) -> None:
    assert optimality_gap(scores, 2.0) == pytest.approx(2.0 - mean(scores), abs=1e-12)
    assert optimality_gap(scores, 0.0) >= 0.0


@given(scores=score_arrays(), copies=st.integers(2, 3))
def test_padding_with_absent_scores_changes_nothing(scores: FloatArray, copies: int) -> None:
    padded = np.concatenate([np.full_like(scores, NAN)] * copies + [scores])
    for statistic in POINT.values():
        assert statistic(padded) == pytest.approx(statistic(scores), abs=1e-12)


@given(scores=score_arrays(min_seeds=3, max_seeds=4))
def test_intervals_follow_shift_and_scale(scores: FloatArray) -> None:
    plain = aggregate(matrix(scores))
    moved = aggregate(matrix(2 * scores + 1))
    for name, estimate in plain.items():
        if estimate.low is None or estimate.high is None:
            assert moved[name].low is None
            continue
        assert estimate.low < estimate.point < estimate.high
        assert moved[name].low == pytest.approx(2 * estimate.low + 1)
        assert moved[name].high == pytest.approx(2 * estimate.high + 1)


def test_no_interval_passes_the_score_range() -> None:
    estimates = aggregate(matrix([[0.0, 0.1], [0.9, 1.0], [1.0, 0.9]], (0.0, 1.0)))
    for estimate in estimates.values():
        assert estimate.low is not None and estimate.high is not None
        assert 0.0 <= estimate.low < estimate.point < estimate.high <= 1.0
    free = aggregate(matrix([[0.0, 0.1], [0.9, 1.0], [1.0, 0.9]]))["mean"]
    assert free.low is not None and free.low < 0


def test_the_optimality_gap_is_normalised_and_needs_a_score_range() -> None:
    scores = [[0.0, 4.0], [2.0, 4.0], [1.0, 4.0]]
    estimates = aggregate(matrix(scores, (0.0, 4.0)))
    assert estimates["optimality_gap"].point == pytest.approx(1 - (0.25 + 1.0) / 2)
    assert tuple(estimates) == METRICS
    # Run means 2, 3, 2.5 of 4: what is lacking has the same interval, the other way round.
    half = 4.302652729911275 * 0.5 / np.sqrt(3) / 4
    assert estimates["optimality_gap"].low == pytest.approx(0.375 - half)
    assert set(aggregate(matrix(scores))) == {"iqm", "median", "mean"}
    assert point_estimate(matrix(scores), "optimality_gap") is None


def test_scores_above_the_range_do_not_fill_the_gap() -> None:
    estimates = aggregate(matrix([[0.0, 3.0]] * 3, (0.0, 1.0)))
    assert estimates["optimality_gap"].point == 0.5


def test_nothing_to_aggregate_is_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        aggregate(matrix(np.zeros((0, 0))))


# -- the bootstrap ----------------------------------------------------------------------------------------------------


def test_each_task_draws_from_its_own_runs_independently_of_the_others() -> None:
    """All S**(S*N) replicates of a small matrix come up, equally often: rliable's task_bootstrap=False."""
    scores = np.array([[0.0, 10.0], [1.0, 11.0]])
    drawn = resample(scores, 64_000, np.random.default_rng(0)).reshape(-1, 4)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    expected = sorted(
        (a, c, b, d) for a, b, c, d in itertools.product((0.0, 1.0), (0.0, 1.0), (10.0, 11.0), (10.0, 11.0))
    )
    assert [tuple(row) for row in found] == expected
    np.testing.assert_allclose(counts / 64_000, 1 / 16, atol=0.005)


def test_whole_runs_are_drawn_together() -> None:
    scores = np.array([[0.0, 10.0], [1.0, 11.0]])
    drawn = resample(scores, 100, np.random.default_rng(0), "run")
    np.testing.assert_array_equal(drawn[..., 1] - drawn[..., 0], 10.0)
    with pytest.raises(ValueError, match="whole runs"):
        resample(np.array([[0.0, NAN]]), 10, np.random.default_rng(0), "run")


def test_runs_and_then_tasks_are_drawn() -> None:
    """Each of the runs' and the tasks' choices comes up: all four scores in each place, rows of one run."""
    scores = np.array([[0.0, 10.0], [1.0, 11.0]])
    drawn = resample(scores, 2_000, np.random.default_rng(0), "both")
    assert set(drawn[:, 0, 0]) == {0.0, 1.0, 10.0, 11.0}
    difference = drawn[..., 1] - drawn[..., 0]
    assert (difference[:, 0] == difference[:, 1]).all()  # the same two tasks for both runs of a replicate


def test_a_task_with_fewer_runs_draws_as_many_as_it_has() -> None:
    scores = np.array([[NAN, 1.0], [5.0, 2.0], [6.0, 3.0]])
    drawn = resample(scores, 500, np.random.default_rng(0))
    assert np.isnan(drawn).sum(axis=(1, 2)).tolist() == [1] * 500
    assert set(drawn[:, :2, 0].ravel()) == {5.0, 6.0}
    assert set(drawn[:, :, 1].ravel()) == {1.0, 2.0, 3.0}
    with pytest.raises(ValueError, match="no score at all"):
        resample(np.array([[NAN, 1.0]]), 10, np.random.default_rng(0))


def test_the_standard_error_of_the_mean_is_that_of_theory() -> None:
    """Of the mean over N tasks of S runs: sqrt(sum of variances / S) / N, with variances over S."""
    scores = np.random.default_rng(3).random((5, 4))
    drawn = bootstrap(scores, mean, 100_000, np.random.default_rng(0))
    assert drawn.shape == (100_000,)
    assert drawn.std() == pytest.approx(np.sqrt((scores.var(axis=0) / 5).sum()) / 4, rel=0.01)


def test_percentiles_are_of_the_confidence() -> None:
    low, high = percentile_interval(np.arange(101.0), 0.9)
    assert (low, high) == (pytest.approx(5), pytest.approx(95))


# -- probability of improvement ---------------------------------------------------------------------------------------


def test_probability_of_improvement_by_hand() -> None:
    x, y = np.array([[1.0, 0.0], [2.0, 5.0]]), np.array([[1.0, 1.0], [0.0, 2.0], [0.5, 3.0]])
    # Task 0: 1 against 1, 0, 0.5 is 2.5; 2 is 3: 5.5 of 6. Task 1: 0 is none, 5 is 3: 3 of 6.
    assert probability_of_improvement(x, y) == pytest.approx((5.5 / 6 + 0.5) / 2)


# -- performance profiles ---------------------------------------------------------------------------------------------


def test_improvement_with_absent_scores_uses_those_that_are_there() -> None:
    x, y = np.array([[1.0, 1.0], [NAN, 0.0]]), np.array([[0.0, 0.5], [0.0, NAN]])
    assert probability_of_improvement(x, y) == pytest.approx((1.0 + 0.5) / 2)
    with pytest.raises(ValueError, match="2 and 1 tasks"):
        probability_of_improvement(x, y[:, :1])


@given(x=score_arrays(tasks=3), y=score_arrays(tasks=3))
def test_improvement_of_x_over_y_and_of_y_over_x_are_one(x: FloatArray, y: FloatArray) -> None:
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)
    assert probability_of_improvement(x, x) == pytest.approx(0.5)
    assert probability_of_improvement(x + 10, y) == 1.0


def test_a_profile_is_the_share_of_scores_strictly_above() -> None:
    profile = performance_profile(matrix([[0.0, 0.5], [1.0, 0.5], [1.0, 0.5]]), np.array([-1.0, 0.0, 0.5, 1.0]))
    assert profile.point.tolist() == pytest.approx([1.0, 5 / 6, 1 / 3, 0.0])
    # Shares of the runs above 0: 0.5, 1, 1. A band ends at 1; where all runs agree there is none.
    half = 4.302652729911275 * np.std([0.5, 1, 1], ddof=1) / np.sqrt(3)
    assert profile.low[1] == pytest.approx(5 / 6 - half) and profile.high[1] == 1.0
    assert np.isnan(profile.low[[0, 3]]).all() and profile.note is None
    assert performance_profile(matrix([[0.5]]), np.array([0.0])).note == "one seed: no interval"


@given(scores=score_arrays())
def test_a_profile_falls(scores: FloatArray) -> None:
    profile = performance_profile(matrix(scores), np.linspace(-1.5, 2.5, 9))
    assert (np.diff(profile.point) <= 1e-12).all()


def test_the_area_under_a_profile_is_the_mean() -> None:
    scores = np.random.default_rng(0).random((4, 3))
    thresholds = np.linspace(0, 1, 20_001)
    profile = performance_profile(matrix(scores), thresholds)
    assert np.trapezoid(profile.point, thresholds) == pytest.approx(float(mean(scores)), abs=1e-4)


@pytest.mark.parametrize(
    "call", [lambda s: aggregate(matrix(s)), lambda s: performance_profile(matrix(s), np.array([0.5]))]
)
def test_inputs_are_left_as_they_were(call: Callable[[FloatArray], object]) -> None:
    scores = np.random.default_rng(0).random((3, 3))
    before = scores.copy()
    call(scores)
    np.testing.assert_array_equal(scores, before)
