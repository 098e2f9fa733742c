"""The ``data`` stage: offline trajectories of a task distribution, built chunk by chunk or read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from algorithms.stage import Progress, Stage, StageContext, StageReport, StageSpec
from bench.errors import StorageError, UserError
from envs.core import DataSource, RecordedData, TaskDistribution
from envs.trajectories import Trajectories, TrajectoryError

TRAJECTORIES_FILE = "trajectories.hdf5"
COVERAGE_FILE = "coverage.png"


class DataStage(Stage):
    """Builds a task distribution's offline data; its state holds the chunks that are done."""

    def __init__(self, config: Any, context: StageContext) -> None:
        self._distribution = context.task_distribution
        self._source = _source(self._distribution)
        self._config = config
        self._threads = context.threads
        self._chunks: list[Trajectories] = []

    @property
    def progress(self) -> Progress:
        return Progress(len(self._chunks), self._source.num_chunks(self._config), "chunks")

    def advance(self) -> StageReport:
        chunk = self._source.build_chunk(self._config, len(self._chunks), self._threads)
        self._chunks.append(chunk)
        return StageReport(metrics={"transitions": float(len(chunk.observations))})

    def state_dict(self) -> dict[str, Any]:
        return {
            "chunks": [
                {name: torch.from_numpy(array) for name, array in vars(chunk).items() if array is not None}
                for chunk in self._chunks
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._chunks = [
            Trajectories(**{name: tensor.numpy() for name, tensor in chunk.items()}) for chunk in state["chunks"]
        ]

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        trajectories = Trajectories.concatenate(self._chunks)
        distribution = self._distribution
        trajectories.validate(distribution.observation_dim, distribution.action_dim, min_length=1)
        return _write_trajectories(trajectories, self._source, folder)


@dataclass(frozen=True)
class ImportConfig:
    """Trajectories read from a file: what it holds, not where it lies."""

    checksum: str = ""
    """SHA-256 of the trajectories, as ``bench data`` prints it (``--data FILE`` sets it)."""


class ImportStage(Stage):
    """Reads ``origin`` again and keeps it if it still holds what it held when the run was planned."""

    def __init__(self, config: ImportConfig, context: StageContext, origin: str) -> None:
        self._config, self._distribution, self._origin = config, context.task_distribution, origin
        self._recorded: RecordedData | None = None

    @property
    def progress(self) -> Progress:
        return Progress(int(self._recorded is not None), 1, "files")

    def advance(self) -> StageReport:
        self._recorded = self._read()
        return StageReport(metrics={"transitions": float(len(self._recorded.trajectories.observations))})

    def state_dict(self) -> dict[str, Any]:
        return {"read": self._recorded is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recorded = self._read() if state["read"] else None

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        assert self._recorded is not None
        metrics = _write_trajectories(self._recorded.trajectories, _source(self._distribution), folder)
        return {**metrics, "read_from": self._origin, "remarks": "; ".join(self._recorded.remarks)}

    def _read(self) -> RecordedData:
        recorded = read_data(self._distribution, self._origin)
        if recorded.trajectories.checksum() != self._config.checksum:
            raise UserError(f"{self._origin} has changed since the run was planned; run again to use what it holds now")
        return recorded


def read_data(
    distribution: TaskDistribution, origin: str, min_length: int = 1, skip_damaged: bool = False
) -> RecordedData:
    """What the distribution's reader makes of ``origin``, checked to fit the distribution.

    ``min_length`` (env_steps) is the length that at least one episode must have; ``skip_damaged`` leaves out damaged
    files of a folder. Raises ``StorageError`` naming the
    origin and the reason, ``UserError`` when the distribution has no offline data.
    """
    try:
        recorded = _source(distribution).read(origin, skip_damaged)
        recorded.trajectories.validate(distribution.observation_dim, distribution.action_dim, min_length)
    except TrajectoryError as error:
        message = str(error)
        raise StorageError(message if origin in message else f"{origin}: {message}") from error
    return recorded


def _source(distribution: TaskDistribution) -> DataSource:
    if distribution.data_source is None:
        raise UserError(f"task distribution {distribution.name!r} has no offline data")
    return distribution.data_source


def _write_trajectories(trajectories: Trajectories, source: DataSource, folder: Path) -> dict[str, Any]:
    trajectories.save_hdf5(folder / TRAJECTORIES_FILE)
    source.draw_coverage(trajectories, folder / COVERAGE_FILE)
    return trajectory_metrics(trajectories)


def trajectory_metrics(trajectories: Trajectories) -> dict[str, Any]:
    """Numbers that describe offline data: counts, episode lengths in env_steps, checksum of the contents."""
    lengths = trajectories.lengths
    return {
        "episodes": len(trajectories.episode_ends),
        "transitions": len(trajectories.observations),
        "shortest_episode_env_steps": int(lengths.min()),
        "longest_episode_env_steps": int(lengths.max()),
        "checksum": trajectories.checksum(),
    }


def data_stage_spec(distribution: TaskDistribution) -> StageSpec:
    """The data stage of a task distribution that has offline data."""
    source = _source(distribution)
    return StageSpec(
        name="data",
        config_class=source.config_class,
        factory=DataStage,
        inputs=(),
        tasks="none",
        implementation=source.implementation,
    )


def import_stage_spec(origin: str) -> StageSpec:
    """The data stage that reads ``origin`` (a file, a folder) instead of building anything."""
    return StageSpec(
        name="data",
        config_class=ImportConfig,
        factory=partial(ImportStage, origin=origin),
        inputs=(),
        tasks="none",
        implementation="imported_trajectories/1",
    )
