"""Run folders -> what figures and tables are made from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.errors import UserError
from bench.files import read_bytes, storage_errors
from bench.reporting.model import Excluded, LoadedRun, ReportInputs
from bench.results import find_runs, read_run
from bench.statistics.episodes import load_episodes, run_label

PAPER_CURVES = Path(__file__).with_name("figure4_curves.csv")
"""The curves of the paper's Figure 4 (``results/paper/README.md``), which ship with the package."""
PAPER_COLUMNS = ("domain", "algorithm", "episode", "mean")


def load_inputs(folders: Sequence[Path], paper: Path | None = None) -> ReportInputs:
    """Read all runs at or below ``folders``, and the published curves (those of the paper by default).

    Raises ``UserError`` when a folder does not exist or holds no run, or the CSV lacks a column.
    """
    loaded = load_episodes(folders)
    excluded = list(loaded.excluded)
    left_out = {run.run for run in excluded}
    in_groups = {run for group in loaded.groups for run in group.runs}
    runs = []
    for folder in find_runs(folders):
        if str(folder) in left_out:
            continue
        record, rows = read_run(folder)
        run = LoadedRun(folder, record, rows, run_label(record))
        # The others were asked to end before their target tasks: nobody has looked at their rows yet.
        reason = None if str(folder) in in_groups else _unsound(rows)
        if reason is None:
            runs.append(run)
        else:
            excluded.append(Excluded(str(folder), reason))
    runs.sort(key=lambda run: (run.env, run.label, run.preset, run.seed))
    return ReportInputs(tuple(folders), tuple(runs), loaded.groups, tuple(excluded), read_published(paper))


def _unsound(rows: pd.DataFrame) -> str | None:
    """Why the rows of a run can be in no figure."""
    if (rows["status"] != "ok").any():
        return "a stage failed"
    count = int((~np.isfinite(rows["return"].to_numpy(dtype=float))).sum())
    return f"{count} returns are not finite numbers" if count else None


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
