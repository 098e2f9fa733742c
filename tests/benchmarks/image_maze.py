"""Measured speed of the image maze: views, offline data. Not a test.

    make benchmark          # or: python -m tests.benchmarks.image_maze [views|data ...]

Run it on a quiet machine. Figures are medians; the first repetition only warms up. A view is one 32 x 32 RGB frame;
each row of observations has two.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.timing import time_of
from envs.image_maze.views import FRAMES
from envs.registry import task_distribution
from envs.trajectories import Trajectories
from tests.benchmarks.measures import run_benchmarks

BATCHES = (10, 128, 1280)
"""Rows drawn at once: what acting draws, and what training does."""


def views() -> None:
    """Views/s on one thread: of rows in the world's own maze, and in mazes of the offline data."""
    distribution = task_distribution("image-maze")
    source, drawer = distribution.data_source, distribution.views
    assert source is not None and drawer is not None
    recorded = source.build_chunk(source.config_class(**distribution.data_presets["smoke"]), 0, 1)
    assert recorded.scenes is not None
    picked = np.random.default_rng(0).permutation(len(recorded.observations))[: max(BATCHES)]
    # The 20x20 mazes lie within the corner of the 40x40 one, so the same places serve for both.
    rows = recorded.observations[picked]
    scenes = np.repeat(recorded.scenes, recorded.lengths, axis=0)[picked]
    for count in BATCHES:
        calls = 4 * max(BATCHES) // count
        for where, given in (("the world's maze", None), ("a maze for each row", scenes[:count])):

            def work(count: int = count, given: NDArray[np.uint8] | None = given, calls: int = calls) -> None:
                for _ in range(calls):
                    drawer.draw(rows[:count], given)

            rate = time_of(work, 7).rate(FRAMES * count * calls, "views")
            print(f"{count:5d} rows at once, {where}: {rate}", flush=True)


def data() -> None:
    """Seconds to build and write the offline data of preset ``paper``, and the size of its file."""
    distribution = task_distribution("image-maze")
    source = distribution.data_source
    assert source is not None
    config = source.config_class(**distribution.data_presets["paper"])

    def work() -> None:
        chunks = [source.build_chunk(config, index, 1) for index in range(source.num_chunks(config))]
        trajectories = Trajectories.concatenate(chunks)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trajectories.hdf5"
            trajectories.save_hdf5(path)
            size = path.stat().st_size / 1e6
        mean = trajectories.lengths.mean()
        print(
            f"  {len(trajectories.episode_ends):,} trajectories of {mean:.0f} env_steps, "
            f"{len(trajectories.observations):,} transitions, {size:.0f} MB"
        )

    print(f"offline data, paper: {time_of(work, 1).duration()} on one thread")


if __name__ == "__main__":
    run_benchmarks({"views": views, "data": data})
