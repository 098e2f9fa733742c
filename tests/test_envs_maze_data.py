"""Offline maze data: determinism whatever the cut, the recorded numbers, coverage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.maze.data import MAZE_DATA_PRESETS, MazeDataConfig, MazeDataSource
from envs.maze.layout import reference_layout
from envs.maze.physics import PointMassBatch
from envs.trajectories import Trajectories

SOURCE = MazeDataSource(reference_layout(20))
CONFIG = MazeDataConfig(num_trajectories=60, chunk_trajectories=25)


def build(config: MazeDataConfig, threads: int = 1) -> Trajectories:
    return Trajectories.concatenate(
        [SOURCE.build_chunk(config, chunk_index, threads) for chunk_index in range(SOURCE.num_chunks(config))]
    )


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return build(CONFIG)


def test_contents(trajectories: Trajectories) -> None:
    trajectories.validate(observation_dim=4, action_dim=2, min_length=11)
    assert len(trajectories.lengths) == 60
    assert trajectories.observations.dtype == trajectories.actions.dtype == np.float32
    assert np.abs(trajectories.actions).max() <= 1.0
    assert 200 < trajectories.lengths.mean() < 600
    assert trajectories.lengths.max() < CONFIG.max_env_steps, "every trajectory arrives"


def test_data_do_not_depend_on_chunks_or_threads(trajectories: Trajectories) -> None:
    assert SOURCE.num_chunks(CONFIG) == 3
    assert build(replace(CONFIG, chunk_trajectories=60)).checksum() == trajectories.checksum()
    assert build(replace(CONFIG, chunk_trajectories=7), threads=2).checksum() == trajectories.checksum()
    assert build(replace(CONFIG, num_trajectories=10)).episode_ends.tolist() == trajectories.episode_ends[:10].tolist()


def test_data_depend_on_the_seed(trajectories: Trajectories) -> None:
    assert build(replace(CONFIG, seed=1)).checksum() != trajectories.checksum()


def test_recorded_actions_replay_to_the_recorded_observations(trajectories: Trajectories) -> None:
    observations, actions = trajectories.split()[3]
    physics = PointMassBatch(SOURCE.layout, 1)
    physics.reset(SOURCE.plan(CONFIG, 3)[:1], np.zeros((1, 2)))
    for observation, action in zip(observations, actions, strict=True):
        np.testing.assert_array_equal(
            observation, np.hstack([physics.positions, physics.velocities])[0].astype(np.float32)
        )
        physics.controls[:] = action
        physics.step()
    assert np.linalg.norm(physics.positions[0] - SOURCE.plan(CONFIG, 3)[-1]) < CONFIG.waypoint_tolerance


def test_plans_start_and_end_in_free_cells_and_stay_off_walls() -> None:
    for index in range(40):
        plan = SOURCE.plan(CONFIG, index)
        assert len(plan) >= 2
        cells = np.rint(plan + 0.2).astype(int)
        assert not SOURCE.layout.walls[cells[:, 0], cells[:, 1]].any()
        assert np.abs(plan + 0.2 - cells).max() <= CONFIG.waypoint_jitter


def test_length_cap_keeps_the_truncated_trajectory() -> None:
    capped = build(replace(CONFIG, num_trajectories=5, max_env_steps=30))
    assert capped.lengths.max() == 30
    np.testing.assert_array_equal(capped.observations[:25], build(CONFIG).observations[:25])


def test_presets_cover_the_maze() -> None:
    assert MazeDataConfig(**MAZE_DATA_PRESETS["paper"]).num_trajectories >= 3000
    config = MazeDataConfig(num_trajectories=150)
    positions = build(config).observations[:, :2]
    visited = np.unique(np.rint(positions + 0.2).astype(int), axis=0)
    assert len(visited) > 0.9 * len(SOURCE.layout.free_cells)


def test_coverage_picture(trajectories: Trajectories, tmp_path: Path) -> None:
    SOURCE.draw_coverage(trajectories, tmp_path / "coverage.png")
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_refused() -> None:
    for field, value in (
        ("num_trajectories", 0),
        ("chunk_trajectories", -1),
        ("max_env_steps", 0),
        ("waypoint_jitter", 0.5),
        ("waypoint_tolerance", 0.0),
    ):
        with pytest.raises(ValueError, match=field):
            replace(CONFIG, **{field: value})
    with pytest.raises(ValueError, match="chunk 3 does not exist; valid: 0 to 2"):
        SOURCE.build_chunk(CONFIG, 3, threads=1)
