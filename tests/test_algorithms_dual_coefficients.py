"""Dual coefficients: gradient towards a target divergence, against Adam in numpy, and growing only as released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from algorithms.policy_heads import CoefficientKind, ResidualHead, SquashedHead
from algorithms.regularized_sac import DualCoefficients

Array = NDArray[np.float64]


def test_coefficients_start_at_their_initial_values() -> None:
    initial = torch.tensor([3e-6, 1e-3, 0.05, 30.0])
    coefficients = DualCoefficients(initial, 3e-4)
    torch.testing.assert_close(coefficients.values, initial, rtol=1e-5, atol=0)
    assert not coefficients.values.requires_grad


class NumpyAdam:
    """Adam (0.9, 0.999, 1e-8) of Kingma and Ba on the dual objective, its gradient by finite differences."""

    def __init__(self, initial: Array, learning_rate: float, growing_only: bool, kind: str = "softplus") -> None:
        self.raw = np.log(np.expm1(initial)) if kind == "softplus" else np.log(initial)
        self.learning_rate, self.growing_only, self.kind = learning_rate, growing_only, kind
        self.first, self.second, self.steps = np.zeros_like(initial), np.zeros_like(initial), 0

    @property
    def values(self) -> Array:
        return np.asarray(np.log1p(np.exp(self.raw)) if self.kind == "softplus" else np.exp(self.raw))

    def update(self, excess: Array) -> None:
        def objective(raw: Array) -> Array:  # minimised: alpha (target - divergence), or log alpha times that
            return np.asarray(-(np.log1p(np.exp(raw)) if self.kind == "softplus" else raw) * excess)

        gradient = (objective(self.raw + 1e-5) - objective(self.raw - 1e-5)) / 2e-5
        if self.growing_only:
            gradient = np.minimum(gradient, 0.0)
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.raw = self.raw - self.learning_rate * first / (np.sqrt(second) + 1e-8)


@pytest.mark.parametrize(
    ("growing_only", "kind"), [(True, "softplus"), (False, "softplus"), (False, "exponential"), (True, "exponential")]
)
def test_coefficients_follow_adam_on_the_dual_objective(growing_only: bool, kind: CoefficientKind) -> None:
    initial = np.array([0.05, 0.5, 2.0])
    coefficients = DualCoefficients(torch.tensor(initial), 0.01, growing_only, kind)
    reference = NumpyAdam(initial, 0.01, growing_only, kind)
    rng = np.random.default_rng(0)
    for _ in range(40):
        excess = rng.normal(0.2, 1.0, 3)
        coefficients.update(torch.tensor(excess, dtype=torch.float32))
        reference.update(excess)
        np.testing.assert_allclose(coefficients.values.numpy(), reference.values, rtol=1e-4)


@pytest.mark.parametrize(("rate", "updates"), [(1e-3, 4605), (5e-3, 921)])
def test_an_exponential_falls_to_a_hundredth_in_log_100_over_rate_updates(rate: float, updates: int) -> None:
    """Under a gradient that stays the same Adam's steps are of ``rate`` exactly, and they are steps of log alpha: from
    0.1 to 0.001 it takes log 100 / rate. That is SAC's released code; a softplus is far behind by then."""
    coefficients = {
        kind: DualCoefficients(torch.tensor([0.1]), rate, False, kind) for kind in ("exponential", "softplus")
    }
    for update in range(1, updates + 1):
        for each in coefficients.values():
            each.update(torch.tensor([-1.7]))
        if update % 300 == 0:
            assert float(coefficients["exponential"].values) == pytest.approx(0.1 * np.exp(-rate * update), rel=1e-3)
    assert float(coefficients["exponential"].values) == pytest.approx(1e-3, rel=2e-3)
    assert float(coefficients["softplus"].values) > 5e-3


def test_each_head_keeps_alpha_as_its_source_does() -> None:
    """Released SPiRL and SiMPL: softplus; SAC: log alpha."""
    assert (ResidualHead("softplus").coefficient, SquashedHead().coefficient) == ("softplus", "exponential")


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
