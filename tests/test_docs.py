"""Every command in README and CONTRIBUTING runs, and the Python there works as it stands."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import algorithms.registry
import envs.registry
from envs.kitchen.readers import human_trajectories
from tests.conftest import ROOT, Bench

PAGES = ("README.md", "CONTRIBUTING.md")
MAZE_PAGE = "envs/maze/README.md"
KITCHEN_PAGE = "envs/kitchen/README.md"
DATA_PAGE = "envs/kitchen/DATA.md"
ALGORITHMS_PAGE = "algorithms/README.md"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    for page in PAGES:
        assert all(command.startswith(("bench ", "make ")) for command in commands(page)), commands(page)


@pytest.mark.parametrize("command", sorted({c for page in PAGES for c in commands(page) if c.startswith("make ")}))
def test_make_knows_the_target(command: str) -> None:
    result = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_main_job_is_a_valid_run(bench: Bench) -> None:
    dry = subprocess.run(["make", "run", "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (arguments,) = re.findall(r"bin/bench (run .*)", dry)
    assert bench(*shlex.split(arguments), "--help").code == 0


def at_smoke_size(command: str) -> list[str]:
    """The arguments of a ``bench`` command with its preset, also where run names hold it, replaced by ``smoke``."""
    words = [re.sub(r"-(quick|paper)(-s|$)", r"-smoke\2", word) for word in shlex.split(command)[1:]]
    words = ["smoke" if word in ("quick", "paper") else word for word in words]
    if words[0] == "run" and "--preset" not in words:
        words += ["--preset", "smoke"]
    return words


@pytest.mark.timeout(900)  # a dozen small but real runs
@pytest.mark.parametrize("page", PAGES)
def test_every_bench_command_runs_at_smoke_size(
    page: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        if command.startswith("bench "):
            outcome = bench(*at_smoke_size(command))
            assert outcome.code == 0, f"{command}: {outcome.err}"


def test_the_line_that_makes_csv_of_rows_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall(r"`(pandas\..*?to_csv.*?)`", (ROOT / "README.md").read_text())
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    exec(f"import pandas; {line}", {})
    made = pd.read_csv("episodes.csv")
    assert {"task", "episode", "return", "env_steps"} <= set(made) and len(made) > 1000


@pytest.mark.parametrize("env", ["maze", "kitchen"])
def test_the_results_in_the_readme_are_those_of_the_summary(env: str) -> None:
    """Each score is the mean over the shipped seeds of one window; the last column is the mean wall time."""
    page = (ROOT / "README.md").read_text()
    (table,) = re.findall(rf"(\| `{env}`, episodes \|.*?)\n\n", page, flags=re.DOTALL)
    summary = pd.read_csv(ROOT / "results" / "summary.csv").query(f"env == '{env}' and preset == 'quick'")
    windows = re.findall(r"\d+-\d+", table.splitlines()[0])
    assert len(windows) == summary["window"].nunique()
    for algo, runs in summary.groupby("algo"):
        scores = runs.groupby("window")["mean_score"].mean()
        minutes = runs.groupby("seed")["seconds"].first().mean() / 60
        cells = [f"{scores[window]:.2f}" for window in windows] + [f"{minutes:.0f}"]
        assert f"| `{algo}` | {' | '.join(cells)} |" in table


def test_the_data_pages_commands_work_on_a_file_in_d4rls_layout(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import in full; the run as far as its plan, which reads the file."""
    monkeypatch.chdir(tmp_path)
    import_command, run_command = (shlex.split(command)[1:] for command in commands(DATA_PAGE))
    human = human_trajectories()
    with h5py.File(import_command[3], "w") as file:
        file["observations"] = np.hstack([human.observations, np.zeros_like(human.observations)])
        file["actions"] = human.actions
        file["terminals"] = np.isin(np.arange(len(human.actions)), human.episode_ends - 1)
    imported = bench(*import_command)
    assert imported.code == 0, imported.err
    assert Path("mixed.hdf5").exists()
    planned = bench(*run_command, "--help")
    assert planned.code == 0, planned.err
    assert "data.checksum" in planned.out


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, MAZE_PAGE, KITCHEN_PAGE, DATA_PAGE, ALGORITHMS_PAGE):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
            assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_maze_pages_code_draws_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(MAZE_PAGE, "python")
    exec(compile(code, MAZE_PAGE, "exec"), {})
    assert (tmp_path / "maze_tasks.png").stat().st_size > 10_000


def test_the_contributing_guides_algorithm_and_task_distribution_run_as_they_stand(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = blocks("CONTRIBUTING.md", "python")
    (algorithm,) = [block for block in python if "ALGORITHM = " in block]
    (distribution,) = [block for block in python if "def make_task_distribution" in block]
    for name, block in (("guide_algorithm", algorithm), ("guide_tasks", distribution)):
        (tmp_path / f"{name}.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for registry in (algorithms.registry, envs.registry):  # The other tests must not see the guide's names.
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    algorithms.registry.register_algorithm("guide-random", "guide_algorithm:ALGORITHM", "the guide's")
    envs.registry.register_task_distribution("guide-near", "guide_tasks:make_task_distribution", "the guide's")
    outcome = bench("run", "--algo", "guide-random", "--env", "guide-near", "--preset", "smoke", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "adapt: done" in outcome.out
    sys.modules.pop("guide_algorithm")
    sys.modules.pop("guide_tasks")
