"""Task distributions by name: what ``--env`` can be.

Everything is imported lazily, so listing names needs neither MuJoCo nor matplotlib. Other packages add theirs through
the entry point group ``simpl_bench.task_distributions`` (name = distribution, value = ``module:factory``) or by
calling ``register_task_distribution``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from envs.gl import why_mujoco_fails
from envs.plugins import broken, load_target, name_taken, plugins

if TYPE_CHECKING:
    from envs.core import TaskDistribution

ENTRY_POINT_GROUP = "simpl_bench.task_distributions"

Factory = Callable[[str], "TaskDistribution"]


class UnknownTaskDistributionError(ValueError):
    """No task distribution of that name; the message names the nearest one."""


@dataclass(frozen=True)
class _Entry:
    factory: str | Factory
    summary: str
    origin: str | None = None
    """The installed package that added it; None: it is this package's own."""

    @property
    def target(self) -> str:
        """``module:attribute``"""
        return self.factory if isinstance(self.factory, str) else f"{self.factory.__module__}:{self.factory.__name__}"


_entries: dict[str, _Entry] = {}


def register_task_distribution(name: str, factory: str | Factory, summary: str) -> None:
    """Make ``name`` known. ``factory`` takes the name and returns the ``TaskDistribution``.

    It may be given as ``"module:attribute"``, which is imported when first asked for. Raises ``ValueError`` if
    the name is taken or the text is not of that form.
    """
    if name in _entries:
        raise ValueError(f"task distribution {name!r} is already registered")
    if isinstance(factory, str) and factory.count(":") != 1:
        raise ValueError(f"factory of task distribution {name!r} is {factory!r}; expected 'module:attribute'")
    _entries[name] = _Entry(factory, summary)


@cache
def _discover_entry_points() -> None:
    """Register what installed packages declare. Raises ``BrokenPluginError`` where one takes another's name."""
    for plugin in plugins(ENTRY_POINT_GROUP):
        known = _entries.setdefault(plugin.name, _Entry(plugin.target, f"from {plugin.package}", plugin.package))
        if known.target != plugin.target:
            raise name_taken("task distribution", plugin, known.origin or "simpl-bench")


def task_distribution_names() -> tuple[str, ...]:
    """All names, in order of registration."""
    _discover_entry_points()
    return tuple(_entries)


def task_distribution_summary(name: str) -> str:
    """One line about it, without importing it. Raises ``UnknownTaskDistributionError``."""
    return _entry(name).summary


@cache
def task_distribution(name: str) -> TaskDistribution:
    """Build the named task distribution.

    Raises ``UnknownTaskDistributionError``, ``BrokenPluginError`` when it is another package's and cannot be had, or
    ``ImportError`` when something it needs is not installed.
    """
    entry = _entry(name)
    factory = entry.factory
    if isinstance(factory, str):
        reason = why_mujoco_fails()
        if reason is not None:
            raise ImportError(reason)
        factory = load_target("task distribution", name, factory, entry.origin)
    made: TaskDistribution
    try:
        made = factory(name)
    except Exception as error:  # a factory of somebody else's can raise anything
        if entry.origin is None:
            raise
        raise broken("task distribution", name, entry.origin, error) from error
    return made


def _entry(name: str) -> _Entry:
    names = task_distribution_names()
    if name not in _entries:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise UnknownTaskDistributionError(
            f"unknown task distribution {name!r}; nearest: {nearest[0]!r}; valid: {', '.join(names)}"
        )
    return _entries[name]


_MAZE = "envs.maze.tasks:make_task_distribution"
register_task_distribution("maze", _MAZE, "reach a goal in the 20x20 maze: 40 training and 10 target goals")
register_task_distribution("maze-20", _MAZE, "maze with 20 training goals")
register_task_distribution("maze-10", _MAZE, "maze with 10 training goals")
register_task_distribution("maze-top-top", _MAZE, "training and target goals in the top quarter: aligned")
register_task_distribution(
    "maze-top-bottom", _MAZE, "training goals at the top, target goals at the bottom: misaligned"
)
register_task_distribution("maze-easy", _MAZE, "20 adjacent training goals at short range")
register_task_distribution("maze-medium", _MAZE, "20 training goals at short range in all directions")
register_task_distribution("maze-hard", _MAZE, "the goals of maze: long range, large variance")

_IMAGE_MAZE = "envs.image_maze.tasks:make_task_distribution"
register_task_distribution(
    "image-maze", _IMAGE_MAZE, "32x32 views in an unseen 40x40 maze: 20 training, 10 target goals"
)
register_task_distribution("image-maze-full", _IMAGE_MAZE, "the same with goals across the whole 40x40 maze")

register_task_distribution(
    "kitchen",
    "envs.kitchen.tasks:make_task_distribution",
    "four kitchen subtasks in order: 23 training, 10 target orders",
)

_POINT_ROBOT = "envs.validation.point_robot:make_task_distribution"
register_task_distribution("pendulum", "envs.validation.pendulum:make_task_distribution", "swing up: validates SAC")
register_task_distribution("point-robot", _POINT_ROBOT, "goals on a half circle, dense reward: validates PEARL")
register_task_distribution("point-robot-sparse", _POINT_ROBOT, "the same with reward near the goal only")
register_task_distribution(
    "navigation-2d", "envs.validation.navigation_2d:make_task_distribution", "goals in a square: validates MAML"
)
