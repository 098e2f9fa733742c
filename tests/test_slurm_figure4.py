"""The paper's first study at ``smoke``, on a real Slurm of four nodes: all done, bit for bit as on one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.node_records import sweep_folder
from bench.store import ARTEFACTS_FOLDER
from tests.conftest import Bench
from tests.slurm_helpers import MiniSlurm, assert_same_artefacts, write_profile

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(3000)]


def test_figure4_at_smoke_is_the_same_on_slurm_and_here(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    cluster, here = tmp_path / "cluster", tmp_path / "here"
    asked = ("sweep", "figure4", "--preset", "smoke", "--out")
    profile = write_profile(tmp_path, memory_mb=1900, gpus=1, stages_per_job=2)
    outcome = bench(*asked, cluster, "--executor", "slurm", "--profile", profile, "--wait")
    assert outcome.code == 0, outcome.err
    assert bench(*asked, here, "--max-parallel", "2").code == 0
    status = json.loads(bench("status", "figure4-smoke", "--out", cluster, "--json").out)
    assert set(status["counts"]) == {"done"}
    records = (sweep_folder(cluster, "figure4-smoke") / "nodes").glob("*.json")
    attempts = {path.stem: json.loads(path.read_text())["attempts"] for path in records}
    assert set(attempts) == {node["name"] for node in status["nodes"]}
    assert set(attempts.values()) == {1}
    names = {path.name for path in (here / ARTEFACTS_FOLDER).iterdir() if path.name != ".locks"}
    assert names == {path.name for path in (cluster / ARTEFACTS_FOLDER).iterdir() if path.name != ".locks"}
    assert_same_artefacts(cluster, here, names)
