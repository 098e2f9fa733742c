"""States of jobs, from whichever of Slurm's sources answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.node_records import FAILED, RUNNING, end_record, start_record, sweep_folder
from slurm.job import ARRAY_LABEL, _may_go_on
from slurm.ledger import JobArray, new_submission
from slurm.states import JobState, _job_state, expand_ids, job_states, node_states
from tests.slurm_helpers import MiniSlurm, wait_until


@pytest.mark.parametrize(
    ("shown", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[0-2,5%4]", ["12_0", "12_1", "12_2", "12_5"]),
        ("12_[7]", ["12_7"]),
    ],
)
def test_ranges_of_an_array_are_expanded(shown: str, ids: list[str]) -> None:
    assert list(expand_ids(shown)) == ids


@pytest.mark.parametrize(
    ("word", "reason", "restarts", "state", "held"),
    [
        ("PENDING", "Priority", 0, "pending", False),
        ("PENDING", "JobHeldUser", 0, "pending", True),
        ("PENDING", "BeginTime", 2, "preempted", False),
        ("PENDING", "DependencyNeverSatisfied", 0, "cancelled", False),
        ("REQUEUE_HOLD", "", 0, "preempted", True),
        ("CANCELLED by 0", "", 0, "cancelled", False),
        ("CANCELLED+", "", 0, "cancelled", False),
        ("OUT_OF_MEMORY", "", 0, "failed", False),
        ("TIMEOUT", "TimeLimit", 0, "failed", False),
        ("NODE_FAIL", "", 0, "failed", False),
        ("COMPLETING", "", 0, "running", False),
        ("A_NEW_WORD", "", 0, "unknown", False),
    ],
)
def test_slurms_words(word: str, reason: str, restarts: int, state: str, held: bool) -> None:
    assert _job_state(word, reason, restarts) == JobState(state, word.split()[0].rstrip("+"), held, reason)


@pytest.mark.parametrize("reason", ["launch failed requeued held", "launch_failed_requeued_held"])
def test_a_failed_launch_is_told_from_what_a_person_holds(reason: str) -> None:
    assert _job_state("PENDING", reason, 1).launch_failed
    assert not _job_state("PENDING", "JobHeldUser", 1).launch_failed


@pytest.mark.parametrize(
    ("shown", "goes_on"),
    [
        ("JobId=7 JobState=RUNNING Reason=None PreemptTime=2026-11-25T17:10:45", True),
        ("JobId=7 JobState=COMPLETING Reason=TimeLimit", True),
        ("JobId=7 JobState=COMPLETING Reason=None", False),
        ("JobId=7 JobState=CANCELLED Reason=None", False),
    ],
)
def test_only_a_cancelled_job_may_not_go_on(shown: str, goes_on: bool) -> None:
    assert _may_go_on(shown) is goes_on


def submit_pack(folder: Path, name: str, nodes: tuple[str, ...], job_id: str | None) -> None:
    new_submission(folder, "s", "default").with_array(JobArray(name, "fit", (nodes,), job_id)).write()


def test_without_any_word_from_slurm_the_nodes_own_records_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    folder = sweep_folder(tmp_path, "s")
    submit_pack(folder, "s.1", ("a", "b", "c", "d"), "12")
    mine = {ARRAY_LABEL: "s.1"}
    end_record(folder, start_record(folder, "a", mine), "done")
    end_record(folder, start_record(folder, "b", mine), FAILED, error="it broke")
    start_record(folder, "c", mine)
    end_record(folder, start_record(folder, "d", {ARRAY_LABEL: "an older one"}), "done")
    assert node_states(folder) == {"a": "done", "b": "failed", "c": "unknown", "d": "unknown"}


def test_a_sweep_that_was_never_submitted_has_no_states(tmp_path: Path) -> None:
    assert node_states(tmp_path) == {}


@pytest.mark.slurm
@pytest.mark.parametrize("command", ["scontrol", "squeue"])
def test_either_source_alone_gives_the_states(
    command: str, slurm: MiniSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_folder(tmp_path, "s")

    def submit(name: str, script: str, *options: str) -> JobArray:
        done = subprocess.run(
            ["sbatch", "--parsable", "-J", name, "-o", "/dev/null", "--mem=10", *options, "--wrap", script],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return JobArray(name, "fit", (("a",),), done.stdout.strip())

    good, bad, held = submit("good", "true"), submit("bad", "false"), submit("held", "true", "--hold")
    slow, stopped = submit("slow", "sleep 60"), submit("stopped", "sleep 60")
    array = JobArray("many", "fit", (("a",), ("b",), ("c",)), submit("many", "sleep 60", "--array=0-2%1").job_id)
    subprocess.run(["scancel", stopped.job_id or ""], check=True)
    foreign = JobArray("another name", "fit", (("a",),), good.job_id)

    def states() -> dict[str, str]:
        found = job_states([good, bad, held, slow, stopped, array])
        return {task: state.state for task, state in found.items()}

    expected = {
        good.job_id: "done", bad.job_id: "failed", held.job_id: "pending", slow.job_id: "running",
        stopped.job_id: "cancelled", f"{array.job_id}_0": "running", f"{array.job_id}_1": "pending",
        f"{array.job_id}_2": "pending",
    }  # fmt: skip
    only = tmp_path / "bin"
    only.mkdir()
    (only / command).symlink_to(shutil.which(command) or "")
    with monkeypatch.context() as hidden:
        hidden.setenv("PATH", str(only))
        wait_until(lambda: states() == expected, 30, f"{expected}")
        assert job_states([held])[held.job_id or ""].held
        assert job_states([foreign]) == {}
        submit_pack(folder, "slow", ("x", "y"), slow.job_id)
        start_record(folder, "x", {ARRAY_LABEL: "slow"})
        assert node_states(folder) == {"x": RUNNING, "y": "pending"}
