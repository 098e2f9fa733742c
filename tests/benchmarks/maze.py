"""Measured speed of the maze: closed-loop stepping, offline data. Not a test.

    make benchmark          # or: python -m tests.benchmarks.maze [stepping|data ...]

Run it on a quiet machine. Figures are medians; the first repetition only warms up.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from algorithms.skill_model import SkillConfig
from bench.timing import time_of
from envs.core import Task
from envs.registry import task_distribution
from tests.benchmarks.measures import ClosedLoop, print_stepping, run_benchmarks

LANES = (40, 256)
UNREACHABLE = Task("far", {"goal": [1, 1]})
"""So that episodes run to the time limit: an untrained policy does not get there."""


def stepping() -> None:
    """env_steps/s in closed loop."""
    for lanes in LANES:
        print_stepping(ClosedLoop(task_distribution("maze"), UNREACHABLE, lanes, 1, SkillConfig()), 1, repetitions=5)


def data() -> None:
    """Seconds to build and write the offline data of preset ``paper``."""
    distribution = task_distribution("maze")
    source = distribution.data_source
    assert source is not None
    config = source.config_class(**distribution.data_presets["paper"])
    from envs.trajectories import Trajectories

    def work() -> None:
        chunks = [source.build_chunk(config, index, 1) for index in range(source.num_chunks(config))]
        trajectories = Trajectories.concatenate(chunks)
        with tempfile.TemporaryDirectory() as folder:
            trajectories.save_hdf5(Path(folder) / "trajectories.hdf5")
        print(f"  {len(trajectories.episode_ends):,} trajectories, {len(trajectories.observations):,} transitions")

    print(f"offline data, paper: {time_of(work, 1).duration()} on one thread")


if __name__ == "__main__":
    run_benchmarks({"stepping": stepping, "data": data})
