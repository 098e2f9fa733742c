"""Offline data of the image maze: each trajectory wanders in a random maze of its own (paper appendix C).

Planner and controller are those of the maze's data. What is kept is where the agent was, one row of seven numbers
for each env_step as the world observes, and the walls of each trajectory's maze (``Trajectories.scenes``): the views
are an exact function of the two. ``random_layout`` makes mazes of the kind that SPiRL's generator makes, not the same.
Axes: E episode (trajectory), X, Y cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.image_maze.pictures import draw_recorded
from envs.image_maze.views import HAS_PREVIOUS, OBSERVATION_DIM, PREVIOUS_POSITION, STATE_DIM
from envs.maze.data import MazeDataConfig, MazeDataSource, follow, plan_between_cells
from envs.maze.layout import MIN_RANDOM_SIZE, Layout, random_layout
from envs.randomness import key_to_integer, keyed_rng
from envs.trajectories import Trajectories

_LARGEST_LAYOUT = 200
"""Cells: beyond it, making the mazes takes longer than following a trajectory in them."""


@dataclass(frozen=True)
class ImageMazeDataConfig(MazeDataConfig):
    """Everything that determines the offline data."""

    layout_size: int = 20
    """Cells on each side of the random mazes, without the border (paper: 20 x 20)."""

    def validate(self) -> None:
        super().validate()
        if not MIN_RANDOM_SIZE <= self.layout_size <= _LARGEST_LAYOUT:
            raise ValueError(f"layout_size is {self.layout_size}; valid is {MIN_RANDOM_SIZE} to {_LARGEST_LAYOUT}")


IMAGE_MAZE_DATA_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"num_trajectories": 48, "chunk_trajectories": 24},
    "quick": {"num_trajectories": 2000},
    "paper": {},
}


class ImageMazeDataSource(MazeDataSource):
    """Offline trajectories, each in its own random maze; a ``DataSource``.

    Trajectory i draws its maze from ``(seed, "image maze layout", i)``, all else from ``(seed, "image maze data", i)``.
    Files without ``scenes`` lie in ``layout``, the world's own.
    """

    config_class: type[Any] = ImageMazeDataConfig
    implementation = "trajectories/1/image-maze/ImageMazeDataConfig"
    usual_env_steps = 536

    def _build(self, config: MazeDataConfig, trajectory_indices: range, threads: int) -> Trajectories:
        assert isinstance(config, ImageMazeDataConfig)
        layouts = [self.layout_of(config, index) for index in trajectory_indices]
        plans = [
            self._plan_in(layout, config, index) for layout, index in zip(layouts, trajectory_indices, strict=True)
        ]
        return with_previous_positions(follow(layouts, plans, config, threads), layouts)

    def plan(self, config: MazeDataConfig, trajectory_index: int) -> NDArray[np.float64]:
        """Start position, then waypoints, of a trajectory in its own maze: ``plan_between_cells``."""
        assert isinstance(config, ImageMazeDataConfig)
        return self._plan_in(self.layout_of(config, trajectory_index), config, trajectory_index)

    def _plan_in(self, layout: Layout, config: MazeDataConfig, trajectory_index: int) -> NDArray[np.float64]:
        return plan_between_cells(layout, config, keyed_rng(config.seed, "image maze data", trajectory_index))

    def layout_of(self, config: ImageMazeDataConfig, trajectory_index: int) -> Layout:
        """The maze of a trajectory."""
        return random_layout(config.layout_size, key_to_integer(config.seed, "image maze layout", trajectory_index))

    def draw_coverage(self, trajectories: Trajectories, path: Path) -> None:
        """Write a PNG: some trajectories in their mazes, what the agent saw on them, and where all have been."""
        draw_recorded(self.layout, trajectories, path)


def with_previous_positions(states: Trajectories, layouts: list[Layout] | None) -> Trajectories:
    """What the world would observe on trajectories of states, position and velocity; each in its layout, if given."""
    rows = np.zeros((len(states.observations), OBSERVATION_DIM), np.float32)
    rows[:, :STATE_DIM] = states.observations
    rows[1:, PREVIOUS_POSITION] = states.observations[:-1, :2]
    rows[:, HAS_PREVIOUS] = 1.0
    rows[states.episode_ends - states.lengths, PREVIOUS_POSITION.start :] = 0.0
    scenes = None if layouts is None else np.array([layout.walls for layout in layouts], np.uint8)
    return replace(states, observations=rows, scenes=scenes)


def recorded_in(
    layout: Layout, num_trajectories: int, seed: int, config: MazeDataConfig | None = None, threads: int = 1
) -> Trajectories:
    """Trajectories of the same kind in one given maze, keyed by ``(seed, "image maze data in", i)``.

    They lie in ``layout`` without saying so (no scenes): for the world's own 40x40 maze, in which no data is collected.
    """
    config = MazeDataConfig() if config is None else config
    keys = [(seed, "image maze data in", index) for index in range(num_trajectories)]
    plans = [plan_between_cells(layout, config, keyed_rng(*key)) for key in keys]
    return with_previous_positions(follow(layout, plans, config, threads), None)
