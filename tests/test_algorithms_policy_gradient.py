"""Policy gradients: returns by hand, the baseline against numpy, advantages, batches, and acting with many policies.

Axes: N task, T time, R row, D feature, A action feature.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.behavior_cloning import BehaviorPolicy, GaussianPolicyConfig
from algorithms.policy_gradient import (
    BASELINE_RIDGE,
    RowChoice,
    StackedPolicies,
    TaskEpisode,
    act,
    baseline_features,
    discounted_returns,
    fit_baseline,
    make_gradient_batch,
    next_lanes,
    same_for_all,
    task_advantages,
)
from algorithms.rollout import EpisodeKey, EpisodeNoise
from tests.algorithm_helpers import ACTION_DIM, OBSERVATION_DIM, START_GOAL, short_maze, stage_context

NETWORK = GaussianPolicyConfig(hidden_dim=8, hidden_layers=2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_policy(config: GaussianPolicyConfig = NETWORK) -> BehaviorPolicy:
    policy = BehaviorPolicy(config, OBSERVATION_DIM, ACTION_DIM).requires_grad_(False)
    policy.state_mean.normal_()
    policy.state_sigma.uniform_(0.5, 2.0)
    return policy


def random_episode(env_steps: int, rewards: Tensor | None = None) -> TaskEpisode:
    drawn = torch.randn(env_steps) if rewards is None else rewards
    return TaskEpisode(torch.randn(env_steps, OBSERVATION_DIM), torch.randn(env_steps, ACTION_DIM), drawn)


# -- returns, baseline, advantages -----------------------------------------------------------------------------


def test_discounted_returns_by_hand() -> None:
    assert discounted_returns(torch.tensor([1.0, 0.0, 2.0, -1.0]), 0.5).tolist() == [1.375, 0.75, 1.5, -1.0]
    assert discounted_returns(torch.tensor([3.0]), 0.9).tolist() == [3.0]
    assert discounted_returns(torch.ones(3), 1.0).tolist() == [3.0, 2.0, 1.0]


def test_baseline_features_by_hand() -> None:
    features = baseline_features(torch.tensor([[2.0, -1.0], [3.0, 0.5]]), longest_env_steps=10)
    assert features.tolist()[0] == [2.0, -1.0, 4.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert features.tolist()[1] == pytest.approx([3.0, 0.5, 9.0, 0.25, 0.1, 0.01, 0.001, 1.0])
    assert features.dtype == torch.float64


def test_baseline_is_ridge_regression_as_numpy_solves_it() -> None:
    """As least squares with sqrt(ridge) I below the features, and zeros below the returns."""
    features, returns = torch.randn(40, 6, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    for ridge in (BASELINE_RIDGE, 2.0):
        above = np.vstack([features.numpy(), np.sqrt(ridge) * np.eye(6)])
        expected = np.linalg.lstsq(above, np.concatenate([returns.numpy(), np.zeros(6)]), rcond=None)[0]
        np.testing.assert_allclose(fit_baseline(features, returns, ridge).numpy(), expected, rtol=1e-9)


def test_baseline_can_be_fitted_to_fewer_env_steps_than_it_has_features() -> None:
    features = baseline_features(torch.randn(2, 4), 100)
    fitted = features @ fit_baseline(features, torch.tensor([1.0, 2.0], dtype=torch.float64), BASELINE_RIDGE)
    assert fitted.tolist() == pytest.approx([1.0, 2.0], rel=1e-3)


def test_advantages_are_standardised_residuals_over_all_episodes_of_a_task() -> None:
    policy, episodes = make_policy(), [random_episode(7), random_episode(4)]
    features, returns = [], []
    for states, _, rewards in episodes:
        time = np.arange(len(rewards))[:, None] / 50
        scaled = ((states - policy.state_mean) / policy.state_sigma).double().numpy()
        features.append(np.hstack([scaled, scaled**2, time, time**2, time**3, np.ones_like(time)]))
        later = [range(t, len(rewards)) for t in range(len(rewards))]
        returns.append([sum(0.9 ** (k - ks[0]) * float(rewards[k]) for k in ks) for ks in later])
    stacked, flat = np.vstack(features), np.concatenate(returns)
    weights = np.linalg.solve(stacked.T @ stacked + BASELINE_RIDGE * np.eye(12), stacked.T @ flat)
    residual = flat - stacked @ weights
    expected = (residual - residual.mean()) / residual.std()
    advantages = task_advantages(policy, episodes, 0.9, 50)
    np.testing.assert_allclose(advantages.numpy(), expected, rtol=1e-3, atol=1e-4)
    assert float(advantages.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(advantages.square().mean()) == pytest.approx(1.0, abs=1e-4)


def test_without_any_reward_every_advantage_is_exactly_zero() -> None:
    """Noise around 0 divided by its own deviation would be a gradient of unit size out of nothing."""
    episodes = [random_episode(300, torch.zeros(300)) for _ in range(3)]
    assert not task_advantages(make_policy(), episodes, 0.99, 300).any()


# -- batches -----------------------------------------------------------------------------------------------------


def test_rows_of_each_task_are_padded_and_weighed_by_their_number() -> None:
    episodes = [[random_episode(3), random_episode(2)], [random_episode(1), random_episode(2)]]
    policy = make_policy()
    batch = make_gradient_batch(policy, episodes, 0.9, 10)
    assert batch.states.shape == (2, 5, OBSERVATION_DIM)
    assert batch.weights.tolist() == [pytest.approx([0.2] * 5), pytest.approx([1 / 3] * 3 + [0.0] * 2)]
    assert torch.equal(batch.states[0], torch.cat([episode.states for episode in episodes[0]]))
    assert torch.equal(batch.actions[1, :3], torch.cat([episode.actions for episode in episodes[1]]))
    assert torch.equal(batch.advantages[0], task_advantages(policy, episodes[0], 0.9, 10))


def test_a_choice_of_rows_keeps_their_advantages_and_is_uniform() -> None:
    """Advantages are those over all rows, not over the choice; each row is kept equally often."""
    policy, episodes = make_policy(), [[random_episode(20), random_episode(10)], [random_episode(4)]]
    everything = make_gradient_batch(policy, episodes, 0.9, 30)
    counts = torch.zeros(30)
    for seed in range(300):
        batch = make_gradient_batch(policy, episodes, 0.9, 30, RowChoice(6, torch.Generator().manual_seed(seed)))
        assert batch.states.shape[1] == 6
        assert batch.weights[1].tolist() == [0.25] * 4 + [0.0] * 2
        kept = (batch.states[0][:, None] == everything.states[0][None]).all(-1).float().argmax(1)
        assert len(set(kept.tolist())) == 6
        assert torch.equal(batch.advantages[0], everything.advantages[0][kept])
        counts[kept] += 1
    assert 30 < float(counts.min()) <= float(counts.max()) < 95, "60 expected"


def test_every_second_row_weighs_twice() -> None:
    episodes = [[random_episode(6)], [random_episode(3)]]
    batch = make_gradient_batch(make_policy(), episodes, 0.9, 30)
    fewer = batch.every(2)
    assert torch.equal(fewer.states, batch.states[:, ::2])
    assert fewer.weights.tolist() == [pytest.approx([1 / 3] * 3), pytest.approx([0.5, 0.5, 0.0])]


# -- acting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", ["head", "parameter"])
def test_each_lane_acts_with_its_own_policy(sigma: str) -> None:
    """Three policies in two lanes each, of which two lanes are finished: against the modules one by one."""
    config = GaussianPolicyConfig(hidden_dim=8, hidden_layers=2, sigma=sigma, initial_sigma=0.4)  # type: ignore[arg-type]
    policies = [make_policy(config) for _ in range(3)]
    for policy in policies:
        policy.state_mean.copy_(policies[0].state_mean)
        policy.state_sigma.copy_(policies[0].state_sigma)
        if policy.log_sigma is not None:
            policy.log_sigma.normal_()
    named = [dict(policy.named_parameters()) for policy in policies]
    stacked = {name: torch.stack([each[name] for each in named]) for name in named[0]}
    keys: list[EpisodeKey] = [(0, "test", i) for i in range(6)]
    noise = EpisodeNoise(keys, 5, ACTION_DIM)
    lanes = np.array([0, 2, 3, 5])
    states = torch.randn(4, OBSERVATION_DIM)
    actions = StackedPolicies(policies[0], stacked, 2, noise)(states, lanes, 3)
    for row, lane in enumerate(lanes):
        expected = policies[lane // 2].action_prior(states[row]).sample(noise.values[lane, 3])
        torch.testing.assert_close(actions[row], expected)


def test_an_episode_is_the_same_whatever_else_is_collected() -> None:
    """Of one policy or of many, alone or beside others; and the actions kept are those before clipping."""
    context = stage_context(short_maze(12), {})
    tasks, policy = context.task_distribution.train_tasks[:4], make_policy()
    keys: list[EpisodeKey] = [(0, "test", i) for i in range(4)]
    parameters = dict(policy.named_parameters())
    together = act(context, policy, same_for_all(parameters, 2), tasks, keys)
    (alone,) = act(context, policy, same_for_all(parameters, 1), tasks[2:3], keys[2:3])
    torch.testing.assert_close(alone.states, together[2].states)
    torch.testing.assert_close(alone.skills, together[2].skills)
    assert float(torch.cat([episode.skills for episode in together]).abs().max()) > 1.0
    assert TaskEpisode.of(alone).rewards.shape == (12,)
    assert alone.path is None


def test_tasks_are_collected_for_together_or_in_turns() -> None:
    """Three tasks, of which each is due five episodes."""
    assert next_lanes([0, 0, 0], 5, 6) == ([0, 1, 2], 2)
    assert next_lanes([4, 4, 4], 5, 6) == ([0, 1, 2], 1)
    assert next_lanes([0, 0, 0], 5, 100) == ([0, 1, 2], 5)
    assert next_lanes([1, 1, 1], 5, 2) == ([0, 1], 1)
    assert next_lanes([2, 2, 1], 5, 2) == ([2], 1)


def test_paths_are_recorded_where_asked_for() -> None:
    context = stage_context(short_maze(5, [START_GOAL]), {})
    policy = make_policy()
    parameters = same_for_all(dict(policy.named_parameters()), 1)
    (episode,) = act(context, policy, parameters, context.task_distribution.target_tasks, [(0, "t", 0)], True)
    assert episode.path is not None
    assert episode.path.shape == (episode.length + 1, OBSERVATION_DIM)


# -- rows --------------------------------------------------------------------------------------------------------
