"""The bootstrap, in three forms. The intervals of this project are made otherwise (``intervals.py``); here is why.

    task    stratified: each cell of a replicate (S, N) draws a seed of its own column, apart from the other tasks, as
            rliable's ``StratifiedBootstrap`` with its default ``task_bootstrap=False``
    run     whole runs are drawn
    both    whole runs, then tasks: about other tasks, too

All draw with replacement; ends are percentiles of the replicates. With few runs each is too narrow, ``task`` most of
all: it takes the scores of one run on different tasks for independent. ``coverage.py`` has the figures.

Axes: R replicate, S seed, N task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.statistics.episodes import FloatArray
from bench.statistics.intervals import CONFIDENCE

REPLICATES = 50_000

Unit = Literal["task", "run", "both"]

_CHUNK_VALUES = 1_000_000
"""Values resampled at a time: a few temporaries of 8 MB."""


def resample(scores: FloatArray, replicates: int, rng: np.random.Generator, unit: Unit = "task") -> FloatArray:
    """Replicates (R, S, N) of scores (S, N).

    A column with NaN draws as many scores as it has from those it has; the rest of the column stays NaN. Whole runs
    can only be drawn from complete scores.
    """
    absent = np.isnan(scores)
    n_seeds, n_tasks = scores.shape
    if unit != "task":
        if absent.any():
            raise ValueError("whole runs can be drawn only where every run has a score on every task")
        runs = rng.integers(0, n_seeds, (replicates, n_seeds), dtype=np.int32)
        if unit == "run":
            return scores[runs]
        tasks = rng.integers(0, n_tasks, (replicates, n_tasks), dtype=np.int32)
        return np.asarray(scores[runs[:, :, None], tasks[:, None, :]])
    counts = n_seeds - absent.sum(axis=0)
    if not counts.all():
        raise ValueError("a task has no score at all")
    packed = np.take_along_axis(scores, np.argsort(absent, axis=0, kind="stable"), axis=0)
    # One bound for all columns is drawn faster than one bound each.
    bound = counts if absent.any() else n_seeds
    rows: NDArray[np.int32] = rng.integers(0, bound, (replicates, n_seeds, n_tasks), dtype=np.int32)
    rows *= n_tasks
    rows += np.arange(n_tasks, dtype=np.int32)
    drawn: FloatArray = packed.ravel().take(rows)
    if absent.any():
        drawn[:, np.arange(n_seeds)[:, None] >= counts] = np.nan
    return drawn


def bootstrap(
    scores: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    replicates: int,
    rng: np.random.Generator,
    unit: Unit = "task",
) -> FloatArray:
    """``statistic`` of each replicate: it maps (R, S, N) to (R, ...)."""
    chunk = max(1, _CHUNK_VALUES // scores.size)
    parts = [
        statistic(resample(scores, min(chunk, replicates - start), rng, unit))
        for start in range(0, replicates, chunk)
    ]  # fmt: skip
    return np.concatenate(parts)


def percentile_interval(replicates: FloatArray, confidence: float = CONFIDENCE) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end, from the first axis R."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    return low, high
