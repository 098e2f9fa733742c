"""Validation worlds: the pendulum against gymnasium's, points against what can be worked out by hand, pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.core import Task
from envs.randomness import keyed_rng
from envs.registry import task_distribution
from envs.validation import navigation_2d, point_robot
from envs.validation.pendulum import LARGEST_COST, PendulumWorld
from envs.validation.point_world import PointProblem, best_returns, goals_of, parse_goal, rewards, worst_returns

POINTS = ("point-robot", "point-robot-sparse", "navigation-2d")
PROBLEMS = {**point_robot.PROBLEMS, "navigation-2d": navigation_2d.PROBLEM}
Policy = Callable[[NDArray[np.float64], NDArray[np.float64], int], NDArray[np.float64]]
"""(positions (L, 2), goals (L, 2), env_step) -> actions (L, 2)"""


# -- pendulum --------------------------------------------------------------------------------------


def torques_of(kind: str, rng: np.random.Generator, velocities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Actions (L, 1): at random, some beyond the bounds; or with the motion, so that the speed limit is reached."""
    noise = rng.uniform(-1.3, 1.3, (len(velocities), 1))
    return noise if kind == "random" else np.abs(noise) * np.where(velocities[:, None] < 0, -1.0, 1.0)


@pytest.mark.parametrize("kind", ["random", "with the motion"])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_the_pendulum_is_gymnasiums_over_many_episodes(precision: type[np.floating], kind: str) -> None:
    """States and observations to the bit; rewards up to the last bit of the three squares.

    A square may differ by 2^-52 of itself, and of a float32 torque by 2^-23, so a reward by 2^-51 of the largest cost
    and by 2^-23 of 0.001 x 4.
    """
    reward_bound = 2.0**-51 * LARGEST_COST + (2.0**-23 * 0.004 if precision is np.float32 else 0.0)
    lanes, rng = 3, np.random.default_rng(0)
    world, distribution = PendulumWorld(lanes), task_distribution("pendulum")
    references = [gym.make("Pendulum-v1") for _ in range(lanes)]
    fastest = 0.0
    for episode in range(6):
        keys = [(0, "pendulum", episode, lane) for lane in range(lanes)]
        observations = world.start(distribution.target_tasks * lanes, keys)
        for lane, reference in enumerate(references):
            reference.unwrapped.np_random = keyed_rng(*keys[lane])  # its reset then draws what ours draws
            np.testing.assert_array_equal(reference.reset()[0], observations[lane])
        for env_step in range(200):
            actions = torques_of(kind, rng, observations[:, 2]).astype(precision)
            observations, returned, terminated, truncated, _ = world.step(actions)
            assert truncated.all() == (env_step == 199) and not terminated.any()
            for lane, reference in enumerate(references):
                expected = reference.step(precision(2.0) * actions[lane])
                np.testing.assert_array_equal(expected[0], observations[lane])
                assert abs(expected[1] - returned[lane]) <= reward_bound
                assert expected[2:4] == (terminated[lane], truncated[lane])
                assert reference.unwrapped.state.tolist() == [world.angles[lane], world.velocities[lane]]
            fastest = max(fastest, float(np.abs(world.velocities).max()))
    assert fastest == 8.0, "the speed limit was reached"


def test_pendulums_start_anywhere() -> None:
    world = PendulumWorld(2000)
    world.start(task_distribution("pendulum").target_tasks * 2000, [(1, "start", lane) for lane in range(2000)])
    for values, half_width in ((world.angles, math.pi), (world.velocities, 1.0)):
        assert np.abs(values).max() <= half_width
        assert values.mean() == pytest.approx(0.0, abs=0.1 * half_width)
        assert values.std() == pytest.approx(half_width / math.sqrt(3), rel=0.05)


def test_no_pendulum_earns_less_or_more_than_its_score_range_says() -> None:
    """At the extremes of the state space, one env_step: the worst there is, and none."""
    world = PendulumWorld(3)
    world.start(task_distribution("pendulum").target_tasks * 3, [(0, lane) for lane in range(3)])
    world.angles[:], world.velocities[:] = (-math.pi, 0.0, 1.0), (-8.0, 0.0, 0.0)
    returned = world.step(np.array([[-1.0], [0.0], [0.0]]))[1]
    low, high = task_distribution("pendulum").score_range
    assert returned[0] * 200 == pytest.approx(low, rel=1e-12)
    assert returned[1] == high == 0.0
    assert low / 200 < returned[2] < high


# -- points ----------------------------------------------------------------------------------------


def play(name: str, tasks: tuple[Task, ...], policy: Policy) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(returns, env_steps) of one episode of each task, (N,) each."""
    distribution = task_distribution(name)
    world, goals = distribution.make_world(len(tasks)), goals_of(tasks)
    positions = np.array(world.start(tasks, [(0, index) for index in range(len(tasks))]), dtype=float)
    returns, lengths = np.zeros(len(tasks)), np.zeros(len(tasks), np.int64)
    for env_step in range(distribution.episode_env_steps):
        lengths[world.active_lanes] += 1
        observations, earned, *_ = world.step(policy(positions, goals, env_step))
        positions, returns = observations.astype(float), returns + earned
        if len(world.active_lanes) == 0:
            break
    return returns, lengths


def straight(positions: NDArray[np.float64], goals: NDArray[np.float64], env_step: int) -> NDArray[np.float64]:
    return np.clip((goals - positions) / 0.1, -1, 1)


def away(positions: NDArray[np.float64], goals: NDArray[np.float64], env_step: int) -> NDArray[np.float64]:
    return np.where(goals >= 0, -1.0, 1.0)


@pytest.mark.parametrize("name", POINTS)
def test_the_world_earns_the_bounds_of_every_goal(name: str) -> None:
    """Going straight to a goal and away from it earn what the formulas say.

    For the two goals at (-1, 0) and (1, 0) the sparse reward begins at a distance of exactly 0.2: rounding decides.
    """
    distribution, problem = task_distribution(name), PROBLEMS[name]
    tasks = distribution.train_tasks + distribution.target_tasks
    best, worst = best_returns(problem, goals_of(tasks)), worst_returns(problem, goals_of(tasks))
    on_axis = np.abs(goals_of(tasks)[:, 1]) < 1e-9
    assert on_axis.sum() == (0 if name == "navigation-2d" else 2)
    compared = ~on_axis if name == "point-robot-sparse" else np.full(len(tasks), True)
    np.testing.assert_allclose(play(name, tasks, straight)[0][compared], best[compared], rtol=0, atol=1e-5)
    np.testing.assert_allclose(play(name, tasks, away)[0], worst, rtol=1e-12, atol=1e-12)
    assert distribution.score_range == (worst.min(), best.max())


@pytest.mark.parametrize("name", POINTS)
def test_no_policy_leaves_the_bounds(name: str) -> None:
    """Random walks, straight lines in all directions at full speed, and ways to the goal with noise."""
    distribution, problem = task_distribution(name), PROBLEMS[name]
    tasks = distribution.target_tasks * 20
    best, worst = best_returns(problem, goals_of(tasks)), worst_returns(problem, goals_of(tasks))
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, len(tasks))
    lines = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    policies: list[Policy] = [
        lambda positions, goals, env_step: rng.uniform(-2, 2, positions.shape),
        lambda positions, goals, env_step: lines,
        lambda positions, goals, env_step: straight(positions, goals, env_step) + rng.normal(0, 0.3, goals.shape),
        lambda positions, goals, env_step: (goals - positions) / 0.1 * rng.uniform(0, 2, (len(goals), 1)),
    ]
    for policy in policies:
        returns, _ = play(name, tasks, policy)
        assert (worst - 1e-12 <= returns).all()
        assert (returns <= best + 1e-9).all()


def test_bounds_by_hand() -> None:
    dense, sparse, square = (PROBLEMS[name] for name in POINTS)
    right, diagonal = np.array([[1.0, 0.0]]), np.array([[math.sqrt(0.5), math.sqrt(0.5)]])
    assert best_returns(dense, right)[0] == pytest.approx(-(0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4 + 0.3 + 0.2 + 0.1))
    # Within 0.2 after eight moves (0.8), then 0.9, then eleven at the goal.
    assert best_returns(sparse, right)[0] in (pytest.approx(0.8 + 0.9 + 11.0), pytest.approx(0.9 + 11.0))
    assert best_returns(sparse, np.array([[0.95, 0.0]]))[0] == pytest.approx(0.85 + 0.95 + 11.0)
    assert worst_returns(dense, diagonal)[0] == pytest.approx(-(20 + 0.1 * math.sqrt(2) * 210))
    assert worst_returns(sparse, right)[0] == 0.0
    # Two moves to (0.15, 0): 0.05^2, and it ends.
    assert best_returns(square, np.array([[0.15, 0.0]]))[0] == pytest.approx(-(0.05**2))
    assert worst_returns(square, np.array([[0.0, 0.5]]))[0] == pytest.approx(
        -sum((0.1 * t) ** 2 + (0.5 + 0.1 * t) ** 2 for t in range(1, 101))
    )


def test_goals_near_the_middle_of_an_arrival_end_the_episode_there() -> None:
    """Navigation ends within 0.01 of the goal, as a termination; the point robot never ends before its time."""
    lengths = play("navigation-2d", (Task("a", {"goal": [0.31, -0.2]}), Task("b", {"goal": [0.0, 0.05]})), straight)[1]
    assert lengths.tolist() == [4, 1]
    assert play("point-robot", task_distribution("point-robot").target_tasks, straight)[1].tolist() == [20] * 20
    world = task_distribution("navigation-2d").make_world(2)
    world.start([Task("a", {"goal": [0.109, 0.0]}), Task("b", {"goal": [0.112, 0.0]})], [(0, 0), (0, 1)])
    _, earned, terminated, truncated, _ = world.step(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert terminated.tolist() == [True, False] and not truncated.any()
    np.testing.assert_allclose(earned, [-(0.009**2), -(0.012**2)], rtol=1e-9)


def test_rewards() -> None:
    distances = np.array([0.0, 0.1, 0.2, 0.2000001, 3.0])
    assert rewards("distance", distances).tolist() == (-distances).tolist()
    assert rewards("near", distances).tolist() == [1.0, 0.9, 0.8, 0.0, 0.0]
    assert rewards("squared distance", distances).tolist() == [-(d**2) for d in distances]


@pytest.mark.parametrize("name", POINTS)
def test_training_and_target_goals_differ(name: str) -> None:
    distribution = task_distribution(name)
    train, target = goals_of(distribution.train_tasks), goals_of(distribution.target_tasks)
    assert (len(train), len(target)) == ((160, 40) if name == "navigation-2d" else (100, 20))
    everything = np.concatenate([train, target])
    distances = np.linalg.norm(everything[:, None] - everything[None], axis=2)
    assert distances[~np.eye(len(everything), dtype=bool)].min() > 1e-4, "no goal twice"
    # Each target lies among training goals: its nearest one is no further than a few typical gaps.
    assert distances[len(train) :, : len(train)].min(axis=1).max() < (0.12 if name == "navigation-2d" else 0.03)
    if name == "navigation-2d":
        assert np.abs(everything).max() <= 0.5
        assert everything.std(axis=0) == pytest.approx([1 / math.sqrt(12)] * 2, rel=0.1)
    else:
        np.testing.assert_allclose(np.linalg.norm(everything, axis=1), 1.0)
        assert everything[:, 1].min() > -1e-9


def test_bad_goals_are_refused() -> None:
    world = task_distribution("point-robot").make_world(1)
    for goal in (None, [1], [1, 2, 3], "xy", [float("nan"), 0], [0, float("inf")]):
        with pytest.raises(ValueError, match="task bad needs a goal"):
            world.start([Task("bad", {"goal": goal})], [(0, "test")])
    assert parse_goal(Task("good", {"goal": (1, "2.5")})) == (1.0, 2.5)


def test_a_problem_is_part_of_the_fingerprint() -> None:
    """Artefacts of one reward are not those of another."""
    prints = {task_distribution(name).world_fingerprint for name in POINTS}
    assert len(prints) == 3
    assert str(PointProblem("near", 20, 0.0)) in task_distribution("point-robot-sparse").world_fingerprint


# -- pictures --------------------------------------------------------------------------------------


def blue_pixels(path: Path) -> NDArray[np.bool_]:
    """Where a picture has the colour of the first episode."""
    image = imageio.imread(path)[..., :3].astype(int)
    return image[..., 2] - image[..., 0] > 60


def test_a_picture_shows_the_way_of_a_point_and_its_goal(tmp_path: Path) -> None:
    distribution = task_distribution("point-robot")
    renderer = distribution.episode_renderer
    assert renderer is not None and renderer.endings == (".png",)
    line = np.linspace([0.0, 0.0], [1.0, 0.0], 21)
    goal = Task("left", {"goal": [-1.0, 0.0]})
    renderer.render([line], [], tmp_path / "way.png", "a way")
    renderer.render([line], [goal], tmp_path / "goal.png", "a way and its goal")
    way, with_goal = (np.flatnonzero(blue_pixels(tmp_path / f"{name}.png").any(axis=0)) for name in ("way", "goal"))
    assert len(way) > 300, "across the picture"
    gap = np.diff(with_goal).max()
    assert gap > 100, "the goal lies on the other side of the start"
    with pytest.raises(ValueError, match="1 episodes but 2 tasks"):
        renderer.render([line], [goal, goal], tmp_path / "bad.png", "")


def test_a_picture_shows_the_angle_of_a_pendulum(tmp_path: Path) -> None:
    """A full turn is drawn in two pieces, without a line across the picture where 180 degrees become -180."""
    renderer = task_distribution("pendulum").episode_renderer
    assert renderer is not None
    angles = np.linspace(0.0, 2 * math.pi, 200)
    turn = np.stack([np.cos(angles), np.sin(angles), np.ones(200)], axis=1)
    renderer.render([turn], list(task_distribution("pendulum").target_tasks), tmp_path / "turn.png", "a turn")
    blue = blue_pixels(tmp_path / "turn.png")
    assert blue.any(axis=0).sum() > 600
    assert blue.sum(axis=0).max() < len(blue) / 8, "no column is crossed from top to bottom"
    with pytest.raises(ValueError, match="1 episodes but 2 tasks"):
        renderer.render([turn], [Task("a", {})] * 2, tmp_path / "bad.png", "")
