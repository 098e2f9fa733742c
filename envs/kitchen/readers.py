"""Recorded data of the Franka kitchen, in whatever format they come: read, checked, cut where an episode is wrong.

``read_trajectories`` takes a file, a folder or the name of a Minari dataset, and tells formats (``formats.py``) apart
by their contents. What the published files are known for, and what is done about it:

- Marks of an episode's end stand some rows early or late in files derived from D4RL's. Where the robot jumps inside an
  episode, the episode is cut there. Nothing is ever merged: a fragment stays an episode of its own. (SPiRL's loader
  puts a demonstration that is shorter than a skill in front of the next one, as if the robot had jumped.)
- Minari's episodes may carry marks before their last row. They are counted and otherwise ignored.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data_files import DataFileError, Hdf5Reader, opened_hdf5, why_not_data
from envs.kitchen.formats import Rows, is_minari, read_flat_hdf5, read_minari_hdf5, read_npz
from envs.kitchen.logs import ENDING, find_logs, looks_like_log, read_logs
from envs.kitchen.physics import ACTION_DIM, POSITION_DIM, ROBOT_JOINTS
from envs.trajectories import Trajectories, TrajectoryError

MAX_JOINT_CHANGE = 0.3
"""Largest change of a robot joint within one env_step (rad, m). An action of 1 asks for 0.16 rad, the Franka's joints
are built for at most 0.21, and D4RL's noise adds 0.02. The shipped human episodes stay below 0.11 inside an episode and
jump by more than 2.3 between two."""
MINARI_DATASETS = tuple(f"D4RL/kitchen/{kind}-v2" for kind in ("complete", "partial", "mixed"))
_MINARI_FILE = Path("data") / "main_data.hdf5"
_MINARI_URL = "https://huggingface.co/datasets/farama-minari/D4RL/resolve/main"
_ACTION_ROUNDING = 1e-4
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURE = b"PK\x03\x04"
_FORMATS = "D4RL's flat HDF5, Minari's main_data.hdf5, a .mjl log or a .npz"


@dataclass(frozen=True)
class ReadReport:
    """What was read and what was done to it."""

    format_name: str
    episodes: int
    transitions: int
    cuts: int
    """Ends added where the robot, or a log's time, jumps inside an episode."""
    early_marks: int
    """Marks of an episode's end after which the robot goes on without a jump."""
    dropped_rows: int
    """Observations left out because no action follows them."""
    single_row_episodes: int
    more: tuple[str, ...] = ()
    """What else is worth a look: files left out, episodes that are missing."""

    def lines(self) -> tuple[str, ...]:
        """One line for the format and one for each thing that is worth a look."""
        remarks = (
            (self.cuts, "cut at {} jumps inside an episode; nothing was merged"),
            (self.early_marks, "{} marks of an episode's end where the robot does not jump: early or repeated"),
            (self.dropped_rows, "left out {} last observations, which no action follows"),
            (self.single_row_episodes, "{} episodes are a single row"),
        )
        return (f"format: {self.format_name}", *(text.format(count) for count, text in remarks if count), *self.more)


def read_trajectories(origin: str | Path, skip_damaged: bool = False) -> tuple[Trajectories, ReadReport]:
    """Trajectories with observations (N, 30) and actions (N, 9) in [-1, 1], and what was done to get them.

    ``origin`` is a file, a folder (a Minari dataset's, or one searched for ``*.mjl``), or a name: one of
    ``MINARI_DATASETS``, or ``minari:complete`` and so on. ``skip_damaged`` leaves out, of a folder of logs, those that
    are damaged, and the report says which. Raises ``TrajectoryError``: one line that names the file, the defect and
    what is valid.
    """
    rows = _read_rows(str(origin), skip_damaged)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        trajectories = Trajectories(
            observations=rows.observations.astype(np.float32),
            actions=rows.actions.astype(np.float32),
            episode_ends=rows.episode_ends,
        )
    try:
        trajectories.validate(POSITION_DIM, ACTION_DIM, min_length=1)
    except TrajectoryError as error:
        raise TrajectoryError(f"{origin}: {error}") from error
    trajectories = replace(trajectories, actions=_clipped_actions(origin, trajectories.actions))
    jumps = _jumps(trajectories.observations)
    ends = np.union1d(rows.episode_ends, jumps)
    early_marks = len(np.setdiff1d(rows.episode_ends[:-1], jumps)) if rows.flat_marks else rows.early_marks
    trajectories = replace(trajectories, episode_ends=ends)
    return trajectories, ReadReport(
        format_name=rows.format_name,
        episodes=len(ends),
        transitions=len(trajectories.observations),
        cuts=rows.cuts + len(ends) - len(rows.episode_ends),
        early_marks=early_marks,
        dropped_rows=rows.dropped_rows,
        single_row_episodes=int((trajectories.lengths == 1).sum()),
        more=rows.remarks,
    )


@cache
def human_trajectories() -> Trajectories:
    """The 19 human episodes that are shipped (``data/SOURCES.md``). Shared: do not write into them."""
    with resources.as_file(resources.files("envs.kitchen").joinpath("data/human_complete.npz")) as path:
        return read_trajectories(path)[0]


def _read_rows(origin: str, skip_damaged: bool) -> Rows:
    path = Path(origin)
    try:
        if path.is_dir():
            return _read_folder(path, skip_damaged)
        if path.exists():
            return _read_file(path)
    except OSError as error:
        raise TrajectoryError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
    except DataFileError as error:
        raise TrajectoryError(str(error)) from error
    if origin.startswith(("minari:", "D4RL/")):
        return _read_file(_minari_file(origin))
    raise TrajectoryError(f"{origin}: no such file or folder")


def _read_folder(folder: Path, skip_damaged: bool) -> Rows:
    for file in (folder / _MINARI_FILE, folder / _MINARI_FILE.name):
        if file.is_file():
            return _read_file(file)
    logs = find_logs(folder)
    if not logs:
        raise TrajectoryError(f"{folder}: a folder with neither {_MINARI_FILE} (Minari) nor any .mjl log below it")
    return read_logs(logs, folder, skip_damaged)


def _read_file(path: Path) -> Rows:
    if not path.is_file():
        raise TrajectoryError(f"{path}: neither a file nor a folder")
    reason = why_not_data(path)
    if reason is not None:
        raise TrajectoryError(f"{path}: {reason}")
    with path.open("rb") as opened:
        signature = opened.read(len(_HDF5_SIGNATURE))
    if signature == _HDF5_SIGNATURE:
        with opened_hdf5(path) as hdf5:
            file = Hdf5Reader(path, hdf5)
            if is_minari(file):
                return read_minari_hdf5(path, file)
            if "observations" in file or "actions" in file:
                return read_flat_hdf5(path, file)
            raise TrajectoryError(
                f"{path}: HDF5 with neither D4RL's observations and actions nor Minari's groups episode_<i>; "
                f"found {file.names()[:5]}"
            )
    if signature.startswith(_ZIP_SIGNATURE):
        return read_npz(path)
    if path.suffix == ENDING or looks_like_log(path):
        return read_logs([path], path)
    raise TrajectoryError(f"{path}: not a format of the kitchen; expected {_FORMATS}")


def _minari_file(name: str) -> Path:
    """The file of a Minari dataset on this machine, downloaded if need be.

    Raises ``TrajectoryError`` that tells how to fetch it by hand when minari is not installed or cannot download.
    """
    full_name = re.sub(r"^minari:(complete|partial|mixed)$", r"D4RL/kitchen/\1-v2", name).removeprefix("minari:")
    if full_name not in MINARI_DATASETS:
        valid = ", ".join((*MINARI_DATASETS, "minari:complete", "minari:partial", "minari:mixed"))
        raise TrajectoryError(f"unknown Minari dataset {name!r}; valid: {valid}")
    root = _datasets_folder()
    path = root / full_name / _MINARI_FILE
    if path.is_file():
        return path
    by_hand = (
        f"fetch {_MINARI_URL}/{full_name.removeprefix('D4RL/')}/{_MINARI_FILE.as_posix()} by hand (Farama's Minari "
        "datasets, Hugging Face farama-minari), then: bench data import kitchen main_data.hdf5"
    )
    try:
        minari = importlib.import_module("minari")
    except ModuleNotFoundError as error:
        raise TrajectoryError(
            f"{full_name}: not in {root}, and the package that downloads it is missing: pip install 'minari[hf]'; or "
            f"{by_hand}"
        ) from error
    try:
        minari.download_dataset(full_name)
    except Exception as error:  # what a download raises depends on the client and on what failed
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TrajectoryError(f"{full_name}: not in {root}, and cannot be downloaded ({reason}); {by_hand}") from error
    if not path.is_file():
        raise TrajectoryError(f"{full_name}: minari downloaded it without {path}; {by_hand}")
    return path


def _datasets_folder() -> Path:
    """Where minari keeps its datasets. Raises ``TrajectoryError`` where there is no home folder, as in some jobs."""
    named = os.environ.get("MINARI_DATASETS_PATH")
    if named:
        return Path(named)
    try:
        return Path.home() / ".minari" / "datasets"
    except RuntimeError as error:
        raise TrajectoryError("there is no home folder here: set MINARI_DATASETS_PATH, or give the file") from error


def _jumps(observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows (J,) in which some robot joint is farther from where it was one row before than it can move."""
    changes = np.abs(np.diff(observations[:, :ROBOT_JOINTS], axis=0)).max(axis=1, initial=0.0)
    return np.flatnonzero(changes > MAX_JOINT_CHANGE).astype(np.int64) + 1


def _clipped_actions(origin: str | Path, actions: NDArray[np.float32]) -> NDArray[Any]:
    """The actions, rounding beyond [-1, 1] removed."""
    sizes = np.abs(actions).max(axis=1)
    worst = int(sizes.argmax())
    if sizes[worst] > 1.0 + _ACTION_ROUNDING:
        raise TrajectoryError(f"{origin}: actions row {worst} holds {sizes[worst]:g} in size; actions lie in [-1, 1]")
    return np.clip(actions, -1.0, 1.0)
