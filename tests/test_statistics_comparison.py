"""Two algorithms compared: against scipy's t-tests, by simulation, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bench.statistics.aggregates import mean
from bench.statistics.analysis import corrected, deciding_window, studies, study
from bench.statistics.comparison import Comparison, compare, difference_test, p_text, resolution, verdict
from bench.statistics.coverage import simulate_pair
from bench.statistics.episodes import EpisodeReturns, FloatArray
from bench.statistics.improvement import probability_of_improvement
from bench.statistics.intervals import NO_SPREAD
from bench.statistics.power import power
from tests.statistics_helpers import NAN, returns


def group(scores: FloatArray, label: str, seeds: tuple[int, ...] | None = None, episodes: int = 20) -> EpisodeReturns:
    """Scores (S, N), the same in all episodes."""
    made = returns(np.repeat(scores[..., None], episodes, axis=2), label)
    return made if seeds is None else replace(made, seeds=seeds)


def one(x: FloatArray, y: FloatArray, seeds_of_y: tuple[int, ...] | None = None) -> Comparison:
    made = compare(group(x, "a"), group(y, "b", seeds_of_y), (0, 20))
    assert made is not None
    (comparison,) = corrected([made])
    return comparison


def random_scores(seeds: int, tasks: int = 6, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).random((seeds, tasks))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_seeds_are_paired_as_by_scipy(seeds: int) -> None:
    x, y = random_scores(seeds), random_scores(seeds, seed=1)
    c = one(x, y)
    expected = stats.ttest_rel(x.mean(axis=1), y.mean(axis=1))
    ends = expected.confidence_interval()
    assert (c.paired, c.p_value) == (True, pytest.approx(expected.pvalue))
    assert (c.mean_difference.low, c.mean_difference.high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert c.mean_difference.point == pytest.approx(float(mean(x) - mean(y)))
    assert c.pair_correlation == pytest.approx(np.corrcoef(x.mean(axis=1), y.mean(axis=1))[0, 1])


def test_other_seeds_are_compared_as_by_welch() -> None:
    x, y = random_scores(4), random_scores(6, seed=1)
    c = one(x, y, (10, 11, 12, 13, 14, 15))
    expected = stats.ttest_ind(x.mean(axis=1), y.mean(axis=1), equal_var=False)
    ends = expected.confidence_interval()
    assert (c.paired, c.p_value) == (False, pytest.approx(expected.pvalue))
    assert (c.mean_difference.low, c.mean_difference.high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert c.pair_correlation is None


def test_only_seeds_with_a_partner_are_compared_where_they_are_enough() -> None:
    x, y = random_scores(5), random_scores(4, seed=1)
    c = one(x, y, (1, 2, 4, 9))
    expected = stats.ttest_rel(x[[1, 2, 4]].mean(axis=1), y[:3].mean(axis=1))
    assert (c.paired, c.seeds_a, c.seeds_b, c.p_value) == (True, 3, 3, pytest.approx(expected.pvalue))
    assert c.notes == ("a: seeds 0, 3 without a partner: not compared", "b: seed 9 without a partner: not compared")
    few = one(x, random_scores(8, seed=1), (0, 1, 10, 11, 12, 13, 14, 15))
    assert (few.paired, few.seeds_a, few.seeds_b, few.notes) == (False, 5, 8, ())


def test_the_chance_of_improvement_is_the_mann_whitney_statistic_with_a_jackknife_interval() -> None:
    x, y = random_scores(4), random_scores(4, seed=1) + 0.2
    c = one(x, y)
    assert c.improvement.point == pytest.approx(probability_of_improvement(x, y))
    rest = [probability_of_improvement(np.delete(x, s, 0), np.delete(y, s, 0)) for s in range(4)]
    values = 4 * c.improvement.point - 3 * np.array(rest)
    half = stats.t.ppf(0.975, 3) * stats.sem(values)
    assert c.improvement.low == pytest.approx(max(0.0, c.improvement.point - half))
    assert c.improvement.high == pytest.approx(min(1.0, c.improvement.point + half))
    apart = one(x, y, (10, 11, 12, 13))
    by_x = [4 * apart.improvement.point - 3 * probability_of_improvement(np.delete(x, s, 0), y) for s in range(4)]
    by_y = [4 * apart.improvement.point - 3 * probability_of_improvement(x, np.delete(y, s, 0)) for s in range(4)]
    error = np.sqrt(np.var(by_x, ddof=1) / 4 + np.var(by_y, ddof=1) / 4)
    assert apart.improvement.low is not None
    assert (apart.improvement.point - apart.improvement.low) / error > stats.t.ppf(0.975, 6)


def test_a_and_b_swapped_are_the_mirror_image() -> None:
    x, y = random_scores(4), random_scores(4, seed=1)
    swapped, other = one(x, y).swapped(), one(y, x)
    for name in ("mean_difference", "iqm_difference", "improvement"):
        mine, expected = getattr(swapped, name), getattr(other, name)
        assert [mine.point, mine.low, mine.high] == pytest.approx([expected.point, expected.low, expected.high])
    assert (swapped.label_a, swapped.p_value) == ("b", pytest.approx(other.p_value))


def test_what_is_less_than_the_scores_can_resolve_is_no_proof() -> None:
    """One episode in a hundred more in each of three seeds: a t-test without a floor has p = 0."""
    y = np.full((3, 10), 0.5)
    x = y.copy()
    x[np.arange(3), np.arange(3)] += 0.1
    assert resolution(x, y) == pytest.approx(0.01)
    c = one(x, y)
    # sd of the difference of two numbers rounded to steps of 0.01: 0.01 / sqrt(6).
    expected = 2 * stats.t.sf(0.01 / (0.01 / np.sqrt(6) / np.sqrt(3)), 2)
    assert c.p_value == pytest.approx(expected) and c.decision == "untold"
    sure = one(np.ones((3, 10)), np.zeros((3, 10)))
    assert sure.decision == "better" and sure.mean_difference.low is not None


def test_algorithms_that_are_all_alike_have_no_interval_and_no_difference() -> None:
    c = one(np.ones((4, 3)), np.ones((4, 3)))
    assert (c.p_value, c.mean_difference.low, c.mean_difference.note) == (1.0, None, NO_SPREAD)
    assert c.decision == "untold" and NO_SPREAD in verdict(c)


def test_verdicts_in_words() -> None:
    x = 0.4 + 0.01 * random_scores(5)
    c = one(x + 0.3, x[::-1])
    low, high = c.mean_difference.low, c.mean_difference.high
    assert low is not None and high is not None
    words = (
        f"a is better than b by {c.mean_difference.point:.2f} (95 % interval {low:.2f} to {high:.2f}, paired by seed)"
    )
    assert verdict(c).startswith(words)
    swapped = verdict(one(x[::-1], x + 0.3))
    assert swapped == verdict(c).replace("a is better than b", "b is better than a")
    untold = verdict(one(random_scores(3), random_scores(3, seed=1)))
    assert untold.startswith("no difference can be told: ") and "95 % interval" in untold
    described = compare(group(x + 0.3, "a"), group(x, "b"), (0, 20))
    assert described is not None and verdict(described).startswith("described, not decided: a is ahead of b by 0.30")


def test_two_seeds_give_numbers_but_no_interval_and_no_verdict() -> None:
    c = one(np.array([[0.5, 0.75], [0.5, 0.5]]), np.array([[0.25, 0.5], [0.25, 0.5]]))
    assert (c.mean_difference.point, c.mean_difference.low, c.p_value) == (0.1875, None, None)
    assert (c.decision, c.notes) == ("too few seeds", ("2 seeds: no interval",))
    assert verdict(c) == "too few seeds: a is ahead of b by 0.19 in the runs there are, and others may differ"


def test_only_tasks_that_all_runs_have_are_compared_and_gaps_are_named() -> None:
    x = np.array([[0.5, 0.5, 1.0], [0.7, 0.6, 1.0], [0.7, 0.7, 1.0]])
    y = np.array([[0.5, 0.5, NAN], [NAN, 0.4, NAN], [0.1, 0.2, NAN]])
    c = one(x, y)
    assert (c.tasks, c.mean_a, c.mean_b) == (1, pytest.approx(0.6), pytest.approx(1.1 / 3))
    assert c.notes == (
        "only a has tasks 2: not compared",
        "b: seed 1 has no score on task 0",
        "compared on the 1 tasks that every run has",
    )
    nothing = one(np.array([[0.5, NAN], [NAN, 0.5], [0.5, NAN]]), random_scores(3, 2))
    assert (nothing.p_value, nothing.tasks) == (None, 2)
    assert "no task that every run has: no interval" in nothing.notes


def test_without_a_shared_task_there_is_nothing_to_compare() -> None:
    x, y = np.full((2, 2, 20), 0.5), np.full((2, 2, 20), 0.5)
    x[:, 0], y[:, 1] = NAN, NAN
    assert compare(returns(x, "a"), returns(y, "b"), (0, 20)) is None


def test_small_p_values_are_not_shown_as_zero() -> None:
    assert [p_text(p) for p in (0.25, 0.0341, 0.0004, 0.00002)] == ["0.25", "0.034", "<0.001", "<0.0001"]


# -- the declared analysis --------------------------------------------------------------------------------------------


def test_every_pair_in_every_deciding_window_is_one_family() -> None:
    groups = [returns(random_scores(4, 3, seed)[..., None] * np.ones(40), name) for seed, name in enumerate("abc")]
    found = study(groups, [(0, 20), (20, 40)])
    raw = sorted(c.p_value for c in found.comparisons if c.p_value is not None)
    assert (found.family, len(raw), {c.family for c in found.comparisons}) == (6, 6, {6})
    # Holm by hand: the k-th smallest times those that are left, never less than the one before.
    expected, running = [], 0.0
    for place, p_value in enumerate(raw):
        running = max(running, min(1.0, (6 - place) * p_value))
        expected.append(running)
    assert sorted(c.p_holm for c in found.comparisons if c.p_holm is not None) == pytest.approx(expected)
    (between,) = [c for c in found.between("c", "a") if c.start == 0]
    (there,) = [c for c in found.between("a", "c") if c.start == 0]
    assert between == there.swapped()


def test_algorithms_with_too_few_seeds_make_no_family_larger() -> None:
    many, other, two = (group(random_scores(s, 3, s + k), n) for s, k, n in ((3, 0, "a"), (3, 1, "b"), (2, 2, "c")))
    assert study([many, other, two]).family == 1
    assert study([two, group(random_scores(2), "d")]).family == 0


@pytest.mark.parametrize(
    ("episodes", "expected"), [((200, 200), (190, 200)), ((200, 110), (90, 110)), ((200, 110, 110, 200), (190, 200)),
                               ((12, 9), (0, 9)), ((5,), (0, 5))]
)  # fmt: skip
def test_the_last_window_that_half_have_completed_decides(episodes: tuple[int, ...], expected: tuple[int, int]) -> None:
    groups = [returns(np.full((3, 2, number), 0.5), f"g{place}") for place, number in enumerate(episodes)]
    assert deciding_window(groups) == expected


def test_each_preset_and_task_distribution_is_a_study_of_its_own() -> None:
    first = group(random_scores(3), "one")
    found = studies([first, replace(first, env="f"), replace(first, preset="paper"), replace(first, label="two")])
    assert [[(g.env, g.preset, g.label) for g in part.groups] for part in found] == [
        [("e", "paper", "one")],
        [("e", "quick", "one"), ("e", "quick", "two")],
        [("f", "quick", "one")],
    ]


# -- by simulation ----------------------------------------------------------------------------------------------------


def differences(x: FloatArray, y: FloatArray, paired: bool = True) -> FloatArray:
    """p-values (D,) of data sets (D, S, N), by the test that decides."""
    return difference_test(x, y, paired)[2]


def test_data_sets_are_tested_at_once_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.binomial(10, 0.9, (2, 20, 3, 4)) / 10
    for paired, seeds in ((True, None), (False, (7, 8, 9))):
        at_once = differences(x, y, paired)
        assert [one(a, b, seeds).p_value for a, b in zip(x, y, strict=True)] == pytest.approx(at_once.tolist())


@pytest.mark.parametrize("tasks", ["mixed", "ceiling"])
@pytest.mark.parametrize(
    ("seeds", "run_correlation", "pair_correlation"), [(3, 0.0, 0.3), (5, 0.8, 0.0), (10, 0.3, 0.8)]
)
def test_equal_algorithms_are_rarely_called_different(
    tasks: str, seeds: int, run_correlation: float, pair_correlation: float
) -> None:
    """5 % is nominal; 10,000 data sets have a standard error of 0.2 %. The table that ships has them all."""
    rng = np.random.default_rng(11)
    x, y = simulate_pair(tasks, seeds, run_correlation, pair_correlation, 10_000, rng)
    assert (differences(rng.binomial(10, x) / 10, rng.binomial(10, y) / 10) < 0.05).mean() <= 0.06


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("pair_correlation", [0.0, 0.3, 0.8])
def test_the_power_that_is_answered_is_the_power_there_is(seeds: int, pair_correlation: float) -> None:
    """Scores of mixed tasks in which a true difference of 0.15 is added; the spread is known here, from many runs."""
    rng = np.random.default_rng(12)
    many = [one.mean(axis=-1).ravel() for one in simulate_pair("mixed", 1, 0.3, pair_correlation, 50_000, rng)]
    sd = float(np.std(many[0] - many[1]))
    parts = []
    for _ in range(10):  # 100,000 data sets in all, in parts that fit into memory: a standard error below 0.2 %
        x, y = simulate_pair("mixed", seeds, 0.3, pair_correlation, 10_000, rng)
        parts.append((differences(x + 0.15, y) < 0.05).mean())
    seen = np.mean(parts)
    assert power(seeds, 0.15, sd) == pytest.approx(seen, abs=0.03)


def test_pairing_sees_more_where_seeds_are_alike() -> None:
    """Ten seeds, difference 0.15, correlation of pairs 0.8."""
    rng = np.random.default_rng(13)
    x, y = simulate_pair("mixed", 10, 0.8, 0.8, 5_000, rng)
    paired = (differences(x + 0.15, y) < 0.05).mean()
    unpaired = (differences(x + 0.15, y, paired=False) < 0.05).mean()
    assert paired > unpaired + 0.3
