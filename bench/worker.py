"""Compute one node of a sweep's graph: what every executor starts, in a process of its own or in a long-lived one."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.errors import InterruptedRunError, StageFailedError, StorageError, UserError
from bench.files import read_json
from bench.graph import REPORT, report_hash
from bench.locks import lock_holder
from bench.node_records import DONE, FAILED, INTERRUPTED, RUNNING, end_record, read_record, start_record, sweep_folder
from bench.plan import PlannedStage, RunPlan, RunRequest, plan_run, request_from_json
from bench.progress import Reporter, make_reporter
from bench.run import RunOptions, execute_run, prepare_torch, write_failed_run
from bench.runner import StageRunner
from bench.shape import FileName, check_value
from bench.signals import StopRequest, stop_on_signals
from bench.store import ARTEFACTS_FOLDER, MANIFEST, ArtefactStore, read_failure

DONE_CODE, FAILED_CODE = 0, 1
_LOOK_SECONDS = 1.0
_GONE_SECONDS = 10.0
"""For so long a record that says ``running`` may be an old one, seen late."""


@dataclass(frozen=True)
class NodeRequest:
    """One node to compute, and all that is needed to recognise it. Goes to other processes as JSON."""

    sweep: str
    """The sweep on whose behalf it is computed: where the exit record goes."""
    node: str
    hash: str
    """What the node must turn out to be; anything else is refused."""
    request: RunRequest
    """A run that needs the node."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> NodeRequest:
        """What ``to_json`` wrote. Raises ``UserError`` when it is something else."""
        try:
            check_value(content, cls)
            for name in ("sweep", "node"):
                check_value(content[name], FileName, name)
        except ValueError as error:
            raise UserError(f"not a node of a sweep, or of another version: {error}") from error
        return cls(content["sweep"], content["node"], content["hash"], request_from_json(content["request"]))


def read_node_request(path: Path) -> NodeRequest:
    """The node request in a JSON file. Raises ``UserError``."""
    return NodeRequest.from_json(read_json(path))


def run_node(
    request: NodeRequest,
    options: RunOptions,
    stop: StopRequest | None = None,
    labels: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    input_patience_seconds: float = 0.0,
) -> int:
    """Compute a node unless it exists, and leave its exit record below ``options.out``.

    ``input_patience_seconds`` is for how long an input is looked for again that is not there, as on a file system whose
    clients learn late what others have written. ``stop`` is whatever may ask to stop; without it SIGINT and SIGTERM do.
    Returns 0 when the node is there, 1 when it failed, and 128 + signal when it was interrupted (it has a checkpoint,
    and running it again goes on from there). Raises ``StorageError`` when not even the exit record can be written.
    """
    folder = sweep_folder(options.out, request.sweep)
    with nullcontext(stop) if stop is not None else stop_on_signals() as stop_request:
        record = start_record(folder, request.node, labels or {})
        try:
            _compute(request, options, stop_request, reporter, input_patience_seconds)
        except InterruptedRunError as error:
            end_record(folder, record, INTERRUPTED, error=str(error), signal=error.signal_number)
            return error.exit_code
        except StageFailedError as error:
            end_record(folder, record, FAILED, error=str(error), traceback=_stage_traceback(request, options))
            return FAILED_CODE
        except UserError as error:
            end_record(folder, record, FAILED, error=str(error))
            return FAILED_CODE
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            end_record(folder, record, FAILED, error=f"{type(error).__name__}: {error}", traceback=text)
            return FAILED_CODE
        end_record(folder, record, DONE)
    return DONE_CODE


def leave_failed_run(plan: RunPlan, options: RunOptions, sweep: str) -> None:
    """If a stage of the run failed or was killed in this sweep, leave the run's folder with a row that says so.

    So a run that could not be carried out is seen, by name and with its reason, wherever results are read. Raises
    ``StorageError``.
    """
    store, folder = ArtefactStore(options.out / ARTEFACTS_FOLDER), sweep_folder(options.out, sweep)
    failures = {}
    for stage in plan.stages:
        name = stage.artefact_name
        # A stage whose input is missing has not failed: the input has.
        if store.is_finished(name) or not all(map(store.is_finished, stage.inputs.values())):
            continue
        record = read_record(folder, name)
        if record is not None and record.status == FAILED:
            failures[name] = record.last_line
        elif record is not None and record.status == RUNNING and lock_holder(store.lock_path(name)) is None:
            failures[name] = record.gone_text
    if failures:
        write_failed_run(plan, options, failures)


@lru_cache(maxsize=64)
def _plan(request: RunRequest) -> RunPlan:
    return plan_run(request)


def _compute(
    request: NodeRequest, options: RunOptions, stop: StopRequest, reporter: Reporter | None, patience_seconds: float
) -> None:
    plan = _plan(request.request)
    store = ArtefactStore(options.out / ARTEFACTS_FOLDER)
    inputs = _Inputs(request, store, sweep_folder(options.out, request.sweep), stop, patience_seconds)
    if request.node == f"{REPORT}-{plan.run_name}":
        if report_hash(plan) != request.hash:
            raise _other_version(request, report_hash(plan))
        try:
            inputs.await_all([stage.artefact_name for stage in plan.stages])
        except UserError:
            leave_failed_run(plan, options, request.sweep)
            raise
        execute_run(plan.request, options, stop, wait=True)
        return
    planned = _find_stage(request, plan)
    inputs.await_all(planned.inputs.values())
    machine = prepare_torch(options)
    with make_reporter() if reporter is None else nullcontext(reporter) as shown:
        runner = StageRunner(store, machine, shown, stop, options.checkpoint_seconds)
        runner.run(planned, plan.distribution_of(planned), plan.target_tasks)


def _find_stage(request: NodeRequest, plan: RunPlan) -> PlannedStage:
    stages = {stage.artefact_name: stage for stage in plan.stages}
    if request.node not in stages:
        raise UserError(
            f"{request.node} is no stage of the run {plan.run_name} as this version of the code plans it "
            f"({', '.join(stages)}): plan the sweep again with this version, or run it with the version that planned it"
        )
    if stages[request.node].hash != request.hash:
        raise _other_version(request, stages[request.node].hash)
    return stages[request.node]


def _other_version(request: NodeRequest, found: str) -> UserError:
    return UserError(
        f"{request.node} was planned with hash {request.hash[:12]} and is {found[:12]} here: the code or the "
        "configuration is of another version; plan the sweep again"
    )


@dataclass(frozen=True)
class _Inputs:
    """The artefacts that a node reads."""

    request: NodeRequest
    store: ArtefactStore
    records: Path
    """Folder of the sweep."""
    stop: StopRequest
    patience_seconds: float

    def await_all(self, names: Iterable[str]) -> None:
        """Return when all are there.

        Raises ``UserError`` when one is not, in time or because it has failed, ``InterruptedRunError`` on a signal.
        """
        wanted = list(names)
        began = time.monotonic()
        while missing := [name for name in wanted if not self._is_there(name)]:
            waited, lacking = time.monotonic() - began, ", ".join(missing)
            if self.stop.signal_number is not None:
                raise InterruptedRunError(f"stopped while waiting for {lacking}", self.stop.signal_number)
            hopeless = any(self._has_failed(name) or self._is_gone(name, waited) for name in missing)
            if waited >= self.patience_seconds or hopeless:
                raise UserError(f"{self.request.node} cannot be computed: {lacking} is not in {self.store.root}")
            time.sleep(_LOOK_SECONDS)

    def _is_there(self, name: str) -> bool:
        # The folder is seen first, by a new listing of what holds it, and what lies in it perhaps later.
        with suppress(OSError):
            os.listdir(self.store.root)  # noqa: PTH208  # it is not what is there that counts, but to have asked
        return self.store.is_finished(name) and (self.store.folder(name) / MANIFEST).is_file()

    def _has_failed(self, name: str) -> bool:
        record = read_record(self.records, name)
        return record is not None and record.status in (FAILED, INTERRUPTED)

    def _is_gone(self, name: str, waited_seconds: float) -> bool:
        """Whether it was begun and nobody is at work on it, so that its process was killed."""
        if waited_seconds < _GONE_SECONDS:
            return False
        record = read_record(self.records, name)
        return record is not None and record.status == RUNNING and lock_holder(self.store.lock_path(name)) is None


def _stage_traceback(request: NodeRequest, options: RunOptions) -> str:
    try:
        failure = read_failure(ArtefactStore(options.out / ARTEFACTS_FOLDER).partial_folder(request.node))
    except StorageError:
        failure = None
    # None: another process has begun to retry it, and the one line of the error is what is left.
    return "" if failure is None else str(failure["traceback"])
