"""``run.json``: what a run's folder says of the run. One reader and one check of its shape, for all who look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bench.files import read_sealed_json, storage_errors, write_sealed_json
from bench.shape import FileName, check_record
from bench.store import RUN_FILE


class StageOfRun(TypedDict):
    """A stage in ``run.json``."""

    name: FileName
    artefact: FileName
    done: bool
    seconds: float | None
    reused: NotRequired[bool | None]
    manifest: NotRequired[Mapping[str, Any]]
    """Parts of the artefact's manifest, in an exported run."""


class RunRecord(TypedDict):
    """What ``run.json`` holds at least."""

    run: FileName
    algo: str
    env: str
    preset: str
    seed: int
    status: str
    stages: list[StageOfRun]
    target_tasks: NotRequired[list[int]]
    overrides: NotRequired[Mapping[str, str]]
    data: NotRequired[str | None]
    until: NotRequired[str | None]
    started: NotRequired[str]
    device: NotRequired[str]
    threads: NotRequired[int]
    versions: NotRequired[Mapping[str, str | None]]
    files: NotRequired[Mapping[str, str]]
    """Checksums of the files beside it that hold results. Runs older than this have none."""


def read_run_record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` in ``folder`` holds. Raises ``StorageError`` when it is missing, damaged or something else.

    Runs that are older than its seal are taken as they are.
    """
    path, remedy = folder / RUN_FILE, "running the run again writes it anew"
    content = read_sealed_json(path, remedy, required=False)
    check_record(content, RunRecord, path, remedy)
    return content


def write_run_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Make ``record`` what ``run.json`` in ``folder`` holds. Raises ``StorageError``."""
    with storage_errors(f"write {folder / RUN_FILE}"):
        write_sealed_json(folder / RUN_FILE, record)
