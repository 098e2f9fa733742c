"""The image maze: the maze world with what is needed to draw what the agent sees (paper appendix C).

An image is an exact function of where the agent is and was, so an observation is a row of seven numbers, and
``envs.image_maze.views`` draws of it what a network sees. The released environment's queue of frames is not cleared at
reset, so that an episode begins with a view of the one before; here the older frame is blank then.

Axes: L lane.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.image_maze.views import HAS_PREVIOUS, PREVIOUS_POSITION
from envs.lane_world import Rows
from envs.maze.layout import Layout
from envs.maze.world import EPISODE_ENV_STEPS, MazeWorld, observation_space

START_POSITION = (10.0, 24.0)
"""That of SPiRL's task (clvrai/spirl), in the 40x40 layout."""


class ImageMazeWorld(MazeWorld):
    """``MazeWorld`` whose observations also say where the agent was one env_step earlier.

    Observation, (L, 7) float32: position, velocity, previous position, and 1 if there is one (0 just after a reset, and
    the previous position is then 0, too).
    """

    def __init__(
        self,
        layout: Layout,
        num_lanes: int,
        threads: int = 1,
        start_position: tuple[float, float] = START_POSITION,
        episode_env_steps: int = EPISODE_ENV_STEPS,
    ) -> None:
        super().__init__(layout, num_lanes, threads, start_position, episode_env_steps)

    @staticmethod
    def _observation_space(layout: Layout) -> gym.spaces.Box:
        state = observation_space(layout)
        low = np.concatenate([state.low, state.low[:2], [0.0]]).astype(np.float32)
        high = np.concatenate([state.high, state.high[:2], [1.0]]).astype(np.float32)
        return gym.spaces.Box(low, high, dtype=np.float32)

    def _observe(self, rows: Rows) -> None:
        """Position, velocity, and the position that was observed before, if any was in this episode."""
        if self._elapsed_env_steps > 0:
            note_previous(self._observations, rows)
        super()._observe(rows)


def note_previous(observations: NDArray[np.float32], rows: Rows = slice(None)) -> None:
    """The position in these rows of observations becomes the previous one, before it is written anew."""
    observations[rows, PREVIOUS_POSITION] = observations[rows, :2]
    observations[rows, HAS_PREVIOUS] = 1.0
