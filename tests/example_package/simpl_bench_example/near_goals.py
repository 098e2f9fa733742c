"""Goals next to the start of the maze: a small set of tasks."""

from dataclasses import replace

from envs.core import Task
from envs.registry import task_distribution


def make_task_distribution(name):
    """The maze with its world and offline data, two training goals, one target goal and one validation goal."""
    maze = task_distribution("maze")
    goals = tuple(Task(f"goal-{x}-{y}", {"goal": [x, y]}) for x, y in ((9, 10), (11, 10), (10, 11), (10, 9)))
    tasks = {"train_tasks": goals[:2], "target_tasks": goals[2:3], "validation_tasks": goals[3:]}
    return replace(maze, name=name, summary="goals next to the start", **tasks)
