"""Durable files: synced, atomically renamed, and sealed with a checksum so that damage is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import StorageError

_FULL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_DISK_FREE_BYTES = 1 << 16
"""Below this a disk counts as full: libraries that hide the errno (zip and HDF5 writers) fail here too."""


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


def sync_file(path: Path) -> None:
    """Force a file's contents, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str, sync: bool = True) -> None:
    """Write ``text`` to ``path`` so that a crash leaves either the old file or the new one, never a part.

    Without ``sync`` that holds for a crash of the process; one of the machine may lose or damage the file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    temporary.replace(path)
    if sync:
        sync_file(path.parent)


def write_sealed_json(path: Path, content: Mapping[str, Any], sync: bool = True) -> None:
    """Write ``content`` as JSON with a ``seal``: the SHA-256 of everything else in it. As ``replace_text``."""
    sealed = {**content, "seal": sha256_of_text(canonical_json(dict(content)))}
    replace_text(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n", sync)


def read_sealed_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read what ``write_sealed_json`` wrote.

    Raises ``StorageError`` naming the file and the ``remedy`` when it is missing, truncated or altered.
    """
    try:
        content = read_json(path)
    except StorageError as error:
        raise StorageError(f"{error}; {remedy}") from error
    seal = content.pop("seal", None)
    if seal != sha256_of_text(canonical_json(content)):
        raise StorageError(f"{path} is damaged or was altered (its checksum does not match); {remedy}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``StorageError`` when it is missing or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StorageError(f"{path} is not a JSON object")
    return content


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
