"""What a run is, its stages and its result, for people (tables) and programs (JSON)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config import help_text
from bench.errors import UserError, unknown_name
from bench.files import is_file, printable
from bench.locks import lock_holder
from bench.lookup import presets_of_pair
from bench.plan import RunRequest, plan_run
from bench.progress import duration_text
from bench.results import (
    WINDOWS,
    read_run,
    target_rows,
    task_set_of,
    total_seconds,
    why_no_result,
    window_scores,
)
from bench.rows import EPISODES_TABLE
from bench.run import CURVE_FILE
from bench.run_record import read_run_record
from bench.stage_state import stage_state
from bench.store import ARTEFACTS_FOLDER, RUN_FILE, RUN_LOCK, ArtefactStore
from bench.tables import print_table


def print_fields(request: RunRequest) -> None:
    """Print every field of every stage of a run: docstring, default, value in this preset and in the others."""
    plan = plan_run(request)
    presets = presets_of_pair(plan.algorithm, plan.task_distribution)
    plans = {preset: plan_run(replace(request, preset=preset, overrides=())) for preset in presets}
    print(f"Fields of {request.algo} on {request.env}, preset {request.preset} (others: {', '.join(presets)}):\n")
    for planned in plan.stages:
        name = planned.spec.name
        by_preset = {preset: of_preset.configs[name] for preset, of_preset in plans.items()}
        print(help_text(name, planned.spec.config_class, planned.config, by_preset) + "\n")


def print_result(folder: Path) -> None:
    """Print the tables at the end of a run and where its results are."""
    _print_tables(describe_run(folder))
    picture = f", picture: {CURVE_FILE}" if (folder / CURVE_FILE).exists() else ""
    print(f"results: {folder}  (rows: {EPISODES_TABLE}{picture})")


def print_run(run: str, out: Path, as_json: bool) -> None:
    """Print a run given by its folder or by its name below ``out``. Raises ``UserError`` when there is none."""
    description = describe_run(find_run(run, out))
    if as_json:
        print(json.dumps(description, indent=2))
        return
    title = f"{description['algo']} on {description['env']}, {description['preset']}, seed {description['seed']}"
    print(printable(f"{description['run']}: {title}; {description['status']}"))
    if (reason := why_no_result(description)) is not None:
        print(f"adapted {reason}")
    if description.get("overrides"):
        texts = (f"{name}={text}" for name, text in description["overrides"].items())
        print(printable("overrides: " + ", ".join(texts)))
    if description.get("data") is not None:  # shipped runs are older than this field
        print(printable(f"data: {description['data']}"))
    for failure in description["failures"]:
        print(printable(f"failed: {failure}"))
    _print_tables(description)


def find_run(run: str, out: Path) -> Path:
    """The folder of a run. Raises ``UserError`` with the nearest name when there is none."""
    for folder in (Path(run), out / run):
        if is_file(folder / RUN_FILE):
            return folder
    names = sorted(path.parent.name for path in out.glob(f"*/{RUN_FILE}"))
    if not names:
        raise UserError(f"there is no run in {out} yet; bench run --algo ALGO --env ENV makes one (bench list: names)")
    raise unknown_name(f"run (neither a folder nor in {out})", run, names)


def describe_run(folder: Path) -> dict[str, Any]:
    """``run.json`` with the state of each stage, window scores, and failures; all of it JSON."""
    record = read_run_record(folder)
    if record.get("format") != 1:
        raise UserError(f"{folder / RUN_FILE} has format {record.get('format')}, expected 1")
    table = read_run(folder)[1] if (folder / EPISODES_TABLE).exists() else None
    status = record["status"]
    if status == "running" and lock_holder(folder / RUN_LOCK) is None:
        status = "stopped"  # Its process is gone without a word: killed, or the machine went down.
    store = ArtefactStore(folder.parent / ARTEFACTS_FOLDER)
    rows = None if table is None or not len(target_rows(table)) else target_rows(table)
    return {
        **record,
        "status": status,
        "folder": str(folder),
        "stages": [{**stage, **_stage_state(stage, store)} for stage in record["stages"]],
        "windows": [] if table is None else [_window_record(table, *window) for window in WINDOWS],
        "target_episodes": 0 if rows is None else len(rows),
        "mean_score": None if rows is None else float(rows.groupby("task")["return"].mean().mean()),
        "n_tasks": 0 if rows is None else int(rows["task"].nunique()),
        "failures": [] if table is None else list(table.loc[table["status"] == "failed", "error"]),
        "total_seconds": total_seconds(record),
    }


def _window_record(table: pd.DataFrame, start: int, stop: int) -> dict[str, Any]:
    for score in window_scores(table, [(start, stop)]):
        return {"window": score.name, "mean_score": score.mean_score, "n_tasks": score.n_tasks}
    return {"window": f"{start}-{stop}", "mean_score": None, "n_tasks": 0}


def _stage_state(stage: dict[str, Any], store: ArtefactStore) -> dict[str, Any]:
    """``state``, and how far a started one has come by its last checkpoint."""
    found = stage_state(stage, store)
    error = {} if found.error is None else {"error": found.error}
    return {"state": found.state, "progress": found.progress, **error}


def _print_tables(description: dict[str, Any]) -> None:
    rows = []
    for stage in description["stages"]:
        state = "reused" if stage.get("reused") else stage["state"]
        seconds = "" if stage["seconds"] is None else duration_text(stage["seconds"])
        rows.append((stage["name"], state, stage["progress"] or "", seconds, stage["artefact"]))
    rows.append(("total", "", "", duration_text(description["total_seconds"]), ""))
    print_table("Stages", ("stage", "state", "progress", "time", "artefact"), rows)
    measured = [
        (stage["name"], name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
        for stage in description["stages"]
        for name, value in ((stage.get("manifest") or {}).get("metrics") or {}).items()
        if isinstance(value, int | float)
    ]
    if measured:
        print_table("What stages measured", ("stage", "what", "value"), measured)
    scores = [
        (window["window"], f"{window['mean_score']:.3f}", str(window["n_tasks"]))
        for window in description["windows"]
        if window["mean_score"] is not None
    ]
    if description["mean_score"] is not None:
        scores.append(("all", f"{description['mean_score']:.3f}", str(description["n_tasks"])))
    if scores:
        print_table(f"Score on the {task_set_of(description)} tasks", ("episodes", "mean score", "tasks"), scores)
