"""What every batched world does alike: lanes with a task each, flags, buffers and the checks of ``start`` and ``step``.

Axes: L lane, A active lane, D observation feature.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.core import Float32Array, Task, World
from envs.randomness import keyed_rng

Rows = slice | NDArray[np.int64]


class LaneWorld(World):
    """L lanes stepped together. **Returned arrays are buffers that the next call overwrites**: copy what is kept.

    Actions are clipped to [-1, 1]. Every episode ends by termination, or by truncation at ``episode_env_steps``. A
    finished lane is not simulated: it gives reward 0, its last observation and its last flags until it is started anew.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, num_lanes: int, observation_space: Box, action_space: Box, episode_env_steps: int) -> None:
        if episode_env_steps < 1:
            raise ValueError(f"episode_env_steps must be at least 1; got {episode_env_steps}")
        self.episode_env_steps = episode_env_steps
        self.num_envs = num_lanes
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_lanes)
        self.action_space = batch_space(action_space, num_lanes)
        self._action_shape = (num_lanes, *action_space.shape)
        self._tasks: Sequence[Task] = ()
        self._elapsed_env_steps = 0
        self._observations = np.zeros((num_lanes, *observation_space.shape), dtype=np.float32)
        self._rewards = np.zeros(num_lanes)
        self._terminated = np.ones(num_lanes, dtype=bool)
        self._truncated = np.zeros(num_lanes, dtype=bool)
        self.active_lanes = np.zeros(0, dtype=np.int64)

    @abstractmethod
    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        """Place the first ``len(tasks)`` lanes at the start of their episode, drawing from ``rngs`` alone.

        Raises ``ValueError``, before anything has changed, for a task this world cannot hold.
        """

    @abstractmethod
    def _observe(self, rows: Rows) -> None:
        """Write the observations of the given lanes into ``self._observations``."""

    @abstractmethod
    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """One env_step of the active ``lanes`` (``rows`` selects the same, as a slice where it is all of them).

        ``actions`` (A, action features) are finite and within bounds. Observes these lanes, and returns their rewards
        (A,) and whether each terminated (A,).
        """

    def start(self, tasks: Sequence[Task], episode_keys: Sequence[tuple[int | str, ...]]) -> Float32Array:
        """See ``World.start``; lanes without a task observe zeros.

        Raises ``ValueError`` for more tasks than lanes, a key missing, or a task that this world cannot hold.
        """
        if not 0 < len(tasks) <= self.num_envs or len(tasks) != len(episode_keys):
            raise ValueError(
                f"{len(tasks)} tasks and {len(episode_keys)} episode keys for {self.num_envs} lanes; "
                "need 1 to as many tasks as lanes, and one key per task"
            )
        self._begin(tasks, [keyed_rng(*key) for key in episode_keys])  # type: ignore[arg-type]
        self._tasks = tuple(tasks)
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
        """Step the active lanes; rows of ``actions`` that belong to finished lanes are ignored.

        Returns observations (L, D), rewards (L,), terminated (L,), truncated (L,), infos (empty). Raises
        ``ValueError`` for actions of another shape or with NaN.
        """
        lanes = self.active_lanes
        if len(lanes) == 0:
            raise ValueError("every lane is finished: call start or reset before step")
        if np.shape(actions) != self._action_shape:
            raise ValueError(f"actions have shape {np.shape(actions)}; expected {self._action_shape}")
        rows: Rows = slice(None) if len(lanes) == self.num_envs else lanes
        applied = np.minimum(actions[rows], 1.0)
        np.maximum(applied, -1.0, out=applied)
        if math.isnan(applied.sum()):
            raise ValueError("actions hold NaN; valid: numbers, clipped to [-1, 1]")
        self._elapsed_env_steps += 1
        rewards, terminated = self._advance(applied, lanes, rows)
        # A lane that finished earlier keeps its flags, and its reward falls back to 0.
        self._rewards[:] = 0.0
        self._rewards[rows] = rewards
        if self._elapsed_env_steps >= self.episode_env_steps:
            self._truncated[rows] = ~terminated
            self._terminated[rows] = terminated
            self.active_lanes = self.active_lanes[:0]
        elif terminated.any():
            self._terminated[rows] = terminated
            self.active_lanes = lanes[~terminated]
        return self._observations, self._rewards, self._terminated, self._truncated, {}
