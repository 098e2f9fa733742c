"""Seeds that a difference needs: against statsmodels, by simulation, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import TTestIndPower, TTestPower

from bench.statistics.power import LARGEST_SEEDS, power, run_spread, seeds_needed, smallest_difference
from tests.statistics_helpers import NAN, matrix


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
@pytest.mark.parametrize("effect", [0.2, 0.8, 1.5])  # where both are large, statsmodels has NaN
def test_power_is_that_of_statsmodels(seeds: int, effect: float) -> None:
    assert power(seeds, effect, 1.0) == pytest.approx(TTestPower().power(effect, seeds, 0.05), abs=1e-6)
    # Of two independent samples with standard deviation 1 each, a difference has sqrt(2).
    unpaired = power(seeds, effect, np.sqrt(2), paired=False)
    assert unpaired == pytest.approx(TTestIndPower().power(effect, seeds, 0.05), abs=1e-6)


@given(effect=st.floats(0.01, 50), seeds=st.integers(3, 500), alpha=st.sampled_from([0.001, 0.05, 0.2]))
def test_power_is_a_probability_that_grows_with_seeds_and_difference(effect: float, seeds: int, alpha: float) -> None:
    value = power(seeds, effect, 1.0, alpha)
    assert alpha - 1e-9 <= value <= 1
    assert power(seeds + 1, effect, 1.0, alpha) >= value - 1e-9
    assert power(seeds, effect * 1.1, 1.0, alpha) >= value - 1e-9
    assert power(seeds, -effect * 3, 3.0, alpha) == pytest.approx(value)


@pytest.mark.parametrize(("sd", "wanted"), [(0.05, 0.8), (0.1, 0.8), (0.3, 0.9), (1.0, 0.5)])
def test_the_seeds_needed_are_the_fewest_that_are_enough(sd: float, wanted: float) -> None:
    needed = seeds_needed(0.1, sd, wanted)
    assert needed is not None
    assert power(needed, 0.1, sd) >= wanted
    assert needed == 3 or power(needed - 1, 0.1, sd) < wanted


def test_the_ends_of_what_can_be_said() -> None:
    assert seeds_needed(0.001, 1.0) is None
    assert power(LARGEST_SEEDS, 0.001, 1.0) < 0.8
    assert seeds_needed(0.1, 0.0) == 3
    assert (power(3, 0.1, 0.0), power(3, 0.0, 0.1)) == (1.0, 0.05)
    assert smallest_difference(2, 0.1) is None
    assert power(2, 10.0, 0.1) == 0.0, "two seeds get no verdict"
    assert smallest_difference(3, 0.0) == 0.0


@pytest.mark.parametrize("seeds", [3, 10, 50])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_the_smallest_difference_has_the_power_asked_for(seeds: int, alpha: float) -> None:
    smallest = smallest_difference(seeds, 0.2, 0.8, alpha)
    assert smallest is not None
    assert power(seeds, smallest, 0.2, alpha) == pytest.approx(0.8, abs=1e-6)


def test_the_spread_is_that_of_differences_at_equal_seeds() -> None:
    """Run means 0.2, 0.4, 0.9 and 0.1, 0.5, 0.6: differences 0.1, -0.1, 0.3, of variance 0.04."""
    first, second = matrix([[0.1, 0.3], [0.3, 0.5], [0.8, 1.0]]), matrix([[0.0, 0.2], [0.4, 0.6], [0.5, 0.7]])
    spread = run_spread([first, second])
    assert spread is not None
    assert (spread.sd, spread.degrees_of_freedom, spread.paired) == (pytest.approx(0.2), 2, True)
    assert spread.sd_low < spread.sd < spread.sd_high and not spread.is_known
    assert spread.run_correlation == pytest.approx(1.0)  # the tasks of a run move exactly together
    three = run_spread([first, second, matrix([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]])])
    assert three is not None
    # Differences to the third: 0, -0.1, 0.1 and -0.1, 0, -0.2, of variance 0.01 each; (3 - 1)(3 - 1) are free.
    assert (three.sd, three.degrees_of_freedom) == (pytest.approx(np.sqrt((0.04 + 0.01 + 0.01) / 3)), 4)


def test_without_shared_seeds_it_is_pooled_within_algorithms() -> None:
    """Run means 0.2, 0.4 and 0.7, 0.9, 0.8: sums of squares 0.02 and 0.02, with 1 and 2 degrees of freedom."""
    spread = run_spread([matrix([[0.1, 0.3], [0.3, 0.5]]), matrix([[0.6, 0.8], [0.8, 1.0], [0.7, 0.9]])])
    assert spread is not None
    assert (spread.run_sd, spread.degrees_of_freedom, spread.paired) == (pytest.approx(np.sqrt(0.04 / 3)), 3, False)
    assert spread.sd == pytest.approx(np.sqrt(2) * spread.run_sd)


def test_the_correlation_of_independent_tasks_is_none_and_of_shared_luck_its_share() -> None:
    rng = np.random.default_rng(0)
    for shared in (0.0, 1.0):
        scores = shared * rng.standard_normal((4_000, 1)) + rng.standard_normal((4_000, 10)) + np.arange(10)
        spread = run_spread([matrix(scores)])
        assert spread is not None and spread.is_known
        assert spread.run_correlation == pytest.approx(shared / (shared + 1), abs=0.03)
        assert spread.run_sd == pytest.approx(np.sqrt(shared + 0.1), rel=0.05)


def test_the_interval_of_the_spread_holds_it_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2_000):
        spread = run_spread([matrix(rng.standard_normal((4, 1)) + 5 * place) for place in range(3)])
        assert spread is not None and spread.paired
        held += spread.sd_low <= np.sqrt(2) <= spread.sd_high
    assert held / 2_000 == pytest.approx(0.8, abs=0.03)


def test_only_tasks_that_all_runs_have_and_algorithms_with_two_runs_count() -> None:
    assert run_spread([matrix([[0.5, 0.6]])]) is None
    assert run_spread([matrix([[0.5, NAN], [NAN, 0.5]])]) is None
    spread = run_spread([matrix([[0.5, NAN], [0.7, 0.0]]), matrix([[9.0, 9.0]])])
    assert spread is not None
    assert (spread.run_sd, spread.degrees_of_freedom) == (pytest.approx(np.sqrt(0.02)), 1)
