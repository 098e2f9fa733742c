"""``bench compare`` and ``bench power`` on runs made by hand, and on the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.cli_statistics import windows_argument
from bench.statistics.analysis import DECLARATION
from bench.statistics.coverage import DIFFERENCE, coverage_warning, stated_coverage
from bench.statistics.episodes import load_episodes
from tests.conftest import ROOT, Bench
from tests.statistics_helpers import NAN, write_run


def write_runs(
    folder: Path, algo: str, means: Sequence[float], tasks: int = 6, episodes: int = 20, **record: object
) -> None:
    """A run per mean; its tasks lie around it."""
    spread = np.linspace(-0.05, 0.05, tasks)
    for seed, run_mean in enumerate(means):
        scores = np.roll(spread, seed) + run_mean
        name = f"{algo}-e-s{seed}"
        write_run(folder / name, list(scores), episodes, **{"algo": algo, "seed": seed, **record})


# -- the command ------------------------------------------------------------------------------------------------------


def test_two_algorithms_are_compared_in_a_table(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.8, 0.75, 0.86])
    write_runs(tmp_path, "b", [0.5, 0.45, 0.55])
    outcome = bench("compare", "a", "b", "--results", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "A: a, B: b, on e, quick" in outcome.out
    assert "+0.30" in outcome.out and "3 pairs" in outcome.out
    assert "0-20: a is better than b by 0.30 (95 % interval" in outcome.out
    assert f"warning: {coverage_warning(3)}" in outcome.out
    assert outcome.out.endswith(f"{DECLARATION}\n")


def test_the_family_is_all_that_the_results_hold_whatever_is_asked_for(tmp_path: Path, bench: Bench) -> None:
    """Two more algorithms make six pairs; naming the task distribution, or the order of A and B, changes nothing."""
    for algo, level in (("a", 0.8), ("b", 0.5), ("c", 0.4), ("d", 0.3)):
        write_runs(tmp_path, algo, [level, level - 0.05, level + 0.06 * (algo == "a") + 0.03])
    write_runs(tmp_path / "f", "a", [0.1, 0.2, 0.3], env="f")
    write_runs(tmp_path / "f", "b", [0.2, 0.3, 0.1], env="f")

    def p(*arguments: object) -> tuple[float, int]:
        content = json.loads(bench("compare", *arguments, "--results", tmp_path, "--json").out)["comparisons"]
        (found,) = [c for c in content if c["env"] == "e" and c["decision"] != "not decided"]
        return found["p_holm"], found["family"]

    assert p("a", "b") == p("a", "b", "--env", "e") == p("b", "a")
    assert p("a", "b")[1] == 6


def test_other_windows_and_the_area_are_described_and_not_decided(tmp_path: Path, bench: Bench) -> None:
    for algo, level in (("a", 0.8), ("b", 0.5)):
        write_runs(tmp_path, algo, [level, level - 0.05, level + 0.06], tasks=3, episodes=50, env="toy-line")
    outcome = bench("compare", "a", "b", "--results", tmp_path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in outcome.out.splitlines() if "3 pairs" in line]
    assert [(row[0], row[7]) for row in rows] == [
        ("0-20", "not decided"), ("20-40", "better"), ("0-50, area", "not decided")
    ]  # fmt: skip
    threshold = "episodes until the mean of ten reaches 0.5, median of runs and tasks: a 10; b 10 (3 of 9 never did)"
    assert threshold in outcome.out
    asked = json.loads(bench("compare", "a", "b", "--results", tmp_path, "--episodes", "0-10,10-20", "--json").out)
    assert [(c["window"], c["family"]) for c in asked["comparisons"]] == [("0-10", 2), ("10-20", 2)]


def test_one_run_of_each_is_said_once_to_be_too_few(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.7], episodes=40)
    write_runs(tmp_path, "b", [0.5], episodes=40)
    lines = bench("compare", "a", "b", "--results", tmp_path).out.splitlines()
    assert [line for line in lines if "note: one seed" in line] == ["0-20, 20-40, 0-40: note: one seed: no interval"]
    assert "warning: one seed: no interval, and no verdict: at least 3 seeds are needed" in lines


def test_a_comparison_as_json(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.8, 0.75, 0.7], episodes=40)
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
    assert (first["seeds_a"], first["seeds_b"], first["tasks"], first["paired"]) == (3, 3, 6, True)
    assert first["mean_difference"]["point"] == pytest.approx(0.25)
    # Differences 0.3, 0.3, 0.15: mean 0.25, sd 0.0866, t = 5, 2 degrees of freedom.
    assert first["p_value"] == pytest.approx(0.0377, abs=1e-4)
    assert first["p_holm"] == pytest.approx(2 * first["p_value"])
    assert first["decision"] == "untold" and "3 seeds are few" in first["warning"]


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
    """Differences 0.1 + (0.1, -0.1, 0, ...): of variance 0.01."""
    levels = [0.4, 0.5, 0.6, 0.5, 0.4, 0.6, 0.5, 0.5]
    shifts = np.array([1, -1, 1, -1, 1, -1, 1, -1]) * 0.1 * np.sqrt(7 / 8)
    write_runs(tmp_path, "a", levels)
    write_runs(tmp_path, "b", [level + shift for level, shift in zip(levels, shifts, strict=True)])
    outcome = bench("power", tmp_path, "--difference", "0.1", "--power", "0.8")
    assert (outcome.code, outcome.err) == (0, "")
    assert "e, quick (a, b): to see a difference of 0.1" in outcome.out
    # An effect of one standard deviation of the difference: 10 pairs, as in every table of the paired t-test.
    row = next(line for line in outcome.out.splitlines() if "0-20" in line)
    assert "0.100" in row and "paired" in row and "10 [" in row
    assert "How often a nominal 95 % interval holds the truth" in outcome.out


def test_a_spread_that_is_hardly_known_gives_a_range_and_no_advice(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.4, 0.5, 0.6])
    write_runs(tmp_path, "b", [0.5, 0.7, 0.6])
    outcome = bench("power", tmp_path)
    assert "note: the spread is known from 2 degrees of freedom: too few for advice" in outcome.out
    row = next(line for line in outcome.out.splitlines() if "0-20" in line)
    assert " to " in row and "[" not in row


def test_a_family_of_comparisons_takes_more_seeds(tmp_path: Path, bench: Bench) -> None:
    for place, algo in enumerate("abcd"):
        write_runs(tmp_path, algo, list(0.5 + 0.1 * np.random.default_rng(place).standard_normal(4)))
    (family,), (alone,) = (
        json.loads(bench("power", tmp_path, "--json", *extra).out)["answers"] for extra in ((), ("--comparisons", "1"))
    )
    assert (family["comparisons"], alone["comparisons"]) == (6, 1)
    assert family["seeds_needed"] > alone["seeds_needed"]
    assert family["power_at"]["5"] < alone["power_at"]["5"]


def test_power_as_json(tmp_path: Path, bench: Bench) -> None:
    write_runs(tmp_path, "a", [0.4, 0.5, 0.6], episodes=40)
    write_runs(tmp_path, "lone", [0.5], episodes=40)
    outcome = bench("power", tmp_path, "--episodes", "20-40", "--difference", "0.2", "--json")
    (answer,) = json.loads(outcome.out)["answers"]
    assert (answer["window"], answer["algorithms"], answer["seeds"]) == ("20-40", ["a"], 3)
    assert (answer["spread"]["run_sd"], answer["spread"]["paired"]) == (pytest.approx(0.1), False)
    assert answer["seeds_needed"] == 6  # two standard deviations, two samples
    assert answer["seeds_needed_range"][0] < 6 < answer["seeds_needed_range"][1]
    assert answer["power_at"]["5"] < 0.8 < answer["power_at"]["10"]
    assert answer["gaps"] == ["lone has one run: not part of the spread"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--difference", "0"], "expected a number above 0, got '0'"),
        (["--power", "1.5"], "expected a number between 0 and 1, got '1.5'"),
        (["--comparisons", "0"], "expected a whole number above 0, got '0'"),
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
        if min(c["seeds_a"], c["seeds_b"]) >= 3:
            assert low < c["mean_difference"]["point"] < high
        else:
            assert low is None and high is None, "one seed or two say nothing about others"
    assert {c["env"] for c in content["comparisons"]} >= {"maze", "kitchen"}
    assert bench("power", ROOT / "results", "--difference", "0.1").code == 0


def test_the_readme_states_the_coverage_of_the_table() -> None:
    page = " ".join((ROOT / "README.md").read_text().split())
    low, high = (f"{100 * end:.0f}" for end in stated_coverage(3, DIFFERENCE))
    assert f"With three seeds a 95 % interval of a difference holds the truth {low} to {high} % of the time" in page
