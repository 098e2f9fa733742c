"""Offline data of the maze: a planner and a PD controller wander between random cells (paper section 5.1.1).

Each trajectory draws a start and a goal cell, plans a shortest path on the grid, jitters its waypoints and steers
through them with a PD controller until the last one is reached. Observations and applied actions are recorded;
there are no rewards and no task labels. Axes: L lane, P waypoint, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.core import RecordedData
from envs.maze.layout import Layout
from envs.maze.physics import CELL_CENTRE_OFFSET, PointMassBatch
from envs.maze.pictures import draw_coverage
from envs.maze.planner import Cell, descend, path_length_map
from envs.randomness import keyed_rng
from envs.trajectories import Trajectories

_VALID = (
    ("num_trajectories", 1, 10**7), ("chunk_trajectories", 1, 10**5), ("max_env_steps", 1, 10**6),
    ("proportional_gain", 0.0, 1000.0), ("derivative_gain", -1000.0, 0.0), ("waypoint_tolerance", 1e-6, 1.0),
    ("waypoint_jitter", 0.0, 0.399),
)  # fmt: skip
"""Field, smallest and largest value. A jitter of 0.4 cells would put waypoints into walls."""


@dataclass(frozen=True)
class MazeDataConfig:
    """Everything that determines the offline data besides the layout."""

    num_trajectories: int = 3000
    """Trajectories in all. The paper names no size; ours average 383 env_steps, so 3,000 hold 1.15 M transitions."""
    seed: int = 0
    """Seed of the data alone: runs with other seeds share the same data, as in the paper."""
    chunk_trajectories: int = 250
    """Trajectories built together, one per lane. Has no effect on the data, only on how it is cut into chunks."""
    proportional_gain: float = 10.0
    """Force per distance to the waypoint (released code)."""
    derivative_gain: float = -1.0
    """Force per velocity (released code)."""
    waypoint_tolerance: float = 0.1
    """A waypoint within this distance is reached (released code)."""
    waypoint_jitter: float = 0.2
    """Half-width of the uniform noise on each waypoint around its cell's centre (released code)."""
    max_env_steps: int = 2000
    """Longest trajectory; one that has not arrived by then is kept as it is. Ours: the episode's time limit."""

    def validate(self) -> None:
        """Raise ``ValueError`` naming the first field that no data can be built with."""
        for name, low, high in _VALID:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; valid is {low:,} to {high:,}")

    def __post_init__(self) -> None:
        self.validate()


MAZE_DATA_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"num_trajectories": 64, "chunk_trajectories": 32},
    "quick": {"num_trajectories": 2000},
    "paper": {},
    "released": {},
}


class MazeDataSource:
    """Offline trajectories in one layout; a ``DataSource``.

    Trajectory i draws everything from ``(seed, "maze data", i)``, so the data depends neither on how it is cut
    into chunks nor on lanes or threads.
    """

    config_class: type[Any] = MazeDataConfig
    implementation = "trajectories/1/maze/MazeDataConfig"
    usual_env_steps = 367
    variants: tuple[str, ...] = ()

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def num_chunks(self, config: MazeDataConfig) -> int:
        """Chunks of ``chunk_trajectories`` trajectories; the last one may be smaller."""
        return -(-config.num_trajectories // config.chunk_trajectories)

    def build_chunk(self, config: MazeDataConfig, chunk_index: int, threads: int = 1) -> Trajectories:
        """See ``DataSource.build_chunk``. Raises ``ValueError`` for a chunk that does not exist."""
        if not 0 <= chunk_index < self.num_chunks(config):
            raise ValueError(f"chunk {chunk_index} does not exist; valid: 0 to {self.num_chunks(config) - 1}")
        first = chunk_index * config.chunk_trajectories
        last = min(first + config.chunk_trajectories, config.num_trajectories)
        return self._build(config, range(first, last), threads)

    def _build(self, config: MazeDataConfig, trajectory_indices: range, threads: int) -> Trajectories:
        return follow(self.layout, [self.plan(config, index) for index in trajectory_indices], config, threads)

    def plan(self, config: MazeDataConfig, trajectory_index: int) -> NDArray[np.float64]:
        """Start position, then waypoints, of a trajectory: ``plan_between_cells``."""
        return plan_between_cells(self.layout, config, keyed_rng(config.seed, "maze data", trajectory_index))

    def read(self, origin: str, skip_damaged: bool = False) -> RecordedData:
        """A file of D4RL's flat HDF5, of which nothing can be left out. Raises ``TrajectoryError``."""
        return RecordedData(Trajectories.load_hdf5(Path(origin)))

    def draw_coverage(self, trajectories: Trajectories, path: Path) -> None:
        """Write a PNG: how often each place was visited, and 20 of the trajectories."""
        episodes = trajectories.split()
        shown = np.linspace(0, len(episodes) - 1, min(20, len(episodes))).astype(int)
        lines = [episodes[index][0][:, :2] for index in shown]
        draw_coverage(self.layout, trajectories.observations[:, :2], lines, path)


def plan_between_cells(layout: Layout, config: MazeDataConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Start position, then waypoints, of a trajectory: (1 + P, 2) joint positions, P at least 1.

    Start and goal are two different cells, uniform over the largest connected part of the maze.
    """
    cells = _connected_cells(layout)
    start, goal = (cells[index] for index in rng.choice(len(cells), size=2, replace=False))
    path = descend(layout, _path_lengths(layout, goal), start, rng)
    jitter = rng.uniform(-config.waypoint_jitter, config.waypoint_jitter, size=(len(path), 2))
    return np.array(path) + CELL_CENTRE_OFFSET + jitter


def follow(
    layouts: Layout | Sequence[Layout], plans: Sequence[NDArray[np.float64]], config: MazeDataConfig, threads: int
) -> Trajectories:
    """Steer one particle per plan through its waypoints, all in step, and record until each arrives.

    ``layouts``: the maze they all move in, or one of equal size for each plan.
    """
    num_lanes = len(plans)
    waypoint_counts = np.array([len(plan) - 1 for plan in plans])
    waypoints = np.zeros((num_lanes, waypoint_counts.max(), 2))
    for lane, plan in enumerate(plans):
        waypoints[lane, : waypoint_counts[lane]] = plan[1:]
    physics = PointMassBatch(layouts, num_lanes, threads)
    physics.reset(np.array([plan[0] for plan in plans]), np.zeros((num_lanes, 2)))

    lanes = np.arange(num_lanes)
    next_waypoint = np.zeros(num_lanes, dtype=np.int64)
    lengths = np.zeros(num_lanes, dtype=np.int64)
    recorded: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]] = []
    while len(lanes) > 0 and len(recorded) < config.max_env_steps:
        positions, velocities = physics.positions[lanes], physics.velocities[lanes]
        error = waypoints[lanes, next_waypoint[lanes]] - positions
        forces = config.proportional_gain * error + config.derivative_gain * velocities
        # float32 before it is applied, so that the recorded action is exactly the applied one.
        actions = np.clip(forces, -1.0, 1.0).astype(np.float32)
        recorded.append((lanes, np.hstack([positions, velocities]).astype(np.float32), actions))
        physics.controls[lanes] = actions
        physics.step(None if len(lanes) == num_lanes else lanes)
        lengths[lanes] += 1
        error = waypoints[lanes, next_waypoint[lanes]] - physics.positions[lanes]
        next_waypoint[lanes] += np.linalg.norm(error, axis=1) < config.waypoint_tolerance
        lanes = lanes[next_waypoint[lanes] < waypoint_counts[lanes]]

    # Records are ordered by time, trajectories by lane: a stable sort by lane turns one into the other.
    order = np.argsort(np.concatenate([lanes for lanes, _, _ in recorded]), kind="stable")
    return Trajectories(
        observations=np.concatenate([observations for _, observations, _ in recorded])[order],
        actions=np.concatenate([actions for _, _, actions in recorded])[order],
        episode_ends=np.cumsum(lengths),
    )


@lru_cache(maxsize=8)
def _connected_cells(layout: Layout) -> list[Cell]:
    """Free cells of the largest part of the maze that is connected for the planner, in row-major order."""
    remaining = {(int(x), int(y)) for x, y in layout.free_cells}
    largest: set[Cell] = set()
    while len(remaining) > len(largest):
        lengths = path_length_map(layout, min(remaining))
        part = {(int(x), int(y)) for x, y in np.argwhere(np.isfinite(lengths))}
        remaining -= part
        largest = max(largest, part, key=len)
    return sorted(largest)


@lru_cache(maxsize=4096)
def _path_lengths(layout: Layout, goal: Cell) -> NDArray[np.float64]:
    return path_length_map(layout, goal)
