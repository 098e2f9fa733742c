"""Offline trajectories without rewards or task labels: flat arrays plus episode ends.

::

    observations  o0 o1 o2 o3 | o0 o1 o2 | ...     (sum T, D) float32
    actions       a0 a1 a2 a3 | a0 a1 a2 | ...     (sum T, A) float32, a_t was applied in o_t
    episode_ends              4          7 ...     (E,) int64, exclusive

On disk they are D4RL's flat HDF5 (Fu et al., 2020): ``observations``, ``actions``, ``rewards``, ``terminals``,
``timeouts``; and ``scenes`` where episodes were recorded in different places. Axes: E episode, T time, D observation
feature, A action feature.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data_files import DataFileError, Hdf5Reader, opened_hdf5, why_not_data

_HDF5_KEYS = ("observations", "actions", "terminals", "timeouts")


class TrajectoryError(DataFileError):
    """Trajectories, or a file of them, that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Trajectories:
    """Episodes laid end to end; see the module's docstring for the layout."""

    observations: NDArray[np.float32]
    """(sum T, D) float32."""
    actions: NDArray[np.float32]
    """(sum T, A) float32: the action applied in the observation of the same row."""
    episode_ends: NDArray[np.int64]
    """(E,) int64, strictly increasing: one past each episode's last row."""
    scenes: NDArray[np.uint8] | None = None
    """(E, ...) uint8: the place each episode was recorded in (a maze's walls), where it is not the world's own."""

    @staticmethod
    def concatenate(parts: Sequence[Trajectories]) -> Trajectories:
        """All episodes of ``parts`` in order.

        Raises ``TrajectoryError`` if there are none, or if some have scenes and others have none or of another shape.
        """
        if not parts:
            raise TrajectoryError("cannot concatenate 0 sets of trajectories: at least one is needed")
        scenes = [part.scenes for part in parts if part.scenes is not None]
        if len(scenes) not in (0, len(parts)) or len({scene.shape[1:] for scene in scenes}) > 1:
            raise TrajectoryError(
                "cannot concatenate trajectories unless all have scenes of one shape, or none has any"
            )
        offsets = np.cumsum([0, *(len(part.observations) for part in parts[:-1])])
        return Trajectories(
            observations=np.concatenate([part.observations for part in parts]),
            actions=np.concatenate([part.actions for part in parts]),
            episode_ends=np.concatenate(
                [part.episode_ends + offset for part, offset in zip(parts, offsets, strict=True)]
            ),
            scenes=np.concatenate(scenes) if scenes else None,
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Transitions of each episode, (E,)."""
        return np.diff(self.episode_ends, prepend=0)

    def split(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(observations (T, D), actions (T, A)) of each episode, as views."""
        starts = self.episode_ends - self.lengths
        return [
            (self.observations[start:end], self.actions[start:end])
            for start, end in zip(starts, self.episode_ends, strict=True)
        ]

    def checksum(self) -> str:
        """SHA-256 (hex) of the contents: shapes and little-endian bytes, whatever file they came from."""
        digest = hashlib.sha256()
        arrays: list[tuple[str, NDArray[Any], str]] = [
            ("observations", self.observations, "<f4"),
            ("actions", self.actions, "<f4"),
            ("episode_ends", self.episode_ends, "<i8"),
        ]
        if self.scenes is not None:
            arrays.append(("scenes", self.scenes, "u1"))
        for name, array, dtype in arrays:
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
        return digest.hexdigest()

    def validate(self, observation_dim: int, action_dim: int, min_length: int) -> None:
        """Refuse trajectories that training could not use.

        ``min_length`` (env_steps) is the shortest episode that is of any use, for example skill length + 1; shorter
        episodes are allowed as long as one is at least this long. Raises ``TrajectoryError`` naming the first defect.
        """
        for name, array, width in (
            ("observations", self.observations, observation_dim),
            ("actions", self.actions, action_dim),
        ):
            if array.ndim != 2 or array.shape[1] != width:
                raise TrajectoryError(f"{name} have shape {array.shape}; expected (transitions, {width})")
            finite_rows = np.isfinite(array).all(axis=1)
            if not finite_rows.all():
                raise TrajectoryError(f"{name} row {int(np.argmin(finite_rows))} holds NaN or infinity")
        if len(self.observations) != len(self.actions):
            raise TrajectoryError(
                f"{len(self.observations)} observations but {len(self.actions)} actions; they must be paired"
            )
        if self.episode_ends.ndim != 1 or len(self.episode_ends) == 0:
            raise TrajectoryError(f"episode_ends have shape {self.episode_ends.shape}; expected (episodes,), not empty")
        if (self.lengths <= 0).any():
            episode = int(np.argmax(self.lengths <= 0))
            raise TrajectoryError(f"episode_ends must increase strictly from above 0; episode {episode} is empty")
        if self.episode_ends[-1] != len(self.observations):
            raise TrajectoryError(
                f"the last episode ends at {self.episode_ends[-1]} but there are {len(self.observations)} transitions"
            )
        if self.scenes is not None and self.scenes.shape[:1] != self.episode_ends.shape:
            raise TrajectoryError(
                f"scenes have shape {self.scenes.shape}; expected one for each of {len(self.episode_ends)} episodes"
            )
        if self.lengths.max() < min_length:
            raise TrajectoryError(
                f"the longest episode has {self.lengths.max()} env_steps; at least one needs {min_length} or more"
            )

    def save_hdf5(self, path: Path) -> None:
        """Write D4RL's flat HDF5, atomically (temporary name, fsync, rename).

        Rewards are all zero, since the data carries none, and each episode's last row is a timeout.
        """
        import h5py  # imported on use: reading or writing a file is the only thing that needs it

        timeouts = np.zeros(len(self.observations), dtype=bool)
        timeouts[self.episode_ends - 1] = True
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with h5py.File(temporary, "w", locking=False) as file:
                file["observations"] = self.observations
                file["actions"] = self.actions
                file["rewards"] = np.zeros(len(self.observations), dtype=np.float32)
                file["terminals"] = np.zeros(len(self.observations), dtype=bool)
                file["timeouts"] = timeouts
                if self.scenes is not None:
                    file["scenes"] = self.scenes
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def load_hdf5(path: Path) -> Trajectories:
        """Read D4RL's flat HDF5. An episode ends where ``terminals`` or ``timeouts`` is set.

        A last episode that carries neither mark ends with the file. Raises ``TrajectoryError`` for a file that is
        missing, truncated, not HDF5, or without one of the keys. Call ``validate`` for what is inside.
        """
        path = Path(path)
        if not path.is_file():
            raise TrajectoryError(f"{path}: no such file")
        try:
            reason = why_not_data(path)
            if reason is not None:
                raise TrajectoryError(f"{path}: {reason}")
            with opened_hdf5(path) as file:
                reader = Hdf5Reader(path, file)
                missing = [key for key in _HDF5_KEYS if key not in reader]
                if missing:
                    raise TrajectoryError(f"{path}: no {', '.join(missing)}; D4RL's format needs {_HDF5_KEYS}")
                arrays = {key: reader.array(key) for key in _HDF5_KEYS}
                scenes = np.asarray(reader.array("scenes"), np.uint8) if "scenes" in reader else None
        except OSError as error:
            raise TrajectoryError(f"{path}: cannot be read: {error.strerror or error}") from error
        except DataFileError as error:
            raise TrajectoryError(str(error)) from error
        rows = {key: len(array) if np.ndim(array) else 0 for key, array in arrays.items()}
        if len(set(rows.values())) != 1 or rows["observations"] == 0:
            raise TrajectoryError(f"{path}: arrays need the same number of rows, above 0; found {rows}")
        marks = [flags_of_marks(path, key, arrays[key], rows["observations"]) for key in ("terminals", "timeouts")]
        ends = np.flatnonzero(marks[0] | marks[1])
        episode_ends = ends.astype(np.int64) + 1
        if len(episode_ends) == 0 or episode_ends[-1] != rows["observations"]:
            episode_ends = np.append(episode_ends, np.int64(rows["observations"]))
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which ``validate`` refuses
            return Trajectories(
                observations=np.asarray(arrays["observations"], np.float32),
                actions=np.asarray(arrays["actions"], np.float32),
                episode_ends=episode_ends,
                scenes=scenes,
            )


def flags_of_marks(path: Path, key: str, marks: NDArray[Any], rows: int) -> NDArray[np.bool_]:
    """Marks of ends, whatever their type, as flags (rows,). Raises ``TrajectoryError`` for NaN or another count."""
    if marks.size != rows:
        raise TrajectoryError(f"{path}: {rows} observations but {marks.size} {key}")
    if np.isnan(marks.astype(np.float64, copy=False)).any():
        raise TrajectoryError(f"{path}: {key} hold NaN: no mark of an end is that")
    return marks.ravel().astype(bool)
