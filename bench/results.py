"""Results of a run: its rows, score windows, learning curves. Those of many runs are read through ``loading.py``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import StorageError
from bench.files import read_json
from bench.rows import EPISODES_TABLE, TARGET_PHASES
from bench.store import RUN_FILE

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
    """The rows of target-task episodes that were completed."""
    return table[table["phase"].isin(TARGET_PHASES) & (table["status"] == "ok")]


def window_scores(table: pd.DataFrame, windows: Iterable[tuple[int, int]] = WINDOWS) -> list[WindowScore]:
    """Scores of one run's rows; a window that no task has completed is left out."""
    rows = target_rows(table)
    scores = []
    for start, stop in windows:
        inside = rows[(rows["episode"] >= start) & (rows["episode"] < stop)]
        per_task = inside.groupby("task")["return"].agg(["mean", "count"])
        complete = per_task[per_task["count"] == stop - start]
        if len(complete):
            scores.append(WindowScore(start, stop, float(complete["mean"].mean()), len(complete)))
    return scores


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


def read_run(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """``run.json`` and the rows of one run. Raises ``StorageError`` when either cannot be read."""
    record = read_json(folder / RUN_FILE)
    path = folder / EPISODES_TABLE
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    return record, table


def run_label(record: Mapping[str, Any]) -> str:
    """The algorithm of a run with what sets it apart from the preset, as one would type it."""
    return " ".join([record["algo"], *run_changes(record)])


def run_changes(record: Mapping[str, Any]) -> list[str]:
    """What sets a run apart from its preset, as one would type it: fields changed, and other offline data."""
    changes = [f"--{name} {text}" for name, text in sorted(record.get("overrides", {}).items())]
    return changes if record.get("data") is None else [*changes, f"--data {record['data']}"]


def total_seconds(record: Mapping[str, Any]) -> float:
    """Wall time of all stages of a run, reused ones included with the time they once took."""
    return float(sum(stage.get("seconds") or 0.0 for stage in record.get("stages", ())))
