"""How the output of a policy network becomes a distribution over skills or actions, and what regularises it.

    residual head    N(mean_prior + residual, ...)     divergence = KL(pi, prior), in closed form
                     (SiMPL appendix E.1.3: SPiRL, SiMPL, MTRL over skills; BC+PEARL over actions)
    squashed head    tanh of a Gaussian, in (-1, 1)    divergence = log pi(a given s) of the sampled action
                     (SAC, Haarnoja et al. 2018, appendix C: SAC, PEARL)

Soft actor-critic subtracts alpha x divergence from the reward and tunes alpha to a target divergence. With the squashed
head the expected divergence is minus the entropy, so the target is minus the target entropy. How alpha is kept is the
head's, too, as the released codes have it: a softplus in SPiRL and SiMPL, an exponential in SAC.

Axes: M model copy, B batch, Z skill or action.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.networks import MIN_SIGMA, Gaussian, SigmaParametrization, softplus_inverse

MIN_LOG_SIGMA, MAX_LOG_SIGMA = -20.0, 2.0
"""Clamp of the squashed head's log sigma (released SAC)."""

CoefficientKind = Literal["softplus", "exponential"]
"""What alpha is of the parameter that the dual step moves: see ``regularized_sac.DualCoefficients``."""


class SquashedGaussian(NamedTuple):
    """tanh(u) with u from N(mean, sigma); ``mean`` and ``sigma`` (..., Z)."""

    mean: Tensor
    sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """tanh(mean + sigma * noise), with ``noise`` from N(0, I) of shape (..., Z)."""
        return torch.tanh(self.mean + self.sigma * noise)

    def log_probability(self, noise: Tensor) -> Tensor:
        """log density of ``sample(noise)``, summed over Z: shape (...). Stable where tanh saturates.

        log N(u) - log(1 - tanh(u)^2), the second term as 2 (log 2 - u - softplus(-2 u)).
        """
        before = self.mean + self.sigma * noise
        gaussian = -0.5 * noise.square() - self.sigma.log() - 0.5 * math.log(2 * math.pi)
        squash = 2.0 * (math.log(2.0) - before - F.softplus(-2.0 * before))
        return (gaussian - squash).sum(-1)


class PolicyHead(Protocol):
    """See the module's docstring."""

    zero_output: bool
    """The network's last layer starts at 0."""
    coefficient: CoefficientKind
    """How alpha is kept."""

    def lowest_divergence(self, latent_dim: int) -> float:
        """No policy has less in expectation: what a value can gain by it is bounded."""
        ...

    def policy(self, output: Tensor, prior: Gaussian) -> Gaussian | SquashedGaussian:
        """The distribution from the network's output (..., 2 Z)."""
        ...

    def divergence(self, policy: Gaussian | SquashedGaussian, prior: Gaussian, noise: Tensor) -> Tensor:
        """What is penalised (...): of the policy, or of its sample by ``noise`` (..., Z)."""
        ...


class ResidualHead:
    """A residual around the frozen prior.

    Where the network's last layer starts at 0, the policy starts at the prior: with its mean, and with its sigma
    (``exp``) or its sigma + 0.001 (``softplus``, in which 0.001 is the least sigma that there is).
    """

    coefficient: CoefficientKind = "softplus"

    def __init__(self, sigma_parametrization: SigmaParametrization, zero_output: bool = True) -> None:
        self._sigma_parametrization, self.zero_output = sigma_parametrization, zero_output

    def lowest_divergence(self, latent_dim: int) -> float:
        return 0.0

    def policy(self, output: Tensor, prior: Gaussian) -> Gaussian:
        return residual_gaussian(output, prior, self._sigma_parametrization)

    def divergence(self, policy: Gaussian | SquashedGaussian, prior: Gaussian, noise: Tensor) -> Tensor:
        assert isinstance(policy, Gaussian)
        return policy.kl(prior)


class SquashedHead:
    """tanh Gaussian; there is no prior."""

    zero_output = False
    coefficient: CoefficientKind = "exponential"

    def lowest_divergence(self, latent_dim: int) -> float:
        """Of the uniform distribution over (-1, 1) in each dimension: its density is 1/2."""
        return -latent_dim * math.log(2.0)

    def policy(self, output: Tensor, prior: Gaussian) -> SquashedGaussian:
        mean, log_sigma = output.chunk(2, dim=-1)
        return SquashedGaussian(mean, log_sigma.clamp(MIN_LOG_SIGMA, MAX_LOG_SIGMA).exp())

    def divergence(self, policy: Gaussian | SquashedGaussian, prior: Gaussian, noise: Tensor) -> Tensor:
        assert isinstance(policy, SquashedGaussian)
        return policy.log_probability(noise)


def residual_gaussian(output: Tensor, prior: Gaussian, parametrization: SigmaParametrization) -> Gaussian:
    """The policy from its network's output (..., 2 Z): residuals to the prior's mean and (raw) sigma."""
    mean_residual, sigma_residual = output.chunk(2, dim=-1)
    mean = prior.mean + mean_residual
    if parametrization == "exp":
        return Gaussian(mean, prior.sigma * sigma_residual.exp())
    return Gaussian(mean, MIN_SIGMA + F.softplus(softplus_inverse(prior.sigma) + sigma_residual))
