"""What batched worlds do alike, on a world without physics; the tests of the maze and the kitchen cover the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.core import Task
from envs.lane_world import LaneWorld, Rows
from envs.randomness import keyed_rng


class Countdown(LaneWorld):
    """Terminates after ``spec["env_steps"]``; observes the episode's first random number and the last action."""

    def __init__(self, num_lanes: int, episode_env_steps: int = 10) -> None:
        super().__init__(num_lanes, Box(-np.inf, np.inf, (2,)), Box(-1.0, 1.0, (1,)), episode_env_steps)
        self.drawn, self.left, self.applied = np.zeros(num_lanes), np.zeros(num_lanes), np.zeros(num_lanes)
        self.calls: list[tuple[NDArray[Any], list[int], bool]] = []
        """Of each ``_advance``: actions, lanes, whether rows were given as a slice."""

    def _begin(self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator]) -> None:
        env_steps = [int(task.spec["env_steps"]) for task in tasks]
        if min(env_steps) < 1:
            raise ValueError("env_steps must be at least 1")
        self.left[: len(tasks)] = env_steps
        self.drawn[: len(tasks)] = [rng.random() for rng in rngs]
        self.applied[:] = 0.0

    def _observe(self, rows: Rows) -> None:
        self._observations[rows] = np.stack([self.drawn[rows], self.applied[rows]], axis=1)

    def _advance(
        self, actions: NDArray[np.floating[Any]], lanes: NDArray[np.int64], rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        self.calls.append((actions.copy(), lanes.tolist(), isinstance(rows, slice)))
        self.left[rows] -= 1
        self.applied[rows] = actions[:, 0]
        self._observe(rows)
        return np.full(len(lanes), 0.5), self.left[rows] <= 0


def task(env_steps: int) -> Task:
    return Task(f"after {env_steps}", {"env_steps": env_steps})


def keys(count: int) -> list[tuple[int | str, ...]]:
    return [(0, "test", lane) for lane in range(count)]


def test_a_world_is_given_only_the_active_lanes_and_clipped_actions() -> None:
    world = Countdown(4)
    world.start([task(1), task(3), task(2)], keys(3))
    for actions in ([[7.0], [-7.0], [0.5], [np.nan]], [[np.nan], [np.inf], [-np.inf], [np.nan]], [[9], [0], [9], [9]]):
        observations, rewards, terminated, truncated, infos = world.step(np.array(actions))
        assert infos == {}
        assert not truncated.any()
    assert [(actions[:, 0].tolist(), lanes, whole) for actions, lanes, whole in world.calls] == [
        ([1.0, -1.0, 0.5], [0, 1, 2], False),
        ([1.0, -1.0], [1, 2], False),
        ([0.0], [1], False),
    ]
    assert rewards.tolist() == [0.0, 0.5, 0.0, 0.0]
    assert terminated.all()
    assert observations[:, 1].tolist() == [1.0, 0.0, -1.0, 0.0]


def test_all_lanes_are_selected_by_a_slice() -> None:
    world = Countdown(2)
    world.start([task(1), task(2)], keys(2))
    world.step(np.zeros((2, 1)))
    world.step(np.zeros((2, 1)))
    assert [(lanes, whole) for _, lanes, whole in world.calls] == [([0, 1], True), ([1], False)]


def test_a_start_that_is_refused_leaves_the_episodes_running() -> None:
    world = Countdown(2)
    before = world.start([task(3), task(2)], keys(2)).copy()
    for tasks, episode_keys in (([task(3), task(0)], keys(2)), ([], []), ([task(3)], keys(2))):
        with pytest.raises(ValueError, match=r"at least 1|tasks and"):
            world.start(tasks, episode_keys)
    for bad in (np.zeros((2, 2)), np.array([[0.0], [np.nan]])):
        with pytest.raises(ValueError, match=r"shape|NaN"):
            world.step(bad)
    assert world.calls == []
    assert world.active_lanes.tolist() == [0, 1]
    np.testing.assert_array_equal(world._observations, before)
    for ended in ([False, False], [False, True], [True, True]):
        assert world.step(np.zeros((2, 1)))[2].tolist() == ended


def test_a_later_start_forgets_the_earlier_episodes() -> None:
    world = Countdown(3, episode_env_steps=2)
    world.start([task(1), task(9), task(9)], keys(3))
    world.step(np.ones((3, 1)))
    _, _, terminated, truncated, _ = world.step(np.ones((3, 1)))
    assert (terminated.tolist(), truncated.tolist()) == ([True, False, False], [False, True, True])
    observations = world.start([task(9), task(1)], keys(2))
    assert world.active_lanes.tolist() == [0, 1]
    assert observations[2].tolist() == [0.0, 0.0]
    _, rewards, terminated, truncated, _ = world.step(np.ones((3, 1)))
    assert rewards.tolist() == [0.5, 0.5, 0.0]
    assert (terminated.tolist(), truncated.tolist()) == ([False, True, True], [False, False, False])


def test_reset_keys_episodes_by_seed_and_lane() -> None:
    world = Countdown(3)
    expected = [keyed_rng(11, "reset", lane).random() for lane in range(3)]
    first, infos = world.reset(seed=11, options={"tasks": [task(5)] * 3})
    assert infos == {}
    np.testing.assert_allclose(first[:, 0], expected, rtol=1e-6)
    world.step(np.zeros((3, 1)))
    np.testing.assert_allclose(world.reset(seed=11)[0][:, 0], expected, rtol=1e-6)
    fewer = world.reset(seed=11, options={"tasks": [task(1)]})[0]
    np.testing.assert_allclose(fewer[:, 0], [expected[0], 0.0, 0.0], rtol=1e-6)
    assert world.step(np.zeros((3, 1)))[2].all()
    world.reset(seed=11)
    assert world.active_lanes.tolist() == [0], "the tasks of the last start are kept"


def test_reset_without_a_seed_goes_on_from_the_last_seed() -> None:
    drawn = []
    for _ in range(2):
        world = Countdown(2)
        world.reset(seed=3, options={"tasks": [task(5)] * 2})
        drawn.append(np.concatenate([world.reset()[0][:, 0].copy() for _ in range(2)]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len(set(drawn[0].tolist())) == 4, "two resets of two lanes are four episodes"


def test_a_time_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="episode_env_steps must be at least 1; got 0"):
        Countdown(1, episode_env_steps=0)
