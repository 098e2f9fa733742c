"""Runs on validation tasks: their rows say so, they can be looked at, and they are in no result."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bench.board import RunBoard
from bench.files import read_sealed_json, write_sealed_json
from bench.statistics.episodes import load_episodes
from bench.summary import summarise
from tests.conftest import ROOT, Bench
from tests.statistics_helpers import write_run
from tests.sweep_helpers import row, start_sweep, sweep_file, toy_environment

RUN = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke")
NAME = "toy-toy-line-smoke-s0-on-validation"
LEFT_OUT = "left out: 1 run (on validation tasks; results are of target tasks)"


@pytest.fixture
def out(tmp_path: Path, bench: Bench) -> Path:
    """A folder with a run on the target tasks and the same on the validation tasks."""
    folder = tmp_path / "runs"
    assert bench(*RUN, "--out", folder).code == 0
    outcome = bench(*RUN, "--on", "validation", "--out", folder)
    assert outcome.code == 0, outcome.err
    assert "Score on the validation tasks" in outcome.out
    return folder


def test_rows_and_record_say_what_was_adapted_to(out: Path) -> None:
    on_target = pd.read_parquet(out / "toy-toy-line-smoke-s0" / "episodes.parquet")
    on_validation = pd.read_parquet(out / NAME / "episodes.parquet")
    assert set(on_target["task_set"]) == {"target"} and set(on_validation["task_set"]) == {"validation"}
    assert set(on_validation["task_name"]) == {"validation-0", "validation-1"}
    records = [json.loads((out / run / "run.json").read_text()) for run in ("toy-toy-line-smoke-s0", NAME)]
    assert [record["task_set"] for record in records] == ["target", "validation"]
    artefacts = [{stage["name"]: stage["artefact"] for stage in record["stages"]} for record in records]
    shared = {name for name in artefacts[0] if artefacts[0][name] == artefacts[1][name]}
    assert shared == {"data", "fit"}


def test_rows_of_training_tasks_say_so() -> None:
    """Of a run that meta-trains: the kinds of its rows, by stage."""
    from bench.plan import RunRequest, plan_run

    plan = plan_run(RunRequest("simpl", "maze", "smoke", task_set="validation"))
    assert {stage.spec.name: plan.task_set_of(stage) for stage in plan.stages} == {
        "data": "", "skills": "", "meta_train": "train", "adapt": "validation",
    }  # fmt: skip


def test_show_and_board_name_the_tasks(out: Path, bench: Bench) -> None:
    shown = bench("show", NAME, "--out", out).out
    assert "adapted on validation tasks; results are of target tasks" in shown
    assert "Score on the validation tasks" in shown
    assert "Score on the target tasks" in bench("show", "toy-toy-line-smoke-s0", "--out", out).out
    assert "Score on the validation tasks, by episode" in bench("board", NAME, "--out", out, "--once").out
    assert RunBoard(out / NAME).look().is_moving is False


def test_no_result_holds_them_and_one_line_says_so(out: Path, bench: Bench, tmp_path: Path) -> None:
    table, left_out = summarise([out])
    (validation,) = left_out
    assert validation.expected and validation.reason in LEFT_OUT and set(table["n_tasks"]) == {3}
    loaded = load_episodes([out])
    assert [group.runs for group in loaded.groups] == [(str(out / "toy-toy-line-smoke-s0"),)]
    for command in (
        ("summary", out, "-o", tmp_path / "summary.csv"),
        ("plot", out, "-o", tmp_path / "curves.png"),
        ("report", out, "-o", tmp_path / "report"),
    ):
        outcome = bench(*command)
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("left out") == 1 and LEFT_OUT in outcome.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert NAME not in page and "toy-toy-line-smoke-s0" in page


def test_runs_are_compared_and_counted_without_them(out: Path, bench: Bench) -> None:
    for seed in (1, 2):
        assert bench(*RUN, "--out", out, "--seed", seed).code == 0
        assert bench(*RUN, "--out", out, "--seed", seed, "--on", "validation").code == 0
    power = bench("power", out, "--json")
    assert json.loads(power.out)["answers"][0]["seeds"] == 3
    assert "left out: 3 runs (on validation tasks" in power.err
    assert [run["expected"] for run in json.loads(power.out)["excluded"]] == [True] * 3


def test_a_folder_of_validation_runs_alone_has_no_result(out: Path, bench: Bench, tmp_path: Path) -> None:
    only = tmp_path / "only"
    assert bench("export", out / NAME, only).code == 0
    outcome = bench("plot", only, "-o", tmp_path / "curves.png")
    assert outcome.code == 2 and "on validation tasks; results are of target tasks" in outcome.err
    table, left_out = summarise([only])
    assert table.empty and len(left_out) == 1


def test_older_runs_are_on_target_tasks(tmp_path: Path) -> None:
    write_run(tmp_path / "old", [0.5])  # as runs were written before there were validation tasks
    assert len(load_episodes([tmp_path]).groups) == 1
    shipped = json.loads((ROOT / "results" / "runs" / "spirl-maze-quick-s0" / "run.json").read_text())
    assert "task_set" not in shipped


def test_a_sweep_adapts_to_them_beside_targets(tmp_path: Path, bench: Bench) -> None:
    file = sweep_file(tmp_path, row(), row().replace("seeds", 'on = "validation"\nseeds'))
    process = start_sweep(file, tmp_path / "runs", toy_environment(tmp_path), "--max-parallel", 1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {path.parent.name for path in (tmp_path / "runs").glob("*/episodes.parquet")} >= {
        "toy-toy-line-smoke-s0", NAME,
    }  # fmt: skip
    rows = pd.read_parquet(tmp_path / "runs" / NAME / "episodes.parquet")
    assert set(rows["task_name"]) == {"validation-0", "validation-1"}
    assert (
        "Score on the target or validation tasks"
        in bench("board", "toys-smoke", "--out", tmp_path / "runs", "--once").out
    )


def test_a_failed_stage_of_theirs_is_no_failure_of_a_result(out: Path, bench: Bench, tmp_path: Path) -> None:
    path = out / NAME / "run.json"
    write_sealed_json(path, read_sealed_json(path, "") | {"status": "failed"})
    assert bench("report", out, "-o", tmp_path / "report").code == 0
    assert NAME not in (tmp_path / "report" / "index.html").read_text()


def test_a_distribution_without_them_is_refused_in_one_line(bench: Bench, tmp_path: Path) -> None:
    outcome = bench("run", "--algo", "sac", "--env", "pendulum", "--on", "validation", "--out", tmp_path / "runs")
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert "pendulum has no validation tasks; those that have: maze, maze-20, " in outcome.err
    assert not (tmp_path / "runs").exists()
    assert "did you mean 'validation'" in bench(*RUN, "--on", "validatoin").err
