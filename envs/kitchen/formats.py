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
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.kitchen.physics import ACTION_SCALE, ENV_STEP_SECONDS, PHYSICS_STEPS, POSITION_DIM, ROBOT_JOINTS
from envs.trajectories import TrajectoryError

GYMNASIUM_DIM = 59
"""Observation of ``FrankaKitchen-v1``: qpos 9 and qvel 9 of the robot, qpos 21 and qvel 20 of the objects."""
_D4RL_DIM = 60
_LOG_HEADER = struct.Struct("<7i")
_LOG_COUNTS = ("nq", "nv", "nu", "nmocap", "nsensordata", "nuserdata", "name length")
_KITCHEN_COUNTS = (POSITION_DIM, 29, ROBOT_JOINTS)
_LOG_RECORD_SECONDS = ENV_STEP_SECONDS / PHYSICS_STEPS
_LOG_ACTION_LIMIT = 0.999
"""Relay Policy Learning clips the actions it derives to this, so that all published kitchen data have it."""


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


def read_flat_hdf5(path: Path, file: Any) -> Rows:
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
            marks = _array(path, file, key).ravel()
            if len(marks) != len(observations):
                raise TrajectoryError(f"{path}: {len(observations)} observations but {len(marks)} {key}")
            marked |= marks.astype(bool)
    marked[-1:] = True
    return Rows(
        format_name=f"flat HDF5, {observations.shape[1]} values per observation",
        observations=observations[:, :POSITION_DIM],
        actions=actions,
        episode_ends=np.flatnonzero(marked) + 1,
        flat_marks=True,
    )


def read_minari_hdf5(path: Path, file: Any) -> Rows:
    """Minari's ``main_data.hdf5``: groups ``episode_<i>``, in the order of their numbers.

    Each holds ``observations/observation`` (T + 1, 59), ``actions`` (T, 9), ``terminations`` and ``truncations`` (T,).
    The last observation is left out. Raises ``TrajectoryError``.
    """
    names = sorted((name for name in file if _is_episode(name)), key=lambda name: int(name.partition("_")[2]))
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
                early_marks += int(_array(path, file, f"{name}/{key}")[:-1].astype(bool).sum())
        episodes.append((positions_of_gymnasium(observations[:-1]), actions))
    return _joined("Minari", path, episodes, early_marks=early_marks, dropped_rows=len(episodes))


def read_npz(path: Path) -> Rows:
    """``observations`` (N, 59) or (N, 30), ``actions`` (N, 9) and ``episode_ends`` (E,). Raises ``TrajectoryError``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if any(name.endswith(".mjl") for name in archive.files):
                raise TrajectoryError(f"{path}: an archive of .mjl logs; unpack it and give its folder")
            missing = [key for key in ("observations", "actions", "episode_ends") if key not in archive.files]
            if missing:
                raise TrajectoryError(f"{path}: no {', '.join(missing)}; found {sorted(archive.files)}")
            observations, actions, ends = (archive[key] for key in ("observations", "actions", "episode_ends"))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, TrajectoryError):
            raise
        raise TrajectoryError(f"{path}: not a readable .npz, perhaps truncated ({_first_line(error)})") from error
    if observations.ndim != 2 or observations.shape[1] not in (GYMNASIUM_DIM, POSITION_DIM):
        raise TrajectoryError(
            f"{path}: observations have shape {observations.shape}; .npz needs (rows, {GYMNASIUM_DIM}) as Minari's or "
            f"(rows, {POSITION_DIM}) joint positions"
        )
    if observations.shape[1] == GYMNASIUM_DIM:
        observations = positions_of_gymnasium(observations)
    return Rows(".npz", observations, actions, np.asarray(ends, dtype=np.int64))


def read_logs(paths: Sequence[Path], where: Path) -> Rows:
    """Raw ``.mjl`` logs, in the order given; a log of less than one transition holds no episode.

    The layout is that of the MuJoCo VR logger (vikashplus/puppet, ``write_logs``), which also wrote one record per
    physics step: seven int32 (nq, nv, nu, nmocap, nsensordata, nuserdata, length of the name), the name, then float32
    records [time, qpos, qvel, ctrl, mocap pos, mocap quat, sensordata, userdata]. As Relay Policy Learning's
    ``parse_demos`` with its ``--skip 40``, every 40th record is one env_step, and the action is the joint velocity
    that leads to the recorded position targets ``ctrl``, as a fraction of 2 rad/s, clipped to 0.999:

        action = clip((ctrl - qpos[:9]) / 0.08 s / 2, -0.999, 0.999)

    Different from there: ``parse_demos`` replays these actions in simulation and records noisy observations from it;
    here observations are the recorded positions and actions refer to them. Both leave out the last env_step's action.

    Not confirmed on real logs, which were not at hand: that their records are 2 ms apart (checked in each file against
    its own time column) and that nq, nv, nu are 30, 29, 9 (``parse_demos`` copies them into the kitchen; checked too).
    Raises ``TrajectoryError`` naming the file.
    """
    episodes: list[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]] = []
    cuts = dropped_rows = 0
    for path in paths:
        records = _log_records(path)
        segments = _unbroken(path, records[:, 0])
        cuts += len(segments) - 1
        for start, end in segments:
            frames = records[start:end:PHYSICS_STEPS].astype(np.float64)
            dropped_rows += 1
            if len(frames) > 1:
                episodes.append(_log_episode(frames))
    return _joined(".mjl logs", where, episodes, cuts=cuts, dropped_rows=dropped_rows)


def looks_like_log(path: Path) -> bool:
    """Whether the file starts with counts that a ``.mjl`` log of some model could have (it has no magic number)."""
    with path.open("rb") as file:
        header = file.read(_LOG_HEADER.size)
    if len(header) < _LOG_HEADER.size:
        return False
    return all(0 <= count < 10_000 for count in _LOG_HEADER.unpack(header))


def is_minari(file: Any) -> bool:
    """Whether an open HDF5 file has groups ``episode_<i>``."""
    return any(_is_episode(name) for name in file)


def positions_of_gymnasium(observations: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Joint positions (N, 30) in observations (N, 59) of ``FrankaKitchen-v1``."""
    objects = slice(2 * ROBOT_JOINTS, 2 * ROBOT_JOINTS + POSITION_DIM - ROBOT_JOINTS)
    return np.concatenate([observations[:, :ROBOT_JOINTS], observations[:, objects]], axis=1)


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading. Raises ``TrajectoryError`` when it, or later a part of it, cannot be read."""
    import h5py  # imported on use: reading a file is the only thing that needs it

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise TrajectoryError(f"{path}: not a readable HDF5 file, perhaps truncated ({_first_line(error)})") from error


def _is_episode(name: str) -> bool:
    return re.fullmatch(r"episode_\d+", name) is not None


def _array(path: Path, file: Any, key: str) -> NDArray[Any]:
    """A numeric array of an HDF5 file."""
    array = file[key][()] if hasattr(file[key], "shape") else None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bfiu":
        raise TrajectoryError(f"{path}: {key} is not an array of numbers")
    return array


def _matrix(path: Path, file: Any, key: str) -> NDArray[np.floating[Any]]:
    array = _array(path, file, key)
    if array.ndim != 2:
        raise TrajectoryError(f"{path}: {key} has shape {array.shape}; expected (rows, values)")
    return array


def _joined(
    format_name: str,
    path: Path,
    episodes: Sequence[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]],
    *,
    dropped_rows: int,
    early_marks: int = 0,
    cuts: int = 0,
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
    )


def _log_records(path: Path) -> NDArray[np.float32]:
    """Records (R, 1 + nq + nv + nu + ...) of a log, its counts checked against each other and the file's size."""
    content = path.read_bytes()
    if len(content) < _LOG_HEADER.size:
        raise TrajectoryError(f"{path}: only {len(content)} bytes; a .mjl log starts with {_LOG_HEADER.size} of counts")
    counts = _LOG_HEADER.unpack_from(content)
    nq, nv, nu, nmocap, nsensordata, nuserdata, name_length = counts
    if counts[:3] != _KITCHEN_COUNTS or min(counts) < 0:
        shown = ", ".join(f"{name} {count}" for name, count in zip(_LOG_COUNTS, counts, strict=True))
        raise TrajectoryError(f"{path}: not a .mjl log of the kitchen (nq 30, nv 29, nu 9): its header says {shown}")
    record_floats = 1 + nq + nv + nu + 7 * nmocap + nsensordata + nuserdata
    record_bytes = 4 * record_floats
    body_bytes = len(content) - _LOG_HEADER.size - name_length
    if body_bytes <= 0 or body_bytes % record_bytes:
        raise TrajectoryError(
            f"{path}: {max(body_bytes, 0)} bytes after header and name are not a whole number, above 0, of records of "
            f"{record_bytes} bytes: truncated"
        )
    offset = _LOG_HEADER.size + name_length
    return np.frombuffer(content, dtype="<f4", offset=offset).reshape(-1, record_floats)


def _unbroken(path: Path, seconds: NDArray[np.float32]) -> list[tuple[int, int]]:
    """(start, end) of the stretches of records in which time goes on evenly; it breaks where the scene was reset."""
    with np.errstate(invalid="ignore"):  # infinite times fail the check that follows
        steps = np.diff(seconds.astype(np.float64))
    if len(steps) and not abs(np.median(steps) - _LOG_RECORD_SECONDS) < _LOG_RECORD_SECONDS / 4:
        raise TrajectoryError(
            f"{path}: records are {np.median(steps):.4g} s apart; the kitchen's logs have one every "
            f"{_LOG_RECORD_SECONDS:g} s"
        )
    breaks = np.flatnonzero(np.abs(steps - _LOG_RECORD_SECONDS) > 4 * _LOG_RECORD_SECONDS) + 1
    bounds = [0, *breaks.tolist(), len(seconds)]
    return list(pairwise(bounds))


def _log_episode(frames: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Observations (T, 30) and actions (T, 9) from T + 1 records that are 0.08 s apart."""
    nq, nv, nu = _KITCHEN_COUNTS
    positions, targets = frames[:-1, 1 : 1 + nq], frames[:-1, 1 + nq + nv : 1 + nq + nv + nu]
    velocities = (targets - positions[:, :ROBOT_JOINTS]) / ENV_STEP_SECONDS
    return positions, np.clip(velocities / ACTION_SCALE, -_LOG_ACTION_LIMIT, _LOG_ACTION_LIMIT)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
