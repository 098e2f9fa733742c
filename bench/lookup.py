"""Algorithms and task distributions by name, and which pairs fit together; unknown names are ``UserError``."""

from __future__ import annotations

from algorithms.registry import MissingPackageError, UnknownAlgorithmError, algorithm
from algorithms.stage import Algorithm
from bench.errors import UserError
from envs.core import TaskDistribution
from envs.plugins import BrokenPluginError
from envs.registry import UnknownTaskDistributionError, task_distribution

DATA_STAGE = "data"


def find_algorithm(name: str) -> Algorithm:
    """The algorithm called ``name``. Raises ``UserError`` when it is unknown or its optional package is missing."""
    try:
        return algorithm(name)
    except (UnknownAlgorithmError, MissingPackageError, BrokenPluginError) as error:
        raise UserError(str(error)) from error
    except ModuleNotFoundError as error:
        raise UserError(f"algorithm {name!r} needs the package {error.name!r}, which is not installed") from error


def find_task_distribution(name: str) -> TaskDistribution:
    """The task distribution called ``name``. Raises ``UserError`` when it is unknown or what it needs is missing."""
    try:
        return task_distribution(name)
    except (UnknownTaskDistributionError, BrokenPluginError) as error:
        raise UserError(str(error)) from error
    except ImportError as error:
        raise UserError(f"task distribution {name!r} cannot be loaded: {error}") from error


def needs_data(algorithm: Algorithm) -> bool:
    """Whether any stage reads offline trajectories."""
    return any(DATA_STAGE in stage.inputs for stage in algorithm.stages)


def presets_of_pair(algorithm: Algorithm, tasks: TaskDistribution) -> tuple[str, ...]:
    """Presets with which the pair can be run, in the algorithm's order."""
    names = [preset for family, preset in algorithm.presets if family == tasks.family]
    return tuple(name for name in names if not needs_data(algorithm) or name in tasks.data_presets)


def why_impossible(algorithm: Algorithm, tasks: TaskDistribution) -> str | None:
    """Why this algorithm cannot run on this task distribution, or None when it can."""
    if algorithm.needs_train_tasks and not tasks.train_tasks:
        return f"{algorithm.name} needs meta-training tasks and {tasks.name} has none"
    if needs_data(algorithm) and tasks.data_source is None:
        return f"{algorithm.name} needs offline data and {tasks.name} has none"
    if not presets_of_pair(algorithm, tasks):
        families = sorted({family for family, _ in algorithm.presets})
        return f"{algorithm.name} has no preset for the family {tasks.family!r} of {tasks.name} (it has {families})"
    return None
