"""The maze as a batch of lanes: each holds one episode of reaching one goal (paper section 5.1.1, appendix G.1).

Axes: L lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.core import Float32Array, Task, World
from envs.maze.layout import Layout
from envs.maze.physics import PointMassBatch
from envs.randomness import keyed_rng

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


class MazeWorld(World):
    """L episodes of reaching a goal, stepped together.

    Observation: joint position and velocity, (L, 4) float32. Action: forces in [-1, 1] (clipped), (L, 2). Reward 1
    and termination when the position after a step is within 1.0 of the goal, else 0; truncation at 2000 env_steps.
    A finished lane is not simulated: it gives reward 0, its last observation and its last flags until it is started
    anew.

    **Returned arrays are buffers that the next call overwrites**: copy what is kept.

    Start: (10, 10) with uniform noise 0.1 in position and normal noise 0.1 in velocity.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        layout: Layout,
        num_lanes: int,
        threads: int = 1,
        start_position: tuple[float, float] = START_POSITION,
        episode_env_steps: int = EPISODE_ENV_STEPS,
    ) -> None:
        if episode_env_steps < 1:
            raise ValueError(f"episode_env_steps must be at least 1; got {episode_env_steps}")
        self.layout = layout
        self.episode_env_steps = episode_env_steps
        self.num_envs = num_lanes
        self.single_observation_space = observation_space(layout)
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_lanes)
        self.action_space = batch_space(self.single_action_space, num_lanes)
        self._start_position = np.array(start_position)
        self._physics = PointMassBatch(layout, num_lanes, threads)
        self._tasks: Sequence[Task] = ()
        self._goals = np.zeros((num_lanes, 2))
        self._elapsed_env_steps = 0
        self._observations = np.zeros((num_lanes, OBSERVATION_DIM), dtype=np.float32)
        self._rewards = np.zeros(num_lanes)
        self._terminated = np.ones(num_lanes, dtype=bool)
        self._truncated = np.zeros(num_lanes, dtype=bool)
        self.active_lanes = np.zeros(0, dtype=np.int64)

    def start(self, tasks: Sequence[Task], episode_keys: Sequence[tuple[int | str, ...]]) -> Float32Array:
        """See ``World.start``. A task's spec is ``{"goal": [x, y]}``; lanes without a task observe zeros.

        Raises ``ValueError`` for more tasks than lanes, a key missing, or a goal that is not in the maze.
        """
        if not 0 < len(tasks) <= self.num_envs or len(tasks) != len(episode_keys):
            raise ValueError(
                f"{len(tasks)} tasks and {len(episode_keys)} episode keys for {self.num_envs} lanes; "
                "need 1 to as many tasks as lanes, and one key per task"
            )
        goals = [parse_goal(task.spec, self.layout) for task in tasks]
        position_noise = np.zeros((self.num_envs, 2))
        velocities = np.zeros((self.num_envs, 2))
        for lane, key in enumerate(episode_keys):
            rng = keyed_rng(*key)  # type: ignore[arg-type]
            rng.random(out=position_noise[lane])
            rng.standard_normal(out=velocities[lane])
        position_noise = START_POSITION_NOISE * (2.0 * position_noise - 1.0)
        self._physics.reset(self._start_position + position_noise, START_VELOCITY_NOISE * velocities)

        self._tasks = tuple(tasks)
        self._goals[: len(tasks)] = goals
        self._elapsed_env_steps = 0
        self.active_lanes = np.arange(len(tasks))
        self._rewards[:] = 0.0
        self._terminated[:] = np.arange(self.num_envs) >= len(tasks)
        self._truncated[:] = False
        self._observations[:] = 0.0
        self._observe(self.active_lanes)
        return self._observations

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Start the tasks of ``options["tasks"]`` (default: those of the last start), keyed by ``seed`` and lane.

        Raises ``ValueError`` if no tasks are known yet.
        """
        super().reset(seed=seed)
        tasks = (options or {}).get("tasks", self._tasks)
        if not tasks:
            raise ValueError('reset needs options={"tasks": [Task, ...]} before the first start')
        key_seed = seed if seed is not None else int(self.np_random.integers(2**63))
        return self.start(tasks, [(key_seed, "reset", lane) for lane in range(len(tasks))]), {}

    def step(
        self, actions: NDArray[np.floating[Any]]
    ) -> tuple[Float32Array, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step the active lanes; rows of ``actions`` (L, 2) that belong to finished lanes are ignored.

        Returns observations (L, 4), rewards (L,), terminated (L,), truncated (L,), infos (empty). Raises
        ``ValueError`` for actions of another shape or with NaN.
        """
        lanes = self.active_lanes
        if len(lanes) == 0:
            raise ValueError("every lane is finished: call start or reset before step")
        if np.shape(actions) != (self.num_envs, ACTION_DIM):
            raise ValueError(f"actions have shape {np.shape(actions)}; expected {(self.num_envs, ACTION_DIM)}")
        physics = self._physics
        all_active = len(lanes) == self.num_envs
        rows = slice(None) if all_active else lanes
        applied = np.minimum(actions[rows], 1.0)
        np.maximum(applied, -1.0, out=applied)
        if math.isnan(applied.sum()):
            raise ValueError("actions hold NaN; valid: numbers, clipped to [-1, 1]")
        physics.controls[rows] = applied
        physics.step(None if all_active else lanes)
        self._elapsed_env_steps += 1
        self._observe(rows)

        offsets = physics.positions[rows] - self._goals[rows]
        offsets *= offsets
        reached = offsets[:, 0] + offsets[:, 1] <= SUCCESS_RADIUS**2
        # A lane that finished earlier keeps its flags, and its reward falls back to 0.
        self._rewards[:] = 0.0
        if self._elapsed_env_steps >= self.episode_env_steps:
            self._truncated[rows] = ~reached
            self._finish(lanes, reached)
            self.active_lanes = self.active_lanes[:0]
        elif reached.any():
            self._finish(lanes, reached)
        return self._observations, self._rewards, self._terminated, self._truncated, {}

    def _observe(self, rows: slice | NDArray[np.int64]) -> None:
        """Write position and velocity of the given lanes into the observation buffer."""
        self._observations[rows, :2] = self._physics.positions[rows]
        self._observations[rows, 2:] = self._physics.velocities[rows]

    def _finish(self, lanes: NDArray[np.int64], reached: NDArray[np.bool_]) -> None:
        """Reward and terminate the lanes that reached their goal."""
        self._rewards[lanes[reached]] = 1.0
        self._terminated[lanes[reached]] = True
        self.active_lanes = lanes[~reached]
