"""Rows and metrics of a stage, wherever they are by now: growing, in its artefact, or shipped beside a run.

For looking on: nothing is locked, and what has been read is not read again.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import StorageError
from bench.files import LARGEST_TEXT_BYTES, parse_json, read_bytes, storage_errors
from bench.rows import EPISODES_LOG, EPISODES_TABLE, METRICS_LOG, read_table, stage_table
from bench.store import ArtefactStore

Record = Mapping[str, Any]


class LogTail:
    """The records of a growing file of JSON lines; ``read`` takes up only what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._offset = 0

    def read(self) -> Sequence[Record]:
        """All records there are by now. Resuming a stage cuts its logs back: then they are read from the start."""
        try:
            size = self.path.stat().st_size
            if size < self._offset:
                self._forget()
            with self.path.open("rb") as file:
                file.seek(self._offset)
                complete = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return self.records  # Not begun; or just done, and its artefact has them.
        try:
            self.records += [_record(line) for line in complete.splitlines()]
        except ValueError:  # It was cut back and has grown past where this had come to, since the last look.
            self._forget()
            return self.records
        self._offset += len(complete) + 1 if complete else 0
        return self.records

    def _forget(self) -> None:
        self.records, self._offset = [], 0


def _record(line: bytes) -> Record:
    """Raises ``ValueError``."""
    record = parse_json(line, allow_nan=True)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


@cache
def _no_rows() -> pd.DataFrame:
    """For the many stages that have none; nobody writes into it."""
    return stage_table([])


class StageLogs:
    """The logs of one stage of a run."""

    def __init__(self, store: ArtefactStore, run_folder: Path, stage: str, artefact: str) -> None:
        self.stage, self.artefact = stage, artefact
        self._store, self._run_folder = store, run_folder
        partial = store.partial_folder(artefact)
        self._episodes, self._metrics = LogTail(partial / EPISODES_LOG), LogTail(partial / METRICS_LOG)
        self._final: tuple[pd.DataFrame, Sequence[Record]] | None = None

    def read(self) -> tuple[pd.DataFrame, Sequence[Record]]:
        """Rows (``STAGE_COLUMNS``) and metrics there are by now. Raises ``StorageError`` when they cannot be read."""
        if self._final is None and self._store.is_finished(self.artefact):
            self._final = self._finished()
        if self._final is None and (shipped := self._shipped()) is not None:
            self._final = shipped
        if self._final is not None:
            return self._final
        return stage_table([dict(record) for record in self._episodes.read()]), self._metrics.read()

    def _finished(self) -> tuple[pd.DataFrame, Sequence[Record]]:
        folder = self._store.folder(self.artefact)
        rows = folder / EPISODES_TABLE
        table = read_table(rows) if rows.exists() else _no_rows()
        metrics = folder / METRICS_LOG
        return table, read_records(metrics) if metrics.exists() else []

    def _shipped(self) -> tuple[pd.DataFrame, Sequence[Record]] | None:
        """Of a run that was exported, which has no artefacts."""
        packed, rows = self._run_folder / f"metrics-{self.stage}.jsonl.gz", self._run_folder / EPISODES_TABLE
        if not packed.exists() or not rows.exists():
            return None
        table = read_table(rows)
        return table[table["stage"] == self.stage], read_packed_log(packed)


def read_records(path: Path) -> list[Record]:
    """The records of a log that grows no more. Raises ``StorageError`` naming the line that is damaged."""
    with storage_errors(f"read {path}"):
        lines = read_bytes(path).splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_record(line))
        except ValueError as error:
            raise StorageError(f"{path} is damaged in line {number} ({error})") from error
    return records


def read_packed_log(path: Path) -> list[Record]:
    """The records of a compressed log of an exported run. Raises ``StorageError``."""
    try:
        with gzip.open(io.BytesIO(read_bytes(path))) as file:
            content = file.read(LARGEST_TEXT_BYTES + 1)
        if len(content) > LARGEST_TEXT_BYTES:
            raise ValueError(f"it unpacks to more than {LARGEST_TEXT_BYTES:,} bytes")
        records = [_record(line) for line in content.splitlines()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise StorageError(f"{path} cannot be read: {next(iter(str(error).splitlines()), '')}") from error
    return records
