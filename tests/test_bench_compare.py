"""``bench compare`` and ``bench power`` on runs made by hand, and on the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.cli_statistics import windows_argument
from bench.statistics.aggregates import mean
from bench.statistics.comparison import Comparison, compare, corrected, p_text, verdict
from bench.statistics.coverage import stated_coverage
from bench.statistics.episodes import load_episodes
from tests.conftest import ROOT, Bench
from tests.statistics_helpers import NAN, returns, write_run


def write_runs(
    folder: Path, algo: str, means: Sequence[float], tasks: int = 6, episodes: int = 20, **record: object
) -> None:
    """A run per mean; its tasks lie around it."""
    spread = np.linspace(-0.05, 0.05, tasks)
    for seed, run_mean in enumerate(means):
        scores = np.roll(spread, seed) + run_mean
        name = f"{algo}-e-s{seed}"
        write_run(folder / name, list(scores), episodes, **{"algo": algo, "seed": seed, **record})


def one(x: np.ndarray, y: np.ndarray, episodes: int = 20) -> Comparison:  # type: ignore[type-arg]
    """Scores (S, N) of each, the same in all episodes, compared."""
    groups = [returns(np.repeat(scores[..., None], episodes, axis=2), label) for scores, label in ((x, "a"), (y, "b"))]
    (comparison,) = corrected(compare(*groups))
    return comparison


# -- comparing --------------------------------------------------------------------------------------------------------


def test_a_clear_difference_of_enough_runs_is_called_one() -> None:
    rng = np.random.default_rng(0)
    x, y = 0.7 + 0.1 * rng.random((5, 6)), 0.4 + 0.1 * rng.random((5, 6))
    c = one(x, y)
    assert (c.window, c.seeds_a, c.seeds_b, c.tasks, c.notes) == ("0-20", 5, 5, 6, ())
    assert c.mean_difference.point == pytest.approx(float(mean(x) - mean(y)))
    assert c.mean_difference.low is not None and c.mean_difference.high is not None
    assert 0.25 < c.mean_difference.low < c.mean_difference.point < c.mean_difference.high < 0.35
    assert c.improvement.point == 1.0
    assert c.by_runs is not None
    assert c.by_runs.p_value == pytest.approx(2 / 252)
    text = verdict(c)
    assert text.startswith("a is better than b by 0.3") and text.endswith("also with whole runs as the unit, p 0.0079")
    assert f"({_interval(c.mean_difference.low, c.mean_difference.high)})" in text
    swapped = one(y, x)
    assert verdict(swapped).startswith("b is better than a by 0.3")
    assert swapped.mean_difference.low is not None and swapped.mean_difference.high is not None
    # The verdict speaks of the leader minus the other, the numbers of A minus B.
    assert swapped.mean_difference.low < swapped.mean_difference.high < 0
    assert f"({_interval(-swapped.mean_difference.high, -swapped.mean_difference.low)})" in verdict(swapped)


def _interval(low: float, high: float) -> str:
    return f"95 % interval {low:.2f} to {high:.2f}"


def test_the_runs_of_the_two_are_drawn_independently() -> None:
    """Of the difference to an equal algorithm, which is 0, the interval is as wide as two variances make it."""
    x = np.random.default_rng(0).random((5, 6))
    c = one(x, x)
    assert c.mean_difference.low is not None and c.mean_difference.high is not None
    expected = 2 * 1.96 * np.sqrt(2 * (x.var(axis=0) / 5).sum()) / 6
    assert c.mean_difference.high - c.mean_difference.low == pytest.approx(expected, rel=0.05)


def test_runs_that_have_no_shared_task_are_not_counted() -> None:
    x = np.array([[0.5, 0.5], [0.7, 0.6]])
    y = np.array([[0.5, 0.5, 0.1], [0.4, 0.4, 0.1], [NAN, NAN, 0.1]])
    assert (one(x, y).seeds_a, one(x, y).seeds_b, one(x, y).tasks) == (2, 2, 2)


def test_with_three_runs_the_verdict_says_what_it_rests_on() -> None:
    rng = np.random.default_rng(0)
    text = verdict(one(0.7 + 0.1 * rng.random((3, 6)), 0.4 + 0.1 * rng.random((3, 6))))
    assert "a is better than b by" in text
    assert "if the scores of a run on different tasks are independent; with whole runs as the unit, p 0.1" in text
    assert text.endswith("(the least that 3 and 3 runs can give: 0.1)")


def test_luck_that_all_tasks_of_a_run_share_is_not_called_a_difference_by_runs() -> None:
    """Four runs each: enough for p runs to be below 0.05; but the runs of both overlap."""
    x = np.array([[0.9], [0.8], [0.3], [0.7]]) + np.linspace(0, 0.01, 10)
    y = np.array([[0.4], [0.6], [0.35], [0.75]]) + np.linspace(0, 0.01, 10)
    c = one(x, y)
    assert c.within_tasks is not None and c.by_runs is not None
    assert c.within_tasks.p_value < 0.01 < 0.05 < c.by_runs.p_value
    assert c.run_correlation == pytest.approx(1.0)
    assert "with whole runs as the unit, p 0.4" in verdict(c)
    assert "the least that" not in verdict(c)


def test_no_difference_is_not_called_one() -> None:
    rng = np.random.default_rng(1)
    text = verdict(one(rng.random((3, 6)), rng.random((3, 6))))
    assert text.startswith("no difference can be told: ")
    assert "95 % interval" in text


def test_one_seed_gives_numbers_but_no_interval_and_no_p() -> None:
    c = one(np.array([[0.5, 0.75]]), np.array([[0.25, 0.5], [0.25, 0.5]]))
    assert (c.mean_difference.point, c.mean_difference.low, c.within_tasks, c.by_runs) == (0.25, None, None, None)
    assert c.notes == ("one seed: no interval",)
    assert (
        verdict(c) == "a is ahead of b by 0.25 in the runs there are; one seed cannot tell whether others would agree"
    )


def test_only_shared_tasks_are_compared_and_gaps_are_named() -> None:
    x = np.array([[0.5, 0.5, 1.0], [0.7, 0.6, 1.0]])
    y = np.array([[0.5, 0.5, NAN], [NAN, 0.4, NAN]])
    c = one(x, y)
    assert (c.tasks, c.mean_a, c.mean_b) == (2, pytest.approx(0.575), pytest.approx(0.475))
    assert c.notes == (
        "only a has tasks 2: not compared",
        "b: seed 1 has no score on task 0",
        "1 task has one seed: the interval is too narrow",
    )
    assert c.by_runs is not None  # on task 1 alone, which all runs have
    assert c.by_runs.p_value == pytest.approx(4 / 6)  # 0.5, 0.6 | 0.5, 0.4


def test_without_a_shared_task_there_is_nothing_to_compare() -> None:
    x, y = np.full((2, 2, 20), 0.5), np.full((2, 2, 20), 0.5)
    x[:, 0], y[:, 1] = NAN, NAN
    assert compare(returns(x, "a"), returns(y, "b")) == []


def test_the_usual_windows_or_else_all_episodes() -> None:
    long, short = (np.random.default_rng(0).random((2, 2, episodes)) for episodes in (45, 12))
    assert [c.window for c in compare(returns(long), returns(long))] == ["0-20", "20-40"]
    assert [c.window for c in compare(returns(long), returns(short))] == ["0-12"]
    assert [c.window for c in compare(returns(long), returns(long), [(5, 9), (40, 50)])] == ["5-9"]


def test_a_family_is_corrected_together() -> None:
    rng = np.random.default_rng(0)
    group = returns(0.3 + 0.1 * rng.random((2, 2, 40))), returns(0.3 + 0.1 * rng.random((2, 2, 40)))
    family = corrected(compare(*group))
    raw = [c.within_tasks.p_value for c in family if c.within_tasks is not None]
    assert sorted(c.p_holm or 0 for c in family) == pytest.approx(
        sorted([min(1.0, 2 * min(raw)), max(min(1.0, 2 * min(raw)), max(raw))])
    )


def test_small_p_values_are_not_shown_as_zero() -> None:
    assert [p_text(p) for p in (0.25, 0.0341, 0.0004, 0.00002)] == ["0.25", "0.034", "<0.001", "<0.0001"]


# -- the command ------------------------------------------------------------------------------------------------------


def test_two_algorithms_are_compared_in_a_table(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.8, 0.75, 0.85])
    write_runs(tmp_path, "b", [0.5, 0.45, 0.55])
    outcome = bench("compare", "a", "b", "--results", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "A: a, B: b, on e, quick" in outcome.out
    assert "+0.30" in outcome.out
    assert "0-20: a is better than b by 0.30" in outcome.out
    assert (
        f"warning: 3 seeds are few: a 95 % interval of the IQM holds the truth {100 * stated_coverage(3):.0f} %"
        in outcome.out
    )


def test_one_run_of_each_is_said_once_to_be_too_few(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.7], episodes=40)
    write_runs(tmp_path, "b", [0.5], episodes=40)
    lines = bench("compare", "a", "b", "--results", tmp_path).out.splitlines()
    assert [line for line in lines if "one seed: no interval" in line] == ["0-20, 20-40: note: one seed: no interval"]
    assert "warning: one seed says nothing about other seeds: no interval" in lines


def test_a_comparison_as_json(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.8, 0.75], episodes=40)
    write_runs(tmp_path, "b", [0.5, 0.45, 0.55], episodes=40)
    write_run(tmp_path / "bad", [0.5], algo="b", seed=9, status="failed", error="ValueError: no")
    outcome = bench("compare", "a", "b", "--results", tmp_path, "--episodes", "0-20,20-40", "--json")
    content = json.loads(outcome.out)
    assert outcome.err == f"left out: {tmp_path / 'bad'} (failed: ValueError: no)\n"
    assert content["excluded"] == [
        {"run": str(tmp_path / "bad"), "reason": "failed: ValueError: no", "expected": False}
    ]
    first, second = content["comparisons"]
    assert (first["window"], second["window"]) == ("0-20", "20-40")
    assert (first["seeds_a"], first["seeds_b"], first["tasks"]) == (2, 3, 6)
    assert first["mean_difference"]["point"] == pytest.approx(0.275)
    assert first["within_tasks"]["p_value"] <= first["p_holm"]
    assert first["by_runs"] == {"p_value": 0.1, "exact": True, "permutations": 10, "smallest_p": 0.1}
    assert first["verdict"].startswith("a is better") and "2 seeds are few" in first["warning"]


def test_two_folders_are_compared_algorithm_by_algorithm(tmp_path: Path, bench: Bench) -> None:
    for folder, shift in (("old", 0.0), ("new", 0.1)):
        for algo in ("a", "b"):
            write_runs(tmp_path / folder, algo, [0.5 + shift, 0.52 + shift])
    outcome = bench("compare", tmp_path / "new", tmp_path / "old", "--json")
    found = {c["label_a"]: c["mean_difference"]["point"] for c in json.loads(outcome.out)["comparisons"]}
    assert found == {f"{algo} in {tmp_path / 'new'}": pytest.approx(0.1) for algo in ("a", "b")}


def test_folders_of_one_algorithm_each_are_compared(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path / "x", "a", [0.5, 0.6])
    write_runs(tmp_path / "y", "b", [0.5, 0.6])
    outcome = bench("compare", tmp_path / "x", tmp_path / "y")
    assert f"A: a in {tmp_path / 'x'}, B: b in {tmp_path / 'y'}, on e, quick" in outcome.out


def test_a_variant_is_named_by_its_overrides(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path / "plain", "a", [0.5, 0.6])
    write_runs(tmp_path / "changed", "a", [0.5, 0.6], overrides={"x.n": "1"})
    write_runs(tmp_path / "other", "a", [0.5, 0.6], overrides={"x.n": "2"})
    write_runs(tmp_path / "b", "b", [0.5, 0.6], overrides={"x.n": "1"})
    assert bench("compare", "a", "a --x.n 1", "--results", tmp_path).code == 0
    assert "B: b --x.n 1, on e" in bench("compare", "a", "b", "--results", tmp_path).out
    refused = bench("compare", "a", "b", "--results", tmp_path / "changed", tmp_path / "other", tmp_path / "b")
    assert (refused.code, refused.err) == (
        2,
        "bench: 'a' can be any of: 'a --x.n 1', 'a --x.n 2'; give one of them in quotes\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "c"], "unknown folder or algorithm of the runs 'c': valid: a, b"),
        (["a", "a"], "nothing to compare: A and B are both a"),
        (["a", "{}"], "two algorithms or two folders; {} is a folder"),
        (["a", "b", "--env", "f"], "unknown task distribution of runs in {} 'f': valid: e"),
        (["a", "b", "--episodes", "90-110"], "no task on which both completed episodes 90-110; they reach 20"),
        (["a", "b", "--episodes", "20-10"], "expected episodes such as 90-110, got '20-10'"),
        (["a", "b", "--episodes", "ten"], "expected episodes such as 90-110, got 'ten'"),
    ],
)
def test_mistakes_in_compare_get_one_line(arguments: list[str], message: str, tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.5, 0.6])
    write_runs(tmp_path, "b", [0.5, 0.6])
    outcome = bench("compare", *(text.format(tmp_path) for text in arguments), "--results", tmp_path)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message.format(tmp_path) in outcome.err


def test_runs_in_which_nothing_can_be_used_are_refused(tmp_path: Path, bench: Bench) -> None:
    write_run(tmp_path / "bad", [NAN], algo="a")
    write_run(tmp_path / "worse", [0.5], algo="b", status="failed")
    for arguments in (("compare", "a", "b", "--results", tmp_path), ("power", tmp_path)):
        outcome = bench(*arguments)
        assert outcome.code == 2
        assert f"no run in {tmp_path} can be used: {tmp_path / 'worse'} (failed)" in outcome.err


def test_algorithms_without_a_common_task_distribution_are_refused(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path / "1", "a", [0.5, 0.6])
    write_runs(tmp_path / "2", "b", [0.5, 0.6], env="f")
    outcome = bench("compare", "a", "b", "--results", tmp_path)
    assert outcome.err == "bench: a and b have no task distribution and preset in common\n"


def test_windows_of_episodes_are_read() -> None:
    assert windows_argument("0-20, 90-110") == [(0, 20), (90, 110)]


# -- power ------------------------------------------------------------------------------------------------------------


def test_power_says_how_many_seeds_and_how_sure(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.4, 0.5, 0.6])
    write_runs(tmp_path, "b", [0.5, 0.6, 0.7])
    outcome = bench("power", tmp_path, "--difference", "0.1", "--power", "0.8")
    assert (outcome.code, outcome.err) == (0, "")
    assert "e, quick (a, b): to see a difference of 0.1" in outcome.out
    # An effect of one standard deviation: 17 each, as in every table of the t-test.
    row = next(line for line in outcome.out.splitlines() if "0-20" in line)
    assert "0.100" in row and "17 [" in row
    assert "How often a nominal 95 % interval of the IQM holds the truth" in outcome.out
    assert "warning: 3 seeds are few" in outcome.out


def test_power_as_json(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.4, 0.5, 0.6], episodes=40)
    write_runs(tmp_path, "lone", [0.5], episodes=40)
    outcome = bench("power", tmp_path, "--episodes", "20-40", "--difference", "0.2", "--json")
    (answer,) = json.loads(outcome.out)["answers"]
    assert (answer["window"], answer["algorithms"], answer["seeds"]) == ("20-40", ["a"], 3)
    assert answer["spread"]["sd"] == pytest.approx(0.1)
    assert answer["seeds_needed"] == 6
    assert answer["seeds_needed_range"][0] < 6 < answer["seeds_needed_range"][1]
    assert answer["power_at"]["5"] < 0.8 < answer["power_at"]["10"]
    assert answer["gaps"] == ["lone has one run: not part of the spread"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--difference", "0"], "expected a number above 0, got '0'"),
        (["--power", "1.5"], "expected a number between 0 and 1, got '1.5'"),
        (["--power", "0.01"], "--power must be above --alpha (0.05), got 0.01"),
        (["--episodes", "90-110"], "has two runs that completed episodes 90-110"),
        (["--env", "f"], "unknown task distribution"),
    ],
)
def test_mistakes_in_power_get_one_line(arguments: list[str], message: str, tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.5, 0.6])
    outcome = bench("power", tmp_path, *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err


def test_one_run_of_each_algorithm_tells_nothing_of_power(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.5])
    write_runs(tmp_path, "b", [0.6])
    outcome = bench("power", tmp_path)
    message = f"no algorithm in {tmp_path} has two runs: the spread between seeds is not known"
    assert outcome.err == f"bench: {message}\n"


# -- shipped results --------------------------------------------------------------------------------------------------


def test_the_shipped_algorithms_can_be_compared(bench: Bench) -> None:
    loaded = load_episodes([ROOT / "results" / "runs"])
    labels = ["simpl", "spirl"]
    outcome = bench("compare", *labels, "--results", ROOT / "results", "--json")
    content = json.loads(outcome.out)
    assert content["excluded"] == []
    for c in content["comparisons"]:
        window = [
            next(g for g in loaded.groups if (g.label, g.env, g.preset) == (label, c["env"], c["preset"]))
            .returns[:, :, c["start"] : c["stop"]]
            .mean()
            for label in labels
        ]  # fmt: skip
        assert c["mean_difference"]["point"] == pytest.approx(window[0] - window[1])
        low, high = c["mean_difference"]["low"], c["mean_difference"]["high"]
        if min(c["seeds_a"], c["seeds_b"]) > 1:
            assert low < c["mean_difference"]["point"] < high
        else:
            assert low is None and high is None, "one seed says nothing about others"
    assert {c["env"] for c in content["comparisons"]} >= {"maze", "kitchen"}
    assert bench("power", ROOT / "results", "--difference", "0.1").code == 0


def test_the_readme_states_the_coverage_of_the_table() -> None:
    page = " ".join((ROOT / "README.md").read_text().split())
    alone, together = (f"{100 * stated_coverage(3, 'iqm', correlation):.0f} %" for correlation in (0.0, 0.3))
    assert f"a 95 % interval of the IQM holds the truth {alone} of the time, and {together} where the tasks" in page
