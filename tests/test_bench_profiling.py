"""``bench profile``: what it times, of which algorithms, and what it says where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import algorithms.registry
from algorithms.registry import register_algorithm
from algorithms.stage import CrossCheck
from bench.profiling import Profile, ProfileRequest, make_profile
from bench.store import Machine
from tests import toy
from tests.conftest import Bench
from tests.contract_helpers import ALGORITHMS, cheapest_world, found

pytestmark = pytest.mark.usefixtures("denormals")

SLOWER_TOY = replace(
    toy.ALGORITHM,
    name="slower-toy",
    stages=(replace(toy.FIT, config_class=toy.FitConfig), toy.ADAPT),
    presets={key: {**values, "fit.pause_seconds": 0.01} for key, values in toy.ALGORITHM.presets.items()},
    cross_check=CrossCheck("toy", "fit", ({"learning_rate": "0.1"}, {"learning_rate": "0.2"})),
)


@pytest.fixture
def _slower_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms.registry, "_entries", dict(algorithms.registry._entries))
    register_algorithm("slower-toy", "tests.test_bench_profiling:SLOWER_TOY", "the toy, taking its time")


def profile(**request: Any) -> Profile:
    return make_profile(ProfileRequest(preset="smoke", seconds=0, **request), Machine("cpu", 1))


def test_every_stage_that_says_so_is_timed_from_untrained_artefacts() -> None:
    """The toy's second stage reads the first one's artefact, and has nothing to time."""
    measured = profile(algos=("toy",), envs=("toy-line",))
    (statistics, row) = measured.rows
    assert (statistics.algos, statistics.stage, statistics.unit) == ((), "statistics", "score matrices")
    assert statistics.count == 1
    assert (row.algos, row.env, row.stage, row.work, row.unit) == (("toy",), "toy-line", "fit", "update", "updates")
    assert row.per_second == pytest.approx(1 / row.timing.wall_seconds)
    assert row.fastest_per_second >= row.per_second > 0
    assert measured.side_by_side == []


@pytest.mark.usefixtures("_slower_toy")
def test_two_implementations_are_timed_side_by_side_at_every_setting() -> None:
    for algos in (("toy",), ("slower-toy",), ("toy", "slower-toy")):
        measured = profile(algos=algos, envs=("toy-line",))
        assert [comparison.setting for comparison in measured.side_by_side] == [
            "fit.learning_rate=0.1", "fit.learning_rate=0.2",
        ]  # fmt: skip
        for comparison in measured.side_by_side:
            first, second = comparison.rows
            assert (first.algos, second.algos) == (("toy",), ("slower-toy",))
            assert second.timing.wall_seconds > 0.01
            assert comparison.speed_ratio == pytest.approx(second.timing.wall_seconds / first.timing.wall_seconds)
            assert comparison.speed_ratio > 1
    assert profile(algos=("maml",), envs=("navigation-2d",)).side_by_side == [], "neither was asked for"


@pytest.mark.usefixtures("_slower_toy")
def test_a_stage_that_two_algorithms_share_is_timed_once() -> None:
    register_algorithm("toy-again", "tests.toy:ALGORITHM", "the toy once more")
    rows = [row for row in profile(algos=("toy", "toy-again", "slower-toy"), envs=("toy-line",)).rows if row.algos]
    assert [row.algos for row in rows] == [("toy", "toy-again"), ("slower-toy",)]


def test_fields_can_be_changed_and_the_output_is_json(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--seconds", "0", "--json")
    outcome = bench("profile", *arguments, "--fit.pause_seconds", "0.02")
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    assert set(content) == {
        "machine", "versions", "preset", "overrides", "rows", "side_by_side", "unavailable",
    }  # fmt: skip
    assert content["machine"] == {"device": "cpu", "threads": 1}
    assert content["overrides"] == {"fit.pause_seconds": "0.02"}
    (row,) = [row for row in content["rows"] if row["stage"] == "fit"]
    assert row["timing"]["wall_seconds"] >= 0.02
    assert 0 < row["per_second"] <= 50
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_table_for_people_says_what_was_timed(bench: Bench) -> None:
    outcome = bench("profile", "--algo", "sac", "--env", "pendulum", "--preset", "smoke", "--seconds", "0")
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if "│ sac " in line and "pendulum" in line]
    assert [("roll-out" in line, "env_steps" in line, "updates" in line) for line in lines[:2]] == [
        (True, True, False), (False, False, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algo", "toyy"], "unknown algorithm 'toyy': did you mean 'toy'"),
        (["--env", "toy-lime"], "unknown task distribution 'toy-lime'"),
        (["--algo", "toy", "--env", "pendulum"], "nothing to time: toy needs offline data and pendulum has none"),
        (["--algo", "toy", "--env", "toy-line", "--preset", "paper"], "no preset 'paper'; valid: smoke, quick"),
        (["--algo", "toy", "--env", "toy-line", "--fit.updats", "3"], "did you mean 'fit.updates'"),
        (["--seconds", "x"], "expected seconds"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str, bench: Bench) -> None:
    outcome = bench("profile", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_stage_of_every_algorithm_has_something_to_time(name: str) -> None:
    """On the world where it runs cheapest, at smoke."""
    known = found(name)
    rows = [row for row in profile(algos=(name,), envs=(cheapest_world(known),)).rows if name in row.algos]
    for stage in known.stages:
        work = {row.work for row in rows if row.stage == stage.name}
        assert work & {"update", "encoding"}, stage.name
        if stage.tasks != "none" and stage.name != "distil":
            assert "roll-out" in work, stage.name
    assert all(row.count >= 1 and row.per_second > 0 for row in rows)
