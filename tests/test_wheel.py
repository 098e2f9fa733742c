"""The wheel, without the source beside it, from a folder whose names clash with its packages: it all works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("bench", "algorithms", "envs", "slurm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git tracks, with the setuptools that is here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", *PACKAGES, "pyproject.toml", "README.md", "LICENSE"],
        capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--wheel-dir", str(folder), str(source),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def make_hostile(folder: Path) -> Path:
    """A folder of somebody's with packages and scripts called like ours."""
    for package in ("envs", "algorithms", "slurm"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(f"raise RuntimeError('my own {package}')\n")
    for script in ("bench.py", "tests.py", "results.py"):
        (folder / script).write_text("raise SystemExit(3)\n")
    return folder


def check_everything(bench: Path, folder: Path, report: bool) -> None:
    """A run, a sweep in processes of its own, and a picture or a report with the paper's curves, from ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"

    def call(*arguments: str) -> str:
        command = [bench, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("run", "--algo", "spirl", "--env", "maze", "--preset", "smoke", "--tasks", "0", "--adapt.episodes", "2")
    (folder / "mine.toml").write_text(
        'name = "mine"\n[[presets.smoke]]\nalgorithms = ["sac"]\nenvs = ["pendulum"]\nseeds = [0]\n'
        'overrides = { "adapt.episodes" = 1 }\n'
    )
    assert "1 runs" in call("sweep", "mine.toml", "--preset", "smoke")
    assert "done" in call("status", "mine-smoke")
    shown = call("plot", "runs", "--env", "maze", "-o", "maze.svg")
    assert (folder / "maze.svg").exists(), shown
    if report:
        call("report", "-o", "report")
        page = (folder / "report" / "index.html").read_text()
        assert "spirl" in page and "the paper" in page


@pytest.mark.timeout(600)
def test_the_wheel_in_a_hostile_folder(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of the environment that runs the tests; the package itself is the wheel's."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    # A .pth adds the folder of the dependencies, and does not run the .pth files in it: no editable install is seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        sys.executable, "-m", "pip", "--python", str(place), "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", "--ignore-installed", str(wheel),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    program = "from bench.reporting.inputs import read_published; print(len(read_published(None)))"
    curves = subprocess.run([place / "bin" / "python", "-P", "-c", program], capture_output=True, text=True, check=True)
    assert int(curves.stdout) == len((ROOT / "results" / "paper" / "figure4_curves.csv").read_text().splitlines()) - 1
    check_everything(place / "bin" / "bench", make_hostile(tmp_path / "work"), report=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_the_wheel_in_a_fresh_environment(wheel: Path, tmp_path: Path, version: str) -> None:
    """All from the package index, as a user installs it."""
    python = _python(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    place = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", place], check=True)
    pip = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *os.environ.get("TORCH_PIP_ARGS", "").split(), "torch"], check=True)
    subprocess.run([*pip, wheel], check=True)
    check_everything(place / "bin" / "bench", make_hostile(tmp_path / "work"), report=True)


def _python(version: str) -> str | None:
    found = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for python in filter(None, found):
        if subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            return str(python)
    return None
