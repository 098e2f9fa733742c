"""The snapshot holds the code as it is now, uncommitted changes included, and nothing that git ignores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import StorageError, UserError
from slurm.snapshot import PACKAGES, snapshot_code
from tests.slurm_helpers import ROOT


def make_source(folder: Path) -> Path:
    for package in PACKAGES:
        (folder / package).mkdir(parents=True)
        (folder / package / "module.py").write_text("x = 1\n")
    return folder


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    source = make_source(tmp_path / "source")
    (source / ".gitignore").write_text("*.secret\n")
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-qm", "first")
    return source


def test_changes_and_new_files_are_in_and_ignored_and_deleted_ones_are_not(checkout: Path, tmp_path: Path) -> None:
    (checkout / "bench" / "module.py").write_text("x = 2\n")
    (checkout / "slurm" / "new.py").write_text("y = 1\n")
    (checkout / "bench" / "key.secret").write_text("z")
    (checkout / "envs" / "module.py").unlink()
    (checkout / "notes.txt").write_text("not a package")
    snapshot = tmp_path / "code"
    snapshot_code(snapshot, checkout)
    found = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}
    assert found == {
        "bench/module.py", "algorithms/module.py", "slurm/module.py", "slurm/new.py", "git_commit.txt",
    }  # fmt: skip
    assert (snapshot / "bench" / "module.py").read_text() == "x = 2\n"
    assert (snapshot / "git_commit.txt").read_text() == git(checkout, "rev-parse", "HEAD") + "+changes\n"


def test_secrets_and_what_links_lead_to_are_not_copied(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "module.py").write_text("secret = 1\n")
    for name in (".env", "id.key", "token.txt", ".hidden.py"):
        (checkout / "slurm" / name).write_text("secret")
    (checkout / "slurm" / "link.py").symlink_to(tmp_path / "elsewhere" / "module.py")
    (checkout / "envs" / "linked").symlink_to(tmp_path / "elsewhere")
    expected = {f"{package}/module.py" for package in PACKAGES}
    snapshot_code(tmp_path / "new", checkout)
    found = files_below(tmp_path / "new")
    assert found == {*expected, "git_commit.txt"}
    git(checkout, "add", "slurm/link.py", "envs/linked", "slurm/.env")
    snapshot_code(tmp_path / "tracked", checkout)
    found = {
        str(path.relative_to(tmp_path / "tracked")) for path in (tmp_path / "tracked").rglob("*") if path.is_file()
    }
    assert found == {*expected, "git_commit.txt"}


def test_without_git_secrets_and_links_are_not_copied(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (source / "bench" / "id.key").write_text("secret")
    (source / "bench" / ".env").write_text("secret")
    (source / "bench" / "link.py").symlink_to("/etc/passwd")
    snapshot_code(tmp_path / "code", source)
    found = {str(path.relative_to(tmp_path / "code")) for path in (tmp_path / "code").rglob("*") if path.is_file()}
    assert found == {f"{package}/module.py" for package in PACKAGES}


def test_without_git_every_file_but_bytecode_is_copied(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (source / "bench" / "__pycache__").mkdir()
    (source / "bench" / "__pycache__" / "module.pyc").write_bytes(b"")
    snapshot_code(tmp_path / "code", source)
    found = {str(path.relative_to(tmp_path / "code")) for path in (tmp_path / "code").rglob("*") if path.is_file()}
    assert found == {f"{package}/module.py" for package in PACKAGES}


def test_a_python_in_the_snapshot_uses_it_and_knows_the_commit(tmp_path: Path) -> None:
    snapshot_code(tmp_path)
    program = "import bench.versions, slurm.job; print(bench.versions.__file__); print(bench.versions.versions())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    path, versions = done.stdout.splitlines()
    assert Path(path).is_relative_to(tmp_path)
    assert git(ROOT, "rev-parse", "HEAD") in versions


def test_a_folder_without_the_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no folder bench"):
        snapshot_code(tmp_path / "code", tmp_path)


def test_a_destination_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot snapshot the code"):
        snapshot_code(tmp_path / "file" / "code", source)
