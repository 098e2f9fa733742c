"""One step of trust region policy optimisation: Schulman et al. 2015 (arXiv 1502.05477), appendix C.

    min L(x)   subject to   KL(x) <= max_kl,      with KL(x_old) = 0 its minimum

    direction   d = -(H + damping I)^-1 g,  by conjugate gradients;  g = grad L, H = hessian of KL, both at x_old
    length      sqrt(2 max_kl / d H d): where the quadratic model of the KL reaches the limit
    line search the first of length * ratio^0, ratio^1, ... with L below L(x_old) *and* KL within the limit

H v is the gradient of (grad KL) . v: the graph of grad KL is kept, and each product is one backward pass through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.ranges import COUNT, FRACTION, RATE, WEIGHT, require_between

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Parameters as one vector (P,) -> (loss, mean KL to the policy as it was), both scalars."""


@dataclass(frozen=True)
class TrustRegionConfig:
    """The meta-update. Values: released MAML and rllab (Finn et al. 2017; Duan et al. 2016)."""

    max_kl: float = 0.01
    """Limit of the mean KL (released: 0.01)."""
    conjugate_gradient_rounds: int = 10
    """Products with the Hessian of the KL (rllab: 10)."""
    damping: float = 1e-5
    """Added to its diagonal (rllab: 1e-5)."""
    backtracks: int = 15
    """Lengths tried at most (rllab: 15)."""
    backtrack_ratio: float = 0.8
    """Each is this much of the one before (rllab: 0.8)."""

    def validate(self) -> None:
        require_between(self, WEIGHT, "max_kl")
        require_between(self, COUNT, "conjugate_gradient_rounds", "backtracks")
        require_between(self, FRACTION, "damping")
        require_between(self, RATE, "backtrack_ratio")


@dataclass(frozen=True)
class TrustRegionStep:
    """What came of it."""

    parameters: Tensor
    """(P,); the old ones where no length was accepted."""
    accepted: bool
    backtracks: int
    """Lengths refused."""
    kl: float
    """Of the accepted step; 0 where there is none."""
    loss_before: float
    loss_after: float


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], right_side: Tensor, rounds: int, tolerance: float = 1e-10
) -> Tensor:
    """x with ``product(x)`` = ``right_side`` for a positive definite map, from x = 0; ends early when it is exact."""
    solution = torch.zeros_like(right_side)
    residual = right_side.clone()
    direction = residual.clone()
    residual_square = residual @ residual
    for _ in range(rounds):
        if float(residual_square) < tolerance:
            break
        image = product(direction)
        length = residual_square / (direction @ image)
        solution += length * direction
        residual -= length * image
        next_square = residual @ residual
        direction = residual + next_square / residual_square * direction
        residual_square = next_square
    return solution


def hessian_product(scalar: Tensor, parameters: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """v -> (H + damping I) v with H the Hessian of ``scalar`` in ``parameters`` (P,), which ``scalar`` came from."""
    (gradient,) = torch.autograd.grad(scalar, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(gradient @ vector, parameters, retain_graph=True)
        return image + damping * vector

    return product


def trust_region_step(
    objective: Objective, parameters: Tensor, config: TrustRegionConfig, curvature_objective: Objective | None = None
) -> TrustRegionStep:
    """See the module's docstring. ``curvature_objective``, where given, is a cheaper one whose KL gives H instead: the
    direction and length are then estimates, and the line search keeps to the limit all the same."""
    old = parameters.detach().clone().requires_grad_()
    loss, kl = objective(old)
    (gradient,) = torch.autograd.grad(loss, old, retain_graph=True)
    loss_before = float(loss.detach())
    refused = TrustRegionStep(old.detach(), False, 0, 0.0, loss_before, loss_before)
    if not bool(gradient.any()):  # no episode was better than another: nothing to learn from
        return refused
    if curvature_objective is not None:
        _, kl = curvature_objective(old)
    product = hessian_product(kl, old, config.damping)
    direction = conjugate_gradient(product, -gradient, config.conjugate_gradient_rounds)
    curvature = direction @ product(direction)
    if not float(curvature) > 0:
        return refused
    full_step = direction * torch.sqrt(2 * config.max_kl / curvature)
    for backtracks in range(config.backtracks):
        candidate = old.detach() + config.backtrack_ratio**backtracks * full_step
        with torch.no_grad():
            loss, kl = objective(candidate)
        if float(loss) < loss_before and float(kl) <= config.max_kl:  # False for NaN
            return TrustRegionStep(candidate, True, backtracks, float(kl), loss_before, float(loss))
    return TrustRegionStep(old.detach(), False, config.backtracks, 0.0, loss_before, loss_before)
