"""The maze's task distributions (paper sections 5.1.1 and 5.3, appendices A and G.1).

Goals of ``maze``, ``maze-20``, ``maze-10``, ``maze-top-top`` and ``maze-top-bottom`` are the released lists. For the
task-length study (appendix A, figure 7) no lists were published; ``short_range_goals`` says how ours are chosen.
Validation goals are ours throughout: ``validation_goals``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np

from envs.core import EpisodeRenderer, Task, TaskDistribution
from envs.maze.coverage import describe_paths
from envs.maze.data import MAZE_DATA_PRESETS, MazeDataSource
from envs.maze.layout import Layout, reference_goals, reference_layout
from envs.maze.physics import dynamics_fingerprint
from envs.maze.pictures import draw_goals, draw_goals_on, draw_paths, draw_paths_on
from envs.maze.planner import Cell, path_length_map
from envs.maze.reach import MazeReach, landmarks
from envs.maze.validation_goals import cells_apart, goals_like
from envs.maze.world import (
    ACTION_DIM,
    EPISODE_ENV_STEPS,
    OBSERVATION_DIM,
    START_POSITION,
    START_POSITION_NOISE,
    START_VELOCITY_NOISE,
    SUCCESS_RADIUS,
    MazeWorld,
)
from envs.randomness import keyed_rng
from envs.registry import task_distribution_summary

SHORT_RANGE_CELLS = (4.0, 9.0)
"""Path lengths from the start of the goals of ``maze-easy`` and ``maze-medium``; those of ``maze`` reach 20.2."""
SHORT_RANGE_TRAIN_TASKS = 20
SHORT_RANGE_TARGET_TASKS = 10

_RELEASED_SPLITS = {
    "maze": ("train-40", "target"),
    "maze-hard": ("train-40", "target"),
    "maze-20": ("train-20", "target"),
    "maze-10": ("train-10", "target"),
    "maze-top-top": ("train-top", "target-top"),
    "maze-top-bottom": ("train-top", "target-bottom"),
}
_SHORT_RANGE = ("maze-easy", "maze-medium")
TASK_DISTRIBUTION_NAMES = (*_RELEASED_SPLITS, *_SHORT_RANGE)
VALIDATION_MARGIN_CELLS = 3
"""How far outside the rectangle that the target goals span a validation goal may lie."""
_VALIDATION_SEED = 0


def make_task_distribution(name: str) -> TaskDistribution:
    """The maze distribution called ``name``. Raises ``ValueError`` for a name that is none of them."""
    layout = _layout()
    train_goals, target_goals = goals_of(name)
    extra_goals = validation_goals(name)
    draw = partial(draw_paths, layout, START_POSITION)
    return TaskDistribution(
        name=name,
        family="maze",
        summary=task_distribution_summary(name),
        train_tasks=tuple(goal_task(goal) for goal in train_goals),
        target_tasks=tuple(goal_task(goal) for goal in target_goals),
        make_world=partial(MazeWorld, layout),
        world_fingerprint=(
            f"maze world 1; start {START_POSITION} noise {START_POSITION_NOISE} {START_VELOCITY_NOISE}; "
            f"success radius {SUCCESS_RADIUS}; {dynamics_fingerprint(layout)}"
        ),
        observation_dim=OBSERVATION_DIM,
        action_dim=ACTION_DIM,
        episode_env_steps=EPISODE_ENV_STEPS,
        score_range=(0.0, 1.0),
        data_source=MazeDataSource(layout),
        data_presets=MAZE_DATA_PRESETS,
        draw_paths=draw,
        describe_episodes=partial(describe_paths, layout),
        make_reach=partial(make_reach, layout),
        episode_renderer=EpisodeRenderer(endings=(".png",), render=draw),
        score_name="success",
        draw_paths_on=partial(draw_paths_on, layout, START_POSITION),
        draw_tasks=partial(draw_goals_on, layout, START_POSITION, train_goals, target_goals, extra_goals),
        validation_tasks=tuple(goal_task(goal) for goal in extra_goals),
    )


def make_reach(layout: Layout, tasks: Sequence[Task] | None, choices: int) -> MazeReach:
    """See ``TaskDistribution.make_reach``."""
    goals = landmarks(layout, START_POSITION) if tasks is None else goals_of_tasks(tasks)
    return MazeReach(layout, START_POSITION, goals, choices, OBSERVATION_DIM)


def goals_of_tasks(tasks: Sequence[Task]) -> list[Cell]:
    """The goal cells of tasks."""
    return [(int(x), int(y)) for x, y in (task.spec["goal"] for task in tasks)]


@cache
def _layout() -> Layout:
    return reference_layout(20)


def goal_task(goal: Cell) -> Task:
    """The task of reaching ``goal``."""
    return Task(name=f"goal-{goal[0]}-{goal[1]}", spec={"goal": [goal[0], goal[1]]})


def goals_of(name: str) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """Training and target goals of a maze distribution. Raises ``ValueError`` for an unknown name."""
    if name in _RELEASED_SPLITS:
        train_split, target_split = _RELEASED_SPLITS[name]
        return reference_goals()[train_split], reference_goals()[target_split]
    if name in _SHORT_RANGE:
        return short_range_goals(_layout(), one_cluster=name == "maze-easy")
    raise ValueError(f"no maze task distribution {name!r}; valid: {', '.join(TASK_DISTRIBUTION_NAMES)}")


def short_range_goals(layout: Layout, one_cluster: bool) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """20 training and 10 target goals at short range, for the task-length study (appendix A).

    Candidates are the cells whose shortest path from the start is within ``SHORT_RANGE_CELLS`` and that lie further
    than the success radius away. 30 of them are taken, sorted by direction from the start. Without ``one_cluster``
    (medium: larger variance) they lie at even intervals all around. With it (easy: adjacent goals, small variance)
    they are a candidate and the 29 others with the shortest paths to it, the candidate being the one for which
    these paths are shortest in sum. Every third goal is a target goal, so training and target goals interleave
    and are disjoint. Raises ``ValueError`` if the layout has too few candidates.
    """
    start = (round(START_POSITION[0]), round(START_POSITION[1]))
    lengths = path_length_map(layout, start)
    low, high = SHORT_RANGE_CELLS
    candidates = [
        (int(x), int(y))
        for x, y in layout.free_cells
        if low <= lengths[x, y] <= high and math.dist((x, y), START_POSITION) > SUCCESS_RADIUS
    ]
    candidates.sort(key=lambda cell: (math.atan2(cell[1] - start[1], cell[0] - start[0]), lengths[cell], cell))
    wanted = SHORT_RANGE_TRAIN_TASKS + SHORT_RANGE_TARGET_TASKS
    if len(candidates) < wanted:
        raise ValueError(f"{layout.name} has {len(candidates)} cells at short range; {wanted} are needed")
    if one_cluster:
        xs, ys = np.transpose(candidates)
        lengths_between = np.array([path_length_map(layout, cell)[xs, ys] for cell in candidates])
        centre = int(np.argmin(np.sort(lengths_between, axis=1)[:, :wanted].sum(axis=1)))
        chosen = np.sort(np.argsort(lengths_between[centre], kind="stable")[:wanted])
    else:
        chosen = np.linspace(0, len(candidates), wanted, endpoint=False).astype(int)
    goals = [candidates[index] for index in chosen]
    train = tuple(goal for index, goal in enumerate(goals) if index % 3 != 1)
    target = tuple(goal for index, goal in enumerate(goals) if index % 3 == 1)
    return train, target


@cache
def validation_goals(name: str) -> tuple[Cell, ...]:
    """One goal for each target goal of a maze distribution, as far from the start by the shortest path.

    Distributions with the same target goals share them. Candidates are the free cells of the region of the target goals
    (the rectangle that they span, ``VALIDATION_MARGIN_CELLS`` wider on each side) that lie further than the success
    radius away from the start, from every target goal of *any* maze distribution, and from the training goals of all
    distributions with these target goals. In ``maze-easy`` and ``maze-medium`` target goals lie next to training goals,
    and so may these: there they only are no training goals. For each target goal in turn the candidate is taken whose
    path is most nearly as long, a keyed draw deciding between equals; no two lie within the success radius of each
    other where no two target goals do. Raises ``ValueError`` for an unknown name.
    """
    known = {other: goals_of(other) for other in TASK_DISTRIBUTION_NAMES}
    _, targets = known[name] if name in known else goals_of(name)
    alike = [other for other, (_, goals) in known.items() if goals == targets]
    low, high = np.min(targets, axis=0) - VALIDATION_MARGIN_CELLS, np.max(targets, axis=0) + VALIDATION_MARGIN_CELLS
    start = (round(START_POSITION[0]), round(START_POSITION[1]))
    candidates = cells_apart(
        _layout(),
        ((int(low[0]), int(low[1])), (int(high[0]), int(high[1]))),
        [
            ([start, *(goal for _, goals in known.values() for goal in goals)], SUCCESS_RADIUS),
            ([goal for other in alike for goal in known[other][0]], 0.0 if name in _SHORT_RANGE else SUCCESS_RADIUS),
        ],
    )
    rng = keyed_rng(_VALIDATION_SEED, alike[0], "validation goals")
    apart = SUCCESS_RADIUS if all(math.dist(*pair) > SUCCESS_RADIUS for pair in combinations(targets, 2)) else 0.0
    return goals_like(targets, candidates, path_length_map(_layout(), start), rng, apart)


def draw_task_distributions(path: Path) -> None:
    """Write a PNG with the goals of every maze distribution on the map (the paper's figures 7, 12 and 13)."""
    panels = [
        (name, *goals_of(name), validation_goals(name)) for name in TASK_DISTRIBUTION_NAMES if name != "maze-hard"
    ]
    draw_goals(_layout(), START_POSITION, panels, path)
