"""Locks between processes: ``flock`` on a small file that says who holds it. A lock dies with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from bench.files import storage_errors

T = TypeVar("T")

_POLL_SECONDS = 0.2
_BRIEF_SECONDS = 0.5
"""Even without waiting, a lock is tried for this long: ``lock_holder`` takes it for an instant to look."""


class LockHeldError(Exception):
    """Another process holds the lock; ``holder`` says which (``pid 12 on host``)."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}")
        self.holder = holder


def _process(file: IO[str]) -> tuple[int, str] | None:
    file.seek(0)
    try:
        content = json.loads(file.read())
        return int(content["pid"]), str(content["host"])
    except (ValueError, KeyError, TypeError):
        return None  # The holder has locked the file but not yet written its name.


def _holder(file: IO[str]) -> str:
    process = _process(file)
    return "another process" if process is None else f"pid {process[0]} on {process[1]}"


@contextmanager
def lock_file(
    path: Path,
    wait: bool,
    on_wait: Callable[[str], None] | None = None,
    keep_waiting: Callable[[], bool] = lambda: True,
) -> Iterator[bool]:
    """Hold the lock at ``path`` inside the block; yields whether it had to wait for it.

    When another process holds it: with ``wait`` call ``on_wait(holder)`` once and wait for as long as
    ``keep_waiting()``, otherwise raise ``LockHeldError``. Raises ``StorageError`` when the file cannot be made.
    """
    with storage_errors(f"make the lock file {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        waited = False
        give_up_at = time.monotonic() + _BRIEF_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                holder = _holder(file)
                may_wait = keep_waiting() if wait else time.monotonic() < give_up_at
                if not may_wait:
                    raise LockHeldError(path, holder) from error
                if wait and not waited and on_wait is not None:
                    on_wait(holder)
                waited = True
                time.sleep(_POLL_SECONDS)
        with storage_errors(f"write the lock file {path}"):
            file.seek(0)
            file.truncate()
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            file.flush()
        yield waited


def lock_holder(path: Path) -> str | None:
    """Who holds the lock at ``path`` now (``pid 12 on host``), or None when nobody does."""
    return _look(path, _holder)


def lock_process(path: Path) -> tuple[int, str] | None:
    """Process id and host of who holds the lock at ``path`` now, or None when nobody does or the name is not there."""
    return _look(path, _process)


def _look(path: Path, read: Callable[[IO[str]], T]) -> T | None:
    if not path.exists():
        return None
    with path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return read(file)
    return None
