"""A skill prior of any shape: a normalising flow from N(0, I), conditioned on what is seen of the state.

SiMPL (Nam et al. 2022, arXiv 2204.11828, appendix C) suggests it where the Gaussian prior is too narrow-minded: at a
junction it has one mean, between the ways. Real NVP (Dinh et al. 2017, arXiv 1605.08803):

    w = C_n( ... C_1(u; s) ... ; s),   u ~ N(0, I)         C_i: x_b <- x_b exp(scale_i(x_a, s)) + shift_i(x_a, s)
    z = mean(s) + sigma(s) w                               the Gaussian prior, where all C_i are the identity
    log p(z given s) = log N(u; 0, I) - log |det dz/du|

The halves (a, b) change places from one C_i to the next; |scale| stays below 2. The flow starts as the Gaussian.

Choosing skills under it. KL(policy, prior) has no closed form in z, but it is the same in any coordinates. So a
high-level policy chooses u instead: there the prior is N(0, I) exactly, a Gaussian policy's KL is closed, and the skill
is z(u, s) at the state where it begins. What such a policy can do is then the flow's image of a Gaussian, and critics
see u: with this prior, "a skill" outside the skill model means u.

Axes: B batch, I what is seen of a state, Z latent dimension, H hidden.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.networks import BatchNormMLP, Gaussian

COUPLINGS = 6
"""C_i (SPiRL's unused flow prior: as many as its prior has layers, 6)."""
MAX_SCALE = 2.0
"""Bound of log scales within one coupling (ours)."""


class FlowPrior(nn.Module):
    """p(z given s): ``skills`` and ``base`` are each other's inverse at a given state."""

    def __init__(
        self, seen_dim: int, hidden_dim: int, hidden_layers: int, latent_dim: int, log_sigma_clamp: tuple[float, float]
    ) -> None:
        super().__init__()
        self.latent_dim, self.log_sigma_clamp = latent_dim, log_sigma_clamp
        self.trunk = BatchNormMLP(seen_dim, hidden_dim, hidden_layers, 2 * latent_dim + hidden_dim)
        self.halves = (latent_dim // 2, latent_dim - latent_dim // 2)
        self.first = nn.ModuleList()
        self.second = nn.ModuleList()
        for coupling in range(COUPLINGS):
            given, moved = self._split_dims(coupling)
            self.first.append(nn.Linear(given + hidden_dim, hidden_dim))
            last = nn.Linear(hidden_dim, 2 * moved)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.second.append(last)

    def _split_dims(self, coupling: int) -> tuple[int, int]:
        """Dimensions (a, b) of a coupling: the leading ones are given in even couplings, the trailing in odd ones."""
        return self.halves if coupling % 2 == 0 else (self.halves[1], self.halves[0])

    def _condition(self, seen: Tensor) -> tuple[Gaussian, Tensor]:
        """The Gaussian to start from (B, Z), and what the couplings are told of the state (B, H)."""
        dims = [self.latent_dim, self.latent_dim, self.trunk.head.out_features - 2 * self.latent_dim]
        mean, log_sigma, condition = self.trunk(seen).split(dims, dim=-1)
        return Gaussian(mean, log_sigma.clamp(*self.log_sigma_clamp).exp()), F.leaky_relu(condition, 0.2)

    def _scale_and_shift(self, coupling: int, given: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.leaky_relu(self.first[coupling](torch.cat([given, condition], dim=-1)), 0.2)
        scale, shift = self.second[coupling](hidden).chunk(2, dim=-1)
        return MAX_SCALE * torch.tanh(scale / MAX_SCALE), shift

    def _parts(self, coupling: int, x: Tensor) -> tuple[Tensor, Tensor]:
        given, moved = self._split_dims(coupling)
        if coupling % 2 == 0:
            return x[..., :given], x[..., given:]
        return x[..., moved:], x[..., :moved]

    @staticmethod
    def _whole(coupling: int, given: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([given, moved] if coupling % 2 == 0 else [moved, given], dim=-1)

    def skills(self, seen: Tensor, base: Tensor) -> Tensor:
        """z(u, s): (B, I), (B, Z) -> (B, Z)."""
        gaussian, condition = self._condition(seen)
        x = base
        for coupling in range(COUPLINGS):
            given, moved = self._parts(coupling, x)
            scale, shift = self._scale_and_shift(coupling, given, condition)
            x = self._whole(coupling, given, moved * scale.exp() + shift)
        return gaussian.sample(x)

    def base(self, seen: Tensor, skills: Tensor) -> tuple[Tensor, Tensor]:
        """(u (B, Z), log |det du/dz| (B,)) of z (B, Z) at states seen as (B, I)."""
        gaussian, condition = self._condition(seen)
        x = (skills - gaussian.mean) / gaussian.sigma
        log_det = -gaussian.sigma.log().sum(-1)
        for coupling in reversed(range(COUPLINGS)):
            given, moved = self._parts(coupling, x)
            scale, shift = self._scale_and_shift(coupling, given, condition)
            x = self._whole(coupling, given, (moved - shift) * torch.exp(-scale))
            log_det = log_det - scale.sum(-1)
        return x, log_det

    def negative_log_likelihood(self, seen: Tensor, skills: Tensor) -> Tensor:
        """-log p(z given s), in nats: (B, I), (B, Z) -> (B,)."""
        base, log_det = self.base(seen, skills)
        constant = 0.5 * self.latent_dim * math.log(2 * math.pi)
        return 0.5 * base.square().sum(-1) + constant - log_det
