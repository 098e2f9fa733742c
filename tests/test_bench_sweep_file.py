"""Sweep files: what they say, and every mistake in one is named in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from algorithms.registry import algorithm_names
from bench.config import Override
from bench.errors import UserError
from bench.plan import RunRequest
from bench.sweep import plan_runs
from bench.sweep_file import load_sweep, parse_sweep, shipped_sweeps
from tests.conftest import ROOT

GOOD = """
name = "mine"
title = "Mine"
[[presets.smoke]]
algorithms = ["a", "b"]
envs = ["e"]
seeds = [0, 7]
tasks = [0, 3]
data = "human"
overrides = { "fit.learning_rate" = 1e-4, "fit.nesterov" = true, "fit.widths" = [8, 16], "fit.kind" = "tanh" }
[[presets.smoke]]
algorithms = ["c"]
envs = ["e", "f"]
until = "fit"
"""


def test_rows_are_crossed() -> None:
    overrides = (
        Override("fit.learning_rate", "0.0001"), Override("fit.nesterov", "true"), Override("fit.widths", "8,16"),
        Override("fit.kind", "tanh"),
    )  # fmt: skip
    requests = parse_sweep(GOOD, "file").requests("smoke")
    assert requests == [
        *(RunRequest(algo, "e", "smoke", seed, (0, 3), overrides, "human") for algo in "ab" for seed in (0, 7)),
        RunRequest("c", "e", "smoke", 0, until="fit"),
        RunRequest("c", "f", "smoke", 0, until="fit"),
    ]


def test_a_row_says_what_is_adapted_to() -> None:
    text = GOOD.replace('until = "fit"', 'on = "validation"')
    task_sets = [(request.algo, request.task_set) for request in parse_sweep(text, "file").requests("smoke")]
    assert set(task_sets) == {("a", "target"), ("b", "target"), ("c", "validation")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('title = "Mine"', 'titel = "Mine"'), "file: unknown field 'titel': did you mean 'title'? valid: name, title"),
        (("seeds = [0, 7]", "seed = [0]"), "file: smoke, row 1: unknown field 'seed': did you mean 'seeds'?"),
        (('algorithms = ["c"]\n', ""), "file: smoke, row 2: the field 'algorithms' is missing"),
        (("seeds = [0, 7]", "seeds = [0, 0]"), "row 1: seeds: expected a list of different whole numbers, got [0, 0]"),
        (("seeds = [0, 7]", "seeds = [true]"), "seeds: expected a list of different whole numbers, got [True]"),
        (("tasks = [0, 3]", 'on = "train"'), "row 1: on: expected target or validation, got 'train'"),
        (("tasks = [0, 3]", "tasks = [-1]"), "tasks: expected whole numbers from 0, got -1"),
        (('envs = ["e"]', 'envs = "e"'), "envs: expected a list of different texts, got 'e'"),
        (('"fit.kind" = "tanh"', 'fit.kind = "tanh"'), 'put quotes around the name: "fit.kind"'),
        (
            ('title = "Mine"', 'picture = "maps"'),
            "file: picture: expected learning, first-episodes, meta-training, got 'maps'",
        ),
        (('name = "mine"', 'name = "../mine"'), "name: expected letters, digits, - _ and +, got '../mine'"),
        (('name = "mine"', "name = mine"), "file is not TOML: "),
        (("[[presets.smoke]]", "[presets.smoke]"), "file is not TOML: "),
    ],
)
def test_a_mistake_is_named(change: tuple[str, str], message: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(UserError) as caught:
        parse_sweep(text, "file")
    assert message in str(caught.value)


def test_unknown_names_come_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'figure5': did you mean 'figure"):
        load_sweep("figure5")
    with pytest.raises(UserError, match=r"preset of the sweep figure4 'quik': did you mean 'quick'"):
        load_sweep("figure4").requests("quik")
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_sweep(str(path)).name == "mine"


@pytest.mark.parametrize("name", shipped_sweeps())
@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_shipped_sweeps_plan_whatever_is_registered(name: str, preset: str) -> None:
    spec = load_sweep(name)
    assert spec.name == name
    requests = spec.requests(preset)
    plans, left_out = plan_runs(requests)
    assert len(plans) + sum(int(line.rpartition("(")[2].split()[0]) for line in left_out) == len(requests)
    for line in left_out:
        assert "is not registered" in line, line
    assert all(plan.request.algo in algorithm_names() for plan in plans)


def test_the_sweep_file_on_the_page_can_be_planned() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "slurm" / "README.md").read_text(), flags=re.DOTALL)
    plans, left_out = plan_runs(parse_sweep(text, "slurm/README.md").requests("quick"))
    assert (len(plans), left_out) == (8, ())


def test_what_is_not_registered_is_left_out_and_said_once() -> None:
    requests = [RunRequest(algo, "toy-line", "smoke", seed) for algo in ("toy", "gone") for seed in (0, 1)]
    requests += [RunRequest("toy", "nowhere", "smoke"), RunRequest("toy", "toy-line", "paper")]
    plans, left_out = plan_runs(requests)
    assert [plan.request for plan in plans] == requests[:2]
    assert left_out == (
        "algorithm 'gone' is not registered (2 runs)",
        "task distribution 'nowhere' is not registered (1 run)",
        "toy on toy-line has no preset 'paper' (1 run)",
    )


def test_a_wrong_override_is_refused_not_left_out() -> None:
    with pytest.raises(UserError, match=r"unknown field 'fit.update'.*did you mean 'fit.updates'"):
        plan_runs([RunRequest("toy", "toy-line", "smoke", overrides=(Override("fit.update", "3"),))])
