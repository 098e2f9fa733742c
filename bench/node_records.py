"""Exit records: how each node of a sweep was last run, one sealed JSON file per node, readable by anyone at any time.

``<out>/sweeps/<sweep>/nodes/<node>.json`` is written when a node starts and replaced when it ends. Nothing is decided
by it alone: an artefact that exists is done whatever its record says, and a record that says ``running`` counts only
while the lock of the stage is held.
"""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.files import last_lines, read_sealed_json, storage_errors, write_sealed_json
from bench.shape import load_record

FORMAT = 1
SWEEPS_FOLDER = "sweeps"
_NODES_FOLDER = "nodes"

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"


@dataclass(frozen=True)
class NodeRecord:
    """How a node was last run."""

    node: str
    status: str
    """``running``, ``done``, ``failed`` or ``interrupted``."""
    host: str
    pid: int
    started: str
    """UTC, ISO 8601; of this attempt."""
    ended: str | None = None
    attempts: int = 1
    """How often it was started, this time included."""
    error: str = ""
    """One line: why it did not end well."""
    traceback: str = ""
    signal: int | None = None
    """The signal that interrupted it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What whoever started it wants to find again, for example the number of a cluster job."""
    log: str = ""
    """The file that its process writes its standard error to, where it is one."""

    @property
    def last_line(self) -> str:
        """The last line of the traceback, or the error where there is none."""
        return self.traceback.strip().rpartition("\n")[2] or self.error

    @property
    def log_text(self) -> str:
        """Where its process wrote what it had to say, and its last words; empty where that is not known."""
        if not self.log:
            return ""
        words = last_lines(Path(self.log), 1)
        return f"log {self.log}" + (f": {words[0]}" if words else "")

    @property
    def gone_text(self) -> str:
        """What to say of a node that is recorded as running and on which nobody is at work."""
        return f"pid {self.pid} on {self.host} is gone without a word: killed, or its machine went down"


def sweep_folder(out: Path, sweep: str) -> Path:
    """Where a sweep's ledger and exit records lie."""
    return out / SWEEPS_FOLDER / sweep


def record_path(folder: Path, node: str) -> Path:
    """The exit record of a node of the sweep in ``folder``."""
    return folder / _NODES_FOLDER / f"{node}.json"


def read_record(folder: Path, node: str) -> NodeRecord | None:
    """The exit record of a node, or None when it was never started. Raises ``StorageError`` when it is damaged."""
    path = record_path(folder, node)
    remedy = f"delete it: what it says of {node} is lost, the results are not"
    try:
        content: dict[str, Any] = read_sealed_json(path, remedy)
    except StorageError:
        if not path.exists():
            return None
        raise
    found = content.pop("format", None)
    if found != FORMAT:
        raise StorageError(f"{path} has format {found!r:.60}, expected {FORMAT}; {remedy}")
    return load_record(NodeRecord, content, path, remedy)


def start_record(folder: Path, node: str, labels: Mapping[str, str]) -> NodeRecord:
    """Write that this process starts a node now. Raises ``StorageError``."""
    before = read_record(folder, node)
    attempts = 1 if before is None else before.attempts + 1
    record = NodeRecord(
        node, RUNNING, socket.gethostname(), os.getpid(), now(), attempts=attempts, labels=dict(labels), log=_own_log()
    )
    write_record(folder, record)
    return record


def _own_log() -> str:
    """The file that standard error goes to, or nothing where it is a terminal, a pipe, or not known."""
    try:
        path = Path("/proc/self/fd/2").readlink()
        return str(path) if path.is_file() else ""
    except OSError:
        return ""


def end_record(folder: Path, record: NodeRecord, status: str, **outcome: Any) -> None:
    """Write that the node of ``record`` has ended. Raises ``StorageError``."""
    write_record(folder, replace(record, status=status, ended=now(), **outcome))


def write_record(folder: Path, record: NodeRecord) -> None:
    """Replace the exit record of a node. Raises ``StorageError``."""
    path = record_path(folder, record.node)
    with storage_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: that takes longer than many a stage, and what a crash of the machine may lose is no result.
        write_sealed_json(path, {"format": FORMAT, **asdict(record)}, sync=False)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
