"""Gymnasium's Pendulum-v1 as a batch of lanes: the usual first check of a soft actor-critic.

Dynamics, reward, start and limits are those of ``gymnasium.envs.classic_control.PendulumEnv`` (gymnasium 1.x); an
action in [-1, 1] is a torque in [-2, 2]. States and observations are equal to gymnasium's to the bit. Rewards differ
from them in the last bit now and then: gymnasium squares single numbers (``pow``), this world arrays (a product).
Torques keep the precision of the actions, as gymnasium's do: with float32 actions, which its action space samples,
parts of a step are rounded to float32.

Axes: L lane, A active lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import EpisodeRenderer, Task, TaskDistribution
from envs.lane_world import LaneWorld, Rows
from envs.registry import task_distribution_summary
from envs.validation.pictures import draw_pendulum_angles

GRAVITY, MASS, LENGTH, SECONDS_PER_STEP = 10.0, 1.0, 1.0, 0.05
LARGEST_TORQUE, LARGEST_SPEED = 2.0, 8.0
EPISODE_ENV_STEPS = 200
LARGEST_COST = math.pi**2 + 0.1 * LARGEST_SPEED**2 + 0.001 * LARGEST_TORQUE**2
"""Of one env_step: hanging down, turning as fast as it can. No state has more, so an episode costs at most 200 of it
(a bound: a pendulum that turns does not stay at the bottom)."""


class PendulumWorld(LaneWorld):
    """L pendulums, stepped together. Observation: (cos, sin of the angle, angular velocity), (L, 3) float32.

    Action: torque / 2 in [-1, 1] (clipped), (L, 1). Reward: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), the angle
    in [-pi, pi) from upright. Truncation after 200 env_steps, no termination. Start: any angle, velocity in [-1, 1].
    """

    def __init__(self, num_lanes: int, threads: int = 1) -> None:
        """``threads`` is of no use here: a step is a few array operations."""
        high = np.array([1.0, 1.0, LARGEST_SPEED], dtype=np.float32)
        space = gym.spaces.Box(-high, high, dtype=np.float32)
        super().__init__(num_lanes, space, gym.spaces.Box(-1.0, 1.0, (1,), dtype=np.float32), EPISODE_ENV_STEPS)
        self.angles = np.zeros(num_lanes)
        """Radians from upright, unbounded."""
        self.velocities = np.zeros(num_lanes)
        """Radians per second."""

    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        for lane, rng in enumerate(rngs):
            self.angles[lane], self.velocities[lane] = rng.uniform((-math.pi, -1.0), (math.pi, 1.0))

    def _observe(self, rows: Rows) -> None:
        angles = self.angles[rows]
        self._observations[rows] = np.stack([np.cos(angles), np.sin(angles), self.velocities[rows]], axis=1)

    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        torques = LARGEST_TORQUE * actions[:, 0]
        angles, velocities = self.angles[rows], self.velocities[rows]
        wrapped = np.mod(angles + math.pi, 2 * math.pi) - math.pi
        costs = wrapped**2 + 0.1 * velocities**2 + 0.001 * torques**2
        gravity = 3 * GRAVITY / (2 * LENGTH) * np.sin(angles)
        velocities = velocities + (gravity + 3.0 / (MASS * LENGTH**2) * torques) * SECONDS_PER_STEP
        self.velocities[rows] = np.clip(velocities, -LARGEST_SPEED, LARGEST_SPEED)
        self.angles[rows] = angles + self.velocities[rows] * SECONDS_PER_STEP
        self._observe(rows)
        return -costs, np.zeros(len(costs), dtype=bool)


def make_task_distribution(name: str) -> TaskDistribution:
    """The one target task: swing up and balance. There are no training tasks."""
    return TaskDistribution(
        name=name,
        family="pendulum",
        summary=task_distribution_summary(name),
        train_tasks=(),
        target_tasks=(Task("swing-up", {}),),
        make_world=partial(PendulumWorld),
        world_fingerprint="pendulum world 2; Pendulum-v1",
        observation_dim=3,
        action_dim=1,
        episode_env_steps=EPISODE_ENV_STEPS,
        score_range=(-EPISODE_ENV_STEPS * LARGEST_COST, 0.0),
        data_source=None,
        draw_paths=draw_pendulum_angles,
        episode_renderer=EpisodeRenderer(endings=(".png",), render=draw_pendulum_angles),
    )
