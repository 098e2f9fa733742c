"""The 2-D navigation of MAML: goals in a square around the start.

Finn et al. 2017 (arXiv 1703.03400), section 5.3 and appendix A.2: reward -distance^2, an episode ends within 0.01 of
the goal or after 100 env_steps. They draw fresh goals for each batch; here they are fixed, drawn once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.core import TaskDistribution
from envs.randomness import keyed_rng
from envs.validation.point_world import PointProblem, point_distribution

PROBLEM = PointProblem("squared distance", episode_env_steps=100, end_radius=0.01)


def make_task_distribution(name: str) -> TaskDistribution:
    """The world with its 160 training and 40 target goals, whatever it is called."""
    return point_distribution(name, PROBLEM, *square_goals(), validation_goals())


def square_goals() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """160 training and 40 target goals, (N, 2), uniform in [-0.5, 0.5]^2, always the same."""
    goals = keyed_rng(0, "navigation-2d", "goals").uniform(-0.5, 0.5, (200, 2))
    return goals[:160], goals[160:]


def validation_goals() -> NDArray[np.float64]:
    """40 goals, (40, 2), uniform in the same square, drawn by a key of their own."""
    return keyed_rng(0, "navigation-2d", "validation goals").uniform(-0.5, 0.5, (40, 2))
