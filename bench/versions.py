"""Versions and machine facts that belong in a manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

COMMIT_FILE = "git_commit.txt"
"""Beside the packages in a copy of a checkout: the commit it was made from."""
_PACKAGES = ("simpl-bench", "torch", "numpy", "mujoco", "gymnasium")


@cache
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that change results, and the git commit where there is one."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["git_commit"] = git_commit(Path(__file__).resolve().parent.parent)
    return found


def git_commit(source: Path) -> str | None:
    """Commit of a source tree (``+changes`` when files differ from it), or None where no git checkout is known."""
    if (source / COMMIT_FILE).exists():
        return (source / COMMIT_FILE).read_text().strip()
    if not (source / ".git").exists():
        return None
    try:
        commit = _git(source, "rev-parse", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None  # No git program, or a checkout without a commit: the versions above still identify the run.
    return f"{commit}+changes" if changed else commit


def _git(source: Path, *arguments: str) -> str:
    command = ["git", "-C", str(source), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
