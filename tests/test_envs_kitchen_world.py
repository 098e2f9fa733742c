"""Episodes in the kitchen: what is observed, what is rewarded, how they end; human replays; the single environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import envs  # noqa: F401 (registers simpl_bench/Kitchen-v0)
from envs.core import Task
from envs.kitchen.physics import INITIAL_POSITIONS
from envs.kitchen.world import KitchenWorld
from envs.randomness import keyed_rng
from tests.kitchen_helpers import (
    HUMAN_ORDER,
    human_episodes,
    import_reference,
    patch_reference,
    positions_with,
    sequence,
)

FOUR = sequence(*HUMAN_ORDER)
ROBOT_NOISE = 1e-3
OBJECT_NOISE = np.array([5e-5, *[2.5e-6] * 2, *[2.5e-7] * 6, *[2.5e-6] * 3, *[5e-5] * 3, *[2.5e-6] * 3, *[5e-5] * 3])
NOISE = np.concatenate([np.full(9, ROBOT_NOISE), OBJECT_NOISE])
"""Largest noise on each of the 30 values."""


def keys(count: int, first: int = 0) -> list[tuple[int | str, ...]]:
    return [(0, "test", episode) for episode in range(first, first + count)]


def script(world: KitchenWorld, monkeypatch: pytest.MonkeyPatch, *states: Sequence[str] | NDArray[np.float64]) -> None:
    """Instead of physics: the i-th env_step brings the stepped lanes to ``states[i]``, positions or subtasks done."""
    remaining = iter(states)

    def step(actions: NDArray[Any], observed: NDArray[Any], lanes: NDArray[np.int64] | None = None) -> None:
        state = next(remaining)
        positions = state if isinstance(state, np.ndarray) else positions_with(*state)
        world.physics.positions[slice(None) if lanes is None else lanes] = positions

    monkeypatch.setattr(world.physics, "step", step)


# -- observation ------------------------------------------------------------------------------


def test_first_observation_is_the_start_with_noise_of_the_stated_size() -> None:
    world = KitchenWorld(400, episode_env_steps=1)
    observations = world.start([FOUR] * 400, keys(400))
    assert observations.shape == (400, 30)
    assert observations.dtype == np.float32
    assert world.observation_space.contains(observations)
    noise = observations - INITIAL_POSITIONS
    rounding = 2.0**-24 * np.abs(INITIAL_POSITIONS)
    assert (np.abs(noise).max(axis=0) <= NOISE + 2 * rounding).all()
    np.testing.assert_allclose(noise.std(axis=0), NOISE / np.sqrt(3), rtol=0.1)
    assert (np.abs(noise.mean(axis=0)) < 4 * NOISE / np.sqrt(3 * 400) + rounding).all()
    correlations = np.corrcoef(noise.T) - np.eye(30)
    assert np.abs(correlations).max() < 0.25


def test_noise_is_drawn_anew_in_each_env_step_from_the_episode_key(monkeypatch: pytest.MonkeyPatch) -> None:
    world = KitchenWorld(2, episode_env_steps=5)
    expected = NOISE * (2.0 * keyed_rng(0, "test", 7).random((6, 30)) - 1.0)
    script(world, monkeypatch, *[np.zeros(30)] * 5)
    first = world.start([FOUR, FOUR], [(0, "test", 8), (0, "test", 7)])
    np.testing.assert_allclose(first[1], INITIAL_POSITIONS + expected[0], rtol=2e-7, atol=0)
    for env_step in range(1, 6):
        observations = world.step(np.zeros((2, 9)))[0]
        np.testing.assert_allclose(observations[1], expected[env_step], rtol=1e-6)
        assert (observations[0] != observations[1]).all()


def test_noise_belongs_to_the_episode_not_to_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for lanes, own, env_steps in ((1, 0, 3), (4, 2, 280)):
        world = KitchenWorld(lanes, episode_env_steps=env_steps)
        script(world, monkeypatch, *[np.zeros(30)] * 3)
        episode_keys = keys(lanes, first=100)
        episode_keys[own] = (5, "mine")
        observations = [world.start([FOUR] * lanes, episode_keys)[own].copy()]
        observations += [world.step(np.zeros((lanes, 9)))[0][own].copy() for _ in range(3)]
        seen.append(np.array(observations))
    np.testing.assert_array_equal(seen[0], seen[1])


def test_without_noise_the_true_positions_are_seen() -> None:
    world = KitchenWorld(1, noise=False)
    np.testing.assert_array_equal(world.start([FOUR], keys(1))[0], INITIAL_POSITIONS.astype(np.float32))
    observations = world.step(np.full((1, 9), 0.5))[0]
    np.testing.assert_array_equal(observations, world.physics.positions.astype(np.float32))
    assert np.abs(observations[0] - INITIAL_POSITIONS).max() > 0.01


def test_servos_aim_from_the_observed_joints() -> None:
    """The noise of the observation is in the targets, as in ``FrankaKitchen-v1``."""
    world = KitchenWorld(3)
    controls = world.physics.batch.bind("ctrl")
    observed = world.start([FOUR] * 3, keys(3))[:, :7].astype(float)
    for _ in range(3):
        true = world.physics.positions[:, :7].copy()
        observations = world.step(np.full((3, 9), 0.25))[0]
        # 2 x 0.25 x 0.08 s = 0.04
        np.testing.assert_allclose(controls[:, :7], observed + 0.04, rtol=0, atol=5e-7)
        assert np.abs(controls[:, :7] - (true + 0.04)).max() > 1e-4
        observed = observations[:, :7].astype(float)


def test_the_world_without_noise_is_the_reference_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4RL's 30-value state is ``obs[:9] + obs[18:39]`` of ``FrankaKitchen-v1``; actions reach beyond the bounds."""
    patch_reference(monkeypatch)
    reference = import_reference().KitchenEnv(robot_noise_ratio=0.0, object_noise_ratio=0.0)
    world = KitchenWorld(1, noise=False)
    full = reference.reset(seed=0)[0]["observation"]
    observations = world.start([FOUR], keys(1))
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (10, 9))
    for action in actions:
        np.testing.assert_array_equal(observations[0], np.concatenate([full[:9], full[18:39]]).astype(np.float32))
        full = reference.step(action)[0]["observation"]
        observations = world.step(action[None])[0]
    reference.close()


def test_the_task_cannot_be_observed() -> None:
    tasks = [FOUR, sequence("hinge cabinet"), sequence("light switch", "top burner")]
    world = KitchenWorld(3)
    first = world.start(tasks, [(3, "same")] * 3)
    assert np.ptp(first, axis=0).max() == 0.0
    for actions in human_episodes().actions[:40, 0]:
        observations = world.step(np.tile(actions, (3, 1)))[0]
        assert np.ptp(observations, axis=0).max() == 0.0
    assert np.abs(observations[0, :9] - INITIAL_POSITIONS[:9]).max() > 0.3, "the arm must have moved"


def test_actions_are_clipped() -> None:
    runs = []
    for scale in (1.0, 30.0, np.inf):
        world = KitchenWorld(1)
        world.start([FOUR], keys(1))
        signs = np.array([[1, -1, 1, -1, 1, -1, 1, -1, 1]])
        runs.append(np.concatenate([world.step(scale * signs)[0].copy() for _ in range(3)]))
    np.testing.assert_array_equal(runs[1], runs[0])
    np.testing.assert_array_equal(runs[2], runs[0])


# -- reward and end ---------------------------------------------------------------------------

ALL_SEVEN = (
    "bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet", "microwave", "kettle",
)  # fmt: skip


@pytest.mark.parametrize(
    ("subtasks", "states", "rewards"),
    [
        pytest.param(
            HUMAN_ORDER,
            [["microwave"], ["microwave", "kettle"], ["microwave", "kettle", "light switch"], HUMAN_ORDER],
            [1, 1, 1, 1],
            id="one after another",
        ),
        pytest.param(HUMAN_ORDER, [[], ["kettle"], HUMAN_ORDER[1:], []], [0, 0, 0, 0], id="the order is enforced"),
        pytest.param(
            HUMAN_ORDER,
            [["kettle"], ["kettle", "microwave"], ["kettle", "microwave"], []],
            [0, 2, 0, 0],
            id="done early, counts with its predecessor",
        ),
        pytest.param(
            HUMAN_ORDER, [["kettle"], ["microwave"], ["kettle"]], [0, 1, 1], id="undone before its turn does not count"
        ),
        pytest.param(HUMAN_ORDER, [[], HUMAN_ORDER], [0, 4], id="four in one env_step"),
        pytest.param(HUMAN_ORDER, [["microwave", "kettle", "slide cabinet"], HUMAN_ORDER], [2, 2], id="two and two"),
        pytest.param(
            HUMAN_ORDER,
            [["microwave"], [], ["microwave"], ["kettle"], [], ["light switch"]],
            [1, 0, 0, 1, 0, 1],
            id="nothing is taken back or counts twice",
        ),
        pytest.param(("kettle",), [["microwave"], ["kettle"]], [0, 1], id="a task of one"),
        pytest.param(tuple(reversed(ALL_SEVEN)), [["kettle"], ALL_SEVEN], [1, 6], id="all seven"),
        pytest.param(
            ("bottom burner", "top burner"), [["bottom burner"], [], ["bottom burner"]], [1, 0, 0], id="burners"
        ),
    ],
)
def test_rewards(
    subtasks: Sequence[str], states: list[Sequence[str]], rewards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = KitchenWorld(1)
    world.start([sequence(*subtasks)], keys(1))
    script(world, monkeypatch, *states)
    total = 0
    for expected in rewards:
        _, reward, terminated, truncated, _ = world.step(np.zeros((1, 9)))
        total += expected
        assert reward[0] == expected
        assert world.progress[0] == total
        assert terminated[0] == (total == len(subtasks)) == (len(world.active_lanes) == 0)
        assert not truncated[0]


def test_lanes_have_their_own_tasks_and_end_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [sequence("kettle"), FOUR, sequence("microwave", "hinge cabinet"), sequence("microwave")]
    world = KitchenWorld(5)
    world.start(tasks, keys(4))
    np.testing.assert_array_equal(world.active_lanes, [0, 1, 2, 3])
    script(world, monkeypatch, ["microwave"], ["kettle"], ["hinge cabinet"])
    progress, ended = [], []
    for rewards in ([0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]):
        assert world.step(np.zeros((5, 9)))[1].tolist() == rewards
        progress.append(world.progress.tolist())
        ended.append(world.active_lanes.tolist())
    assert progress == [[0, 1, 1, 1, 0], [1, 2, 1, 1, 0], [1, 2, 2, 1, 0]]
    assert ended == [[0, 1, 2], [1, 2], [1]]


def test_completion_is_judged_on_the_true_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The microwave is observed with noise of 5e-5; what counts is the true angle, 0.3 from the goal of -0.75."""
    for angle, expected in ((-0.45 - 1e-6, 1.0), (-0.45 + 1e-6, 0.0)):
        world = KitchenWorld(64)
        world.start([FOUR] * 64, keys(64))
        positions = positions_with()
        positions[22] = angle
        script(world, monkeypatch, positions)
        observations, rewards, *_ = world.step(np.zeros((64, 9)))
        seen = np.abs(observations[:, 22] + 0.75) < 0.3
        assert 5 < seen.sum() < 59, "noise must lead some observations across the threshold"
        assert (rewards == expected).all()


def test_the_time_limit_truncates_and_completion_in_the_last_env_step_terminates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = KitchenWorld(3, episode_env_steps=3)
    world.start([FOUR, sequence("kettle"), sequence("microwave")], keys(3))
    script(world, monkeypatch, [], ["microwave"], ["kettle"])
    for finished in ([False] * 3, [False, False, True]):
        _, _, terminated, truncated, _ = world.step(np.zeros((3, 9)))
        assert terminated.tolist() == finished
        assert not truncated.any()
    _, rewards, terminated, truncated, _ = world.step(np.zeros((3, 9)))
    assert rewards.tolist() == [1.0, 1.0, 0.0]
    assert terminated.tolist() == [False, True, True]
    assert truncated.tolist() == [True, False, False]
    assert len(world.active_lanes) == 0


def test_the_usual_time_limit_is_280(monkeypatch: pytest.MonkeyPatch) -> None:
    world = KitchenWorld(1)
    world.start([FOUR], keys(1))
    script(world, monkeypatch, *[[]] * 280)
    for env_step in range(280):
        assert len(world.active_lanes) == 1, env_step
        _, _, terminated, truncated, _ = world.step(np.zeros((1, 9)))
    assert truncated.all()
    assert not terminated.any()


def test_finished_lanes_are_frozen() -> None:
    """The first lane's task is complete from the start, so that it ends in the first env_step."""
    human = human_episodes()
    row = human.lengths[0] - 1
    world = KitchenWorld(3, start_positions=human.positions[0][row], start_velocities=human.velocities[0][row])
    world.start([FOUR, sequence("hinge cabinet")], keys(2))
    observations, rewards, terminated, truncated, _ = world.step(np.zeros((3, 9)))
    assert rewards.tolist() == [4.0, 0.0, 0.0]
    assert terminated.tolist() == [True, False, True]
    np.testing.assert_array_equal(world.active_lanes, [1])
    last, last_state = observations.copy(), world.physics.batch.state.copy()
    for _ in range(3):
        observations, rewards, terminated, truncated, _ = world.step(np.ones((3, 9)))
        assert rewards.tolist() == [0.0, 0.0, 0.0]
        assert terminated.tolist() == [True, False, True]
        assert not truncated.any()
    np.testing.assert_array_equal(observations[[0, 2]], last[[0, 2]])
    np.testing.assert_array_equal(world.physics.batch.state[[0, 2]], last_state[[0, 2]])
    assert (observations[1] != last[1]).any()
    assert not last[2].any(), "a lane without a task observes zeros"


def roll_out(world: KitchenWorld, lane: int, env_steps: int = 6) -> NDArray[np.float64]:
    """Observation and true positions (T, 60) of an episode that sits in ``lane``, among others with shorter tasks."""
    count = world.num_envs
    tasks, episode_keys = [sequence("hinge cabinet")] * count, keys(count, first=50)
    tasks[lane], episode_keys[lane] = FOUR, (1, "mine")
    states = [np.hstack([world.start(tasks, episode_keys)[lane], world.physics.positions[lane]])]
    others = np.random.default_rng(count)
    for env_step in range(env_steps):
        actions = others.uniform(-1, 1, (count, 9))
        actions[lane] = human_episodes().actions[env_step, 0]
        states.append(np.hstack([world.step(actions)[0][lane], world.physics.positions[lane]]))
    return np.array(states)


def test_an_episode_does_not_depend_on_lanes_threads_or_earlier_episodes() -> None:
    alone = roll_out(KitchenWorld(1), 0)
    world = KitchenWorld(4, threads=2)
    np.testing.assert_array_equal(roll_out(world, 2), alone)
    np.testing.assert_array_equal(roll_out(world, 1), alone)


def test_progress_starts_anew_with_each_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    world = KitchenWorld(2)
    for subtasks, rewards in ((HUMAN_ORDER, [4.0, 1.0]), (("kettle", "microwave"), [2.0, 1.0])):
        world.start([sequence(*subtasks), sequence("microwave")], keys(2))
        assert world.progress.tolist() == [0, 0]
        script(world, monkeypatch, HUMAN_ORDER)
        assert world.step(np.zeros((2, 9)))[1].tolist() == rewards


# -- human replays ----------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_most_human_episodes_are_complete_when_replayed_with_noise(seeds: int) -> None:
    """Each from its recorded first state, with fresh noise. Seen over 15 seeds: 17 (10 times) and 18 of 19."""
    human = human_episodes()
    count = len(human.lengths)
    world = KitchenWorld(
        seeds * count,
        threads=2,
        start_positions=np.tile([positions[0] for positions in human.positions], (seeds, 1)),
        start_velocities=np.tile([velocities[0] for velocities in human.velocities], (seeds, 1)),
    )
    lengths = np.tile(human.lengths, seeds)
    world.start([FOUR] * seeds * count, [(seed, "replay", e) for seed in range(seeds) for e in range(count)])
    completed = np.zeros(seeds * count, dtype=bool)
    for env_step, actions in enumerate(human.actions):
        terminated = world.step(np.tile(actions, (seeds, 1)))[2]
        completed |= terminated & (env_step < lengths)
        if not len(world.active_lanes):
            break
    assert completed.reshape(seeds, count).sum(axis=1).mean() >= 16


# -- errors -----------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    world = KitchenWorld(2)
    with pytest.raises(ValueError, match="every lane is finished"):
        world.step(np.zeros((2, 9)))
    world.start([FOUR] * 2, keys(2))
    with pytest.raises(ValueError, match="unknown subtask 'top burnr': did you mean 'top burner'"):
        world.start([FOUR, sequence("kettle", "top burnr")], keys(2))
    with pytest.raises(ValueError, match="'kettle' is repeated"):
        world.start([sequence("kettle", "microwave", "kettle")], keys(1))
    with pytest.raises(ValueError, match="a kitchen task needs"):
        world.start([FOUR, Task("goal", {"goal": [1, 2]})], keys(2))
    with pytest.raises(ValueError, match="2 tasks and 1 episode keys"):
        world.start([FOUR] * 2, keys(1))
    with pytest.raises(ValueError, match="3 tasks and 3 episode keys for 2 lanes"):
        world.start([FOUR] * 3, keys(3))
    with pytest.raises(ValueError, match=r"shape \(2, 8\); expected \(2, 9\)"):
        world.step(np.zeros((2, 8)))
    with pytest.raises(ValueError, match="NaN"):
        world.step(np.where(np.arange(18) == 13, np.nan, 0.0).reshape(2, 9))
    np.testing.assert_array_equal(world.active_lanes, [0, 1])
    with pytest.raises(ValueError, match="at least 1"):
        KitchenWorld(2, episode_env_steps=0)


def test_a_step_after_the_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = KitchenWorld(2, episode_env_steps=1)
    world.start([FOUR, sequence("kettle")], keys(2))
    script(world, monkeypatch, ["kettle"])
    world.step(np.zeros((2, 9)))
    with pytest.raises(ValueError, match="call start or reset before step"):
        world.step(np.zeros((2, 9)))


# -- single environment -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*Box observation space m.*imum value is .*infinity.*:UserWarning")
def test_single_environment_passes_gymnasiums_checker() -> None:
    """The checker doubts observation spaces without bounds; joint positions of a free kettle have none."""
    env = gym.make("simpl_bench/Kitchen-v0", subtasks=["kettle", "top burner"])
    check_env(env.unwrapped)
    first, info = env.reset(seed=1)
    assert first.shape == (30,)
    assert info == {"success": False}
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    assert (env.reset(seed=2)[0] != first).any()
    assert (env.reset()[0] != env.reset()[0]).any()


def test_single_environment_refuses_what_is_no_task() -> None:
    for subtasks, message in (
        (["microwave", "ketle"], "unknown subtask 'ketle': did you mean 'kettle'"),
        (["kettle", "kettle"], "repeated"),
        ("kettle", "expected a list"),
        ([], "expected a list"),
    ):
        with pytest.raises(ValueError, match=message):
            gym.make("simpl_bench/Kitchen-v0", subtasks=subtasks)


def test_single_environment_is_one_lane_of_the_world() -> None:
    env = gym.make("simpl_bench/Kitchen-v0", episode_env_steps=6)
    env.reset(seed=5)
    key = int(np.random.Generator(np.random.PCG64(np.random.SeedSequence(5))).integers(2**63))
    world = KitchenWorld(3)
    world.start([FOUR] * 3, [(9, 9), (key, "single"), (8, 8)])
    for env_step in range(6):
        action = human_episodes().actions[env_step, 0]
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation, world.step(np.tile(action, (3, 1)))[0][1])
        assert (reward, terminated, truncated, info) == (0.0, False, env_step == 5, {"success": False})
    with pytest.raises(ValueError, match="every lane is finished"):
        env.step(action)


def test_single_environment_tells_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual task is the first target task of the paper."""
    env: Any = gym.make("simpl_bench/Kitchen-v0")
    env.reset(seed=0)
    order = ["microwave", "bottom burner", "light switch", "top burner"]
    script(env.unwrapped._world, monkeypatch, order[:3], order)
    _, reward, terminated, truncated, info = env.step(np.zeros(9, np.float32))
    assert (reward, terminated, truncated, info) == (3.0, False, False, {"success": False})
    _, reward, terminated, truncated, info = env.step(np.zeros(9, np.float32))
    assert (reward, terminated, truncated, info) == (1.0, True, False, {"success": True})
