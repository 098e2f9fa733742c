"""One lane of a batched world as a plain ``gymnasium.Env``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.lane_world import LaneWorld


class SingleLaneEnv(gym.Env[Any, Any]):
    """Episodes of one task. ``info["success"]`` tells whether the episode terminated, which is to solve the task."""

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, world: LaneWorld, task: Task) -> None:
        self._world, self._task = world, task
        self.observation_space = world.single_observation_space
        self.action_space = world.single_action_space

    def _observed(self, row: NDArray[np.float32]) -> Any:
        """The observation that the world's row (D,), a buffer, stands for."""
        return row.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; equal seeds start equal episodes. No options are known."""
        super().reset(seed=seed)
        observations = self._world.start([self._task], [(int(self.np_random.integers(2**63)), "single")])
        return self._observed(observations[0]), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One env_step. Raises ``ValueError`` once the episode is over, until ``reset``."""
        observations, rewards, terminated, truncated, _ = self._world.step(np.asarray(action)[None])
        return (
            self._observed(observations[0]),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {"success": bool(terminated[0])},
        )
