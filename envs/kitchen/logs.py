"""Raw ``.mjl`` logs of the Franka kitchen: found below a folder, checked one by one, made into episodes.

What the published folders are known for, as those who cleaned them list it, and what is done about it:

- Copies (``...(1).mjl``) and folders unpacked inside others hold the same log twice: it is read once.
- A log that is cut short, has lost records or holds some twice, or lacks a subtask that its folder's name promises is
  refused, with the reason; or left out, all others being read, where that is asked for.
- A log in which the scene is reset and everything starts again is cut there. One that completes as many subtasks as its
  folder names, but others, is read: episodes carry no labels.
- What macOS leaves beside files (``__MACOSX``, ``._x``) is no log. Linked folders are followed, once each.

Axes: R record of a log, T row (env_step) of an episode.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data_files import why_not_data
from envs.kitchen.formats import Rows, joined
from envs.kitchen.physics import ACTION_SCALE, ENV_STEP_SECONDS, PHYSICS_STEPS, POSITION_DIM, ROBOT_JOINTS
from envs.kitchen.subtasks import SUBTASK_NAMES, completed
from envs.trajectories import TrajectoryError

ENDING = ".mjl"
_HEADER = struct.Struct("<7i")
_COUNTS = ("nq", "nv", "nu", "nmocap", "nsensordata", "nuserdata", "name length")
_KITCHEN_COUNTS = (POSITION_DIM, 29, ROBOT_JOINTS)
_RECORD_SECONDS = ENV_STEP_SECONDS / PHYSICS_STEPS
_UNEVEN_SHARE = 0.01
"""Of the records of a log: so many may follow the one before too early or too late, as a recorder's hiccups."""
_ACTION_LIMIT = 0.999
"""Relay Policy Learning clips the actions it derives to this, so that all published kitchen data have it."""
_LARGEST_LOG_BYTES = 1 << 29
_WORDS = {
    "microwave": "microwave", "kettle": "kettle", "bottomknob": "bottom burner", "topknob": "top burner",
    "switch": "light switch", "slide": "slide cabinet", "hinge": "hinge cabinet",
}  # fmt: skip
"""How the published folders call the subtasks: ``friday_microwave_kettle_topknob_hinge``."""

Episode = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
"""Observations (T, 30) and actions (T, 9)."""


@dataclass
class _Found:
    """What was read so far."""

    episodes: list[Episode] = field(default_factory=list)
    cuts: int = 0
    dropped_rows: int = 0
    remarks: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """A line for each log that cannot be used."""


def find_logs(folder: Path) -> list[Path]:
    """All logs below a folder, sorted; linked folders are followed, and none is read twice."""
    return sorted(_walk(folder, set()))


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here).resolve()
        folders[:] = [] if place in seen else sorted(name for name in folders if name != "__MACOSX")
        if place not in seen:
            seen.add(place)
            yield from (Path(here) / name for name in files if name.endswith(ENDING) and not name.startswith("._"))


def read_logs(paths: Sequence[Path], where: Path, skip_damaged: bool = False) -> Rows:
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
    Raises ``TrajectoryError`` naming the first log that cannot be used, unless those are to be left out
    (``skip_damaged``) and there are others.
    """
    found = _Found()
    unique = _without_copies(paths, found)
    for path in unique:
        try:
            _read_log(path, where, found)
        except TrajectoryError as error:
            found.damaged.append(str(error))
    if found.damaged and (not skip_damaged or len(found.damaged) == len(unique)):
        if len(paths) == 1:
            raise TrajectoryError(found.damaged[0])
        remedy = "" if skip_damaged else "; bench data import --skip-damaged leaves them out and says which"
        raise TrajectoryError(f"{found.damaged[0]} ({len(found.damaged)} of {len(unique)} logs are damaged){remedy}")
    remarks = (*found.remarks, *(f"left out {reason}" for reason in found.damaged))
    return joined(".mjl logs", where, found.episodes, cuts=found.cuts, dropped_rows=found.dropped_rows, remarks=remarks)


def looks_like_log(path: Path) -> bool:
    """Whether the file starts with counts that a ``.mjl`` log of some model could have (it has no magic number)."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return False
    return all(0 <= count < 10_000 for count in _HEADER.unpack(header))


def _without_copies(paths: Sequence[Path], found: _Found) -> list[Path]:
    """Each log once, whatever its copies are called: the one that lies highest and has the shortest name."""
    copies: dict[str, list[Path]] = {}
    for path in paths:
        with path.open("rb") as file:
            copies.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), []).append(path)
    kept = set()
    for same in copies.values():
        first, *others = sorted(same, key=lambda path: (len(path.parts), len(path.name), str(path)))
        kept.add(first)
        found.remarks += [f"left out {path}: the same bytes as {first}" for path in others]
    return [path for path in paths if path in kept]


def _read_log(path: Path, where: Path, found: _Found) -> None:
    records = _records(path)
    segments = _unbroken(path, records[:, 0])
    frames = [records[start:end:PHYSICS_STEPS].astype(np.float64) for start, end in segments]
    row = 0
    for part in frames:
        finite = np.isfinite(part[:, : 1 + sum(_KITCHEN_COUNTS)]).all(axis=1)
        if not finite.all():
            raise TrajectoryError(f"{path}: observations row {row + int(np.argmin(finite))} holds NaN or infinity")
        row += len(part)
    _check_subtasks(path, where, frames, found)
    if len(segments) > 1:
        found.remarks.append(f"{path}: time starts again {len(segments) - 1} times; cut there")
    found.cuts += len(segments) - 1
    found.dropped_rows += len(segments)
    found.episodes += [_episode(part) for part in frames if len(part) > 1]


def _check_subtasks(path: Path, where: Path, frames: Sequence[NDArray[np.float64]], found: _Found) -> None:
    """Compare what a log completes with what the name of its folder promises, where the name does."""
    promised = promised_subtasks(path.parent.name) if path != where else ()
    if not promised:
        return
    done = np.concatenate([completed(part[:, 1 : 1 + POSITION_DIM]) for part in frames])
    did = [SUBTASK_NAMES[index] for index in np.flatnonzero(done.any(axis=0))]
    if len(did) < len(promised):
        lacking = ", ".join(name for name in promised if name not in did)
        raise TrajectoryError(f"{path}: never completes {lacking}, which its folder's name promises")
    if set(did) != set(promised):
        found.remarks.append(f"{path}: completes {', '.join(did)}, where its folder names {', '.join(promised)}")


def promised_subtasks(folder_name: str) -> tuple[str, ...]:
    """Subtasks that a folder of the published logs is named after; () for any other name."""
    _, *words = re.split(r"[_\-]", folder_name)
    return tuple(_WORDS[word] for word in words) if words and all(word in _WORDS for word in words) else ()


def _records(path: Path) -> NDArray[np.float32]:
    """Records (R, 1 + nq + nv + nu + ...) of a log, its counts checked against each other and the file's size."""
    reason = why_not_data(path)
    if reason is not None:
        raise TrajectoryError(f"{path}: {reason}")
    if path.stat().st_size > _LARGEST_LOG_BYTES:
        raise TrajectoryError(
            f"{path}: {path.stat().st_size:,} bytes; a .mjl log of a demonstration has some megabytes"
        )
    content = path.read_bytes()
    if len(content) < _HEADER.size:
        raise TrajectoryError(f"{path}: only {len(content)} bytes; a .mjl log starts with {_HEADER.size} of counts")
    counts = _HEADER.unpack_from(content)
    nq, nv, nu, nmocap, nsensordata, nuserdata, name_length = counts
    if counts[:3] != _KITCHEN_COUNTS or min(counts) < 0:
        shown = ", ".join(f"{name} {count}" for name, count in zip(_COUNTS, counts, strict=True))
        raise TrajectoryError(f"{path}: not a .mjl log of the kitchen (nq 30, nv 29, nu 9): its header says {shown}")
    record_floats = 1 + nq + nv + nu + 7 * nmocap + nsensordata + nuserdata
    record_bytes = 4 * record_floats
    body_bytes = len(content) - _HEADER.size - name_length
    if body_bytes <= 0 or body_bytes % record_bytes:
        raise TrajectoryError(
            f"{path}: {max(body_bytes, 0)} bytes after header and name are not a whole number, above 0, of records of "
            f"{record_bytes} bytes: truncated"
        )
    return np.frombuffer(content, dtype="<f4", offset=_HEADER.size + name_length).reshape(-1, record_floats)


def _unbroken(path: Path, seconds: NDArray[np.float32]) -> list[tuple[int, int]]:
    """(start, end) of the stretches of records in which time goes on evenly; it breaks where the scene was reset.

    Raises ``TrajectoryError`` where it hardly ever does: other records than one per physics step, or many that were
    lost or written twice.
    """
    with np.errstate(invalid="ignore"):  # infinite times fail the checks that follow
        steps = np.diff(seconds.astype(np.float64))
    if not len(steps):
        return [(0, len(seconds))]
    if not abs(np.median(steps) - _RECORD_SECONDS) < _RECORD_SECONDS / 4:
        raise TrajectoryError(
            f"{path}: records are {np.median(steps):.4g} s apart; the kitchen's logs have one every "
            f"{_RECORD_SECONDS:g} s"
        )
    # float32 seconds are exact to 0.0001 s up to a quarter of an hour.
    uneven = ~(np.abs(steps - _RECORD_SECONDS) < _RECORD_SECONDS / 2)
    if uneven.sum() > max(_UNEVEN_SHARE * len(steps), 1):
        raise TrajectoryError(
            f"{path}: {int(uneven.sum())} of {len(steps)} records do not follow the one before after "
            f"{_RECORD_SECONDS:g} s: records were lost or written twice"
        )
    breaks = np.flatnonzero(~(np.abs(steps - _RECORD_SECONDS) <= 4 * _RECORD_SECONDS)) + 1
    return list(pairwise([0, *breaks.tolist(), len(seconds)]))


def _episode(frames: NDArray[np.float64]) -> Episode:
    """Observations (T, 30) and actions (T, 9) from T + 1 records that are 0.08 s apart."""
    nq, nv, nu = _KITCHEN_COUNTS
    positions, targets = frames[:-1, 1 : 1 + nq], frames[:-1, 1 + nq + nv : 1 + nq + nv + nu]
    velocities = (targets - positions[:, :ROBOT_JOINTS]) / ENV_STEP_SECONDS
    return positions, np.clip(velocities / ACTION_SCALE, -_ACTION_LIMIT, _ACTION_LIMIT)
