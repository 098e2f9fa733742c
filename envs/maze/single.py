"""The maze as a plain ``gymnasium.Env``: one lane of ``MazeWorld``. Registered as ``simpl_bench/Maze-v0``."""

from __future__ import annotations

from envs.core import Task
from envs.maze.layout import Layout, reference_layout
from envs.maze.world import EPISODE_ENV_STEPS, MazeWorld, parse_goal
from envs.single_lane import SingleLaneEnv


class MazeEnv(SingleLaneEnv):
    """Reach ``goal`` in the maze: observation (4,) position and velocity, action (2,) force in [-1, 1].

    Reward 1 and termination within 1.0 of the goal; truncation at 2000 env_steps. ``info["success"]`` tells whether
    the goal is reached. The dynamics are those of ``MazeWorld``. The default goal is the first target goal.
    """

    def __init__(
        self,
        goal: tuple[float, float] = (12.0, 7.0),
        layout: Layout | None = None,
        episode_env_steps: int = EPISODE_ENV_STEPS,
    ) -> None:
        layout = reference_layout(20) if layout is None else layout
        parse_goal({"goal": goal}, layout)
        task = Task(name="goal", spec={"goal": goal})
        super().__init__(MazeWorld(layout, num_lanes=1, episode_env_steps=episode_env_steps), task)
