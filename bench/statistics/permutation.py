"""P-values by permutation, and Holm's correction for families of them.

The null hypothesis: which algorithm a run is of does not matter. Then any way of dealing out the algorithms' names to
the runs is as likely as the one that was seen, and the p-value is the share of dealings whose difference is at least as
large (Fisher; Ernst, "Permutation methods", Statistical Science 2004). It needs neither a normal distribution nor many
runs.

Axes: R permutation, S seed, N task.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.statistics.episodes import FloatArray

PERMUTATIONS = 50_000
_LARGEST_EXACT = 200_000
"""As many dealings in all are enumerated; above, a random sample is drawn."""
_LARGEST_TABLE = 20_000
"""As many dealings of one task are tabulated, to draw from."""


@dataclass(frozen=True)
class PermutationTest:
    """Two-sided, of the difference of means over tasks."""

    p_value: float
    exact: bool
    """All dealings were counted; otherwise a random sample of them."""
    permutations: int
    """How many were counted."""
    smallest_p: float
    """No difference, however large, could have had a lower p-value with so few runs."""


def permutation_test(
    x: FloatArray, y: FloatArray, permutations: int = PERMUTATIONS, seed: int = 0
) -> PermutationTest:  # fmt: skip
    """Whether X (S, N) and Y (S, N) differ in the mean over tasks; names are dealt within each task, independently.

    NaN is an absent score. Give run means, (S, 1), to deal names to whole runs: the test to trust where the scores of
    one run hang together. Exact where the dealings can be counted; else the p-value is that of a random sample, the one
    that was seen included (Phipson & Smyth 2010), so it is never 0.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the two score matrices have {x.shape[1]} and {y.shape[1]} tasks")
    columns = [(a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in zip(x.T, y.T, strict=True)]
    if any(not len(a) or not len(b) for a, b in columns):
        raise ValueError("a task has no score of one of the two")
    seen = math.fsum(a.mean() - b.mean() for a, b in columns)
    scale = math.fsum(np.abs(np.concatenate(pair)).max() for pair in columns)
    threshold = abs(seen) - 1e-12 * scale  # the same dealing, summed in another order, must count as equal
    dealings = math.prod(math.comb(len(a) + len(b), len(a)) for a, b in columns)
    # With equal sizes a dealing and its mirror image have the same size of difference.
    mirrored = 2 if all(len(a) == len(b) for a, b in columns) else 1
    smallest = min(1.0, mirrored / dealings)
    if dealings <= _LARGEST_EXACT:
        sums = np.zeros(1)
        for a, b in columns:
            sums = np.add.outer(sums, _all_differences(a, b)).ravel()
        return PermutationTest(float((np.abs(sums) >= threshold).mean()), True, dealings, smallest)
    rng = np.random.default_rng(seed)
    sums = np.zeros(permutations)
    for a, b in columns:
        sums += _random_differences(a, b, permutations, rng)
    count = int((np.abs(sums) >= threshold).sum())
    return PermutationTest((count + 1) / (permutations + 1), False, permutations, max(smallest, 1 / (permutations + 1)))


def _all_differences(a: FloatArray, b: FloatArray) -> FloatArray:
    """Difference of means for each way of choosing which of the pooled scores are A's."""
    pooled = np.concatenate([a, b])
    chosen = np.array(list(itertools.combinations(range(len(pooled)), len(a))))
    return _difference(pooled[chosen].sum(axis=1), pooled.sum(), len(a), len(b))


def _random_differences(a: FloatArray, b: FloatArray, permutations: int, rng: np.random.Generator) -> FloatArray:
    dealings = math.comb(len(a) + len(b), len(a))
    if dealings <= _LARGEST_TABLE:
        table = _all_differences(a, b)
        return np.asarray(table[rng.integers(0, dealings, permutations)])
    pooled = np.concatenate([a, b])
    keys = rng.random((permutations, len(pooled)), dtype=np.float32)
    chosen = np.argpartition(keys, len(a) - 1, axis=1)[:, : len(a)]
    return _difference(pooled[chosen].sum(axis=1), pooled.sum(), len(a), len(b))


def _difference(sums_of_a: FloatArray, total: float, n_a: int, n_b: int) -> FloatArray:
    return sums_of_a / n_a - (total - sums_of_a) / n_b


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests: with those below 0.05 called differences, the chance that any one of the
    calls is wrong is at most 0.05 (Holm 1979). Whatever the tests have to do with one another."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
