"""Scores (S, N): one number per run and task, from the episodes of a window. Axes: S seed, N task, E episode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.statistics.episodes import EpisodeReturns, FloatArray


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores of one algorithm, in the unit of a return."""

    values: FloatArray
    """(S, N); NaN where a run has no score on a task (``gaps`` names them)."""
    seeds: tuple[int, ...]
    tasks: tuple[int, ...]
    score_range: tuple[float, float] | None = None
    """Lowest and highest possible score."""

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.seeds), len(self.tasks)):
            raise ValueError(
                f"scores have shape {self.values.shape}; expected ({len(self.seeds)} seeds, {len(self.tasks)} tasks)"
            )
        if np.isinf(self.values).any():
            raise ValueError("scores hold infinities")

    @property
    def n_seeds(self) -> int:
        return len(self.seeds)

    @property
    def n_tasks(self) -> int:
        return len(self.tasks)

    @property
    def complete(self) -> bool:
        """Every run has a score on every task."""
        return not bool(np.isnan(self.values).any())

    def gaps(self) -> tuple[str, ...]:
        """What is missing, a line per run: ``seed 2 has no score on tasks 7, 9``."""
        lines = []
        for seed, row in zip(self.seeds, self.values, strict=True):
            absent = [str(task) for task, value in zip(self.tasks, row, strict=True) if np.isnan(value)]
            if absent:
                lines.append(f"seed {seed} has no score on task{'s' if len(absent) > 1 else ''} {', '.join(absent)}")
        return tuple(lines)

    def on_tasks(self, tasks: tuple[int, ...]) -> ScoreMatrix:
        """The columns of these tasks; runs that have no score on any of them are dropped."""
        values = self.values[:, [self.tasks.index(task) for task in tasks]]
        kept = np.asarray(~np.isnan(values).all(axis=1))
        seeds = tuple(seed for seed, keep in zip(self.seeds, kept, strict=True) if keep)
        return replace(self, values=values[kept], seeds=seeds, tasks=tasks)

    def normalised(self) -> ScoreMatrix:
        """Scores from 0 to 1 by the score range: comparable across task distributions. Needs a score range."""
        low, high = self.known_range()
        return replace(self, values=(self.values - low) / (high - low), score_range=(0.0, 1.0))

    def known_range(self) -> tuple[float, float]:
        """The score range. Raises ``ValueError`` when there is none."""
        if self.score_range is None:
            raise ValueError("the score range of these scores is not known")
        return self.score_range


def window_scores(returns: EpisodeReturns, start: int, stop: int) -> ScoreMatrix:
    """Mean return of the episodes from ``start`` to before ``stop``.

    A run that has not completed the window on a task has no score there. Runs and tasks without any are dropped, so
    the result may be empty, (0, 0).
    """
    if not 0 <= start < stop:
        raise ValueError(f"a window needs 0 <= start < stop, got {start}-{stop}")
    shape = returns.returns.shape[:2]
    # NaN in any episode, or a window beyond the last episode, leaves NaN: nothing is averaged over fewer episodes.
    values = np.full(shape, np.nan) if stop > returns.returns.shape[2] else returns.returns[:, :, start:stop].mean(2)
    present = ~np.isnan(values)
    runs, tasks = np.asarray(present.any(axis=1)), np.asarray(present.any(axis=0))
    return ScoreMatrix(
        values[np.ix_(runs, tasks)],
        tuple(seed for seed, keep in zip(returns.seeds, runs, strict=True) if keep),
        tuple(task for task, keep in zip(returns.tasks, tasks, strict=True) if keep),
        returns.score_range,
    )
