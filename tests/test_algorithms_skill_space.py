"""Skill spaces: learned skills, primitive actions without and with a prior over them.

Axes: A active lane, B batch, D feature, Z skill or action.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.behavior_cloning import BehaviorPolicy, GaussianPolicyConfig
from algorithms.rollout import PrimitiveActions, collect_episodes
from algorithms.skill_space import NoPrior, as_gaussian, learned_skills, primitive_actions
from envs.core import Task
from envs.registry import task_distribution
from tests.algorithm_helpers import (
    ACTION_DIM,
    OBSERVATION_DIM,
    TINY_SKILLS,
    Script,
    ScriptedWorld,
    short_maze,
    stage_context,
    tiny_skill_model,
    write_skills,
)


def test_no_prior_has_no_columns() -> None:
    prior, states = primitive_actions(stage_context(short_maze(60), {})).prior, torch.randn(5, OBSERVATION_DIM)
    assert (prior.latent_dim, prior.prior_dim) == (ACTION_DIM, 0)
    assert prior.prior_columns(states).shape == (5, 0)
    gaussian = prior.skill_prior(states)
    assert gaussian.mean.shape == gaussian.sigma.shape == (5, 0)
    assert as_gaussian(prior.prior_columns(states)).sigma.shape == (5, 0)


def test_without_offline_data_states_are_scaled_by_the_worlds_bounds() -> None:
    """The maze: 20 cells and a border on each side, speeds of 6 at most. Its corners are then those of a cube."""
    prior = primitive_actions(stage_context(task_distribution("maze"), {})).prior
    states = torch.tensor([[0.0, 0.0, -6.0, -6.0], [21.0, 21.0, 6.0, 6.0], [10.5, 5.25, 0.0, 3.0]])
    expected = [[-1.0] * 4, [1.0] * 4, [0.0, -0.5, 0.0, 0.5]]
    torch.testing.assert_close(prior.standardise(states), torch.tensor(expected))


def test_features_without_known_bounds_stay_as_they_are() -> None:
    low = np.array([-np.inf, 0.0, -np.inf], np.float32)
    high = np.array([np.inf, 4.0, 1.0], np.float32)
    calls = []

    def bounds() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        calls.append(1)
        return low, high

    prior = NoPrior(ACTION_DIM, bounds)
    for _ in range(2):
        scaled = prior.standardise(torch.tensor([[7.0, 1.0, -3.0]]))
        assert scaled.tolist() == [[7.0, -0.5, -3.0]]
    assert calls == [1]


def test_primitive_actions_are_chosen_at_every_env_step() -> None:
    space = primitive_actions(stage_context(short_maze(60), {}))
    assert space.latent_dim == ACTION_DIM
    assert space.low_level_policy.skill_length == 1
    assert space.max_skills(60) == 60
    assert isinstance(space.prior, NoPrior)


def test_a_cloned_policy_may_be_the_prior_over_actions() -> None:
    torch.manual_seed(0)
    policy = BehaviorPolicy(GaussianPolicyConfig(hidden_dim=8), OBSERVATION_DIM, ACTION_DIM)
    space = primitive_actions(stage_context(short_maze(60), {}), policy)
    states = torch.randn(7, OBSERVATION_DIM)
    assert (space.latent_dim, space.prior.prior_dim) == (ACTION_DIM, 2 * ACTION_DIM)
    stored, expected = as_gaussian(space.prior.prior_columns(states)), policy(states)
    assert torch.equal(stored.mean, expected.mean)
    assert torch.equal(stored.sigma, expected.sigma)
    assert not stored.mean.requires_grad


def test_learned_skills_last_as_long_as_the_model_says(tmp_path: Path) -> None:
    space = learned_skills(stage_context(short_maze(60), {"skills": write_skills(tmp_path)}))
    states = torch.randn(6, OBSERVATION_DIM)
    assert space.latent_dim == TINY_SKILLS.latent_dim
    assert space.low_level_policy.skill_length == TINY_SKILLS.skill_length == 10
    assert [space.max_skills(env_steps) for env_steps in (59, 60, 61)] == [6, 6, 7]
    assert space.prior.prior_dim == 2 * TINY_SKILLS.latent_dim
    expected = tiny_skill_model().skill_prior(states)
    stored = as_gaussian(space.prior.prior_columns(states))
    torch.testing.assert_close(stored.mean, expected.mean)
    torch.testing.assert_close(stored.sigma, expected.sigma)


def test_columns_are_the_mean_and_then_the_sigma() -> None:
    gaussian = as_gaussian(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert gaussian.mean.tolist() == [[1.0, 2.0]]
    assert gaussian.sigma.tolist() == [[3.0, 4.0]]


def test_an_action_acts_as_it_is_and_only_for_the_lanes_that_are_left() -> None:
    acting = PrimitiveActions(2)
    actions = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    acting.begin(actions, torch.zeros(len(actions), OBSERVATION_DIM))
    assert torch.equal(acting.act(torch.zeros(3, 4)), actions)
    acting.drop(np.array([True, False, True]))
    assert torch.equal(acting.act(torch.zeros(2, 4)), actions[[0, 2]])


def test_every_env_step_is_a_transition_whose_skill_is_the_action_that_the_world_got() -> None:
    """Two lanes that end at different times, one by termination and one by the time limit."""
    world = ScriptedWorld([Script((1.0, 2.0), terminates=True), Script((0.5, 0.25, 4.0), terminates=False)])

    def choose(states: Tensor, lanes: NDArray[np.int64], skill_index: int) -> Tensor:
        return torch.stack([states[:, 0] + 0.1, states[:, 1] - 0.5], dim=1)

    first, second = collect_episodes(
        world, [Task("a", {}), Task("b", {})], [(0, 0), (0, 1)], choose, PrimitiveActions(2)
    )
    assert first.rewards[:, 0].tolist() == [1.0, 2.0]
    assert first.dones[:, 0].tolist() == [0.0, 1.0]
    assert second.rewards[:, 0].tolist() == [0.5, 0.25, 4.0]
    assert second.dones[:, 0].tolist() == [0.0, 0.0, 0.0], "the time limit is no end"
    for lane, episode in enumerate((first, second)):
        expected = [[lane + 0.1, env_step - 0.5] for env_step in range(len(episode.rewards))]
        torch.testing.assert_close(episode.skills, torch.tensor(expected))
        given = [actions[lane].tolist() for actions in world.actions[: len(episode.rewards)]]
        torch.testing.assert_close(torch.tensor(given), torch.tensor(expected))
