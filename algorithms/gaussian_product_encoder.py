"""Permutation-invariant task encoder q(e given c) as a product of Gaussian factors, one for each context transition.

Rakelly et al. 2019 (PEARL, arXiv 1903.08254), section 4.1 and figure 1:

    q(e given c) ~ prod_n N(e; f_mu(c_n), f_sigma(c_n)),    which is N(e; mu, sigma^2) with
    1 / sigma^2 = sum_n 1 / sigma_n^2       mu = sigma^2 sum_n mu_n / sigma_n^2

Axes: S set, C context transition, D feature, E task embedding.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.networks import Gaussian, full_precision

MIN_VARIANCE = 1e-7
"""Of one factor (released PEARL)."""


class GaussianProductEncoder(nn.Module):
    """Contexts (S, C, D) -> Gaussian of (S, E)."""

    def __init__(self, transition_dim: int, task_embedding_dim: int, hidden_dim: int, hidden_layers: int) -> None:
        super().__init__()
        self.task_embedding_dim = task_embedding_dim
        dims = [transition_dim] + [hidden_dim] * hidden_layers + [2 * task_embedding_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))

    def factors(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each transition's factor: (S, C, E) each."""
        hidden = contexts
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        mean, raw_variance = full_precision(self.layers[-1](hidden)).chunk(2, dim=-1)
        return mean, F.softplus(raw_variance).clamp(min=MIN_VARIANCE)

    def forward(self, contexts: Tensor) -> Gaussian:
        """With no transition (C = 0) it is the prior N(0, I), as in released PEARL: a product of no factors is flat."""
        if contexts.shape[1] == 0:
            shape = (len(contexts), self.task_embedding_dim)
            return Gaussian(contexts.new_zeros(shape), contexts.new_ones(shape))
        return product_of_gaussians(*self.factors(contexts))


def product_of_gaussians(means: Tensor, variances: Tensor) -> Gaussian:
    """Normalised product over the second axis: (S, C, E) each -> (S, E)."""
    precisions = 1.0 / variances
    variance = 1.0 / precisions.sum(1)
    return Gaussian(variance * (precisions * means).sum(1), torch.sqrt(variance))
