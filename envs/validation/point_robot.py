"""The point robot of PEARL: goals on a half circle, with a dense or a sparse reward.

Rakelly et al. 2019 (arXiv 1903.08254), section 6.3; numbers are the released code's (katerakelly/oyster). That code
trains critics on the dense reward even where contexts see the sparse one: ``dense_rewards`` of the sparse world.

    point-robot          reward -distance to the goal
    point-robot-sparse   reward 1 - distance within 0.2 of the goal, else 0

Episodes end after 20 env_steps and never before.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from envs.core import TaskDistribution
from envs.validation.point_world import PointProblem, point_distribution

PROBLEMS = {
    "point-robot": PointProblem("distance", episode_env_steps=20, end_radius=0.0),
    "point-robot-sparse": PointProblem("near", episode_env_steps=20, end_radius=0.0),
}


def make_task_distribution(name: str) -> TaskDistribution:
    """The world and the tasks called ``name``. Raises ``KeyError`` for a name that is none of ``PROBLEMS``."""
    return point_distribution(name, PROBLEMS[name], *half_circle_goals(), validation_goals())


def half_circle_goals() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """100 training and 20 target goals, (N, 2): 120 at even angles from 0 to pi, every sixth a target.

    Rakelly et al. draw theirs at random once; even angles leave no gap that a target could fall into.
    """
    angles = np.linspace(0.0, math.pi, 120)
    goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    target = np.arange(120) % 6 == 3
    return goals[~target], goals[target]


def validation_goals() -> NDArray[np.float64]:
    """20 goals on the half circle, (20, 2): each halfway between two neighbouring training goals.

    Of the 120 even angles every sixth is a target, its number being 3 more than a multiple of six; these lie between
    the multiples of six and their successors, two and a half intervals from the nearest target.
    """
    angles = (6 * np.arange(20) + 0.5) * math.pi / 119
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
