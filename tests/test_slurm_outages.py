"""Slurm's controller or the submitting shell dies; many stages; with accounting: the sweep completes, nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.graph import merge_plans
from bench.node_records import sweep_folder
from bench.run import RunOptions, execute_run
from slurm import executor
from slurm.ledger import read_submissions
from slurm.states import job_states, node_jobs, node_states
from tests.conftest import Bench
from tests.slurm_helpers import (
    ROOT,
    MiniSlurm,
    assert_same_artefacts,
    install_toy,
    running_slurm,
    toy_plan,
    wait_until,
    write_profile,
    write_toy_sweep,
)

pytestmark = pytest.mark.slurm


def attempts(folder: Path) -> dict[str, int]:
    """How often each node was started."""
    return {path.stem: json.loads(path.read_text())["attempts"] for path in (folder / "nodes").glob("*.json")}


def made_artefacts(out: Path) -> dict[str, tuple[int, int]]:
    """Finished artefact -> (inode, time in ns) of its manifest, which is written once, when the artefact is made."""
    manifests = [(path.parent.name, path.stat()) for path in out.glob("artefacts/*/manifest.json")]
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in manifests if not name.endswith(".partial")}


# Where the controller had not yet saved that a job was launched, Slurm drains the node and holds the job ("launch
# failed requeued held"): seen in one of seven runs, so the test after this one makes it happen on purpose.
@pytest.mark.timeout(400)
def test_a_controller_that_crashes_in_the_middle_loses_nothing(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", tmp_path / "out", "--executor", "slurm",
             "--profile", write_profile(tmp_path))  # fmt: skip
    assert bench(*asked).code == 0
    folder = sweep_folder(tmp_path / "out", "toys-smoke")
    wait_until(lambda: any(node.startswith("fit") for node in attempts(folder)), 90, "a fit stage started")
    finished = made_artefacts(tmp_path / "out")
    slurm.kill_controller()
    slurm.start_controller()
    # What the controller forgot is submitted again; what it knows is waited for.
    outcome = bench(*asked, "--wait")
    if outcome.code:
        outcome = bench(*asked, "--wait")
    assert outcome.code == 0, outcome.err
    assert set(node_states(folder).values()) == {"done"}
    # A job that the controller forgot to have ended is started again, and finds its artefact: nothing is made twice but
    # the two that were in flight.
    assert finished.items() <= made_artefacts(tmp_path / "out").items()
    started = {node: count for node, count in attempts(folder).items() if node not in finished}
    assert sum(started.values()) <= len(started) + 2


@pytest.fixture
def failing_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of its own, and a folder: each file put there makes one launch fail."""
    prolog, failures = tmp_path / "prolog.sh", tmp_path / "failures"
    failures.mkdir()
    prolog.write_text(f'#!/bin/sh\nfor one in {failures}/*; do rm "$one" 2>/dev/null && exit 1; done\nexit 0\n')
    prolog.chmod(0o755)
    with running_slurm(prolog=prolog) as cluster:
        cluster.use(monkeypatch, install_toy(tmp_path / "plugin"))
        yield failures


@pytest.mark.timeout(200)
def test_jobs_whose_launch_failed_are_released_while_waiting_and_submitted_anew_otherwise(
    failing_launches: Path, bench: Bench, tmp_path: Path
) -> None:
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", tmp_path / "out", "--executor", "slurm",
             "--profile", write_profile(tmp_path))  # fmt: skip
    folder = sweep_folder(tmp_path / "out", "toys-smoke")

    def failed_launches() -> list[str]:
        arrays = {job.array.name: job.array for job in node_jobs(folder).values()}
        return [job_id for job_id, state in job_states(arrays.values()).items() if state.launch_failed]

    (failing_launches / "first").touch()
    assert bench(*asked).code == 0
    wait_until(failed_launches, 60, "a job whose launch failed")
    (held,) = failed_launches()
    (failing_launches / "second").touch()
    # The sweep again submits anew what is held; the second failure comes while this one waits, and is released.
    outcome = bench(*asked, "--wait")
    assert outcome.code == 0, outcome.err
    assert not (failing_launches / "second").exists()
    assert held not in {job.task_id for job in node_jobs(folder).values()}
    assert set(node_states(folder).values()) == {"done"}
    assert set(attempts(folder).values()) == {1}
    drained = subprocess.run(
        ["sinfo", "-h", "-N", "-p", "main", "-t", "drain"], capture_output=True, text=True, check=True
    )
    assert len(drained.stdout.splitlines()) == 2


def test_a_submission_killed_at_any_moment_is_completed_by_the_next(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    asked = ["sweep", str(write_toy_sweep(tmp_path)), "--preset", "smoke", "--out", str(tmp_path / "out"),
             "--executor", "slurm", "--profile", write_profile(tmp_path)]  # fmt: skip
    folder = sweep_folder(tmp_path / "out", "toys-smoke")
    slurm.open_queue(False)
    shell = subprocess.Popen([sys.executable, "-m", "bench", *asked], cwd=ROOT, stdout=subprocess.DEVNULL)
    while shell.poll() is None and not list((folder / "slurm").glob("*/submission.json")):
        time.sleep(0.01)
    time.sleep(0.15)  # Some arrays are in, the last one perhaps without its id.
    os.kill(shell.pid, signal.SIGKILL)
    shell.wait()
    assert bench(*asked).code == 0
    waiting = [node for node, state in node_states(folder).items() if state == "pending"]
    assert len(waiting) == 7
    names = [array.name for known in read_submissions(folder) for array in known.arrays if not array.dropped]
    queued = subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(queued) == sorted(names)
    executor.cancel("toys-smoke", tmp_path / "out")
    slurm.open_queue(True)


@pytest.mark.slow
def test_a_job_at_its_time_limit_goes_on_and_ends_the_same(slurm: MiniSlurm, tmp_path: Path) -> None:
    plan = toy_plan(fit__updates=300, fit__pause_seconds=0.25)
    options = RunOptions(tmp_path / "cluster")
    # Seventy-five seconds of work, a limit of sixty.
    profile = write_profile(tmp_path, minutes=1, signal_seconds=20)
    executor.submit(merge_plans([plan], options.out), "long", options, profile, None)
    executor.wait("long", options.out)
    folder = sweep_folder(options.out, "long")
    assert set(node_states(folder).values()) == {"done"}
    assert attempts(folder)[plan.stages[1].artefact_name] > 1
    execute_run(plan.request, RunOptions(tmp_path / "undisturbed"))
    assert_same_artefacts(tmp_path / "undisturbed", options.out, [stage.artefact_name for stage in plan.stages])


@pytest.fixture
def accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniSlurm]:
    with running_slurm(accounting=True) as cluster:
        cluster.use(monkeypatch, install_toy(tmp_path / "plugin"))
        yield cluster


@pytest.mark.slow
def test_with_accounting_sacct_gives_the_states_and_an_unknown_account_is_refused(
    accounting: MiniSlurm, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    sweep = write_toy_sweep(tmp_path, seeds=[0])
    asked = ("sweep", sweep, "--preset", "smoke", "--out", tmp_path / "out", "--executor", "slurm", "--profile")
    refused = bench(*asked, write_profile(tmp_path, account="nobody"))
    assert refused.code == 2 and "Invalid account" in refused.err
    assert bench(*asked, write_profile(tmp_path, account="lab"), "--wait").code == 0
    folder = sweep_folder(tmp_path / "out", "toys-smoke")
    arrays = {job.array.name: job.array for job in node_jobs(folder).values()}
    only_sacct = tmp_path / "bin"
    only_sacct.mkdir()
    (only_sacct / "sacct").symlink_to(shutil.which("sacct") or "")
    monkeypatch.setenv("PATH", str(only_sacct))
    wait_until(
        lambda: {state.word for state in job_states(arrays.values()).values()} == {"COMPLETED"}, 30, "all completed"
    )
    monkeypatch.setenv("PATH", path)
    assert set(node_states(folder).values()) == {"done"}


@pytest.fixture
def small_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniSlurm]:
    with running_slurm(max_array_size=500) as cluster:
        cluster.use(monkeypatch, install_toy(tmp_path / "plugin"))
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_stages_are_submitted_in_chunks_within_thirty_seconds(
    small_arrays: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    """First one stage per job, to see the chunks; then packed, to see them done."""
    out = tmp_path / "out"
    plans = [toy_plan(seed, fit__updates=1, adapt__episodes=1) for seed in range(667)]
    graph = merge_plans(plans, out)
    assert len(graph.missing()) == 2002
    small_arrays.open_queue(False)
    started = time.monotonic()
    executor.submit(graph, "many", RunOptions(out), write_profile(tmp_path), None)
    seconds = time.monotonic() - started
    sizes = [len(array.packs) for known in read_submissions(sweep_folder(out, "many")) for array in known.arrays]
    assert sizes == [1, 500, 167, 500, 167, 500, 167]
    assert seconds <= 30.0
    started = time.monotonic()
    states = node_states(sweep_folder(out, "many"))
    assert time.monotonic() - started <= 2.0
    assert len(states) == 2002 and set(states.values()) == {"pending"}
    executor.cancel("many", out)
    small_arrays.open_queue(True)
    executor.submit(graph, "many", RunOptions(out), write_profile(tmp_path, stages_per_job=40), None)
    executor.wait("many", out)
    assert set(node_states(sweep_folder(out, "many")).values()) == {"done"}
    assert merge_plans(plans, out).missing() == ()
