"""What episodes did in a maze, whatever their task: how far they came, and how much of it along walls.

Axes: T env_step, D observation feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.maze.layout import Layout
from envs.maze.physics import CELL_CENTRE_OFFSET, PARTICLE_RADIUS

CONTACT_TOLERANCE = 0.01
"""A particle this close to a wall touches it."""


def describe_paths(layout: Layout, observations: Sequence[NDArray[np.floating[Any]]]) -> Mapping[str, float]:
    """What episodes [(T, D)], which begin with a position, did in a maze.

    ``wall_contact_rate``: the share of their env_steps at a wall; ``cells_visited``: by an episode, on average;
    ``covered``: the share of the maze's free cells that all of them together visit.
    """
    touched = np.concatenate([touches_wall(layout, rows[:, :2]) for rows in observations])
    cells = [np.unique(np.floor(rows[:, :2] - CELL_CENTRE_OFFSET + 0.5), axis=0) for rows in observations]
    free = {(int(x), int(y)) for x, y in layout.free_cells}
    visited = {(int(x), int(y)) for of_one in cells for x, y in of_one}
    return {
        "wall_contact_rate": float(touched.mean()),
        "cells_visited": float(np.mean([len(of_one) for of_one in cells])),
        "covered": len(free & visited) / len(free),
    }


def touches_wall(layout: Layout, positions: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Whether the particle at joint positions (T, 2) touches a wall, within ``CONTACT_TOLERANCE``: (T,)."""
    places = positions.astype(np.float64) - CELL_CENTRE_OFFSET  # in cells: cell i covers [i - 0.5, i + 0.5]
    nearest = np.floor(places + 0.5).astype(np.int64)
    touched = np.zeros(len(places), dtype=bool)
    for offset in np.ndindex(3, 3):
        cells = nearest + np.array(offset) - 1
        inside = ((cells >= 0) & (cells < layout.walls.shape)).all(axis=1)
        cells = np.where(inside[:, None], cells, 0)
        outside_box = np.maximum(np.abs(places - cells) - 0.5, 0.0)
        close = np.hypot(*outside_box.T) <= PARTICLE_RADIUS + CONTACT_TOLERANCE
        touched |= inside & layout.walls[tuple(cells.T)] & close
    return touched
