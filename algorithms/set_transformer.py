"""Permutation-invariant task encoder q(e given c): a Set Transformer (Lee et al. 2019, arXiv 1810.00825).

[2 x ISAB32 -> PMA1 -> MLP] as in SiMPL (appendix E.1.2; released code): 128 wide, 4 heads, no layer norm,
attention scaled by 1 / sqrt(128), projected queries added as residual; inducing points and seed start as the released
code's, and so does sigma, at 1.001.

Where a few queries attend to a large set (the first half of an ISAB, and the PMA), the key and value
projections are folded into the queries and the output:

    scores = (q Wq)(X Wk)^T = (q Wq Wk^T) X^T        output = A (X Wv) = (A X) Wv

which is the same function (the key bias cancels in the softmax, the value bias passes through because the
weights sum to one) at a fraction of the products and memory traffic. Sets are encoded a few at a time, so that
their activations stay in the cache.

Axes: S set, C context transition, D feature, H head, Q query.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.networks import MIN_SIGMA, Gaussian, full_precision, softplus_inverse


class AttentionBlock(nn.Module):
    """MAB(queries, set) = O + relu(O Wo), O = queries Wq + attention (Lee et al., equation 6, no layer norm)."""

    def __init__(self, query_dim: int, set_dim: int, hidden_dim: int, heads: int) -> None:
        super().__init__()
        if hidden_dim % heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.scale = hidden_dim**-0.5
        self.query = nn.Linear(query_dim, hidden_dim)
        self.key = nn.Linear(set_dim, hidden_dim)
        self.value = nn.Linear(set_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, hidden_dim)

    def few_queries(self, queries: Tensor, elements: Tensor) -> Tensor:
        """``queries`` (Q, D), shared by all sets, attend to ``elements`` (S, C, D): returns (S, Q, hidden)."""
        query_count, (sets, _, set_dim) = queries.shape[0], elements.shape
        projected = self.query(queries)  # (Q, hidden)
        by_head = projected.view(query_count, self.heads, -1).transpose(0, 1)  # (H, Q, hidden / H)
        key_weight = self.key.weight.view(self.heads, -1, set_dim)  # (H, hidden / H, D)
        folded = torch.bmm(by_head, key_weight).reshape(-1, set_dim) * self.scale  # (H Q, D)
        scores = torch.matmul(folded, elements.transpose(1, 2))  # (S, H Q, C)
        pooled = torch.bmm(torch.softmax(scores, dim=-1), elements)  # (S, H Q, D)
        value_weight = self.value.weight.view(self.heads, -1, set_dim).transpose(1, 2)  # (H, D, hidden / H)
        attended = torch.matmul(pooled.view(sets, self.heads, query_count, set_dim), value_weight)
        attended = attended.transpose(1, 2).reshape(sets, query_count, -1) + self.value.bias
        return self._residual(projected + attended)

    def many_queries(self, queries: Tensor, elements: Tensor) -> Tensor:
        """``queries`` (S, C, D) attend to the few ``elements`` (S, Q, D): returns (S, C, hidden)."""
        sets = queries.shape[0]

        def split(projected: Tensor) -> Tensor:
            return projected.view(sets, projected.shape[1], self.heads, -1).transpose(1, 2)

        projected = self.query(queries)
        # Two plain products: measured faster here than torch's fused attention, which is made for long key axes.
        scores = torch.matmul(split(projected), split(self.key(elements)).transpose(2, 3) * self.scale)
        attended = torch.matmul(torch.softmax(scores, dim=-1), split(self.value(elements)))
        return self._residual(projected + attended.transpose(1, 2).reshape(projected.shape))

    def _residual(self, hidden: Tensor) -> Tensor:
        return hidden + F.relu(self.output(hidden))


def learned_queries(count: int, dim: int) -> nn.Parameter:
    """(count, dim), xavier-uniform over the shape (1, count, dim), as in Lee et al.'s code: uniform within
    sqrt(6 / ((count + 1) dim)), since torch takes the last axis for a receptive field."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, count, dim))[0])


class InducedSetAttention(nn.Module):
    """ISAB: the set attends to its summary by ``inducing_points`` learned queries. (S, C, D) -> (S, C, hidden)."""

    def __init__(self, set_dim: int, hidden_dim: int, heads: int, inducing_points: int) -> None:
        super().__init__()
        self.inducing = learned_queries(inducing_points, hidden_dim)
        self.summarise = AttentionBlock(hidden_dim, set_dim, hidden_dim, heads)
        self.spread = AttentionBlock(set_dim, hidden_dim, hidden_dim, heads)

    def forward(self, elements: Tensor) -> Tensor:
        return self.spread.many_queries(elements, self.summarise.few_queries(self.inducing, elements))


class TaskEncoder(nn.Module):
    """q(e given c) = N(e; mu, sigma): contexts (S, C, D) of high-level transitions -> Gaussian of (S, E)."""

    def __init__(
        self,
        transition_dim: int,
        task_embedding_dim: int,
        hidden_dim: int = 128,
        heads: int = 4,
        inducing_points: int = 32,
        context_transitions_per_pass: int = 8192,
        output_layers: int = 2,
    ) -> None:
        """``output_layers``: linear layers after the pooling."""
        super().__init__()
        self.context_transitions_per_pass = context_transitions_per_pass
        self.blocks = nn.ModuleList(
            [
                InducedSetAttention(transition_dim, hidden_dim, heads, inducing_points),
                InducedSetAttention(hidden_dim, hidden_dim, heads, inducing_points),
            ]
        )
        self.seed = learned_queries(1, hidden_dim)
        self.pool = AttentionBlock(hidden_dim, hidden_dim, hidden_dim, heads)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(output_layers - 1))
        self.output = nn.Linear(hidden_dim, 2 * task_embedding_dim)

    def forward(self, contexts: Tensor) -> Gaussian:
        sets_per_pass = max(1, self.context_transitions_per_pass // contexts.shape[1])
        hidden = torch.cat([self._pool(chunk) for chunk in contexts.split(sets_per_pass)])
        for layer in self.hidden:
            hidden = F.relu(layer(hidden))
        mean, raw_sigma = full_precision(self.output(hidden)).chunk(2, dim=-1)
        offset = softplus_inverse(raw_sigma.new_tensor(1.0))  # sigma is 1.001 at raw_sigma = 0
        return Gaussian(mean, MIN_SIGMA + F.softplus(raw_sigma + offset))

    def _pool(self, contexts: Tensor) -> Tensor:
        elements = contexts
        for block in self.blocks:
            elements = block(elements)
        return self.pool.few_queries(self.seed, elements).squeeze(1)
