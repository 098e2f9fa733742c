"""Scores along training: sample-efficiency curves, area under the curve, episodes to a threshold.

Axes: S seed, N task, E episode, P bin of episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.statistics.aggregates import iqm, mean
from bench.statistics.episodes import EpisodeReturns, FloatArray
from bench.statistics.intervals import CONFIDENCE, NO_SPREAD, Estimate, estimate_over_runs
from bench.statistics.scores import ScoreMatrix, window_scores

CurveMetric = Literal["iqm", "mean"]


@dataclass(frozen=True)
class EfficiencyCurve:
    """An aggregate score per bin of episodes. The interval is pointwise: of each bin, not of the curve as a whole."""

    starts: NDArray[np.int64]
    """(P,) first episode of each bin."""
    bin_episodes: int
    point: FloatArray
    """(P,)"""
    low: FloatArray
    """(P,); NaN where a bin has no interval: fewer than three seeds, or all alike."""
    high: FloatArray
    seeds: NDArray[np.int64]
    """(P,) runs that completed the bin on some task."""
    tasks: NDArray[np.int64]
    """(P,) tasks on which some run completed the bin."""
    notes: tuple[str, ...]
    """What a caption must say: bins without an interval, bins where runs or tasks are fewer than at the start."""


def efficiency_curve(
    returns: EpisodeReturns, bin_episodes: int = 10, metric: CurveMetric = "iqm", confidence: float = CONFIDENCE
) -> EfficiencyCurve:
    """The ``metric`` of the mean return in each bin, with its interval over runs, as far as any run reaches.

    Bins start at episode 0, so a bin width that divides the number of exploration episodes keeps them apart.
    """
    statistic = {"iqm": iqm, "mean": mean}[metric]
    rows, notes = [], []
    for start in range(0, returns.returns.shape[2] - bin_episodes + 1, bin_episodes):
        matrix = window_scores(returns, start, start + bin_episodes)
        if not matrix.values.size:
            break
        estimate = estimate_over_runs(matrix.values, statistic, returns.score_range or (None, None), confidence)
        low, high = (float("nan") if end is None else end for end in (estimate.low, estimate.high))
        rows.append((start, estimate.point, low, high, matrix.n_seeds, matrix.n_tasks))
        reason = [] if estimate.note in (None, NO_SPREAD) else [str(estimate.note)]  # a flat stretch speaks for itself
        notes += [f"episodes {start}-{start + bin_episodes}: {text}" for text in (*matrix.gaps(), *reason)]
    starts, points, lows, highs, seeds, tasks = np.array(rows, dtype=float).reshape(-1, 6).T
    counts = (starts.astype(np.int64), seeds.astype(np.int64), tasks.astype(np.int64))
    notes += _fewer(counts[0], counts[1], "seeds") + _fewer(counts[0], counts[2], "tasks")
    return EfficiencyCurve(counts[0], bin_episodes, points, lows, highs, counts[1], counts[2], tuple(notes))


def _fewer(starts: NDArray[np.int64], counts: NDArray[np.int64], noun: str) -> list[str]:
    """A note at each place where fewer go on than before."""
    return [
        f"from episode {starts[index]} on: {counts[index]} of {counts[0]} {noun}"
        for index in range(1, len(counts))
        if counts[index] < counts[index - 1]
    ]


def area_under_curve(returns: EpisodeReturns, episodes: int) -> ScoreMatrix:
    """Area under each run's learning curve over the first ``episodes`` episodes, divided by their number.

    That is the mean return while learning: in the unit of a return, so every aggregate and test applies to it.
    """
    return window_scores(returns, 0, episodes)


def middle_score(returns: EpisodeReturns) -> float | None:
    """Halfway from the lowest to the highest possible score, the usual threshold; None where the range is not known."""
    return None if returns.score_range is None else sum(returns.score_range) / 2


@dataclass(frozen=True)
class EpisodesToThreshold:
    """After how many episodes each run reached a score on each task.

    A run that never did is *censored*: it needs more episodes than it was given, nobody knows how many.
    """

    threshold: float
    episodes: FloatArray
    """(S, N); where censored, the number of episodes that were run; NaN where there are none."""
    censored: NDArray[np.bool_]
    """(S, N)"""
    horizon: int
    """Episodes of the longest run."""

    @property
    def reached(self) -> float:
        """Share of runs and tasks that reached the threshold."""
        present = ~np.isnan(self.episodes)
        return float((present & ~self.censored).sum() / present.sum())

    def median_text(self) -> str:
        """The median over runs and tasks with what is known of it: ``40``, or ``more than 200 (35 of 60 never did)``.

        Half of the runs must have got there before any that gave up; otherwise the median lies among the censored.
        """
        present = ~np.isnan(self.episodes)
        needed = np.where(self.censored, np.inf, self.episodes)[present]
        given_up = int((self.censored & present).sum())
        tail = f" ({given_up} of {present.sum()} never did)" if given_up else ""
        middle = float(np.median(needed)) if np.isfinite(np.sort(needed)[len(needed) // 2]) else float("inf")
        shortest = float(self.episodes[present & self.censored].min()) if given_up else float("inf")
        return f"{middle:g}{tail}" if middle <= shortest else f"more than {shortest:g}{tail}"

    def restricted_mean(self, confidence: float = CONFIDENCE) -> Estimate:
        """Mean episodes until the threshold or the end, whichever is first: too low where runs are censored."""
        given_up = int(self.censored.sum())
        censoring = f"{given_up} of {int((~np.isnan(self.episodes)).sum())} never reached it" if given_up else None
        estimate = estimate_over_runs(self.episodes, mean, (0.0, float(self.horizon)), confidence)
        return replace(estimate, note="; ".join(filter(None, [estimate.note, censoring])) or None)


def episodes_to_threshold(returns: EpisodeReturns, threshold: float, window_episodes: int = 10) -> EpisodesToThreshold:
    """The number of episodes after which the mean return of the last ``window_episodes`` first is ``threshold``.

    At least ``window_episodes``: one lucky episode is not a skill.
    """
    values = returns.returns  # (S, N, E)
    lengths = (~np.isnan(values)).cumprod(axis=2).sum(axis=2)  # episodes without a gap from the first on
    if values.shape[2] < window_episodes:
        hit = np.zeros((*values.shape[:2], 1), dtype=bool)
    else:
        windows = np.lib.stride_tricks.sliding_window_view(values, window_episodes, axis=2)
        hit = windows.mean(axis=3) >= threshold - 1e-12  # sums of tenths do not hit 0.9 exactly; NaN is never above
    first = hit.argmax(axis=2) + window_episodes
    reached = hit.any(axis=2) & (first <= lengths)
    episodes = np.where(lengths == 0, np.nan, np.where(reached, first, lengths).astype(float))
    return EpisodesToThreshold(threshold, episodes, ~reached & (lengths > 0), int(lengths.max()))
