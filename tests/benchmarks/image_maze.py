"""Measured speed of the image maze: views, offline data. Not a test.

    make benchmark          # or: python -m tests.benchmarks.image_maze [views|data ...]

Run it on a quiet machine. Figures are medians; the first repetition only warms up. A view is one 32 x 32 RGB frame;
each row of observations has two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.timing import time_of
from envs.image_maze.views import FRAMES
from envs.registry import task_distribution
from tests.benchmarks.measures import run_benchmarks, time_offline_data

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
    """Seconds to build and write the offline data of preset ``paper``."""
    time_offline_data(task_distribution("image-maze"))


if __name__ == "__main__":
    run_benchmarks({"views": views, "data": data})
