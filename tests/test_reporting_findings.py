"""What a report says first, from scores made by hand: order, verdicts, what few seeds do not allow."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.reporting.findings import find
from bench.reporting.findings_tables import comparisons_table, coverage_figures, standings_table
from bench.statistics.analysis import corrected
from bench.statistics.comparison import compare
from bench.statistics.coverage import coverage_warning
from bench.statistics.episodes import EpisodeReturns
from tests.conftest import Bench
from tests.statistics_helpers import NAN, returns, write_run


def group(label: str, level: float, seeds: int = 5, tasks: int = 4, episodes: int = 40) -> EpisodeReturns:
    """Returns near ``level``, a little different in each episode."""
    noise = np.random.default_rng(sum(map(ord, label))).uniform(-0.05, 0.05, (seeds, tasks, episodes))
    return returns(level + noise, label, (0.0, 1.0))


def test_the_best_comes_first_with_its_interval_and_the_verdict_on_it() -> None:
    found = find([group("low", 0.3), group("high", 0.8)])
    assert [s.label for s in found.standings] == ["high", "low"]
    assert found.standings[0].better_than == ("low",) and found.standings[1].worse_than == ("high",)
    assert found.window == (20, 40) and found.tasks == 4
    first, second = found.sentences
    pattern = r"Episodes 20-40: high has the highest mean score, 0.80 \(95 % interval 0.79 to 0.8\d\); then low 0.30\."
    assert re.fullmatch(pattern, first)
    assert second.startswith("Episodes 20-40: high is better than low by 0.50 (95 % interval ")
    assert "paired by seed" in second


def test_equal_algorithms_are_not_told_apart() -> None:
    one = group("one", 0.5)
    found = find([one, replace(one, label="other")])
    assert [s.not_told_from for s in found.standings] == [("other",), ("one",)]
    assert "no difference can be told" in found.sentences[1]


def test_many_algorithms_are_told_by_name_and_all_pairs_are_one_family() -> None:
    groups = [group(name, level) for name, level in zip("abcde", (0.1, 0.3, 0.5, 0.9, 0.9), strict=True)]
    found = find(groups)
    assert (len(found.comparisons), found.family) == (10, 10)
    best, second = found.standings[:2]
    assert {best.label, second.label} == {"d", "e"}
    assert best.better_than == ("a", "b", "c") and best.not_told_from == (second.label,)
    assert found.sentences[1] == f"Episodes 20-40: {best.label} is better than a, b and c."
    assert found.sentences[2] == f"Episodes 20-40: between {best.label} and {second.label} no difference can be told."


def test_with_two_seeds_nothing_is_told_and_the_sentence_says_so() -> None:
    groups = [group(name, level, seeds=2) for name, level in zip("abcde", (0.1, 0.3, 0.5, 0.7, 0.9), strict=True)]
    found = find(groups)
    assert found.sentences[1] == "Episodes 20-40: too few seeds to compare e with a, b, c and d."
    assert (found.family, found.standings[0].better_than) == (0, ())


def test_one_window_decides_the_last_that_half_have_or_those_that_are_asked_for() -> None:
    found = find([group("one", 0.3, episodes=200), group("other", 0.4, episodes=110)])
    assert [c.window for c in found.comparisons] == ["90-110"] and found.window == (90, 110)
    asked = find([group("one", 0.3, episodes=200), group("other", 0.4, episodes=110)], [(0, 7)])
    assert [c.window for c in asked.comparisons] == ["0-7"] and asked.window_name == "0-7"
    short = find([group("one", 0.3, episodes=12), group("other", 0.4, episodes=9)])
    assert [c.window for c in short.comparisons] == ["0-9"] and short.window == (0, 9)


def test_the_numbers_are_those_of_compare() -> None:
    pair = [group("one", 0.3), group("other", 0.35)]
    made = compare(*pair, (20, 40))
    assert made is not None and list(find(pair).comparisons) == corrected([made])


def test_standings_say_how_fast_algorithms_learn() -> None:
    values = np.zeros((3, 2, 40))
    values[:, :, 20:] = 1.0
    values[0, 0, 19] = 1.0
    (standing,) = find([returns(values, "one", (0.0, 1.0))]).standings
    assert standing.area is not None and standing.area.point == pytest.approx((20 + 1 / 6) / 40)
    assert standing.to_threshold == "25"  # the mean of episodes 15-24 is a half


def test_one_seed_has_no_interval_and_says_so() -> None:
    found = find([group("one", 0.3, seeds=1), group("other", 0.8, seeds=1)])
    assert (
        found.sentences[0]
        == "Episodes 20-40: other has the highest mean score, 0.80 (one seed: no interval); then one 0.30."
    )
    assert "too few seeds: other is ahead of one by 0.50 in the runs there are" in found.sentences[1]
    assert found.warnings == (
        "other and one: one seed: no interval, and no verdict: at least 3 seeds are needed.",
        "Episodes 20-40, one and other: one seed: no interval.",
    )
    assert found.power is None
    table = standings_table(found)
    assert table is not None
    assert [row[2:4] for row in table.rows] == [(None, None)] * 2
    comparisons = comparisons_table(found)
    assert comparisons is not None and "nan" not in comparisons.to_csv()


def test_each_number_of_seeds_is_warned_of_once_and_pairs_with_one_defect_share_a_line() -> None:
    seeds = {"one": 1, "lone": 1, "three": 3, "more": 3}
    found = find([group(name, 0.1 * (place + 1), seeds=count) for place, (name, count) in enumerate(seeds.items())])
    alone, few, *rest = found.warnings
    assert alone == "lone and one: one seed: no interval, and no verdict: at least 3 seeds are needed."
    assert few.startswith("more and three: 3 seeds are few")
    (pairs,) = [line for line in rest if line.endswith(": one seed: no interval.")]
    named = "one and lone; one and three; one and more; lone and three; lone and more"
    assert pairs == f"Episodes 20-40, {named}: one seed: no interval."


def test_a_lone_algorithm_has_nothing_to_be_compared_with() -> None:
    found = find([group("one", 0.3)])
    assert found.sentences[0].endswith("; there is no other to compare.")
    assert comparisons_table(found) is None


def test_few_seeds_are_warned_of_with_the_coverage_and_the_power_of_these_runs() -> None:
    found = find([group("one", 0.3, seeds=3), group("other", 0.31, seeds=3)])
    coverage, power = found.warnings[:2]
    assert coverage == f"one and other: {coverage_warning(3)}." or coverage == f"other and one: {coverage_warning(3)}."
    assert found.power is not None and found.power_difference == pytest.approx(0.1)
    assert f"missed more often than 20 % of the time where it is below {found.power.smallest_difference:.2f}" in power
    assert power.endswith("the spread between seeds is hardly known.")
    many = find([group("one", 0.3, seeds=8), group("other", 0.31, seeds=8)])
    assert many.power is not None
    assert f"To see one of 0.1 takes {many.power.seeds_needed} [" in many.warnings[1]
    assert not [
        line for line in find([group("x", 0.3, seeds=20), group("y", 0.9, seeds=20)]).warnings if "few:" in line
    ]


def test_one_task_is_one_task() -> None:
    found = find([group("one", 0.3, seeds=3, tasks=1), group("other", 0.8, seeds=3, tasks=1)])
    table = standings_table(found)
    assert table is not None and "on 1 target task with" in table.caption


def test_missing_scores_and_late_algorithms_are_named() -> None:
    gap = group("gap", 0.3)
    values = gap.returns.copy()
    values[2, 1, 30] = NAN
    found = find([replace(gap, returns=values), group("whole", 0.8), group("late", 0.8, episodes=25)])
    assert any("gap: seed 2 has no score on task 1" in line for line in found.warnings)
    assert found.sentences[-1] == "Not in the order above, for want of complete episodes 20-40: late."


def test_the_coverage_figures_are_the_shipped_simulation(bench: Bench, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", [0.1, 0.4 + 0.1 * seed], seed=seed)
    shown = bench("power", tmp_path).out
    for seeds, *ends in coverage_figures().texts():
        shown_ends = [f"{low} to {high} %" for low, high in zip(ends[::2], ends[1::2], strict=True)]
        assert any(all(cell in line for cell in (f" {seeds} ", *shown_ends)) for line in shown.splitlines()), seeds
