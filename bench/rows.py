"""Episode rows and metrics of a stage: JSON lines while it runs, a table when it is done.

``episodes.jsonl`` and ``metrics.jsonl`` only ever grow; a checkpoint remembers how long they were and their checksum,
and resuming cuts them back to that length, so a killed and resumed stage leaves exactly the rows of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypedDict

from algorithms.stage import EpisodeRow, StageReport
from bench.errors import StorageError
from bench.files import parse_json, read_bytes, storage_errors
from bench.shape import check_value

if TYPE_CHECKING:
    import pandas as pd

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

RowRecord = TypedDict(
    "RowRecord",
    {
        "phase": str, "task": int, "episode": int, "env_steps": int, "return": float, "success": bool, "length": int,
        "seconds": float, "status": str,
    },
)  # fmt: skip
"""One line of ``episodes.jsonl``."""
_LARGEST_LOG_BYTES = 1 << 30

_LARGEST_ROWS = 5_000_000
NEEDED_COLUMNS = ("phase", "task", "episode", "return", "status")
"""What every table of rows has at least, and scores are made of."""
_KINDS = {"string": "OT", "int64": "iu", "float64": "fiu", "bool": "b"}
"""numpy's letters of the types that may stand for each type of ``STAGE_COLUMNS``."""

TARGET_PHASES = ("explore", "adapt")
"""Phases whose episodes are of target tasks."""


def row_record(row: EpisodeRow, seconds: float) -> RowRecord:
    """The line of ``episodes.jsonl`` for a row."""
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


@dataclass(frozen=True)
class LogMark:
    """How far a growing file had come at some moment, and what it held."""

    length: int = 0
    """Bytes."""
    sha256: str | None = None
    """Of these bytes; None where it was not recorded."""


class _GrowingFile:
    """A file that is appended to, with the checksum of all that it should hold."""

    def __init__(self, path: Path, mark: LogMark) -> None:
        """Open it, cut back to ``mark``. Raises ``StorageError`` unless it holds what it held then, ``OSError``."""
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        if size < mark.length:
            raise StorageError(
                f"{path} is damaged: it has {size} bytes and its checkpoint counts on {mark.length}; {_remedy(path)}"
            )
        self._sha256 = hashlib.sha256()
        if mark.length:
            with path.open("rb") as before:
                self._sha256.update(before.read(mark.length))
        if mark.sha256 is not None and self._sha256.hexdigest() != mark.sha256:
            raise StorageError(f"{path} is damaged or was altered since its checkpoint; {_remedy(path)}")
        # Unbuffered: after a failed write (full disk) nothing is left to be written again when the file is closed.
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._file.truncate(mark.length)
        self._file.seek(mark.length)

    def append(self, record: Mapping[str, Any]) -> None:
        """Raises ``OSError``."""
        data = json.dumps(record).encode() + b"\n"
        self._sha256.update(data)
        while data:
            # An unbuffered file may take only a part, for example the last free bytes of a disk.
            data = data[self._file.write(data) :]

    def sync(self) -> LogMark:
        """Raises ``OSError``."""
        os.fsync(self._file.fileno())
        return LogMark(self._file.tell(), self._sha256.hexdigest())

    def check(self) -> None:
        """Raise ``StorageError`` unless the file on disk is what was written, ``OSError``."""
        if hashlib.sha256(self.path.read_bytes()).digest() != self._sha256.digest():
            raise StorageError(f"{self.path} was altered while its stage ran; {_remedy(self.path)}")

    def close(self) -> None:
        self._file.close()


class StageLog:
    """The two growing files of a stage under way. Use as a context manager."""

    def __init__(self, folder: Path, episodes: LogMark, metrics: LogMark) -> None:
        """Open both logs in ``folder``, cut back to these marks. Raises ``StorageError``."""
        self._folder = folder
        with storage_errors(f"open the row logs in {folder}"):
            self._episodes = _GrowingFile(folder / EPISODES_LOG, episodes)
            try:
                self._metrics = _GrowingFile(folder / METRICS_LOG, metrics)
            except BaseException:
                self._episodes.close()
                raise

    def append(self, report: StageReport, seconds: float) -> None:
        """Append what one ``advance`` brought; readable by others at once. Raises ``StorageError``."""
        with storage_errors(f"append rows in {self._folder}"):
            for row in report.episodes:
                self._episodes.append(row_record(row, seconds))
            if report.metrics:
                record = {"seconds": round(seconds, 3)} | {name: float(value) for name, value in report.metrics.items()}
                self._metrics.append(record)

    def sync(self) -> tuple[LogMark, LogMark]:
        """Force both logs to disk and return how far they have come. Raises ``StorageError``."""
        with storage_errors(f"write the row logs in {self._folder}"):
            return self._episodes.sync(), self._metrics.sync()

    def check(self) -> None:
        """Raise ``StorageError`` unless both logs hold what was written, as from here they go into the artefact."""
        with storage_errors(f"read the row logs in {self._folder}"):
            self._episodes.check()
            self._metrics.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._episodes.close()
        self._metrics.close()


def _remedy(path: Path) -> str:
    return f"delete the folder {path.parent} to start this stage again"


def read_log(folder: Path) -> pd.DataFrame:
    """Rows of a stage under way, (rows, ``STAGE_COLUMNS``); a last line cut short by a crash is left out.

    Raises ``StorageError`` naming the line that is damaged.
    """
    path = folder / EPISODES_LOG
    if not path.exists():
        return stage_table([])
    with storage_errors(f"read {path}"):
        complete = read_bytes(path, _LARGEST_LOG_BYTES).rpartition(b"\n")[0]
    records = []
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            record = parse_json(line, allow_nan=True)
            check_value(record, RowRecord)
        except ValueError as error:
            raise StorageError(f"{path} is damaged in line {number} ({error}); {_remedy(path)}") from error
        records.append(record)
    return stage_table(records)


def stage_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a table with ``STAGE_COLUMNS`` and their types, also when there are none."""
    import pandas as pd  # Half a second, which whoever only asks for the names of files here can do without.

    return pd.DataFrame(records, columns=list(STAGE_COLUMNS)).astype(dict(STAGE_COLUMNS))


def read_table(path: Path, sha256: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows in a Parquet file, as ``write_table`` wrote them, of a run or a stage; all ``columns`` or some.

    ``sha256`` is the file's checksum where it is known. Raises ``StorageError`` when the file is missing, damaged,
    lacks a column or has one of another type.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        content = read_bytes(path, _LARGEST_LOG_BYTES)
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise StorageError(f"{path} is damaged or was altered (its checksum does not match)")
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        if file.metadata.num_rows > _LARGEST_ROWS:
            raise ValueError(f"it has {file.metadata.num_rows:,} rows; at most {_LARGEST_ROWS:,} can be meant")
        # A run's rows are few: threads would take longer to start than one needs for them.
        table = file.read(None if columns is None else list(columns), use_threads=False).to_pandas(use_threads=False)
        _check_columns(table)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {_first_line(error.strerror or error)}") from error
    except (
        ValueError,
        TypeError,
        KeyError,
        LookupError,
        RecursionError,
        NotImplementedError,
        pyarrow.ArrowException,
    ) as error:
        raise StorageError(f"{path} cannot be read: {_first_line(error)}") from error
    return table


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_columns(table: pd.DataFrame) -> None:
    for name in NEEDED_COLUMNS:
        if name not in table.columns:
            raise ValueError(f"it has no column {name!r}")
    if not table.columns.is_unique:
        raise ValueError("it has two columns of one name")
    for name, found in table.dtypes.items() if len(table) else ():
        kind = STAGE_COLUMNS.get(str(name))
        if kind is not None and found.kind not in _KINDS[kind]:
            raise ValueError(f"its column {name!r} holds {found}, expected {kind}")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet (zstd), atomically. Raises ``OSError``."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        table.to_parquet(temporary, index=False, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
