"""Readers of recorded kitchen data: every defect of a file is refused in one line that names it; rounding is none."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from envs.kitchen.readers import read_trajectories
from envs.trajectories import TrajectoryError
from tests.kitchen_files import (
    NPZ,
    Array,
    episodes,
    joined,
    log_of,
    refuse,
    write_flat,
    write_minari,
)

PART = episodes(50, 40)


def with_value(array: Array, row: int, value: float) -> Array:
    changed = array.astype(np.float64)
    changed[row, 2] = value
    return changed


FLAT_DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "no actions": ({"actions": None}, "no actions; flat HDF5 needs observations, actions and terminals"),
    "no observations": ({"observations": None}, "no observations; flat HDF5 needs"),
    "no terminals": ({"terminals": None}, "no terminals; flat HDF5 needs"),
    "59 values": (
        {"observations": np.zeros((90, 59))},
        "observations have shape (90, 59); flat HDF5 needs (rows, 60) as D4RL's, whose goal is left out, or (rows, 30)",
    ),
    "one axis": ({"observations": np.zeros(90)}, "observations has shape (90,); expected (rows, values)"),
    "8 actions": ({"actions": np.zeros((90, 8))}, "actions have shape (90, 8); expected (transitions, 9)"),
    "text": ({"actions": np.array([[b"x"] * 9] * 90)}, "actions is not an array of numbers"),
    "unpaired": ({"actions": np.zeros((89, 9))}, "90 observations but 89 actions; they must be paired"),
    "unpaired marks": ({"terminals": np.zeros(91)}, "90 observations but 91 terminals"),
    "unpaired timeouts": ({"timeouts": np.zeros(9)}, "90 observations but 9 timeouts"),
    "no row": (
        {"observations": np.zeros((0, 60)), "actions": np.zeros((0, 9)), "terminals": np.zeros(0)},
        "episode_ends have shape (0,); expected (episodes,), not empty",
    ),
    "NaN": ({"observations": with_value(np.zeros((90, 60)), 33, np.nan)}, "observations row 33 holds NaN or infinity"),
    "infinity": (
        {"observations": with_value(np.zeros((90, 60)), 8, 1e300)},
        "observations row 8 holds NaN or infinity",
    ),
    "NaN action": ({"actions": with_value(np.zeros((90, 9)), 7, np.nan)}, "actions row 7 holds NaN or infinity"),
    "large action": (
        {"actions": with_value(np.zeros((90, 9)), 12, -1.5)},
        "actions row 12 holds 1.5 in size; actions lie in [-1, 1]",
    ),
}


@pytest.mark.parametrize("defect", FLAT_DEFECTS)
def test_a_flat_file_with_a_defect_is_refused(tmp_path: Path, defect: str) -> None:
    changes, message = FLAT_DEFECTS[defect]
    refuse(write_flat(tmp_path / "bad.hdf5", PART, **changes), message)


MINARI_DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "no actions": ({"actions": None}, "no episode_0/actions, which Minari's kitchen has"),
    "plain observations": (
        {
            "observations/observation": None, "observations/achieved_goal/kettle": None,
            "observations/desired_goal/kettle": None, "observations": np.zeros((50, 59)),
        },
        "no episode_0/observations/observation, which Minari's kitchen has",
    ),
    "60 values": (
        {"observations/observation": np.zeros((50, 60))},
        "episode_0/observations/observation has shape (50, 60); Minari's kitchen needs (actions + 1, 59)",
    ),
    "unpaired": (
        {"observations/observation": np.zeros((49, 59))},
        "episode_0 has 49 observations and 49 actions; Minari's format has one observation more than actions",
    ),
    "8 actions": ({"actions": np.zeros((49, 8))}, "actions have shape (49, 8); expected (transitions, 9)"),
    "NaN": ({"observations/observation": with_value(PART[0][0], 5, np.nan)}, "observations row 5 holds NaN"),
    "large action": ({"actions": with_value(PART[0][1][:-1], 3, 1.01)}, "actions row 3 holds 1.01 in size"),
}  # fmt: skip


@pytest.mark.parametrize("defect", MINARI_DEFECTS)
def test_a_minari_file_with_a_defect_is_refused(tmp_path: Path, defect: str) -> None:
    changes, message = MINARI_DEFECTS[defect]
    refuse(write_minari(tmp_path / "main_data.hdf5", PART[:1], **changes), message)


NPZ_DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "no actions": ({"actions": None}, "no actions; found ['episode_ends', 'observations']"),
    "60 values": (
        {"observations": np.zeros((90, 60))},
        "observations have shape (90, 60); .npz needs (rows, 59) as Minari's or (rows, 30) joint positions",
    ),
    "objects": ({"actions": np.array([object()] * 90)}, "not a readable .npz, perhaps truncated (Object arrays"),
    "no episode": ({"episode_ends": np.zeros(0, np.int64)}, "episode_ends have shape (0,)"),
    "short ends": ({"episode_ends": np.array([50])}, "the last episode ends at 50 but there are 90 transitions"),
    "falling ends": ({"episode_ends": np.array([90, 50])}, "episode 1 is empty"),
    "unpaired": ({"actions": np.zeros((10, 9))}, "90 observations but 10 actions"),
}


@pytest.mark.parametrize("defect", NPZ_DEFECTS)
def test_an_npz_with_a_defect_is_refused(tmp_path: Path, defect: str) -> None:
    changes, message = NPZ_DEFECTS[defect]
    positions, actions, ends = joined(PART)
    arrays = {"observations": positions, "actions": actions, "episode_ends": ends, **changes}
    np.savez(tmp_path / "bad.npz", **{key: array for key, array in arrays.items() if array is not None})
    refuse(tmp_path / "bad.npz", message)


def test_a_log_of_another_model_is_refused(tmp_path: Path) -> None:
    path = log_of(tmp_path / "hand.mjl", *episodes(3)[0], counts=(24, 24, 20, 1, 2, 3))
    refuse(
        path,
        "not a .mjl log of the kitchen (nq 30, nv 29, nu 9): its header says nq 24, nv 24, nu 20, nmocap 1, "
        "nsensordata 2, nuserdata 3, name length 14",
    )


def test_a_log_with_other_times_is_refused(tmp_path: Path) -> None:
    path = log_of(tmp_path / "slow.mjl", *episodes(3)[0], record_seconds=0.01)
    refuse(path, "records are 0.01 s apart; the kitchen's logs have one every 0.002 s")
    for second in (np.nan, np.inf):
        path = log_of(tmp_path / "timeless.mjl", *episodes(3)[0], first_second=second)
        refuse(path, "records are nan s apart; the kitchen's logs have one every 0.002 s")


def test_a_log_without_a_transition_is_refused(tmp_path: Path) -> None:
    path = log_of(tmp_path / "short.mjl", *episodes(1)[0])
    refuse(path, "holds no episode of at least one transition (.mjl logs)")


@pytest.mark.parametrize("kept_bytes", [10, 42, 5000])
def test_a_truncated_log_is_refused_in_a_folder_too(tmp_path: Path, kept_bytes: int) -> None:
    path = log_of(tmp_path / "cut.mjl", *episodes(3)[0])
    path.write_bytes(path.read_bytes()[:kept_bytes])
    message = "only 10 bytes; a .mjl log starts with 28 of counts" if kept_bytes == 10 else "truncated"
    refuse(path, message)
    with pytest.raises(TrajectoryError, match=r"cut\.mjl: "):
        read_trajectories(tmp_path)


def test_a_log_with_nan_is_refused(tmp_path: Path) -> None:
    observations, actions = episodes(5)[0]
    path = log_of(tmp_path / "nan.mjl", with_value(observations, 2, np.nan), actions)
    refuse(path, "observations row 2 holds NaN or infinity")


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["flat", "minari"])
def test_a_truncated_hdf5_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = (write_flat if kind == "flat" else write_minari)(tmp_path / "cut.hdf5", PART)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refuse(path, "not a readable HDF5 file, perhaps truncated (")


def test_an_hdf5_with_damaged_data_is_refused(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "bad.hdf5", PART)
    with h5py.File(path) as file:
        chunk = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 200] = bytes(200)
    path.write_bytes(content)
    refuse(path, "not a readable HDF5 file, perhaps truncated (")


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_npz_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "cut.npz"
    path.write_bytes(NPZ.read_bytes()[: int(NPZ.stat().st_size * kept)])
    refuse(path, "not a readable .npz, perhaps truncated (")


def test_an_npz_with_damaged_data_is_refused(tmp_path: Path) -> None:
    content = bytearray(NPZ.read_bytes())
    content[5000:5200] = bytes(200)
    (tmp_path / "bad.npz").write_bytes(content)
    refuse(tmp_path / "bad.npz", "not a readable .npz, perhaps truncated (")


def test_the_packed_archive_of_logs_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "kitchen_demos_multitask.zip", "w") as archive:
        archive.writestr("kitchen_demos_multitask/friday/a.mjl", b"1234")
    refuse(tmp_path / "kitchen_demos_multitask.zip", "an archive of .mjl logs; unpack it and give its folder")


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.hdf5").touch()
    (tmp_path / "text.hdf5").write_text("To whom it may concern: this is a text.")
    (tmp_path / "tiny.bin").write_bytes(b"\x00\x00")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["qpos"] = np.zeros(3)
    (tmp_path / "folder").mkdir()
    formats = "expected D4RL's flat HDF5, Minari's main_data.hdf5, a .mjl log or a .npz"
    refuse(tmp_path / "empty.hdf5", "the file is empty")
    refuse(tmp_path / "text.hdf5", f"not a format of the kitchen; {formats}")
    refuse(tmp_path / "tiny.bin", f"not a format of the kitchen; {formats}")
    refuse(tmp_path / "other.hdf5", "HDF5 with neither D4RL's observations and actions nor Minari's groups episode_<i>")
    refuse(tmp_path / "folder", "a folder with neither data/main_data.hdf5 (Minari) nor any .mjl log below it")
    refuse(tmp_path / "missing.hdf5", "no such file or folder")


def test_rounding_beyond_one_is_removed(tmp_path: Path) -> None:
    actions = with_value(np.zeros((90, 9)), 4, 1.00002)
    read, _ = read_trajectories(write_flat(tmp_path / "round.hdf5", PART, actions=actions))
    assert read.actions[4, 2] == 1.0
