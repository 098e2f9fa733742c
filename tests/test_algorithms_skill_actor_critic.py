"""The networks of the skill actor-critic (residual policy, twin critics) and acting with them, against numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.networks import Gaussian, SigmaParametrization
from algorithms.policy_heads import residual_gaussian
from algorithms.regularized_sac import (
    ActorCriticConfig,
    FrozenPolicies,
    critic_errors,
)
from algorithms.transitions import StateInputs
from tests.actor_critic_helpers import (
    BATCH,
    CONFIG,
    COPIES,
    EMBEDDING_DIM,
    EXP_CONFIG,
    LATENT_DIM,
    STATE_DIM,
    array,
    fresh_networks,
    numpy_mlp,
    numpy_policy,
    numpy_q,
    random_batch,
    trained_networks,
)
from tests.algorithm_helpers import standardising_skill_model


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -- the residual policy -------------------------------------------------------------------------------


@pytest.mark.parametrize("prior_sigma", [np.exp(-10.0), 0.01, 1.0, np.exp(2.0), 30.0])
def test_zero_residual_is_the_prior(prior_sigma: float) -> None:
    """Over the whole range that the prior's log sigma is clamped to. Released: plus the minimum of 0.001."""
    prior = Gaussian(torch.tensor([0.3, -2.0]), torch.full((2,), float(prior_sigma)))
    exp = residual_gaussian(torch.zeros(4), prior, "exp")
    assert torch.equal(exp.mean, prior.mean)
    assert torch.equal(exp.sigma, prior.sigma)
    softplus = residual_gaussian(torch.zeros(4), prior, "softplus")
    assert torch.equal(softplus.mean, prior.mean)
    torch.testing.assert_close(softplus.sigma, prior.sigma + 0.001, rtol=2e-6, atol=0)


@pytest.mark.parametrize("parametrization", ["softplus", "exp"])
def test_residuals_add_to_the_mean_and_to_the_raw_sigma(parametrization: SigmaParametrization) -> None:
    prior = Gaussian(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 2.0]))
    policy = residual_gaussian(torch.tensor([0.25, -1.0, 0.7, -0.4]), prior, parametrization)
    assert policy.mean.tolist() == [1.25, 0.0]
    for sigma, prior_sigma, residual in zip(policy.sigma.tolist(), (0.5, 2.0), (0.7, -0.4), strict=True):
        if parametrization == "exp":
            expected = np.exp(np.log(prior_sigma) + residual)
        else:
            expected = 0.001 + np.log1p(np.exp(np.log(np.expm1(prior_sigma)) + residual))
        assert sigma == pytest.approx(expected, rel=1e-5)


def test_sigma_never_falls_below_its_minimum() -> None:
    prior = Gaussian(torch.zeros(2), torch.tensor([0.5, 2.0]))
    sigma = residual_gaussian(torch.tensor([0.0, 0.0, -100.0, -1000.0]), prior, "softplus").sigma
    assert sigma.tolist() == pytest.approx([0.001, 0.001])


def test_the_initial_policy_is_the_prior_whatever_the_task() -> None:
    batch = random_batch()
    policy = fresh_networks(EXP_CONFIG).policy_distribution(batch.states, batch.task_embeddings, batch.prior)
    assert torch.equal(policy.mean, batch.prior.mean)
    assert torch.equal(policy.sigma, batch.prior.sigma)
    assert torch.equal(policy.kl(batch.prior), torch.zeros(COPIES, BATCH))
    released = fresh_networks(CONFIG).policy_distribution(batch.states, batch.task_embeddings, batch.prior)
    assert torch.equal(released.mean, batch.prior.mean)
    torch.testing.assert_close(released.sigma, batch.prior.sigma + 0.001, rtol=1e-5, atol=0)


def test_target_critics_start_at_the_critics_and_the_two_critics_differ() -> None:
    networks = fresh_networks()
    for target, critic in zip(networks.target_critics.parameters(), networks.critics.parameters(), strict=True):
        assert torch.equal(target, critic)
        assert not target.requires_grad
    batch = random_batch()
    values = networks.q_values(networks.critics, batch.states, batch.task_embeddings, batch.skills)
    assert float((values[:, 0] - values[:, 1]).detach().abs().min()) > 1e-6


def test_critics_may_start_at_zero_and_still_learn_apart() -> None:
    networks, batch = fresh_networks(dataclasses.replace(CONFIG, zero_initial_values=True)), random_batch()
    for critics in (networks.critics, networks.target_critics):
        values = networks.q_values(critics, batch.states, batch.task_embeddings, batch.skills)
        assert torch.equal(values, torch.zeros(COPIES, 2, BATCH))
    critic_errors(networks, batch, torch.ones(COPIES, BATCH)).sum().backward()
    gradient = networks.critics.layers[-1].get_parameter("weight").grad
    assert gradient is not None
    assert float((gradient[0] - gradient[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("config", [CONFIG, EXP_CONFIG], ids=["softplus", "exp"])
def test_policy_and_critics_equal_numpy(config: ActorCriticConfig) -> None:
    networks, batch = trained_networks(config), random_batch()
    policy = networks.policy_distribution(batch.states, batch.task_embeddings, batch.prior)
    values = networks.q_values(networks.critics, batch.states, batch.task_embeddings, batch.skills)
    for copy in range(COPIES):
        mean, sigma = numpy_policy(networks, copy, batch.states, batch.task_embeddings, batch.prior)
        np.testing.assert_allclose(array(policy.mean[copy]), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(array(policy.sigma[copy]), sigma, rtol=1e-4, atol=1e-5)
        expected = numpy_q(networks.critics, copy, batch.states, batch.task_embeddings, array(batch.skills[copy]))
        np.testing.assert_allclose(array(values[copy]), expected, rtol=1e-4, atol=1e-5)


# -- acting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("config", [CONFIG, EXP_CONFIG], ids=["softplus", "exp"])
@pytest.mark.parametrize("lanes", [[0, 1, 2, 3, 4], [1, 3], [4]])
def test_acting_samples_the_policy_of_each_lanes_learner(
    lanes: list[int], config: ActorCriticConfig, standardise: bool
) -> None:
    """Five lanes of learners 1, 0, 1, 1, 0, of which only ``lanes`` are still active."""
    networks, model = trained_networks(config), standardising_skill_model(LATENT_DIM)
    chosen = torch.tensor([1, 0, 1, 1, 0])
    embeddings, noise = torch.randn(5, EMBEDDING_DIM), torch.randn(5, LATENT_DIM)
    inputs = StateInputs(model, standardise)
    act = FrozenPolicies(networks, embeddings, inputs, model, lambda lanes, _: noise[lanes], chosen_models=chosen)
    states = torch.randn(len(lanes), STATE_DIM)
    skills = act(states, np.array(lanes), 0)
    for row, lane in enumerate(lanes):
        learner = int(chosen[lane])
        seen = (states[row] - model.state_mean) / model.state_sigma if standardise else states[row]
        output = numpy_mlp(networks.policy, learner, array(torch.cat([seen, embeddings[lane]]))[None])
        prior = model.skill_prior(states[row : row + 1])
        policy = residual_gaussian(torch.from_numpy(output).float(), prior, config.sigma_parametrization)
        torch.testing.assert_close(skills[row].clone(), policy.sample(noise[lane])[0], rtol=1e-4, atol=1e-5)


def test_acting_with_one_shared_model_equals_its_policy() -> None:
    networks, model = trained_networks(copies=1), standardising_skill_model(LATENT_DIM)
    embeddings, noise = torch.randn(4, EMBEDDING_DIM), torch.randn(4, LATENT_DIM)
    act = FrozenPolicies(networks, embeddings, StateInputs(model, False), model, lambda lanes, _: noise[lanes])
    states, lanes = torch.randn(3, STATE_DIM), np.array([0, 2, 3])
    prior = model.skill_prior(states)
    with torch.no_grad():
        policy = networks.policy_distribution(
            states[None], embeddings[lanes][None], Gaussian(prior.mean[None], prior.sigma[None])
        )
    expected = policy.sample(noise[lanes])[0]
    torch.testing.assert_close(act(states, lanes, 0).clone(), expected, rtol=1e-5, atol=1e-6)


def test_acting_asks_for_the_noise_of_its_lanes_and_skill() -> None:
    asked: list[tuple[list[int], int]] = []

    def noise(lanes: NDArray[np.int64], skill_index: int) -> Tensor:
        asked.append((lanes.tolist(), skill_index))
        return torch.zeros(len(lanes), LATENT_DIM)

    networks, model = trained_networks(copies=1), standardising_skill_model(LATENT_DIM)
    act = FrozenPolicies(networks, torch.zeros(4, EMBEDDING_DIM), StateInputs(model, False), model, noise)
    act(torch.randn(2, STATE_DIM), np.array([1, 3]), 17)
    assert asked == [([1, 3], 17)]
