"""SAC on two of gymnasium's MuJoCo tasks, where what a soft actor-critic does is known (slow).

InvertedDoublePendulum-v5 pays about 9.3 for every env_step that the poles stay up, 1,000 at most: some 9,300 are as
good as solved, and a policy that acts at random gets about 60. HalfCheetah-v5 has no end; it is run beside tianshou's
SAC.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from algorithms.regularized_sac import SquashedActorCriticConfig
from algorithms.sac import SacAdaptConfig
from algorithms.sac import make_adapt_stage as make_sac
from algorithms.stage import Stage, StageContext
from envs.core import TaskDistribution
from envs.randomness import keyed_rng
from tests.gymnasium_world import GymnasiumWorld, gymnasium_distribution

PENDULUM, CHEETAH = "InvertedDoublePendulum-v5", "HalfCheetah-v5"
SAC = SacAdaptConfig(
    episodes=10**6, batch_size=256, transition_reuse=256.0, replay_capacity=100_000, learning_rate=1e-3,
    coefficient_learning_rate=1e-3, actor_critic=SquashedActorCriticConfig(hidden_dim=128),
)  # fmt: skip
"""An update for every env_step, as SAC has it."""


def learn(stage: Stage, env_steps: int) -> tuple[list[float], list[dict[str, float]]]:
    """(returns of all episodes, metrics as they came) until so many env_steps were taken."""
    returns: list[float] = []
    metrics: list[dict[str, float]] = []
    taken = 0
    while taken < env_steps:
        report = stage.advance()
        returns += [row.episode_return for row in report.episodes]
        taken = max([taken, *(row.env_steps for row in report.episodes)])
        if "coefficient" in report.metrics:
            metrics.append(dict(report.metrics))
    return returns, metrics


def context_of(distribution: TaskDistribution, seed: int) -> StageContext:
    return StageContext(distribution, (0,), seed, {})


@pytest.mark.parametrize("name", [PENDULUM, CHEETAH])
def test_lanes_are_gymnasiums_environments(name: str) -> None:
    """Observations and rewards to the bit, from the same draws; a lane does not depend on others."""
    world, distribution = GymnasiumWorld(name, 2), gymnasium_distribution(name)
    keys = [(0, name, lane) for lane in range(2)]
    references: list[Any] = [gym.make(name) for _ in keys]
    observations = world.start(distribution.target_tasks * 2, keys)
    for lane, reference in enumerate(references):
        reference.unwrapped.np_random = keyed_rng(*keys[lane])
        np.testing.assert_array_equal(reference.reset()[0].astype(np.float32), observations[lane])
    rng = np.random.default_rng(0)
    for _ in range(30):
        running = world.active_lanes.tolist()
        if not running:
            break
        actions = rng.uniform(-1, 1, (2, distribution.action_dim)).astype(np.float32)
        observations, rewards, terminated, _, _ = world.step(actions)
        for lane in running:
            expected = references[lane].step(actions[lane])
            np.testing.assert_array_equal(expected[0].astype(np.float32), observations[lane])
            assert (expected[1], expected[2]) == (rewards[lane], terminated[lane])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_double_pendulum_is_held_up() -> None:
    """20,000 env_steps with an update for each: of the last ten episodes the better half stays up to the time limit.
    Entropy reaches its target, -1, on the way, with alpha far below where it began."""
    stage = make_sac(SAC, context_of(gymnasium_distribution(PENDULUM), 0))
    returns, metrics = learn(stage, 20_000)
    assert np.mean(returns[:20]) < 300
    assert np.median(returns[-10:]) > 9000, returns[-10:]
    assert metrics[0]["coefficient"] > 0.09
    divergences = np.array([each["divergence"] for each in metrics])
    assert abs(divergences[-len(divergences) // 4 :].mean() - 1.0) < 0.3


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_the_cheetah_runs_as_fast_as_with_tianshous_sac() -> None:
    """100,000 env_steps each, one seed: last ten episodes of both far above standing still, and ours not below half of
    theirs, which is what two seeds of one implementation may differ by."""
    pytest.importorskip("tianshou")
    from algorithms.sac_tianshou import SacTianshouConfig, TianshouAdaptation, TianshouNetworksConfig

    common = {field.name: getattr(SAC, field.name) for field in dataclasses.fields(SacTianshouConfig)}
    common |= {"learning_rate": 3e-4, "coefficient_learning_rate": 3e-4}
    ours = SacAdaptConfig(**common | {"actor_critic": SquashedActorCriticConfig()})
    theirs = SacTianshouConfig(**common | {"actor_critic": TianshouNetworksConfig()})
    context = context_of(gymnasium_distribution(CHEETAH), 0)
    last = [
        float(np.mean(learn(stage, 100_000)[0][-10:]))
        for stage in (make_sac(ours, context), TianshouAdaptation(theirs, context))
    ]
    assert min(last) > 1000, last
    assert last[0] > 0.5 * last[1], last
