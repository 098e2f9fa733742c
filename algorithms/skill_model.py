"""Skill extraction: SPiRL's skill model, learned from offline trajectories without rewards or task labels.

Pertsch, Lee, Lim 2020 (arXiv 2010.11944), as used by SiMPL (Nam et al. 2022, arXiv 2204.11828), section 4.1:

    encoder q(z given s_0:K, a_0:K-1)   low-level policy pi(a given s, z)   prior p(z given s_0)
    equation 3:   max  E_q [ sum_t log pi(a_t given s_t, z) ] - beta KL(q, N(0, I))
    prior:        min  KL(stopgrad q, p)

Closed loop: the low-level policy sees the current state at each env_step.

Differences from paper and released code
- The prior's loss is the released default, the negative log likelihood of the sampled z; ``prior_loss=kl`` is
  the paper's formula (equal up to a constant in expectation, with less variance).
- Every loss is a mean over all its axes, as in the released code: ``kl_weight`` means nothing with sums.
- States are standardised by the data's mean and deviation where ``standardise_states`` is on (off in ``paper``).

Axes: B batch, K env_steps of a skill, D feature, Z latent dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.files import load_tensors
from algorithms.networks import BatchNormMLP, Gaussian, StandardisedModel
from algorithms.ranges import COUNT, RATE, WEIGHT, require_between, require_log_sigma_clamp

SKILL_MODEL_FILE = "skill_model.pt"


@dataclass(frozen=True)
class SkillConfig:
    """Skill extraction. Values of the released SPiRL code for the maze unless a line says otherwise."""

    skill_length: int = 10
    """K, env_steps of one skill (paper and SPiRL: 10)."""
    latent_dim: int = 10
    """dim(z) (paper and SPiRL: 10)."""
    hidden_dim: int = 128
    """Width of every network (SPiRL: 128)."""
    decoder_layers: int = 3
    """Hidden layers of the low-level policy (SPiRL: maze 3, kitchen 5)."""
    prior_layers: int = 6
    """Hidden layers of the skill prior (SPiRL: 6)."""
    kl_weight: float = 1e-2
    """beta in equation 3 (SPiRL: maze 1e-2, kitchen 5e-4), with losses as means."""
    prior_loss: Literal["nll", "kl"] = "nll"
    """``nll``: released default, NLL of the sampled z; ``kl``: the paper's KL(stopgrad q, p)."""
    passes: int = 2000
    """Passes over the data, one random crop per trajectory each (SPiRL maze: 200 epochs x 10 passes)."""
    batch_size: int = 128
    """Crops per update (SPiRL: 128)."""
    learning_rate: float = 1e-3
    """RAdam (SPiRL: 1e-3)."""
    initial_gradient_norm: float = 1e-3
    """Gradient norm limit during the first ``clipped_updates`` (SPiRL: 0.001)."""
    clipped_updates: int = 100
    """Updates under that limit (SPiRL: 100)."""
    min_log_sigma: float = -10.0
    """Lower clamp of the prior's and encoder's log sigma (SPiRL: -10)."""
    max_log_sigma: float = 2.0
    """Upper clamp of the prior's and encoder's log sigma (SPiRL: 2)."""
    standardise_states: bool = False
    """Departure: subtract the data's mean from states and divide by its deviation, both over the whole data set,
    held-out trajectories included (SPiRL: raw states)."""
    final_learning_rate_fraction: float = 1.0
    """Departure: the learning rate falls linearly to this fraction of itself (SPiRL: constant)."""
    held_out_fraction: float = 0.05
    """Trajectories kept for the figures in the manifest (ours)."""

    def validate(self) -> None:
        require_between(self, COUNT, "skill_length", "latent_dim", "hidden_dim", "decoder_layers", "prior_layers")
        require_between(self, COUNT, "passes", "batch_size")
        require_between(self, RATE, "learning_rate", "final_learning_rate_fraction")
        require_between(self, WEIGHT, "initial_gradient_norm")
        require_between(self, (0.0, WEIGHT[1]), "kl_weight")
        require_between(self, (0, COUNT[1]), "clipped_updates")
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction is {self.held_out_fraction}; valid is above 0 and below 1")
        require_log_sigma_clamp(self)


class SkillModel(StandardisedModel):
    """Skill encoder, low-level policy (decoder) and skill prior."""

    def __init__(self, config: SkillConfig, observation_dim: int, action_dim: int) -> None:
        super().__init__(observation_dim, action_dim)
        self.config = config
        latent, hidden = config.latent_dim, config.hidden_dim
        self.encoder = nn.LSTM(action_dim + observation_dim, hidden, batch_first=True)
        self.encoder_head = nn.Linear(hidden, 2 * latent)
        self.decoder = BatchNormMLP(observation_dim + latent, hidden, config.decoder_layers, action_dim)
        self.prior = BatchNormMLP(observation_dim, hidden, config.prior_layers, 2 * latent)

    @property
    def latent_dim(self) -> int:
        """Z."""
        return self.config.latent_dim

    @property
    def prior_dim(self) -> int:
        """Columns of ``prior_columns``."""
        return 2 * self.config.latent_dim

    def _gaussian(self, output: Tensor) -> Gaussian:
        mean, log_sigma = output.chunk(2, dim=-1)
        return Gaussian(mean, log_sigma.clamp(self.config.min_log_sigma, self.config.max_log_sigma).exp())

    def encode(self, states: Tensor, actions: Tensor) -> Gaussian:
        """q(z given s, a): states (B, K, D) and actions (B, K, A) -> (B, Z)."""
        outputs, _ = self.encoder(torch.cat([actions, self.standardise(states)], dim=-1))
        return self._gaussian(self.encoder_head(outputs[:, -1]))

    def decode(self, states: Tensor, latents: Tensor) -> Tensor:
        """Mean action of pi(a given s, z): (B, D), (B, Z) -> (B, A). Also what acts in the world."""
        actions: Tensor = self.decoder(torch.cat([self.standardise(states), latents], dim=-1))
        return actions

    def skill_prior(self, states: Tensor) -> Gaussian:
        """p(z given s): (B, D) -> (B, Z)."""
        return self._gaussian(self.prior(self.standardise(states)))

    @torch.no_grad()
    def prior_columns(self, states: Tensor) -> Tensor:
        """The frozen prior's (mean, sigma) side by side, (B, 2 Z): stored with transitions, computed once."""
        return torch.cat(self.skill_prior(states), dim=-1)


@dataclass(frozen=True)
class SkillLosses:
    """The terms of one batch (scalars); ``total`` is what is minimised."""

    reconstruction: Tensor
    encoder_kl: Tensor
    prior: Tensor
    total: Tensor


def skill_losses(model: SkillModel, states: Tensor, actions: Tensor, noise: Tensor) -> SkillLosses:
    """Section 4.1 on crops: states (B, K, D), actions (B, K, A), noise (B, Z)."""
    config = model.config
    posterior = model.encode(states, actions)
    latents = posterior.sample(noise)
    length = states.shape[1]
    decoded = model.decode(states.flatten(0, 1), latents.repeat_interleave(length, dim=0))
    # Unit variance: -log pi = squared error / 2 + constant; the released loss drops the 1/2 and the constant.
    reconstruction = F.mse_loss(decoded, actions.flatten(0, 1))
    encoder_kl = posterior.kl_to_unit().mean() / config.latent_dim
    prior = model.skill_prior(states[:, 0])
    if config.prior_loss == "nll":
        prior_term = prior.negative_log_likelihood(latents.detach()).mean()
    else:
        prior_term = posterior.detach().kl(prior).mean() / config.latent_dim
    total = reconstruction + config.kl_weight * encoder_kl + prior_term
    return SkillLosses(reconstruction, encoder_kl, prior_term, total)


def load_skill_model(folder: Path, device: str = "cpu") -> SkillModel:
    """The frozen skill model of a skills artefact: evaluation mode, no gradients."""
    state = load_tensors(folder / SKILL_MODEL_FILE)
    model = SkillModel(SkillConfig(**state["config"]), state["observation_dim"], state["action_dim"])
    model.load_state_dict(state["model"])
    return model.to(device).eval().requires_grad_(False)
