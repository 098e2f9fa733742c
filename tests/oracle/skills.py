"""The skill model's equations once more, in float64 and as plainly as they read, and the item made of them.

Nothing is shared with ``algorithms/``. Sources: Pertsch et al. 2020 (arXiv 2010.11944) and its released code, closed
loop: a recurrent posterior, a low-level policy and a prior with batch norm, half the squared error, means over all
axes but for the prior's sum over z; gradients cut to a norm at first; RAdam (Liu et al. 2020, arXiv 1908.03265).

Axes: B crop, K env_step, D state, A action, Z skill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weights = Mapping[str, Tensor]
Arrays = dict[str, NDArray[Any]]
SLOPE, EPSILON, MOMENTUM = 0.2, 1e-5, 0.1
"""Of LeakyReLU and of batch norm."""
UPDATES, CLIPPED_UPDATES, CLIP, RATE, KL_WEIGHT = 8, 3, 1e-3, 1e-2, 0.03
CROPS, STEPS, STATE, ACTION, SKILL, HIDDEN, NARROW, BLOCKS = 5, 4, 3, 2, 2, 6, 4, 2


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.W"].T
    return y + weights[f"{name}.b"] if f"{name}.b" in weights else y


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, SLOPE * x)


def predictor(weights: Weights, statistics: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """An input layer, blocks of linear and batch norm, a head; moves the running ``statistics``."""
    x = leaky(linear(weights, f"{name}.in", x))
    for block in range(BLOCKS):
        x = linear(weights, f"{name}.{block}", x)
        mean = x.sum(0) / len(x)
        variance = ((x - mean) ** 2).sum(0) / len(x)
        for kind, now in (("mean", mean), ("var", variance * len(x) / (len(x) - 1))):
            key = f"{name}.{block}.{kind}"
            statistics[key] = (1 - MOMENTUM) * statistics[key] + MOMENTUM * now.detach()
        scale, shift = weights[f"{name}.{block}.g"], weights[f"{name}.{block}.s"]
        x = leaky((x - mean) / torch.sqrt(variance + EPSILON) * scale + shift)
    return linear(weights, f"{name}.out", x)


def gaussian(output: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, sigma) of (..., 2 Z), log sigma within [-10, 2]."""
    mean, log_sigma = output[..., :SKILL], output[..., SKILL:]
    return mean, torch.exp(torch.clamp(log_sigma, -10.0, 2.0))


def posterior(weights: Weights, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """q(z given s, a): linear, LSTM cell, then linear and linear of its last output."""
    h = c = torch.zeros((len(states), HIDDEN), dtype=states.dtype)
    for k in range(states.shape[1]):
        x = linear(weights, "q.in", torch.cat([actions[:, k], states[:, k]], dim=1))
        gates = linear(weights, "q.x", x) + linear(weights, "q.h", h)
        i, f, g, o = (gates[:, n * HIDDEN : (n + 1) * HIDDEN] for n in range(4))
        i, f, o = (1.0 / (1.0 + torch.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * torch.tanh(g)
        h = o * torch.tanh(c)
    return gaussian(linear(weights, "q.out", linear(weights, "q.narrow", h)))


def losses(
    weights: Weights, statistics: dict[str, Tensor], states: Tensor, actions: Tensor, noise: Tensor
) -> dict[str, Tensor]:
    """Equation 3 and the prior's: reconstruction, KL, prior, and what is minimised."""
    mean, sigma = posterior(weights, states, actions)
    z = mean + sigma * noise
    rows = torch.cat([torch.cat([states[b, k], z[b]])[None] for b in range(len(states)) for k in range(STEPS)])
    decoded = predictor(weights, statistics, "pi", rows).reshape(len(states), STEPS, ACTION)
    reconstruction = ((decoded - actions) ** 2 / 2).sum() / actions.numel()
    kl = (0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)).sum() / mean.numel()
    prior_mean, prior_sigma = gaussian(predictor(weights, statistics, "p", states[:, 0]))
    each = 0.5 * ((z.detach() - prior_mean) / prior_sigma) ** 2 + torch.log(prior_sigma) + 0.5 * math.log(2 * math.pi)
    prior = each.sum() / len(states)
    return {"reconstruction": reconstruction, "kl": kl, "prior": prior,
            "total": reconstruction + KL_WEIGHT * kl + prior}  # fmt: skip


@dataclass
class RAdam:
    """Liu et al. 2020, algorithm 2, with the usual constants."""

    updates: int = 0
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)

    def step(self, values: dict[str, Tensor], gradients: Weights) -> None:
        """Moves ``values`` in place of the dictionary."""
        self.updates += 1
        t, longest = self.updates, 2.0 / (1.0 - 0.999) - 1.0
        length = longest - 2.0 * t * 0.999**t / (1.0 - 0.999**t)
        for name, gradient in gradients.items():
            zero = torch.zeros_like(gradient)
            self.first[name] = 0.9 * self.first.get(name, zero) + 0.1 * gradient
            self.second[name] = 0.999 * self.second.get(name, zero) + 0.001 * gradient**2
            first = self.first[name] / (1.0 - 0.9**t)
            if length > 5.0:
                rectify = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
                adaptive = math.sqrt(1.0 - 0.999**t) / (torch.sqrt(self.second[name]) + 1e-8)
                values[name] = values[name] - RATE * rectify * first * adaptive
            else:
                values[name] = values[name] - RATE * first


def train(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Eight updates: the losses before each, and the weights and running statistics in the end."""
    weights = {name.removeprefix("w."): value for name, value in inputs.items() if name.startswith("w.")}
    statistics = {name.removeprefix("stat."): value for name, value in inputs.items() if name.startswith("stat.")}
    optimizer, told = RAdam(), []
    for update in range(UPDATES):
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        found = losses(leaves, statistics, *(inputs[name][update] for name in ("states", "actions", "noise")))
        names = list(leaves)
        gradients = dict(zip(names, torch.autograd.grad(found["total"], [leaves[n] for n in names]), strict=True))
        if update < CLIPPED_UPDATES:
            norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
            gradients = {name: gradient * min(1.0, CLIP / (norm + 1e-6)) for name, gradient in gradients.items()}
        optimizer.step(weights, gradients)
        told.append(torch.stack([found[name].detach() for name in ("reconstruction", "kl", "prior", "total")]))
    return (
        {"losses": torch.stack(told)}
        | {f"w.{n}": v for n, v in weights.items()}
        | {f"stat.{n}": v for n, v in statistics.items()}
    )


def draw(rng: np.random.Generator) -> Arrays:
    """Weights, running statistics, and a batch for each update."""
    found: Arrays = {}

    def layer(name: str, in_dim: int, out_dim: int, bias: bool = True) -> None:
        found[f"w.{name}.W"] = rng.normal(size=(out_dim, in_dim)) / np.sqrt(in_dim)
        if bias:
            found[f"w.{name}.b"] = rng.normal(size=out_dim) * 0.3

    layer("q.in", ACTION + STATE, HIDDEN)
    layer("q.x", HIDDEN, 4 * HIDDEN)
    layer("q.h", HIDDEN, 4 * HIDDEN)
    layer("q.narrow", HIDDEN, NARROW)
    layer("q.out", NARROW, 2 * SKILL)
    for name, in_dim, out_dim in (("pi", STATE + SKILL, ACTION), ("p", STATE, 2 * SKILL)):
        layer(f"{name}.in", in_dim, HIDDEN)
        for block in range(BLOCKS):
            layer(f"{name}.{block}", HIDDEN, HIDDEN, bias=False)
            found[f"w.{name}.{block}.g"] = rng.uniform(0.5, 1.5, HIDDEN)
            found[f"w.{name}.{block}.s"] = rng.normal(size=HIDDEN) * 0.3
            found[f"stat.{name}.{block}.mean"] = rng.normal(size=HIDDEN)
            found[f"stat.{name}.{block}.var"] = rng.uniform(0.5, 1.5, HIDDEN)
        layer(f"{name}.out", HIDDEN, out_dim)
    found["states"] = rng.normal(size=(UPDATES, CROPS, STEPS, STATE))
    found["actions"] = rng.uniform(-1, 1, (UPDATES, CROPS, STEPS, ACTION))
    found["noise"] = rng.normal(size=(UPDATES, CROPS, SKILL))
    return found


def write(path: Path) -> None:
    """The fixture, made anew: only where an equation was wrong here (``python -m tests.oracle.skills``)."""
    inputs = draw(np.random.default_rng(7))
    outputs = train({name: torch.from_numpy(value) for name, value in inputs.items()})
    arrays: dict[str, Any] = {f"in.{name}": value for name, value in inputs.items()}
    np.savez_compressed(path, **arrays, **{f"out.{name}": value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    write(Path(__file__).parent / "fixtures" / "skill_updates.npz")
