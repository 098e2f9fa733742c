"""Drive one stage to its artefact: resume, advance, log, checkpoint, stop on a signal, record a failure."""

from __future__ import annotations

import datetime
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from algorithms.stage import Stage, StageContext
from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.checkpoint_info import CheckpointInfo, remedy
from bench.errors import InterruptedRunError, StageFailedError, StorageError, UserError
from bench.files import disk_is_full, is_full_disk_error, storage_errors, write_sealed_json
from bench.locks import LockHeldError, lock_file
from bench.plan import PlannedStage
from bench.progress import Reporter, duration_text
from bench.rows import EPISODES_TABLE, METRICS_LOG, LogMark, StageLog, read_log, write_table
from bench.signals import StopRequest
from bench.store import FAILURE, SOON_MADE_AGAIN_SECONDS, ArtefactStore, Machine
from envs.core import TaskDistribution
from envs.randomness import key_to_integer


@dataclass(frozen=True)
class StageOutcome:
    """How a stage came to its artefact."""

    artefact: Path
    seconds: float
    """Wall time the stage took, whenever that was, over all its attempts."""
    reused: bool


@dataclass(frozen=True)
class StageRunner:
    """What running a stage needs besides the stage itself."""

    store: ArtefactStore
    machine: Machine
    reporter: Reporter
    stop: StopRequest
    checkpoint_seconds: float
    """Wall time between two checkpoints; 0 saves after every ``advance``."""

    def run(self, planned: PlannedStage, distribution: TaskDistribution, target_tasks: tuple[int, ...]) -> StageOutcome:
        """Return the stage's artefact, building it unless it exists.

        Raises ``InterruptedRunError`` on a signal, ``StageFailedError`` when the stage raises, ``StorageError`` for
        damaged files, a full disk or missing permissions. In all cases running again goes on where this ended.
        """
        name, stage_name = planned.artefact_name, planned.spec.name
        try:
            with lock_file(
                self.store.lock_path(name),
                wait=True,
                on_wait=lambda holder: self.reporter.line(f"{stage_name}: waiting for {holder}, which builds {name}"),
                keep_waiting=lambda: not self.stop.requested,
            ):
                if self.store.is_finished(name):
                    return self._reuse(planned)
                context = StageContext(
                    task_distribution=distribution,
                    target_tasks=target_tasks,
                    seed=planned.seed,
                    inputs={stage: self.store.folder(artefact) for stage, artefact in planned.inputs.items()},
                    device=self.machine.device,
                    threads=self.machine.threads,
                )
                input_checksums = {
                    stage: self.store.verify_input(artefact) for stage, artefact in planned.inputs.items()
                }
                return _Attempt(self, planned, context, input_checksums).build()
        except LockHeldError as error:
            assert self.stop.signal_number is not None
            raise InterruptedRunError(
                f"stopped while waiting for {error.holder}, which builds {name}", self.stop.signal_number
            ) from error

    def _reuse(self, planned: PlannedStage) -> StageOutcome:
        name = planned.artefact_name
        manifest = self.store.verify(name)
        if manifest["hash"] != planned.hash:
            raise StorageError(f"{self.store.folder(name)} belongs to another stage; delete this folder and run again")
        self.store.check_origin(manifest)
        self.store.remove_partial(name)
        seconds = float(manifest["seconds"])
        self.reporter.line(f"{planned.spec.name}: reused {name} (it took {duration_text(seconds)})")
        return StageOutcome(self.store.folder(name), seconds, reused=True)


class _Attempt:
    """One attempt at building an artefact, inside its lock."""

    def __init__(
        self, runner: StageRunner, planned: PlannedStage, context: StageContext, input_checksums: Mapping[str, str]
    ) -> None:
        self.runner, self.planned, self.context = runner, planned, context
        self.input_checksums = input_checksums
        self.name = planned.artefact_name
        self.folder = runner.store.partial_folder(self.name)
        self.seconds_before = 0.0
        self.started = self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def build(self) -> StageOutcome:
        with storage_errors(f"make the folder {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / FAILURE).unlink(missing_ok=True)
        try:
            stage, info = self._make_stage()
            marks = (LogMark(), LogMark())
            if info is not None:
                marks = (
                    LogMark(info.episodes_bytes, info.episodes_sha256),
                    LogMark(info.metrics_bytes, info.metrics_sha256),
                )
            with StageLog(self.folder, *marks) as log:
                self._advance_to_end(stage, log)
                log.check()
            return self._finish(stage)
        except UserError:
            raise
        except Exception as error:
            if is_full_disk_error(error):
                raise StorageError(
                    f"stage {self.planned.spec.name} cannot write: {error}; free some space and run again"
                ) from error
            raise self._failure(error) from error
        finally:
            self.runner.reporter.end_stage()

    def _make_stage(self) -> tuple[Stage, CheckpointInfo | None]:
        # Initial weights come from torch's global generator; what else it gives is saved with each checkpoint.
        torch.manual_seed(key_to_integer(self.planned.seed, "stage", self.planned.spec.name, bits=32))
        stage = self.planned.spec.factory(self.planned.config, self.context)
        loaded = load_checkpoint(self.folder, self.planned.hash)
        if loaded is None:
            self.runner.reporter.start_stage(self.planned.spec.name, stage.progress)
            return stage, None
        info, state = loaded
        self._check_inputs_of(info)
        stage.load_state_dict(state["stage"])
        _restore_generators(state["generators"])
        self.seconds_before = info.seconds
        progress = stage.progress
        self.runner.reporter.line(
            f"{self.planned.spec.name}: resumed at {progress.done} of {progress.total} {progress.unit}"
        )
        self._note_other_machine(info)
        self.runner.reporter.start_stage(self.planned.spec.name, progress)
        return stage, info

    def _check_inputs_of(self, info: CheckpointInfo) -> None:
        """Refuse a checkpoint that was computed from other inputs than those that are there now."""
        if info.episodes_sha256 is None:
            self.runner.reporter.line(
                f"{self.planned.spec.name}: note: the checkpoint is of an older version, without checksums of its rows "
                "and inputs: these are not checked"
            )
        for stage, checksum in info.inputs.items():
            if checksum != self.input_checksums.get(stage):
                artefact = self.planned.inputs.get(stage, stage)
                raise StorageError(
                    f"{self.folder} was begun with another {artefact} than the one that is there now; "
                    f"{remedy(self.folder)}"
                )

    def _note_other_machine(self, info: CheckpointInfo) -> None:
        before = (info.device, info.threads, info.torch_version)
        now = (self.runner.machine.device, self.runner.machine.threads, torch.__version__)
        if before != now:
            self.runner.reporter.line(
                f"{self.planned.spec.name}: note: the checkpoint was made with (device, threads, torch) {before}, "
                f"now {now}: the result may differ in the last bits from an undisturbed run"
            )

    def _advance_to_end(self, stage: Stage, log: StageLog) -> None:
        while not stage.finished:
            report = stage.advance()
            log.append(report, self.seconds)
            self.runner.reporter.update(stage.progress)
            if stage.finished:
                # Writing the artefact may fail (full disk): then only that has to be done again, or a moment's work.
                if time.monotonic() - self.saved >= min(self.runner.checkpoint_seconds, SOON_MADE_AGAIN_SECONDS):
                    self._save(stage, log)
            elif self.runner.stop.requested:
                self._save(stage, log)
                assert self.runner.stop.signal_number is not None
                progress = stage.progress
                raise InterruptedRunError(
                    f"{self.planned.spec.name} is saved at {progress.done} of {progress.total} {progress.unit}",
                    self.runner.stop.signal_number,
                )
            elif time.monotonic() - self.saved >= self.runner.checkpoint_seconds:
                self._save(stage, log)

    def _save(self, stage: Stage, log: StageLog) -> None:
        episodes, metrics = log.sync()
        progress = stage.progress
        info = CheckpointInfo(
            stage_hash=self.planned.hash,
            episodes_bytes=episodes.length,
            metrics_bytes=metrics.length,
            episodes_sha256=episodes.sha256,
            metrics_sha256=metrics.sha256,
            inputs=dict(self.input_checksums),
            seconds=self.seconds,
            device=self.runner.machine.device,
            threads=self.runner.machine.threads,
            torch_version=str(torch.__version__),
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
        )
        save_checkpoint(self.folder, info, {"stage": stage.state_dict(), "generators": _generators()})
        self.saved = time.monotonic()

    def _finish(self, stage: Stage) -> StageOutcome:
        store = self.runner.store
        with storage_errors(f"write the artefact {self.name} (the last checkpoint is intact)"):
            build = store.new_build_folder(self.name)
            try:
                metrics = stage.write_artefact(build)
                table = read_log(self.folder)
                if len(table):
                    write_table(table, build / EPISODES_TABLE)
                if (self.folder / METRICS_LOG).stat().st_size:
                    shutil.copyfile(self.folder / METRICS_LOG, build / METRICS_LOG)
            except Exception as error:
                if disk_is_full(error, self.folder):
                    shutil.rmtree(build)
                    raise StorageError(
                        f"cannot write the artefact {self.name}: the disk of {self.folder} is full; "
                        "the last checkpoint is intact, free some space and run again"
                    ) from error
                raise
            manifest = store.commit(self.planned, metrics, self.seconds, self.runner.machine, self.input_checksums)
        seconds = float(manifest["seconds"])
        self.runner.reporter.line(f"{self.planned.spec.name}: done in {duration_text(seconds)}, {self.name}")
        return StageOutcome(store.folder(self.name), seconds, reused=False)

    def _failure(self, error: Exception) -> UserError:
        last_line = traceback.format_exception_only(error)[-1].strip()
        path = self.folder / FAILURE
        record = {
            "stage": self.planned.spec.name,
            "artefact": self.name,
            "error": last_line,
            "traceback": "".join(traceback.format_exception(error)),
            "seconds": round(self.seconds, 3),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with storage_errors(f"record that stage {self.planned.spec.name} failed with {last_line}"):
            write_sealed_json(path, record)
        return StageFailedError(
            f"stage {self.planned.spec.name} failed: {last_line}; its traceback is in {path}, and the same command "
            "tries again"
        )


def _generators() -> dict[str, Any]:
    """States of torch's global generators, so that a stage may draw from them and still resume exactly."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
