"""Results of a run: its rows, score windows, learning curves. Those of many runs are read through ``loading.py``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.rows import EPISODES_TABLE, TARGET_PHASES, read_table
from bench.run_record import read_run_record
from envs.core import TARGET

WINDOWS: tuple[tuple[int, int], ...] = ((0, 20), (20, 40), (40, 60), (90, 110), (190, 200), (490, 500))
"""Half-open ranges of target-task episodes over which scores are averaged."""

RUN_COLUMNS = ("run", "algo", "env", "preset", "seed", "stage")


@dataclass(frozen=True)
class WindowScore:
    """The score in one window of target-task episodes."""

    start: int
    stop: int
    mean_score: float
    """Mean over tasks of the mean return of the training episodes in the window."""
    n_tasks: int
    """Tasks that have every episode of the window; others are not part of the mean."""

    @property
    def name(self) -> str:
        """``40-60``."""
        return f"{self.start}-{self.stop}"


def without_validation(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of validation tasks, which are for choosing presets and are no result."""
    return table if "task_set" not in table else table[table["task_set"] != "validation"]


def target_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of episodes of the tasks that were adapted to, as far as they were completed."""
    return table[table["phase"].isin(TARGET_PHASES) & (table["status"] == "ok")]


def window_scores(table: pd.DataFrame, windows: Iterable[tuple[int, int]] = WINDOWS) -> list[WindowScore]:
    """Scores of one run's rows; a window that no task has completed is left out."""
    return _scores(*_target_arrays(table), windows)


def _scores(
    tasks: NDArray[np.int64],
    episodes: NDArray[np.int64],
    returns: NDArray[np.float64],
    windows: Iterable[tuple[int, int]],
) -> list[WindowScore]:
    tasks, task_of_row = np.unique(tasks, return_inverse=True)
    counts_as_played = ~np.isnan(returns)
    scores = []
    for start, stop in windows:
        inside = (episodes >= start) & (episodes < stop) & counts_as_played
        counts = np.bincount(task_of_row[inside], minlength=len(tasks))
        sums = np.bincount(task_of_row[inside], weights=returns[inside], minlength=len(tasks))
        complete = counts == stop - start
        if complete.any():
            means = sums[complete] / counts[complete]
            scores.append(WindowScore(start, stop, float(means.mean()), int(complete.sum())))
    return scores


def _target_arrays(table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Task, episode and return of the ``target_rows``.

    With numpy: pandas takes ten times as long for as few rows as a run has, and a study has a thousand runs.
    """
    phases, states = (table[name].to_numpy(dtype=object) for name in ("phase", "status"))
    is_target = (states == "ok") & np.logical_or.reduce([phases == phase for phase in TARGET_PHASES])
    returns = table["return"].to_numpy(dtype=float)[is_target]
    return table["task"].to_numpy()[is_target], table["episode"].to_numpy()[is_target], returns


def learning_curve(table: pd.DataFrame) -> pd.Series:
    """Mean return over target tasks, indexed by episode; only episodes that every task of the table has."""
    rows = target_rows(table)
    by_episode = rows.groupby("episode")["return"].agg(["mean", "count"])
    complete = by_episode[by_episode["count"] == rows["task"].nunique()]
    return complete["mean"]


def exploration_episodes(table: pd.DataFrame) -> int:
    """How many episodes of each target task were collected before the task was encoded (0: none)."""
    explored = target_rows(table).query("phase == 'explore'")["episode"]
    return 0 if explored.empty else int(explored.max()) + 1


def smoothed_curve(table: pd.DataFrame, window_episodes: int) -> pd.Series:
    """``learning_curve`` under a centred mean that does not reach across the end of exploration."""
    curve = learning_curve(table)
    phase = pd.Series(curve.index >= exploration_episodes(table), index=curve.index)
    return curve.groupby(phase).transform(lambda part: part.rolling(window_episodes, center=True, min_periods=1).mean())


def read_run(folder: Path, columns: Sequence[str] | None = None) -> tuple[dict[str, Any], pd.DataFrame]:
    """``run.json`` and the rows of one run, or only some columns of them.

    Raises ``StorageError`` when either cannot be read.
    """
    record = read_run_record(folder)
    return record, read_table(folder / EPISODES_TABLE, record.get("files", {}).get(EPISODES_TABLE), columns)


def run_label(record: Mapping[str, Any]) -> str:
    """The algorithm of a run with what sets it apart from the preset, as one would type it."""
    return " ".join([record["algo"], *run_changes(record)])


def run_changes(record: Mapping[str, Any]) -> list[str]:
    """What sets a run apart from its preset, as one would type it: fields changed, and other offline data."""
    changes = [f"--{name} {text}" for name, text in sorted(record.get("overrides", {}).items())]
    return changes if record.get("data") is None else [*changes, f"--data {record['data']}"]


def task_set_of(record: Mapping[str, Any]) -> str:
    """What the run of a ``run.json`` adapted to, one of ``envs.core.TASK_SETS``; older ones do not say."""
    return str(record.get("task_set", TARGET))


def why_no_result(record: Mapping[str, Any]) -> str | None:
    """Why a run is in no table or figure of results, which are of target tasks; None where it may be."""
    task_set = task_set_of(record)
    return None if task_set == TARGET else f"on {task_set} tasks; results are of {TARGET} tasks"


def counted_out(runs: int, reason: str) -> str:
    """How runs that are rightly in no result are named, all in one line: ``3 runs (on validation tasks; ...)``."""
    return f"{runs} {'run' if runs == 1 else 'runs'} ({reason})"


def total_seconds(record: Mapping[str, Any]) -> float:
    """Wall time of all stages of a run, reused ones included with the time they once took."""
    return float(sum(stage.get("seconds") or 0.0 for stage in record.get("stages", ())))
