"""One run from its request to its folder of results: stages, rows, tables, picture."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.config import yaml_text
from bench.errors import InterruptedRunError, StageFailedError, UserError
from bench.files import replace_text, sha256_of_file, storage_errors
from bench.locks import LockHeldError, lock_file
from bench.plan import PlannedStage, RunPlan, RunRequest, plan_run
from bench.progress import Reporter, make_reporter
from bench.results import RUN_COLUMNS, target_rows, total_seconds, window_scores
from bench.rows import EPISODES_TABLE, STAGE_COLUMNS, read_log, read_table, write_table
from bench.run_record import write_run_record
from bench.runner import StageOutcome, StageRunner
from bench.signals import StopRequest, stop_on_signals
from bench.store import ARTEFACTS_FOLDER, RUN_LOCK, ArtefactStore, Machine, read_failure
from bench.versions import versions

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
CURVE_FILE = "curve.png"


@dataclass(frozen=True)
class RunOptions:
    """How and where a run is carried out; none of it changes what is computed."""

    out: Path
    device: str = "auto"
    threads: int = 1
    checkpoint_seconds: float = 60.0


def prepare_torch(options: RunOptions) -> Machine:
    """Set torch's threads and resolve the device. Raises ``UserError`` when ``cuda`` is asked for and absent."""
    has_cuda = torch.cuda.is_available()
    if options.device == "cuda" and not has_cuda:
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    torch.set_num_threads(options.threads)
    # Denormal numbers (tiny Adam moments, saturated KL terms) slow CPU arithmetic down a hundredfold.
    torch.set_flush_denormal(True)
    device = options.device if options.device != "auto" else ("cuda" if has_cuda else "cpu")
    return Machine(device, options.threads)


def execute_run(request: RunRequest, options: RunOptions, stop: StopRequest | None = None, wait: bool = False) -> Path:
    """Carry out a run, or what of it is still missing, and return its folder.

    ``stop`` is whatever may ask to stop; without it SIGINT and SIGTERM do. Where another process is at work on the run,
    that is refused, or with ``wait`` waited for. Raises ``UserError`` (and its kinds) for anything that ends it early;
    running again goes on from there.
    """
    plan = plan_run(request)
    machine = prepare_torch(options)
    folder = options.out / plan.run_name
    with storage_errors(f"make the run folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(stop) if stop is not None else stop_on_signals() as asked, make_reporter() as reporter:
        try:
            with lock_file(
                folder / RUN_LOCK,
                wait=wait,
                on_wait=lambda holder: reporter.line(f"waiting for {holder}, which is at work on the run {folder}"),
                keep_waiting=lambda: not asked.requested,
            ):
                _Run(plan, options, machine, folder).execute(asked, reporter)
        except LockHeldError as error:
            if asked.signal_number is not None:
                raise InterruptedRunError(f"stopped while waiting for {error.holder}", asked.signal_number) from error
            raise UserError(f"the run {folder} is already running in {error.holder}") from error
    return folder


def write_failed_run(plan: RunPlan, options: RunOptions, failures: Mapping[str, str]) -> None:
    """Leave the folder of a run that cannot be carried out: its rows so far, and a row for each failure.

    ``failures``: artefact that could not be made -> error, one line. Where somebody is at work on the run, nothing is
    written. Raises ``StorageError``.
    """
    folder = options.out / plan.run_name
    with storage_errors(f"make the run folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    with suppress(LockHeldError), lock_file(folder / RUN_LOCK, wait=False):
        _Run(plan, options, prepare_torch(options), folder).record_failures(failures)


class _Run:
    """A run inside its lock."""

    def __init__(self, plan: RunPlan, options: RunOptions, machine: Machine, folder: Path) -> None:
        self.plan, self.options, self.machine, self.folder = plan, options, machine, folder
        self.store = ArtefactStore(options.out / ARTEFACTS_FOLDER)
        self.outcomes: dict[str, StageOutcome] = {}
        self.failures: Mapping[str, str] = {}
        self.started = _now()

    def record_failures(self, failures: Mapping[str, str]) -> None:
        """Compute nothing: leave what there is, and why the rest is not."""
        self.failures = failures
        for planned in self.plan.stages:
            name = planned.artefact_name
            if self.store.is_finished(name):
                seconds = float(self.store.manifest(name)["seconds"])
                self.outcomes[planned.spec.name] = StageOutcome(self.store.folder(name), seconds, reused=True)
        self._write_config()
        self._write_results("failed")

    def execute(self, stop: StopRequest, reporter: Reporter) -> None:
        """Run all stages in order; whatever happens, leave rows and a status in the run folder."""
        self._write_config()
        self._write_record("running")
        runner = StageRunner(self.store, self.machine, reporter, stop, self.options.checkpoint_seconds)
        try:
            for planned in self.plan.stages:
                if stop.signal_number is not None:
                    raise InterruptedRunError(f"stopped before {planned.spec.name}", stop.signal_number)
                self.outcomes[planned.spec.name] = runner.run(
                    planned, self.plan.distribution_of(planned), self.plan.target_tasks
                )
                self._write_record("running")
        except InterruptedRunError as error:
            self._write_results("interrupted")
            message = f"{error}; run the same command again to resume"
            raise InterruptedRunError(message, error.signal_number) from error
        except StageFailedError:
            self._write_results("failed")
            raise
        self._write_results("done")

    def _write_config(self) -> None:
        data = self.plan.request.data
        remarks = [] if data is None else [f"Offline data: --data {data}"]
        with storage_errors(f"write {self.folder / CONFIG_FILE}"):
            replace_text(self.folder / CONFIG_FILE, yaml_text(self.plan.configs, remarks))

    def _write_results(self, status: str) -> None:
        table = self._rows()
        with storage_errors(f"write the results in {self.folder}"):
            write_table(table, self.folder / EPISODES_TABLE)
            if len(target_rows(table)):
                from bench.curve import draw_curve  # matplotlib takes half a second, which most stages can do without

                request = self.plan.request
                title = f"{request.algo} on {request.env} ({request.preset}, seed {request.seed})"
                score_range = self.plan.task_distribution.score_range
                draw_curve(table, score_range, title, self.folder / CURVE_FILE, request.task_set)
        record = self._write_record(status, {EPISODES_TABLE: sha256_of_file(self.folder / EPISODES_TABLE)})
        summary = {
            "run": self.plan.run_name,
            "status": status,
            "windows": [asdict(score) for score in window_scores(table)],
            "stage_seconds": {stage["name"]: stage["seconds"] for stage in record["stages"]},
            "total_seconds": round(total_seconds(record), 3),
        }
        with storage_errors(f"write {self.folder / SUMMARY_FILE}"):
            replace_text(self.folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")

    def _write_record(self, status: str, files: Mapping[str, str] | None = None) -> dict[str, Any]:
        """``files``: checksums of what holds the results, once they are written."""
        request = self.plan.request
        record = {
            "format": 1,
            "run": self.plan.run_name,
            "algo": request.algo,
            "env": request.env,
            "preset": request.preset,
            "seed": request.seed,
            "task_set": request.task_set,
            "target_tasks": list(self.plan.target_tasks),
            "overrides": {override.name: override.text for override in request.overrides},
            "data": request.data,
            "until": request.until,
            "status": status,
            "started": self.started,
            "updated": _now(),
            "device": self.machine.device,
            "threads": self.machine.threads,
            "versions": versions(),
            "stages": [self._stage_record(planned) for planned in self.plan.stages],
            "files": dict(files or {}),
        }
        write_run_record(self.folder, record)
        return record

    def _stage_record(self, planned: PlannedStage) -> dict[str, Any]:
        outcome = self.outcomes.get(planned.spec.name)
        return {
            "name": planned.spec.name,
            "artefact": planned.artefact_name,
            "done": outcome is not None,
            "seconds": None if outcome is None else outcome.seconds,
            "reused": None if outcome is None else outcome.reused,
        }

    def _rows(self) -> pd.DataFrame:
        """Rows of all stages so far, a failed stage's failure among them, with the columns that name the run."""
        tables = []
        for planned in self.plan.stages:
            table = self._stage_rows(planned)
            if len(table):
                names = [self._task_name(planned, task) for task in table["task"]]
                task_set = self.plan.task_set_of(planned)
                tables.append(table.assign(stage=planned.spec.name, task_set=task_set, task_name=names))
        request = self.plan.request
        columns = [*RUN_COLUMNS, "phase", "task_set", "task", "task_name", *list(STAGE_COLUMNS)[2:], "error"]
        if not tables:
            return pd.DataFrame(columns=columns)
        table = pd.concat(tables, ignore_index=True).assign(
            run=self.plan.run_name, algo=request.algo, env=request.env, preset=request.preset, seed=request.seed
        )
        return table[columns]

    def _stage_rows(self, planned: PlannedStage) -> pd.DataFrame:
        name = planned.artefact_name
        finished = self.store.folder(name) / EPISODES_TABLE
        if self.store.is_finished(name):
            rows = read_table(finished) if finished.exists() else pd.DataFrame(columns=list(STAGE_COLUMNS))
            return rows.assign(error="")
        partial = self.store.partial_folder(name)
        rows = read_log(partial).assign(error="")
        failure = read_failure(partial)
        if failure is not None:
            seconds, error = failure["seconds"], failure["error"]
        elif name in self.failures:
            seconds, error = float(rows["seconds"].max()) if len(rows) else 0.0, self.failures[name]
        else:
            return rows
        failed = {
            "phase": "", "task": -1, "episode": -1, "env_steps": 0, "return": float("nan"), "success": False,
            "length": 0, "seconds": seconds, "status": "failed", "error": error,
        }  # fmt: skip
        return pd.concat([rows, pd.DataFrame([failed])], ignore_index=True)

    def _task_name(self, planned: PlannedStage, task: int) -> str:
        if task < 0:
            return ""
        distribution = self.plan.distribution_of(planned)
        tasks = distribution.train_tasks if planned.spec.tasks == "train" else distribution.target_tasks
        return tasks[task].name


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
