"""Results of a run: its rows gathered from its stages, score windows, and the summary of many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import UserError
from bench.files import storage_errors
from bench.rows import EPISODES_TABLE, NEEDED_COLUMNS, TARGET_PHASES, read_table
from bench.run_record import read_run_record
from bench.store import RUN_FILE
from bench.tables import csv_cell
from envs.core import TARGET

WINDOWS: tuple[tuple[int, int], ...] = ((0, 20), (20, 40), (40, 60), (90, 110), (190, 200), (490, 500))
"""Half-open ranges of target-task episodes over which scores are averaged."""

RUN_COLUMNS = ("run", "algo", "env", "preset", "seed", "stage")
SUMMARY_COLUMNS = ("env", "algo", "preset", "changes", "seed", "window", "mean_score", "n_tasks", "seconds")


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


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Every run folder (it holds ``run.json`` and ``episodes.parquet``) at or below these, sorted.

    Raises ``UserError`` when a folder does not exist or none is found.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        found |= {path.parent for path in folder.rglob(EPISODES_TABLE) if (path.parent / RUN_FILE).is_file()}
    if not found:
        raise UserError(f"no run (a folder with {RUN_FILE} and {EPISODES_TABLE}) in {', '.join(map(str, folders))}")
    return sorted(found)


def read_run(folder: Path, columns: Sequence[str] | None = None) -> tuple[dict[str, Any], pd.DataFrame]:
    """``run.json`` and the rows of one run, or only some columns of them.

    Raises ``StorageError`` when either cannot be read.
    """
    record = read_run_record(folder)
    return record, read_table(folder / EPISODES_TABLE, record.get("files", {}).get(EPISODES_TABLE), columns)


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
    return float(sum(stage["seconds"] or 0.0 for stage in record["stages"]))


def summarise(folders: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """One row per run and window (``SUMMARY_COLUMNS``), and the names of runs left out with the reason.

    ``changes`` is what the run changed in its preset (``run_changes``); ``seconds`` is the wall time of the whole run,
    all its stages. A run that did not end, or that is not on target tasks, is left out.
    """
    records: list[tuple[Any, ...]] = []
    left_out = []
    elsewhere = Counter[str]()
    for folder in find_runs(folders):
        record, table = read_run(folder, NEEDED_COLUMNS)
        if (reason := why_no_result(record)) is not None:
            elsewhere[reason] += 1
            continue
        if record["status"] != "done":
            left_out.append(f"{folder} ({record['status']})")
            continue
        tasks, episodes, returns = _target_arrays(table)
        if np.isnan(returns).any():
            left_out.append(f"{folder} (NaN returns)")
            continue
        study = [record[name] for name in ("env", "algo", "preset")]
        changes, seconds = " ".join(run_changes(record)), round(total_seconds(record), 1)
        records += [
            (*study, changes, record["seed"], score.name, round(score.mean_score, 4), score.n_tasks, seconds)
            for score in _scores(tasks, episodes, returns, WINDOWS)
        ]
    left_out += [counted_out(count, reason) for reason, count in elsewhere.items()]
    return pd.DataFrame(records, columns=list(SUMMARY_COLUMNS)), left_out


def write_summary(folders: Sequence[Path], path: Path) -> tuple[int, list[str]]:
    """Write ``summarise`` as CSV. Returns the number of lines and the runs left out. Raises ``StorageError``."""
    table, left_out = summarise(folders)
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.map(csv_cell).to_csv(path, index=False)
    return len(table), left_out
