"""Episode rows of many runs -> returns of each algorithm on each task distribution; what was left out, and why.

Axes: S seed, N task, E episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.loading import Excluded, StoredRun, load_runs
from bench.lookup import find_task_distribution
from bench.results import target_rows

__all__ = [
    "EpisodeReturns",
    "Excluded",
    "FloatArray",
    "LoadedEpisodes",
    "group_runs",
    "load_episodes",
    "score_range_of",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class EpisodeReturns:
    """The return of every target-task episode of one algorithm on one task distribution."""

    label: str
    """The algorithm, with the overrides and the data that set it apart: ``ALGO --adapt.n_step 1``."""
    env: str
    preset: str
    seeds: tuple[int, ...]
    """S, ascending."""
    tasks: tuple[int, ...]
    """N indices of target tasks, ascending."""
    task_names: tuple[str, ...]
    returns: FloatArray
    """(S, N, E); NaN where there is no such episode."""
    score_range: tuple[float, float] | None
    """Lowest and highest possible return; None where the task distribution is not known here."""
    runs: tuple[str, ...]
    """Folders (or names) of the runs in it, sorted."""


@dataclass(frozen=True)
class LoadedEpisodes:
    """All that was found: groups sorted by task distribution, algorithm and preset."""

    groups: tuple[EpisodeReturns, ...]
    excluded: tuple[Excluded, ...]


def load_episodes(folders: Sequence[Path]) -> LoadedEpisodes:
    """The returns of all runs at or below ``folders`` that can be used, and the others (``bench.loading``).

    Raises ``UserError`` when a folder does not exist or holds no run.
    """
    loaded = load_runs(folders)
    return LoadedEpisodes(group_runs(loaded.runs), loaded.excluded)


def group_runs(runs: Sequence[StoredRun]) -> tuple[EpisodeReturns, ...]:
    """A group for each task distribution, label and preset; runs that end before their target tasks are in none."""
    studies: dict[tuple[str, str, str], list[StoredRun]] = {}
    for run in runs:
        if run.has_targets:
            studies.setdefault(run.study, []).append(run)
    return tuple(_arrange(studies[key]) for key in sorted(studies))


def _arrange(runs: Sequence[StoredRun]) -> EpisodeReturns:
    env, label, preset = runs[0].study
    rows = [target_rows(run.rows) for run in runs]
    seeds = sorted({run.seed for run in runs})
    names: dict[int, str] = {}
    for part in rows:
        named = part.drop_duplicates("task")
        texts = named["task_name"] if "task_name" in named else named["task"]
        names |= {int(task): str(text) for task, text in zip(named["task"], texts, strict=True)}
    tasks = sorted(names)
    longest = max(int(part["episode"].max()) + 1 for part in rows)
    returns = np.full((len(seeds), len(tasks), longest), np.nan)
    for run, part in zip(runs, rows, strict=True):
        place = np.searchsorted(tasks, part["task"].to_numpy())
        returns[seeds.index(run.seed), place, part["episode"].to_numpy(dtype=np.int64)] = part["return"].to_numpy()
    return EpisodeReturns(
        label=label, env=env, preset=preset, seeds=tuple(seeds), tasks=tuple(tasks),
        task_names=tuple(names[task] for task in tasks), returns=returns, score_range=score_range_of(env),
        runs=tuple(sorted(str(run.folder) for run in runs)),
    )  # fmt: skip


def score_range_of(env: str) -> tuple[float, float] | None:
    """Lowest and highest possible return; None for a task distribution that is not installed here."""
    try:
        return find_task_distribution(env).score_range
    except UserError:
        return None  # From a package that is not installed here; only the optimality gap needs it.
