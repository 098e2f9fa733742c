"""The file formats that hold episodes of the Franka kitchen, each read into rows of 30 joint positions and 9 actions.

=========  ==========================================  =====================================================
format     observations in the file                    the 30 joint positions (9 of the robot, 21 of the objects)
=========  ==========================================  =====================================================
flat HDF5  (N, 60), D4RL ``kitchen-*-v0``; or (N, 30)  the first 30; D4RL appends a constant goal
Minari     (T + 1, 59), ``D4RL/kitchen/*-v2``          ``[:9]`` and ``[18:39]``; the others are velocities
.mjl log   ``qpos`` (30) of each physics step          every 40th record
.npz       (N, 59) or (N, 30), as ``data/`` ships      as Minari's; or as they are
=========  ==========================================  =====================================================

The layouts of Minari and flat HDF5 were compared with files written by minari 0.5.4 and with D4RL's scripts; the real
downloads were not at hand. Nothing here repairs anything: ``readers.py`` checks and cuts. A row is one env_step
(0.08 s). Axes: N rows of a file, T rows of an episode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data_files import Hdf5Reader, npz_names, read_npz_arrays
from envs.kitchen.physics import POSITION_DIM, ROBOT_JOINTS
from envs.trajectories import TrajectoryError, flags_of_marks

GYMNASIUM_DIM = 59
"""Observation of ``FrankaKitchen-v1``: qpos 9 and qvel 9 of the robot, qpos 21 and qvel 20 of the objects."""
_D4RL_DIM = 60
_MOST_EPISODES = 100_000
"""Beyond this a count of episodes is not believed."""


@dataclass(frozen=True)
class Rows:
    """What a file holds, unchecked."""

    format_name: str
    observations: NDArray[np.floating[Any]]
    """(N, 30)"""
    actions: NDArray[np.floating[Any]]
    """(N, 9)"""
    episode_ends: NDArray[np.int64]
    """(E,) one past each episode's last row"""
    flat_marks: bool = False
    """Whether ends come from marks on rows laid end to end, which may stand at the wrong row."""
    early_marks: int = 0
    """Rows marked as an end inside an episode whose end the file gives otherwise."""
    cuts: int = 0
    dropped_rows: int = 0
    """Observations that no action follows, left out."""
    remarks: tuple[str, ...] = ()
    """What else is worth a look, one line each."""


def read_flat_hdf5(path: Path, file: Hdf5Reader) -> Rows:
    """D4RL's arrays laid end to end: ``observations``, ``actions``, ``terminals``, and ``timeouts`` in newer files.

    An episode ends where either mark is set, the last one at the latest with the file. Raises ``TrajectoryError``.
    """
    missing = [key for key in ("observations", "actions", "terminals") if key not in file]
    if missing:
        raise TrajectoryError(f"{path}: no {', '.join(missing)}; flat HDF5 needs observations, actions and terminals")
    observations, actions = _matrix(path, file, "observations"), _matrix(path, file, "actions")
    if observations.shape[1] not in (_D4RL_DIM, POSITION_DIM):
        raise TrajectoryError(
            f"{path}: observations have shape {observations.shape}; flat HDF5 needs (rows, {_D4RL_DIM}) as D4RL's, "
            f"whose goal is left out, or (rows, {POSITION_DIM}) joint positions"
        )
    marked = np.zeros(len(observations), dtype=bool)
    for key in ("terminals", "timeouts"):
        if key in file:
            marked |= flags_of_marks(path, key, file.array(key), len(observations))
    marked[-1:] = True
    return Rows(
        format_name=f"flat HDF5, {observations.shape[1]} values per observation",
        observations=observations[:, :POSITION_DIM],
        actions=actions,
        episode_ends=np.flatnonzero(marked) + 1,
        flat_marks=True,
    )


def read_minari_hdf5(path: Path, file: Hdf5Reader) -> Rows:
    """Minari's ``main_data.hdf5``: groups ``episode_<i>``, in the order of their numbers.

    Each holds ``observations/observation`` (T + 1, 59), ``actions`` (T, 9), ``terminations`` and ``truncations`` (T,).
    The last observation is left out. Raises ``TrajectoryError``.
    """
    names = sorted(filter(_is_episode, file.names()), key=lambda name: int(name.partition("_")[2]))
    episodes, early_marks = [], 0
    for name in names:
        for key in ("observations/observation", "actions"):
            if f"{name}/{key}" not in file:
                raise TrajectoryError(f"{path}: no {name}/{key}, which Minari's kitchen has")
        observations = _matrix(path, file, f"{name}/observations/observation")
        actions = _matrix(path, file, f"{name}/actions")
        if observations.shape[1] != GYMNASIUM_DIM:
            raise TrajectoryError(
                f"{path}: {name}/observations/observation has shape {observations.shape}; "
                f"Minari's kitchen needs (actions + 1, {GYMNASIUM_DIM})"
            )
        if len(observations) != len(actions) + 1:
            raise TrajectoryError(
                f"{path}: {name} has {len(observations)} observations and {len(actions)} actions; "
                "Minari's format has one observation more than actions"
            )
        for key in ("terminations", "truncations"):
            if f"{name}/{key}" in file:
                early_marks += int(file.array(f"{name}/{key}")[:-1].astype(bool).sum())
        episodes.append((positions_of_gymnasium(observations[:-1]), actions))
    remarks = _missing_episodes(names, file.attribute("total_episodes"))
    return joined("Minari", path, episodes, early_marks=early_marks, dropped_rows=len(episodes), remarks=remarks)


def _missing_episodes(names: Sequence[str], promised: Any) -> tuple[str, ...]:
    """A line on the episodes that a Minari file should hold, by its own count or by their numbers, and does not."""
    numbers = {int(name.partition("_")[2]) for name in names}
    total = int(promised) if isinstance(promised, int | np.integer) else 0
    expected = max(len(numbers), min(total, _MOST_EPISODES))
    missing = sorted(set(range(expected)) - numbers)
    if not missing:
        return ()
    shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    return (f"{len(missing)} episodes are missing from the file ({shown}): it holds {len(numbers)} of {expected}",)


def read_npz(path: Path) -> Rows:
    """``observations`` (N, 59) or (N, 30), ``actions`` (N, 9) and ``episode_ends`` (E,). Raises ``TrajectoryError``."""
    if any(name.endswith(".mjl") for name in npz_names(path)):
        raise TrajectoryError(f"{path}: an archive of .mjl logs; unpack it and give its folder")
    arrays = read_npz_arrays(path, ("observations", "actions", "episode_ends"))
    observations, actions, ends = (arrays[key] for key in ("observations", "actions", "episode_ends"))
    if observations.ndim != 2 or observations.shape[1] not in (GYMNASIUM_DIM, POSITION_DIM):
        raise TrajectoryError(
            f"{path}: observations have shape {observations.shape}; .npz needs (rows, {GYMNASIUM_DIM}) as Minari's or "
            f"(rows, {POSITION_DIM}) joint positions"
        )
    if observations.shape[1] == GYMNASIUM_DIM:
        observations = positions_of_gymnasium(observations)
    if ends.dtype.kind not in "iu":
        raise TrajectoryError(f"{path}: episode_ends hold {ends.dtype}; expected whole numbers")
    return Rows(".npz", observations, actions, np.asarray(ends, dtype=np.int64))


def is_minari(file: Hdf5Reader) -> bool:
    """Whether an open HDF5 file has groups ``episode_<i>``."""
    return any(map(_is_episode, file.names()))


def positions_of_gymnasium(observations: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Joint positions (N, 30) in observations (N, 59) of ``FrankaKitchen-v1``."""
    objects = slice(2 * ROBOT_JOINTS, 2 * ROBOT_JOINTS + POSITION_DIM - ROBOT_JOINTS)
    return np.concatenate([observations[:, :ROBOT_JOINTS], observations[:, objects]], axis=1)


def _is_episode(name: str) -> bool:
    return re.fullmatch(r"episode_\d+", name) is not None


def _matrix(path: Path, file: Hdf5Reader, key: str) -> NDArray[np.floating[Any]]:
    array = file.array(key)
    if array.ndim != 2:
        raise TrajectoryError(f"{path}: {key} has shape {array.shape}; expected (rows, values)")
    return array


def joined(
    format_name: str,
    path: Path,
    episodes: Sequence[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]],
    *,
    dropped_rows: int,
    early_marks: int = 0,
    cuts: int = 0,
    remarks: tuple[str, ...] = (),
) -> Rows:
    if not episodes:
        raise TrajectoryError(f"{path}: holds no episode of at least one transition ({format_name})")
    return Rows(
        format_name=format_name,
        observations=np.concatenate([observations for observations, _ in episodes]),
        actions=np.concatenate([actions for _, actions in episodes]),
        episode_ends=np.cumsum([len(actions) for _, actions in episodes]),
        dropped_rows=dropped_rows,
        early_marks=early_marks,
        cuts=cuts,
        remarks=remarks,
    )
