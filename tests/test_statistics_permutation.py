"""P-values against enumeration and scipy; Holm's correction against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.statistics import permutation
from bench.statistics.episodes import FloatArray
from bench.statistics.permutation import holm, permutation_test
from tests.statistics_helpers import NAN, score_arrays


def test_a_p_value_by_hand() -> None:
    """Six dealings of 0, 1 | 2, 3: the difference of means is 2 as seen and in its mirror image, 1 or 0 otherwise."""
    test = permutation_test(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]))
    assert (test.p_value, test.exact, test.permutations, test.smallest_p) == (2 / 6, True, 6, 2 / 6)
    two_tasks = permutation_test(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 2.0], [3.0, 3.0]]))
    assert (two_tasks.p_value, two_tasks.permutations) == (2 / 36, 36)


@given(x=score_arrays(max_seeds=4, tasks=1), y=score_arrays(max_seeds=4, tasks=1))
def test_one_task_is_scipys_exact_test(x: FloatArray, y: FloatArray) -> None:
    oracle = stats.permutation_test(
        (x[:, 0], y[:, 0]), lambda a, b: abs(a.mean() - b.mean()), alternative="greater", n_resamples=np.inf
    )
    test = permutation_test(x, y)
    assert test.exact
    assert test.p_value == pytest.approx(oracle.pvalue)


def test_the_random_sample_agrees_with_all_dealings(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((4, 2)) + 0.2, rng.random((4, 2))
    exact = permutation_test(x, y)
    assert exact.exact and 0.02 < exact.p_value < 0.98
    monkeypatch.setattr(permutation, "_LARGEST_EXACT", 0)
    tabulated = permutation_test(x, y)
    monkeypatch.setattr(permutation, "_LARGEST_TABLE", 0)
    drawn = permutation_test(x, y)
    error = np.sqrt(exact.p_value * (1 - exact.p_value) / permutation.PERMUTATIONS)
    for test in (tabulated, drawn):
        assert not test.exact
        assert test.p_value == pytest.approx(exact.p_value, abs=4 * error)
    assert tabulated.p_value != drawn.p_value  # two ways of drawing, not one tried twice


@given(x=score_arrays(max_seeds=3, tasks=2), y=score_arrays(max_seeds=3, tasks=2), seed=st.integers(0, 2**32))
def test_p_values_ignore_sides_shifts_and_the_order_of_runs(x: FloatArray, y: FloatArray, seed: int) -> None:
    expected = permutation_test(x, y).p_value
    rng = np.random.default_rng(seed)
    assert permutation_test(y, x).p_value == pytest.approx(expected)
    assert permutation_test(4 * x + 1, 4 * y + 1).p_value == pytest.approx(expected)
    assert permutation_test(rng.permuted(x, axis=0), rng.permuted(y, axis=0)).p_value == pytest.approx(expected)
    assert 0 < permutation_test(x, y).smallest_p <= expected + 1e-12


def test_no_difference_has_p_one() -> None:
    scores = np.random.default_rng(0).random((3, 10))
    assert permutation_test(scores, scores).p_value == 1.0


def test_a_clear_difference_of_many_runs_has_the_smallest_p() -> None:
    x = np.random.default_rng(0).random((5, 10))
    test = permutation_test(x + 10, x)
    assert (test.p_value, test.exact) == (1 / (permutation.PERMUTATIONS + 1), False)
    assert test.smallest_p == test.p_value


def test_three_runs_against_three_cannot_give_less_than_a_tenth() -> None:
    runs = np.array([[0.0], [0.1], [0.2]])
    test = permutation_test(runs, runs + 5)
    assert (test.p_value, test.smallest_p) == (0.1, 0.1)
    unequal = permutation_test(runs[:2], runs + 5)
    assert (unequal.p_value, unequal.smallest_p) == (0.1, 0.1)


def test_absent_scores_are_not_dealt() -> None:
    x, y = np.array([[0.0, NAN], [1.0, 5.0]]), np.array([[2.0, 7.0], [3.0, NAN]])
    assert permutation_test(x, y).permutations == 6 * 2
    with pytest.raises(ValueError, match="no score of one of the two"):
        permutation_test(np.array([[NAN]]), np.array([[1.0]]))
    with pytest.raises(ValueError, match="2 and 1 tasks"):
        permutation_test(x, y[:, :1])


def test_a_seed_fixes_the_random_sample() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((5, 10)), rng.random((5, 10))
    values = [permutation_test(x, y, 1_000, seed).p_value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_under_the_null_hypothesis_p_values_are_uniform() -> None:
    rng = np.random.default_rng(0)
    values = [permutation_test(*rng.random((2, 3, 4)), 500, seed).p_value for seed in range(600)]  # type: ignore[misc]
    assert stats.kstest(values, "uniform").pvalue > 0.01


@settings(max_examples=20)  # statsmodels takes its time
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(values: list[float]) -> None:
    np.testing.assert_allclose(holm(values), multipletests(values, method="holm")[1], atol=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
