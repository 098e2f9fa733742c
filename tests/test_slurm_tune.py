"""``bench tune --executor slurm`` on a real Slurm: rounds of trials as job arrays, with the outcome of this machine."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.node_records import sweep_folder
from slurm.states import node_jobs
from tests.conftest import Bench
from tests.slurm_helpers import MiniSlurm, write_profile

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

TUNE = ("tune", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--parallel", 2)
NAME = "toy-toy-line-smoke-s0-on-validation"


def trials(out: Path) -> list[dict[str, str]]:
    with (out / "tuning" / NAME / "trials.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_trials_on_a_cluster_are_those_of_this_machine(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    cluster, here, profile = tmp_path / "cluster", tmp_path / "here", write_profile(tmp_path)
    outcome = bench(*TUNE, "--trials", 3, "--out", cluster, "--executor", "slurm", "--profile", profile)
    assert outcome.code == 0, outcome.err
    assert bench(*TUNE, "--trials", 3, "--out", here).code == 0
    assert trials(cluster) == trials(here) and len(trials(here)) == 3
    jobs = node_jobs(sweep_folder(cluster, f"tune-{NAME}"))
    arrays = {job.array.name for node, job in jobs.items() if node.startswith("adapt-")}
    assert len(arrays) == 2, "a round is an array: two trials, then one"
    again = bench(*TUNE, "--trials", 1, "--out", cluster, "--executor", "slurm", "--profile", profile)
    assert again.code == 0 and len(trials(cluster)) == 4
