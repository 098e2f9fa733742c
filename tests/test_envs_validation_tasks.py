"""Validation tasks: apart from training and target tasks, and drawn by the rules that the pages of the worlds state.

Path lengths come from scipy's shortest paths on a graph that is built here.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import lil_array
from scipy.sparse.csgraph import dijkstra

from envs.core import TARGET, VALIDATION, Task
from envs.maze.layout import reference_layout
from envs.maze.validation_goals import cells_apart, goals_like
from envs.registry import task_distribution, task_distribution_names

WITH_WORLD = [name for name in task_distribution_names() if not name.startswith("toy")]
WITH_VALIDATION = [name for name in WITH_WORLD if name != "pendulum"]
MAZES = [name for name in WITH_WORLD if task_distribution(name).family == "maze"]
IMAGE_MAZES = ["image-maze", "image-maze-full"]
Cell = tuple[int, int]


def goals(tasks: tuple[Task, ...]) -> list[Cell]:
    return [(task.spec["goal"][0], task.spec["goal"][1]) for task in tasks]


def path_lengths(size: int, start: Cell) -> dict[Cell, float]:
    """From ``start``: steps to free neighbours cost 1, diagonal ones sqrt(2) where both cells beside them are free."""
    free = [(int(x), int(y)) for x, y in np.argwhere(~reference_layout(size).walls)]
    number = {cell: index for index, cell in enumerate(free)}
    graph = lil_array((len(free), len(free)))
    for x, y in free:
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
            if {(x + dx, y + dy), (x + dx, y), (x, y + dy)} <= number.keys():
                graph[number[x, y], number[x + dx, y + dy]] = math.hypot(dx, dy)
    lengths = dijkstra(graph.tocsr(), directed=False, indices=number[start])
    return {cell: float(lengths[index]) for cell, index in number.items()}


def nearest(cells: list[Cell], others: list[Cell]) -> NDArray[np.float64]:
    """Distance of each of ``cells`` to the nearest of ``others``."""
    return np.linalg.norm(np.array(cells)[:, None] - np.array(others)[None], axis=2).min(axis=1)


@pytest.mark.parametrize("name", WITH_VALIDATION)
def test_no_task_is_of_two_kinds(name: str) -> None:
    distribution = task_distribution(name)
    sets = [distribution.train_tasks, distribution.target_tasks, distribution.validation_tasks]
    specs = [str(dict(task.spec)) for tasks in sets for task in tasks]
    names = [task.name for tasks in sets for task in tasks]
    assert len(set(specs)) == len(specs) and len(set(names)) == len(names)
    tasks = list(distribution.validation_tasks)
    world = distribution.make_world(len(tasks))
    world.start(tasks, [(0, "validation", lane) for lane in range(len(tasks))])
    assert len(world.active_lanes) == len(tasks) > 0


def test_where_there_is_one_task_there_is_none_to_choose_by() -> None:
    assert task_distribution("pendulum").validation_tasks == ()


def test_a_distribution_is_aimed_at_either_set() -> None:
    maze = task_distribution("maze")
    assert maze.aimed_at(TARGET) is maze
    aimed = maze.aimed_at(VALIDATION)
    assert aimed.target_tasks == maze.validation_tasks and aimed.train_tasks == maze.train_tasks
    with pytest.raises(KeyError):
        maze.aimed_at("training")


@pytest.mark.parametrize("name", MAZES)
def test_a_mazes_validation_goals_are_as_far_as_its_targets_and_in_their_region(name: str) -> None:
    distribution = task_distribution(name)
    targets, chosen = goals(distribution.target_tasks), goals(distribution.validation_tasks)
    assert len(chosen) == len(targets) == 10
    lengths = path_lengths(20, (10, 10))
    apart = np.array([abs(lengths[goal] - lengths[target]) for goal, target in zip(chosen, targets, strict=True)])
    # The paths of two mazes of short range leave few cells beside their 30 goals.
    furthest, mean = {"maze-easy": (2.0, 1.0), "maze-medium": (1.5, 0.3)}.get(name, (1.0, 0.25))
    assert apart.max() <= furthest + 1e-9 and apart.mean() <= mean
    low, high = np.min(targets, axis=0) - 3, np.max(targets, axis=0) + 3
    assert (np.array(chosen) >= low).all() and (np.array(chosen) <= high).all()


@pytest.mark.parametrize("name", MAZES)
def test_no_place_that_solves_a_target_of_any_maze_is_a_validation_goal(name: str) -> None:
    chosen = goals(task_distribution(name).validation_tasks)
    assert nearest(chosen, [(10, 10)]).min() > 1.0, "solved at the start"
    assert nearest(chosen, [goal for maze in MAZES for goal in goals(task_distribution(maze).target_tasks)]).min() > 1.0
    if name not in ("maze-easy", "maze-medium"):  # whose targets lie beside training goals, too
        assert nearest(chosen, goals(task_distribution(name).train_tasks)).min() > 1.0


def test_mazes_with_the_same_targets_have_the_same_validation_goals() -> None:
    """So that what was chosen on one number of training tasks can be compared with another."""
    sets = [goals(task_distribution(name).validation_tasks) for name in ("maze", "maze-20", "maze-10", "maze-hard")]
    assert sets == [sets[0]] * 4


@pytest.mark.parametrize("name", IMAGE_MAZES)
def test_the_image_mazes_validation_goals_are_as_far_as_its_targets_and_apart(name: str) -> None:
    distribution = task_distribution(name)
    targets, chosen = goals(distribution.target_tasks), goals(distribution.validation_tasks)
    lengths = path_lengths(40, (10, 24))
    differences = [abs(lengths[goal] - lengths[target]) for goal, target in zip(chosen, targets, strict=True)]
    assert len(chosen) == 10 and max(differences) < 2.0 and np.mean(differences) < 0.4
    others = goals(distribution.train_tasks)
    others += [goal for other in IMAGE_MAZES for goal in goals(task_distribution(other).target_tasks)]
    assert nearest(chosen, others).min() > 2.0
    assert all(nearest([goal], [other for other in chosen if other != goal])[0] > 2.0 for goal in chosen)
    if name == "image-maze":
        assert all(12.0 <= lengths[goal] <= 25.0 for goal in chosen)


def test_the_kitchens_validation_orders_are_to_the_training_orders_as_the_targets_are() -> None:
    kitchen = task_distribution("kitchen")
    train, target, chosen = (
        [tuple(task.spec["subtasks"]) for task in tasks]
        for tasks in (kitchen.train_tasks, kitchen.target_tasks, kitchen.validation_tasks)
    )
    assert len(chosen) == 5 and all(len(set(order)) == 4 for order in chosen)
    follows = {pair for order in train for pair in pairwise(order)}
    for order in (*target, *chosen):
        assert order[:3] in {other[:3] for other in train} and set(pairwise(order)) <= follows
    assert not set(chosen) & (set(train) | set(target))
    assert not {order[:3] for order in chosen} & {order[:3] for order in target}
    assert len({order[:3] for order in chosen}) == 5


@pytest.mark.parametrize("name", ["point-robot", "point-robot-sparse"])
def test_point_robots_validation_goals_lie_between_training_goals(name: str) -> None:
    distribution = task_distribution(name)
    angles = [
        np.array([math.degrees(math.atan2(y, x)) for x, y in (task.spec["goal"] for task in tasks)])
        for tasks in (distribution.train_tasks, distribution.target_tasks, distribution.validation_tasks)
    ]
    train, target, chosen = angles
    interval = 180 / 119
    assert len(chosen) == 20 and chosen.min() > 0 and chosen.max() < 180
    np.testing.assert_allclose(np.abs(chosen[:, None] - train[None]).min(axis=1), interval / 2)
    np.testing.assert_allclose(np.abs(chosen[:, None] - target[None]).min(axis=1), 2.5 * interval)


def test_navigations_validation_goals_are_drawn_as_its_others_are() -> None:
    navigation = task_distribution("navigation-2d")
    chosen = np.array([task.spec["goal"] for task in navigation.validation_tasks])
    assert chosen.shape == (40, 2) and np.abs(chosen).max() <= 0.5
    assert chosen.std(axis=0) == pytest.approx([1 / math.sqrt(12)] * 2, rel=0.2)


def test_validation_tasks_are_where_they_were() -> None:
    """Presets are chosen by them: a digest of the lists, recorded when they were drawn first."""
    text = ";".join(
        f"{name}: {[dict(t.spec) for t in task_distribution(name).validation_tasks]}" for name in WITH_WORLD
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e7c344b19af4a0b5"


# -- the pieces, where the right answer is plain ---------------------------------------------------


def test_goals_are_matched_by_path_length_one_target_after_the_other() -> None:
    lengths = np.full((8, 2), np.inf)
    lengths[:, 0] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.inf]
    rng = np.random.default_rng(0)
    assert goals_like([(3, 0), (3, 0), (6, 0)], [(3, 0), (4, 0), (5, 0), (7, 0)], lengths, rng) == (
        (3, 0), (4, 0), (5, 0),
    )  # fmt: skip
    assert goals_like([(3, 0), (3, 0)], [(3, 0), (4, 0), (6, 0)], lengths, rng, apart=1.0) == ((3, 0), (6, 0))
    with pytest.raises(ValueError, match="2 candidates for 2 goals: only 1 were found"):
        goals_like([(3, 0), (3, 0)], [(3, 0), (7, 0)], lengths, rng)


def test_equally_near_candidates_are_drawn() -> None:
    lengths = np.zeros((20, 1))
    drawn = {goals_like([(0, 0)], [(x, 0) for x in range(20)], lengths, np.random.default_rng(i)) for i in range(50)}
    assert len(drawn) > 10


def test_cells_apart_are_free_and_in_the_rectangle() -> None:
    layout = reference_layout(20)
    found = cells_apart(layout, ((1, 1), (6, 6)), [([(1, 1)], 2.0), ([(6, 6)], 0.0)])
    by_hand = [
        (x, y)
        for x in range(1, 7)
        for y in range(1, 7)
        if layout.is_free(x, y) and (x - 1) ** 2 + (y - 1) ** 2 > 4 and (x, y) != (6, 6)
    ]
    assert found == by_hand
