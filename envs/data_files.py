"""Arrays in other people's files: read within a bound of memory, and nothing outside the file is followed.

A file says itself how large its arrays are, so that a few bytes can ask for terabytes; HDF5 can name other files, which
are read instead, or as zeros where they are gone. Both are refused here, for every format that this package reads.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST_BUDGET_BYTES = 1 << 28
_BUDGET_RATIO = 64
"""Arrays of a file together may take so many times its size: recorded data is noisy, and compresses far less."""
_NUMBERS = "bfiu"
"""numpy's letters of plain numbers."""


class DataFileError(ValueError):
    """A file of arrays that cannot be used; the message is one line and names the file."""


def memory_budget(path: Path) -> int:
    """Bytes that all arrays of a file may take together."""
    return max(_SMALLEST_BUDGET_BYTES, _BUDGET_RATIO * path.stat().st_size)


def why_not_data(path: Path) -> str | None:
    """What stands there instead of data, as after a download that went wrong; None where nothing like it is seen."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS, not the file itself: git lfs pull fetches it"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not data: the download went wrong; open it in a browser to see what the server said"
    if head.startswith((b"\x00\x05\x16\x07", b"\x00\x05\x16\x00")):
        return "a companion file of macOS (AppleDouble), not data: the file of the same name without ._ is meant"
    return None


class Hdf5Reader:
    """Arrays of numbers in one open HDF5 file."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        self._left = memory_budget(path)

    def __contains__(self, key: str) -> bool:
        """Whether the file itself has ``key``. Raises ``DataFileError`` where a link leads elsewhere."""
        return self._find(key) is not None

    def names(self) -> list[str]:
        """What the file has at its top."""
        return sorted(self._file)

    def attribute(self, name: str) -> Any:
        """An attribute of the file, None where there is none."""
        return self._file.attrs.get(name)

    def array(self, key: str) -> NDArray[Any]:
        """The array ``key``. Raises ``DataFileError`` unless it is there, plain numbers, and all in this file."""
        dataset = self._find(key)
        if dataset is None:
            raise DataFileError(f"{self.path}: no {key}")
        if not hasattr(dataset, "shape") or dataset.shape is None or dataset.dtype.kind not in _NUMBERS:
            raise DataFileError(f"{self.path}: {key} is not an array of numbers")
        if dataset.is_virtual:
            raise DataFileError(
                f"{self.path}: {key} is virtual: its rows lie in other files, and read as zeros where these are gone; "
                "copy them into one file (h5repack does)"
            )
        if dataset.external:
            raise DataFileError(
                f"{self.path}: {key} has external storage: its rows lie in other files; copy them into one file"
            )
        chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        self._take(key, max(math.prod(dataset.shape) * dataset.dtype.itemsize, chunk), dataset.shape)
        array: NDArray[Any] = np.asarray(dataset[()])
        return array

    def _take(self, key: str, size: int, shape: tuple[int, ...]) -> None:
        if size > self._left:
            raise DataFileError(
                f"{self.path}: {key} is said to have shape {shape}, {size:,} bytes: more than a file of "
                f"{self.path.stat().st_size:,} bytes can hold"
            )
        self._left -= size

    def _find(self, key: str) -> Any:
        import h5py

        here = self._file
        for part in key.split("/"):
            if not hasattr(here, "keys") or part not in here.keys():  # noqa: SIM118  # without following a link
                return None
            if not isinstance(here.get(part, getlink=True), h5py.HardLink):
                raise DataFileError(
                    f"{self.path}: {part} is a link to another place; only what lies in the file itself is read: copy "
                    "what it names into one file"
                )
            here = here[part]
        return here


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading. Raises ``DataFileError`` when it, or later a part of it, cannot be read.

    Without HDF5's locks, which fail on file systems that have none: files here appear whole, by a rename.
    """
    import h5py  # imported on use: reading a file is the only thing that needs it

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DataFileError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise DataFileError(f"{path}: not a readable HDF5 file, perhaps truncated ({first_line(error)})") from error


def read_npz_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Arrays of these names in a ``.npz``. Raises ``DataFileError`` for a missing one and for anything else."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            present = {name.removesuffix(".npy"): name for name in archive.namelist()}
            missing = [name for name in names if name not in present]
            if missing:
                raise DataFileError(f"{path}: no {', '.join(missing)}; found {sorted(present)[:20]}")
            left = memory_budget(path)
            found = {}
            for name in names:
                found[name] = _read_npy(archive, present[name], left)
                left -= found[name].nbytes
            return found
    except DataFileError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, LookupError, SyntaxError, TypeError, MemoryError,
            OverflowError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise DataFileError(f"{path}: not a readable .npz, perhaps truncated ({first_line(error)})") from error


def npz_names(path: Path) -> list[str]:
    """Names of what an archive holds. Raises ``DataFileError``."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (OSError, EOFError, ValueError, RuntimeError, LookupError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path}: not a readable .npz, perhaps truncated ({first_line(error)})") from error


def _read_npy(archive: zipfile.ZipFile, name: str, budget: int) -> NDArray[Any]:
    """Raises ``ValueError`` and whatever a damaged archive makes its readers raise."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{name} is of an unknown version {version}")
        shape, fortran_order, dtype = readers[version](file)
        if dtype.kind not in _NUMBERS + "U":
            raise ValueError(f"Object arrays and the like are not read: {name} holds {dtype}")
        size = math.prod(shape) * dtype.itemsize
        if size > budget or min(shape, default=0) < 0:
            raise ValueError(f"{name} is said to have shape {shape}, more than such a file can hold")
        content = bytearray(file.read(size))
        if len(content) != size or file.read(1):
            raise ValueError(f"{name} has another length than its shape {shape} says")
    array = np.frombuffer(content, dtype) if size else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
