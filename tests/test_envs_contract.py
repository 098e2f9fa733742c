"""What every registered world does alike, whatever it simulates: lanes, clipping, time limits, keys, score ranges.

Task distributions that share a world are all tested: what they share is little to run.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.core import Task, TaskDistribution, World
from envs.lane_world import LaneWorld
from envs.registry import task_distribution, task_distribution_names
from envs.single_lane import SingleLaneEnv

WITH_WORLD = [name for name in task_distribution_names() if not name.startswith("toy")]
"""The tests of the harness register toys that have no world."""
ENV_STEPS = 12
"""Of most roll-outs here: the kitchen takes a millisecond for each."""

pytestmark = pytest.mark.parametrize("name", WITH_WORLD)


def keys(*episodes: int) -> list[tuple[int | str, ...]]:
    return [(0, "contract", episode) for episode in episodes]


def some_tasks(distribution: TaskDistribution, count: int) -> list[Task]:
    """``count`` target tasks, the first of them again where there are fewer."""
    return [distribution.target_tasks[index % len(distribution.target_tasks)] for index in range(count)]


def some_actions(distribution: TaskDistribution, env_step: int, lanes: int, scale: float = 1.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(env_step)
    return rng.uniform(-scale, scale, (lanes, distribution.action_dim)).astype(np.float32)


def roll_out(
    world: World,
    distribution: TaskDistribution,
    lanes: list[int],
    tasks: list[Task],
    episode_keys: list[tuple[int | str, ...]],
) -> NDArray[np.float32]:
    """Observations (T + 1, E, D) of the given episodes in the given lanes, among episodes of other keys."""
    count = world.num_envs
    all_tasks, all_keys = some_tasks(distribution, count), keys(*range(1000, 1000 + count))
    for lane, task, key in zip(lanes, tasks, episode_keys, strict=True):
        all_tasks[lane], all_keys[lane] = task, key
    recorded = [world.start(all_tasks, all_keys)[lanes].copy()]
    for env_step in range(ENV_STEPS):
        actions = some_actions(distribution, -env_step - 1 + 10**6, count)
        actions[lanes] = some_actions(distribution, env_step, 3)[: len(lanes)]
        recorded.append(world.step(actions)[0][lanes].copy())
    return np.array(recorded)


def test_shapes_types_and_spaces(name: str) -> None:
    distribution = task_distribution(name)
    world = distribution.make_world(num_lanes=3)
    assert world.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert world.single_observation_space.shape == (distribution.observation_dim,)
    assert world.single_action_space.shape == (distribution.action_dim,)
    assert (world.single_action_space.low == -1).all() and (world.single_action_space.high == 1).all()
    observations = world.start(some_tasks(distribution, 3), keys(0, 1, 2))
    for env_step in range(ENV_STEPS):
        assert observations.shape == (3, distribution.observation_dim) and observations.dtype == np.float32
        assert world.observation_space.contains(observations)
        observations, rewards, terminated, truncated, infos = world.step(some_actions(distribution, env_step, 3))
        assert rewards.shape == terminated.shape == truncated.shape == (3,)
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
        assert infos == {}


def test_an_episode_depends_on_its_key_and_task_alone(name: str) -> None:
    """Not on lanes around it, threads, earlier episodes of the world, or the order of lanes."""
    distribution = task_distribution(name)
    tasks, episode_keys = some_tasks(distribution, 2), keys(5, 6)
    world = distribution.make_world(num_lanes=4, threads=2)
    together = roll_out(world, distribution, [3, 1], tasks, episode_keys)
    np.testing.assert_array_equal(together, roll_out(world, distribution, [0, 2], tasks, episode_keys))
    alone = roll_out(distribution.make_world(num_lanes=1), distribution, [0], tasks[:1], episode_keys[:1])
    np.testing.assert_array_equal(together[:, :1], alone)


def test_the_task_cannot_be_observed(name: str) -> None:
    """Equal keys and actions look alike under any task, until an episode ends."""
    distribution = task_distribution(name)
    tasks = some_tasks(distribution, 3)
    world = distribution.make_world(num_lanes=3)
    observations = world.start(tasks, [(0, "same")] * 3)
    for env_step in range(ENV_STEPS):
        running = observations[world.active_lanes]
        np.testing.assert_array_equal(running, np.repeat(running[:1], len(running), axis=0))
        observations = world.step(np.repeat(some_actions(distribution, env_step, 1), 3, axis=0))[0]


def test_actions_are_clipped(name: str) -> None:
    distribution = task_distribution(name)
    seen = []
    for scale in (1.0, 40.0):
        world = distribution.make_world(num_lanes=2)
        world.start(some_tasks(distribution, 2), keys(0, 1))
        signs = [np.sign(some_actions(distribution, env_step, 2)) for env_step in range(ENV_STEPS)]
        seen.append([world.step(scale * sign)[0].copy() for sign in signs])
    np.testing.assert_array_equal(*seen)


def test_the_time_limit_truncates(name: str) -> None:
    """Lanes that have not terminated are truncated by the last env_step, not before; then nothing can be stepped."""
    distribution = task_distribution(name)
    world = distribution.make_world(num_lanes=2)
    world.start(some_tasks(distribution, 2), keys(0, 1))
    env_steps = 0
    idle = np.zeros((2, distribution.action_dim), np.float32)
    while len(world.active_lanes):
        _, _, terminated, truncated, _ = world.step(idle)
        env_steps += 1
        assert truncated.tolist() == ([env_steps == distribution.episode_env_steps] * 2)
        assert not terminated.any(), "doing nothing solves no task"
    assert env_steps == distribution.episode_env_steps
    with pytest.raises(ValueError, match="every lane is finished"):
        world.step(idle)


def test_lanes_without_a_task_are_finished(name: str) -> None:
    distribution = task_distribution(name)
    world = distribution.make_world(num_lanes=3)
    observations = world.start(some_tasks(distribution, 1), keys(0))
    assert world.active_lanes.tolist() == [0]
    for env_step in range(3):
        assert not observations[1:].any()
        observations, rewards, terminated, truncated, _ = world.step(some_actions(distribution, env_step, 3))
        assert rewards[1:].tolist() == [0.0, 0.0]
        assert terminated.tolist() == [False, True, True] and not truncated.any()


def test_reset_is_gymnasiums(name: str) -> None:
    distribution = task_distribution(name)
    world = distribution.make_world(num_lanes=2)
    with pytest.raises(ValueError, match="before the first start"):
        world.reset(seed=0)
    first = world.reset(seed=3, options={"tasks": some_tasks(distribution, 2)})[0].copy()
    world.step(some_actions(distribution, 0, 2))
    np.testing.assert_array_equal(first, world.reset(seed=3)[0])


def test_bad_input_is_refused(name: str) -> None:
    distribution = task_distribution(name)
    world = distribution.make_world(num_lanes=2)
    with pytest.raises(ValueError, match="3 tasks and 3 episode keys for 2 lanes"):
        world.start(some_tasks(distribution, 3), keys(0, 1, 2))
    world.start(some_tasks(distribution, 2), keys(0, 1))
    with pytest.raises(ValueError, match="shape"):
        world.step(np.zeros((2, distribution.action_dim + 1)))
    with pytest.raises(ValueError, match="NaN"):
        world.step(np.full((2, distribution.action_dim), math.nan))


def test_returns_lie_within_the_score_range(name: str) -> None:
    """Of short episodes of every task; rewards that are never negative can be bounded from above alone."""
    distribution = task_distribution(name)
    low, high = distribution.score_range
    assert math.isfinite(low) and math.isfinite(high) and low < high
    tasks = distribution.train_tasks + distribution.target_tasks
    world = distribution.make_world(num_lanes=len(tasks))
    world.start(tasks, keys(*range(len(tasks))))
    returns = np.zeros(len(tasks))
    for env_step in range(ENV_STEPS):
        if len(world.active_lanes):
            returns += world.step(some_actions(distribution, env_step, len(tasks), 3.0))[1]
    assert (returns >= low).all()
    assert low < 0.0 or (returns <= high).all()
    if low == 0.0:
        assert (returns >= 0.0).all()


def test_training_and_target_tasks_are_distinct(name: str) -> None:
    distribution = task_distribution(name)
    train, target = (
        [str(dict(task.spec)) for task in tasks] for tasks in (distribution.train_tasks, distribution.target_tasks)
    )
    assert len(set(target)) == len(target) > 0
    assert len(set(train)) == len(train)
    assert not set(train) & set(target)


def test_one_lane_is_a_gymnasium_environment(name: str) -> None:
    distribution = task_distribution(name)
    world = distribution.make_world(num_lanes=1)
    assert isinstance(world, LaneWorld)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*Box observation space"
        )  # of the kitchen, whose state has no bounds
        check_env(SingleLaneEnv(world, distribution.target_tasks[0]), skip_render_check=True)


def test_episodes_can_be_shown(name: str, tmp_path: Path) -> None:
    """``bench play`` needs it. Every distribution writes a PNG; those with videos have slow tests of their own."""
    distribution = task_distribution(name)
    renderer = distribution.episode_renderer
    assert renderer is not None and ".png" in renderer.endings
    if renderer.endings != (".png",):
        return
    world = distribution.make_world(num_lanes=1)
    task = distribution.target_tasks[0]
    observations = [world.start([task], keys(0))[0].copy()]
    observations += [world.step(some_actions(distribution, t, 1))[0][0].copy() for t in range(ENV_STEPS)]
    renderer.render([np.array(observations)], [task], tmp_path / "episode.png", "an episode")
    assert (tmp_path / "episode.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="1 episodes but 2 tasks"):
        renderer.render([np.array(observations)], [task, task], tmp_path / "bad.png", "")
