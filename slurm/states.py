"""States of submitted jobs: from sacct, else scontrol, else squeue, else the records that the nodes themselves leave.

Nothing here waits: a job that none of them knows is ``unknown``, which means that it is not in the queue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.node_records import DONE, FAILED, INTERRUPTED, RUNNING, read_record
from slurm.cluster import SlurmError, call
from slurm.job import ARRAY_LABEL
from slurm.ledger import LOGS, JobArray, read_submissions

PENDING, PREEMPTED, CANCELLED, UNKNOWN = "pending", "preempted", "cancelled", "unknown"
ALIVE = frozenset({PENDING, RUNNING, PREEMPTED})
"""States of nodes that Slurm will still compute."""

_STATES = {
    PENDING: ("PENDING", "SPECIAL_EXIT"),
    PREEMPTED: ("PREEMPTED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
    RUNNING: (
        "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
    ),
    DONE: ("COMPLETED",),
    CANCELLED: ("CANCELLED", "REVOKED"),
    FAILED: ("FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE", "LAUNCH_FAILED"),
}  # fmt: skip
_STATE_OF = {word: state for state, words in _STATES.items() for word in words}


@dataclass(frozen=True)
class JobState:
    """What Slurm says of one job."""

    state: str
    """``pending``, ``preempted`` (requeued, waits again), ``running``, ``done``, ``failed`` or ``cancelled``."""
    word: str
    """Slurm's word for it, for example ``OUT_OF_MEMORY``."""
    held: bool = False
    """Waits until somebody releases it."""
    reason: str = ""
    """Slurm's word for why it waits or has ended, for example ``Resources``; empty where it gives none."""

    @property
    def said(self) -> str:
        """All that Slurm says of it: ``PENDING (Resources)``."""
        return f"{self.word} ({self.reason})" if self.reason else self.word

    @property
    def launch_failed(self) -> bool:
        """Slurm itself put it on hold, since the node it was sent to did not start it; that node is drained."""
        return self.held and self.reason.replace("_", " ").startswith("launch failed")


Answer = Iterator[tuple[str, str, JobState]]
"""(id of the job, name of the job, state)."""


def job_states(arrays: Iterable[JobArray]) -> dict[str, JobState]:
    """State of every job of these arrays that Slurm still knows, by job id (``12_3``, or ``12`` for an array of one).

    A source that is missing or does not answer is passed over. A job of another name is not ours: where a controller
    lost its state, ids are given anew.
    """
    wanted = {
        task_id: array for array in arrays for i in range(len(array.packs)) if (task_id := array.task_id(i)) is not None
    }
    found: dict[str, JobState] = {}
    for source in (_from_sacct, _from_scontrol, _from_squeue):
        still = [task_id for task_id in wanted if task_id not in found]
        if still:
            _ask(source, {task_id: wanted[task_id] for task_id in still}, found)
    return found


def _ask(source: Callable[[list[str]], Answer], wanted: Mapping[str, JobArray], found: dict[str, JobState]) -> None:
    ids = list(dict.fromkeys(task_id.partition("_")[0] for task_id in wanted))
    try:
        answer = list(source(ids))
    except SlurmError:
        return
    found.update((task_id, state) for task_id, name, state in answer if _is_ours(wanted.get(task_id), name))


def _is_ours(array: JobArray | None, name: str) -> bool:
    return array is not None and array.name == name


def _from_sacct(ids: list[str]) -> Answer:
    fields = "JobID,JobName,State,Reason"
    for line in call(["sacct", "-X", "-n", "-P", "-o", fields, "-j", ",".join(ids)]).splitlines():
        job_id, name, word, reason = line.split("|", 3)
        for task_id in expand_ids(job_id):
            yield task_id, name, _job_state(word, reason)


def _from_scontrol(ids: list[str]) -> Answer:
    for job_id in ids:
        try:
            shown = call(["scontrol", "-o", "show", "job", job_id])
        except SlurmError:
            continue  # Forgotten some minutes after its end (MinJobAge); the others may still be known.
        for line in shown.splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            if "JobId" not in fields:
                continue
            array, task = fields.get("ArrayJobId"), fields.get("ArrayTaskId")
            shown_id = fields["JobId"] if array is None else f"{array}_[{task}]"
            state = _job_state(fields["JobState"], fields.get("Reason", ""), int(fields.get("Restarts", 0)))
            for task_id in expand_ids(shown_id):
                yield task_id, fields["JobName"], state


def _from_squeue(ids: list[str]) -> Answer:
    shown = call(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%j|%T|%r", "-j", ",".join(ids)])
    for line in shown.splitlines():
        task_id, name, word, reason = line.split("|", 3)
        yield task_id, name, _job_state(word, reason)


def _job_state(word: str, reason: str = "", restarts: int = 0) -> JobState:
    word = re.split(r"[ +]", word, maxsplit=1)[0]  # "CANCELLED by 0" and "CANCELLED+"
    state = _STATE_OF.get(word, UNKNOWN)
    if state == PENDING and restarts:
        state = PREEMPTED
    if reason == "DependencyNeverSatisfied":
        state = CANCELLED
    held = state in (PENDING, PREEMPTED) and ("held" in reason.lower() or word == "REQUEUE_HOLD")
    return JobState(state, word, held, "" if reason == "None" else reason)


def expand_ids(shown: str) -> Iterator[str]:
    """Ids of single jobs in what Slurm shows: ``12_[0-2,5%4]`` is ``12_0``, ``12_1``, ``12_2`` and ``12_5``."""
    match = re.fullmatch(r"(\d+)_\[([^\]%]*)(%\d+)?\]", shown)
    if match is None:
        yield shown
        return
    for part in match.group(2).split(","):
        first, _, last = part.partition("-")
        for index in range(int(first), int(last or first) + 1):
            yield f"{match.group(1)}_{index}"


@dataclass(frozen=True)
class NodeJob:
    """The newest job that was to compute a node."""

    array: JobArray
    task_id: str | None
    """Slurm's id of the job; None when it never was known."""
    log: Path
    """What the job printed."""


def node_jobs(sweep_folder: Path) -> dict[str, NodeJob]:
    """The newest job of every node of the sweep that was submitted and not taken back."""
    found: dict[str, NodeJob] = {}
    for submission in read_submissions(sweep_folder):
        for array in submission.arrays:
            if array.dropped:
                continue
            for index, pack in enumerate(array.packs):
                task_id = array.task_id(index)
                log = submission.folder / LOGS / f"{task_id}_0_log.err"
                found.update((node, NodeJob(array, task_id, log)) for node in pack)
    return found


@dataclass(frozen=True)
class ClusterNode:
    """What the cluster knows of a node."""

    state: str
    """A state of ``JobState``, or ``unknown``."""
    said: str
    """In Slurm's own words, of the job that was to compute it; empty when Slurm has forgotten the job."""


def cluster_nodes(sweep_folder: Path) -> dict[str, ClusterNode]:
    """Every node that was submitted.

    Of the nodes that one job computes one after another, those that it has not begun are pending.
    """
    jobs = node_jobs(sweep_folder)
    states = job_states({job.array.name: job.array for job in jobs.values()}.values())
    found = {}
    for node, job in jobs.items():
        job_state = states.get(job.task_id or "")
        state = _node_state(job_state, _own_record(sweep_folder, node, job))
        found[node] = ClusterNode(state, "" if job_state is None else job_state.said)
    return found


def node_states(sweep_folder: Path) -> dict[str, str]:
    """State of every node that was submitted, as in ``cluster_nodes``."""
    return {node: known.state for node, known in cluster_nodes(sweep_folder).items()}


def _own_record(sweep_folder: Path, node: str, job: NodeJob) -> str | None:
    """Status in the record of a node, if this job wrote it."""
    record = read_record(sweep_folder, node)
    mine = record is not None and record.labels.get(ARRAY_LABEL) == job.array.name
    return record.status if record is not None and mine else None


def _node_state(job: JobState | None, record: str | None) -> str:
    if record in (DONE, FAILED):
        return record
    if job is None or job.state == UNKNOWN:
        return UNKNOWN
    if job.state == RUNNING:
        return {RUNNING: RUNNING, INTERRUPTED: PREEMPTED}.get(record or "", PENDING)
    if job.state == DONE:
        return UNKNOWN  # The job has ended without having computed this node.
    return job.state
