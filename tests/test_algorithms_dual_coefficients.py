"""Dual coefficients: gradient towards a target divergence, against Adam in numpy, and growing only as released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from algorithms.regularized_sac import DualCoefficients

Array = NDArray[np.float64]


def test_coefficients_start_at_their_initial_values() -> None:
    initial = torch.tensor([3e-6, 1e-3, 0.05, 30.0])
    coefficients = DualCoefficients(initial, 3e-4)
    torch.testing.assert_close(coefficients.values, initial, rtol=1e-5, atol=0)
    assert not coefficients.values.requires_grad


class NumpyAdam:
    """Adam (0.9, 0.999, 1e-8) of Kingma and Ba on the dual objective, its gradient by finite differences."""

    def __init__(self, initial: Array, learning_rate: float, growing_only: bool) -> None:
        self.raw = np.log(np.expm1(initial))
        self.learning_rate, self.growing_only = learning_rate, growing_only
        self.first, self.second, self.steps = np.zeros_like(initial), np.zeros_like(initial), 0

    @property
    def values(self) -> Array:
        return np.asarray(np.log1p(np.exp(self.raw)))

    def update(self, excess: Array) -> None:
        def objective(raw: Array) -> Array:  # minimised: alpha (target - divergence)
            return np.asarray(-np.log1p(np.exp(raw)) * excess)

        gradient = (objective(self.raw + 1e-5) - objective(self.raw - 1e-5)) / 2e-5
        if self.growing_only:
            gradient = np.minimum(gradient, 0.0)
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.raw = self.raw - self.learning_rate * first / (np.sqrt(second) + 1e-8)


@pytest.mark.parametrize("growing_only", [True, False])
def test_coefficients_follow_adam_on_the_dual_objective(growing_only: bool) -> None:
    initial = np.array([0.05, 0.5, 2.0])
    coefficients = DualCoefficients(torch.tensor(initial), 0.01, growing_only)
    reference = NumpyAdam(initial, 0.01, growing_only)
    rng = np.random.default_rng(0)
    for _ in range(40):
        excess = rng.normal(0.2, 1.0, 3)
        coefficients.update(torch.tensor(excess, dtype=torch.float32))
        reference.update(excess)
        np.testing.assert_allclose(coefficients.values.numpy(), reference.values, rtol=1e-4)


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_growing_coefficients_never_fall(excesses: list[float]) -> None:
    coefficients = DualCoefficients(torch.tensor([0.05]), 0.01)
    last = float(coefficients.values)
    for excess in excesses:
        coefficients.update(torch.tensor([excess]))
        assert float(coefficients.values) >= last
        last = float(coefficients.values)


def test_momentum_lifts_a_growing_coefficient_after_the_divergence_is_below_its_target() -> None:
    """Known of the released code, and kept: Adam's first moment outlives the clamped gradient."""
    coefficients = DualCoefficients(torch.tensor([0.05]), 0.01)
    for _ in range(5):
        coefficients.update(torch.tensor([1.0]))
    values = [float(coefficients.values)]
    for _ in range(60):
        coefficients.update(torch.tensor([-1.0]))
        values.append(float(coefficients.values))
    rises = np.diff(values)
    assert rises[0] > 0
    assert rises[-1] < 0.05 * rises[0], "and it dies away"
    assert values[-1] < values[0] * 1.5


@pytest.mark.parametrize("excess", [-1.0, 1.0])
def test_free_coefficients_follow_the_sign_of_the_excess(excess: float) -> None:
    coefficients = DualCoefficients(torch.tensor([0.05, 0.05]), 0.01, growing_only=False)
    coefficients.update(torch.tensor([excess, -excess]))
    moves = (coefficients.values - 0.05).sign().tolist()
    assert moves == [excess, -excess]


def test_an_unseen_coefficient_stays_where_it_never_moved() -> None:
    """Excess 0 stands for a task that is not in the batch."""
    coefficients = DualCoefficients(torch.tensor([0.05, 0.05]), 0.01)
    before = coefficients.values
    for _ in range(3):
        coefficients.update(torch.tensor([1.0, 0.0]))
    assert float(coefficients.values[0]) > float(before[0])
    assert float(coefficients.values[1]) == float(before[1])


def test_the_divergence_gets_no_gradient_from_its_coefficient() -> None:
    coefficients, divergence = DualCoefficients(torch.tensor([0.05]), 0.01), torch.ones(1, requires_grad=True)
    coefficients.update(divergence * 2 - 1)
    assert divergence.grad is None
