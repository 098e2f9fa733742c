"""One way in: whatever is wrong with a run, every reader of results leaves it out, names it and says the same of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.cli import main
from bench.loading import load_runs
from tests.conftest import ROOT, Bench
from tests.statistics_helpers import write_run

Change = Callable[[Path], None]


def rows(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    """Rows of the run, changed."""

    def apply(folder: Path) -> None:
        path = folder / "episodes.parquet"
        change(pd.read_parquet(path)).to_parquet(path)

    return apply


def cell(column: str, value: object, row: int = 5) -> Change:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        if not isinstance(value, int):
            table[column] = table[column].astype(float if isinstance(value, float) else object)
        table.loc[row, column] = value
        return table

    return rows(change)


def record(**changes: object) -> Change:
    """``run.json``, changed; None takes a key away."""

    def apply(folder: Path) -> None:
        path = folder / "run.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return apply


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def same_seed(folder: Path) -> None:
    record(seed=0)(folder)
    rows(lambda t: t.assign(seed=0))(folder)


def cut(folder: Path) -> None:
    path = folder / "episodes.parquet"
    path.write_bytes(path.read_bytes()[:1000])


NAMED = "FOLDER"
"""Stands for the folder of the run in what is said of it."""
RECORD = f"cannot be read: {NAMED}/run.json does not hold what it should: "
TABLE = f"cannot be read: {NAMED}/episodes.parquet cannot be read: "
BAD: dict[str, tuple[Change, str]] = {
    "a truncated table": (cut, "cannot be read: "),
    "an empty table file": (text("episodes.parquet", ""), "cannot be read: "),
    "no table": (lambda folder: (folder / "episodes.parquet").unlink(), "cannot be read: "),
    "a truncated record": (text("run.json", '{"run": "x"'), "cannot be read: "),
    "a record that is a list": (text("run.json", "[1]"), "cannot be read: "),
    "no seed": (record(seed=None), RECORD + "the field 'seed' is missing;"),
    "a seed in words": (record(seed="one"), RECORD + "seed: expected a whole number, got 'one';"),
    "a negative seed": (record(seed=-1), "run.json: seed is -1, expected a whole number from 0 on"),
    "no algorithm": (record(algo=None), RECORD + "the field 'algo' is missing;"),
    "a run that goes on": (record(status="running"), "running"),
    "no return": (rows(lambda t: t.drop(columns="return")), TABLE + "it has no column 'return'"),
    "no phase": (rows(lambda t: t.drop(columns="phase")), TABLE + "it has no column 'phase'"),
    "returns in words": (
        rows(lambda t: t.assign(**{"return": "high"})), TABLE + "its column 'return' holds object, expected",
    ),
    "a NaN": (cell("return", float("nan")), "1 return is not finite, the first in task task-0, episode 5"),
    "infinity": (cell("return", float("inf")), "1 return is not finite, the first in task task-0, episode 5"),
    "a score above the range": (cell("return", 50.0), "1 return is outside 0 to 1, the first 50 in task task-0, epis"),
    "a score below the range": (cell("return", -0.5), "1 return is outside 0 to 1, the first -0.5 in task task-0, ep"),
    "an episode -1": (cell("episode", -1), "episode -1 is no whole number from 0 on"),
    "half an episode": (cell("episode", 5.5), TABLE + "its column 'episode' holds float64, expected int64"),
    "an episode twice": (cell("episode", 4), "task task-0, episode 4 comes twice"),
    "duplicate rows": (rows(lambda t: pd.concat([t, t.tail(3)], ignore_index=True)), "task task-2, episode 37 comes"),
    "a missing episode": (rows(lambda t: t.drop(index=7)), "task 0 lacks episode 7"),
    "rows out of order": (rows(lambda t: t.iloc[::-1]), "the episodes of task 0 are out of order"),
    "env_steps that fall": (rows(lambda t: t.assign(env_steps=10 - t["episode"])), "env_steps -"),
    "env_steps that go back": (
        rows(lambda t: t.assign(env_steps=100 - t["episode"])), "env_steps fall in task task-0, episode 1",
    ),
    "a negative length": (rows(lambda t: t.assign(length=-1)), "length -1 in task task-0, episode 0 is no number from"),
    "a task there is not": (rows(lambda t: t.assign(task=t["task"] + 7)), "target task 9: toy-line has 3, numbered fr"),
    "a failed row": (rows(lambda t: t.assign(status="failed")), "a stage failed"),
    "rows of another run": (rows(lambda t: t.assign(seed=5)), "its rows are of seed 5, run.json says 7"),
    "the same seed again": (same_seed, "repeats seed 0 of "),
    "validation tasks alone": (rows(lambda t: t.assign(task_set="validation")), "no episode of a target task"),
    "a NaN in meta-training": (
        rows(lambda t: pd.concat([t, t.assign(phase="meta_train_prior", **{"return": float("nan")})])),
        "120 returns are not finite, the first in task task-0, episode 0",
    ),
}  # fmt: skip


def study(folder: Path) -> None:
    for seed in range(3):
        for algo, level in (("a", 0.8), ("b", 0.4)):
            scores = [level + 0.02 * seed, level, level + 0.1]
            write_run(folder / f"{algo}-s{seed}", scores, 40, algo=algo, env="toy-line", seed=seed)


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "summary": lambda folder: ("summary", folder / "runs", "-o", folder / "summary.csv"),
    "compare": lambda folder: ("compare", "a", "b", "--results", folder / "runs"),
    "power": lambda folder: ("power", folder / "runs"),
    "plot": lambda folder: ("plot", folder / "runs", "-o", folder / "plot.png"),
}


@pytest.fixture(scope="module")
def undisturbed_words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands print of the study alone."""
    folder = tmp_path_factory.mktemp("study")
    study(folder / "runs")
    found = {}
    for name, arguments in COMMANDS.items():
        with redirect_stdout(io.StringIO()) as out:
            main([str(argument) for argument in arguments(folder)])
        found[name] = out.getvalue().replace(str(folder), "")
    return found


@pytest.mark.parametrize("kind", BAD)
def test_every_reader_leaves_a_bad_run_out_and_says_why(
    kind: str, tmp_path: Path, bench: Bench, undisturbed_words: dict[str, str]
) -> None:
    """What they say of the others is what they say without it."""
    change, reason = BAD[kind]
    study(tmp_path / "runs")
    bad = tmp_path / "runs" / "c-bad"
    reason = reason.replace(NAMED, str(bad))
    write_run(bad, [0.5, 0.6, 0.7], 40, algo="a", env="toy-line", seed=7)
    change(bad)
    outcomes = {name: bench(*arguments(tmp_path)) for name, arguments in COMMANDS.items()}
    (line,) = {outcome.err for outcome in outcomes.values()}
    assert line.startswith(f"left out: {bad} ({reason}") and line.count("\n") == 1, line
    assert {outcome.code for outcome in outcomes.values()} == {0}
    for name, outcome in outcomes.items():
        assert outcome.out.replace(str(tmp_path), "") == undisturbed_words[name]


@pytest.mark.parametrize("kind", ["a truncated table", "a score above the range", "no seed", "the same seed again"])
def test_the_report_leaves_it_out_in_the_same_words(kind: str, tmp_path: Path, bench: Bench) -> None:
    change, reason = BAD[kind]
    study(tmp_path / "runs")
    bad = tmp_path / "runs" / "c-bad"
    reason = reason.replace(NAMED, str(bad))
    write_run(bad, [0.5, 0.6, 0.7], 40, algo="a", env="toy-line", seed=7)
    change(bad)
    outcome = bench("report", tmp_path / "runs", "-o", tmp_path / "report")
    assert outcome.code == 0 and outcome.err.startswith(f"left out: {bad} ({reason}")
    told = outcome.err.removeprefix(f"left out: {bad} (").rstrip()[:-1]
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"<code>{bad}</code>" in page and told.split("'")[0] in page


def test_where_nothing_is_left_it_is_one_line(tmp_path: Path, bench: Bench) -> None:
    write_run(tmp_path / "runs" / "x", [50.0], 40, env="toy-line")
    for arguments in (("compare", "a", "b", "--results"), ("power",)):
        outcome = bench(*arguments, tmp_path / "runs")
        assert outcome.code == 2 and outcome.err.count("\n") == 1
        assert "no run in" in outcome.err and "40 returns are outside 0 to 1" in outcome.err


def test_rows_of_validation_tasks_are_no_result(tmp_path: Path) -> None:
    write_run(tmp_path / "x", [0.5, 0.5], 20, env="toy-line")
    table = pd.read_parquet(tmp_path / "x" / "episodes.parquet").assign(task_set="target")
    both = pd.concat([table, table.assign(task_set="validation", **{"return": 0.1})], ignore_index=True)
    both.to_parquet(tmp_path / "x" / "episodes.parquet")
    (run,) = load_runs([tmp_path]).runs
    assert len(run.rows) == 40 and set(run.rows["return"]) == {0.5}


def test_all_shipped_rows_can_be_believed() -> None:
    loaded = load_runs([ROOT / "results" / "runs", ROOT / "results" / "validation"])
    assert loaded.excluded == () and len(loaded.runs) > 60
    assert all(np.isfinite(run.rows["return"]).all() for run in loaded.runs)
