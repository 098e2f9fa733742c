"""The kitchen's task distribution: 23 training and 10 target sequences of four subtasks (paper, appendix G.2).

The five validation sequences are ours: ``validation_tasks``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.core import Task, TaskDistribution
from envs.kitchen.data import KITCHEN_DATA_PRESETS, KitchenDataSource
from envs.kitchen.physics import ACTION_DIM, dynamics_fingerprint
from envs.kitchen.pictures import draw_orders, draw_progress, draw_progress_on
from envs.kitchen.renderer import EPISODE_RENDERER
from envs.kitchen.subtasks import SUBTASK_NAMES, SUCCESS_DISTANCE, completed, parse_subtasks
from envs.kitchen.world import EPISODE_ENV_STEPS, OBSERVATION_DIM, KitchenWorld
from envs.randomness import keyed_rng
from envs.registry import task_distribution_summary

SUBTASKS_PER_TASK = 4
VALIDATION_TASKS = 5
_VALIDATION_SEED = 0


def make_task_distribution(name: str) -> TaskDistribution:
    """The kitchen distribution called ``name``."""
    return TaskDistribution(
        name=name,
        family="kitchen",
        summary=task_distribution_summary(name),
        train_tasks=tasks_of("train"),
        target_tasks=tasks_of("target"),
        make_world=KitchenWorld,
        world_fingerprint=(f"kitchen world 1; subtasks done within {SUCCESS_DISTANCE}; {dynamics_fingerprint()}"),
        observation_dim=OBSERVATION_DIM,
        action_dim=ACTION_DIM,
        episode_env_steps=EPISODE_ENV_STEPS,
        score_range=(0.0, float(SUBTASKS_PER_TASK)),
        data_source=KitchenDataSource(),
        data_presets=KITCHEN_DATA_PRESETS,
        draw_paths=draw_progress,
        episode_renderer=EPISODE_RENDERER,
        describe_episodes=describe_episodes,
        score_name="completed subtasks",
        draw_paths_on=draw_progress_on,
        draw_tasks=partial(
            draw_orders,
            (
                ("training tasks", tasks_of("train")),
                ("target tasks", tasks_of("target")),
                ("validation tasks", validation_tasks()),
            ),
        ),
        validation_tasks=validation_tasks(),
    )


@cache
def tasks_of(split: str) -> tuple[Task, ...]:
    """The tasks of ``train`` or ``target``, in the paper's order."""
    text = resources.files("envs.kitchen").joinpath("data/tasks.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["split"] == split]
    return tuple(sequence_task([row[f"subtask{i + 1}"] for i in range(SUBTASKS_PER_TASK)]) for row in rows)


@cache
def validation_tasks() -> tuple[Task, ...]:
    """Five sequences that are to the training tasks as the target tasks are, and that no target task begins like.

    Every target task begins as a training task does, for three subtasks, and ends with a subtask that follows the third
    somewhere in a training task. So do these; none is a training task, and none has its first three subtasks in common
    with a target task or with another of the five. Which of the sequences that are left are taken is a keyed draw.
    """
    train, target = (
        [tuple(task.spec["subtasks"]) for task in tasks_of(split)] for split in ("train", "target")
    )  # fmt: skip
    follows = {pair for order in train for pair in pairwise(order)}
    beginnings = sorted({order[:3] for order in train} - {order[:3] for order in target})
    endings = {
        first: [
            order
            for last in SUBTASK_NAMES
            if last not in first and (first[-1], last) in follows and (order := (*first, last)) not in train
        ]
        for first in beginnings
    }
    rng = keyed_rng(_VALIDATION_SEED, "kitchen", "validation tasks")
    possible = [first for first in beginnings if endings[first]]
    drawn = [possible[i] for i in rng.permutation(len(possible))[:VALIDATION_TASKS]]
    return tuple(sequence_task(list(endings[first][rng.integers(len(endings[first]))])) for first in drawn)


def sequence_task(subtasks: list[str]) -> Task:
    """The task of completing ``subtasks`` in order. Raises ``ValueError`` for an unknown or repeated subtask."""
    parse_subtasks(subtasks)
    return Task(name=" > ".join(subtasks), spec={"subtasks": list(subtasks)})


def describe_episodes(observations_of_episodes: Sequence[NDArray[np.floating[Any]]]) -> Mapping[str, float]:
    """``completed_subtasks``: how many subtasks of any kind an episode (T, 30) completes, on average."""
    return {"completed_subtasks": float(np.mean([completed(o).any(axis=0).sum() for o in observations_of_episodes]))}
