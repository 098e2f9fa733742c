"""Flat trajectories: validation messages, checksum, D4RL's HDF5."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from envs.trajectories import Trajectories, TrajectoryError


def make(lengths: tuple[int, ...] = (5, 3), seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    return Trajectories(
        observations=rng.normal(size=(total, 4)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(total, 2)).astype(np.float32),
        episode_ends=np.cumsum(lengths).astype(np.int64),
    )


def test_concatenate_and_split_are_inverse() -> None:
    first, second = make((5, 3)), make((4,), seed=1)
    joined = Trajectories.concatenate([first, second])
    joined.validate(observation_dim=4, action_dim=2, min_length=5)
    assert joined.lengths.tolist() == [5, 3, 4]
    episodes = joined.split()
    np.testing.assert_array_equal(episodes[1][0], first.observations[5:])
    np.testing.assert_array_equal(episodes[2][1], second.actions)
    with pytest.raises(TrajectoryError, match="at least one"):
        Trajectories.concatenate([])


def with_scenes(trajectories: Trajectories, seed: int = 0, size: int = 5) -> Trajectories:
    """Each episode in a place of its own."""
    shape = (len(trajectories.episode_ends), size, size)
    return replace(trajectories, scenes=np.random.default_rng(seed).integers(0, 2, shape).astype(np.uint8))


def test_scenes_are_kept_and_counted(tmp_path: Path) -> None:
    first, second = with_scenes(make((5, 3))), with_scenes(make((4,), seed=1), seed=1)
    joined = Trajectories.concatenate([first, second])
    joined.validate(observation_dim=4, action_dim=2, min_length=5)
    np.testing.assert_array_equal(joined.scenes, np.concatenate([first.scenes, second.scenes]))
    joined.save_hdf5(tmp_path / "data.hdf5")
    loaded = Trajectories.load_hdf5(tmp_path / "data.hdf5")
    np.testing.assert_array_equal(loaded.scenes, joined.scenes)
    assert loaded.checksum() == joined.checksum()
    assert loaded.checksum() != replace(joined, scenes=None).checksum()
    assert loaded.checksum() != replace(joined, scenes=1 - joined.scenes).checksum()
    with pytest.raises(TrajectoryError, match=r"scenes have shape \(2, 5, 5\); expected one for each of 3 episodes"):
        replace(joined, scenes=first.scenes).validate(observation_dim=4, action_dim=2, min_length=5)


def test_scenes_of_some_or_of_other_shape_cannot_be_joined() -> None:
    for other in (make((4,)), with_scenes(make((4,)), size=6)):
        with pytest.raises(TrajectoryError, match="unless all have scenes of one shape, or none has any"):
            Trajectories.concatenate([with_scenes(make()), other])


def test_without_scenes_nothing_changes() -> None:
    """The checksum is part of artefacts that exist: computed here from its definition."""
    data = make()
    digest = hashlib.sha256()
    for name in ("observations", "actions", "episode_ends"):
        array = getattr(data, name)
        digest.update(f"{name}{array.shape}".encode() + array.tobytes())
    assert data.checksum() == digest.hexdigest()


def test_checksum_depends_on_every_part() -> None:
    original = make()
    assert original.checksum() == make().checksum()
    changed_ends = Trajectories(original.observations, original.actions, np.array([4, 8]))
    changed_actions = Trajectories(original.observations, -original.actions, original.episode_ends)
    assert len({original.checksum(), changed_ends.checksum(), changed_actions.checksum()}) == 3


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ({"observations": np.full((8, 4), np.nan, np.float32)}, "observations row 0 holds NaN"),
        ({"actions": np.full((8, 2), np.inf, np.float32)}, "actions row 0 holds NaN or infinity"),
        ({"observations": np.zeros((8, 5), np.float32)}, r"observations have shape \(8, 5\)"),
        ({"actions": np.zeros(8, np.float32)}, r"actions have shape \(8,\)"),
        ({"actions": np.zeros((7, 2), np.float32)}, "8 observations but 7 actions"),
        ({"episode_ends": np.array([5, 5, 8])}, "episode 1 is empty"),
        ({"episode_ends": np.array([5, 3, 8])}, "episode 1 is empty"),
        ({"episode_ends": np.array([5, 7])}, "last episode ends at 7"),
        ({"episode_ends": np.zeros(0, np.int64)}, "not empty"),
        ({"episode_ends": np.arange(1, 9)}, "longest episode has 1 env_steps; at least one needs 5"),
    ],
)
def test_validate_names_the_defect(defect: dict[str, np.ndarray], message: str) -> None:
    good = make()
    parts = {"observations": good.observations, "actions": good.actions, "episode_ends": good.episode_ends}
    with pytest.raises(TrajectoryError, match=message) as caught:
        Trajectories(**(parts | defect)).validate(observation_dim=4, action_dim=2, min_length=5)
    assert "\n" not in str(caught.value)


def test_hdf5_round_trip_in_d4rl_format(tmp_path: Path) -> None:
    original = make((5, 3, 7))
    original.save_hdf5(tmp_path / "data.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["data.hdf5"]
    assert Trajectories.load_hdf5(tmp_path / "data.hdf5").checksum() == original.checksum()
    with h5py.File(tmp_path / "data.hdf5") as file:
        assert set(file) == {"observations", "actions", "rewards", "terminals", "timeouts"}
        assert not file["rewards"][()].any()
        assert not file["terminals"][()].any()
        assert np.flatnonzero(file["timeouts"][()]).tolist() == [4, 7, 14]


def test_terminals_end_episodes_and_an_open_end_ends_with_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 4)), np.zeros((6, 2))
        file["terminals"], file["timeouts"] = np.arange(6) == 1, np.arange(6) == 3
    assert Trajectories.load_hdf5(tmp_path / "data.hdf5").episode_ends.tolist() == [2, 4, 6]


def test_damaged_files_are_refused_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with pytest.raises(TrajectoryError, match="no such file"):
        Trajectories.load_hdf5(path)
    make((500,)).save_hdf5(path)
    contents = path.read_bytes()
    for damaged in (contents[: len(contents) // 2], contents[:100], b"", b"not HDF5" * 100):
        path.write_bytes(damaged)
        with pytest.raises(TrajectoryError, match=r"not a readable HDF5 file|the file is empty") as caught:
            Trajectories.load_hdf5(path)
        assert "\n" not in str(caught.value)


def test_missing_keys_and_unequal_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 4)), np.zeros((5, 2))
        file["terminals"] = np.zeros(6, bool)
    with pytest.raises(TrajectoryError, match="no timeouts"):
        Trajectories.load_hdf5(path)
    with h5py.File(path, "a") as file:
        file["timeouts"] = np.zeros(6, bool)
    with pytest.raises(TrajectoryError, match="same number of rows"):
        Trajectories.load_hdf5(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    make().save_hdf5(path)
    broken = Trajectories(np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32), np.array([99]))
    with pytest.raises(IndexError):
        broken.save_hdf5(path)
    assert Trajectories.load_hdf5(path).checksum() == make().checksum()
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.hdf5"]
