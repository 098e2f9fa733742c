"""The code of a submission: what the jobs run is what was there when they were submitted, whatever is edited later."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError
from bench.files import storage_errors
from bench.versions import COMMIT_FILE, git_commit

PACKAGES = ("bench", "algorithms", "envs", "slurm")
_SKIPPED = frozenset({"__pycache__"})
_NEW_ENDINGS = frozenset({".py", ".toml"})
_ENDINGS = _NEW_ENDINGS | {".csv", ".npz", ".css", ".js", ".j2", ".html", ".md", ".txt", ".json", ".typed"}


def snapshot_code(destination: Path, source: Path | None = None) -> None:
    """Copy the packages under ``source`` (default: the code that runs now), uncommitted changes included.

    In a git checkout that is every file that git tracks, and of new ones that it does not ignore those whose ending is
    that of code or a sweep (``_NEW_ENDINGS``); elsewhere (installed from a wheel) every file with an ending that the
    packages have (``_ENDINGS``). Hidden files and links are in no case copied: keys and passwords lie in the ones, and
    anything behind the others. Raises ``StorageError`` when it cannot be written, ``UserError`` when ``source`` lacks a
    package.
    """
    root = Path(__file__).resolve().parent.parent if source is None else source
    for package in PACKAGES:
        if not (root / package).is_dir():
            raise UserError(f"cannot snapshot the code: {root} has no folder {package}")
    with storage_errors(f"snapshot the code in {destination}"):
        for relative in _files(root):
            target = destination / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / relative, target)
        commit = git_commit(root)
        if commit is not None:
            (destination / COMMIT_FILE).write_text(f"{commit}\n")


def _files(root: Path) -> Iterator[Path]:
    names = _git_files(root)
    if names is None:
        found = (path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*"))
        names = [name for name in found if name.suffix in _ENDINGS]
    for name in names:
        if _SKIPPED.intersection(name.parts) or any(part.startswith(".") for part in name.parts):
            continue
        # git still lists a file that was deleted without git.
        if (root / name).is_file() and not _is_behind_link(root, name):
            yield name


def _is_behind_link(root: Path, name: Path) -> bool:
    return any((root / part).is_symlink() for part in (name, *name.parents))


def _git_files(root: Path) -> list[Path] | None:
    """Tracked files, and new ones that look like code; None where git does not manage ``root``."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        tracked = _listed([*command, "--cached", "--", *PACKAGES])
        new = _listed([*command, "--others", "--exclude-standard", "--", *PACKAGES])
    except (OSError, subprocess.SubprocessError):
        return None
    return [*tracked, *(name for name in new if name.suffix in _NEW_ENDINGS)]


def _listed(command: list[str]) -> list[Path]:
    listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
