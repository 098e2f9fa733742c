"""The ``data`` stage: offline trajectories of a task distribution, built chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from algorithms.stage import Progress, Stage, StageContext, StageReport, StageSpec
from bench.errors import UserError
from envs.core import DataSource, TaskDistribution
from envs.trajectories import Trajectories

TRAJECTORIES_FILE = "trajectories.hdf5"
COVERAGE_FILE = "coverage.png"


class DataStage(Stage):
    """Builds a task distribution's offline data; its state holds the chunks that are done."""

    def __init__(self, config: Any, context: StageContext) -> None:
        self._distribution = context.task_distribution
        source = self._distribution.data_source
        if source is None:
            raise UserError(f"task distribution {self._distribution.name!r} has no offline data")
        self._source: DataSource = source
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
                {
                    "observations": torch.from_numpy(chunk.observations),
                    "actions": torch.from_numpy(chunk.actions),
                    "episode_ends": torch.from_numpy(chunk.episode_ends),
                }
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
        trajectories.save_hdf5(folder / TRAJECTORIES_FILE)
        self._source.draw_coverage(trajectories, folder / COVERAGE_FILE)
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
    source = distribution.data_source
    assert source is not None, f"{distribution.name} has no offline data"
    return StageSpec(
        name="data",
        config_class=source.config_class,
        factory=DataStage,
        inputs=(),
        tasks="none",
        implementation=source.implementation,
    )
