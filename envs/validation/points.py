"""A point in the plane that is moved towards a goal: the toy problems of PEARL and MAML.

| | point-robot | point-robot-sparse | navigation-2d |
|---|---|---|---|
| from | Rakelly et al. 2019 (arXiv 1903.08254), section 6.3 | the same | Finn et al. 2017 (arXiv 1703.03400), 5.1 |
| goals | on the upper half of the unit circle | the same | uniform in the square of side 1 around the start |
| reward | -distance to the goal | 1 - distance within 0.2 of the goal, else 0 | -distance^2 |
| ends | after 20 env_steps | the same | within 0.01 of the goal, or after 100 env_steps |

Everywhere: start at the origin, observation = position, an action in [-1, 1] moves by up to 0.1 on each axis.
Numbers of the point robot are the released code's (katerakelly/oyster). That code trains critics on the dense reward
even where contexts see the sparse one; here the sparse world has no other reward. Finn et al. draw fresh goals for
each batch; here goals are fixed: evenly spaced on the half circle, drawn once in the square.

Axes: L lane, A active lane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import Task, TaskDistribution
from envs.lane_world import LaneWorld, Rows
from envs.pictures import new_figure, save_figure
from envs.randomness import keyed_rng
from envs.registry import task_distribution_summary

LARGEST_MOVE = 0.1
"""Of one env_step, on each axis (both papers)."""

RewardKind = Literal["distance", "near", "squared distance"]


@dataclass(frozen=True)
class PointProblem:
    """What distinguishes the three worlds."""

    reward: RewardKind
    episode_env_steps: int
    end_radius: float
    """The episode terminates when the point is this close to its goal; 0: never."""
    score_range: tuple[float, float]
    """Lowest and highest return, for a point that stays within the unit circle around the goals."""


NEAR_RADIUS = 0.2
"""Of the sparse reward (released PEARL)."""

PROBLEMS = {
    "point-robot": PointProblem("distance", 20, 0.0, (-40.0, 0.0)),
    "point-robot-sparse": PointProblem("near", 20, 0.0, (0.0, 20.0)),
    "navigation-2d": PointProblem("squared distance", 100, 0.01, (-200.0, 0.0)),
}


class PointWorld(LaneWorld):
    """L episodes of moving to a goal, stepped together; a task's spec is ``{"goal": [x, y]}``.

    Observation: position, (L, 2) float32. Action: move in [-1, 1] (clipped), (L, 2), in units of ``LARGEST_MOVE``.
    """

    def __init__(self, problem: PointProblem, num_lanes: int, threads: int = 1) -> None:
        """``threads`` is of no use here: a step is a few array operations."""
        space = gym.spaces.Box(-math.inf, math.inf, (2,), dtype=np.float32)
        actions = gym.spaces.Box(-1.0, 1.0, (2,), dtype=np.float32)
        super().__init__(num_lanes, space, actions, problem.episode_env_steps)
        self._problem = problem
        self._positions = np.zeros((num_lanes, 2))
        self._goals = np.zeros((num_lanes, 2))

    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        goals = [parse_goal(task) for task in tasks]
        self._goals[: len(tasks)] = goals
        self._positions[:] = 0.0

    def _observe(self, rows: Rows) -> None:
        self._observations[rows] = self._positions[rows]

    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        self._positions[rows] += LARGEST_MOVE * actions
        self._observe(rows)
        distances = np.linalg.norm(self._positions[rows] - self._goals[rows], axis=1)
        return rewards(self._problem.reward, distances), distances < self._problem.end_radius


def rewards(kind: RewardKind, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points at these distances (A,) from their goals, after the move."""
    if kind == "near":
        return np.where(distances <= NEAR_RADIUS, 1.0 - distances, 0.0)
    return -distances if kind == "distance" else -np.square(distances)


def parse_goal(task: Task) -> tuple[float, float]:
    """The goal of a task. Raises ``ValueError`` unless it is two numbers."""
    goal = task.spec.get("goal")
    try:
        x, y = (float(coordinate) for coordinate in goal)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ValueError(f"task {task.name} needs a goal [x, y]; got {goal!r}") from None
    return x, y


def make_task_distribution(name: str) -> TaskDistribution:
    """The world and the tasks called ``name``. Raises ``KeyError`` for a name that is none of ``PROBLEMS``."""
    problem = PROBLEMS[name]
    train_goals, target_goals = square_goals() if name == "navigation-2d" else half_circle_goals()
    return TaskDistribution(
        name=name,
        family="navigation-2d" if name == "navigation-2d" else "point-robot",
        summary=task_distribution_summary(name),
        train_tasks=_tasks("train", train_goals),
        target_tasks=_tasks("target", target_goals),
        make_world=partial(PointWorld, problem),
        world_fingerprint=f"point world 1; {problem}; largest move {LARGEST_MOVE}; near {NEAR_RADIUS}",
        observation_dim=2,
        action_dim=2,
        episode_env_steps=problem.episode_env_steps,
        score_range=problem.score_range,
        data_source=None,
        draw_paths=draw_paths,
    )


def half_circle_goals() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """100 training and 20 target goals, (N, 2): 120 at even angles from 0 to pi, every sixth a target."""
    angles = np.linspace(0.0, math.pi, 120)
    goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    target = np.arange(120) % 6 == 3
    return goals[~target], goals[target]


def square_goals() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """160 training and 40 target goals, (N, 2), uniform in [-0.5, 0.5]^2, always the same."""
    goals = keyed_rng(0, "navigation-2d", "goals").uniform(-0.5, 0.5, (200, 2))
    return goals[:160], goals[160:]


def _tasks(kind: str, goals: NDArray[np.float64]) -> tuple[Task, ...]:
    return tuple(Task(f"{kind}-{i}", {"goal": [float(x), float(y)]}) for i, (x, y) in enumerate(goals))


def draw_paths(
    observations_of_episodes: Sequence[NDArray[np.floating[Any]]], tasks: Sequence[Task], path: Path, title: str
) -> None:
    """Write a PNG of episodes (T, 2) and, where there is one task per episode, their goals in the same colour."""
    figure = new_figure(5.0, 5.0)
    axes = figure.subplots()
    for index, observations in enumerate(observations_of_episodes):
        colour = f"C{index % 10}"
        axes.plot(observations[:, 0], observations[:, 1], color=colour, linewidth=1.1, alpha=0.7)
        if tasks:
            axes.plot(*parse_goal(tasks[index]), "o", color=colour, markeredgecolor="black", markersize=6)
    axes.plot(0.0, 0.0, "x", color="black")
    axes.set(aspect="equal", xlabel="x", ylabel="y", title=title)
    save_figure(figure, path)
