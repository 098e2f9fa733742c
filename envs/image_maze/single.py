"""The image maze as a plain ``gymnasium.Env`` with images: registered as ``simpl_bench/ImageMaze-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import Task
from envs.image_maze.views import STATE_DIM, MazeViews
from envs.image_maze.world import START_POSITION, ImageMazeWorld
from envs.maze.layout import Layout, reference_layout
from envs.maze.world import EPISODE_ENV_STEPS, parse_goal
from envs.single_lane import SingleLaneEnv


class ImageMazeEnv(SingleLaneEnv):
    """Reach ``goal`` in the maze: action (2,) force in [-1, 1], rewards and ends as ``simpl_bench/Maze-v0``.

    Observation: ``state`` (4,) position and velocity, ``image`` (6, 32, 32) uint8, two RGB views centred on the agent,
    newest first; the older one is blank just after a reset. The default goal is that of SPiRL's task.
    """

    def __init__(
        self,
        goal: tuple[float, float] = (18.0, 8.0),
        layout: Layout | None = None,
        start_position: tuple[float, float] = START_POSITION,
        episode_env_steps: int = EPISODE_ENV_STEPS,
    ) -> None:
        layout = reference_layout(40) if layout is None else layout
        parse_goal({"goal": goal}, layout)
        world = ImageMazeWorld(layout, num_lanes=1, start_position=start_position, episode_env_steps=episode_env_steps)
        super().__init__(world, Task(name="goal", spec={"goal": goal}))
        self._views = MazeViews(layout)
        row_space = world.single_observation_space
        assert isinstance(row_space, gym.spaces.Box)
        self.observation_space = gym.spaces.Dict(
            {
                "state": gym.spaces.Box(row_space.low[:STATE_DIM], row_space.high[:STATE_DIM], dtype=np.float32),
                "image": gym.spaces.Box(0, 255, self._views.shape, dtype=np.uint8),
            }
        )

    def _observed(self, row: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {"state": row[:STATE_DIM].copy(), "image": self._views.draw(row[None])[0]}
