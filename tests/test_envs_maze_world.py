"""Episodes in the maze: starts, success, time limit, finished lanes, lane independence; the single environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs  # noqa: F401 (registers simpl_bench/Maze-v0)
from envs.core import Task
from envs.maze.layout import reference_layout
from envs.maze.world import MazeWorld
from envs.randomness import keyed_rng

LAYOUT = reference_layout(20)


def goal_task(x: float, y: float) -> Task:
    return Task(name=f"{x},{y}", spec={"goal": [x, y]})


FAR = goal_task(1, 1)


def keys(count: int, first: int = 0) -> list[tuple[int | str, ...]]:
    return [(0, "test", episode) for episode in range(first, first + count)]


def test_start_is_noisy_within_the_stated_ranges() -> None:
    world = MazeWorld(LAYOUT, 500)
    observations = world.start([FAR] * 500, keys(500))
    assert observations.shape == (500, 4)
    assert observations.dtype == np.float32
    offsets = observations[:, :2] - 10.0
    assert np.abs(offsets).max() <= 0.1
    assert offsets.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    assert abs(observations[:, 2:].mean()) < 0.01
    assert observations[:, 2:].std() == pytest.approx(0.1, rel=0.1)


def test_start_draws_from_the_episode_key() -> None:
    rng = keyed_rng(0, "test", 7)
    expected = np.concatenate([10.0 + 0.1 * (2.0 * rng.random(2) - 1.0), 0.1 * rng.standard_normal(2)])
    observations = MazeWorld(LAYOUT, 1).start([FAR], keys(1, first=7))
    np.testing.assert_array_equal(observations[0], expected.astype(np.float32))


@pytest.mark.parametrize(("distance", "success"), [(1.09, True), (1.35, False)])
def test_success_is_within_one_of_the_goal(distance: float, success: bool) -> None:
    world = MazeWorld(LAYOUT, 1)
    start = world.start([goal_task(10.0, 10.0)], keys(1))[0, :2].astype(float)
    world.start([goal_task(start[0] - distance, start[1])], keys(1))
    for _ in range(15):
        observations, rewards, terminated, truncated, _ = world.step(np.array([[-1.0, 0.0]]))
        reached = np.hypot(observations[0, 0] - (start[0] - distance), observations[0, 1] - start[1]) <= 1.0
        assert reached == bool(terminated[0]) == bool(rewards[0] == 1.0)
        assert not truncated[0]
        if reached:
            break
    assert bool(terminated[0]) == success or not success


def test_reaching_the_time_limit_truncates_and_success_on_the_last_step_terminates() -> None:
    world = MazeWorld(LAYOUT, 2, episode_env_steps=3)
    world.start([FAR, goal_task(10, 10)], keys(2))
    world.start([FAR, FAR], keys(2))
    for _ in range(2):
        _, _, terminated, truncated, _ = world.step(np.zeros((2, 2)))
        assert not terminated.any()
        assert not truncated.any()
    world._goals[1] = (10.0, 10.0)
    _, rewards, terminated, truncated, _ = world.step(np.zeros((2, 2)))
    assert terminated.tolist() == [False, True]
    assert truncated.tolist() == [True, False]
    assert rewards.tolist() == [0.0, 1.0]
    assert len(world.active_lanes) == 0


def test_default_time_limit_is_2000() -> None:
    world = MazeWorld(LAYOUT, 1)
    world.start([FAR], keys(1))
    for env_step in range(2000):
        assert len(world.active_lanes) == 1, env_step
        truncated = world.step(np.zeros((1, 2)))[3]
    assert truncated.all()


def test_finished_lanes_keep_their_observation_and_earn_nothing() -> None:
    world = MazeWorld(LAYOUT, 3)
    world.start([goal_task(10, 10), FAR], keys(2))
    np.testing.assert_array_equal(world.active_lanes, [0, 1])
    observations, rewards, terminated, _, _ = world.step(np.ones((3, 2)))
    assert rewards.tolist() == [1.0, 0.0, 0.0]
    assert terminated.tolist() == [True, False, True]
    np.testing.assert_array_equal(world.active_lanes, [1])
    last = observations.copy()
    for _ in range(50):
        observations, rewards, terminated, truncated, _ = world.step(np.ones((3, 2)))
    np.testing.assert_array_equal(observations[[0, 2]], last[[0, 2]])
    assert (observations[1] != last[1]).any()
    assert not rewards.any()
    assert terminated.tolist() == [True, False, True]
    assert not truncated.any()


def roll_out(num_lanes: int, lanes: list[int], tasks: list[Task], env_steps: int = 300) -> np.ndarray:
    """Observations (T, E, 4) of episodes that sit in the given lanes, among others."""
    world = MazeWorld(LAYOUT, num_lanes)
    all_tasks, all_keys = [goal_task(10, 12)] * num_lanes, keys(num_lanes, first=1000)
    for episode, lane in enumerate(lanes):
        all_tasks[lane], all_keys[lane] = tasks[episode], keys(1, first=episode)[0]
    world.start(all_tasks, all_keys)
    controls = np.random.default_rng(1).uniform(-1, 1, size=(env_steps // 25, 2, 2))
    recorded = []
    for env_step in range(env_steps):
        actions = np.ones((num_lanes, 2))
        actions[lanes] = controls[env_step // 25, : len(lanes)]
        recorded.append(world.step(actions)[0][lanes].copy())
    return np.array(recorded)


def test_an_episode_does_not_depend_on_the_lanes_around_it() -> None:
    tasks = [FAR, goal_task(20, 20)]
    together = roll_out(7, [5, 2], tasks)
    np.testing.assert_array_equal(together, roll_out(2, [0, 1], tasks))
    np.testing.assert_array_equal(together[:, :1], roll_out(1, [0], tasks[:1])[:, :1])


def test_actions_are_clipped() -> None:
    runs = []
    for scale in (1.0, 30.0):
        world = MazeWorld(LAYOUT, 1)
        world.start([FAR], keys(1))
        runs.append([world.step(np.array([[scale, -scale]]))[0].copy() for _ in range(20)])
    np.testing.assert_array_equal(*runs)


def test_vector_env_contract() -> None:
    world = MazeWorld(LAYOUT, 4)
    assert world.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    with pytest.raises(ValueError, match="before the first start"):
        world.reset(seed=0)
    first = world.reset(seed=3, options={"tasks": [FAR] * 4})[0].copy()
    assert world.observation_space.contains(first)
    np.testing.assert_array_equal(first, world.reset(seed=3)[0])
    assert (first != world.reset(seed=4)[0]).any()
    observations, rewards, terminated, truncated, _ = world.step(world.action_space.sample())
    assert observations.shape == (4, 4)
    assert rewards.shape == terminated.shape == truncated.shape == (4,)


def test_observations_stay_within_the_declared_bounds() -> None:
    world = MazeWorld(LAYOUT, 32)
    world.start([FAR] * 32, keys(32))
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.choice([-1.0, 1.0], size=(32, 2))
        for _ in range(20):
            assert world.observation_space.contains(world.step(actions)[0])


def test_bad_input_is_refused() -> None:
    world = MazeWorld(LAYOUT, 2)
    for goal in (None, [1], [1, 2, 3], "xy", [-1, 5], [5, 99], [float("nan"), 1]):
        with pytest.raises(ValueError, match="goal"):
            world.start([Task("bad", {"goal": goal})], keys(1))
    with pytest.raises(ValueError, match="3 tasks and 3 episode keys for 2 lanes"):
        world.start([FAR] * 3, keys(3))
    with pytest.raises(ValueError, match="2 tasks and 1 episode keys"):
        world.start([FAR] * 2, keys(1))
    with pytest.raises(ValueError, match="every lane is finished"):
        world.step(np.zeros((2, 2)))
    world.start([FAR] * 2, keys(2))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        world.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="NaN"):
        world.step(np.full((2, 2), np.nan))


def test_single_environment_passes_gymnasiums_checker() -> None:
    env = gym.make("simpl_bench/Maze-v0", goal=(5, 12))
    check_env(env.unwrapped)
    first, _ = env.reset(seed=1)
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="outside the maze"):
        gym.make("simpl_bench/Maze-v0", goal=(50, 12))


def test_single_environment_is_one_lane_of_the_world() -> None:
    env = gym.make("simpl_bench/Maze-v0", goal=(1, 1), episode_env_steps=30)
    env.reset(seed=5)
    key = int(np.random.Generator(np.random.PCG64(np.random.SeedSequence(5))).integers(2**63))
    world = MazeWorld(LAYOUT, 3)
    world.start([FAR] * 3, [(9, 9), (key, "single"), (8, 8)])
    for env_step in range(30):
        action = np.array([0.7, -0.4], np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation, world.step(np.tile(action, (3, 1)))[0][1])
        assert (reward, terminated, truncated, info) == (0.0, False, env_step == 29, {"success": False})
