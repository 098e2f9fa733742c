"""The runs behind a report, as a reader may want to repeat or to doubt them: commands, versions, rows, failures."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.errors import StorageError, UserError
from bench.ledger import sweeps_below
from bench.lookup import find_task_distribution
from bench.node_records import FAILED, SWEEPS_FOLDER
from bench.reporting.model import Column, ReportInputs, ReportTable
from bench.results import read_run, task_set_of, total_seconds
from bench.rows import EPISODES_TABLE
from bench.run_record import read_run_record
from bench.status import read_status
from bench.store import ARTEFACTS_FOLDER, ArtefactStore, read_failure
from envs.core import TARGET


@dataclass(frozen=True)
class RunEntry:
    """A run that is in the statistics."""

    name: str
    label: str
    env: str
    preset: str
    seed: int
    command: str
    """What repeats it, as one would type it."""
    minutes: float
    """Wall time of all its stages, reused ones included."""
    machine: str
    """``cpu, 1 thread``"""
    started: str
    rows_link: str
    """Its rows, relative to the report."""
    versions: str
    """``python 3.11.7, torch 2.13.0, ...``"""


@dataclass(frozen=True)
class Failure:
    """A run, or a stage of a sweep, that is in no statistic."""

    name: str
    reason: str
    traceback: str
    """Empty where there is none."""
    rows_link: str
    """Its rows, relative to the report; empty where there are none."""


def run_entries(inputs: ReportInputs, report: Path) -> list[RunEntry]:
    """The runs in the statistics; links are relative to the folder ``report``."""
    return [
        RunEntry(
            str(run.record.get("run", run.folder.name)), run.label, run.env, run.preset, run.seed,
            run_command(run.record), total_seconds(run.record) / 60, _machine_text(run.record),
            str(run.record.get("started", "")), _rows_link(run.folder, report), _versions_text(run.record),
        )
        for run in inputs.runs
    ]  # fmt: skip


def run_command(record: Mapping[str, Any]) -> str:
    """The command that makes the run of a ``run.json``."""
    words = ["bench", "run", "--algo", record["algo"], "--env", record["env"], "--preset", record["preset"]]
    words += ["--seed", record["seed"]]
    tasks, task_set = record.get("target_tasks"), task_set_of(record)
    if task_set != TARGET:
        words += ["--on", task_set]
    if tasks is not None and list(tasks) != _all_tasks(str(record["env"]), task_set):
        words += ["--tasks", ",".join(map(str, tasks))]
    if record.get("data") is not None:
        words += ["--data", record["data"]]
    if record.get("until") is not None:
        words += ["--until", record["until"]]
    for name, text in sorted(record.get("overrides", {}).items()):
        words += [f"--{name}", text]
    return shlex.join(map(str, words))


def _all_tasks(env: str, task_set: str) -> list[int]:
    try:
        return list(range(len(find_task_distribution(env).tasks_of(task_set))))
    except UserError:
        return []  # From a package that is not installed here: the tasks are named one by one.


def _machine_text(record: Mapping[str, Any]) -> str:
    threads = record.get("threads")
    return "" if threads is None else f"{record.get('device')}, {threads} thread{'s' if threads != 1 else ''}"


def _versions_text(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items() if version)


def _rows_link(folder: Path, report: Path) -> str:
    path = folder / EPISODES_TABLE
    return relative_link(path, report) if path.exists() else ""


def relative_link(path: Path, report: Path) -> str:
    """A URL of ``path`` seen from the folder ``report``; whatever its name, it is no other kind of URL."""
    return quote(Path(os.path.relpath(path.resolve(), report.resolve())).as_posix(), safe="/")


def failures(inputs: ReportInputs, report: Path) -> list[Failure]:
    """Every run that was left out, and every failed stage of a sweep below the folders, with its traceback."""
    found = [
        Failure(run.run, run.reason, _traceback_of_run(Path(run.run)), _rows_link(Path(run.run), report))
        for run in inputs.excluded
        if not run.expected
    ]
    told = {Path(run.run).name for run in inputs.excluded}
    return found + list(_failed_nodes(inputs.folders, told))


def _traceback_of_run(folder: Path) -> str:
    """Of the stage that failed; where its record has gone, the errors in the run's rows."""
    try:
        record = read_run_record(folder)
        store = ArtefactStore(folder.parent / ARTEFACTS_FOLDER)
        for stage in record.get("stages", []):
            failure = None if stage["done"] else read_failure(store.partial_folder(stage["artefact"]))
            if failure is not None:
                return str(failure["traceback"])
        if not (folder / EPISODES_TABLE).exists():
            return ""
        rows = read_run(folder)[1]
    except (StorageError, KeyError, TypeError, AttributeError):
        return ""  # It cannot be read, and its reason says so.
    errors = rows.loc[rows["status"] != "ok", "error"] if {"status", "error"} <= set(rows) else []
    return "\n".join(str(error) for error in errors if error)


def _failed_nodes(folders: Sequence[Path], told: Collection[str]) -> Iterable[Failure]:
    """Failed stages of sweeps, where not all runs that need them are ``told`` of already by folders of their own."""
    for out in sorted({path.parent for folder in folders for path in folder.rglob(SWEEPS_FOLDER) if path.is_dir()}):
        for name in sweeps_below(out):
            status = read_status(out, name)
            for node in status.nodes.values():
                runs = status.ledger.graph.nodes[node.name].runs
                on_targets = status.ledger.graph.nodes[node.name].request.task_set == TARGET
                if node.state == FAILED and on_targets and not set(runs) <= set(told):
                    title = f"{node.name} of sweep {name} (for {', '.join(runs)})"
                    yield Failure(title, node.reason, node.traceback, "")


def runs_table(entries: Sequence[RunEntry]) -> ReportTable:
    """The runs with what each took."""
    columns = (
        Column("run"), Column("algorithm"), Column("task distribution"), Column("preset"), Column("seed", decimals=0),
        Column("wall time", "min", 1), Column("machine"), Column("started"),
    )  # fmt: skip
    rows = [(e.name, e.label, e.env, e.preset, e.seed, e.minutes, e.machine, e.started) for e in entries]
    caption = f"{len(entries)} runs are in the statistics. Wall time is that of all stages, reused ones included."
    return ReportTable("runs", "Runs", caption, columns, tuple(rows))
