"""The product of Gaussians against densities multiplied on a grid, and the symmetries of a set function.

Axes: S set, C context transition, D feature, E task embedding.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.gaussian_product_encoder import MIN_VARIANCE, GaussianProductEncoder, product_of_gaussians
from algorithms.networks import Gaussian
from tests.algorithm_helpers import naive_product_encoder, relative_error

TRANSITION_DIM, EMBEDDING_DIM, SETS, CONTEXT = 7, 3, 4, 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_encoder() -> GaussianProductEncoder:
    torch.manual_seed(1)
    encoder = GaussianProductEncoder(TRANSITION_DIM, EMBEDDING_DIM, hidden_dim=16, hidden_layers=2)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-1, 1)  # as they start, one that is left out would hardly show
    return encoder


def some_contexts(count: int = CONTEXT) -> Tensor:
    return torch.randn(SETS, count, TRANSITION_DIM, generator=torch.Generator().manual_seed(2))


def test_the_product_is_that_of_the_densities() -> None:
    """Multiplied point by point on a fine grid, normalised, and its mean and deviation integrated."""
    means, variances = torch.randn(1, 5, 2), torch.rand(1, 5, 2) * 3 + 0.2
    found = product_of_gaussians(means, variances)
    grid = np.linspace(-12, 12, 200_001)
    for dim in range(2):
        factors = zip(means[0, :, dim].tolist(), variances[0, :, dim].tolist(), strict=True)
        density = np.exp(-sum((grid - mean) ** 2 / (2 * variance) for mean, variance in factors))
        density /= density.sum()
        mean = float((density * grid).sum())
        sigma = float(np.sqrt((density * (grid - mean) ** 2).sum()))
        assert float(found.mean[0, dim]) == pytest.approx(mean, abs=1e-5)
        assert float(found.sigma[0, dim]) == pytest.approx(sigma, abs=1e-5)


def test_one_factor_is_itself_and_equal_factors_shrink_by_the_root() -> None:
    mean, variance = torch.tensor([[[0.5, -2.0]]]), torch.tensor([[[4.0, 0.25]]])
    one = product_of_gaussians(mean, variance)
    torch.testing.assert_close(one.mean, mean[:, 0])
    torch.testing.assert_close(one.sigma, variance[:, 0].sqrt())
    nine = product_of_gaussians(mean.expand(1, 9, 2), variance.expand(1, 9, 2))
    torch.testing.assert_close(nine.mean, mean[:, 0])
    torch.testing.assert_close(nine.sigma, variance[:, 0].sqrt() / 3)


def test_the_encoder_and_its_gradients_equal_the_formula_in_double_precision() -> None:
    encoder, contexts = make_encoder(), some_contexts()

    def loss_of(posterior: Gaussian) -> Tensor:
        ramp = torch.linspace(-1, 2, posterior.mean.numel()).view_as(posterior.mean).to(posterior.mean)
        return (ramp * posterior.mean).sum() + (ramp.flip(0, 1) * posterior.sigma.log()).sum()

    posterior = encoder(contexts)
    loss_of(posterior).backward()
    weights = {name: parameter.detach().double().requires_grad_() for name, parameter in encoder.named_parameters()}
    reference = naive_product_encoder(weights, contexts.double())
    loss_of(reference).backward()
    torch.testing.assert_close(posterior.mean.double(), reference.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(posterior.sigma.double(), reference.sigma, rtol=1e-5, atol=1e-6)
    for name, parameter in encoder.named_parameters():
        expected = weights[name].grad
        assert parameter.grad is not None and expected is not None
        assert relative_error(parameter.grad, expected) < 1e-4, name


@torch.no_grad()
def test_the_order_of_transitions_does_not_matter() -> None:
    encoder, contexts = make_encoder(), some_contexts()
    for one, other in zip(encoder(contexts), encoder(contexts[:, torch.randperm(CONTEXT)]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_more_transitions_leave_less_doubt() -> None:
    """Unlike attention, a product counts: each transition narrows the posterior, the same one again does too."""
    encoder, contexts = make_encoder(), some_contexts()
    narrower = [encoder(contexts[:, :count]).sigma for count in range(1, CONTEXT + 1)]
    assert all(bool((after < before).all()) for before, after in itertools.pairwise(narrower))
    twice = encoder(torch.cat([contexts, contexts], dim=1))
    torch.testing.assert_close(twice.sigma, encoder(contexts).sigma / 2**0.5)
    torch.testing.assert_close(twice.mean, encoder(contexts).mean, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_each_set_is_encoded_by_itself() -> None:
    encoder, contexts = make_encoder(), some_contexts()
    together = encoder(contexts)
    for index in range(SETS):
        alone = encoder(contexts[index : index + 1])
        torch.testing.assert_close(alone.mean[0], together.mean[index], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.sigma[0], together.sigma[index], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_no_transition_is_the_prior() -> None:
    posterior = make_encoder()(some_contexts(0))
    assert torch.equal(posterior.mean, torch.zeros(SETS, EMBEDDING_DIM))
    assert torch.equal(posterior.sigma, torch.ones(SETS, EMBEDDING_DIM))
    assert posterior.kl_to_unit().tolist() == [0.0] * SETS


@torch.no_grad()
def test_a_factor_is_never_narrower_than_its_minimum() -> None:
    encoder = make_encoder()
    encoder.layers[-1].bias[EMBEDDING_DIM:] = -1000.0
    assert torch.equal(encoder.factors(some_contexts())[1], torch.full((SETS, CONTEXT, EMBEDDING_DIM), MIN_VARIANCE))
    sigma = encoder(some_contexts()).sigma
    torch.testing.assert_close(sigma, torch.full_like(sigma, (1e-7 / CONTEXT) ** 0.5))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_kl_to_the_unit_gaussian_is_torchs(scale: float) -> None:
    mean, sigma = scale * torch.randn(6, EMBEDDING_DIM), scale * (torch.rand(6, EMBEDDING_DIM) + 0.01)
    unit = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(sigma))
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, sigma), unit).sum(-1)
    torch.testing.assert_close(Gaussian(mean, sigma).kl_to_unit(), expected, rtol=1e-5, atol=1e-5)
