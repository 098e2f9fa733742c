"""``bench tune`` with the toy, as processes of their own: trials are runs, a kill loses nothing, a call adds trials."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from algorithms.stage import Between, OneOf, StageContext
from bench.files import read_sealed_json
from bench.plan import RunRequest, plan_run
from bench.tune import usable_space
from tests.conftest import ROOT, Bench
from tests.sweep_helpers import start, toy_environment
from tests.test_bench_local_executor import wait_for
from tests.toy import ADAPT, ALGORITHM, AdaptStage

TUNE = ("tune", "--algo", "toy", "--env", "toy-line", "--preset", "smoke")
NAME = "toy-toy-line-smoke-s0-on-validation"


pytestmark = pytest.mark.timeout(900)  # a dozen processes each, which load torch


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=800)
    return process.returncode, out, err


class Fragile(AdaptStage):
    """Raises in its first episode where the aim is high."""

    def __init__(self, config: Any, context: StageContext) -> None:
        super().__init__(config, context)
        if config.aim > 0.3:
            raise ArithmeticError("aimed too high")


FRAGILE = dataclasses.replace(
    ALGORITHM, name="fragile", stages=(ALGORITHM.stages[0], dataclasses.replace(ADAPT, factory=Fragile))
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return toy_environment(tmp_path / "plugin", more="fragile = tests.test_bench_tune:FRAGILE")


def trials_of(out: Path, name: str = NAME) -> list[dict[str, str]]:
    """The lines of ``trials.csv``, without wall times."""
    text = (out / "tuning" / name / "trials.csv").read_text()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(io.StringIO(text))]


def test_trials_are_runs_and_what_was_found_is_a_difference_to_the_preset(
    tmp_path: Path, environment: dict[str, str], bench: Bench
) -> None:
    out = tmp_path / "runs"
    code, said, err = finish(start(*TUNE, "--trials", 4, "--out", out, environment=environment))
    assert (code, err) == (0, "")
    trials = trials_of(out)
    assert [trial["trial"] for trial in trials] == ["0", "1", "2", "3"]
    assert trials[0]["adapt.aim"] == "0.0", "the preset itself"
    # The score is the mean return over all episodes and tasks of the trial's run.
    scores = {}
    for folder in out.glob("toy-toy-line-smoke-s0-on-validation*"):
        record, rows = json.loads((folder / "run.json").read_text()), pd.read_parquet(folder / "episodes.parquet")
        assert record["task_set"] == "validation" and len(rows) == 2 * 25
        scores[float(record["overrides"].get("adapt.aim", 0.0))] = rows["return"].mean()
    assert {float(trial["adapt.aim"]): float(trial["score"]) for trial in trials} == pytest.approx(scores, abs=1e-5)
    assert len(list(out.glob("artefacts/fit-*"))) == 1, "what trials share is computed once"

    best = max(trials, key=lambda trial: float(trial["score"]))
    found_path = out / "tuning" / NAME / "found.toml"
    assert best["trial"] != "0"
    assert tomllib.loads(found_path.read_text()) == {"overrides": {"adapt.aim": float(best["adapt.aim"])}}
    command = f"bench run --algo toy --env toy-line --preset smoke --seed 0 --adapt.aim {best['adapt.aim']}"
    assert command in found_path.read_text() and command in said
    assert f"the best of 4 trials is number {best['trial']}" in said
    assert bench("status", f"tune-{NAME}", "--out", out).code == 0

    # A second call adds trials, as if they had been asked for at once.
    code, said, err = finish(start(*TUNE, "--trials", 3, "--out", out, environment=environment))
    assert (code, err) == (0, "") and "adding trials, 4 of 7 trials are there" in said
    assert trials_of(out)[:4] == trials and len(trials_of(out)) == 7
    once = tmp_path / "once"
    code, _, err = finish(start(*TUNE, "--trials", 7, "--out", once, environment=environment))
    assert (code, err) == (0, "") and trials_of(once) == trials_of(out)

    exported = bench("export", out / "tuning" / NAME, tmp_path / "kept")
    assert exported.code == 0
    assert {path.name for path in (tmp_path / "kept" / NAME).iterdir()} == {"tuning.json", "trials.csv", "found.toml"}
    assert "exists; remove it" in bench("export", out / "tuning" / NAME, tmp_path / "kept").err
    summary = bench("summary", out, "-o", tmp_path / "summary.csv")
    assert "0 lines" in summary.out and "left out: 7 runs (on validation tasks" in summary.err


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_stopped_tuning_ends_where_it_would_have_ended(
    tmp_path: Path, environment: dict[str, str], sign: signal.Signals
) -> None:
    slow = (*TUNE, "--trials", 3, "--adapt.pause_seconds", "0.1", "--checkpoint-seconds", 0)
    out = tmp_path / "runs"
    process = start(*slow, "--out", out, environment=environment)
    # Its second trial is in the middle of its episodes.
    wait_for(
        lambda: (
            any(path.stat().st_size > 2000 for path in out.glob("artefacts/adapt-*.partial/episodes.jsonl"))
            and len(list(out.glob("toy-*/summary.json"))) == 1
        ),
        seconds=240,
    )
    process.send_signal(sign)
    code, said, err = finish(process)
    if sign == signal.SIGINT:
        assert code == 130 and "everything is saved: the same command goes on" in err
    else:
        assert code == -signal.SIGKILL
        wait_for(lambda: not _workers(out))
    code, said, err = finish(start(*slow, "--out", out, environment=environment))
    assert (code, err) == (0, "") and "going on, 1 of 3 trials are there" in said
    whole = tmp_path / "whole"
    code, _, err = finish(start(*slow, "--out", whole, environment=environment))
    (name,) = (path.name for path in (whole / "tuning").iterdir())
    assert (code, err) == (0, "") and trials_of(out, name) == trials_of(whole, name)
    for folder in whole.glob("toy-*"):
        tables = [pd.read_parquet(place / folder.name / "episodes.parquet") for place in (out, whole)]
        pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))


def _workers(out: Path) -> str:
    """Processes that still work below ``out``."""
    return subprocess.run(["pgrep", "-f", f"bench .*{out}"], capture_output=True, text=True, check=False).stdout


def test_a_trial_that_falls_behind_is_stopped_in_its_middle(tmp_path: Path, environment: dict[str, str]) -> None:
    """And just the same trials are given up where episodes are too fast for anybody to look at them in between."""
    out = tmp_path / "runs"
    slow = (*TUNE, "--trials", 9, "--adapt.episodes", 60, "--adapt.pause_seconds", "0.1", "--out", out)
    code, said, err = finish(start(*slow, environment=environment))
    assert (code, err) == (0, "")
    (folder,) = (out / "tuning").iterdir()
    trials = trials_of(out, folder.name)
    given_up = [trial for trial in trials if trial["state"] == "given up"]
    assert given_up and {trial["episodes"] for trial in given_up} <= {"20", "40"}
    assert said.count("given up: adapt-") >= 1, "it was stopped, not only left out"
    assert len(list(out.glob("toy-*/summary.json"))) < 9
    assert {trial["state"] for trial in trials[:4]} == {"done"}
    fast = (*TUNE, "--trials", 9, "--adapt.episodes", 60, "--out", tmp_path / "fast")
    assert finish(start(*fast, environment=environment))[0] == 0
    (other,) = (tmp_path / "fast" / "tuning").iterdir()
    assert trials_of(tmp_path / "fast", other.name) == trials


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "runs"
    words = ("tune", "--algo", "fragile", "--env", "toy-line", "--preset", "smoke", "--trials", 6, "--parallel", 2)
    code, _, err = finish(start(*words, "--out", out, environment=environment))
    assert (code, err) == (0, "")
    trials = trials_of(out, "fragile-toy-line-smoke-s0-on-validation")
    states = {trial["trial"]: trial["state"] for trial in trials}
    assert states["0"] == "done" and "failed" in states.values()
    for trial in trials:
        assert (trial["state"] == "failed") is (float(trial["adapt.aim"]) > 0.3)
        assert trial["reason"] == ("ArithmeticError: aimed too high" if trial["state"] == "failed" else "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algo", "toy"], "bench tune needs --env NAME"),
        (["--algo", "sac", "--env", "pendulum"], "pendulum has no validation tasks; those that have: maze, "),
        (["--algo", "sac-tianshou", "--env", "maze"], "sac-tianshou declares no search space; those that do: simpl, "),
        (["--algo", "toy", "--env", "toy-line", "--trials", "0"], "expected a whole number from 1"),
        (["--algo", "toy", "--env", "toy-line", "--adapt.aim", "0.5"], "nothing is left to tune for toy: adapt.aim"),
        (["--algo", "toy", "--env", "toy-line", "--adapt.aims", "0.5"], "unknown field 'adapt.aims'"),
        (["--algo", "toy", "--env", "toy-line", "--executor", "slurm", "--profile", "none"], "unknown profile 'none'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    bench: Bench, tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = bench("tune", *arguments, "--out", tmp_path / "runs")
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "runs" / "tuning").exists()


def test_another_search_in_the_same_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tuning" / NAME
    folder.mkdir(parents=True)
    from bench.tune_results import StudyRecord

    plan = plan_run(RunRequest("toy", "toy-line", "smoke", task_set="validation"))
    StudyRecord.of(plan, {"adapt.aim": Between(0.0, 0.5)}, {"adapt.aim": 0.0}).keep(folder / "tuning.json")
    assert read_sealed_json(folder / "tuning.json", "")["space"] == {"adapt.aim": [0.0, 0.5]}
    outcome = bench(*TUNE, "--out", tmp_path / "runs")
    assert outcome.code == 2 and "is of another search (space changed since)" in outcome.err


def test_two_at_once_are_refused(bench: Bench, tmp_path: Path) -> None:
    from bench.sweep import sweep_lock

    code = "import sys, time; from pathlib import Path; from bench.sweep import sweep_lock\n"
    code += "with sweep_lock(sys.argv[1], Path(sys.argv[2])): print('held', flush=True); time.sleep(600)"
    words = [sys.executable, "-c", code, f"tune-{NAME}", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        outcome = bench(*TUNE, "--out", tmp_path)
        assert outcome.code == 2 and f"is already running in pid {holder.pid}" in outcome.err
        holder.kill()
    with sweep_lock(f"tune-{NAME}", tmp_path):
        pass


def test_values_that_a_preset_refuses_are_not_tried() -> None:
    plan = plan_run(RunRequest("pearl", "maze", "smoke", task_set="validation"))  # of four episodes
    space = usable_space(plan)
    assert space["adapt.exploration_episodes"] == OneOf((1, 2, 3))
    assert space["adapt.posterior_sampling"] == OneOf((False, True))


def test_help_teaches(bench: Bench) -> None:
    text = " ".join(bench("tune", "--help").out.split())
    for part in (
        "never on target tasks",
        "The first trial is the preset itself",
        "the command adds trials",
        "found.toml",
    ):
        assert part in text
