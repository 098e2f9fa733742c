"""Checkpoints of a stage under way.

``checkpoint.json`` (sealed) points to ``state-a.pt`` or ``state-b.pt`` and holds its checksum, and those of the row
logs and input artefacts that the state goes with.

The pointer is replaced atomically after the new state is on disk, and the old state is removed after that: a crash at
any moment leaves one complete checkpoint. A file that is truncated, altered or foreign is refused with its reason.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from bench.checkpoint_info import POINTER, CheckpointInfo, read_checkpoint_info, remedy
from bench.errors import StorageError
from bench.files import sha256_of_file, storage_errors, sync_file, write_sealed_json

_SLOTS = ("state-a.pt", "state-b.pt")
_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))


class _HashingWriter:
    """A binary file that hashes what is written and keeps the ``OSError`` that the zip writer would hide."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()


def check_plain(value: Any, where: str) -> None:
    """Refuse what ``weights_only`` loading would refuse, when it is saved rather than when it is needed.

    Allowed are tensors, plain numbers, text, None, and lists, tuples and dicts of these. Raises ``TypeError``.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_plain(inner, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_plain(inner, f"{where}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in _PLAIN_TYPES:
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors, plain numbers and text only")


def save_state(path: Path, state: Mapping[str, Any]) -> str:
    """Write ``state`` to ``path`` with ``torch.save``, synced. Returns its SHA-256. Raises ``OSError``."""
    check_plain(state, "state")
    with path.open("wb") as file:
        writer = _HashingWriter(file)
        try:
            torch.save(dict(state), writer)  # type: ignore[arg-type]  # it needs write and flush only
            file.flush()
        except RuntimeError:
            # On a full disk torch reports its own confusion; the cause is the error of the file.
            if writer.error is not None:
                raise writer.error from None
            raise
    sync_file(path)
    return writer.sha256.hexdigest()


def save_checkpoint(folder: Path, info: CheckpointInfo, state: Mapping[str, Any]) -> None:
    """Make ``state`` the checkpoint in ``folder``; ``info``'s file name and checksum are filled in here.

    Raises ``StorageError`` (full disk, permissions); what ``checkpoint.json`` then points to is complete: the
    checkpoint before, or the new one where only making it durable failed.
    """
    in_use = _state_file_in_use(folder)
    state_file, other = (_SLOTS[1], _SLOTS[0]) if in_use == _SLOTS[0] else _SLOTS
    path = folder / state_file
    before = " (the one before it is intact)" if in_use is not None else ""
    with storage_errors(f"save the checkpoint in {folder}{before}"):
        try:
            checksum = save_state(path, state)
            content = asdict(info) | {"state_file": state_file, "state_sha256": checksum}
            write_sealed_json(folder / POINTER, content)
        except OSError:
            # The pointer may have been renamed already: what it names must stay.
            if _state_file_in_use(folder) != state_file:
                path.unlink(missing_ok=True)
            raise
        (folder / other).unlink(missing_ok=True)


def _state_file_in_use(folder: Path) -> str | None:
    info = read_checkpoint_info(folder)
    return None if info is None else info.state_file


def load_checkpoint(folder: Path, stage_hash: str) -> tuple[CheckpointInfo, dict[str, Any]] | None:
    """The checkpoint in ``folder`` (tensors on the CPU), or None when there is none.

    Raises ``StorageError`` naming the file when it is truncated, altered, or belongs to another stage.
    """
    info = read_checkpoint_info(folder)
    if info is None:
        return None
    if info.stage_hash != stage_hash:
        raise StorageError(f"{folder / POINTER} belongs to another stage; {remedy(folder)}")
    if info.state_file not in _SLOTS:
        raise StorageError(f"{folder / POINTER} names no state that this version has written; {remedy(folder)}")
    path = folder / info.state_file
    with storage_errors(f"read the checkpoint {path}"):
        if sha256_of_file(path) != info.state_sha256:
            raise StorageError(f"{path} is truncated or was altered (its checksum does not match); {remedy(folder)}")
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise StorageError(f"{path} holds more than tensors, numbers and text; {remedy(folder)}") from error
    if not isinstance(state, dict):
        raise StorageError(f"{path} holds a {type(state).__name__}, not the state of a stage; {remedy(folder)}")
    return info, state
