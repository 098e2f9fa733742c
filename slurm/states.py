"""States of submitted jobs: from sacct, else scontrol, else squeue, else the records that the nodes themselves leave.

Nothing here waits. A job that none of them knows is ``unknown``, which means that it is not in the queue; but that a
controller does not answer means nothing, and is told apart (``JobAnswers.silence``): unknown is not gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.files import last_lines
from bench.node_records import DONE, FAILED, INTERRUPTED, RUNNING, read_record
from slurm.cluster import SlurmError, call
from slurm.job import ARRAY_LABEL
from slurm.ledger import LOGS, JobArray, read_submissions

PENDING, PREEMPTED, CANCELLED, UNKNOWN = "pending", "preempted", "cancelled", "unknown"
ALIVE = frozenset({PENDING, RUNNING, PREEMPTED})
"""States of nodes that Slurm will still compute."""

_STATES = {
    PENDING: ("PENDING", "SPECIAL_EXIT"),
    PREEMPTED: ("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
    INTERRUPTED: ("PREEMPTED",),  # And not put back into the queue (PreemptMode=CANCEL): this is how it ended.
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
    """``pending``, ``preempted`` (requeued, waits again), ``running``, ``done``, ``interrupted`` (preempted for good),
    ``failed`` or ``cancelled``."""
    word: str
    """Slurm's word for it, for example ``OUT_OF_MEMORY``."""
    held: bool = False
    """Waits until somebody releases it."""
    reason: str = ""
    """Slurm's word for why it waits or has ended, for example ``Resources``; empty where it gives none."""
    from_controller: bool = field(default=False, compare=False)
    """Whether the controller says so, which knows what goes on now."""

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
Source = Callable[[list[str]], Answer]
_NOT_KNOWN = "invalid job id"
"""What the controller says of a job that it does not know: an answer, where a timeout is none."""


@dataclass(frozen=True)
class JobAnswers:
    """What Slurm says of some jobs."""

    states: Mapping[str, JobState]
    """By job id (``12_3``, or ``12`` for an array of one), of every job that Slurm still knows."""
    silence: str = ""
    """Why nothing is known of some of the others: no controller has answered. Empty where all others are gone."""


def job_states(arrays: Iterable[JobArray]) -> Mapping[str, JobState]:
    """``ask_jobs``, whether or not the controller answers for all of them."""
    return ask_jobs(arrays).states


def ask_jobs(arrays: Iterable[JobArray]) -> JobAnswers:
    """State of every job of these arrays.

    Accounting alone is believed where it says that a job is completed: what is not may have been put back into the
    queue since, which the controller knows first. A job of another name is not ours: where a controller lost its
    state, ids are given anew.
    """
    wanted = {
        task_id: array for array in arrays for i in range(len(array.packs)) if (task_id := array.task_id(i)) is not None
    }
    found: dict[str, JobState] = {}
    _ask(_from_sacct, wanted, found)
    silences = []
    for source in (_from_scontrol, _from_squeue):
        still = {task_id: array for task_id, array in wanted.items() if not _is_settled(found.get(task_id))}
        silences.append(_ask(source, still, found) if still else "")
    # Either of the two speaks for the controller.
    return JobAnswers(found, silences[0] if all(silences) else "")


def _is_settled(state: JobState | None) -> bool:
    return state is not None and (state.state == DONE or state.from_controller)


def _ask(source: Source, wanted: Mapping[str, JobArray], found: dict[str, JobState]) -> str:
    """Add what a source knows to ``found``; returns why it has not answered, where it has not."""
    ids = list(dict.fromkeys(task_id.partition("_")[0] for task_id in wanted))
    try:
        for task_id, name, state in source(ids):
            if _is_ours(wanted.get(task_id), name):
                found[task_id] = state  # noqa: PERF403  # what came before an error counts
    except SlurmError as error:
        return str(error)
    return ""


def _is_ours(array: JobArray | None, name: str) -> bool:
    return array is not None and array.name == name


def _from_sacct(ids: list[str]) -> Answer:
    fields = "JobID,JobName,State,Reason"
    for line in call(["sacct", "-X", "-n", "-P", "-o", fields, "-j", ",".join(ids)]).splitlines():
        job_id, name, word, reason = _parts(line)
        for task_id in expand_ids(job_id):
            yield task_id, name, _job_state(word, reason)


def _from_scontrol(ids: list[str]) -> Answer:
    silence: SlurmError | None = None
    for job_id in ids:
        try:
            shown = call(["scontrol", "-o", "show", "job", job_id])
        except SlurmError as error:
            # Forgotten some minutes after its end (MinJobAge), or no answer; the others may still be known.
            if _NOT_KNOWN not in str(error).lower():
                silence = error
            continue
        for line in shown.splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            if not {"JobId", "JobState", "JobName"} <= fields.keys():
                continue
            array, task = fields.get("ArrayJobId"), fields.get("ArrayTaskId")
            shown_id = fields["JobId"] if array is None else f"{array}_[{task}]"
            restarts = int(fields["Restarts"]) if fields.get("Restarts", "").isdigit() else 0
            state = _job_state(fields["JobState"], fields.get("Reason", ""), restarts)
            for task_id in expand_ids(shown_id):
                yield task_id, fields["JobName"], replace(state, from_controller=True)
    if silence is not None:
        raise silence


def _from_squeue(ids: list[str]) -> Answer:
    try:
        shown = call(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%j|%T|%r", "-j", ",".join(ids)])
    except SlurmError as error:
        if _NOT_KNOWN in str(error).lower():
            return
        raise
    for line in shown.splitlines():
        task_id, name, word, reason = _parts(line)
        yield task_id, name, replace(_job_state(word, reason), from_controller=True)


def _parts(line: str) -> tuple[str, str, str, str]:
    """The four fields of a line. Raises ``SlurmError``."""
    parts = line.split("|", 3)
    if len(parts) != 4:
        raise SlurmError(f"Slurm says {line!r:.80}, which is not understood")
    return parts[0], parts[1], parts[2], parts[3]


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
    """Ids of single jobs in what Slurm shows: ``12_[0-4:2,7%4]`` is ``12_0``, ``12_2``, ``12_4`` and ``12_7``.

    Raises ``SlurmError`` for a range that is not understood.
    """
    match = re.fullmatch(r"(\d+)_\[([^\]%]*)(%\d+)?\]", shown)
    if match is None:
        yield shown
        return
    for part in match.group(2).split(","):
        bounds = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", part)
        if bounds is None or bounds.group(3) == "0":
            raise SlurmError(f"Slurm says {shown!r:.80} of an array, which is not understood")
        first, last, step = bounds.groups()
        for index in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{match.group(1)}_{index}"


@dataclass(frozen=True)
class NodeJob:
    """The newest job that was to compute a node."""

    array: JobArray
    task_id: str | None
    """Slurm's id of the job; None when it never was known."""
    log: Path
    """What the job printed."""

    @property
    def last_words(self) -> str:
        """``log: <path>: <its last lines>``, or only where it lies where it says nothing."""
        lines = last_lines(self.log, 3)
        return f"log {self.log}" + (f": {' | '.join(lines)}" if lines else "")


def sweep_arrays(sweep_folder: Path) -> list[JobArray]:
    """Every array that was submitted for the sweep and not taken back, oldest first."""
    return [array for known in read_submissions(sweep_folder) for array in known.arrays if not array.dropped]


def all_node_jobs(sweep_folder: Path) -> dict[str, list[NodeJob]]:
    """Every job of every node of the sweep that was submitted and not taken back, oldest first."""
    found: dict[str, list[NodeJob]] = {}
    for submission in read_submissions(sweep_folder):
        for array in submission.arrays:
            if array.dropped:
                continue
            for index, pack in enumerate(array.packs):
                task_id = array.task_id(index)
                job = NodeJob(array, task_id, submission.folder / LOGS / f"{task_id}_0_log.err")
                for node in pack:
                    found.setdefault(node, []).append(job)
    return found


def node_jobs(sweep_folder: Path) -> dict[str, NodeJob]:
    """The newest job of every node of the sweep that was submitted and not taken back."""
    return {node: jobs[-1] for node, jobs in all_node_jobs(sweep_folder).items()}


@dataclass(frozen=True)
class ClusterNode:
    """What the cluster knows of a node."""

    state: str
    """A state of ``JobState``, or ``unknown``."""
    said: str
    """In Slurm's own words, of the job that was to compute it; empty when Slurm has forgotten the job."""
    job: NodeJob
    """The one that will still compute it, or else the newest."""
    job_state: JobState | None = None


@dataclass(frozen=True)
class ClusterNodes:
    """What the cluster knows of a sweep."""

    nodes: Mapping[str, ClusterNode]
    silence: str = ""
    """Why nothing is known of some of them: the controller has not answered."""


def ask_nodes(sweep_folder: Path) -> ClusterNodes:
    """Every node that was submitted.

    Of the nodes that one job computes one after another, those that it has not begun are pending. Where a node was
    submitted more than once, a job that is still in the queue counts, whichever it is.
    """
    answers = ask_jobs(sweep_arrays(sweep_folder))
    found = {}
    for node, jobs in all_node_jobs(sweep_folder).items():
        known = [_cluster_node(sweep_folder, node, job, answers.states) for job in jobs]
        found[node] = next((one for one in reversed(known) if one.state in ALIVE), known[-1])
    return ClusterNodes(found, answers.silence)


def cluster_nodes(sweep_folder: Path) -> Mapping[str, ClusterNode]:
    """``ask_nodes``, whether or not the controller answers for all of them."""
    return ask_nodes(sweep_folder).nodes


def _cluster_node(sweep_folder: Path, node: str, job: NodeJob, states: Mapping[str, JobState]) -> ClusterNode:
    job_state = states.get(job.task_id or "")
    state = _node_state(job_state, _own_record(sweep_folder, node, job))
    return ClusterNode(state, "" if job_state is None else job_state.said, job, job_state)


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
