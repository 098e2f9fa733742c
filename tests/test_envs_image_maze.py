"""The image maze: its world beside the maze's, offline data of random mazes, goals, one lane with images, pictures."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from envs.core import Task
from envs.image_maze.data import IMAGE_MAZE_DATA_PRESETS, ImageMazeDataConfig, ImageMazeDataSource, recorded_in
from envs.image_maze.single import ImageMazeEnv
from envs.image_maze.tasks import (
    draw_goals_apart,
    draw_task_distributions,
    goals_of,
)
from envs.image_maze.views import MazeViews
from envs.image_maze.world import START_POSITION, ImageMazeWorld
from envs.maze.coverage import CONTACT_TOLERANCE, describe_paths, touches_wall
from envs.maze.data import MazeDataConfig
from envs.maze.layout import free_space_is_connected, reference_layout
from envs.maze.physics import full_model
from envs.maze.planner import path_length_map
from envs.maze.world import MazeWorld
from envs.registry import task_distribution
from envs.trajectories import Trajectories

LAYOUT = reference_layout(40)
SOURCE = ImageMazeDataSource(LAYOUT)
CONFIG = ImageMazeDataConfig(num_trajectories=12, chunk_trajectories=5)
NAMES = ("image-maze", "image-maze-full")


def build(config: ImageMazeDataConfig, threads: int = 1) -> Trajectories:
    return Trajectories.concatenate(
        [SOURCE.build_chunk(config, chunk_index, threads) for chunk_index in range(SOURCE.num_chunks(config))]
    )


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return build(CONFIG)


def far_tasks(count: int) -> list[Task]:
    return [Task("far", {"goal": [40, 40]})] * count


def roll_out(world: MazeWorld, tasks: list[Task], env_steps: int) -> NDArray[np.float32]:
    """(T + 1, L, D)"""
    rng = np.random.default_rng(0)
    recorded = [world.start(tasks, [(0, "episode", lane) for lane in range(len(tasks))]).copy()]
    recorded += [world.step(rng.uniform(-1, 1, (len(tasks), 2)))[0].copy() for _ in range(env_steps)]
    return np.array(recorded)


def test_the_state_is_the_mazes_and_the_rest_is_where_it_was() -> None:
    seen = roll_out(ImageMazeWorld(LAYOUT, 3), far_tasks(3), 50)
    plain = roll_out(MazeWorld(LAYOUT, 3, start_position=START_POSITION), far_tasks(3), 50)
    np.testing.assert_array_equal(seen[:, :, :4], plain)
    np.testing.assert_array_equal(seen[1:, :, 4:6], plain[:-1, :, :2])
    assert not seen[0, :, 4:].any()
    assert (seen[1:, :, 6] == 1.0).all()
    assert np.abs(seen[0, :, :2] - START_POSITION).max() <= 0.1


def test_the_previous_position_does_not_outlive_its_episode() -> None:
    world = ImageMazeWorld(LAYOUT, 2)
    first = roll_out(world, far_tasks(2), 5)
    np.testing.assert_array_equal(roll_out(world, far_tasks(2), 5), first)


def test_a_finished_lane_keeps_its_last_row() -> None:
    start = Task("here", {"goal": [10, 24]})
    world = ImageMazeWorld(LAYOUT, 2)
    seen = roll_out(world, [start, *far_tasks(1)], 6)
    assert world.active_lanes.tolist() == [1]
    np.testing.assert_array_equal(seen[1:, 0], np.repeat(seen[1:2, 0], 6, axis=0))
    assert seen[1, 0, 6] == 1.0


def test_one_lane_with_images_is_a_gymnasium_environment() -> None:
    env = gym.make("simpl_bench/ImageMaze-v0")
    assert isinstance(env.unwrapped, ImageMazeEnv)
    check_env(env.unwrapped, skip_render_check=True)
    first, info = env.reset(seed=3)
    assert info == {"success": False}
    assert first["state"].shape == (4,) and first["image"].shape == (6, 32, 32)
    assert not first["image"][3:].any()
    second, reward, terminated, truncated, _ = env.step(np.ones(2, np.float32))
    np.testing.assert_array_equal(second["image"][3:], first["image"][:3])
    row = np.concatenate([second["state"], first["state"][:2], [1.0]]).astype(np.float32)
    np.testing.assert_array_equal(second["image"], MazeViews(LAYOUT).draw(row[None])[0])
    assert (reward, terminated, truncated) == (0.0, False, False)
    with pytest.raises(ValueError, match="outside the maze"):
        ImageMazeEnv(goal=(50.0, 0.0))


def test_every_trajectory_has_a_maze_of_its_own(trajectories: Trajectories) -> None:
    trajectories.validate(observation_dim=7, action_dim=2, min_length=11)
    scenes = trajectories.scenes
    assert scenes is not None and scenes.shape == (12, 22, 22) and scenes.dtype == np.uint8
    assert len({scene.tobytes() for scene in scenes}) == 12
    assert set(np.unique(scenes)) == {0, 1}
    assert all(free_space_is_connected(scene != 0) for scene in scenes)
    assert trajectories.lengths.max() < CONFIG.max_env_steps, "every trajectory arrives"
    for (observations, _), scene in zip(trajectories.split(), scenes, strict=True):
        cells = np.rint(observations[:, :2] + 0.2).astype(int)
        assert not scene[cells[:, 0], cells[:, 1]].any(), "nobody is in a wall"


def test_rows_say_where_the_agent_was(trajectories: Trajectories) -> None:
    for observations, _ in trajectories.split():
        np.testing.assert_array_equal(observations[1:, 4:6], observations[:-1, :2])
        np.testing.assert_array_equal(observations[:, 6], [0.0, *[1.0] * (len(observations) - 1)])
        assert not observations[0, 4:].any()


def test_recorded_actions_lead_through_the_recorded_maze(trajectories: Trajectories) -> None:
    """The world itself, put into the trajectory's maze and start, observes the same rows."""
    observations, actions = trajectories.split()[7]
    assert trajectories.scenes is not None
    layout = SOURCE.layout_of(CONFIG, 7)
    np.testing.assert_array_equal(layout.walls, trajectories.scenes[7] != 0)
    world = ImageMazeWorld(layout, 1)
    world.start([Task("far", {"goal": [0, 0]})], [(0, "replayed")])
    plan = SOURCE.plan(CONFIG, 7)
    world._physics.reset(plan[:1], np.zeros((1, 2)))
    seen = np.array([world.step(action[None])[0][0].copy() for action in actions[:-1]])
    np.testing.assert_array_equal(seen[1:], observations[2:])
    np.testing.assert_array_equal(seen[0, :4], observations[1, :4])


def test_data_do_not_depend_on_chunks_or_threads(trajectories: Trajectories) -> None:
    assert SOURCE.num_chunks(CONFIG) == 3
    assert build(replace(CONFIG, chunk_trajectories=12)).checksum() == trajectories.checksum()
    assert build(replace(CONFIG, chunk_trajectories=7), threads=2).checksum() == trajectories.checksum()
    assert build(replace(CONFIG, seed=1)).checksum() != trajectories.checksum()
    with pytest.raises(ValueError, match="chunk 3 does not exist; valid: 0 to 2"):
        SOURCE.build_chunk(CONFIG, 3)


def test_the_same_physics_for_every_maze_at_once(trajectories: Trajectories) -> None:
    """Lanes in mazes of their own move as each would alone."""
    alone = SOURCE.build_chunk(replace(CONFIG, chunk_trajectories=1), 4)
    np.testing.assert_array_equal(alone.observations, trajectories.split()[4][0])
    np.testing.assert_array_equal(alone.actions, trajectories.split()[4][1])


def test_data_survive_their_file(trajectories: Trajectories, tmp_path: Path) -> None:
    trajectories.save_hdf5(tmp_path / "data.hdf5")
    loaded = SOURCE.read(str(tmp_path / "data.hdf5")).trajectories
    assert loaded.checksum() == trajectories.checksum()
    np.testing.assert_array_equal(loaded.scenes, trajectories.scenes)


def test_presets_hold_what_the_paper_has() -> None:
    """85,000 x 10 transitions: trajectories are 500 env_steps long on average (2,000 of them were 515)."""
    assert set(IMAGE_MAZE_DATA_PRESETS) == {"smoke", "quick", "paper"}
    some = build(replace(CONFIG, num_trajectories=40, chunk_trajectories=40))
    paper = ImageMazeDataConfig(**IMAGE_MAZE_DATA_PRESETS["paper"])
    assert paper.num_trajectories * (some.lengths.mean() - 3 * some.lengths.std() / math.sqrt(40)) > 850_000


def test_trajectories_in_the_worlds_own_maze() -> None:
    recorded = recorded_in(LAYOUT, 3, seed=0, config=MazeDataConfig(max_env_steps=60))
    recorded.validate(observation_dim=7, action_dim=2, min_length=11)
    assert recorded.scenes is None
    assert recorded.checksum() == recorded_in(LAYOUT, 3, seed=0, config=MazeDataConfig(max_env_steps=60)).checksum()
    assert recorded.observations[:, :2].max() > 20.0, "larger than the mazes of the data"
    MazeViews(LAYOUT).draw(recorded.observations)


def test_wall_contact_is_mujocos() -> None:
    """With margins of half the tolerance each, MuJoCo reports a contact where the particle is that close to a box."""
    model = full_model(LAYOUT)
    model.geom_margin[:] = CONTACT_TOLERANCE / 2
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    cells = LAYOUT.free_cells[rng.integers(len(LAYOUT.free_cells), size=400)]
    # Half of them about as far from a wall, on one axis, as the particle's radius.
    offsets = rng.uniform(-0.4, 0.4, (400, 2))
    offsets[::2, 0] = rng.choice([-1.0, 1.0], 200) * rng.uniform(0.38, 0.4, 200)
    positions = cells - 0.2 + offsets
    contacts = []
    for position in positions:
        data.qpos[:] = position
        mujoco.mj_forward(model, data)
        contacts.append(data.ncon > 0)
    np.testing.assert_array_equal(touches_wall(LAYOUT, positions), contacts)
    assert 20 < sum(contacts) < 200


def test_what_episodes_did_is_counted() -> None:
    """One touches a wall on half of its way through three cells, one rests in the middle of its cell."""
    across = np.zeros((40, 7))
    across[:, 0], across[:, 1] = np.linspace(9.0, 11.0, 40) - 0.2, 23.8
    at_wall = across.copy()
    assert LAYOUT.is_free(9, 24) and LAYOUT.is_free(10, 24) and LAYOUT.is_free(11, 24)
    wall_x = next(x for x in range(11, 42) if not LAYOUT.is_free(x, 24))
    at_wall[20:, 0] = wall_x - 0.2 - 0.5 - 0.1
    still = np.repeat(across[20:21], 40, axis=0)
    described = describe_paths(LAYOUT, [at_wall, still])
    assert described["wall_contact_rate"] == 20 / 80
    assert described == task_distribution("image-maze").describe_episodes([at_wall, still])  # type: ignore[misc]
    free = int((~LAYOUT.walls).sum())
    assert describe_paths(LAYOUT, [across, still]) == {
        "wall_contact_rate": 0.0, "cells_visited": 2.0, "covered": 3 / free,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_goals_are_drawn_by_path_length_and_none_is_shared(name: str) -> None:
    train, target = goals_of(name)
    assert (len(train), len(target)) == (20, 10)
    lengths = path_length_map(LAYOUT, (10, 24))
    distances = [lengths[goal] for goal in train + target]
    assert np.isfinite(distances).all()
    together = np.array(train + target)
    apart = np.linalg.norm(together[:, None] - together[None], axis=2)[~np.eye(30, dtype=bool)]
    assert apart.min() > 2.0, "no place solves two tasks"
    if name == "image-maze":
        assert min(distances) >= 12.0 and max(distances) <= 25.0
        assert 18.0 < np.mean(distances[20:]) < 20.0, "710 env_steps, at 39 for a cell"
    else:
        assert min(distances) < 15.0 and max(distances) > 45.0, "across the whole maze"


def test_goals_are_where_they_were() -> None:
    """Results depend on them: a digest of the lists, recorded when they were drawn first."""
    text = ";".join(str(goals_of(name)) for name in NAMES)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "5232de5a30bdccfc"


def test_goals_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no image maze task distribution 'x'; valid: image-maze, image-maze-full"):
        goals_of("x")
    with pytest.raises(ValueError, match="goals apart from each other"):
        draw_goals_apart(LAYOUT, (59.0, 60.0), 30, ("too few",))


def test_the_distributions_differ_in_their_goals_alone() -> None:
    near, full = (task_distribution(name) for name in NAMES)
    assert near.world_fingerprint == full.world_fingerprint
    assert near.family == full.family == "image-maze"
    assert near.views is not None and near.views.shape == (6, 32, 32) and near.views.state_dim == 4
    assert set(near.data_presets) == {"smoke", "quick", "paper"}
    assert task_distribution("maze").views is None


def test_pictures(trajectories: Trajectories, tmp_path: Path) -> None:
    distribution = task_distribution("image-maze")
    renderer = distribution.episode_renderer
    assert renderer is not None and renderer.render_in_scene is not None
    draw_task_distributions(tmp_path / "goals.png")
    SOURCE.draw_coverage(trajectories, tmp_path / "coverage.png")
    own = recorded_in(LAYOUT, 2, seed=0, config=MazeDataConfig(max_env_steps=60))
    SOURCE.draw_coverage(own, tmp_path / "own.png")
    assert trajectories.scenes is not None
    renderer.render_in_scene(trajectories.split()[2][0], trajectories.scenes[2], tmp_path / "episode.png", "recorded")
    renderer.render([rows for rows, _ in own.split()], [], tmp_path / "episodes.png", "two episodes")
    for picture in ("goals", "coverage", "own", "episode", "episodes"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
