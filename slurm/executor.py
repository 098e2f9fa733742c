"""A sweep's graph on Slurm: job arrays per level, submitted through submitit, chained by dependencies.

A job waits until the arrays that compute its inputs have ended, well or badly (``afterany``), and then looks for the
artefacts it needs: so a stage that failed stops what depends on it, with the reason, and nothing else.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from bench.errors import UserError
from bench.graph import REPORT, StageGraph, StageNode
from bench.locks import LockHeldError, lock_file
from bench.node_records import sweep_folder
from bench.process import wanted_environment
from bench.run import RunOptions
from bench.worker import NodeRequest
from slurm.arrays import PlannedArray, plan_arrays
from slurm.cluster import (
    SlurmError,
    call,
    cancel_jobs,
    check_cluster,
    error_lines,
    release_jobs,
    submission_environment,
)
from slurm.job import Pack
from slurm.ledger import CODE, FOLDER, LOGS, JobArray, Submission, array_name, new_submission, read_submissions
from slurm.profiles import DEFAULT, Profile, Resources, load_profile
from slurm.snapshot import snapshot_code
from slurm.states import ALIVE, ClusterNode, ClusterNodes, JobAnswers, JobState, ask_jobs, ask_nodes, sweep_arrays

Answers = TypeVar("Answers", ClusterNodes, JobAnswers)

_LOCK = ".lock"
_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 600.0
"""How long ``wait`` bears a controller that does not answer."""
_ANSWER_SECONDS = 60.0
"""How long a controller is given that is too busy to say what is in the queue, before anything is submitted."""
_MAX_RELEASES = 3
"""How often ``wait`` releases one job: where launching fails again and again, releasing does not mend it."""
# Until Python has set its handlers these signals are ignored: lost, where they would have killed the job.
_SHIELD = """/bin/sh -c 'trap "" TERM USR2; exec "$0" "$@"'"""


def check(profile: str | None) -> None:
    """See that something can be submitted with this profile from here. Raises ``UserError`` and its kinds."""
    load_profile(profile or DEFAULT)
    check_cluster()


def describe(graph: StageGraph, profile: str | None) -> list[str]:
    """What ``submit`` would submit if nothing is in the queue, a line per array. Raises ``UserError``."""
    chosen = load_profile(profile or DEFAULT)
    try:
        max_array_size = check_cluster()
    except SlurmError:
        max_array_size = 1001  # Slurm's default: good enough for a plan.
    return [array.describe() for array in plan_arrays(graph, graph.missing(), chosen, max_array_size)]


def submit(
    graph: StageGraph, sweep: str, options: RunOptions, profile: str | None, max_parallel: int | None
) -> list[str]:
    """Submit what is missing and not in the queue yet; returns lines that say what was submitted.

    All or nothing: when Slurm refuses an array, those before it are cancelled. Raises ``UserError`` and its kinds.
    """
    chosen = load_profile(profile or DEFAULT)
    max_array_size = check_cluster()
    options = replace(options, out=options.out.resolve())
    _check_path(options.out)
    folder = sweep_folder(options.out, sweep)
    try:
        with lock_file(folder / FOLDER / _LOCK, wait=False):
            _drop_cut_off(folder)
            known = _ask_patiently(folder)
            _cancel_failed_launches(known)
            alive = {node: one for node, one in known.items() if one.state in ALIVE and not _has_failed_launch(one)}
            _cancel_orphans(graph, alive)
            nodes = [node for node in graph.missing() if node.name not in alive]
            if not nodes:
                return [f"nothing to submit: {len(alive)} stages are in the queue" if alive else "nothing to submit"]
            arrays = plan_arrays(graph, nodes, chosen, max_array_size)
            _check_device(arrays, options, chosen.name)
            in_queue = {node: one.job.array.job_id or "" for node, one in alive.items()}
            submitter = _Submitter(new_submission(folder, sweep, chosen.name), chosen, options, max_parallel, in_queue)
            return submitter.submit(arrays)
    except LockHeldError as error:
        raise UserError(f"{sweep} is being submitted by {error.holder}") from error


def _check_path(out: Path) -> None:
    """Refuse a folder in whose name Slurm would see a pattern, or a batch script another line."""
    for sign in ("%", "\\", "\n"):
        if sign in str(out):
            raise UserError(f"--out {str(out)!r}: Slurm reads {sign!r} in the name of a log as a sign; choose another")


def _check_device(arrays: list[PlannedArray], options: RunOptions, profile: str) -> None:
    """Refuse stages that are to compute on a GPU in jobs without one."""
    without = dict.fromkeys(array.stage for array in arrays if not array.resources.gpus and array.stage != REPORT)
    if options.device == "cuda" and without:
        raise UserError(
            f"--device cuda: the profile {profile} asks for no GPU for {', '.join(without)}; give it gpus = 1, or use "
            "--device auto"
        )


def cancel(sweep: str, out: Path) -> list[str]:
    """Cancel all jobs of this sweep that are in the queue, whoever submitted them, and no others.

    Raises ``SlurmError``, also when no controller says what is in the queue.
    """
    folder = sweep_folder(out.resolve(), sweep)
    _drop_cut_off(folder)
    known = _ask_patiently(folder)
    nodes = [node for node, one in known.items() if one.state in ALIVE]
    states = _jobs_patiently(folder).states
    arrays = [
        array
        for array in sweep_arrays(folder)
        if any(_is_alive(states.get(array.task_id(index) or "")) for index in range(len(array.packs)))
    ]
    cancel_jobs(sorted({array.job_id or "" for array in arrays}, key=int))
    return [f"cancelled {len(nodes)} stages in {len(arrays)} arrays"] if arrays else []


def _is_alive(state: JobState | None) -> bool:
    return state is not None and state.state in ALIVE


def wait(sweep: str, out: Path) -> None:
    """Return when nothing of this sweep is queued or running any more.

    Jobs that Slurm put on hold because a node did not start them are released. Raises ``UserError`` when what is left
    is held all the same, ``SlurmError`` when no controller answers for ten minutes.
    """
    folder = sweep_folder(out.resolve(), sweep)
    answered = time.monotonic()
    releases: Counter[str] = Counter()
    while True:
        answers = ask_jobs(sweep_arrays(folder))
        if not answers.silence:
            answered = time.monotonic()
        elif time.monotonic() - answered > _PATIENCE_SECONDS:
            raise SlurmError(f"Slurm's controller does not say what is in the queue ({answers.silence})")
        states = dict(answers.states)
        if _release_failed_launches(sweep, states, releases):
            time.sleep(_POLL_SECONDS)
            continue
        alive = [state for state in states.values() if state.state in ALIVE]
        # What waits for a held job waits as long as that one.
        if any(state.held for state in alive) and all(state.held or state.reason == "Dependency" for state in alive):
            raise UserError(f"the jobs of {sweep} that are left are held; scontrol release lets them run")
        if not alive and not answers.silence:
            return
        time.sleep(_POLL_SECONDS)


def _ask_patiently(folder: Path) -> Mapping[str, ClusterNode]:
    """What the cluster knows of the sweep's nodes. Raises ``SlurmError`` when it does not say: unknown is not gone."""
    return _patiently(lambda: ask_nodes(folder)).nodes


def _jobs_patiently(folder: Path) -> JobAnswers:
    return _patiently(lambda: ask_jobs(sweep_arrays(folder)))


def _patiently(ask: Callable[[], Answers]) -> Answers:
    give_up_at = time.monotonic() + _ANSWER_SECONDS
    while (answers := ask()).silence:
        if time.monotonic() > give_up_at:
            raise SlurmError(
                f"Slurm's controller does not say what is in the queue ({answers.silence}); nothing was submitted or "
                "cancelled: try again when it answers"
            )
        time.sleep(_POLL_SECONDS)
    return answers


def _release_failed_launches(sweep: str, states: dict[str, JobState], releases: Counter[str]) -> bool:
    """Release jobs whose launch failed, count that in ``releases``, and say whether there were any.

    Raises ``UserError`` where releasing does not help, or is not allowed.
    """
    held = [job_id for job_id, state in states.items() if state.launch_failed]
    for job_id in held:
        if releases[job_id] == _MAX_RELEASES:
            raise UserError(f"job {job_id} of {sweep} was released {_MAX_RELEASES} times, and its launch failed again")
        releases[job_id] += 1
        try:
            release_jobs([job_id])
        except SlurmError as error:
            # A controller that is just starting again does not answer either: only the last try tells.
            if releases[job_id] == _MAX_RELEASES:
                raise UserError(
                    f"job {job_id} of {sweep} is held since its launch failed, and cannot be released ({error}); "
                    "running bench sweep again submits it anew"
                ) from error
    return bool(held)


def _has_failed_launch(node: ClusterNode) -> bool:
    return node.job_state is not None and node.job_state.launch_failed


def _cancel_failed_launches(known: Mapping[str, ClusterNode]) -> None:
    """Jobs that Slurm holds because their launch failed are taken out of the queue, so that they are submitted anew."""
    cancel_jobs(sorted({one.job.task_id or "" for one in known.values() if _has_failed_launch(one)}))


def _cancel_orphans(graph: StageGraph, alive: dict[str, ClusterNode]) -> None:
    """Cancel jobs that wait for an input that no job will make any more, and take their nodes out of ``alive``.

    They would start when the old job of the input has ended, and not find it, while a new job makes it.
    """
    missing = graph.missing()
    orphans = {""}
    while orphans:
        lost = {node.name for node in missing if node.name not in alive}
        orphans = {
            alive[node.name].job.task_id or ""
            for node in missing
            if node.name in alive and any(name in lost for name in node.inputs)
        }
        cancel_jobs(sorted(orphans))
        for name in [name for name, one in alive.items() if one.job.task_id in orphans]:
            del alive[name]


def _drop_cut_off(folder: Path) -> None:
    """Take back arrays whose submission was cut off before their id was known."""
    for submission in read_submissions(folder):
        if any(array.job_id is None and not array.dropped for array in submission.arrays):
            _take_back(submission, [array for array in submission.arrays if array.job_id is None])


def _take_back(submission: Submission, arrays: list[JobArray]) -> None:
    """Cancel these arrays, found by name where their id is not known, and record that."""
    ids = []
    for array in arrays:
        if array.dropped:
            continue
        shown = array.job_id or call(["squeue", "-h", "-o", "%F", "-n", array.name])
        ids += shown.split()
    cancel_jobs(dict.fromkeys(ids))
    for array in arrays:
        submission = submission.with_array(replace(array, dropped=True))
    submission.write()


class _Submitter:
    """One submission, array after array."""

    def __init__(
        self,
        submission: Submission,
        profile: Profile,
        options: RunOptions,
        max_parallel: int | None,
        alive: dict[str, str],
    ) -> None:
        self.submission, self.profile, self.options, self.max_parallel = submission, profile, options, max_parallel
        self.array_of = dict(alive)
        """Node -> id of the array that computes it."""
        self.before = sorted(set(alive.values()), key=int)
        """With ``max_parallel``: the arrays that must have ended before the next may start."""

    def submit(self, arrays: list[PlannedArray]) -> list[str]:
        lines = []
        try:
            snapshot_code(self.submission.folder / CODE)
            with submission_environment():
                for array in arrays:
                    job_id = self._submit_array(array)
                    lines.append(f"{job_id}  {array.describe()}")
        except BaseException:
            _take_back(self.submission, list(self.submission.arrays))
            raise
        return lines

    def _submit_array(self, planned: PlannedArray) -> str:
        packs = tuple(tuple(node.name for node in pack) for pack in planned.packs)
        array = JobArray(array_name(self.submission, planned.stage), planned.stage, packs)
        self.submission = self.submission.with_array(array)
        self.submission.write()  # Before sbatch: whatever happens now, the array can be found by its name.
        depends_on = {self.array_of[name] for name in planned.inputs if name in self.array_of}
        if self.max_parallel is not None:
            depends_on.update(self.before)
        parallel_jobs = self.max_parallel or len(packs)
        chain = sorted(depends_on, key=int)
        executor = make_executor(
            self.submission.folder, array.name, planned.resources, self.profile.setup, chain, parallel_jobs
        )
        jobs = [self._pack(array.name, planned.resources, pack) for pack in planned.packs]
        job_id = _sbatch(executor, jobs, f"stage {planned.stage} with profile {self.profile.name}")
        self.submission = self.submission.with_array(replace(array, job_id=job_id))
        self.submission.write()
        self.array_of.update((name, job_id) for pack in packs for name in pack)
        self.before = [job_id]
        return job_id

    def _pack(self, array: str, resources: Resources, nodes: tuple[StageNode, ...]) -> Pack:
        sweep = self.submission.sweep
        requests = [NodeRequest(sweep, node.name, node.hash, node.request).to_json() for node in nodes]
        # Without a GPU only what computes nothing is left here, where one was asked for (``_check_device``).
        device = "cpu" if resources.gpus == 0 else self.options.device
        options = replace(self.options, device=device, threads=resources.cpus)
        return Pack(array, requests, {**asdict(options), "out": str(options.out)}, self.profile.max_restarts)


def _sbatch(executor: SlurmExecutor, jobs: list[Pack], what: str) -> str:
    """Submit an array and return its id. Raises ``SlurmError`` with Slurm's own words."""
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what it then raises.
            submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(
            f"Slurm refused {what}: {error_lines(str(error))}; nothing of it is left in the queue"
        ) from error
    return str(submitted[0].job_id).partition("_")[0]


def make_executor(
    folder: Path,
    name: str,
    resources: Resources,
    setup: tuple[str, ...],
    depends_on: list[str],
    parallel_jobs: int,
) -> SlurmExecutor:
    """submitit's executor for one array of the submission in ``folder``, whose jobs run the code of its snapshot."""
    executor = SlurmExecutor(folder / LOGS, python=f"{_SHIELD} {shlex.quote(sys.executable)}")
    extra: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", "chdir": str(folder / CODE)}
    chosen = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gpus_per_node": resources.gpus or None,
        "dependency": f"afterany:{':'.join(depends_on)}" if depends_on else None,
        "array_parallelism": parallel_jobs,
    }
    executor.update_parameters(
        job_name=name,
        time=resources.minutes,
        cpus_per_task=resources.cpus,
        mem=f"{resources.memory_mb}MB",
        signal_delay_s=resources.signal_seconds,
        setup=[*_submitter_lines(), *setup, *_environment_lines(folder / CODE, resources.cpus)],
        srun_args=["--cpus-per-task", str(resources.cpus)],  # Since 22.05 srun no longer takes it from sbatch.
        additional_parameters=extra,
        **{key: value for key, value in chosen.items() if value is not None},
    )
    return executor


def _submitter_lines() -> list[str]:
    """Shell lines that bring along what a job needs of the environment here.

    Slurm does so by itself, but not where the site has it otherwise (``--export=NONE``); then not even ``sh`` is found.
    """
    path = shlex.quote(os.environ.get("PATH", os.defpath))
    lines = [f'export PATH={path}"${{PATH:+:$PATH}}"', "export SLURM_EXPORT_ENV=ALL"]
    carried = ("SLURM_CONF", "LD_LIBRARY_PATH")
    return [*lines, *(f"export {name}={shlex.quote(os.environ[name])}" for name in carried if name in os.environ)]


def _environment_lines(code: Path, threads: int) -> list[str]:
    """Shell lines that put the snapshot before every other copy of the code and set what torch needs at its start."""
    entries = [
        str(code),
        *(str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(":") if entry),
    ]
    variables = {"PYTHONPATH": ":".join(entries), **wanted_environment(threads)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    # The batch shell outlives the signals that its job answers; a handler, unlike ignoring, is not inherited.
    return [*lines, "trap : TERM USR2"]
