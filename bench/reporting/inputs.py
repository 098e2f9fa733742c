"""Run folders -> what figures and tables are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import bench
from bench.errors import UserError
from bench.files import storage_errors
from bench.loading import load_runs
from bench.reporting.model import LoadedRun, ReportInputs
from bench.results import run_label
from bench.statistics.episodes import group_runs

PAPER_CURVES = Path(bench.__file__).parent.parent / "results" / "paper" / "figure4_curves.csv"
"""The curves of the paper's Figure 4 as they ship beside the code; absent where only the package is installed."""
PAPER_COLUMNS = ("domain", "algorithm", "episode", "mean")


def load_inputs(folders: Sequence[Path], paper: Path | None = None) -> ReportInputs:
    """Read all runs at or below ``folders``, and the published curves (those of the paper by default).

    Raises ``UserError`` when a folder does not exist or holds no run, or the CSV lacks a column.
    """
    loaded = load_runs(folders)
    runs = [LoadedRun(run.folder, run.record, run.rows, run_label(run.record)) for run in loaded.runs]
    runs.sort(key=lambda run: (run.env, run.label, run.preset, run.seed))
    groups = group_runs(loaded.runs)
    return ReportInputs(tuple(folders), tuple(runs), groups, loaded.excluded, read_published(paper))


def read_published(path: Path | None) -> pd.DataFrame:
    """Published curves (``PAPER_COLUMNS``); None is ``PAPER_CURVES`` where it exists. Raises ``UserError``."""
    if path is None:
        if not PAPER_CURVES.exists():
            return pd.DataFrame(columns=list(PAPER_COLUMNS))
        path = PAPER_CURVES
    with storage_errors(f"read {path}"):
        table = pd.read_csv(path)
    missing = [name for name in PAPER_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}; it needs {', '.join(PAPER_COLUMNS)}")
    return table
