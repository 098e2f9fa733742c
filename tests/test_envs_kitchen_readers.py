"""Readers of recorded kitchen data: every format written from the shipped human episodes, and every defect refused.

Layouts are written here byte by byte or array by array from their descriptions, with indices of their own; the real
downloads are not needed.
"""

from __future__ import annotations

import struct
import sys
import types
import zipfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.kitchen.readers import human_trajectories, read_trajectories
from envs.registry import task_distribution
from envs.trajectories import Trajectories, TrajectoryError

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


# -- what is shipped, and .npz ----------------------------------------------------------------------------------------


def test_the_shipped_human_episodes_are_read_whole() -> None:
    human = human_trajectories()
    assert human.lengths.tolist() == LENGTHS
    np.testing.assert_array_equal(human.observations, RAW["observations"][:, COLUMNS])
    np.testing.assert_array_equal(human.actions, RAW["actions"])
    assert human_trajectories() is human
    assert read_trajectories(NPZ)[1].lines() == ("format: .npz",)


def test_an_npz_may_hold_joint_positions_alone(tmp_path: Path) -> None:
    positions, actions, ends = joined(episodes(30, 20))
    np.savez(tmp_path / "own.npz", observations=positions, actions=actions, episode_ends=ends)
    read, report = read_trajectories(tmp_path / "own.npz")
    np.testing.assert_array_equal(read.observations, positions)
    assert (read.lengths.tolist(), report.episodes, report.transitions) == ([30, 20], 2, 50)


# -- D4RL's flat HDF5 and our own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeouts", [False, True])
def test_d4rl_keeps_the_joint_positions_and_ends_where_it_is_marked(tmp_path: Path, timeouts: bool) -> None:
    parts = episodes(50, 40, 30)
    changes = {"terminals": marks(120, 50), "timeouts": marks(120, 90, 120).astype(bool)} if timeouts else {}
    read, report = read_trajectories(write_flat(tmp_path / "kitchen_mixed.hdf5", parts, **changes))
    positions, actions, _ = joined(parts)
    np.testing.assert_array_equal(read.observations, positions)
    np.testing.assert_array_equal(read.actions, actions)
    assert read.lengths.tolist() == [50, 40, 30]
    assert (report.cuts, report.early_marks, report.dropped_rows, report.single_row_episodes) == (0, 0, 0, 0)
    assert report.lines() == ("format: flat HDF5, 60 values per observation",)


def test_the_last_episode_ends_with_the_file_at_the_latest(tmp_path: Path) -> None:
    read, _ = read_trajectories(write_flat(tmp_path / "a.hdf5", episodes(50, 40), terminals=marks(90, 50)))
    assert read.lengths.tolist() == [50, 40]


def test_what_we_write_is_read_back_unchanged(tmp_path: Path) -> None:
    human_trajectories().save_hdf5(tmp_path / "ours.hdf5")
    read, report = read_trajectories(tmp_path / "ours.hdf5")
    assert read.checksum() == human_trajectories().checksum()
    assert report.lines() == ("format: flat HDF5, 30 values per observation",)


def test_late_marks_are_cut_where_the_robot_jumps_and_nothing_is_merged(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "late.hdf5", episodes(50, 40, 30), terminals=marks(120, 51, 92, 120))
    read, report = read_trajectories(path)
    assert read.episode_ends.tolist() == [50, 51, 90, 92, 120]
    assert (report.cuts, report.early_marks, report.single_row_episodes) == (2, 2, 1)
    assert report.lines()[1:] == (
        "cut at 2 jumps inside an episode; nothing was merged",
        "2 marks of an episode's end where the robot does not jump: early or repeated",
        "1 episodes are a single row",
    )


def test_early_and_repeated_marks_stay_ends_and_are_counted(tmp_path: Path) -> None:
    early, report = read_trajectories(
        write_flat(tmp_path / "early.hdf5", episodes(50, 40), terminals=marks(90, 47, 90))
    )
    assert early.episode_ends.tolist() == [47, 50, 90]
    assert (report.cuts, report.early_marks) == (1, 1)
    repeated, report = read_trajectories(
        write_flat(tmp_path / "repeated.hdf5", episodes(50, 40), terminals=marks(90, 49, 50, 90))
    )
    assert repeated.episode_ends.tolist() == [49, 50, 90]
    assert (report.cuts, report.early_marks, report.single_row_episodes) == (0, 1, 1)


def test_a_file_without_marks_is_cut_into_its_episodes(tmp_path: Path) -> None:
    read, report = read_trajectories(write_flat(tmp_path / "a.hdf5", episodes(50, 40, 30), terminals=np.zeros(120)))
    assert read.lengths.tolist() == [50, 40, 30]
    assert report.cuts == 2


def test_a_short_demonstration_is_not_put_in_front_of_the_next(tmp_path: Path) -> None:
    parts = episodes(4, 40, 30)
    read, report = read_trajectories(write_flat(tmp_path / "short.hdf5", parts))
    assert read.lengths.tolist() == [4, 40, 30]
    np.testing.assert_array_equal(read.split()[1][0][0], parts[1][0][0, COLUMNS])
    assert report.cuts == 0


@pytest.mark.parametrize("seed", range(5))
def test_no_episode_holds_a_jump_and_no_marked_end_is_lost(tmp_path: Path, seed: int) -> None:
    lengths = (60, 50, 40, 30)
    marked = np.sort(np.random.default_rng(seed).choice(np.arange(1, 180), 6, replace=False))
    read, report = read_trajectories(
        write_flat(tmp_path / "random.hdf5", episodes(*lengths), terminals=marks(180, *marked))
    )
    assert read.episode_ends.tolist() == sorted({*marked.tolist(), *np.cumsum(lengths).tolist()})
    assert report.episodes == len(read.episode_ends)


# -- Minari -----------------------------------------------------------------------------------------------------------


def test_minari_keeps_the_joint_positions_and_drops_the_last_observation(tmp_path: Path) -> None:
    parts = episodes(50, 40)
    read, report = read_trajectories(write_minari(tmp_path / "main_data.hdf5", parts))
    positions, actions, _ = joined([(o[:-1], a[:-1]) for o, a in parts])
    np.testing.assert_array_equal(read.observations, positions)
    np.testing.assert_array_equal(read.actions, actions)
    assert read.lengths.tolist() == [49, 39]
    assert report.lines() == ("format: Minari", "left out 2 last observations, which no action follows")


def test_minari_episodes_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    lengths = list(range(10, 22))
    read, _ = read_trajectories(write_minari(tmp_path / "main_data.hdf5", episodes(*lengths)))
    assert read.lengths.tolist() == [length - 1 for length in lengths]


def test_a_minari_folder_is_read_from_its_main_file(tmp_path: Path) -> None:
    write_minari(tmp_path / "mixed-v2" / "data" / "main_data.hdf5", episodes(50))
    for folder in (tmp_path / "mixed-v2", tmp_path / "mixed-v2" / "data"):
        assert read_trajectories(folder)[0].lengths.tolist() == [49]


def test_minari_marks_before_the_last_row_are_counted_and_ignored(tmp_path: Path) -> None:
    terminations = np.arange(49) >= 46
    read, report = read_trajectories(
        write_minari(tmp_path / "main_data.hdf5", episodes(50, 40), terminations=terminations)
    )
    assert read.lengths.tolist() == [49, 39]
    assert (report.early_marks, report.cuts) == (2, 0)


def test_a_minari_episode_that_holds_two_is_cut(tmp_path: Path) -> None:
    (first, first_actions), (second, second_actions) = episodes(50, 40)
    both = (np.concatenate([first, second]), np.concatenate([first_actions, second_actions]))
    read, report = read_trajectories(write_minari(tmp_path / "main_data.hdf5", [both]))
    assert read.lengths.tolist() == [50, 39]
    assert report.cuts == 1


URL = "https://huggingface.co/datasets/farama-minari/D4RL/resolve/main/kitchen/mixed-v2/data/main_data.hdf5"


@pytest.mark.parametrize("name", ["D4RL/kitchen/mixed-v2", "minari:mixed", "minari:D4RL/kitchen/mixed-v2"])
def test_a_minari_dataset_on_this_machine_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "minari", None)
    write_minari(tmp_path / "D4RL" / "kitchen" / "mixed-v2" / "data" / "main_data.hdf5", episodes(50))
    assert read_trajectories(name)[0].lengths.tolist() == [49]


def test_without_minari_the_file_to_fetch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(TrajectoryError) as caught:
        read_trajectories("minari:mixed")
    assert str(caught.value) == (
        f"D4RL/kitchen/mixed-v2: not in {tmp_path}, and the package that downloads it is missing: "
        f"pip install 'minari[hf]'; or fetch {URL} by hand (Farama's Minari datasets, Hugging Face farama-minari), "
        "then: bench data import kitchen main_data.hdf5"
    )


def fake_minari(monkeypatch: pytest.MonkeyPatch, download: Callable[[str], object]) -> None:
    monkeypatch.setitem(sys.modules, "minari", types.SimpleNamespace(download_dataset=download))


def test_a_failing_download_tells_why_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str) -> None:
        raise RuntimeError("Name or service\nnot known")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    fake_minari(monkeypatch, download)
    with pytest.raises(TrajectoryError) as caught:
        read_trajectories("D4RL/kitchen/mixed-v2")
    assert str(caught.value) == (
        f"D4RL/kitchen/mixed-v2: not in {tmp_path}, and cannot be downloaded (Name or service not known); fetch {URL} "
        "by hand (Farama's Minari datasets, Hugging Face farama-minari), then: bench data import kitchen main_data.hdf5"
    )


def test_a_download_is_read_and_one_that_brings_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    fake_minari(monkeypatch, lambda name: None)
    with pytest.raises(TrajectoryError, match=r"minari downloaded it without .*main_data\.hdf5; fetch"):
        read_trajectories("minari:complete")
    fake_minari(monkeypatch, lambda name: write_minari(tmp_path / name / "data" / "main_data.hdf5", episodes(9)))
    assert read_trajectories("minari:complete")[0].lengths.tolist() == [8]


@pytest.mark.parametrize("name", ["minari:mixd", "D4RL/kitchen/mixed-v1", "D4RL/door/human-v2"])
def test_an_unknown_dataset_gets_the_valid_names(name: str) -> None:
    refuse(name, "valid: D4RL/kitchen/complete-v2, D4RL/kitchen/partial-v2, D4RL/kitchen/mixed-v2, minari:complete")


# -- .mjl logs --------------------------------------------------------------------------------------------------------


def test_a_log_gives_every_fortieth_position_and_the_velocity_to_its_targets(tmp_path: Path) -> None:
    positions = np.zeros((4, 30)) + np.arange(4)[:, None] * 0.01
    targets = positions[:, :9].copy()
    targets[0, 0] += 0.04  # in 0.08 s: 0.5 rad/s, a quarter of 2
    targets[1, 3] -= 0.12  # 1.5 rad/s downwards
    targets[2, 8] += 0.40  # 5 rad/s: clipped
    read, report = read_trajectories(write_log(tmp_path / "one.mjl", positions, targets))
    np.testing.assert_allclose(read.observations, positions[:3], atol=1e-7)
    expected = np.zeros((3, 9))
    expected[0, 0], expected[1, 3], expected[2, 8] = 0.25, -0.75, 0.999
    np.testing.assert_allclose(read.actions, expected, atol=1e-6)
    assert report.lines() == ("format: .mjl logs", "left out 1 last observations, which no action follows")


def test_a_folder_of_logs_is_searched_and_sorted(tmp_path: Path) -> None:
    first, second, short = episodes(12, 9, 1)
    log_of(tmp_path / "friday_b" / "playdata_1.mjl", *second)
    log_of(tmp_path / "friday_a" / "playdata_2.mjl", *first)
    log_of(tmp_path / "friday_c" / "playdata_3.mjl", *short)
    (tmp_path / "friday_a" / "notes.txt").write_text("not a log")
    read, report = read_trajectories(tmp_path)
    assert read.lengths.tolist() == [11, 8]
    assert report.dropped_rows == 3  # the last of each, and the only one of the log that is shorter than a transition
    for (observations, actions), (raw, raw_actions) in zip(read.split(), (first, second), strict=True):
        np.testing.assert_allclose(observations, raw[:-1, COLUMNS], atol=1e-6)
        np.testing.assert_allclose(actions, raw_actions[:-1], atol=2e-6)


def test_a_log_is_known_without_its_ending(tmp_path: Path) -> None:
    path = log_of(tmp_path / "playdata.log", *episodes(12)[0])
    assert read_trajectories(path)[1].format_name == ".mjl logs"


def test_a_log_is_cut_where_its_time_starts_again(tmp_path: Path) -> None:
    before, after = episodes(12, 9)
    one = log_of(tmp_path / "one.mjl", *before).read_bytes()
    two = log_of(tmp_path / "two.mjl", *after, first_second=0.0).read_bytes()
    (tmp_path / "both.mjl").write_bytes(one + two[28 + len(b"franka_kitchen") :])
    read, report = read_trajectories(tmp_path / "both.mjl")
    assert read.lengths.tolist() == [11, 8]
    assert (report.cuts, report.dropped_rows) == (1, 2)


# -- refusals ---------------------------------------------------------------------------------------------------------

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


def test_the_task_distribution_reads_with_these_readers() -> None:
    distribution = task_distribution("kitchen")
    assert distribution.data_source is not None
    recorded = distribution.data_source.read(str(NPZ))
    assert isinstance(recorded.trajectories, Trajectories)
    assert recorded.trajectories.checksum() == human_trajectories().checksum()
    assert recorded.remarks == ("format: .npz",)
    recorded.trajectories.validate(distribution.observation_dim, distribution.action_dim, min_length=11)
