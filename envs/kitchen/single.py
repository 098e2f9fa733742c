"""The kitchen as a plain ``gymnasium.Env``: one lane of ``KitchenWorld``. Registered as ``simpl_bench/Kitchen-v0``."""

from __future__ import annotations

from collections.abc import Sequence

from envs.core import Task
from envs.kitchen.subtasks import parse_subtasks
from envs.kitchen.world import EPISODE_ENV_STEPS, KitchenWorld
from envs.single_lane import SingleLaneEnv

DEFAULT_SUBTASKS = ("microwave", "bottom burner", "light switch", "top burner")
"""The first target task."""


class KitchenEnv(SingleLaneEnv):
    """Complete ``subtasks`` in their order: observation (30,) joint positions, action (9,) joint velocities in [-1, 1].

    Reward 1 for each subtask in order; termination when all are done; truncation at 280 env_steps.
    ``info["success"]`` tells whether all are done. The dynamics are those of ``KitchenWorld``.
    """

    def __init__(self, subtasks: Sequence[str] = DEFAULT_SUBTASKS, episode_env_steps: int = EPISODE_ENV_STEPS) -> None:
        parse_subtasks(subtasks)
        task = Task(name=" > ".join(subtasks), spec={"subtasks": list(subtasks)})
        super().__init__(KitchenWorld(1, episode_env_steps=episode_env_steps), task)
