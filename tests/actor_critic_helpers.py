"""Small stacks of regularised actor-critics, transitions for them, and what they compute written again in numpy.

Axes: M model copy, B batch, D feature, E task embedding, Z skill.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.networks import Gaussian, StackedMLP, torch_generator
from algorithms.regularized_sac import (
    ActorCriticConfig,
    SkillActorCritic,
)
from algorithms.transitions import TransitionBatch

COPIES, BATCH, STATE_DIM, EMBEDDING_DIM, LATENT_DIM = 2, 6, 4, 3, 2
CONFIG = ActorCriticConfig(hidden_dim=8, hidden_layers=2)
EXP_CONFIG = dataclasses.replace(CONFIG, sigma_parametrization="exp")

Array = NDArray[np.float64]


def fresh_networks(config: ActorCriticConfig = CONFIG, copies: int = COPIES) -> SkillActorCritic:
    return SkillActorCritic(config, STATE_DIM, LATENT_DIM, EMBEDDING_DIM, copies, torch_generator(0, "test"))


def trained_networks(config: ActorCriticConfig = CONFIG, copies: int = COPIES) -> SkillActorCritic:
    """As they are after some training: no zero layer, and targets that differ from the critics."""
    networks = fresh_networks(config, copies)
    with torch.no_grad():
        for network in (networks.policy, networks.target_critics):
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return networks


def random_prior(shape: tuple[int, ...]) -> Gaussian:
    return Gaussian(torch.randn(*shape, LATENT_DIM), torch.rand(*shape, LATENT_DIM) + 0.3)


def random_batch(copies: int = COPIES, dones: Tensor | None = None) -> TransitionBatch:
    """One skill ahead at discount 0.9; about every third transition is a termination."""
    shape = (copies, BATCH)
    if dones is None:
        dones = (torch.rand(*shape, 1) < 0.4).float()
    return TransitionBatch(
        states=torch.randn(*shape, STATE_DIM),
        skills=torch.randn(*shape, LATENT_DIM),
        td_rewards=torch.randn(*shape, 1),
        td_discounts=0.9 * (1 - dones),
        td_states=torch.randn(*shape, STATE_DIM),
        prior=random_prior(shape),
        td_prior=random_prior(shape),
        task_embeddings=torch.randn(*shape, EMBEDDING_DIM),
        views=torch.zeros(*shape, 0),
        td_views=torch.zeros(*shape, 0),
    )


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


# -- the same in numpy, one copy and one network at a time --------------------------------------------


def numpy_mlp(stack: StackedMLP, copy: int, inputs: Array) -> Array:
    """(B, in_dim) -> (B, out_dim) of one copy."""
    parameters = [array(parameter)[copy] for parameter in stack.parameters()]
    hidden = inputs
    for layer, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        hidden = hidden @ weight + bias
        if layer + 1 < len(parameters) // 2:
            hidden = np.maximum(hidden, 0.0)
    return hidden


def numpy_policy(
    networks: SkillActorCritic, copy: int, states: Tensor, e: Tensor, prior: Gaussian
) -> tuple[Array, Array]:
    """(mean, sigma), by the paper's or the released formula."""
    output = numpy_mlp(networks.policy, copy, np.concatenate([array(states[copy]), array(e[copy])], axis=1))
    mean_residual, sigma_residual = np.split(output, 2, axis=1)
    prior_sigma = array(prior.sigma[copy])
    if networks.config.sigma_parametrization == "exp":
        sigma = np.exp(np.log(prior_sigma) + sigma_residual)
    else:
        sigma = 0.001 + np.log1p(np.exp(np.log(np.expm1(prior_sigma)) + sigma_residual))
    return array(prior.mean[copy]) + mean_residual, sigma


def numpy_q(critics: StackedMLP, copy: int, states: Tensor, e: Tensor, skills: Array) -> Array:
    """Both critics' values (2, B): those of copy i are networks 2 i and 2 i + 1 of the stack."""
    inputs = np.concatenate([array(states[copy]), array(e[copy]), skills], axis=1)
    return np.stack([numpy_mlp(critics, 2 * copy + critic, inputs)[:, 0] for critic in range(2)])


def numpy_kl(mean: Array, sigma: Array, prior: Gaussian, copy: int) -> Array:
    prior_mean, prior_sigma = array(prior.mean[copy]), array(prior.sigma[copy])
    per_dim = np.log(prior_sigma / sigma) + (sigma**2 + (mean - prior_mean) ** 2) / (2 * prior_sigma**2) - 0.5
    return np.asarray(per_dim.sum(-1))
