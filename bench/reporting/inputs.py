"""Run folders -> what figures and tables are made from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.errors import UserError
from bench.files import read_bytes, storage_errors
from bench.loading import load_runs
from bench.reporting.model import LoadedRun, ReportInputs
from bench.results import run_label
from bench.statistics.episodes import group_runs

PAPER_CURVES = Path(__file__).with_name("figure4_curves.csv")
"""The curves of the paper's Figure 4 (``results/paper/README.md``), which ship with the package."""
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
    """Published curves (``PAPER_COLUMNS``); None is ``PAPER_CURVES``. Raises ``UserError``."""
    path = path or PAPER_CURVES
    try:
        with storage_errors(f"read {path}"):
            table = pd.read_csv(io.BytesIO(read_bytes(path)))
    except (ValueError, OverflowError) as error:  # pandas' own errors among them, and what is no UTF-8
        raise UserError(f"{path} is no CSV: {next(iter(str(error).splitlines()), '')}") from error
    missing = [name for name in PAPER_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}; it needs {', '.join(PAPER_COLUMNS)}")
    for name in ("episode", "mean"):
        if table[name].dtype.kind not in "fiu" or not np.isfinite(table[name]).all():
            raise UserError(f"{path}: the column {name!r} holds something else than numbers")
    return table
