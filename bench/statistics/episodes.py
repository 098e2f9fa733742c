"""Episode rows of many runs -> returns of each algorithm on each task distribution; what was left out, and why.

Axes: S seed, N task, E episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import StorageError, UserError
from bench.lookup import find_task_distribution
from bench.results import read_run, run_changes, why_no_result
from bench.rows import EPISODES_TABLE, TARGET_PHASES
from bench.run_record import read_run_record
from bench.store import RUN_FILE

FloatArray = NDArray[np.float64]

GROUP_COLUMNS = ["env", "label", "preset"]
NO_EPISODES = "no episode of a target task"


@dataclass(frozen=True)
class Excluded:
    """A run that is in no statistic."""

    run: str
    """Its folder, or its name where it has none."""
    reason: str
    expected: bool = False
    """Nothing went wrong: it is counted, not named (on validation tasks)."""


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


def run_label(record: Mapping[str, Any]) -> str:
    """The algorithm of a run with what sets it apart from the preset, as one would type it."""
    return " ".join([record["algo"], *run_changes(record)])


def load_episodes(folders: Sequence[Path]) -> LoadedEpisodes:
    """Read all runs at or below ``folders``.

    A run that did not end well, cannot be read, holds a failure or a NaN, or repeats another run's seed and tasks is
    excluded whole, with its reason, and so is one that is not on target tasks; one that was asked to end before its
    target tasks (``--until``) is passed over.
    Raises ``UserError`` when a folder does not exist or holds no run.
    """
    tables, excluded = [], []
    for folder in _run_folders(folders):
        try:
            record = read_run_record(folder)
            if (elsewhere := why_no_result(record)) is not None:
                excluded.append(Excluded(str(folder), elsewhere, expected=True))
                continue
            if record["status"] != "done":
                reason = str(record["status"]) + _failure_text(folder)
            elif len(rows := read_run(folder)[1]):
                # A run that was to end before its target tasks is no score that is missing.
                if record.get("until") is None or rows["phase"].isin(TARGET_PHASES).any():
                    tables.append(_labelled(rows, record, folder))
                continue
            else:
                reason = NO_EPISODES
        except (StorageError, KeyError, TypeError) as error:
            reason = f"cannot be read: {error}"
        excluded.append(Excluded(str(folder), reason))
    if not tables:
        return LoadedEpisodes((), tuple(excluded))
    loaded = group_episodes(pd.concat(tables, ignore_index=True))
    return LoadedEpisodes(loaded.groups, (*excluded, *loaded.excluded))


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        found |= {path.parent for path in folder.rglob(RUN_FILE)}
    if not found:
        raise UserError(f"no run (a folder with {RUN_FILE}) in {', '.join(map(str, folders))}")
    return sorted(found)


def _failure_text(folder: Path) -> str:
    """``: <first line of the error>`` of a failed run, where its rows tell."""
    if not (folder / EPISODES_TABLE).exists():
        return ""
    _, rows = read_run(folder)
    errors = list(rows.loc[rows["status"] != "ok", "error"]) if "error" in rows else []
    return f": {str(errors[0]).splitlines()[0]}" if errors and errors[0] else ""


def _labelled(rows: pd.DataFrame, record: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    names = rows["task_name"] if "task_name" in rows else rows["task"].astype(str)
    columns = {name: rows[name].to_numpy() for name in ("phase", "task", "episode", "return", "status")}
    return pd.DataFrame(columns).assign(
        task_name=np.asarray(names, dtype=object), run=str(folder), label=run_label(record),
        env=record["env"], preset=record["preset"], seed=int(record["seed"]),
    )  # fmt: skip


def group_episodes(rows: pd.DataFrame) -> LoadedEpisodes:
    """Arrange rows (columns ``run, label, env, preset, seed, phase, task, task_name, episode, return, status``).

    Rows of other phases than the target tasks' are not looked at, except for failures.
    """
    excluded = {}
    failed = rows["status"].to_numpy() != "ok"
    for run in pd.unique(rows.loc[failed, "run"]):
        excluded[run] = "a stage failed"
    target = rows["phase"].isin(TARGET_PHASES).to_numpy() & ~failed
    unsound = rows.loc[target & ~np.isfinite(rows["return"].to_numpy(dtype=float))]
    for run, bad in unsound.groupby("run", sort=False):
        first = bad.iloc[0]
        where = f"task {first['task_name']}, episode {first['episode']}"
        excluded.setdefault(run, f"{len(bad)} returns are not finite numbers, the first in {where}")
    idle = set(rows["run"].unique()) - set(rows.loc[target, "run"].unique()) - set(excluded)
    excluded |= dict.fromkeys(sorted(idle), NO_EPISODES)
    if excluded:
        target &= ~rows["run"].isin(list(excluded)).to_numpy()
    groups = []
    for _, part in rows[target].groupby(GROUP_COLUMNS, sort=True, observed=True):
        repeated = _repetitions(part)
        excluded |= repeated
        groups.append(_arrange(part[~part["run"].isin(list(repeated))] if repeated else part))
    return LoadedEpisodes(tuple(groups), tuple(Excluded(run, reason) for run, reason in excluded.items()))


def _repetitions(part: pd.DataFrame) -> dict[str, str]:
    """Runs of one group whose seed and task another run has already: two copies would count as two samples."""
    owners: dict[tuple[int, int], str] = {}
    repeated: dict[str, str] = {}
    cells = part[["run", "seed", "task"]].drop_duplicates().sort_values(["run", "seed", "task"])
    for run, own in cells.groupby("run", sort=True, observed=True):
        keys = list(zip(own["seed"], own["task"], strict=True))
        clash = next((owners[key] for key in keys if key in owners), None)
        if clash is None:
            owners |= dict.fromkeys(keys, str(run))
        else:
            repeated[str(run)] = f"repeats seed {keys[0][0]} of {clash}"
    return repeated


def _arrange(part: pd.DataFrame) -> EpisodeReturns:
    first = part.iloc[0]
    seeds, seed_of_row = np.unique(part["seed"].to_numpy(), return_inverse=True)
    tasks, first_of_task, task_of_row = np.unique(part["task"].to_numpy(), return_index=True, return_inverse=True)
    episode = part["episode"].to_numpy(dtype=np.int64)
    returns = np.full((len(seeds), len(tasks), int(episode.max()) + 1), np.nan)
    returns[seed_of_row, task_of_row, episode] = part["return"].to_numpy(dtype=float)
    return EpisodeReturns(
        label=str(first["label"]), env=str(first["env"]), preset=str(first["preset"]),
        seeds=tuple(map(int, seeds)), tasks=tuple(map(int, tasks)),
        task_names=tuple(map(str, part["task_name"].to_numpy()[first_of_task])),
        returns=returns, score_range=score_range_of(str(first["env"])),
        runs=tuple(sorted(map(str, part["run"].unique()))),
    )  # fmt: skip


def score_range_of(env: str) -> tuple[float, float] | None:
    """Lowest and highest possible return; None for a task distribution that is not installed here."""
    try:
        return find_task_distribution(env).score_range
    except UserError:
        return None  # From a package that is not installed here; only the optimality gap needs it.
