"""Recorded kitchen data in every format, written from the shipped human episodes.

Layouts are written here byte by byte or array by array from their descriptions, with indices of their own; the real
downloads are not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.kitchen.readers import read_trajectories
from envs.trajectories import TrajectoryError

NPZ = Path(str(resources.files("envs.kitchen") / "data" / "human_complete.npz"))
RAW = dict(np.load(NPZ))
"""observations (4209, 59): robot qpos 0-8, robot qvel 9-17, object qpos 18-38, object qvel 39-58."""
COLUMNS = [*range(9), *range(18, 39)]
LENGTHS = [212, 208, 222, 236, 223, 223, 233, 224, 236, 211, 219, 221, 219, 223, 236, 210, 214, 216, 223]
Array = NDArray[Any]


def episodes(*lengths: int) -> list[tuple[Array, Array]]:
    """Observations (T, 59) and actions (T, 9) of the first rows of the first human episodes."""
    starts = np.cumsum([0, *LENGTHS])
    return [
        (RAW["observations"][start : start + length], RAW["actions"][start : start + length])
        for start, length in zip(starts, lengths, strict=False)
    ]


def joined(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, Array]:
    """Joint positions (N, 30), actions and ends of whole episodes."""
    ends = np.cumsum([len(actions) for _, actions in parts])
    return np.concatenate([o[:, COLUMNS] for o, _ in parts]), np.concatenate([a for _, a in parts]), ends


def write_flat(path: Path, parts: Sequence[tuple[Array, Array]], **changes: Any) -> Path:
    """D4RL's file: 60 values, the last 30 a constant goal, float marks, gzip. ``None`` leaves a key out."""
    positions, actions, ends = joined(parts)
    terminals = np.zeros(len(positions), np.float32)
    terminals[ends - 1] = 1.0
    arrays = {
        "observations": np.hstack([positions, np.full((len(positions), 30), 0.37, np.float32)]),
        "actions": actions, "rewards": np.zeros(len(positions), np.float32), "terminals": terminals,
        "infos": np.zeros(len(positions), np.int64), **changes,
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            if array is not None:
                file.create_dataset(key, data=array, compression="gzip")
    return path


def marks(rows: int, *ends: int) -> Array:
    """Marks of ends (exclusive), as D4RL's float terminals."""
    array = np.zeros(rows, np.float32)
    array[np.array(ends) - 1] = 1.0
    return array


def write_minari(path: Path, parts: Sequence[tuple[Array, Array]], **changes: Any) -> Path:
    """Minari's file: the last observation of each part has no action. ``changes`` replaces arrays of episode_0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", track_order=True) as file:
        for index, (observations, actions) in enumerate(parts):
            steps = len(actions) - 1
            arrays = {
                "observations/observation": observations.astype(np.float64), "actions": actions[:-1],
                "observations/achieved_goal/kettle": np.zeros((steps + 1, 7)),
                "observations/desired_goal/kettle": np.zeros((steps + 1, 7)),
                "rewards": np.zeros(steps), "terminations": np.zeros(steps, bool),
                "truncations": np.arange(steps) == steps - 1, **(changes if index == 0 else {}),
            }  # fmt: skip
            for key, array in arrays.items():
                if array is not None:
                    file[f"episode_{index}/{key}"] = array
    return path


MOCAP, SENSORS, USER = 1, 2, 3
RECORD_FLOATS = 1 + 30 + 29 + 9 + 7 * MOCAP + SENSORS + USER


def write_log(
    path: Path,
    positions: Array,
    targets: Array,
    *,
    counts: Sequence[int] = (30, 29, 9, MOCAP, SENSORS, USER),
    record_seconds: float = 0.002,
    first_second: float = 7.5,
) -> Path:
    """A .mjl log in which every 40th record is a row of ``positions`` (T, 30) and ``targets`` (T, 9).

    The records between hold NaN where positions and targets belong, so that reading one of them shows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = b"franka_kitchen"
    records = [struct.pack("<7i", *counts, len(name)), name]
    for row in range((len(positions) - 1) * 40 + 1):
        real = row % 40 == 0
        qpos = positions[row // 40] if real else np.full(30, np.nan)
        ctrl = targets[row // 40] if real else np.full(9, np.nan)
        values = [first_second + row * record_seconds, *qpos, *np.full(29, 11.0), *ctrl]
        values += [*np.full(7 * MOCAP, 22.0), *np.full(SENSORS, 33.0), *np.full(USER, 44.0)]
        records.append(struct.pack(f"<{RECORD_FLOATS}f", *values))
    path.write_bytes(b"".join(records))
    return path


def log_of(path: Path, observations: Array, actions: Array, **options: Any) -> Path:
    """The log whose targets lead from the positions with the given actions."""
    positions = observations[:, COLUMNS].astype(np.float64)
    return write_log(path, positions, positions[:, :9] + actions * 2.0 * 0.08, **options)


def refuse(origin: Path | str, message: str) -> None:
    with pytest.raises(TrajectoryError) as caught:
        read_trajectories(origin)
    text = str(caught.value)
    assert "\n" not in text
    assert str(origin) in text
    assert message in text
