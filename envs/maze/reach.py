"""How far skills reach in a maze: lanes that try several skills from one state and keep the one that ends nearest.

A diagnosis, not a policy to be compared with: it knows the map. Choosing the best of k skills of the prior differs from
the prior by at most ln k - (k - 1) / k nats, so a policy that close to the prior does as well. Where this fails, skills
are what is missing; where it succeeds and learning does not, finding the skill is.

Axes: T place to reach, C choice, N = T C lane, D observation feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from envs.maze.layout import Layout
from envs.maze.physics import CELL_CENTRE_OFFSET, PointMassBatch
from envs.maze.planner import Cell, path_length_map
from envs.maze.world import EPISODE_ENV_STEPS, SUCCESS_RADIUS
from envs.randomness import keyed_rng

LANDMARKS = 20
"""Places that reach is measured by where there are no tasks."""


def landmarks(layout: Layout, start_position: tuple[float, float]) -> tuple[Cell, ...]:
    """Cells drawn at random from those that are not next to the start: a function of the maze, not of any tasks."""
    far = [cell for cell in layout.free_cells.tolist() if math.dist(cell, start_position) > 2 * SUCCESS_RADIUS]
    chosen = keyed_rng(0, "landmarks", layout.checksum).permutation(far)[:LANDMARKS]
    return tuple((int(x), int(y)) for x, y in chosen)


def distances(lengths: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far (in cells) the goals of ``lengths`` (N, X, Y), path length maps, are from ``positions`` (N, 2): (N,).

    Through the best of the nine cells around the particle, so that moves within a cell count too.
    """
    places = positions - CELL_CENTRE_OFFSET
    nearest = np.floor(places + 0.5).astype(np.int64)
    shortest = np.full(len(places), math.inf)
    for offset in np.ndindex(3, 3):
        cells = np.clip(nearest + np.array(offset) - 1, 0, np.array(lengths.shape[1:]) - 1)
        through = lengths[np.arange(len(places)), cells[:, 0], cells[:, 1]] + np.hypot(*(places - cells).T)
        shortest = np.minimum(shortest, through)
    return shortest


class MazeReach:
    """An ``envs.core.Reach``: ``choices`` lanes for each of ``goals``, all from the start."""

    episode_env_steps = EPISODE_ENV_STEPS

    def __init__(
        self,
        layout: Layout,
        start_position: tuple[float, float],
        goals: Sequence[Cell],
        choices: int,
        observation_dim: int,
        note_previous: Callable[[NDArray[np.float32]], None] = lambda rows: None,
    ) -> None:
        """``note_previous(observations)`` writes what observations say of the env_step before, where they do."""
        self._choices, self._note_previous = choices, note_previous
        self._physics = PointMassBatch(layout, len(goals) * choices)
        lengths_to = {goal: path_length_map(layout, goal) for goal in set(goals)}
        self._lengths = np.repeat([lengths_to[goal] for goal in goals], choices, axis=0)
        self._goals = np.repeat(np.array(goals, dtype=np.float64), choices, axis=0)
        self._hit = np.zeros(len(self._goals), dtype=bool)
        self._env_steps = 0
        self.observations = np.zeros((len(self._goals), observation_dim), dtype=np.float32)
        self.observations[:, :2] = start_position
        self.env_steps_to_goal = np.full(len(goals), -1)
        self._place()

    def _place(self) -> None:
        rows = self.observations.astype(np.float64)
        self._physics.reset(rows[:, :2], rows[:, 2:4])

    def step(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``envs.core.Reach``."""
        physics = self._physics
        physics.controls[:] = actions.clip(-1.0, 1.0)
        self._note_previous(self.observations)
        physics.step()
        self.observations[:, :2], self.observations[:, 2:4] = physics.positions, physics.velocities
        self._hit |= np.hypot(*(physics.positions - self._goals).T) <= SUCCESS_RADIUS
        self._env_steps += 1
        return self.observations

    def keep_nearest(self) -> None:
        """See ``envs.core.Reach``."""
        ends = distances(self._lengths, self._physics.positions).reshape(-1, self._choices)
        kept = np.arange(len(ends)) * self._choices + ends.argmin(axis=1)
        arrived = (self.env_steps_to_goal < 0) & self._hit[kept]
        self.env_steps_to_goal[arrived] = self._env_steps
        self._hit[:] = False
        self.observations = np.repeat(self.observations[kept], self._choices, axis=0)
        self._place()
