"""Readers of recorded kitchen data: every format read back from what was written of the shipped human episodes."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.kitchen.readers import human_trajectories, read_trajectories
from envs.registry import task_distribution
from envs.trajectories import Trajectories, TrajectoryError
from tests.kitchen_files import (
    COLUMNS,
    LENGTHS,
    NPZ,
    RAW,
    episodes,
    joined,
    log_of,
    marks,
    refuse,
    write_flat,
    write_log,
    write_minari,
)

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


def test_the_task_distribution_reads_with_these_readers() -> None:
    distribution = task_distribution("kitchen")
    assert distribution.data_source is not None
    recorded = distribution.data_source.read(str(NPZ))
    assert isinstance(recorded.trajectories, Trajectories)
    assert recorded.trajectories.checksum() == human_trajectories().checksum()
    assert recorded.remarks == ("format: .npz",)
    recorded.trajectories.validate(distribution.observation_dim, distribution.action_dim, min_length=11)
