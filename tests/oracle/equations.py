"""SiMPL's equations once more, in float64 and as plainly as they read: what ``algorithms/`` is held to.

Nothing is shared with ``algorithms/``: sets, heads and tasks go through one by one, Adam is written out, gradients are
torch's automatic ones of these plain products. Sources: Nam et al. 2022 (arXiv 2204.11828), sections 4.2 and 4.3 and
appendix E; Lee et al. 2019 (arXiv 1810.00825), equations 6 to 11; the order of an update is the released code's.

Weights are named tensors; ``<name>.W`` is (out, in), ``<name>.b`` (out,).
Axes: C context transition, B transition, D feature, E task embedding, Z skill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
HEADS = 4
MIN_SIGMA = 0.001


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))"""
    return torch.clamp(x, min=0.0) + torch.log1p(torch.exp(-torch.abs(x)))


def inverse_softplus(y: Tensor) -> Tensor:
    """log(exp(y) - 1)"""
    return torch.log(torch.expm1(y))


def gaussian_kl(mean: Tensor, sigma: Tensor, other_mean: Tensor, other_sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma), N(other_mean, other_sigma)), summed over the last axis."""
    each = torch.log(other_sigma / sigma) + (sigma**2 + (mean - other_mean) ** 2) / (2.0 * other_sigma**2) - 0.5
    return each.sum(-1)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.W"].T + weights[f"{name}.b"]


# -- networks --------------------------------------------------------------------------------------------------


def mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Layers ``<name>.0``, ``<name>.1``, ... with ReLU between them."""
    last = max(int(key.split(".")[1]) for key in weights if key.startswith(f"{name}."))
    for layer in range(last + 1):
        x = linear(weights, f"{name}.{layer}", x)
        x = torch.clamp(x, min=0.0) if layer < last else x
    return x


def attention(weights: Weights, name: str, queries: Tensor, elements: Tensor) -> Tensor:
    """MAB without layer norm: queries (Q, D) attend to elements (C, D)."""
    q, k, v = (linear(weights, f"{name}.{part}", x) for part, x in (("q", queries), ("k", elements), ("v", elements)))
    width = q.shape[1] // HEADS
    heads = []
    for head in range(HEADS):
        columns = slice(head * width, (head + 1) * width)
        scores = torch.exp(q[:, columns] @ k[:, columns].T / math.sqrt(q.shape[1]))
        weight = scores / scores.sum(1, keepdim=True)
        heads.append(q[:, columns] + weight @ v[:, columns])
    h = torch.cat(heads, dim=1)
    return h + torch.clamp(linear(weights, f"{name}.o", h), min=0.0)


def task_encoder(weights: Weights, context: Tensor) -> tuple[Tensor, Tensor]:
    """q(e given c): (mean (E,), sigma (E,)) of one context (C, D): ISAB, ISAB, PMA, two linear layers."""
    x = context
    for block in ("isab0", "isab1"):
        summary = attention(weights, f"{block}.summarise", weights[f"{block}.I"], x)
        x = attention(weights, f"{block}.spread", x, summary)
    pooled = attention(weights, "pma.pool", weights["pma.S"], x)[0]
    mean, raw = torch.chunk(mlp(weights, "enc", pooled), 2)
    return mean, MIN_SIGMA + softplus(raw + inverse_softplus(torch.ones((), dtype=raw.dtype)))


def residual_policy(output: Tensor, prior_mean: Tensor, prior_sigma: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Released (``softplus``) and paper (``exp``, E.1.3): the network's output (B, 2 Z) on top of the prior."""
    residual_mean, residual_sigma = torch.chunk(output, 2, dim=-1)
    if kind == "exp":
        sigma = torch.exp(torch.log(prior_sigma) + residual_sigma)
    else:
        sigma = MIN_SIGMA + softplus(inverse_softplus(prior_sigma) + residual_sigma)
    return prior_mean + residual_mean, sigma


# -- a transition batch of one task, and the losses on it ------------------------------------------------------


@dataclass(frozen=True)
class Transitions:
    """Of one task; the prior's (mean, sigma) is that of the frozen skill model at states and next states."""

    states: Tensor
    skills: Tensor
    rewards: Tensor
    dones: Tensor
    next_states: Tensor
    prior: tuple[Tensor, Tensor]
    next_prior: tuple[Tensor, Tensor]

    def take(self, index: Tensor) -> Transitions:
        """Those at ``index`` (B,)."""
        plain = (self.states, self.skills, self.rewards, self.dones, self.next_states)
        priors = (self.prior, self.next_prior)
        return Transitions(*(x[index] for x in plain), *((mean[index], sigma[index]) for mean, sigma in priors))

    def as_context(self) -> Tensor:
        """(C, D): state, skill, reward, done, next state."""
        return torch.cat(
            [self.states, self.skills, self.rewards[:, None], self.dones[:, None], self.next_states], dim=1
        )


def policy(
    weights: Weights, states: Tensor, e: Tensor, prior: tuple[Tensor, Tensor], kind: str
) -> tuple[Tensor, Tensor]:
    return residual_policy(mlp(weights, "policy", torch.cat([states, e], dim=1)), *prior, kind)


def q_value(weights: Weights, name: str, states: Tensor, e: Tensor, skills: Tensor) -> Tensor:
    return mlp(weights, name, torch.cat([states, e, skills], dim=1))[:, 0]


def td_target(
    weights: Weights, batch: Transitions, e: Tensor, alpha: Tensor, noise: Tensor, rule: Mapping[str, float], kind: str
) -> Tensor:
    """r + gamma (1 - done) (min Q'(s', z', e) - alpha min(KL, clip)), without gradient."""
    with torch.no_grad():
        mean, sigma = policy(weights, batch.next_states, e, batch.next_prior, kind)
        skills = mean + sigma * noise
        kl = torch.clamp(gaussian_kl(mean, sigma, *batch.next_prior), max=rule["kl_clip"])
        one, other = (q_value(weights, f"target{i}", batch.next_states, e, skills) for i in (0, 1))
        return batch.rewards + rule["discount"] * (1.0 - batch.dones) * (torch.minimum(one, other) - alpha * kl)


def critic_errors(weights: Weights, batch: Transitions, e: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error of each critic."""
    one, other = (((q_value(weights, f"q{i}", batch.states, e, batch.skills) - target) ** 2).mean() for i in (0, 1))
    return one, other


def policy_loss(
    weights: Weights, batch: Transitions, e: Tensor, alpha: Tensor, noise: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """(mean of alpha KL - min Q, mean KL); critics and e are constants."""
    mean, sigma = policy(weights, batch.states, e, batch.prior, kind)
    skills = mean + sigma * noise
    kl = gaussian_kl(mean, sigma, *batch.prior)
    one, other = (q_value(weights, f"q{i}", batch.states, e, skills) for i in (0, 1))
    return (alpha * kl - torch.minimum(one, other)).mean(), kl.detach().mean()


# -- what moves parameters -------------------------------------------------------------------------------------


@dataclass
class Adam:
    """Kingma and Ba 2015, algorithm 1, with the usual constants."""

    learning_rate: float
    updates: int = 0
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)

    def step(self, values: dict[str, Tensor], gradients: Weights) -> None:
        """Moves ``values`` in place of the dictionary."""
        self.updates += 1
        for name, gradient in gradients.items():
            zero = torch.zeros_like(gradient)
            self.first[name] = 0.9 * self.first.get(name, zero) + 0.1 * gradient
            self.second[name] = 0.999 * self.second.get(name, zero) + 0.001 * gradient**2
            first = self.first[name] / (1.0 - 0.9**self.updates)
            second = self.second[name] / (1.0 - 0.999**self.updates)
            values[name] = values[name] - self.learning_rate * first / (torch.sqrt(second) + 1e-8)


@dataclass
class DualVariable:
    """alpha = softplus(raw), by gradient descent on alpha (target - KL); ``only_grows``: gradients above 0 are 0."""

    raw: Tensor
    learning_rate: float
    only_grows: bool

    def __post_init__(self) -> None:
        self.adam = Adam(self.learning_rate)

    @property
    def alpha(self) -> Tensor:
        return softplus(self.raw)

    def step(self, excess: Tensor) -> None:
        """``excess`` = KL - target."""
        gradient = -excess / (1.0 + torch.exp(-self.raw))
        values = {"raw": self.raw}
        self.adam.step(values, {"raw": torch.clamp(gradient, max=0.0) if self.only_grows else gradient})
        self.raw = values["raw"]


def gradients(loss: Tensor, weights: Weights, prefixes: Sequence[str]) -> dict[str, Tensor]:
    chosen = {name: weight for name, weight in weights.items() if name.split(".")[0] in prefixes}
    found = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
    pairs = zip(chosen.items(), found, strict=True)
    return {name: torch.zeros_like(weight) if each is None else each for (name, weight), each in pairs}


def with_gradients(weights: Weights) -> dict[str, Tensor]:
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def move_targets(weights: dict[str, Tensor], rate: float) -> None:
    """target <- rate critic + (1 - rate) target"""
    for name in [name for name in weights if name.startswith("target")]:
        critic = weights[name.replace("target", "q")]
        weights[name] = rate * critic + (1.0 - rate) * weights[name]


ENCODER, CRITICS = ("isab0", "isab1", "pma", "enc"), ("q0", "q1")

# -- one update of meta-training -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContextSet:
    """One context set of an update, and the critics' batch of the same task."""

    task: int
    is_small: bool
    context: Tensor
    batch: Transitions
    e_noise: Tensor
    target_noise: Tensor
    policy_noise: Tensor


@dataclass
class MetaTrainer:
    """Section 4.2 in the order of the released code."""

    weights: dict[str, Tensor]
    rule: Mapping[str, float]
    policy_duals: dict[bool, DualVariable]
    """By whether the context is small."""
    small_encoder_dual: DualVariable
    encoder_duals: DualVariable
    """One for each training task, large contexts."""

    def __post_init__(self) -> None:
        self.critic_adam, self.policy_adam = Adam(self.rule["learning_rate"]), Adam(self.rule["learning_rate"])

    def update(self, sets: Sequence[ContextSet]) -> None:
        rule, weights = self.rule, with_gradients(self.weights)
        alphas = [self.policy_duals[one.is_small].alpha for one in sets]
        betas = [self.small_encoder_dual.alpha if s.is_small else self.encoder_duals.alpha[s.task] for s in sets]
        losses, kls, embeddings = [], [], []
        for one, alpha, beta in zip(sets, alphas, betas, strict=True):
            mean, sigma = task_encoder(weights, one.context)
            e = mean + sigma * one.e_noise  # drawn for each transition
            target = td_target(weights, one.batch, e, alpha, one.target_noise, rule, "softplus")
            first, second = critic_errors(weights, one.batch, e, target)
            kl = gaussian_kl(mean, sigma, torch.zeros_like(mean), torch.ones_like(sigma))
            losses.append((first + second) / 2.0 + beta * kl)
            kls.append(kl.detach())
            embeddings.append(e.detach())
        loss = torch.stack(losses).mean()
        self.critic_adam.step(self.weights, gradients(loss, weights, ENCODER + CRITICS))
        self.weights = {name: weight.detach() for name, weight in self.weights.items()}
        move_targets(self.weights, rule["target_rate"])
        self._raise_encoder_duals(sets, kls)

        weights = with_gradients(self.weights)
        terms = [
            policy_loss(weights, one.batch, e, alpha, one.policy_noise, "softplus")
            for one, e, alpha in zip(sets, embeddings, alphas, strict=True)
        ]
        loss = torch.stack([each for each, _ in terms]).mean()
        self.policy_adam.step(self.weights, gradients(loss, weights, ("policy",)))
        self.weights = {name: weight.detach() for name, weight in self.weights.items()}
        for is_small, name in ((True, "small"), (False, "large")):
            of_size = torch.stack([kl for one, (_, kl) in zip(sets, terms, strict=True) if one.is_small == is_small])
            self.policy_duals[is_small].step(of_size.mean() - rule[f"{name}_target_kl"])

    def _raise_encoder_duals(self, sets: Sequence[ContextSet], kls: Sequence[Tensor]) -> None:
        """The mean over all sets of a size of coefficient (target - KL), by each coefficient."""
        small = [kl - self.rule["small_encoder_target_kl"] for one, kl in zip(sets, kls, strict=True) if one.is_small]
        self.small_encoder_dual.step(torch.stack(small).mean())
        excess = torch.zeros_like(self.encoder_duals.raw)
        large = [(one.task, kl) for one, kl in zip(sets, kls, strict=True) if not one.is_small]
        for task, kl in large:
            excess[task] += (kl - self.rule["large_encoder_target_kl"]) / len(large)
        self.encoder_duals.step(excess)


# -- one update on a target task -------------------------------------------------------------------------------


@dataclass
class FineTuner:
    """Section 4.3: from meta-trained weights, e* and alpha. Target critics start as copies of the critics."""

    weights: dict[str, Tensor]
    e: Tensor
    rule: Mapping[str, float]
    dual: DualVariable

    def __post_init__(self) -> None:
        self.critic_adam, self.policy_adam = Adam(self.rule["learning_rate"]), Adam(self.rule["learning_rate"])
        for name in [name for name in self.weights if name.startswith("target")]:
            self.weights[name] = self.weights[name.replace("target", "q")]

    def update(self, batch: Transitions, target_noise: Tensor, policy_noise: Tensor) -> None:
        alpha, e = self.dual.alpha, self.e.expand(len(batch.states), -1)
        weights = with_gradients(self.weights)
        target = td_target(weights, batch, e, alpha, target_noise, self.rule, "softplus")
        moved = {}
        for critic, error in zip(CRITICS, critic_errors(weights, batch, e, target), strict=True):
            moved |= gradients(error, weights, (critic,))  # each learns from its own full error
        self.critic_adam.step(self.weights, moved)
        self.weights = {name: weight.detach() for name, weight in self.weights.items()}
        move_targets(self.weights, self.rule["target_rate"])

        weights = with_gradients(self.weights)
        loss, kl = policy_loss(weights, batch, e, alpha, policy_noise, "softplus")
        self.policy_adam.step(self.weights, gradients(loss, weights, ("policy",)))
        self.weights = {name: weight.detach() for name, weight in self.weights.items()}
        self.dual.step(kl - self.rule["target_kl"])


# -- an episode as skill transitions ---------------------------------------------------------------------------


def skill_transitions(rewards: Sequence[float], terminates: bool, skill_length: int) -> list[dict[str, float]]:
    """Of an episode with these rewards, one for each env_step: which env_steps a transition joins, the undiscounted sum
    of its rewards, and whether the episode terminated within it; a time-out is no termination."""
    found = []
    for first in range(0, len(rewards), skill_length):
        last = min(first + skill_length, len(rewards))
        done = terminates and last == len(rewards)
        found.append({"from": first, "to": last, "reward": sum(rewards[first:last]), "done": float(done)})
    return found
