"""Policy heads: the tanh Gaussian against torch.distributions and by integration, the residual around a prior.

Axes: B batch, Z skill or action.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from algorithms.networks import Gaussian
from algorithms.policy_heads import (
    MAX_LOG_SIGMA,
    MIN_LOG_SIGMA,
    ResidualHead,
    SquashedGaussian,
    SquashedHead,
)
from algorithms.regularized_sac import ActorCriticConfig, SquashedActorCriticConfig

NO_PRIOR = Gaussian(torch.empty(0), torch.empty(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def as_distribution(policy: SquashedGaussian) -> TransformedDistribution:
    transform = TanhTransform(cache_size=1)  # type: ignore[no-untyped-call]
    return TransformedDistribution(Independent(Normal(policy.mean, policy.sigma), 1), transform)


# -- the squashed Gaussian ------------------------------------------------------------------------------


def test_samples_and_log_probabilities_equal_torch_distributions() -> None:
    policy = SquashedGaussian(torch.randn(50, 3).double(), torch.rand(50, 3).double() + 0.1)
    noise = torch.randn(50, 3).double()
    before = policy.mean + policy.sigma * noise
    sample = policy.sample(noise)
    torch.testing.assert_close(sample, torch.tanh(before))
    normal = Normal(policy.mean, policy.sigma).log_prob(before).sum(-1)
    expected = normal - torch.log1p(-torch.tanh(before).square()).sum(-1)
    torch.testing.assert_close(policy.log_probability(noise), expected)
    torch.testing.assert_close(
        policy.log_probability(noise), as_distribution(policy).log_prob(sample), rtol=1e-6, atol=0
    )


@given(st.floats(-300, 300), st.floats(0.01, 7.0))
@settings(max_examples=100, deadline=None)
def test_log_probabilities_stay_exact_where_tanh_saturates(mean: float, sigma: float) -> None:
    """In float32, where 1 - tanh(u)^2 is 0 beyond u = 9: its log is log 4 - 2 |u| - 2 log(1 + exp(-2 |u|))."""
    policy = SquashedGaussian(torch.tensor([mean]), torch.tensor([sigma]))
    found = float(policy.log_probability(torch.tensor([0.5])))
    before = float(policy.mean + policy.sigma * 0.5)
    squash = math.log(4) - 2 * abs(before) - 2 * math.log1p(math.exp(-2 * abs(before)))
    expected = -0.125 - math.log(sigma) - 0.5 * math.log(2 * math.pi) - squash
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)


def density(policy: SquashedGaussian, action: float) -> float:
    """By ``log_probability``, of the noise that leads to ``action``."""
    noise = (math.atanh(action) - float(policy.mean)) / float(policy.sigma)
    return math.exp(float(policy.log_probability(torch.tensor([noise], dtype=torch.float64))))


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 0.5), (0.8, 1.0), (-1.5, 0.3)])
def test_the_density_integrates_to_one_and_its_mean_logarithm_is_minus_the_entropy(mean: float, sigma: float) -> None:
    """So alpha tuned to a divergence of A is alpha tuned to an entropy of -A."""
    policy = SquashedGaussian(torch.tensor([mean]).double(), torch.tensor([sigma]).double())
    edge = 1 - 1e-12
    total, _ = integrate.quad(lambda a: density(policy, a), -edge, edge, points=[math.tanh(mean)], limit=200)
    assert total == pytest.approx(1.0, abs=1e-5)

    def of_entropy(action: float) -> float:
        value = density(policy, action)
        return value * math.log(value) if value > 0 else 0.0

    negative_entropy, _ = integrate.quad(of_entropy, -edge, edge, points=[math.tanh(mean)], limit=200)
    noise = torch.randn(200_000, 1).double()
    drawn = SquashedHead().divergence(policy, NO_PRIOR, noise)
    assert float(drawn.mean()) == pytest.approx(negative_entropy, abs=5 * float(drawn.std()) / math.sqrt(200_000))


def test_gradients_to_mean_and_sigma_equal_those_of_torch_distributions() -> None:
    """Of log pi and of the action, along the reparameterised sample, as SAC's policy loss needs them."""
    mean, log_sigma = torch.randn(20, 2).double(), torch.randn(20, 2).double() * 0.5
    noise, weight = torch.randn(20, 2).double(), torch.randn(20, 2).double()

    def gradients(ours: bool) -> tuple[Tensor, ...]:
        leaves = [part.clone().requires_grad_() for part in (mean, log_sigma)]
        policy = SquashedGaussian(leaves[0], leaves[1].exp())
        if ours:
            action, log_probability = policy.sample(noise), policy.log_probability(noise)
        else:
            action = torch.tanh(leaves[0] + leaves[1].exp() * noise)
            log_probability = as_distribution(policy).log_prob(action)
        return torch.autograd.grad((0.3 * log_probability - (weight * action).sum(-1)).sum(), leaves)

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# -- the squashed head ----------------------------------------------------------------------------------


def test_the_first_half_of_the_output_is_the_mean_the_second_log_sigma_clamped() -> None:
    output = torch.tensor([[0.5, -3.0, -1.0, 0.0], [1.0, 2.0, -100.0, 100.0]])
    policy = SquashedHead().policy(output, NO_PRIOR)
    assert policy.mean.tolist() == [[0.5, -3.0], [1.0, 2.0]]
    expected = [[math.exp(-1.0), 1.0], [math.exp(MIN_LOG_SIGMA), math.exp(MAX_LOG_SIGMA)]]
    torch.testing.assert_close(policy.sigma, torch.tensor(expected))


def test_a_clamped_log_sigma_gets_no_gradient_and_the_mean_does() -> None:
    output = torch.tensor([0.5, 50.0], requires_grad=True)
    SquashedHead().policy(output, NO_PRIOR).log_probability(torch.tensor([0.3])).backward()
    assert output.grad is not None
    assert float(output.grad[0]) != 0.0
    assert float(output.grad[1]) == 0.0


def test_the_divergence_of_the_squashed_head_is_log_pi_of_its_sample() -> None:
    policy, noise = SquashedGaussian(torch.randn(2, 6, 3), torch.rand(2, 6, 3) + 0.2), torch.randn(2, 6, 3)
    divergence = SquashedHead().divergence(policy, NO_PRIOR, noise)
    assert divergence.shape == (2, 6)
    expected = as_distribution(policy).log_prob(policy.sample(noise))
    torch.testing.assert_close(divergence, expected, rtol=1e-3, atol=1e-3)


# -- the residual head ----------------------------------------------------------------------------------


def test_the_divergence_of_the_residual_head_is_the_kl_to_the_prior_whatever_the_sample() -> None:
    prior = Gaussian(torch.randn(2, 5, 3), torch.rand(2, 5, 3) + 0.2)
    head = ResidualHead("softplus")
    policy = head.policy(torch.randn(2, 5, 6), prior)
    expected = kl_divergence(
        Independent(Normal(policy.mean, policy.sigma), 1), Independent(Normal(prior.mean, prior.sigma), 1)
    )
    for noise in (torch.zeros(2, 5, 3), torch.randn(2, 5, 3)):
        torch.testing.assert_close(head.divergence(policy, prior, noise), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parametrization", ["softplus", "exp"])
def test_a_residual_policy_starts_at_its_prior_and_moves_both_ways(parametrization: str) -> None:
    """Positive outputs raise mean and sigma, negative ones lower them; at 0 the gradient is not lost."""
    prior = Gaussian(torch.tensor([0.4, -1.0]), torch.tensor([0.6, 0.05]))
    head = ResidualHead(parametrization)  # type: ignore[arg-type]
    start = head.policy(torch.zeros(4), prior)
    assert torch.equal(start.mean, prior.mean)
    offset = 0.001 if parametrization == "softplus" else 0.0
    torch.testing.assert_close(start.sigma, prior.sigma + offset, rtol=1e-5, atol=1e-7)
    for sign in (1.0, -1.0):
        moved = head.policy(torch.full((4,), 0.5 * sign), prior)
        torch.testing.assert_close(moved.mean - prior.mean, torch.full((2,), 0.5 * sign))
        assert bool((sign * (moved.sigma - start.sigma) > 0).all())
    output = torch.zeros(4, requires_grad=True)
    head.policy(output, prior).sample(torch.ones(2)).sum().backward()
    assert output.grad is not None
    assert bool((output.grad > 0).all())


def test_a_sample_of_the_residual_head_is_not_squashed() -> None:
    """Skills, and actions around a cloned policy, are unbounded: the world clips them."""
    prior = Gaussian(torch.tensor([3.0]), torch.tensor([0.5]))
    assert float(ResidualHead("exp").policy(torch.zeros(2), prior).sample(torch.tensor([2.0]))) == 4.0


def test_configurations_choose_their_head_and_whether_its_network_starts_at_zero() -> None:
    residual, squashed = ActorCriticConfig().make_head(), SquashedActorCriticConfig().make_head()
    assert isinstance(residual, ResidualHead) and residual.zero_output
    assert not ActorCriticConfig(zero_initial_residual=False).make_head().zero_output
    assert isinstance(squashed, SquashedHead) and not squashed.zero_output
