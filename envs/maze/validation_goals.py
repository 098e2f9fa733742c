"""Goals to choose settings by: as far from the start as the target goals, and none that a target goal shares.

Settings that were chosen on the target tasks of a result are no longer judged by it. These goals stand in for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from envs.maze.layout import Layout
from envs.maze.planner import Cell


def cells_apart(
    layout: Layout, rectangle: tuple[Cell, Cell], apart: Sequence[tuple[Collection[Cell], float]]
) -> list[Cell]:
    """Free cells within ``rectangle`` (lowest and highest corner) that lie further than ``distance`` away from all
    ``cells``, for each (cells, distance) of ``apart``; in row-major order."""
    low, high = rectangle
    return [
        (int(x), int(y))
        for x, y in layout.free_cells
        if low[0] <= x <= high[0]
        and low[1] <= y <= high[1]
        and all(math.dist((x, y), cell) > distance for cells, distance in apart for cell in cells)
    ]


def goals_like(
    targets: Sequence[Cell],
    candidates: Sequence[Cell],
    lengths: NDArray[np.float64],
    rng: np.random.Generator,
    apart: float = 0.0,
) -> tuple[Cell, ...]:
    """For each of ``targets``, in turn, the candidate whose path from the start is most nearly as long.

    ``lengths`` are those of the shortest paths, (X, Y). Of candidates that are equally near in length ``rng`` takes
    one. No two goals lie within ``apart`` of each other. Raises ``ValueError`` when the candidates do not suffice.
    """
    left = [(int(x), int(y)) for x, y in rng.permutation(np.array(candidates).reshape(-1, 2))]
    left = [cell for cell in left if np.isfinite(lengths[cell])]
    goals: list[Cell] = []
    for target in targets:
        if not left:
            raise ValueError(f"{len(candidates)} candidates for {len(targets)} goals: only {len(goals)} were found")
        # Lengths are sums of 1 and sqrt(2) in any order: equal ones differ in the last bits.
        goals.append(min(left, key=lambda cell: round(abs(float(lengths[cell] - lengths[target])), 6)))
        left = [cell for cell in left if math.dist(cell, goals[-1]) > apart]
    return tuple(goals)
