"""Shortest paths on a layout's grid: 8-connected, diagonal moves cost sqrt(2) and never cut a wall's corner."""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from envs.maze.layout import Layout

Cell = tuple[int, int]

MOVES: tuple[Cell, ...] = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Straight moves first, so that ties are broken towards them."""


class PlannerError(ValueError):
    """A start or goal in a wall, or a goal that cannot be reached."""


def can_move(layout: Layout, cell: Cell, move: Cell) -> bool:
    """Whether ``move`` leads from ``cell`` to a free cell; a diagonal needs both cells beside it free as well."""
    (x, y), (dx, dy) = cell, move
    return layout.is_free(x + dx, y + dy) and layout.is_free(x + dx, y) and layout.is_free(x, y + dy)


def path_length_map(layout: Layout, start: Cell) -> NDArray[np.float64]:
    """Length in cells of the shortest path from ``start`` to every cell, (X, Y); inf in walls and out of reach.

    Dijkstra's algorithm. Raises ``PlannerError`` if ``start`` is not a free cell.
    """
    if not layout.is_free(*start):
        raise PlannerError(f"cell {start} of {layout.name} is not free; a path starts and ends in free cells")
    lengths = np.full(layout.walls.shape, math.inf)
    lengths[start] = 0.0
    queue = [(0.0, start)]
    while queue:
        length, cell = heapq.heappop(queue)
        if length > lengths[cell]:
            continue
        for move in MOVES:
            neighbour = (cell[0] + move[0], cell[1] + move[1])
            longer = length + math.hypot(*move)
            if longer < lengths[neighbour] - 1e-9 and can_move(layout, cell, move):
                lengths[neighbour] = longer
                heapq.heappush(queue, (longer, neighbour))
    return lengths


def descend(
    layout: Layout, lengths_to_goal: NDArray[np.float64], start: Cell, rng: np.random.Generator | None = None
) -> list[Cell]:
    """The shortest path from ``start`` down a ``path_length_map`` of the goal, both ends included.

    Among equally short moves it keeps its direction if it can, so paths have few turns; else it takes the first of
    ``MOVES``, or with ``rng`` any one. Raises ``PlannerError`` if the goal is out of reach.
    """
    if not layout.is_free(*start) or not np.isfinite(lengths_to_goal[start]):
        raise PlannerError(f"no path from cell {start} of {layout.name} to the goal")
    path, heading = [start], (0, 0)
    while lengths_to_goal[path[-1]] > 1e-9:
        x, y = path[-1]
        best = [
            move
            for move in MOVES
            if can_move(layout, (x, y), move)
            and abs(lengths_to_goal[x + move[0], y + move[1]] + math.hypot(*move) - lengths_to_goal[x, y]) < 1e-6
        ]
        if heading not in best:
            heading = best[int(rng.integers(len(best)))] if rng is not None else best[0]
        path.append((x + heading[0], y + heading[1]))
    return path


def shortest_path(layout: Layout, start: Cell, goal: Cell) -> list[Cell]:
    """Cells of a shortest path, both ends included. Raises ``PlannerError``; see ``descend`` for ties."""
    return descend(layout, path_length_map(layout, goal), start)
