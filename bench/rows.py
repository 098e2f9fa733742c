"""Episode rows and metrics of a stage: JSON lines while it runs, a table when it is done.

``episodes.jsonl`` and ``metrics.jsonl`` only ever grow; a checkpoint remembers how long they were, and resuming cuts
them back to that length, so a killed and resumed stage leaves exactly the rows of an undisturbed one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pandas as pd

from algorithms.stage import EpisodeRow, StageReport
from bench.errors import StorageError
from bench.files import storage_errors

EPISODES_LOG = "episodes.jsonl"
METRICS_LOG = "metrics.jsonl"
EPISODES_TABLE = "episodes.parquet"

STAGE_COLUMNS: Mapping[str, str] = {
    "phase": "string",
    "task": "int64",
    "episode": "int64",
    "env_steps": "int64",
    "return": "float64",
    "success": "bool",
    "length": "int64",
    "seconds": "float64",
    "status": "string",
}
"""Columns of a stage's rows. ``seconds`` is the wall time of the stage up to the row; ``status`` is ``ok``."""

TARGET_PHASES = ("explore", "adapt")
"""Phases whose episodes are of target tasks."""


def row_record(row: EpisodeRow, seconds: float) -> dict[str, Any]:
    """One line of ``episodes.jsonl``."""
    return {
        "phase": row.phase,
        "task": row.task,
        "episode": row.episode,
        "env_steps": row.env_steps,
        "return": row.episode_return,
        "success": row.success,
        "length": row.length,
        "seconds": round(seconds, 3),
        "status": "ok",
    }


class StageLog:
    """The two growing files of a stage under way. Use as a context manager."""

    def __init__(self, folder: Path, episodes_bytes: int, metrics_bytes: int) -> None:
        """Open both logs in ``folder``, cut back to these lengths. Raises ``StorageError``."""
        self._folder = folder
        with storage_errors(f"open the row logs in {folder}"):
            self._episodes = _open_cut(folder / EPISODES_LOG, episodes_bytes)
            try:
                self._metrics = _open_cut(folder / METRICS_LOG, metrics_bytes)
            except BaseException:
                self._episodes.close()
                raise

    def append(self, report: StageReport, seconds: float) -> None:
        """Append what one ``advance`` brought; readable by others at once. Raises ``StorageError``."""
        with storage_errors(f"append rows in {self._folder}"):
            for row in report.episodes:
                _write_line(self._episodes, row_record(row, seconds))
            if report.metrics:
                record = {"seconds": round(seconds, 3)} | {name: float(value) for name, value in report.metrics.items()}
                _write_line(self._metrics, record)

    def sync(self) -> tuple[int, int]:
        """Force both logs to disk and return their lengths in bytes. Raises ``StorageError``."""
        with storage_errors(f"write the row logs in {self._folder}"):
            os.fsync(self._episodes.fileno())
            os.fsync(self._metrics.fileno())
        return self._episodes.tell(), self._metrics.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._episodes.close()
        self._metrics.close()


def _write_line(file: IO[bytes], record: Mapping[str, Any]) -> None:
    data = json.dumps(record).encode() + b"\n"
    while data:
        # An unbuffered file may take only a part, for example the last free bytes of a disk.
        data = data[file.write(data) :]


def _open_cut(path: Path, length: int) -> IO[bytes]:
    size = path.stat().st_size if path.exists() else 0
    if size < length:
        raise StorageError(
            f"{path} is damaged: it has {size} bytes and its checkpoint counts on {length}; "
            f"delete the folder {path.parent} to start this stage again"
        )
    # Unbuffered: after a failed write (full disk) nothing is left to be written again when the file is closed.
    file = path.open("ab", buffering=0)
    file.truncate(length)
    file.seek(length)
    return file


def read_log(folder: Path) -> pd.DataFrame:
    """Rows of a stage under way, (rows, ``STAGE_COLUMNS``); a last line cut short by a crash is left out."""
    path = folder / EPISODES_LOG
    complete = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return stage_table([json.loads(line) for line in complete.splitlines()])


def stage_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a table with ``STAGE_COLUMNS`` and their types, also when there are none."""
    return pd.DataFrame(records, columns=list(STAGE_COLUMNS)).astype(dict(STAGE_COLUMNS))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet (zstd), atomically. Raises ``OSError``."""
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_parquet(temporary, index=False, compression="zstd")
    temporary.replace(path)
