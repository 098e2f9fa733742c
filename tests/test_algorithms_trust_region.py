"""One trust region step: conjugate gradients, Hessian products, and what the line search refuses.

Axes: P parameter.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from algorithms.networks import Gaussian
from algorithms.trust_region import TrustRegionConfig, conjugate_gradient, hessian_product, trust_region_step

CONFIG = TrustRegionConfig(damping=0.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def positive_definite(size: int) -> Tensor:
    factor = torch.randn(size, size, dtype=torch.float64)
    return factor @ factor.T + torch.eye(size, dtype=torch.float64)


def test_conjugate_gradient_solves_a_linear_system_in_as_many_rounds_as_it_has_unknowns() -> None:
    matrix, right_side = positive_definite(8), torch.randn(8, dtype=torch.float64)
    solution = conjugate_gradient(lambda v: matrix @ v, right_side, rounds=8)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right_side))
    fewer = conjugate_gradient(lambda v: matrix @ v, right_side, rounds=4)
    error, error_of_fewer = (float((matrix @ x - right_side).norm()) for x in (solution, fewer))
    assert error < 1e-8 < error_of_fewer < float(right_side.norm())


def test_conjugate_gradient_stops_where_it_is_exact() -> None:
    products = []

    def product(vector: Tensor) -> Tensor:
        products.append(vector)
        return 2.0 * vector

    right_side = torch.tensor([1.0, -3.0])
    assert conjugate_gradient(product, right_side, rounds=50).tolist() == [0.5, -1.5]
    assert len(products) == 1
    assert conjugate_gradient(product, torch.zeros(2), rounds=50).tolist() == [0.0, 0.0]


def small_policy(flat: Tensor, states: Tensor) -> Gaussian:
    """2 states -> tanh of 3 -> mean of 1, and a sigma: 6 + 3 + 3 + 1 + 1 = 14 parameters."""
    w1, b1, w2, b2, log_sigma = flat.split([6, 3, 3, 1, 1])
    hidden = torch.tanh(states @ w1.view(2, 3) + b1)
    mean = hidden @ w2.view(3, 1) + b2
    return Gaussian(mean, log_sigma.exp().expand_as(mean))


def test_hessian_product_is_the_explicit_hessian_of_the_kl() -> None:
    """By autograd's Hessian, and by the Fisher matrix, the mean of J^T M J over states."""
    states, flat = torch.randn(9, 2, dtype=torch.float64), torch.randn(14, dtype=torch.float64)
    old = small_policy(flat, states)

    def mean_kl(parameters: Tensor) -> Tensor:
        return old.kl(small_policy(parameters, states)).mean()

    vector = torch.randn(14, dtype=torch.float64)
    parameters = flat.clone().requires_grad_()
    product = hessian_product(mean_kl(parameters), parameters, damping=0.5)(vector)
    hessian = torch.autograd.functional.hessian(mean_kl, flat)
    torch.testing.assert_close(product, hessian @ vector + 0.5 * vector)
    mean_jacobian, sigma_jacobian = torch.autograd.functional.jacobian(lambda p: tuple(small_policy(p, states)), flat)
    precision = old.sigma.square().reciprocal()[:, :, None, None]
    fisher = precision[..., 0] * mean_jacobian[:, 0, :, None] * mean_jacobian[:, 0, None, :]
    fisher = fisher + 2 * precision[..., 0] * sigma_jacobian[:, 0, :, None] * sigma_jacobian[:, 0, None, :]
    torch.testing.assert_close(hessian, fisher.mean(0))


def quadratic(curvature: Tensor, slope: Tensor, start: Tensor):  # type: ignore[no-untyped-def]
    """A linear loss, and a KL that is exactly 1/2 d H d."""

    def objective(parameters: Tensor) -> tuple[Tensor, Tensor]:
        moved = parameters - start
        return slope @ moved, 0.5 * moved @ curvature @ moved

    return objective


def test_the_step_is_the_natural_gradient_at_the_limit() -> None:
    """Linear loss, quadratic KL: x = x_old - sqrt(2 max_kl / g H^-1 g) H^-1 g, with KL just at the limit.

    Whether rounding puts it a hair beyond is open; the next length is 0.8 of it.
    """
    curvature, slope = positive_definite(6), torch.randn(6, dtype=torch.float64)
    start = torch.randn(6, dtype=torch.float64)
    step = trust_region_step(quadratic(curvature, slope, start), start, CONFIG)
    natural = torch.linalg.solve(curvature, slope)
    full_step = -math.sqrt(0.02 / float(slope @ natural)) * natural
    assert step.accepted
    assert step.backtracks <= 1
    length = 0.8**step.backtracks
    torch.testing.assert_close(step.parameters, start + length * full_step, rtol=1e-6, atol=1e-9)
    assert step.kl == pytest.approx(0.01 * length**2, rel=1e-6)
    assert step.loss_after - step.loss_before == pytest.approx(float(slope @ (step.parameters - start)))


def test_a_step_beyond_the_limit_is_shortened_until_its_kl_is_within() -> None:
    """The curvature says 1 but the KL grows 30 times as fast: 0.8^n * full length, and KL goes with its square."""
    start, slope = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    steep, flat = quadratic(30 * eye, slope, start), quadratic(eye, slope, start)
    step = trust_region_step(steep, start, CONFIG, flat)
    shortest_refused = math.ceil(math.log(30) / (2 * math.log(1 / 0.8)))
    assert (step.accepted, step.backtracks) == (True, shortest_refused)
    assert step.kl == pytest.approx(30 * 0.01 * 0.8 ** (2 * shortest_refused))
    assert step.kl <= CONFIG.max_kl


def test_where_no_length_is_within_the_limit_nothing_changes() -> None:
    start, slope = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    few = dataclasses.replace(CONFIG, backtracks=3)
    step = trust_region_step(quadratic(30 * eye, slope, start), start, few, quadratic(eye, slope, start))
    assert (step.accepted, step.backtracks, step.kl) == (False, 3, 0.0)
    assert torch.equal(step.parameters, start)


def test_a_length_within_the_limit_that_makes_the_loss_worse_is_refused() -> None:
    """Downhill for 0.05, then steeply up; the first length is 0.14."""
    start = torch.zeros(1, dtype=torch.float64)

    def objective(parameters: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.where(parameters < 0.05, -parameters, -0.05 + 10 * (parameters - 0.05)).sum()
        return loss, 0.5 * parameters.square().sum()

    step = trust_region_step(objective, start, CONFIG)
    lengths = [math.sqrt(0.02) * 0.8**n for n in range(15)]
    first_better = next(n for n, x in enumerate(lengths) if (-x if x < 0.05 else -0.05 + 10 * (x - 0.05)) < 0)
    assert (step.accepted, step.backtracks) == (True, first_better)
    assert float(step.parameters) == pytest.approx(lengths[first_better])


def test_values_that_are_not_numbers_are_refused() -> None:
    start = torch.zeros(2, dtype=torch.float64)

    def objective(parameters: Tensor) -> tuple[Tensor, Tensor]:
        moved = bool((parameters.detach() != 0).any())
        loss, kl = parameters.sum(), 0.5 * parameters.square().sum()
        return (loss * math.nan, kl) if moved else (loss, kl)

    assert not trust_region_step(objective, start, CONFIG).accepted


def test_without_a_gradient_there_is_no_step() -> None:
    """No episode was better than another."""
    start = torch.randn(3)
    step = trust_region_step(lambda p: (0.0 * p.sum(), 0.5 * (p - start).square().sum()), start, CONFIG)
    assert not step.accepted
    assert torch.equal(step.parameters, start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_kl": 0.0}, "max_kl is 0.0"),
        ({"backtracks": 0}, "backtracks is 0"),
        ({"backtrack_ratio": 1.5}, "backtrack_ratio is 1.5"),
        ({"damping": -1.0}, "damping is -1.0"),
    ],
)
def test_a_bad_configuration_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change).validate()
