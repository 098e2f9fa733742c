"""On a real Slurm: what goes wrong with a job does not change a result, and harms nothing but what depends on it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.graph import merge_plans
from bench.node_records import RUNNING, NodeRecord, read_record, sweep_folder
from bench.run import RunOptions, execute_run
from slurm import executor
from slurm.states import node_jobs, node_states
from tests.slurm_helpers import MiniSlurm, assert_same_artefacts, toy_plan, wait_until, write_profile

pytestmark = pytest.mark.slurm

SWEEP = "faults"


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def node_of(job_id: str) -> str:
    return run("squeue", "-h", "-j", job_id, "-o", "%N").strip()


def record(folder: Path, node: str) -> NodeRecord:
    found = read_record(folder, node)
    assert found is not None, f"{node} was never started"
    return found


def is_running(folder: Path, node: str) -> bool:
    found = read_record(folder, node)
    return found is not None and found.status == RUNNING


@pytest.mark.timeout(300)
def test_disturbed_jobs_end_the_same_and_a_failed_stage_fails_only_what_depends_on_it(
    slurm: MiniSlurm, tmp_path: Path
) -> None:
    """USR2, a job of higher priority, the death of a node, and a stage that raises, all in one sweep."""
    slow = {"fit__updates": 60, "fit__pause_seconds": 0.25}
    plans = [toy_plan(seed, **slow) for seed in range(3)]
    bad = toy_plan(3, fit__learning_rate=1e30)  # Its loss ends as NaN, which no manifest holds.
    graph = merge_plans([*plans, bad], tmp_path / "cluster")
    options = RunOptions(tmp_path / "cluster", checkpoint_seconds=1.0)
    # One job per node, so that killing a node or needing all of it hits one job.
    executor.submit(graph, SWEEP, options, write_profile(tmp_path, memory_mb=3000), None)
    folder = sweep_folder(options.out, SWEEP)
    fits = [plan.stages[1].artefact_name for plan in plans]
    wait_until(lambda: all(is_running(folder, fit) for fit in fits), 90, "three stages running")
    store = options.out / "artefacts"
    wait_until(lambda: all((store / f"{fit}.partial" / "checkpoint.json").exists() for fit in fits), 30, "checkpoints")
    jobs = {fit: node_jobs(folder)[fit].task_id or "" for fit in fits}

    dead = node_of(jobs[fits[2]])
    slurm.kill_node(dead)
    run("scancel", "--signal=USR2", jobs[fits[0]])
    taken = node_of(jobs[fits[1]])
    run("sbatch", "-p", "high", "-w", taken, "--mem=3500", "-o", "/dev/null", "--wrap", "sleep 1")
    for plan in plans:
        execute_run(plan.request, RunOptions(tmp_path / "undisturbed"))
    executor.wait(SWEEP, options.out)
    slurm.start_node(dead)

    states = node_states(folder)
    failed = bad.stages[1].artefact_name
    dependants = {bad.stages[2].artefact_name, f"report-{bad.run_name}"}
    assert {node for node, state in states.items() if state != "done"} == {failed, *dependants}
    assert "ValueError" in record(folder, failed).traceback
    assert all(failed in record(folder, node).error for node in dependants)
    attempts = {node: record(folder, node).attempts for node in states}
    assert {node for node, count in attempts.items() if count > 1} == set(fits), attempts
    names = {stage.artefact_name for plan in plans for stage in plan.stages}
    assert_same_artefacts(tmp_path / "undisturbed", options.out, names)
