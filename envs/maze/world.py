"""The maze as a batch of lanes: each holds one episode of reaching one goal (paper section 5.1.1, appendix G.1).

Axes: L lane, A active lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import NO_TASK, Task
from envs.lane_world import LaneWorld, Rows
from envs.maze.layout import Layout
from envs.maze.physics import PointMassBatch

START_POSITION = (10.0, 10.0)
START_POSITION_NOISE = 0.1
"""Half-width of the uniform noise on the start position."""
START_VELOCITY_NOISE = 0.1
"""Standard deviation of the normal noise on the start velocity."""
SUCCESS_RADIUS = 1.0
EPISODE_ENV_STEPS = 2000

OBSERVATION_DIM = 4
ACTION_DIM = 2


def observation_space(layout: Layout) -> gym.spaces.Box:
    """Position within the border's cells; speed at most 5 at the start of a step, plus one step's acceleration."""
    num_x, num_y = layout.walls.shape
    low = np.array([0.0, 0.0, -6.0, -6.0], dtype=np.float32)
    high = np.array([num_x - 1.0, num_y - 1.0, 6.0, 6.0], dtype=np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def action_space() -> gym.spaces.Box:
    """Force on each axis as a fraction of the motor's largest."""
    return gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), dtype=np.float32)


def parse_goal(spec: Mapping[str, Any], layout: Layout) -> tuple[float, float]:
    """The goal position of a task's spec. Raises ``ValueError`` unless it is two numbers within the layout."""
    goal = spec.get("goal")
    try:
        x, y = (float(coordinate) for coordinate in goal)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ValueError(f"maze task needs a goal [x, y]; got {goal!r}") from None
    num_x, num_y = layout.walls.shape
    if not (0.0 <= x <= num_x - 1 and 0.0 <= y <= num_y - 1):
        raise ValueError(f"goal ({x}, {y}) lies outside the maze; valid: 0 to {num_x - 1} by 0 to {num_y - 1}")
    return x, y


class MazeWorld(LaneWorld):
    """L episodes of reaching a goal, stepped together; a task's spec is ``{"goal": [x, y]}``.

    Observation: joint position and velocity, (L, 4) float32. Action: forces in [-1, 1] (clipped), (L, 2). Reward 1
    and termination when the position after a step is within 1.0 of the goal, else 0; truncation at 2000 env_steps.
    Start: (10, 10) with uniform noise 0.1 in position and normal noise 0.1 in velocity.
    """

    def __init__(
        self,
        layout: Layout,
        num_lanes: int,
        threads: int = 1,
        start_position: tuple[float, float] = START_POSITION,
        episode_env_steps: int = EPISODE_ENV_STEPS,
    ) -> None:
        super().__init__(num_lanes, self._observation_space(layout), action_space(), episode_env_steps)
        self.layout = layout
        self._start_position = np.array(start_position)
        self._physics = PointMassBatch(layout, num_lanes, threads)
        self._goals = np.zeros((num_lanes, 2))

    @staticmethod
    def _observation_space(layout: Layout) -> gym.spaces.Box:
        return observation_space(layout)

    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        nowhere = (math.nan, math.nan)  # at no distance from anything, so never reached
        goals = [nowhere if task == NO_TASK else parse_goal(task.spec, self.layout) for task in tasks]
        position_noise = np.zeros((self.num_envs, 2))
        velocities = np.zeros((self.num_envs, 2))
        for lane, rng in enumerate(rngs):
            rng.random(out=position_noise[lane])
            rng.standard_normal(out=velocities[lane])
        position_noise = START_POSITION_NOISE * (2.0 * position_noise - 1.0)
        self._physics.reset(self._start_position + position_noise, START_VELOCITY_NOISE * velocities)
        self._goals[: len(tasks)] = goals

    def _observe(self, rows: Rows) -> None:
        """Position and velocity."""
        self._observations[rows, :2] = self._physics.positions[rows]
        self._observations[rows, 2:4] = self._physics.velocities[rows]

    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        physics = self._physics
        physics.controls[rows] = actions
        physics.step(None if isinstance(rows, slice) else lanes)
        self._observe(rows)
        offsets = physics.positions[rows] - self._goals[rows]
        offsets *= offsets
        reached = offsets[:, 0] + offsets[:, 1] <= SUCCESS_RADIUS**2
        return reached, reached
