"""Two algorithms on one task distribution: difference, interval, probability of improvement, p, and a verdict in words.

Axes: S seed, N task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from bench.results import WINDOWS
from bench.statistics.aggregates import iqm, mean
from bench.statistics.bootstrap import (
    CONFIDENCE,
    REPLICATES,
    Estimate,
    bootstrap,
    interval_caveat,
    percentile_interval,
    why_no_interval,
)
from bench.statistics.episodes import EpisodeReturns, FloatArray
from bench.statistics.improvement import probability_of_improvement
from bench.statistics.permutation import PermutationTest, holm, permutation_test
from bench.statistics.power import run_spread
from bench.statistics.scores import ScoreMatrix, window_scores

LEVEL = 0.05
"""Below it a (corrected) p-value counts as a difference."""


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
    seeds_b: int
    tasks: int
    mean_a: float
    mean_b: float
    mean_difference: Estimate
    iqm_difference: Estimate
    improvement: Estimate
    """Probability that a run of A scores above one of B on the same task."""
    within_tasks: PermutationTest | None
    """Of the difference of means, names dealt within each task: takes a run's tasks for independent. None: one seed."""
    by_runs: PermutationTest | None
    """Names dealt to whole runs: takes only the runs for independent. None: one seed, or no task that all runs have."""
    run_correlation: float | None
    """How much the scores of a run hang together across tasks, 0 if not at all (``power.Spread``); a rough figure."""
    p_holm: float | None
    """``within_tasks`` corrected for all comparisons made together."""
    notes: tuple[str, ...]
    """Missing scores, tasks that only one of the two has, intervals that cannot be had."""

    @property
    def window(self) -> str:
        return f"{self.start}-{self.stop}"


def compare(
    a: EpisodeReturns, b: EpisodeReturns, windows: Sequence[tuple[int, int]] | None = None, seed: int = 0
) -> list[Comparison]:
    """Compare in each window that both have completed on some shared task; ``p_holm`` is not corrected yet.

    By default in ``bench.results.WINDOWS``, or where both are shorter than those, in all episodes that both have.
    """
    made = [_compare_window(a, b, start, stop, seed) for start, stop in windows or WINDOWS]
    if windows is None and not any(made):
        made = [_compare_window(a, b, 0, min(a.returns.shape[2], b.returns.shape[2]), seed)]
    return [comparison for comparison in made if comparison is not None]


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with Holm's correction for all of them as one family."""
    tested = [c.within_tasks.p_value for c in comparisons if c.within_tasks is not None]
    adjusted = iter(holm(tested))
    return [c if c.within_tasks is None else replace(c, p_holm=next(adjusted)) for c in comparisons]


def _compare_window(a: EpisodeReturns, b: EpisodeReturns, start: int, stop: int, seed: int) -> Comparison | None:
    all_of_a, all_of_b = window_scores(a, start, stop), window_scores(b, start, stop)
    tasks = tuple(task for task in all_of_a.tasks if task in all_of_b.tasks)
    if not tasks:
        return None
    x, y = all_of_a.on_tasks(tasks), all_of_b.on_tasks(tasks)
    alone = why_no_interval(x.values, y.values) is not None
    improvement = probability_of_improvement(x.values, y.values, seed=seed)
    test = None if alone else permutation_test(x.values, y.values, seed=seed)
    notes = [
        *_lone_tasks(a.label, all_of_a, tasks), *_lone_tasks(b.label, all_of_b, tasks),
        *(f"{a.label}: {gap}" for gap in x.gaps()), *(f"{b.label}: {gap}" for gap in y.gaps()),
        *filter(None, [improvement.note]),
    ]  # fmt: skip
    mean_difference, iqm_difference = _differences(x.values, y.values, seed)
    return Comparison(
        a.label, b.label, a.env, a.preset, start, stop, x.n_seeds, y.n_seeds, len(tasks),
        float(mean(x.values)), float(mean(y.values)), mean_difference, iqm_difference, improvement,
        within_tasks=test, by_runs=None if alone else _test_by_runs(x.values, y.values, seed),
        run_correlation=None if (spread := run_spread([x, y])) is None else spread.run_correlation,
        p_holm=None if test is None else test.p_value, notes=tuple(notes),
    )  # fmt: skip


def _lone_tasks(label: str, matrix: ScoreMatrix, tasks: tuple[int, ...]) -> list[str]:
    lone = [str(task) for task in matrix.tasks if task not in tasks]
    return [f"only {label} has tasks {', '.join(lone)}: not compared"] if lone else []


def _differences(x: FloatArray, y: FloatArray, seed: int) -> tuple[Estimate, Estimate]:
    """Difference of means and of IQMs; the runs of the two are drawn independently."""
    points = [float(statistic(x) - statistic(y)) for statistic in (mean, iqm)]
    note = why_no_interval(x, y)
    if note is not None:
        return Estimate(points[0], None, None, note), Estimate(points[1], None, None, note)

    low, high = percentile_interval(_replicates_of(x, seed, 0) - _replicates_of(y, seed, 1))
    caveat = interval_caveat(x, y)
    return (
        Estimate(points[0], float(low[0]), float(high[0]), caveat),
        Estimate(points[1], float(low[1]), float(high[1]), caveat),
    )


def _replicates_of(scores: FloatArray, seed: int, side: int) -> FloatArray:
    """Replicates (R, 2) of mean and IQM; ``side`` keeps the draws of A and of B apart."""
    return _cached_replicates(scores.tobytes(), scores.shape, seed, side)


@lru_cache(maxsize=32)  # In a study each algorithm meets all the others: 25 MB for sixteen of them.
def _cached_replicates(content: bytes, shape: tuple[int, int], seed: int, side: int) -> FloatArray:
    def both(stack: FloatArray) -> FloatArray:
        return np.stack([mean(stack), iqm(stack)], axis=-1)

    scores = np.frombuffer(content).reshape(shape)
    return bootstrap(scores, both, REPLICATES, np.random.default_rng(seed).spawn(2)[side])


def _test_by_runs(x: FloatArray, y: FloatArray, seed: int) -> PermutationTest | None:
    shared = ~(np.isnan(x).any(axis=0) | np.isnan(y).any(axis=0))
    if not shared.any():
        return None
    runs_of_x, runs_of_y = (values[:, shared].mean(axis=1, keepdims=True) for values in (x, y))
    return permutation_test(runs_of_x, runs_of_y, seed=seed)


def verdict(c: Comparison) -> str:
    """What the numbers allow one to say, in a sentence."""
    gap = abs(c.mean_difference.point)
    ahead, behind = (c.label_a, c.label_b) if c.mean_difference.point >= 0 else (c.label_b, c.label_a)
    if c.within_tasks is None or c.p_holm is None:
        lead = f"{ahead} is ahead of {behind} by {gap:.2f} in the runs there are"
        return f"{lead}; one seed cannot tell whether others would agree"
    interval = _interval_text(c)
    if c.p_holm >= LEVEL:
        lead = f"{ahead} is ahead of {behind} by {gap:.2f} ({interval})"
        return f"no difference can be told: {lead}, p {p_text(c.p_holm)}"
    better = f"{ahead} is better than {behind} by {gap:.2f} ({interval}), p {p_text(c.p_holm)}"
    if c.by_runs is None:
        return f"{better}, if the scores of a run on different tasks are independent"
    if c.by_runs.p_value < LEVEL:
        return f"{better}; also with whole runs as the unit, p {p_text(c.by_runs.p_value)}"
    return (
        f"{better}, if the scores of a run on different tasks are independent; with whole runs as the unit, "
        f"p {p_text(c.by_runs.p_value)}{_limit_text(c)}"
    )


def _limit_text(c: Comparison) -> str:
    assert c.by_runs is not None
    if c.by_runs.smallest_p < LEVEL:
        return ""
    return f" (the least that {c.seeds_a} and {c.seeds_b} runs can give: {p_text(c.by_runs.smallest_p)})"


def _interval_text(c: Comparison) -> str:
    """The interval of the difference, ahead minus behind."""
    low, high = c.mean_difference.low, c.mean_difference.high
    assert low is not None and high is not None
    if c.mean_difference.point < 0:
        low, high = -high, -low
    return f"{100 * CONFIDENCE:g} % interval {low:.2f} to {high:.2f}"


def p_text(p_value: float) -> str:
    """``0.034``; small ones with the power of ten that they are below."""
    return f"{p_value:.2g}" if p_value >= 0.001 else "<0.001" if p_value >= 0.0001 else "<0.0001"
