"""Scores, rows and run folders made by hand, for the tests of statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.loading import StoredRun, sound_runs
from bench.statistics.episodes import EpisodeReturns, FloatArray, LoadedEpisodes, group_runs
from bench.statistics.scores import ScoreMatrix

NAN = float("nan")


def matrix(
    values: Sequence[Sequence[float]] | FloatArray, score_range: tuple[float, float] | None = None
) -> ScoreMatrix:
    array = np.array(values, dtype=float)
    return ScoreMatrix(array, tuple(range(array.shape[0])), tuple(range(array.shape[1])), score_range)


def returns(values: FloatArray, label: str = "one", score_range: tuple[float, float] | None = None) -> EpisodeReturns:
    """Returns (S, N, E) as a group."""
    seeds, tasks = tuple(range(values.shape[0])), tuple(range(values.shape[1]))
    names = tuple(f"task-{task}" for task in tasks)
    return EpisodeReturns(label, "e", "quick", seeds, tasks, names, values, score_range, ())


def run_rows(scores: Sequence[float], episodes: int = 20, **columns: Any) -> pd.DataFrame:
    """Rows of a run with the same return in each episode of a task; one score per task."""
    tables = [
        pd.DataFrame({"task": task, "task_name": f"task-{task}", "episode": range(episodes), "return": score})
        for task, score in enumerate(scores)
    ]
    fixed = {"phase": "adapt", "status": "ok", "run": "r", "label": "a", "env": "e", "preset": "quick", "seed": 0}
    return pd.concat(tables, ignore_index=True).assign(**{**fixed, **columns})


def group_episodes(rows: pd.DataFrame) -> LoadedEpisodes:
    """Rows of many runs, told apart by their columns, read as those of run folders are."""
    runs = []
    for name, part in rows.groupby("run", sort=True):
        record = {key: part.iloc[0][column] for key, column in
                  (("algo", "label"), ("env", "env"), ("preset", "preset"), ("seed", "seed"))}  # fmt: skip
        runs.append(StoredRun(Path(str(name)), record, part.drop(columns=["run", "label"]).reset_index(drop=True)))
    loaded = sound_runs(runs)
    return LoadedEpisodes(group_runs(loaded.runs), loaded.excluded)


def write_run(folder: Path, scores: Sequence[float], episodes: int = 20, error: str = "", **record: Any) -> None:
    """A run folder as ``bench run`` leaves it."""
    folder.mkdir(parents=True)
    content = {
        "run": folder.name, "algo": "a", "env": "e", "preset": "quick", "seed": 0, "status": "done", "stages": [],
        **record,
    }  # fmt: skip
    of = {name: content[name] for name in ("algo", "env", "preset", "seed")}
    rows = run_rows(scores, episodes).drop(columns="label").assign(error="", **of)
    if error:
        last = {**rows.iloc[-1], "phase": "", "task": -1, "return": NAN, "status": "failed", "error": error}
        rows = pd.concat([rows, pd.DataFrame([last])], ignore_index=True)
    rows.to_parquet(folder / "episodes.parquet")
    (folder / "run.json").write_text(json.dumps(content))


def score_arrays(min_seeds: int = 2, max_seeds: int = 5, tasks: int | None = None) -> st.SearchStrategy[FloatArray]:
    """Complete scores (S, N), ties included: multiples of 1/64, so that sums are exact."""
    shapes = st.tuples(st.integers(min_seeds, max_seeds), st.integers(1, 4) if tasks is None else st.just(tasks))
    return shapes.flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.integers(-64, 128).map(lambda number: number / 64))
    )
