"""The maze as a plain ``gymnasium.Env``: one lane of ``MazeWorld``. Registered as ``simpl_bench/Maze-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.maze.layout import Layout, reference_layout
from envs.maze.world import EPISODE_ENV_STEPS, MazeWorld, action_space, observation_space, parse_goal


class MazeEnv(gym.Env[Any, Any]):
    """Reach ``goal`` in the maze: observation (4,) position and velocity, action (2,) force in [-1, 1].

    Reward 1 and termination within 1.0 of the goal; truncation at 2000 env_steps. ``info["success"]`` tells whether
    the goal is reached. The dynamics are those of ``MazeWorld``. The default goal is the first target goal.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        goal: tuple[float, float] = (12.0, 7.0),
        layout: Layout | None = None,
        episode_env_steps: int = EPISODE_ENV_STEPS,
    ) -> None:
        layout = reference_layout(20) if layout is None else layout
        parse_goal({"goal": goal}, layout)
        self._task = Task(name="goal", spec={"goal": goal})
        self._world = MazeWorld(layout, num_lanes=1, episode_env_steps=episode_env_steps)
        self.observation_space = observation_space(layout)
        self.action_space = action_space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; equal seeds start equal episodes. No options are known."""
        super().reset(seed=seed)
        observations = self._world.start([self._task], [(int(self.np_random.integers(2**63)), "single")])
        return observations[0].copy(), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One env_step. Raises ``ValueError`` once the episode is over, until ``reset``."""
        observations, rewards, terminated, truncated, _ = self._world.step(np.asarray(action)[None])
        return (
            observations[0].copy(),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {"success": bool(terminated[0])},
        )
