"""The stratified bootstrap: runs are drawn again, with replacement, within each task.

As rliable's ``StratifiedBootstrap`` with its default ``task_bootstrap=False``: every cell of a replicate (S, N) draws a
seed of its own column, independently of the other tasks. The tasks stay as they are, so an interval is about other
seeds on the same tasks. Ends are percentiles of the replicates.

What this assumes: scores of one run on different tasks are independent. Where the tasks share what the run learned
before (skills, meta-training), they are not, and the interval is too narrow; ``unit="run"`` draws whole runs instead.
``coverage.py`` has figures for both.

Axes: R replicate, S seed, N task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.statistics.episodes import FloatArray

REPLICATES = 50_000
CONFIDENCE = 0.95

Unit = Literal["task", "run"]

_CHUNK_VALUES = 1_000_000
"""Values resampled at a time: a few temporaries of 8 MB."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    point: float
    low: float | None
    """None where there is no interval: ``note`` says why."""
    high: float | None
    note: str | None = None


def resample(scores: FloatArray, replicates: int, rng: np.random.Generator, unit: Unit = "task") -> FloatArray:
    """Replicates (R, S, N) of scores (S, N).

    A column with NaN draws as many scores as it has from those it has; the rest of the column stays NaN. Whole runs
    can only be drawn from complete scores.
    """
    absent = np.isnan(scores)
    n_seeds, n_tasks = scores.shape
    if unit == "run":
        if absent.any():
            raise ValueError("whole runs can be drawn only where every run has a score on every task")
        return scores[rng.integers(0, n_seeds, (replicates, n_seeds), dtype=np.int32)]
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


def why_no_interval(*matrices: FloatArray) -> str | None:
    """Why scores (S, N) allow no interval: resampling one run gives the same run again, an interval of no width."""
    counts = [(~np.isnan(scores)).sum(axis=0) for scores in matrices]
    if any((count == 1).all() for count in counts):
        return "one seed: no interval"
    return None


def interval_caveat(*matrices: FloatArray) -> str | None:
    """What is wrong with an interval that can be had: tasks that have one run, which then seem certain."""
    single = max(int(((~np.isnan(scores)).sum(axis=0) == 1).sum()) for scores in matrices)
    if not single:
        return None
    return f"{single} task{'s have' if single > 1 else ' has'} one seed: the interval is too narrow"
