"""The Franka kitchen as a batch of lanes: each holds one ordered list of subtasks (paper section 5.1.2, appendix G.2).

- Observation (30): joint positions of the robot (9) and of the objects (21), with the noise of ``FrankaKitchen-v1``.
  The released code appends 30 goal values that are the same for every task; they say nothing and are left out. So the
  task is not observable: it must be inferred from rewards.
- Reward +1 for each subtask that is completed in the task's order: a subtask counts once all earlier ones have counted.
  Several may count in one env_step, and none is taken back. The episode terminates when all have counted.
- Completion is judged on the true joint positions (as in ``FrankaKitchen-v1``; D4RL and the released code judge the
  noisy observation).

Axes: L lane, A active lane, Q joint position (30), S subtask, T env_step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import NO_TASK, Task
from envs.kitchen.physics import (
    ACTION_DIM,
    INITIAL_POSITIONS,
    POSITION_DIM,
    ROBOT_JOINTS,
    KitchenBatch,
    robot_limits,
)
from envs.kitchen.subtasks import SUBTASKS, completed, subtasks_of
from envs.lane_world import LaneWorld, Rows

EPISODE_ENV_STEPS = 280
OBSERVATION_DIM = POSITION_DIM


def observation_space() -> gym.spaces.Box:
    """Joint positions in rad and m. The kettle moves freely, so there are no bounds."""
    return gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), dtype=np.float32)


def action_space() -> gym.spaces.Box:
    """Joint velocities of arm (7) and fingers (2) as a fraction of 2 rad/s or 2 m/s."""
    return gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), dtype=np.float32)


class KitchenWorld(LaneWorld):
    """L kitchens stepped together; a task's spec is ``{"subtasks": [name, ...]}`` (names: ``SUBTASK_NAMES``).

    ``start_positions`` (30,) or (L, 30) and ``start_velocities`` (29,) or (L, 29) replace the usual start, to replay
    recorded episodes. ``noise`` off shows the true positions.
    """

    def __init__(
        self,
        num_lanes: int,
        threads: int = 1,
        episode_env_steps: int = EPISODE_ENV_STEPS,
        noise: bool = True,
        start_positions: NDArray[np.floating[Any]] = INITIAL_POSITIONS,
        start_velocities: NDArray[np.floating[Any]] | float = 0.0,
    ) -> None:
        super().__init__(num_lanes, observation_space(), action_space(), episode_env_steps)
        self.physics = KitchenBatch(num_lanes, threads)
        self._start_positions = np.asarray(start_positions, float)
        self._start_velocities = np.asarray(start_velocities, float)
        self._noise_amplitudes = robot_limits().noise_amplitudes * noise
        self._noise = np.zeros((num_lanes, 0, OBSERVATION_DIM))
        self._observed = np.zeros((num_lanes, OBSERVATION_DIM))
        # Lane l's task is subtasks self._order[l, :self._length[l]], of which the first self.progress[l] have counted.
        self._order = np.zeros((num_lanes, len(SUBTASKS)), dtype=np.int64)
        self._length = np.zeros(num_lanes, dtype=np.int64)
        self.progress = np.zeros(num_lanes, dtype=np.int64)
        """Subtasks that have counted in each lane's episode, (L,)."""

    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        orders = [() if task == NO_TASK else subtasks_of(task.spec) for task in tasks]
        for lane, order in enumerate(orders):
            self._order[lane, : len(order)] = order
            self._length[lane] = len(order)
        self.progress[:] = 0
        # All noise of an episode is drawn at once: what a lane sees does not depend on when others finish.
        shape = (self.episode_env_steps + 1, OBSERVATION_DIM)
        self._noise = np.zeros((self.num_envs, *shape))
        for lane, rng in enumerate(rngs):
            self._noise[lane] = (2.0 * rng.random(shape) - 1.0) * self._noise_amplitudes
        self.physics.reset(self._start_positions, self._start_velocities)

    def _observe(self, rows: Rows) -> None:
        self._observed[rows] = self.physics.positions[rows] + self._noise[rows, self._elapsed_env_steps]
        self._observations[rows] = self._observed[rows]

    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        joints = self._observed[rows, :ROBOT_JOINTS]
        self.physics.step(actions, joints, None if isinstance(rows, slice) else lanes)
        self._observe(rows)
        before = self.progress[lanes]
        self.progress[lanes] = self._counted(completed(self.physics.positions[rows]), lanes)
        all_counted = (self.progress[lanes] >= self._length[lanes]) & (self._length[lanes] > 0)
        return self.progress[lanes] - before, all_counted

    def _counted(self, done: NDArray[np.bool_], lanes: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many subtasks of each lane's task have counted, given which elements are at their goal (A, S)."""
        progress, order, length = self.progress[lanes].copy(), self._order[lanes], self._length[lanes]
        every = np.arange(len(lanes))
        for _ in range(len(SUBTASKS)):
            waiting = progress < length
            hit = waiting & done[every, order[every, np.minimum(progress, len(SUBTASKS) - 1)]]
            if not hit.any():
                break
            progress += hit
        return progress
