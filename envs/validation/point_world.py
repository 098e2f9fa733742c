"""A point in the plane that is moved towards a goal: the mechanics of PEARL's and MAML's toy problems.

Start at the origin; observation = position; an action in [-1, 1] moves by up to 0.1 on each axis (both papers). What a
problem adds is its reward, its time limit and whether the goal ends the episode (``PointProblem``).

Moves are bounded on each axis by itself, nothing is random and rewards fall with distance, so the best and the worst
return of any policy are known exactly: straight to the goal on each axis, and straight away from it.

Axes: L lane, A active lane, N task, T time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.core import EpisodeRenderer, Task, TaskDistribution
from envs.lane_world import LaneWorld, Rows
from envs.registry import task_distribution_summary
from envs.validation.pictures import draw_point_paths

LARGEST_MOVE = 0.1
"""Of one env_step, on each axis (Rakelly et al., Finn et al.)."""
NEAR_RADIUS = 0.2
"""Of the sparse reward (released PEARL)."""

RewardKind = Literal["distance", "near", "squared distance"]


@dataclass(frozen=True)
class PointProblem:
    """What distinguishes the worlds of points."""

    reward: RewardKind
    """``distance``: -distance; ``near``: 1 - distance within ``NEAR_RADIUS``, else 0; ``squared distance``:
    -distance^2. Each of the distance to the goal after the move."""
    episode_env_steps: int
    end_radius: float
    """The episode terminates when the point is closer than this to its goal; 0: never."""


class PointWorld(LaneWorld):
    """L episodes of moving to a goal, stepped together; a task's spec is ``{"goal": [x, y]}``.

    Observation: position, (L, 2) float32. Action: move in [-1, 1] (clipped), (L, 2), in units of ``LARGEST_MOVE``.
    """

    def __init__(self, problem: PointProblem, num_lanes: int, threads: int = 1) -> None:
        """``threads`` is of no use here: a step is a few array operations."""
        reach = LARGEST_MOVE * problem.episode_env_steps
        space = gym.spaces.Box(-reach, reach, (2,), dtype=np.float32)
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
        # In double precision, so that no rounding makes a move longer than the largest.
        self._positions[rows] += LARGEST_MOVE * actions.astype(np.float64)
        self._observe(rows)
        distances = np.linalg.norm(self._positions[rows] - self._goals[rows], axis=1)
        return rewards(self._problem.reward, distances), distances < self._problem.end_radius


def rewards(kind: RewardKind, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points at these distances from their goals, after the move; in the shape of ``distances``."""
    if kind == "near":
        return np.where(distances <= NEAR_RADIUS, 1.0 - distances, 0.0)
    return -distances if kind == "distance" else -np.square(distances)


def parse_goal(task: Task) -> tuple[float, float]:
    """The goal of a task. Raises ``ValueError`` unless it is two finite numbers."""
    goal = task.spec.get("goal")
    try:
        x, y = (float(coordinate) for coordinate in goal)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ValueError(f"task {task.name} needs a goal [x, y]; got {goal!r}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"task {task.name} needs a goal of two finite numbers; got {goal!r}")
    return x, y


# -- what is possible ------------------------------------------------------------------------------


def best_returns(problem: PointProblem, goals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the return of going straight to each of ``goals`` (N, 2) on each axis; no policy does better."""
    moved = LARGEST_MOVE * np.arange(1, problem.episode_env_steps + 1)
    left = np.maximum(np.abs(goals)[:, None] - moved[:, None], 0.0)  # (N, T, 2)
    distances = np.linalg.norm(left, axis=2)
    arrived_before = np.cumsum(distances < problem.end_radius, axis=1) - (distances < problem.end_radius) > 0
    returns: NDArray[np.float64] = np.where(arrived_before, 0.0, rewards(problem.reward, distances)).sum(axis=1)
    return returns


def worst_returns(problem: PointProblem, goals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the return of going straight away from each of ``goals`` (N, 2) on each axis; no policy does worse."""
    moved = LARGEST_MOVE * np.arange(1, problem.episode_env_steps + 1)
    distances = np.linalg.norm(np.abs(goals)[:, None] + moved[:, None], axis=2)
    returns: NDArray[np.float64] = rewards(problem.reward, distances).sum(axis=1)
    return returns


def goals_of(tasks: Sequence[Task]) -> NDArray[np.float64]:
    """(N, 2)"""
    return np.array([parse_goal(task) for task in tasks])


def distance_rewards(task: Task, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """-distance from the goal of ``task``, of positions (T, 2) after each env_step: (T,)."""
    distances = np.linalg.norm(observations.astype(np.float64) - parse_goal(task), axis=1)
    return rewards("distance", distances).astype(np.float32)


# -- task distributions ----------------------------------------------------------------------------


def point_distribution(
    name: str,
    problem: PointProblem,
    train_goals: NDArray[np.float64],
    target_goals: NDArray[np.float64],
    validation_goals: NDArray[np.float64],
) -> TaskDistribution:
    """The world of ``problem`` with these goals, (N, 2) each, as training, target and validation tasks. Its family is
    its name."""
    goals = np.concatenate([train_goals, target_goals, validation_goals])
    return TaskDistribution(
        name=name,
        family=name,
        summary=task_distribution_summary(name),
        train_tasks=_tasks("train", train_goals),
        target_tasks=_tasks("target", target_goals),
        make_world=partial(PointWorld, problem),
        world_fingerprint=f"point world 2; {problem}; largest move {LARGEST_MOVE}; near {NEAR_RADIUS}",
        observation_dim=2,
        action_dim=2,
        episode_env_steps=problem.episode_env_steps,
        score_range=(float(worst_returns(problem, goals).min()), float(best_returns(problem, goals).max())),
        data_source=None,
        dense_rewards=distance_rewards if problem.reward == "near" else None,
        draw_paths=draw_point_paths,
        episode_renderer=EpisodeRenderer(endings=(".png",), render=draw_point_paths),
        validation_tasks=_tasks("validation", validation_goals),
    )


def _tasks(kind: str, goals: NDArray[np.float64]) -> tuple[Task, ...]:
    return tuple(Task(f"{kind}-{i}", {"goal": [float(x), float(y)]}) for i, (x, y) in enumerate(goals))
