"""``bench sweep --executor slurm`` on a real Slurm, from submission to results."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.node_records import RUNNING, NodeRecord, read_record, sweep_folder
from bench.statistics.episodes import load_episodes
from bench.store import ARTEFACTS_FOLDER
from slurm.snapshot import snapshot_code
from slurm.states import node_jobs, node_states
from tests.conftest import Bench
from tests.slurm_helpers import MiniSlurm, assert_same_artefacts, wait_until, write_profile, write_toy_sweep

pytestmark = pytest.mark.slurm


def attempts(folder: Path) -> dict[str, int]:
    """How often each node was started."""
    return {path.stem: json.loads(path.read_text())["attempts"] for path in (folder / "nodes").glob("*.json")}


def artefacts(out: Path) -> set[str]:
    return {path.name for path in (out / ARTEFACTS_FOLDER).iterdir() if path.name != ".locks"}


def queue() -> list[str]:
    """Names of all jobs that are queued or running."""
    return subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True, check=True).stdout.split()


def test_shared_stages_are_computed_once_and_results_are_those_of_this_machine(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    sweep, cluster, here = write_toy_sweep(tmp_path), tmp_path / "cluster", tmp_path / "here"
    asked = ("sweep", sweep, "--preset", "smoke", "--out")
    profile = write_profile(tmp_path)
    outcome = bench(*asked, cluster, "--executor", "slurm", "--profile", profile, "--wait")
    assert outcome.code == 0, outcome.err
    assert bench(*asked, here).code == 0
    count = {stage: sum(name.startswith(stage) for name in artefacts(cluster)) for stage in ("data", "fit", "adapt")}
    assert count == {"data": 1, "fit": 2, "adapt": 2}
    started = attempts(sweep_folder(cluster, "toys-smoke"))
    assert len(started) == 7 and set(started.values()) == {1}
    assert artefacts(cluster) == artefacts(here)
    assert_same_artefacts(cluster, here, artefacts(here))
    again = bench(*asked, cluster, "--executor", "slurm", "--profile", profile, "--wait")
    assert again.code == 0 and "nothing is missing" in again.out


def test_what_is_in_the_queue_is_not_submitted_again(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    slurm.open_queue(False)
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", tmp_path / "out", "--executor", "slurm",
             "--profile", write_profile(tmp_path), "--max-parallel", "1")  # fmt: skip
    assert bench(*asked).code == 0
    jobs = queue()
    second = bench(*asked)
    assert second.code == 0 and "nothing to submit: 7 stages are in the queue" in second.out
    assert queue() == jobs
    slurm.open_queue(True)
    assert bench(*asked, "--wait").code == 0
    assert set(attempts(sweep_folder(tmp_path / "out", "toys-smoke")).values()) == {1}


def test_code_edited_after_the_submission_does_not_leak_in(slurm: MiniSlurm, tmp_path: Path) -> None:
    checkout, out = tmp_path / "checkout", tmp_path / "out"
    snapshot_code(checkout)
    command = [
        sys.executable, "-m", "bench", "sweep", str(write_toy_sweep(tmp_path, seeds=[0])), "--preset", "smoke",
        "--out", str(out), "--executor", "slurm", "--profile", write_profile(tmp_path),
    ]  # fmt: skip
    slurm.open_queue(False)
    subprocess.run(command, cwd=checkout, check=True, timeout=60)
    (checkout / "bench" / "worker.py").write_text("raise ImportError('edited')\n")
    (checkout / "algorithms" / "stage.py").write_text("raise ImportError('edited')\n")
    edited = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60, check=False)
    assert "edited" in edited.stderr
    slurm.open_queue(True)
    folder = sweep_folder(out, "toys-smoke")
    wait_until(lambda: set(node_states(folder).values()) == {"done"}, 120, "all done")


def test_cancel_stops_this_sweep_alone_and_running_again_goes_on(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    sweep = write_toy_sweep(tmp_path, seeds=[0], fit__updates=400, fit__pause_seconds=0.05)
    out, here = tmp_path / "out", tmp_path / "here"
    asked = ("sweep", sweep, "--preset", "smoke", "--out", out, "--executor", "slurm", "--profile")
    assert bench(*asked, write_profile(tmp_path)).code == 0
    other = ["sbatch", "--parsable", "-J", "other", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 300"]
    subprocess.run(other, check=True, capture_output=True)
    folder = sweep_folder(out, "toys-smoke")
    fit = next(node for node in node_states(folder) if node.startswith("fit"))

    def is_running() -> bool:
        record = read_record(folder, fit)
        return record is not None and record.status == RUNNING

    wait_until(is_running, 90, "the fit stage running")
    assert bench("cancel", "toys-smoke", "--out", out).code == 0
    wait_until(lambda: queue() == ["other"], 60, "only the other job left")
    record = read_record(folder, fit)
    assert record is not None and record.status == "interrupted"  # It saved itself, and did not requeue itself.
    assert node_states(folder)[fit] == "cancelled"
    assert bench(*asked, write_profile(tmp_path), "--wait").code == 0
    assert attempts(folder)[fit] == 2
    assert bench("sweep", sweep, "--preset", "smoke", "--out", here).code == 0
    assert_same_artefacts(out, here, artefacts(here))


def test_a_killed_stage_is_told_in_the_clusters_words_and_its_run_keeps_a_row_of_it(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    """As where memory runs out: the process has no time to say anything."""
    out = tmp_path / "out"
    sweep = write_toy_sweep(tmp_path, seeds=[0], fit__updates=400, fit__pause_seconds=0.05)
    asked = ["sweep", str(sweep), "--preset", "smoke", "--out", str(out), "--executor", "slurm", "--wait"]
    asked += ["--profile", write_profile(tmp_path)]
    waiting = subprocess.Popen([sys.executable, "-m", "bench", *asked], stderr=subprocess.PIPE, text=True)
    folder = sweep_folder(out, "toys-smoke")

    def fit_record() -> NodeRecord | None:
        names = [node for node in node_states(folder) if node.startswith("fit")]
        record = read_record(folder, names[0]) if names else None
        return record if record is not None and record.status == RUNNING else None

    wait_until(fit_record, 90, "the fit stage running")
    killed = fit_record()
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    _, error = waiting.communicate(timeout=120)
    assert waiting.returncode == 1
    assert "3 of 4 are not done" in error and error.count("\n") == 1
    status = json.loads(bench("status", "toys-smoke", "--out", out, "--json").out)
    (node,) = (node for node in status["nodes"] if node["name"] == killed.node)
    assert node["state"] == "failed"
    assert re.search(r"gone without a word: .*; the cluster says FAILED", node["reason"]), node["reason"]
    (left,) = load_episodes([out]).excluded
    assert re.search(r"toy-toy-line-smoke-s0-\w+$", left.run)
    assert re.match(r"failed: pid \d+ on .* is gone without a word", left.reason)
    assert bench(*asked).code == 0
    assert load_episodes([out]).excluded == ()


def test_what_waits_for_a_job_that_has_gone_is_submitted_again_with_it(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    slurm.open_queue(False)
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", tmp_path / "out", "--executor", "slurm",
             "--profile", write_profile(tmp_path))  # fmt: skip
    assert bench(*asked).code == 0
    folder = sweep_folder(tmp_path / "out", "toys-smoke")
    before = node_jobs(folder)
    gone = next(node for node in before if node.startswith("fit"))
    subprocess.run(["scancel", before[gone].task_id or ""], check=True, timeout=60)
    assert bench(*asked).code == 0
    after = node_jobs(folder)
    renewed = {node for node in after if after[node].task_id != before[node].task_id}
    assert len(renewed) == 3 and gone in renewed  # The fit, its adapt and its report.
    states = node_states(folder)
    assert set(states.values()) == {"pending"}
    slurm.cancel_all()
    slurm.open_queue(True)


def test_a_job_can_submit_a_sweep(slurm: MiniSlurm, tmp_path: Path) -> None:
    """``SLURM_MEM_PER_CPU`` of the outer job would contradict the memory that the inner jobs ask for."""
    out = tmp_path / "out"
    arguments = f"{write_toy_sweep(tmp_path, seeds=[0])} --preset smoke --out {out} --executor slurm"
    command = f"{sys.executable} -m bench sweep {arguments} --profile {write_profile(tmp_path)} --wait"
    outer = ["sbatch", "--wait", "--mem-per-cpu=100", "-o", str(tmp_path / "log"), "--wrap", command]
    done = subprocess.run(outer, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    assert set(node_states(sweep_folder(out, "toys-smoke")).values()) == {"done"}
