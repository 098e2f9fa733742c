"""Copy a finished run into a folder of shipped results: everything but weights and checkpoints."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

from algorithms.stage import LATENTS_FILE, PATHS_FILE
from bench.errors import UserError
from bench.files import read_bytes, storage_errors
from bench.rows import EPISODES_TABLE, METRICS_LOG, read_table
from bench.run import CONFIG_FILE, CURVE_FILE, SUMMARY_FILE
from bench.run_record import read_run_record, write_run_record
from bench.store import ARTEFACTS_FOLDER, RUN_FILE, ArtefactStore, stage_file_name

_STAGE_FILES = (PATHS_FILE, LATENTS_FILE)
"""Small files of artefacts from which figures are drawn."""
_COPIED = (EPISODES_TABLE, CONFIG_FILE, SUMMARY_FILE, CURVE_FILE)


def export_run(run: Path, destination: Path) -> Path:
    """Copy ``run`` to ``destination/<its name>`` and return that folder.

    ``run.json`` gains the manifests' metrics and hashes, and each stage's metrics log is compressed beside it,
    with the small files that figures are drawn from.
    Raises ``UserError`` when the run is not finished or the folder exists with other contents.
    """
    if not (run / RUN_FILE).is_file():
        raise UserError(f"{run} is not a run: it has no {RUN_FILE}")
    record = read_run_record(run)
    if record["status"] != "done":
        raise UserError(f"{run} is {record['status']}; only a finished run can be exported")
    target = destination / str(record["run"])
    if target.exists():
        raise UserError(f"{target} exists; remove it to export the run again")
    unfinished = destination / f".{target.name}.tmp"
    with storage_errors(f"export {run} to {target}"):
        try:
            unfinished.mkdir(parents=True)
            _export(run, record, unfinished)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _export(run: Path, record: dict[str, Any], target: Path) -> None:
    store = ArtefactStore(run.parent / ARTEFACTS_FOLDER)
    for name in _COPIED:
        _copy(run / name, target / name)
    read_table(target / EPISODES_TABLE, record.get("files", {}).get(EPISODES_TABLE))
    for stage in record["stages"]:
        manifest = store.verify(stage["artefact"])
        stage["manifest"] = {key: manifest[key] for key in ("hash", "key", "metrics", "versions", "created")}
        log = store.folder(stage["artefact"]) / METRICS_LOG
        if log.exists():
            # No time stamp: exporting twice gives equal files.
            packed = gzip.compress(read_bytes(log), mtime=0)
            (target / f"metrics-{stage['name']}.jsonl.gz").write_bytes(packed)
        for name in _STAGE_FILES:
            _copy(store.folder(stage["artefact"]) / name, target / stage_file_name(stage["name"], name))
    write_run_record(target, record)


def _copy(source: Path, target: Path) -> None:
    """Copy a file if it is there. Raises ``UserError`` for a link: what it names belongs to somebody else."""
    if source.is_symlink():
        raise UserError(f"{source} is a link to {source.readlink()}; only files of the run itself are exported")
    if source.exists():
        target.write_bytes(read_bytes(source))
