"""Two algorithms on one task distribution in one window: difference, interval, test, and a verdict in words.

The unit is a run, its score the mean over the target tasks that every run compared has completed.

    paired     where the two share seeds: runs of one seed share the skills artefact and are keyed with the same noise,
               so d_s = score of A at seed s - score of B at seed s, and a t-test of the d_s
    unpaired   where they do not: Welch's t-test of the scores
    neither    fewer than three pairs, and fewer than three runs of one of them: numbers, no interval, no verdict

The interval of any other statistic (IQM, probability of improvement) is made likewise of its jackknife's pseudo-values.
No spread is taken for less than what rounding to the scores' own resolution gives, so a tie in all seeds is no proof.
What is corrected with what is in ``analysis.py``.

Axes: S seed, N task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from bench.statistics.aggregates import iqm, mean
from bench.statistics.episodes import EpisodeReturns, FloatArray
from bench.statistics.improvement import wins
from bench.statistics.intervals import (
    CONFIDENCE,
    MIN_RUNS,
    NO_SPREAD,
    Estimate,
    leave_one_out,
    pseudo_values,
    t_limit,
    too_few,
)
from bench.statistics.scores import ScoreMatrix, window_scores

LEVEL = 0.05
"""Below it a corrected p-value counts as a difference."""

Decision = Literal["better", "worse", "untold", "too few seeds", "not decided"]
"""Of A against B: better, worse, no difference can be told, fewer than three runs; or not in the family at all."""


@dataclass(frozen=True)
class Comparison:
    """A against B in one window of episodes, on the tasks that both have; differences are A - B."""

    label_a: str
    label_b: str
    env: str
    preset: str
    start: int
    stop: int
    seeds_a: int
    """Runs of A that are compared."""
    seeds_b: int
    paired: bool
    """By seed."""
    tasks: int
    mean_a: float
    mean_b: float
    mean_difference: Estimate
    iqm_difference: Estimate
    improvement: Estimate
    """Probability that a run of A scores above one of B on the same task."""
    p_value: float | None
    """Of the t-test of the difference of means; None: too few seeds."""
    p_holm: float | None
    """Corrected for the family; None where it is not in one."""
    family: int
    """How many tests were corrected together; 0 where it is in no family."""
    pair_correlation: float | None
    """Of the scores of A and B at equal seeds; None where it cannot be had. A rough figure."""
    notes: tuple[str, ...]
    """Missing scores, tasks and seeds that only one of the two has, intervals that cannot be had."""

    @property
    def window(self) -> str:
        return f"{self.start}-{self.stop}"

    @property
    def decision(self) -> Decision:
        """What the declared analysis says of A against B."""
        if self.p_value is None:
            return "too few seeds"
        if self.p_holm is None:
            return "not decided"
        if self.p_holm >= LEVEL:
            return "untold"
        return "better" if self.mean_difference.point > 0 else "worse"

    def swapped(self) -> Comparison:
        """B against A."""
        return replace(
            self, label_a=self.label_b, label_b=self.label_a, seeds_a=self.seeds_b, seeds_b=self.seeds_a,
            mean_a=self.mean_b, mean_b=self.mean_a, mean_difference=mirrored(self.mean_difference, 0.0),
            iqm_difference=mirrored(self.iqm_difference, 0.0), improvement=mirrored(self.improvement, 1.0),
        )  # fmt: skip


def mirrored(estimate: Estimate, total: float) -> Estimate:
    """Of ``total`` minus what was estimated."""
    low, high = (None if end is None else total - end for end in (estimate.high, estimate.low))
    return Estimate(total - estimate.point, low, high, estimate.note)


@dataclass(frozen=True)
class _Sides:
    """Scores (S, N) of the runs that are compared; paired ones in the order of the same seeds."""

    x: FloatArray
    y: FloatArray
    paired: bool

    @property
    def too_few(self) -> str | None:
        return too_few(min(len(self.x), len(self.y)))


def compare(a: EpisodeReturns, b: EpisodeReturns, window: tuple[int, int]) -> Comparison | None:
    """Compare in a window; None where the two have completed it on no common task. Nothing is corrected yet."""
    all_of_a, all_of_b = window_scores(a, *window), window_scores(b, *window)
    tasks = tuple(task for task in all_of_a.tasks if task in all_of_b.tasks)
    if not tasks:
        return None
    of_a, of_b = all_of_a.on_tasks(tasks), all_of_b.on_tasks(tasks)
    notes = [
        *_lone_tasks(a.label, all_of_a, tasks), *_lone_tasks(b.label, all_of_b, tasks),
        *(f"{a.label}: {gap}" for gap in of_a.gaps()), *(f"{b.label}: {gap}" for gap in of_b.gaps()),
    ]  # fmt: skip
    complete = tuple(
        task for task, x, y in zip(tasks, of_a.values.T, of_b.values.T, strict=True)
        if not (np.isnan(x).any() or np.isnan(y).any())
    )  # fmt: skip
    if complete and complete != tasks:
        notes.append(f"compared on the {len(complete)} tasks that every run has")
        of_a, of_b = of_a.on_tasks(complete), of_b.on_tasks(complete)
    sides, seed_notes = _sides(a.label, of_a, b.label, of_b)
    reason = sides.too_few if complete else "no task that every run has: no interval"
    if reason is not None:
        notes.append(reason)
    difference, p_value = _mean_difference(sides, reason)
    return Comparison(
        a.label, b.label, a.env, a.preset, *window, len(sides.x), len(sides.y), sides.paired, len(complete or tasks),
        float(mean(sides.x)), float(mean(sides.y)), difference, _iqm_difference(sides, reason),
        _improvement(sides, reason), p_value, None, 0, _pair_correlation(of_a, of_b), (*notes, *seed_notes),
    )  # fmt: skip


def _lone_tasks(label: str, matrix: ScoreMatrix, tasks: tuple[int, ...]) -> list[str]:
    lone = [str(task) for task in matrix.tasks if task not in tasks]
    return [f"only {label} has tasks {', '.join(lone)}: not compared"] if lone else []


def _sides(label_a: str, of_a: ScoreMatrix, label_b: str, of_b: ScoreMatrix) -> tuple[_Sides, list[str]]:
    """Paired where enough seeds are shared: three, and half of those of the side that has fewer."""
    shared = [seed for seed in of_a.seeds if seed in of_b.seeds]
    if len(shared) < max(MIN_RUNS, min(of_a.n_seeds, of_b.n_seeds) / 2):
        return _Sides(of_a.values, of_b.values, False), []
    notes = [
        f"{label}: seed{'s' if len(lone) > 1 else ''} {', '.join(lone)} without a partner: not compared"
        for label, matrix in ((label_a, of_a), (label_b, of_b))
        if (lone := [str(seed) for seed in matrix.seeds if seed not in shared])
    ]
    x, y = (matrix.values[[matrix.seeds.index(seed) for seed in shared]] for matrix in (of_a, of_b))
    return _Sides(x, y, True), notes


def _pair_correlation(of_a: ScoreMatrix, of_b: ScoreMatrix) -> float | None:
    shared = [seed for seed in of_a.seeds if seed in of_b.seeds]
    x, y = (m.values[[m.seeds.index(seed) for seed in shared]].mean(axis=1) for m in (of_a, of_b))
    if len(shared) < MIN_RUNS or np.isnan(x).any() or np.isnan(y).any() or not np.std(x) or not np.std(y):
        return None
    return float(np.corrcoef(x, y)[0, 1])


def resolution(x: FloatArray, y: FloatArray) -> FloatArray:
    """The smallest step between two scores of X and Y (..., S, N), as a step of a run's mean over tasks; 0 for none."""
    lead, n_tasks = x.shape[:-2], x.shape[-1]
    values = np.sort(np.concatenate([x.reshape(*lead, -1), y.reshape(*lead, -1)], axis=-1))
    steps = np.diff(values)
    least = np.where(steps > 1e-9, steps, np.inf).min(axis=-1)
    return np.asarray(np.where(np.isfinite(least), least, 0.0) / n_tasks)


def difference_test(x: FloatArray, y: FloatArray, paired: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(point, half an interval, p-value) of the difference of means of scores (..., S, N) without gaps.

    Paired, row s of both is of the same seed. Half an interval is 0 and p is 1 where all runs are alike.
    """
    # Rounding to steps of g has the variance g^2 / 12: less spread than that has not been seen, only not resolved.
    least = resolution(x, y) ** 2 / 12
    runs_of_x, runs_of_y = x.mean(axis=-1), y.mean(axis=-1)
    point = runs_of_x.mean(axis=-1) - runs_of_y.mean(axis=-1)
    if paired:
        error, freedom = _error([runs_of_x - runs_of_y], [2 * least])
    else:
        error, freedom = _error([runs_of_x, runs_of_y], [least, least])
    half = error * stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = np.where(error > 0, 2 * stats.t.sf(np.abs(point) / error, freedom), 1.0)
    return np.asarray(point), np.asarray(half), p_value


def _mean_difference(sides: _Sides, reason: str | None) -> tuple[Estimate, float | None]:
    """The difference of means with its t interval, and the p-value of its t-test."""
    if reason is not None:
        return Estimate(float(mean(sides.x) - mean(sides.y)), None, None, reason), None
    point, half, p_value = map(float, difference_test(sides.x, sides.y, sides.paired))
    if not half:
        return Estimate(point, None, None, NO_SPREAD), p_value
    return Estimate(point, point - half, point + half), p_value


def _error(samples: list[FloatArray], least_variances: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Standard error of the sum of the means of samples (..., S), and its degrees of freedom (Welch-Satterthwaite)."""
    parts = [
        np.maximum(sample.var(axis=-1, ddof=1), least) / sample.shape[-1]
        for sample, least in zip(samples, least_variances, strict=True)
    ]
    total = np.asarray(sum(parts))
    total = np.where(total > 1e-24, total, 0.0)  # the last digits of equal sums
    squares = sum(part**2 / (sample.shape[-1] - 1) for part, sample in zip(parts, samples, strict=True))
    freedom = np.where(total > 0, total**2 / np.where(total > 0, squares, 1.0), 1.0)
    return np.sqrt(total), freedom


def _jackknife(point: float, samples: list[FloatArray], reason: str | None, limits: tuple[float, float]) -> Estimate:
    """The t interval of pseudo-values: one sample of paired runs, or one for each side."""
    if reason is not None:
        return Estimate(point, None, None, reason)
    error, freedom = map(float, _error(samples, [np.zeros(())] * len(samples)))
    if not error:
        return Estimate(point, None, None, NO_SPREAD)
    half = t_limit(freedom) * error
    return Estimate(point, max(point - half, limits[0]), min(point + half, limits[1]))


def _iqm_difference(sides: _Sides, reason: str | None) -> Estimate:
    points = [float(iqm(scores)) for scores in (sides.x, sides.y)]
    samples: list[FloatArray] = []
    if reason is None:
        x, y = (
            pseudo_values(point, leave_one_out(scores, iqm), len(scores))
            for point, scores in zip(points, (sides.x, sides.y), strict=True)
        )
        samples = [x - y] if sides.paired else [x, y]
    return _jackknife(points[0] - points[1], samples, reason, (-math.inf, math.inf))


def _improvement(sides: _Sides, reason: str | None) -> Estimate:
    won = wins(sides.x, sides.y)
    point = float(np.nanmean(won, axis=(0, 1)).mean())
    samples: list[FloatArray] = []
    if reason is None:
        by_pair = won.mean(axis=2)  # (X, Y)
        rows, columns, total = by_pair.sum(axis=1), by_pair.sum(axis=0), float(by_pair.sum())
        n_x, n_y = by_pair.shape
        if sides.paired:
            without = (total - rows - columns + np.diag(by_pair)) / ((n_x - 1) * (n_y - 1))
            samples = [pseudo_values(point, without, n_x)]
        else:
            samples = [
                pseudo_values(point, (total - rows) / ((n_x - 1) * n_y), n_x),
                pseudo_values(point, (total - columns) / (n_x * (n_y - 1)), n_y),
            ]
    return _jackknife(point, samples, reason, (0.0, 1.0))


def verdict(c: Comparison) -> str:
    """What the numbers allow one to say, in a sentence."""
    gap = abs(c.mean_difference.point)
    ahead, behind = (c.label_a, c.label_b) if c.mean_difference.point >= 0 else (c.label_b, c.label_a)
    lead = f"{ahead} is ahead of {behind} by {gap:.2f}"
    if c.p_value is None:
        return f"too few seeds: {lead} in the runs there are, and others may differ"
    interval = _interval_text(c)
    if c.p_holm is None:
        return f"described, not decided: {lead} ({interval})"
    paired = "paired by seed" if c.paired else "unpaired"
    of = f" of {c.family} comparisons" if c.family > 1 else ""
    if c.p_holm >= LEVEL:
        alone = f" (alone {p_text(c.p_value)})" if c.p_value < LEVEL else ""
        return f"no difference can be told: {lead} ({interval}, {paired}), p {p_text(c.p_holm)}{of}{alone}"
    return f"{ahead} is better than {behind} by {gap:.2f} ({interval}, {paired}), p {p_text(c.p_holm)}{of}"


def _interval_text(c: Comparison) -> str:
    """The interval of the difference, ahead minus behind."""
    low, high = c.mean_difference.low, c.mean_difference.high
    if low is None or high is None:
        return str(c.mean_difference.note)
    if c.mean_difference.point < 0:
        low, high = -high, -low
    return f"{100 * CONFIDENCE:g} % interval {low:.2f} to {high:.2f}"


def p_text(p_value: float) -> str:
    """``0.034``; small ones with the power of ten that they are below."""
    return f"{p_value:.2g}" if p_value >= 0.001 else "<0.001" if p_value >= 0.0001 else "<0.0001"
