"""Durable files: synced, atomically renamed, and sealed with a checksum so that damage is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import StorageError

_FULL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_DISK_FREE_BYTES = 1 << 16
"""Below this a disk counts as full: libraries that hide the errno (zip and HDF5 writers) fail here too."""
_NO_FOLDER_SYNC_ERRNOS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF})
"""What file systems say that cannot sync a folder (some of SMB, FUSE and NFS): not that anything was lost."""
LARGEST_TEXT_BYTES = 1 << 28
"""Records and row logs are kilobytes to megabytes: what is larger is no record, and would only fill the memory."""
_LARGEST_DEPTH = 100
"""Of a JSON file, brackets within brackets; records have five."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises ``ValueError`` on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of_text(text: str) -> str:
    """Hexadecimal SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, largest: int = LARGEST_TEXT_BYTES) -> bytes:
    """All bytes of a regular file. Raises ``OSError``, also for a pipe or a device, and for more bytes than that."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > largest:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, where at most {largest:,} can be meant", str(path))
        return file.read()


def is_file(path: Path) -> bool:
    """Whether a file is there; what cannot even be a path is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a text that say something; none where it is not there or may not be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = (printable(line).strip() for line in text.splitlines())
    return [line for line in lines if line][-count:]


def printable(text: str) -> str:
    """``text`` without what steers a terminal: escapes, and other characters that are not to be seen."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def sync_file(path: Path) -> None:
    """Force a file's contents to disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename in it outlasts a power failure. Raises ``OSError``.

    Where the file system cannot do that, it is said once, on standard error, and nothing else is done: a crash of the
    process still loses nothing.
    """
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC_ERRNOS:
            raise
        say_once(
            "no folder sync",
            f"note: the file system of {folder} cannot sync folders ({error.strerror}): if the power fails, what was "
            "saved in the last seconds may be lost",
        )


_SAID: set[str] = set()


def say_once(kind: str, text: str) -> None:
    """Print a note on standard error, the first time that there is one of its kind in this process."""
    if kind not in _SAID:
        _SAID.add(kind)
        print(text, file=sys.stderr, flush=True)


def replace_text(path: Path, text: str, sync: bool = True) -> None:
    """Write ``text`` to ``path`` so that a crash leaves either the old file or the new one, never a part.

    Without ``sync`` that holds for a crash of the process; one of the machine may lose or damage the file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def write_sealed_json(path: Path, content: Mapping[str, Any], sync: bool = True) -> None:
    """Write ``content`` as JSON with a ``seal``: the SHA-256 of everything else in it. As ``replace_text``."""
    sealed = {**content, "seal": sha256_of_text(canonical_json(dict(content)))}
    replace_text(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n", sync)


def read_sealed_json(path: Path, remedy: str, required: bool = True) -> dict[str, Any]:
    """Read what ``write_sealed_json`` wrote.

    Raises ``StorageError`` naming the file and the ``remedy`` when it is missing, truncated or altered. Unless the seal
    is ``required``, a file without any is taken as it is: one that is older than the seals of its kind.
    """
    try:
        content = read_json(path)
    except StorageError as error:
        raise StorageError(f"{error}; {remedy}") from error
    seal = content.pop("seal", None)
    if (required or seal is not None) and seal != sha256_of_text(canonical_json(content)):
        raise StorageError(f"{path} is damaged or was altered (its checksum does not match); {remedy}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``StorageError`` when it is missing or not JSON, which NaN and infinity are not."""
    try:
        content = parse_json(read_bytes(path))
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StorageError(f"{path} is not a JSON object")
    return content


def parse_json(data: bytes | str, allow_nan: bool = False) -> Any:
    """The value of JSON text. Raises ``ValueError`` for all that ``canonical_json`` or UTF-8 could not write again.

    ``allow_nan`` is for rows and metrics, where NaN and infinity are results like others.
    """
    text = data.decode() if isinstance(data, bytes) else data
    try:
        if allow_nan:
            value = json.loads(text)
        else:
            value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # Half a surrogate pair is no text, and cannot be shown.
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
    _check_depth(value)
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text:.20} is too large a number")
    return value


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > _LARGEST_DEPTH:
        raise ValueError("brackets are nested too deeply")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        if isinstance(item, dict | list):
            _check_depth(item, depth + 1)


def is_full_disk_error(error: BaseException) -> bool:
    """Whether ``error`` says that a disk or quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL_DISK_ERRNOS


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether ``error``, raised while writing into ``folder``, comes from a full disk or quota.

    Some writers raise errors of their own without the errno, so the free space is looked at too.
    """
    return is_full_disk_error(error) or shutil.disk_usage(folder).free < _FULL_DISK_FREE_BYTES


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a one-line ``StorageError``: ``cannot <action>: <reason>``."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"cannot {action}: {error.strerror or error}{where}") from error
