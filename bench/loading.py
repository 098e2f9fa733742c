"""The one way in for results: run folders -> runs whose rows can be believed, and the others with the reason.

``bench summary``, ``compare``, ``power``, ``plot``, ``report`` and notebooks all read through ``load_runs``, so what
one of them leaves out, all leave out, and they say why in the same words.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import StorageError, UserError
from bench.lookup import find_task_distribution
from bench.results import counted_out, read_run, run_label, target_rows, why_no_result, without_validation
from bench.rows import EPISODES_TABLE
from bench.run_record import read_run_record
from bench.store import RUN_FILE

NO_EPISODES = "no episode of a target task"
_NUMBERS = ("task", "episode", "return")
_TEXTS = ("phase", "status")
_COUNTS = ("env_steps", "length", "seconds")
"""Columns that rows may lack; what they hold is never negative."""
_IN_ROWS = ("algo", "env", "preset", "seed")
"""Where rows say of which run they are, it must be the one of ``run.json``."""


@dataclass(frozen=True)
class Excluded:
    """A run that is in no statistic."""

    run: str
    """Its folder, or its name where it has none."""
    reason: str
    expected: bool = False
    """Nothing went wrong: it is counted, not named (on validation tasks)."""


@dataclass(frozen=True)
class StoredRun:
    """A run that ended well, with rows that can be believed."""

    folder: Path
    record: Mapping[str, Any]
    """``run.json``"""
    rows: pd.DataFrame
    """Its ``episodes.parquet``: all phases, meta-training included; validation tasks left out."""

    @property
    def study(self) -> tuple[str, str, str]:
        """(task distribution, label, preset)"""
        return str(self.record["env"]), run_label(self.record), str(self.record["preset"])

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def has_targets(self) -> bool:
        """Some row is of a target task; a run that was to end before (``--until``) has none."""
        return bool(len(target_rows(self.rows)))


@dataclass(frozen=True)
class LoadedRuns:
    """All that was found, by folder."""

    runs: tuple[StoredRun, ...]
    excluded: tuple[Excluded, ...]


def load_runs(folders: Sequence[Path]) -> LoadedRuns:
    """Read all runs at or below ``folders``.

    A run that did not end well, cannot be read, holds rows that cannot be, or repeats another run's seed and tasks is
    excluded whole, with its reason. Raises ``UserError`` when a folder does not exist or holds no run.
    """
    found: list[StoredRun] = []
    excluded: list[Excluded] = []
    for folder in _run_folders(folders):
        try:
            run = _read(folder)
        except StorageError as error:
            run = f"cannot be read: {error}"
        if isinstance(run, StoredRun):
            found.append(run)
        elif isinstance(run, Excluded):
            excluded.append(run)
        else:
            excluded.append(Excluded(str(folder), run))
    sound = sound_runs(found)
    return LoadedRuns(sound.runs, (*excluded, *sound.excluded))


def sound_runs(runs: Sequence[StoredRun]) -> LoadedRuns:
    """Those whose rows can be believed, each once; validation tasks are left out of their rows."""
    kept: list[StoredRun] = []
    excluded: list[Excluded] = []
    owners: dict[tuple[Any, ...], StoredRun] = {}
    for run in runs:
        run = replace(run, rows=without_validation(run.rows))
        reason = (
            why_unsound(run.rows, str(run.record["env"]))
            or _why_not_its_rows(run.rows, run.record)
            or (None if run.has_targets or run.record.get("until") is not None else NO_EPISODES)
            or _why_repeated(run, owners)
        )
        if reason is None:
            kept.append(run)
        else:
            excluded.append(Excluded(str(run.folder), reason))
    return LoadedRuns(tuple(kept), tuple(excluded))


def print_excluded(excluded: Sequence[Excluded]) -> None:
    """Name each run that is in no statistic, on standard error; those that belong in none are counted in one line."""
    for run in excluded:
        if not run.expected:
            print(f"left out: {run.run} ({run.reason})", file=sys.stderr)
    for reason, count in Counter(run.reason for run in excluded if run.expected).items():
        print(f"left out: {counted_out(count, reason)}", file=sys.stderr)


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        found |= {path.parent for path in folder.rglob(RUN_FILE)}
    if not found:
        raise UserError(f"no run (a folder with {RUN_FILE}) in {', '.join(map(str, folders))}")
    return sorted(found)


def _read(folder: Path) -> StoredRun | Excluded | str:
    """The run, or why it cannot be used. Raises ``StorageError`` where a file cannot be read."""
    record = read_run_record(folder)
    reason = _why_no_record(record)
    if reason is not None:
        return reason
    elsewhere = why_no_result(record)
    if elsewhere is not None:
        return Excluded(str(folder), elsewhere, expected=True)
    if record["status"] != "done":
        return str(record["status"]) + _failure_text(folder)
    _, rows = read_run(folder)
    if not len(rows):
        return NO_EPISODES
    return StoredRun(folder, record, rows)


def _why_no_record(record: Any) -> str | None:
    if not isinstance(record, dict):
        return f"{RUN_FILE} holds no run"
    for name in ("status", "algo", "env", "preset"):
        if not isinstance(record.get(name), str):
            what = f"is {record[name]!r}, expected text" if name in record else "is missing"
            return f"{RUN_FILE}: {name} {what}"
    seed = record.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        return f"{RUN_FILE}: seed {'is missing' if seed is None else f'is {seed!r}, expected a whole number from 0 on'}"
    if not isinstance(record.get("overrides", {}), dict):
        return f"{RUN_FILE}: overrides is {record['overrides']!r}, expected fields and values"
    stages = record.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and "name" in stage for stage in stages):
        return f"{RUN_FILE}: stages is no list of stages"
    for stage in stages:
        if not isinstance(stage.get("seconds"), int | float | None):
            return f"{RUN_FILE}: seconds of the stage {stage['name']} is {stage['seconds']!r}, expected a number"
    return None


def _failure_text(folder: Path) -> str:
    """``: <first line of the error>`` of a failed run, where its rows tell."""
    if not (folder / EPISODES_TABLE).exists():
        return ""
    try:
        _, rows = read_run(folder)
    except StorageError:
        return ""  # That it failed is reason enough.
    errors = list(rows.loc[rows["status"] != "ok", "error"]) if {"status", "error"} <= set(rows) else []
    return f": {str(errors[0]).splitlines()[0]}" if errors and errors[0] else ""


def _why_not_its_rows(rows: pd.DataFrame, record: Mapping[str, Any]) -> str | None:
    for name in _IN_ROWS:
        if name in rows:
            others = [value for value in pd.unique(rows[name]) if value != record[name]]
            if others:
                return f"its rows are of {name} {others[0]}, {RUN_FILE} says {record[name]}"
    return None


def _why_repeated(run: StoredRun, owners: dict[tuple[Any, ...], StoredRun]) -> str | None:
    """Two copies would count as two samples. Runs of one seed on different tasks are one sample, in two parts."""
    tasks = sorted(map(int, target_rows(run.rows)["task"].unique()))
    keys = [(*run.study, run.seed, task) for task in tasks]
    clash = next((owners[key] for key in keys if key in owners), None)
    if clash is not None:
        return f"repeats seed {run.seed} of {clash.folder}"
    owners |= dict.fromkeys(keys, run)
    return None


def why_unsound(rows: pd.DataFrame, env: str) -> str | None:
    """Why rows of one run cannot be what a run leaves, or None where they can."""
    return _why_no_columns(rows) or _why_no_numbers(rows) or _why_impossible(rows, env) or _why_no_order(rows)


def _why_no_columns(rows: pd.DataFrame) -> str | None:
    missing = [name for name in (*_NUMBERS, *_TEXTS) if name not in rows]
    if missing:
        return f"its rows lack the column {missing[0]!r}"
    for name in (*_NUMBERS, *(name for name in _COUNTS if name in rows)):
        if not pd.api.types.is_numeric_dtype(rows[name]) or pd.api.types.is_bool_dtype(rows[name]):
            return f"the column {name!r} holds {rows[name].dtype}, expected numbers"
    for name in _TEXTS:
        if not all(isinstance(value, str) for value in pd.unique(rows[name])):
            return f"the column {name!r} holds something else than text"
    return None


def _why_no_numbers(rows: pd.DataFrame) -> str | None:
    if (rows["status"] != "ok").any():
        return "a stage failed"
    unsound = rows[~np.isfinite(rows["return"].to_numpy(dtype=float, na_value=np.nan))]
    if len(unsound):
        return f"{_counted(len(unsound), 'return')} not finite, the first in {_place(unsound.iloc[0])}"
    for name in ("task", "episode"):
        values = rows[name].to_numpy(dtype=float, na_value=np.nan)
        wrong = rows[~(values >= 0) | (values != np.floor(values))]
        if len(wrong):
            return f"{name} {wrong.iloc[0][name]} is no whole number from 0 on"
    for name in _COUNTS:
        if name in rows:
            wrong = rows[~(rows[name].to_numpy(dtype=float, na_value=np.nan) >= 0)]
            if len(wrong):
                return f"{name} {wrong.iloc[0][name]} in {_place(wrong.iloc[0])} is no number from 0 on"
    return None


def _why_impossible(rows: pd.DataFrame, env: str) -> str | None:
    """By what the task distribution allows, where it is known here."""
    try:
        tasks = find_task_distribution(env)
    except UserError:
        return None
    low, high = tasks.score_range
    slack = 1e-6 * (high - low)  # returns are sums of floats
    returns = rows["return"].to_numpy(dtype=float)
    outside = rows[(returns < low - slack) | (returns > high + slack)]
    if len(outside):
        first = outside.iloc[0]
        what = f"{_counted(len(outside), 'return')} outside {low:g} to {high:g}"
        return f"{what}, the first {first['return']:g} in {_place(first)}"
    targets = target_rows(rows)
    highest = targets["task"].max() if len(targets) else -1
    if highest >= len(tasks.target_tasks):
        return f"target task {highest}: {env} has {len(tasks.target_tasks)}, numbered from 0"
    return None


def _why_no_order(rows: pd.DataFrame) -> str | None:
    """The episodes of a target task come one by one from 0 on, each once; env_steps never fall."""
    targets = target_rows(rows)
    task, episode = targets["task"].to_numpy(), targets["episode"].to_numpy()
    order = np.argsort(task, kind="stable")  # by task, in the order of the file
    first = np.diff(task[order], prepend=-1) != 0
    if (np.where(first, episode[order], np.diff(episode[order], prepend=0) - 1) != 0).any():
        return _order_text(targets)
    if "env_steps" in targets:
        falls = (np.diff(targets["env_steps"].to_numpy()[order], prepend=0) < 0) & ~first
        if falls.any():
            return f"env_steps fall in {_place(targets.iloc[int(order[np.argmax(falls)])])}"
    others = rows[~rows.index.isin(targets.index)]
    stage = ["stage"] if "stage" in rows else []
    repeated = others[others.duplicated([*stage, "phase", "task", "episode"])]
    return f"{repeated.iloc[0]['phase']}: {_place(repeated.iloc[0])} comes twice" if len(repeated) else None


def _order_text(part: pd.DataFrame) -> str:
    repeated = part[part.duplicated(["task", "episode"])]
    if len(repeated):
        return f"{_place(repeated.iloc[0])} comes twice"
    for task, own in part.groupby("task"):
        missing = sorted(set(range(int(own["episode"].max()) + 1)) - set(own["episode"]))
        if missing:
            return f"task {task} lacks episode {missing[0]}"
    task = next(task for task, own in part.groupby("task") if not own["episode"].is_monotonic_increasing)
    return f"the episodes of task {task} are out of order"


def _place(row: pd.Series) -> str:
    name = row["task_name"] if "task_name" in row else row["task"]
    return f"task {name}, episode {row['episode']:g}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{' is' if number == 1 else 's are'}"
