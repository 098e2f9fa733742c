"""Slurm as sites have it: a busy controller, ranges with steps, preemption for good, nothing exported, late inputs."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.graph import merge_plans
from bench.node_records import read_record, sweep_folder
from bench.run import RunOptions
from bench.status import read_status
from slurm import executor, states
from slurm.cluster import SlurmError
from slurm.ledger import JobArray, new_submission
from slurm.states import ask_jobs, expand_ids, node_states
from tests.conftest import Bench
from tests.slurm_helpers import MiniSlurm, toy_plan, wait_until, write_profile, write_toy_sweep

SWEEP = "toys-smoke"


@pytest.mark.parametrize(
    ("shown", "ids"),
    [
        ("1_[0-14:2%16]", ["1_0", "1_2", "1_4", "1_6", "1_8", "1_10", "1_12", "1_14"]),
        ("7_[0-6:3,9,11-12]", ["7_0", "7_3", "7_6", "7_9", "7_11", "7_12"]),
    ],
)
def test_ranges_with_steps_are_expanded(shown: str, ids: list[str]) -> None:
    assert list(expand_ids(shown)) == ids


@pytest.mark.parametrize("shown", ["1_[0-...]", "1_[]", "1_[a]", "1_[0-4:0]", "1_[1-99999999999999]"])
def test_ranges_that_are_not_understood_are_said_in_a_line(shown: str) -> None:
    with pytest.raises(SlurmError, match="not understood"):
        list(expand_ids(shown))


def write_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


BUSY = 'case "$*" in *"show job"*|*"-t all"*) echo "slurm_load_jobs error: Socket timed out" >&2; exit 1;; esac'
UNKNOWN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
ARRAY = JobArray("mine", "fit", (("a",),), "3")


def test_an_answer_is_told_from_none(programs: Path) -> None:
    """By what Slurm 22.05 prints; accounting is believed of an ended job that the controller has forgotten."""
    write_program(programs, "sacct", "exit 1")
    for name in ("scontrol", "squeue"):
        write_program(programs, name, UNKNOWN)
    assert ask_jobs([ARRAY]).states == {} and not ask_jobs([ARRAY]).silence
    for name in ("scontrol", "squeue"):
        write_program(programs, name, BUSY)
    assert ask_jobs([ARRAY]).states == {} and "Socket timed out" in ask_jobs([ARRAY]).silence
    write_program(programs, "sacct", 'echo "3|mine|FAILED|NonZeroExitCode"')
    assert "Socket timed out" in ask_jobs([ARRAY]).silence  # It may have been put back into the queue since.
    write_program(programs, "sacct", 'echo "3|mine|COMPLETED|None"')
    assert ask_jobs([ARRAY]).states["3"].state == "done" and not ask_jobs([ARRAY]).silence
    write_program(programs, "scontrol", 'echo "JobId=3 JobName=mine JobState=PENDING Reason=BeginTime Restarts=1"')
    write_program(programs, "sacct", 'echo "3|mine|PREEMPTED|None"')
    assert ask_jobs([ARRAY]).states["3"].state == "preempted"  # It waits in the queue again.
    write_program(programs, "scontrol", UNKNOWN)
    assert ask_jobs([ARRAY]).states["3"].state == "interrupted"  # It was preempted for good.


def test_a_node_that_was_submitted_twice_is_followed_in_both(programs: Path, tmp_path: Path) -> None:
    folder = sweep_folder(tmp_path, "s")
    for name, job_id in (("one", "3"), ("two", "4")):
        new_submission(folder, "s", "default").with_array(JobArray(name, "fit", (("a",),), job_id)).write()
    write_program(programs, "sacct", "exit 1")
    write_program(
        programs, "scontrol",
        'case "$*" in *" 3") echo "JobId=3 JobName=one JobState=RUNNING Reason=None";; '
        '*) echo "JobId=4 JobName=two JobState=CANCELLED Reason=None";; esac',
    )  # fmt: skip
    assert node_states(folder) == {"a": "pending"}  # Its record does not say yet that it was begun.
    write_program(programs, "scancel", f'echo "$@" > {tmp_path}/cancelled')
    assert executor.cancel("s", tmp_path) == ["cancelled 1 stages in 1 arrays"]
    assert (tmp_path / "cancelled").read_text() == "3\n"


@pytest.mark.parametrize("name", ["50%", "a\\b"])
def test_a_folder_whose_name_means_something_to_slurm_is_refused(programs: Path, tmp_path: Path, name: str) -> None:
    for program in ("sbatch", "srun", "scontrol", "squeue", "scancel"):
        write_program(programs, program, "exit 0")
    out = tmp_path / name
    with pytest.raises(UserError, match="Slurm reads"):
        executor.submit(merge_plans([toy_plan()], out), "s", RunOptions(out), None, None)


def test_a_gpu_is_not_asked_of_jobs_without_one(programs: Path, tmp_path: Path) -> None:
    for program in ("sbatch", "srun", "scontrol", "squeue", "scancel"):
        write_program(programs, program, "exit 0")
    profile = write_profile(tmp_path)
    with pytest.raises(UserError, match=r"--device cuda: the profile profile-.* asks for no GPU for data, fit, adapt"):
        executor.submit(merge_plans([toy_plan()], tmp_path), "s", RunOptions(tmp_path, device="cuda"), profile, None)
    assert not (tmp_path / "sweeps" / "s" / "slurm" / "0001").exists()


def test_what_jobs_run_can_be_written_by_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        submission = new_submission(sweep_folder(tmp_path, "s"), "s", "default")
    finally:
        os.umask(before)
    for inner in ("logs", "code"):
        assert stat.S_IMODE((submission.folder / inner).stat().st_mode) == 0o700
    assert not submission.folder.stat().st_mode & 0o022


# -- on a real Slurm --------------------------------------------------------------------------------------------------

on_slurm = pytest.mark.slurm


def ids_in_queue() -> list[str]:
    shown = subprocess.run(["/usr/bin/squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True)
    return sorted(shown.stdout.split())


@on_slurm
def test_a_busy_controller_is_not_an_empty_queue(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``Socket timed out`` once made everything be submitted a second time."""
    out = tmp_path / "out"
    asked = ("sweep", write_toy_sweep(tmp_path), "--preset", "smoke", "--out", out, "--executor", "slurm",
             "--profile", write_profile(tmp_path))  # fmt: skip
    slurm.open_queue(False)
    assert bench(*asked).code == 0
    queued = ids_in_queue()
    for name in ("squeue", "scontrol"):
        write_program(programs, name, f'{BUSY}\nexec /usr/bin/{name} "$@"')
    monkeypatch.setattr(executor, "_ANSWER_SECONDS", 1.0)
    for command in (asked, ("cancel", SWEEP, "--out", out), ("retry", SWEEP, "--out", out)):
        refused = bench(*command)
        assert refused.code == 2, command
        assert "Slurm's controller does not say what is in the queue" in refused.err
        assert "Socket timed out" in refused.err
    shown = bench("status", SWEEP, "--out", out)
    assert shown.code == 0 and "does not say what is in its queue" in shown.out
    assert ids_in_queue() == queued
    monkeypatch.setattr(executor, "_ANSWER_SECONDS", 60.0)

    def answer_again() -> None:
        for name in ("squeue", "scontrol"):
            (programs / name).unlink()

    threading.Timer(3.0, answer_again).start()
    waited = bench(*asked)  # It waits for a controller that is busy for a moment.
    assert waited.code == 0 and "nothing to submit" in waited.out
    assert ids_in_queue() == queued
    assert bench("cancel", SWEEP, "--out", out).code == 0
    assert ids_in_queue() == []
    slurm.open_queue(True)


@on_slurm
def test_an_array_with_holes_is_followed_and_cancelled(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    """As after ``scancel ID_[1,3,5...]``: the controller then prints a range with a step."""
    out = tmp_path / "out"
    asked = ("sweep", write_toy_sweep(tmp_path, seeds=range(16)), "--preset", "smoke", "--out", out, "--executor",
             "slurm", "--profile", write_profile(tmp_path))  # fmt: skip
    slurm.open_queue(False)
    assert bench(*asked).code == 0
    folder = sweep_folder(out, SWEEP)
    (fit,) = [array for array in states.sweep_arrays(folder) if array.stage == "fit"]
    subprocess.run(["scancel", f"{fit.job_id}_[{','.join(map(str, range(1, 16, 2)))}]"], check=True)
    show = ["scontrol", "-o", "show", "job", fit.job_id or ""]
    assert "ArrayTaskId=0-14:2" in subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert "pending" in bench("status", SWEEP, "--out", out).out

    def states_of_fits() -> list[str]:
        return sorted(state for node, state in node_states(folder).items() if node.startswith("fit"))

    # The controller forgets at once the tasks that never began.
    assert states_of_fits() == ["pending"] * 8 + ["unknown"] * 8
    assert bench(*asked).code == 0  # What was cancelled is submitted again, and what waits for it too.
    assert states_of_fits() == ["pending"] * 16
    assert bench("cancel", SWEEP, "--out", out).code == 0
    assert ids_in_queue() == []
    slurm.open_queue(True)


@on_slurm
def test_a_site_that_exports_nothing(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    compute_until("fit", out, bench)
    outcome = bench("sweep", write_toy_sweep(tmp_path, seeds=[0]), "--preset", "smoke", "--out", out, "--executor",
                    "slurm", "--profile", write_profile(tmp_path), "--wait")  # fmt: skip
    assert outcome.code == 0, outcome.err + outcome.out


@on_slurm
def test_a_job_that_dies_before_it_can_say_anything_has_its_log_named(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    profile = write_profile(tmp_path, setup=["echo the module is not there >&2", "exit 3"])
    outcome = bench("sweep", write_toy_sweep(tmp_path, seeds=[0]), "--preset", "smoke", "--out", out, "--executor",
                    "slurm", "--profile", profile, "--wait")  # fmt: skip
    assert outcome.code == 1
    failed = bench("status", SWEEP, "--out", out, "--failed").out
    assert "the cluster says FAILED (NonZeroExitCode)" in failed
    assert "_0_log.err: the module is not there" in failed
    assert f"bench retry {SWEEP} --out {out} tries again" in failed
    assert "_0_log.err: the module is not there" in outcome.out


def compute_until(stage: str, out: Path, bench: Bench, **overrides: object) -> None:
    """What a test is not about is computed here: to start a job takes seconds."""
    fields = [text for name, value in overrides.items() for text in (f"--{name.replace('__', '.')}", value)]
    run = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--until", stage, "--out", out, *fields)
    assert bench(*run).code == 0


@on_slurm
def test_an_input_that_is_seen_late_is_waited_for(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    """As where a file system caches attributes: the artefact is hidden, and shows some seconds after the job began."""
    out = tmp_path / "out"
    sweep = write_toy_sweep(tmp_path, seeds=[0])
    assert (
        bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--until", "fit", "--out", out).code
        == 0
    )
    (data,) = (out / "artefacts").glob("data-*")
    (fit,) = (out / "artefacts").glob("fit-*")
    slurm.open_queue(False)
    assert bench("sweep", sweep, "--preset", "smoke", "--out", out, "--executor", "slurm", "--profile",
                 write_profile(tmp_path)).code == 0  # fmt: skip
    for path in (data, fit):
        path.rename(path.with_name(f"hidden-{path.name}"))
    slurm.open_queue(True)
    adapt = next(node for node in node_states(sweep_folder(out, SWEEP)) if node.startswith("adapt"))
    record = sweep_folder(out, SWEEP) / "nodes" / f"{adapt}.json"
    wait_until(record.exists, 120, "adapt was started")
    time.sleep(2.0)
    for path in (data, fit):
        path.with_name(f"hidden-{path.name}").rename(path)
    executor.wait(SWEEP, out)
    assert read_status(out, SWEEP).counts == {"done": 4}


@on_slurm
def test_two_sweeps_that_hold_the_same_run(slurm: MiniSlurm, bench: Bench, tmp_path: Path) -> None:
    """The second's jobs wait for the first's, stage by stage and at the report."""
    out = tmp_path / "out"
    compute_until("fit", out, bench, adapt__pause_seconds=0.2)
    names = ("one", "two")
    for name in names:
        outcome = bench("sweep", write_toy_sweep(tmp_path, name, seeds=[0], adapt__pause_seconds=0.2), "--preset",
                        "smoke", "--out", out, "--executor", "slurm", "--profile", write_profile(tmp_path))  # fmt: skip
        assert outcome.code == 0
    for name in names:
        executor.wait(f"{name}-smoke", out)
        assert read_status(out, f"{name}-smoke").counts == {"done": 4}


@pytest.fixture
def cancelling(slurm: MiniSlurm) -> Iterator[str]:
    """A partition whose preempted jobs are not put back."""
    update = ["PartitionName=cancelq", "Nodes=ALL", "PriorityTier=1", "PreemptMode=CANCEL", "GraceTime=0", "State=UP"]
    subprocess.run(["scontrol", "create", *update], check=True)
    yield "cancelq"
    slurm.cancel_all()
    subprocess.run(["scontrol", "delete", "PartitionName=cancelq"], check=True)


@on_slurm
@pytest.mark.timeout(600)
def test_a_job_that_is_preempted_for_good_is_submitted_again(
    slurm: MiniSlurm, bench: Bench, tmp_path: Path, cancelling: str
) -> None:
    out = tmp_path / "out"
    slow = {"fit__updates": 40, "fit__pause_seconds": 0.2}
    compute_until("data", out, bench)
    asked = ("sweep", write_toy_sweep(tmp_path, seeds=[0], **slow), "--preset", "smoke", "--out", out, "--executor",
             "slurm", "--profile", write_profile(tmp_path, partition=cancelling, memory_mb=3000),
             "--checkpoint-seconds", "1")  # fmt: skip
    assert bench(*asked).code == 0
    folder = sweep_folder(out, SWEEP)
    fit = next(node for node in node_states(folder) if node.startswith("fit"))
    wait_until(lambda: node_states(folder)[fit] == "running", 120, "fit runs")
    wait_until((out / "artefacts" / f"{fit}.partial" / "checkpoint.json").exists, 30, "a checkpoint")
    job = states.node_jobs(folder)[fit].task_id or ""
    node = subprocess.run(["squeue", "-h", "-j", job, "-o", "%N"], capture_output=True, text=True, check=True)
    taken = node.stdout.strip()
    subprocess.run(["sbatch", "-p", "high", "-w", taken, "--mem=3500", "-o", "/dev/null", "--wrap", "sleep 1"],
                   check=True, capture_output=True)  # fmt: skip
    wait_until(lambda: states.cluster_nodes(folder)[fit].said.startswith("PREEMPTED"), 60, "preempted for good")
    assert node_states(folder)[fit] == "interrupted"
    executor.wait(SWEEP, out)  # It comes back.
    outcome = bench(*asked, "--wait")
    assert outcome.code == 0, outcome.err + outcome.out
    assert read_status(out, SWEEP).counts == {"done": 4}
    found = read_record(folder, fit)
    assert found is not None and found.attempts == 2
