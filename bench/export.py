"""Copy a finished run into a folder of shipped results: everything but weights and checkpoints."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from algorithms.stage import LATENTS_FILE, PATHS_FILE
from bench.errors import UserError
from bench.files import read_json, storage_errors
from bench.rows import EPISODES_TABLE, METRICS_LOG
from bench.run import CONFIG_FILE, CURVE_FILE, SUMMARY_FILE
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
    record = read_json(run / RUN_FILE)
    if record["status"] != "done":
        raise UserError(f"{run} is {record['status']}; only a finished run can be exported")
    target = destination / str(record["run"])
    if target.exists():
        raise UserError(f"{target} exists; remove it to export the run again")
    store = ArtefactStore(run.parent / ARTEFACTS_FOLDER)
    with storage_errors(f"export {run} to {target}"):
        target.mkdir(parents=True)
        for name in _COPIED:
            if (run / name).exists():
                shutil.copyfile(run / name, target / name)
        for stage in record["stages"]:
            manifest = store.verify(stage["artefact"])
            stage["manifest"] = {key: manifest[key] for key in ("hash", "key", "metrics", "versions", "created")}
            log = store.folder(stage["artefact"]) / METRICS_LOG
            if log.exists():
                # No time stamp: exporting twice gives equal files.
                packed = gzip.compress(log.read_bytes(), mtime=0)
                (target / f"metrics-{stage['name']}.jsonl.gz").write_bytes(packed)
            for name in _STAGE_FILES:
                file = store.folder(stage["artefact"]) / name
                if file.exists():
                    shutil.copyfile(file, target / stage_file_name(stage["name"], name))
        (target / RUN_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return target
