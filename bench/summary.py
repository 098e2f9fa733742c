"""``bench summary``: the windows of many runs in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.files import storage_errors
from bench.loading import Excluded, load_runs
from bench.results import run_changes, total_seconds, window_scores
from bench.tables import csv_cell

SUMMARY_COLUMNS = ("env", "algo", "preset", "changes", "seed", "window", "mean_score", "n_tasks", "seconds")


def summarise(folders: Sequence[Path]) -> tuple[pd.DataFrame, tuple[Excluded, ...]]:
    """One row per run and window (``SUMMARY_COLUMNS``), and the runs left out.

    ``changes`` is what the run changed in its preset (``run_changes``); ``seconds`` is the wall time of the whole run,
    all its stages. Raises ``UserError`` when a folder does not exist or holds no run.
    """
    loaded = load_runs(folders)
    records: list[tuple[Any, ...]] = []
    for run in loaded.runs:
        study = [run.record[name] for name in ("env", "algo", "preset")]
        changes, seconds = " ".join(run_changes(run.record)), round(total_seconds(run.record), 1)
        records += [
            (*study, changes, run.seed, score.name, round(score.mean_score, 4), score.n_tasks, seconds)
            for score in window_scores(run.rows)
        ]
    return pd.DataFrame(records, columns=list(SUMMARY_COLUMNS)), loaded.excluded


def write_summary(folders: Sequence[Path], path: Path) -> tuple[int, tuple[Excluded, ...]]:
    """Write ``summarise`` as CSV. Returns the number of lines and the runs left out. Raises ``StorageError``."""
    table, left_out = summarise(folders)
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.map(csv_cell).to_csv(path, index=False)
    return len(table), left_out
