"""Locks between processes: ``flock`` on a small file that says who holds it. A lock dies with its process.

Where the file system has no locks (some of NFS, SMB and FUSE), a second file that only one can make stands in for it,
``<name>.held``. It outlives its process when that is killed: on the same machine that is seen, and the file taken over;
from another machine it cannot be told, and whoever waits is told which file to delete. That is said once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from bench.files import say_once, storage_errors

T = TypeVar("T")

_POLL_SECONDS = 0.2
_BRIEF_SECONDS = 0.5
"""Even without waiting, a lock is tried for this long: ``lock_holder`` takes it for an instant to look."""
_NO_LOCKS_ERRNOS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524})
"""What file systems without locks say; 524 is Linux's own ENOTSUPP, which has no name outside the kernel."""


class LockHeldError(Exception):
    """Another process holds the lock; ``holder`` says which (``pid 12 on host``)."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}")
        self.holder = holder


def _process(file: IO[str]) -> tuple[int, str] | None:
    file.seek(0)
    try:
        content = json.loads(file.read(4096))
        return int(content["pid"]), str(content["host"])
    except (ValueError, KeyError, TypeError, RecursionError):
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
    held: Path | None = None
    with file:
        waited = False
        give_up_at = time.monotonic() + _BRIEF_SECONDS
        try:
            while True:
                holder, held = _try_to_lock(path, file)
                if holder is None:
                    break
                may_wait = keep_waiting() if wait else time.monotonic() < give_up_at
                if not may_wait:
                    raise LockHeldError(path, holder)
                if wait and not waited and on_wait is not None:
                    on_wait(holder)
                waited = True
                time.sleep(_POLL_SECONDS)
            with storage_errors(f"write the lock file {path}"):
                file.seek(0)
                file.truncate()
                file.write(_own_name())
                file.flush()
            yield waited
        finally:
            if held is not None:
                held.unlink(missing_ok=True)


def _try_to_lock(path: Path, file: IO[str]) -> tuple[str | None, Path | None]:
    """Who holds the lock, None where this process does now; and the file that stands in for it, where one does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None, None
    except BlockingIOError:
        return _holder(file), None
    except OSError as error:
        if error.errno not in _NO_LOCKS_ERRNOS:
            with storage_errors(f"lock {path}"):
                raise
        say_once(
            "no locks",
            f"note: the file system of {path.parent} has no locks ({error.strerror}); files that end in .held stand in "
            "for them: where a process was killed on another machine, delete the one it left",
        )
        held = _held_path(path)
        with storage_errors(f"make the lock file {held}"):
            return (None, held) if _make_held(held) else (_held_by(held), None)


def _held_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _own_name() -> str:
    pid = os.getpid()
    return json.dumps({"pid": pid, "host": socket.gethostname(), "started": _start_of(pid)})


def _start_of(pid: int) -> str:
    """When a process of this machine began, so that one is told from a later one of its number; empty if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _make_held(held: Path) -> bool:
    """Make the file unless it is there; one whose process was killed on this machine is made anew."""
    try:
        with held.open("x", encoding="utf-8") as file:
            file.write(_own_name())
        return True
    except FileExistsError:
        if not _is_abandoned(held):
            return False
    held.unlink(missing_ok=True)
    return False  # The next try makes it, unless somebody else is faster.


def _is_abandoned(held: Path) -> bool:
    try:
        content = json.loads(held.read_text(encoding="utf-8"))
        pid, host, started = int(content["pid"]), content["host"], content["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # Just gone, or just being written.
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # Somebody else's, and alive.
    return bool(started) and _start_of(pid) != started


def _held_by(held: Path) -> str:
    try:
        with held.open(encoding="utf-8") as file:
            return f"{_holder(file)} (if that has ended, delete {held})"
    except OSError:
        return "another process"  # Just gone.


def lock_holder(path: Path) -> str | None:
    """Who holds the lock at ``path`` now (``pid 12 on host``), or None when nobody does."""
    return _look(path, _holder, "a process that cannot be seen from here")


def lock_process(path: Path) -> tuple[int, str] | None:
    """Process id and host of who holds the lock at ``path`` now, or None when nobody does or the name is not there."""
    return _look(path, _process, None)


def _look(path: Path, read: Callable[[IO[str]], T | None], unreadable: T | None) -> T | None:
    """``unreadable`` is for the lock of somebody who lets nobody look."""
    try:
        with path.open("r", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return read(file)
            except OSError as error:
                if error.errno not in _NO_LOCKS_ERRNOS:
                    return unreadable
                held = _held_path(path)
                return read(file) if held.exists() and not _is_abandoned(held) else None
    except FileNotFoundError:
        return None
    except OSError:
        return unreadable
    return None
