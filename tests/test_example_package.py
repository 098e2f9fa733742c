"""The example package, installed by pip as anybody's: it is listed, runs, resumes and plays; broken ones are named.

CONTRIBUTING.md walks through its files; ``test_docs.py`` holds the page to them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "tests" / "example_package"
NAME = "simpl-bench-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the package into. Nothing is fetched: it builds with the setuptools that is here."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source")  # building leaves files beside pyproject.toml
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--target", str(folder / "site"), str(source),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder / "site"


def bench_with(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``bench`` in a process that finds the packages of ``site`` as it finds all that are installed."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))},
    )  # fmt: skip


def test_it_is_listed_with_its_package_and_what_it_fits(installed: Path) -> None:
    result = bench_with(installed, "list")
    assert result.returncode == 0, result.stderr
    assert f"from {NAME}" in result.stdout
    for name in ("skill-search", "maze-near"):
        assert name in result.stdout


def test_its_algorithm_runs_on_its_task_distribution_and_plays(installed: Path, tmp_path: Path) -> None:
    run = ("run", "--algo", "skill-search", "--env", "maze-near", "--preset", "smoke", "--out", tmp_path)
    result = bench_with(installed, *run)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "skill-search-maze-near-smoke-s0"
    rows = pd.read_parquet(folder / "episodes.parquet")
    assert rows["episode"].tolist() == list(range(6))
    assert set(rows["task_name"]) == {"goal-10-11"}
    assert (folder / "curve.png").exists()
    again = bench_with(installed, *run)
    assert again.stdout.count(": reused ") == 3, "data, skills, adapt"
    played = bench_with(installed, "play", folder, "-o", tmp_path / "play.png")
    assert played.returncode == 0, played.stderr
    assert (tmp_path / "play.png").read_bytes().startswith(b"\x89PNG")


def plugin(folder: Path, algorithms: str = "", distributions: str = "", code: str = "") -> Path:
    """What pip leaves of a package called ``bad-apple`` with these entry points, and its module."""
    info = folder / "bad_apple-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-apple\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        f"[simpl_bench.algorithms]\n{algorithms}\n[simpl_bench.task_distributions]\n{distributions}\n"
    )
    (folder / "bad_apple.py").write_text(code)
    return folder


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("ALGORITHM = 3", "TypeError: bad_apple:ALGORITHM is no Algorithm but 3"),
    ],
)
def test_an_algorithm_that_cannot_be_had_is_one_line_that_names_its_package(
    tmp_path: Path, code: str, reason: str
) -> None:
    site = plugin(tmp_path, algorithms="rotten = bad_apple:ALGORITHM", code=code)
    result = bench_with(site, "run", "--algo", "rotten", "--env", "maze-10", "--out", tmp_path / "runs")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    start = f"bench: algorithm 'rotten' of the package 'bad-apple' cannot be loaded: {reason}"
    assert result.stderr.startswith(start)
    assert not (tmp_path / "runs").exists()


def test_a_broken_package_is_listed_as_such_and_the_rest_goes_on(tmp_path: Path) -> None:
    site = plugin(
        tmp_path, "rotten = bad_apple:ALGORITHM", "sour = bad_apple:make\nbitter = bad_apple:absent",
        "def make(name):\n    raise RuntimeError('no\\nworld')\nraise_later = 1\n",
    )  # fmt: skip
    result = bench_with(site, "list")
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    for reason in (
        "algorithm 'rotten' of the package 'bad-apple' cannot be loaded: AttributeError: ",
        "task distribution 'sour' of the package 'bad-apple' cannot be loaded: RuntimeError: no world",
        "task distribution 'bitter' of the package 'bad-apple' cannot be loaded: AttributeError: ",
    ):
        assert all(word in shown for word in reason.split())
    assert shown.count("unavailable") == 3
    assert bench_with(site, "run", "--algo", "simpl", "--env", "maze-10", "--help").returncode == 0
    refused = bench_with(site, "run", "--algo", "simpl", "--env", "sour")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("bench: task distribution 'sour' of the package 'bad-apple' cannot be loaded: ")


@pytest.mark.parametrize(
    ("algorithms", "distributions", "kind", "name"),
    [
        ("simpl = bad_apple:ALGORITHM", "", "algorithm", "simpl"),
        ("", "maze = bad_apple:make", "task distribution", "maze"),
    ],
)
def test_a_name_that_is_taken_is_refused_in_one_line(
    tmp_path: Path, algorithms: str, distributions: str, kind: str, name: str
) -> None:
    site = plugin(tmp_path, algorithms, distributions)
    run = ("run", "--algo", "simpl", "--env", "maze", "--preset", "smoke", "--out", tmp_path / "runs")
    for command in (("list",), run):
        result = bench_with(site, *command)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == (
            f"bench: the package 'bad-apple' adds the {kind} '{name}', a name that simpl-bench has already taken: "
            "rename its entry point, or uninstall it\n"
        )
    assert not (tmp_path / "runs").exists()
