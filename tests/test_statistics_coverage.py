"""The stated coverage of intervals is what simulation gives, and near enough to 95 %."""

from __future__ import annotations

import numpy as np
import pytest

from bench.statistics.coverage import (
    CORRELATIONS,
    DATA_SETS,
    DIFFERENCE,
    SCORE_SD,
    SEEDS,
    STATISTICS,
    STUDENT,
    TASK_MEANS,
    UNITS,
    Coverage,
    coverage_table,
    coverage_warning,
    simulate_coverage,
    simulate_difference,
    simulate_pair,
    simulate_scores,
    stated_coverage,
    true_values,
)


def test_the_table_has_every_setting_once() -> None:
    table = coverage_table()
    of_one = {
        ("mixed", seeds, correlation, None, method, statistic)
        for seeds in SEEDS for correlation in CORRELATIONS for method in (STUDENT, *UNITS) for statistic in STATISTICS
    }  # fmt: skip
    of_two = {
        (tasks, seeds, correlation, pairs, STUDENT, DIFFERENCE)
        for seeds in SEEDS for correlation in CORRELATIONS for pairs in CORRELATIONS for tasks in TASK_MEANS
    }  # fmt: skip
    settings = [
        (line.tasks, line.seeds, line.run_correlation, line.pair_correlation, line.method, line.statistic)
        for line in table
    ]
    assert set(settings) == of_one | of_two and len(settings) == len(set(settings))
    assert all(line.data_sets == DATA_SETS[line.method] for line in table)


def test_the_intervals_that_are_used_hold_the_truth_within_two_percent_of_95() -> None:
    """At every number of seeds and every correlation; near the ceiling and the floor ties make them wider."""
    used = [line for line in coverage_table() if line.method == STUDENT and line.tasks == "mixed"]
    assert len(used) == len(SEEDS) * len(CORRELATIONS) * (len(STATISTICS) + len(CORRELATIONS))
    for line in used:
        assert 0.93 <= round(line.coverage, 2) <= 0.97, line


def test_false_verdicts_are_at_most_six_percent_everywhere() -> None:
    for line in coverage_table():
        assert line.statistic != DIFFERENCE or 1 - line.coverage <= 0.06, line


def test_every_bootstrap_is_too_narrow_with_few_seeds() -> None:
    """Why none of them is used."""
    for line in coverage_table():
        if line.method in ("task", "run") and line.seeds <= 5 and line.statistic == "mean":
            assert line.coverage < 0.925, line
    assert stated_coverage(3, "mean", "task")[0] < 0.5


def test_between_the_settings_the_lower_one_is_stated() -> None:
    assert stated_coverage(7) == stated_coverage(5)
    assert stated_coverage(2) == stated_coverage(3)
    assert stated_coverage(500) == stated_coverage(20)


def test_the_warning_has_the_figures() -> None:
    low, high = stated_coverage(3, DIFFERENCE)
    text = str(coverage_warning(3))
    assert text.startswith("3 seeds are few") and f"{100 * low:.0f} to {100 * high:.0f} % of the time" in text
    assert coverage_warning(1) == "one seed: no interval, and no verdict: at least 3 seeds are needed"
    assert coverage_warning(2) == "2 seeds: no interval, and no verdict: at least 3 seeds are needed"
    assert coverage_warning(10) is None


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_simulated_scores_have_the_moments_that_are_stated(correlation: float) -> None:
    scores = simulate_scores(4, correlation, 20_000, np.random.default_rng(0))
    assert scores.shape == (20_000, 4, len(TASK_MEANS["mixed"]))
    np.testing.assert_allclose(scores.mean(axis=(0, 1)), TASK_MEANS["mixed"], atol=0.01)
    np.testing.assert_allclose(scores.std(axis=(0, 1))[2:7], SCORE_SD, atol=0.01)
    middle = np.corrcoef(scores[:, 0, 3], scores[:, 0, 4])[0, 1]
    assert middle == pytest.approx(correlation, abs=0.03)
    between_runs = np.corrcoef(scores[:, 0, 3], scores[:, 1, 3])[0, 1]
    assert between_runs == pytest.approx(0, abs=0.03)
    x, y = simulate_pair("mixed", 2, 0.3, correlation, 20_000, np.random.default_rng(0))
    assert np.corrcoef(x[:, 0, 3], y[:, 0, 3])[0, 1] == pytest.approx(correlation, abs=0.03)
    assert np.corrcoef(x[:, 0, 3], y[:, 1, 3])[0, 1] == pytest.approx(0, abs=0.03)


def test_the_truth_is_the_statistic_of_very_many_runs() -> None:
    (scores,) = simulate_scores(50_000, 0.0, 1, np.random.default_rng(0))
    for name, statistic in STATISTICS.items():
        assert float(statistic(scores)) == pytest.approx(true_values()[name], abs=0.003)
    assert true_values()["mean"] == pytest.approx(np.mean(TASK_MEANS["mixed"]), abs=1e-4)


def test_coverage_is_simulated_by_the_seed() -> None:
    first, again, other = (simulate_coverage(3, 0.0, "task", 40, seed, 100) for seed in (0, 0, 1))
    assert first == again != other
    assert [type(line) for line in first] == [Coverage] * len(STATISTICS)


def test_the_stated_coverage_is_about_right() -> None:
    """Another seed than the table's. The slow test has the whole table."""
    for line in simulate_coverage(3, 0.8, STUDENT, 5_000, seed=2):
        low, high = stated_coverage(3, line.statistic)
        assert low - 0.015 <= line.coverage <= high + 0.015
    line = simulate_difference("mixed", 5, 0.3, 0.3, 5_000, seed=2)
    assert line.coverage == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
def test_the_stated_coverage_is_right_within_two_percent(seeds: int) -> None:
    """Another seed: the standard error of a difference is 0.2 %."""
    stated = {(c.run_correlation, c.statistic): c.coverage for c in coverage_table()
              if c.seeds == seeds and c.method == STUDENT and c.pair_correlation is None}  # fmt: skip
    for correlation in CORRELATIONS:
        for line in simulate_coverage(seeds, correlation, STUDENT, DATA_SETS[STUDENT], seed=1):
            assert line.coverage == pytest.approx(stated[correlation, line.statistic], abs=0.02)
