"""The code of a submission: what the jobs run is what was there when they were submitted, whatever is edited later."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError
from bench.files import storage_errors
from bench.versions import COMMIT_FILE, git_commit

PACKAGES = ("bench", "algorithms", "envs", "slurm")
_SKIPPED = frozenset({"__pycache__"})


def snapshot_code(destination: Path, source: Path | None = None) -> None:
    """Copy the packages under ``source`` (default: the code that runs now), uncommitted changes included.

    In a git checkout that is every file that git tracks or does not ignore; elsewhere (installed from a wheel) every
    file. Raises ``StorageError`` when it cannot be written, ``UserError`` when ``source`` lacks a package.
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
        names = [path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*")]
    for name in names:
        # git still lists a file that was deleted without git.
        if not _SKIPPED.intersection(name.parts) and (root / name).is_file():
            yield name


def _git_files(root: Path) -> list[Path] | None:
    """Tracked files and new ones that are not ignored, or None where git does not manage ``root``."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return None
    return [Path(name) for name in listed.split("\0") if name]
