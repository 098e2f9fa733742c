"""Gymnasium's own environments as worlds of lanes, so that algorithms can be judged on what others have published.

Each lane is one unwrapped environment of its own, stepped in turn; its start is drawn from the episode's key alone.
They are no task distributions that ``bench`` knows: there is one task, the environment, and returns have no bounds.

Axes: L lane, A active lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import Task, TaskDistribution
from envs.lane_world import LaneWorld, Rows

UNREACHED = 1e6
"""No episode of these environments returns as much, or as little."""


class GymnasiumWorld(LaneWorld):
    """L lanes of the environment called ``name``, whose actions lie in [-1, 1]."""

    def __init__(self, name: str, num_lanes: int, threads: int = 1) -> None:
        """``threads`` is of no use here: lanes are stepped one by one."""
        made = [gym.make(name) for _ in range(num_lanes)]
        specification = made[0].spec
        assert specification is not None and specification.max_episode_steps is not None
        self._environments: list[Any] = [each.unwrapped for each in made]
        observed, acted = (self._environments[0].observation_space.shape, self._environments[0].action_space)
        assert (acted.low == -1).all() and (acted.high == 1).all()
        super().__init__(
            num_lanes,
            gym.spaces.Box(-np.inf, np.inf, observed, dtype=np.float32),
            gym.spaces.Box(-1.0, 1.0, acted.shape, dtype=np.float32),
            specification.max_episode_steps,
        )
        self._latest = np.zeros((num_lanes, *observed))

    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        for lane, rng in enumerate(rngs):
            self._environments[lane].np_random = rng
            self._latest[lane] = self._environments[lane].reset()[0]

    def _observe(self, rows: Rows) -> None:
        self._observations[rows] = self._latest[rows]

    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rewards, terminated = np.zeros(len(lanes)), np.zeros(len(lanes), dtype=bool)
        for place, lane in enumerate(lanes):
            observation, rewards[place], terminated[place], _, _ = self._environments[lane].step(actions[place])
            self._latest[lane] = observation
        self._observe(rows)
        return rewards, terminated


def gymnasium_distribution(name: str) -> TaskDistribution:
    """One target task, the environment called ``name``."""
    world = GymnasiumWorld(name, 1)
    return TaskDistribution(
        name=name,
        family=name,
        summary=f"{name} of gymnasium",
        train_tasks=(),
        target_tasks=(Task(name, {}),),
        make_world=partial(GymnasiumWorld, name),
        world_fingerprint=f"{name}; gymnasium {gym.__version__}",
        observation_dim=int(np.prod(world.single_observation_space.shape)),
        action_dim=int(np.prod(world.single_action_space.shape)),
        episode_env_steps=world.episode_env_steps,
        score_range=(-UNREACHED, UNREACHED),
        data_source=None,
    )
