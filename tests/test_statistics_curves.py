"""Sample-efficiency curves, area under the curve, episodes to a threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics.aggregates import aggregate, iqm, mean
from bench.statistics.curves import area_under_curve, efficiency_curve, episodes_to_threshold
from bench.statistics.scores import window_scores
from tests.statistics_helpers import NAN, returns


def rising(seeds: int = 3, tasks: int = 4, episodes: int = 40) -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    return np.clip(np.linspace(0, 1, episodes) + 0.2 * rng.standard_normal((seeds, tasks, episodes)), 0, 1)


@pytest.mark.parametrize(("metric", "statistic"), [("iqm", iqm), ("mean", mean)])
def test_a_curve_is_the_aggregate_of_each_bin(metric: str, statistic: object) -> None:
    group = returns(rising())
    curve = efficiency_curve(group, 10, metric)  # type: ignore[arg-type]
    assert curve.starts.tolist() == [0, 10, 20, 30]
    for index, start in enumerate(curve.starts):
        scores = window_scores(group, int(start), int(start) + 10)
        estimate = aggregate(scores)[metric]
        assert curve.point[index] == pytest.approx(estimate.point)
        assert (curve.low[index], curve.high[index]) == (pytest.approx(estimate.low), pytest.approx(estimate.high))
    assert (curve.seeds.tolist(), curve.tasks.tolist(), curve.notes) == ([3] * 4, [4] * 4, ())


def test_the_last_episodes_that_fill_no_bin_are_not_drawn() -> None:
    assert efficiency_curve(returns(rising(episodes=39)), 10).starts.tolist() == [0, 10, 20]
    assert efficiency_curve(returns(rising(episodes=9)), 10).starts.tolist() == []


def test_a_curve_shows_where_runs_end() -> None:
    values = rising()
    values[2, :, 25:] = NAN
    values[:, 3, 32:] = NAN
    curve = efficiency_curve(returns(values), 10)
    assert (curve.seeds.tolist(), curve.tasks.tolist()) == ([3, 3, 2, 2], [4, 4, 4, 3])
    assert curve.notes == (
        "episodes 20-30: 2 seeds: no interval", "episodes 30-40: 2 seeds: no interval",
        "from episode 20 on: 2 of 3 seeds", "from episode 30 on: 3 of 4 tasks",
    )  # fmt: skip
    assert np.isfinite(curve.low[:2]).all() and np.isnan(curve.low[2:]).all()


def test_a_curve_shows_single_missing_scores_and_bins_with_one_seed() -> None:
    values = rising(3, 2, 20)
    values[:2, 1, 12] = NAN
    curve = efficiency_curve(returns(values), 10)
    assert curve.notes == (
        "episodes 10-20: seed 0 has no score on task 1",
        "episodes 10-20: seed 1 has no score on task 1",
        "episodes 10-20: 1 task has one seed: no interval",
    )
    alone = efficiency_curve(returns(rising(1)), 10)
    assert np.isnan(alone.low).all() and np.isnan(alone.high).all() and np.isfinite(alone.point).all()
    assert alone.notes[0] == "episodes 0-10: one seed: no interval"


def test_the_area_under_the_curve_is_the_mean_return_while_learning() -> None:
    values = np.array([[[0.0, 0.5, 1.0, 1.0]], [[0.0, 0.0, 1.0, NAN]]])
    assert area_under_curve(returns(values), 3).values.tolist() == [[0.5], [1 / 3]]
    assert area_under_curve(returns(values), 4).seeds == (0,)


# -- episodes to a threshold ------------------------------------------------------------------------------------------


def steps(*first_successes: int, episodes: int = 10) -> np.ndarray:  # type: ignore[type-arg]
    """(S, 1, E): return 0, and 1 from this episode on."""
    return np.array([[np.arange(episodes) >= first] for first in first_successes], dtype=float)


def test_the_threshold_is_reached_when_the_last_episodes_have_it() -> None:
    result = episodes_to_threshold(returns(steps(0, 3, 9, 99)), 0.5, window_episodes=2)
    # From episode 3 on: the mean of episodes 2 and 3 is 0.5, so after 4 episodes.
    assert result.episodes.tolist() == [[2], [4], [10], [10]]
    assert result.censored.tolist() == [[False], [False], [False], [True]]
    assert (result.reached, result.horizon) == (0.75, 10)
    assert episodes_to_threshold(returns(steps(3)), 1.0, 2).episodes.tolist() == [[5]]


def test_rounding_keeps_no_run_below_the_threshold() -> None:
    """The means of 2 to 14 equal returns are not always that return, to the last digit."""
    for window in range(2, 15):
        for tenth in range(1, 10):
            values = np.full((1, 1, 14), tenth / 10)
            assert not episodes_to_threshold(returns(values), tenth / 10, window).censored.any()


def test_episodes_after_a_gap_do_not_count() -> None:
    values = steps(6)
    values[0, 0, 4] = NAN
    result = episodes_to_threshold(returns(values), 1.0, 1)
    assert (result.episodes.tolist(), result.censored.tolist()) == ([[4]], [[True]])


def test_a_median_beyond_the_last_episode_is_not_made_up() -> None:
    def text(*first_successes: int) -> str:
        return episodes_to_threshold(returns(steps(*first_successes)), 1.0, 1).median_text()

    assert text(0, 1, 2) == "2"
    assert text(0, 1, 99) == "2 (1 of 3 never did)"
    assert text(0, 99, 99) == "more than 10 (2 of 3 never did)"
    assert text(0, 99) == "more than 10 (1 of 2 never did)"
    assert text(99) == "more than 10 (1 of 1 never did)"


def test_a_run_cut_short_is_censored_where_it_ended() -> None:
    values = steps(0, 8, 7)
    values[1, 0, 4:] = NAN
    result = episodes_to_threshold(returns(values), 1.0, 1)
    assert result.episodes.tolist() == [[1], [4], [8]]
    assert result.censored.tolist() == [[False], [True], [False]]
    # What the run cut short at 4 would have needed is not known: the median is 8 or less, but above 4.
    assert result.median_text() == "more than 4 (1 of 3 never did)"


def test_the_restricted_mean_says_how_many_never_got_there() -> None:
    estimate = episodes_to_threshold(returns(steps(1, 3, 99)), 1.0, 1).restricted_mean()
    assert estimate.point == pytest.approx((2 + 4 + 10) / 3)
    assert estimate.low is not None and estimate.high is not None
    assert 0 <= estimate.low < estimate.point < estimate.high <= 10
    assert estimate.note == "1 of 3 never reached it"
    alone = episodes_to_threshold(returns(steps(99)), 1.0, 1).restricted_mean()
    assert (alone.low, alone.note) == (None, "one seed: no interval; 1 of 1 never reached it")


def test_tasks_without_episodes_count_for_nothing() -> None:
    values = np.concatenate([steps(0, 2), np.full((2, 1, 10), NAN)], axis=1)
    result = episodes_to_threshold(returns(values), 1.0, 1)
    assert np.isnan(result.episodes[:, 1]).all() and not result.censored.any()
    assert result.reached == 1.0


@given(
    first=st.lists(st.integers(0, 30), min_size=1, max_size=6), window=st.integers(1, 5),
    threshold=st.sampled_from([0.25, 0.5, 1.0]),
)  # fmt: skip
def test_a_higher_threshold_is_never_reached_earlier(first: list[int], window: int, threshold: float) -> None:
    group = returns(steps(*first, episodes=20))
    easy, hard = (episodes_to_threshold(group, level, window) for level in (threshold / 2, threshold))
    assert (easy.episodes <= hard.episodes).all()
    assert (easy.censored <= hard.censored).all()
