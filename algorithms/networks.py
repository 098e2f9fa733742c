"""Networks shared by the algorithms, and the diagonal Gaussian they speak in.

Axes: M model copy, B batch, D feature. A *stack* holds M independent networks of one shape in tensors with a
leading M axis, so that M learners cost one batched matrix product instead of M small ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.randomness import key_to_integer

SigmaParametrization = Literal["softplus", "exp"]

MIN_SIGMA = 0.001
"""Lower bound of a policy's and the task encoder's standard deviation (released SiMPL)."""


def torch_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for ``(seed, *key)``: drawn on the CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(key_to_integer(seed, *key) & (2**63 - 1))


class Gaussian(NamedTuple):
    """A diagonal Gaussian; ``mean`` and ``sigma`` have one shape (..., D)."""

    mean: Tensor
    sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample mean + sigma * noise, with ``noise`` from N(0, I) of shape (..., D)."""
        return self.mean + self.sigma * noise

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self, other) in nats, summed over D: shape (...)."""
        ratio = (self.sigma / other.sigma).square()
        distance = ((self.mean - other.mean) / other.sigma).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(-1)

    def kl_to_unit(self) -> Tensor:
        """KL(self, N(0, I)) in nats, summed over D: shape (...)."""
        variance = self.sigma.square()
        return 0.5 * (variance + self.mean.square() - 1.0 - variance.log()).sum(-1)

    def negative_log_likelihood(self, value: Tensor) -> Tensor:
        """-log density of ``value``, per dimension: shape (..., D)."""
        constant = 0.9189385332046727  # log(2 pi) / 2
        return 0.5 * ((value - self.mean) / self.sigma).square() + self.sigma.log() + constant

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.sigma.detach())


def full_precision(value: Tensor) -> Tensor:
    """As it is, or in float32 where autocast has lowered it to 16 bits."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def softplus_inverse(value: Tensor) -> Tensor:
    """x with softplus(x) = value, for value > 0; stable for small and large values."""
    return value + torch.log(-torch.expm1(-value))


class StandardisedModel(nn.Module):
    """A model of offline data that can scale states by their mean and deviation there (0 and 1 until set).

    A state is an observation (..., D), unless a subclass appends to it: see ``split``.
    """

    feature_dim: int = 0
    """Columns behind the observation in a state."""

    state_mean: Tensor
    state_sigma: Tensor

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.register_buffer("state_mean", torch.zeros(observation_dim))
        self.register_buffer("state_sigma", torch.ones(observation_dim))

    def standardise(self, states: Tensor) -> Tensor:
        """States (..., D), or their leading columns alone."""
        columns = states.shape[-1]
        return (states - self.state_mean[:columns]) / self.state_sigma[:columns]

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(what critics and task encoder see of states, what the high-level policy sees besides)."""
        return states, states[..., :0]


class StackedLinear(nn.Module):
    """M independent affine maps: (M, B, in_dim) -> (M, B, out_dim). Weights (M, in_dim, out_dim)."""

    def __init__(
        self, model_copies: int, in_dim: int, out_dim: int, generator: torch.Generator, zero_init: bool = False
    ) -> None:
        super().__init__()
        bound = 0.0 if zero_init else in_dim**-0.5  # the default of torch.nn.Linear
        weight = (torch.rand((model_copies, in_dim, out_dim), generator=generator) * 2 - 1) * bound
        bias = (torch.rand((model_copies, 1, out_dim), generator=generator) * 2 - 1) * bound
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, inputs: Tensor, frozen: bool = False) -> Tensor:
        """``frozen`` lets gradients pass to the inputs but not to the weights."""
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)
        if weight.shape[0] == 1:  # a plain product is faster than a batch of one
            return torch.addmm(bias[0, 0], inputs[0], weight[0]).unsqueeze(0)
        if weight.shape[2] == 1:  # a batched product with one column is slow in both directions
            return (inputs * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
        return torch.baddbmm(bias, inputs, weight)


class StackedMLP(nn.Module):
    """M independent ReLU networks: (M, B, in_dim) -> (M, B, out_dim)."""

    ROWS_PER_PASS = 4096
    """A larger batch goes through in parts, forward and backward, so that activations stay in the cache."""

    def __init__(
        self,
        model_copies: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        generator: torch.Generator,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        dims = [in_dim, *hidden_dims]
        layers = [StackedLinear(model_copies, a, b, generator) for a, b in itertools.pairwise(dims)]
        layers.append(StackedLinear(model_copies, dims[-1], out_dim, generator, zero_init=zero_output))
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor, frozen: bool = False) -> Tensor:
        passes = [self._forward(part, frozen) for part in inputs.split(self.ROWS_PER_PASS, dim=1)]
        return passes[0] if len(passes) == 1 else torch.cat(passes, dim=1)

    def _forward(self, inputs: Tensor, frozen: bool) -> Tensor:
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden, frozen), inplace=True)
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 would round values to 1 part in 256
            output: Tensor = self.layers[-1](full_precision(hidden), frozen)
        return output


class BatchNormMLP(nn.Module):
    """SPiRL's predictor: (B, in_dim) -> (B, out_dim).

    An input layer with LeakyReLU(0.2), ``blocks`` of linear, batch norm and LeakyReLU(0.2), and a linear head. SPiRL's
    ``num_layers`` counts the blocks alone. Weights start xavier-normal and biases at 0; a linear before a batch norm
    has no bias, which the norm would take away again (released code, all of it).
    """

    NEGATIVE_SLOPE = 0.2

    def __init__(self, in_dim: int, hidden_dim: int, blocks: int, out_dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(in_dim, hidden_dim)
        self.linears = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_dim) for _ in range(blocks))
        self.head = nn.Linear(hidden_dim, out_dim)
        for linear in (self.input, *self.linears, self.head):
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_normal_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.after_input(self.input(inputs))

    def after_input(self, hidden: Tensor) -> Tensor:
        """The rest of the network, from what its input layer makes of the inputs (B, hidden): (B, out_dim)."""
        hidden = F.leaky_relu(hidden, self.NEGATIVE_SLOPE)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            hidden = F.leaky_relu(norm(linear(hidden)), self.NEGATIVE_SLOPE, inplace=True)
        output: Tensor = self.head(hidden)
        return output

    @torch.no_grad()
    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """The network in evaluation mode as [(weight (in, out), bias (out,))]: batch norm folded into each linear."""
        layers = [(self.input.weight.t().contiguous(), self.input.bias.clone())]
        for linear, norm in zip(self.linears, self.norms, strict=True):
            assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            layers.append(((linear.weight * scale[:, None]).t().contiguous(), norm.bias - norm.running_mean * scale))
        layers.append((self.head.weight.t().contiguous(), self.head.bias.clone()))
        return [(weight.detach(), bias.detach()) for weight, bias in layers]


class FoldedMLP:
    """A frozen ``BatchNormMLP`` for acting: no gradients, buffers reused between calls.

    The returned tensor is overwritten by the next call with the same batch size.
    """

    def __init__(self, network: BatchNormMLP) -> None:
        self._layers = network.folded()
        self._buffers: dict[int, list[Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> Tensor:
        """(B, in_dim) -> (B, out_dim)"""
        batch = inputs.shape[0]
        if batch not in self._buffers:
            self._buffers[batch] = [inputs.new_empty((batch, bias.shape[0])) for _, bias in self._layers]
        hidden = inputs
        buffers = self._buffers[batch]
        for index, (weight, bias) in enumerate(self._layers):
            hidden = torch.addmm(bias, hidden, weight, out=buffers[index])
            if index + 1 < len(self._layers):
                F.leaky_relu_(hidden, BatchNormMLP.NEGATIVE_SLOPE)
        return hidden
