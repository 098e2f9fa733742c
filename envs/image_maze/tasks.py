"""The image maze's task distributions (paper appendix C): goals in the 40x40 maze, in which no data was collected.

The paper's goals are not published. It says that they are of the complexity of SPiRL's task (from (10, 24) to (18, 8):
31.7 cells by the shortest path) and take 710 env_steps on average until completion. Ours are drawn by path length, 12
to 25 cells: trained policies that succeed in the maze take 39 env_steps for each cell of a path of 15 or more (the
planner's controller takes 23), so that 710 are 18 cells. ``image-maze-full`` draws from all cells that are not next to
the start, SPiRL's distance among them, for the paper's negative result. ``validation_goals`` are drawn beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from envs.core import EpisodeRenderer, Task, TaskDistribution
from envs.image_maze.data import IMAGE_MAZE_DATA_PRESETS, ImageMazeDataSource, recorded_in
from envs.image_maze.pictures import draw_episodes, draw_recorded_episode
from envs.image_maze.views import OBSERVATION_DIM, MazeViews
from envs.image_maze.world import START_POSITION, ImageMazeWorld, note_previous
from envs.maze.coverage import describe_paths
from envs.maze.layout import Layout, reference_layout
from envs.maze.physics import dynamics_fingerprint
from envs.maze.pictures import draw_goals, draw_goals_on, draw_paths_on
from envs.maze.planner import Cell, path_length_map
from envs.maze.reach import MazeReach, landmarks
from envs.maze.tasks import goal_task, goals_of_tasks
from envs.maze.validation_goals import cells_apart, goals_like
from envs.maze.world import (
    ACTION_DIM,
    EPISODE_ENV_STEPS,
    START_POSITION_NOISE,
    START_VELOCITY_NOISE,
    SUCCESS_RADIUS,
)
from envs.randomness import keyed_rng
from envs.registry import task_distribution_summary

START_CELL: Cell = (round(START_POSITION[0]), round(START_POSITION[1]))
TRAIN_TASKS = 20
TARGET_TASKS = 10
PATH_LENGTHS = {"image-maze": (12.0, 25.0), "image-maze-full": (5.0, math.inf)}
"""Distribution -> shortest and longest path from the start to a goal, in cells."""
_DRAW_SEED = 0
OWN_TRAJECTORIES = 64
"""Recorded in the 40x40 maze, to judge on them what was learned in others."""


def make_task_distribution(name: str) -> TaskDistribution:
    """The image maze distribution called ``name``. Raises ``ValueError`` for a name that is none of them."""
    layout = _layout()
    train_goals, target_goals = goals_of(name)
    extra_goals = validation_goals(name)
    return TaskDistribution(
        name=name,
        family="image-maze",
        summary=task_distribution_summary(name),
        train_tasks=tuple(goal_task(goal) for goal in train_goals),
        target_tasks=tuple(goal_task(goal) for goal in target_goals),
        make_world=partial(ImageMazeWorld, layout),
        world_fingerprint=(
            f"image maze world 1; start {START_POSITION} noise {START_POSITION_NOISE} {START_VELOCITY_NOISE}; "
            f"success radius {SUCCESS_RADIUS}; {MazeViews.implementation}; {dynamics_fingerprint(layout)}"
        ),
        observation_dim=OBSERVATION_DIM,
        action_dim=ACTION_DIM,
        episode_env_steps=EPISODE_ENV_STEPS,
        score_range=(0.0, 1.0),
        data_source=ImageMazeDataSource(layout),
        data_presets=IMAGE_MAZE_DATA_PRESETS,
        own_trajectories=partial(recorded_in, layout, OWN_TRAJECTORIES, seed=0),
        draw_paths=partial(draw_episodes, layout, START_POSITION),
        describe_episodes=partial(describe_paths, layout),
        make_reach=partial(make_reach, layout),
        episode_renderer=EpisodeRenderer(
            endings=(".png",),
            render=partial(draw_episodes, layout, START_POSITION),
            render_in_scene=draw_recorded_episode,
        ),
        score_name="success",
        draw_paths_on=partial(draw_paths_on, layout, START_POSITION),
        views=MazeViews(layout),
        draw_tasks=partial(draw_goals_on, layout, START_POSITION, train_goals, target_goals, extra_goals),
        validation_tasks=tuple(goal_task(goal) for goal in extra_goals),
    )


def make_reach(layout: Layout, tasks: Sequence[Task] | None, choices: int) -> MazeReach:
    """See ``TaskDistribution.make_reach``."""
    goals = landmarks(layout, START_POSITION) if tasks is None else goals_of_tasks(tasks)
    return MazeReach(layout, START_POSITION, goals, choices, OBSERVATION_DIM, note_previous)


@cache
def _layout() -> Layout:
    return reference_layout(40)


def goals_of(name: str) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """Training and target goals of a distribution. Raises ``ValueError`` for an unknown name."""
    if name not in PATH_LENGTHS:
        raise ValueError(f"no image maze task distribution {name!r}; valid: {', '.join(PATH_LENGTHS)}")
    goals = draw_goals_apart(_layout(), PATH_LENGTHS[name], TRAIN_TASKS + TARGET_TASKS, (name, "goals"))
    return goals[:TRAIN_TASKS], goals[TRAIN_TASKS:]


def draw_goals_apart(
    layout: Layout, path_lengths: tuple[float, float], count: int, key: tuple[str, ...]
) -> tuple[Cell, ...]:
    """``count`` cells drawn at random, in random order, by the length of their shortest path from the start.

    They lie further apart than two success radii: no place solves two tasks, and so none that training rewards solves a
    target task. Raises ``ValueError`` if the layout has too few such cells.
    """
    lengths = path_length_map(layout, START_CELL)
    shortest, longest = path_lengths
    candidates = np.argwhere(np.isfinite(lengths) & (lengths >= shortest) & (lengths <= longest))
    goals: list[Cell] = []
    for x, y in keyed_rng(_DRAW_SEED, *key).permutation(candidates).tolist():
        if len(goals) < count and all(math.dist(goal, (x, y)) > 2 * SUCCESS_RADIUS for goal in goals):
            goals.append((x, y))
    if len(goals) < count:
        raise ValueError(
            f"{layout.name} has {len(goals)} goals apart from each other at {path_lengths} cells; not {count}"
        )
    return tuple(goals)


@cache
def validation_goals(name: str) -> tuple[Cell, ...]:
    """One goal for each target goal of a distribution, as far from the start by the shortest path.

    Candidates are the cells whose path is as short or long as ``PATH_LENGTHS`` allows, further than two success radii
    away from the training goals of the distribution and from the target goals of both: no place solves two tasks. For
    each target goal in turn the candidate is taken whose path is most nearly as long, a keyed draw deciding between
    equals, and further than two success radii from those taken before. Raises ``ValueError`` for an unknown name.
    """
    train, targets = goals_of(name)
    layout, apart = _layout(), 2 * SUCCESS_RADIUS
    everywhere = ((0, 0), (layout.walls.shape[0] - 1, layout.walls.shape[1] - 1))
    taken = [*train, *(goal for other in PATH_LENGTHS for goal in goals_of(other)[1])]
    lengths = path_length_map(layout, START_CELL)
    shortest, longest = PATH_LENGTHS[name]
    candidates = [
        cell for cell in cells_apart(layout, everywhere, [(taken, apart)]) if shortest <= lengths[cell] <= longest
    ]
    return goals_like(targets, candidates, lengths, keyed_rng(_DRAW_SEED, name, "validation goals"), apart)


def draw_task_distributions(path: Path) -> None:
    """Write a PNG with the goals of both distributions on the map (the paper's figure 11 a, b)."""
    panels = [(name, *goals_of(name), validation_goals(name)) for name in PATH_LENGTHS]
    draw_goals(_layout(), START_POSITION, panels, path)
