"""Scores in windows, summaries of many runs, and export, from rows made by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from bench.curve import draw_curve
from bench.reporting.figures.artefacts import latent_figures
from bench.reporting.inputs import load_inputs
from bench.reporting.palette import look_of_algorithm
from bench.results import (
    exploration_episodes,
    learning_curve,
    smoothed_curve,
    window_scores,
)
from bench.summary import summarise, write_summary
from tests.conftest import Bench


def rows(task: int, returns: list[float], phase: str = "adapt", status: str = "ok") -> pd.DataFrame:
    return pd.DataFrame(
        {"phase": phase, "task": task, "episode": range(len(returns)), "return": returns, "status": status}
    )


def write_run(folder: Path, table: pd.DataFrame, **record: Any) -> None:
    folder.mkdir(parents=True)
    table.to_parquet(folder / "episodes.parquet")
    content = {
        "run": folder.name, "algo": "a", "env": "e", "preset": "quick", "seed": 0, "status": "done",
        "stages": [
            {"name": "x", "artefact": "x-0", "done": True, "seconds": 10.0},
            {"name": "y", "artefact": "y-0", "done": True, "seconds": 2.25},
        ],
        **record,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))


def test_a_window_is_half_open_and_the_mean_is_over_tasks() -> None:
    table = pd.concat([rows(0, [0.0] * 20 + [1.0] * 20), rows(4, [0.5] * 20 + [0.0] * 20)])
    scores = {score.name: (score.mean_score, score.n_tasks) for score in window_scores(table)}
    assert scores == {"0-20": (0.25, 2), "20-40": (0.5, 2)}


def test_exploration_counts_and_training_episodes_of_other_phases_do_not() -> None:
    table = pd.concat([rows(0, [1.0] * 20, phase="explore"), rows(0, [0.0] * 30, phase="meta_train_prior")])
    assert [(score.name, score.mean_score) for score in window_scores(table)] == [("0-20", 1.0)]


def test_a_task_that_has_not_completed_a_window_is_not_averaged_in() -> None:
    table = pd.concat([rows(0, [1.0] * 40), rows(1, [0.0] * 39)])
    assert [(score.mean_score, score.n_tasks) for score in window_scores(table)] == [(0.5, 2), (1.0, 1)]


def test_failure_rows_are_not_scores() -> None:
    table = pd.concat([rows(0, [1.0] * 20), rows(-1, [float("nan")], phase="", status="failed")])
    assert [score.mean_score for score in window_scores(table)] == [1.0]


def test_the_learning_curve_ends_where_not_all_tasks_have_episodes() -> None:
    curve = learning_curve(pd.concat([rows(0, [0.0, 1.0, 1.0]), rows(1, [1.0, 1.0])]))
    assert curve.to_dict() == {0: 0.5, 1: 1.0}


def test_smoothing_does_not_reach_across_the_end_of_exploration() -> None:
    adapted = rows(0, [1.0] * 30)
    adapted["episode"] += 20
    table = pd.concat([rows(0, [0.0] * 20, phase="explore"), adapted])
    assert exploration_episodes(table) == 20
    assert smoothed_curve(table, 10).tolist() == [0.0] * 20 + [1.0] * 30


def test_without_exploration_the_curve_is_a_plain_centred_mean() -> None:
    table = rows(0, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert exploration_episodes(table) == 0
    assert smoothed_curve(table, 3).tolist() == [0.5, 1.0, 2.0, 3.0, 3.5]


def test_the_summary_has_one_line_per_run_and_window(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", rows(0, [0.25] * 40))
    write_run(tmp_path / "runs" / "deep" / "two", rows(0, [1 / 3] * 20), seed=1, algo="b")
    changed = {"overrides": {"skills.prior": "flow"}, "data": "human"}
    write_run(tmp_path / "runs" / "three", rows(0, [0.5] * 20), **changed)
    lines, left_out = write_summary([tmp_path], tmp_path / "new" / "summary.csv")
    assert (lines, left_out) == (4, ())
    assert (tmp_path / "new" / "summary.csv").read_text().splitlines() == [
        "env,algo,preset,changes,seed,window,mean_score,n_tasks,seconds",
        "e,b,quick,,1,0-20,0.3333,1,12.2",
        "e,a,quick,,0,0-20,0.25,1,12.2",
        "e,a,quick,,0,20-40,0.25,1,12.2",
        "e,a,quick,--skills.prior flow --data human,0,0-20,0.5,1,12.2",
    ]


def test_unfinished_and_nan_runs_are_named_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "good", rows(0, [1.0] * 20))
    write_run(tmp_path / "failed", rows(0, [1.0] * 20), status="failed")
    write_run(tmp_path / "nan", rows(0, [float("nan")] + [1.0] * 19))
    table, left_out = summarise([tmp_path])
    assert len(table) == 1
    reasons = {Path(run.run).name: run.reason for run in left_out}
    assert reasons == {"failed": "failed", "nan": "1 return is not finite, the first in task 0, episode 0"}


def test_a_run_is_exported_without_weights_and_summarised(tmp_path: Path, bench: Bench) -> None:
    out, results = tmp_path / "runs", tmp_path / "results"
    bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", out)
    exported = bench("export", out / "toy-toy-line-smoke-s0", results / "runs")
    assert exported.code == 0
    folder = results / "runs" / "toy-toy-line-smoke-s0"
    assert {path.name for path in folder.iterdir()} == {
        "episodes.parquet", "config.yaml", "summary.json", "curve.png", "run.json", "metrics-data.jsonl.gz",
        "metrics-fit.jsonl.gz", "latents-fit.npz",
    }  # fmt: skip
    (kept,) = latent_figures(load_inputs([results])).items
    (fresh,) = latent_figures(load_inputs([out])).items
    assert (kept.name, kept.caption) == (fresh.name, fresh.caption)
    assert len(gzip.decompress((folder / "metrics-fit.jsonl.gz").read_bytes()).splitlines()) == 10
    record = json.loads((folder / "run.json").read_text())
    assert record["stages"][1]["manifest"]["metrics"]["final_loss"] >= 0
    summary = bench("summary", results, "-o", results / "summary.csv")
    assert summary.out == f"1 lines in {results / 'summary.csv'}\n"
    assert (results / "summary.csv").read_text().splitlines()[1].startswith("toy-line,toy,smoke,,0,0-20,")
    assert bench("export", out / "toy-toy-line-smoke-s0", results / "runs").code == 2
    assert bench("show", folder).code == 0


def test_curves_of_negative_returns_are_drawn_where_they_are(tmp_path: Path, bench: Bench) -> None:
    """A lowest possible return far below what is learned does not flatten the curve, and 0 is no floor."""
    table = rows(0, [-20.0] * 15 + [-5.0] * 15)
    draw_curve(table, (-3000.0, 0.0), "negative", tmp_path / "curve.png")
    write_run(tmp_path / "run", table)
    assert bench("plot", tmp_path, "-o", tmp_path / "plot.png").code == 0
    for name, colour in (("curve", "#0072B2"), ("plot", look_of_algorithm("a").colour)):
        image = imageio.imread(tmp_path / f"{name}.png")[..., :3] / 255
        lines = image[: int(0.8 * len(image))]  # above the legend, which has a line of this colour, too
        rows_of_curve = np.flatnonzero((np.abs(lines - to_rgb(colour)).max(axis=2) < 0.05).any(axis=1))
        assert rows_of_curve.max() - rows_of_curve.min() > len(image) / 3, f"{name}: the curve is flat"


def test_runs_are_drawn_beside_published_curves(tmp_path: Path, bench: Bench) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"s{seed}", rows(0, [seed * 0.5] * 30), seed=seed)
    paper = tmp_path / "paper.csv"
    paper.write_text("domain,algorithm,episode,mean\ne,A,0,0.1\ne,A,20,0.6\n")
    drawn = bench("plot", tmp_path / "runs", "-o", tmp_path / "new" / "all.png", "--paper", paper)
    assert (drawn.code, drawn.out) == (0, f"2 runs in {tmp_path / 'new' / 'all.png'}\n")
    assert (tmp_path / "new" / "all.png").read_bytes().startswith(b"\x89PNG")
    for ending, head in ((".svg", b"<?xml"), (".pdf", b"%PDF-")):
        assert bench("plot", tmp_path / "runs", "-o", tmp_path / f"all{ending}").code == 0
        assert (tmp_path / f"all{ending}").read_bytes().startswith(head)
    refused = bench("plot", tmp_path / "runs", "-o", tmp_path / "all.gif")
    assert (refused.code, refused.out) == (2, "")
    assert "cannot be written as '.gif'; valid: .png, .svg, .pdf" in refused.err
    paper.write_text("domain,algorithm,mean\n")
    refused = bench("plot", tmp_path / "runs", "-o", tmp_path / "all.png", "--paper", paper)
    assert refused.code == 2
    assert "lacks the column 'episode'" in refused.err


def test_one_task_distribution_can_be_drawn_alone(tmp_path: Path, bench: Bench) -> None:
    write_run(tmp_path / "runs" / "one", rows(0, [0.5] * 30))
    write_run(tmp_path / "runs" / "other", rows(0, [0.5] * 30), env="other")
    drawn = bench("plot", tmp_path / "runs", "--env", "other", "-o", tmp_path / "other.png")
    assert (drawn.code, drawn.out) == (0, f"1 runs in {tmp_path / 'other.png'}\n")
    refused = bench("plot", tmp_path / "runs", "--env", "othr", "-o", tmp_path / "other.png")
    assert refused.code == 2
    assert "'othr': did you mean 'other'? valid: e, other" in refused.err


@pytest.mark.parametrize("column", ["run", "algo", "env", "preset", "seed", "stage", "task_name", "seconds", "status"])
def test_rows_of_a_run_say_where_they_come_from(tmp_path: Path, bench: Bench, column: str) -> None:
    bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--tasks", "0,2", "--out", tmp_path)
    (folder,) = tmp_path.glob("toy-*")
    table = pd.read_parquet(folder / "episodes.parquet")
    expected = {
        "run": {folder.name}, "algo": {"toy"}, "env": {"toy-line"}, "preset": {"smoke"}, "seed": {0},
        "stage": {"adapt"}, "task_name": {"target-0", "target-2"}, "status": {"ok"},
    }  # fmt: skip
    if column == "seconds":
        assert table["seconds"].is_monotonic_increasing
    else:
        assert set(table[column]) == expected[column]
