"""Skill extraction: SPiRL's skill model, learned from offline trajectories without rewards or task labels.

Pertsch, Lee, Lim 2020 (arXiv 2010.11944), as used by SiMPL (Nam et al. 2022, arXiv 2204.11828), section 4.1:

    encoder q(z given s_0:K, a_0:K-1)   low-level policy pi(a given s, z)   prior p(z given s_0)
    equation 3:   max  E_q [ sum_t log pi(a_t given s_t, z) ] - beta KL(q, N(0, I))
    prior:        min  KL(stopgrad q, p)

    loss = mean (a - decoded)^2 / 2  +  beta mean KL(q, N(0, I))  -  mean log p(z given s_0)

Closed loop: the low-level policy sees the current state at each env_step; its action is a Gaussian's mean, of unit
variance while it learns. Reductions are the released code's, without which beta means nothing: the first two terms are
means over all their axes (batch, time and action; batch and latent dimension), the last is a sum over z. Network shapes
and their start are those of the released code, too (``networks.BatchNormMLP``, ``skill_encoder.py``).

Differences from paper and released code
- The prior's loss is the released default, the negative log likelihood of the sampled z; ``prior_loss=kl`` is
  the paper's formula (equal up to a constant in expectation, with less variance).
- The constant of the actions' likelihood, log(2 pi) / 2, is left out of the loss.
- RAdam is torch's, where the released code has its own of the same algorithm.
- States are standardised by the data's mean and deviation where ``standardise_states`` is on (off in ``paper``).
- Images: ``prior_view_encoder=shared`` lets one convolutional encoder serve all three networks, where SPiRL's code
  gives the prior one of its own, and ``prior_weight`` then keeps the prior's loss from ruling it;
  ``frame_difference_gain`` (all off in ``paper``).
- ``prior=flow``, which neither has; ``flow_prior.py`` says what a policy then chooses.

What the networks see of an observation
- the state, standardised; or, where the world has views, only what a convolutional encoder (``view_encoder.py``) makes
  of the view. Encoder and low-level policy share one, the prior has its own behind it: F = 64 features. Where the prior
  shares theirs, F is 32, and all three losses reach that encoder. The prior's loss takes the sample z as given.
- ``see`` draws views from the rows that stand for them and appends their features to the row. A state, to all else
  here, is then a row with its features, D + F columns: whoever keeps one need not draw or convolve again.

Axes: B batch, K env_steps of a skill, D observation feature, F feature of a view, Z latent dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.budget import Budget, Scale
from algorithms.files import load_tensors
from algorithms.flow_prior import FlowPrior
from algorithms.networks import BatchNormMLP, Gaussian, StandardisedModel
from algorithms.ranges import COUNT, RATE, WEIGHT, require_between, require_log_sigma_clamp
from algorithms.skill_encoder import SkillEncoder
from algorithms.view_encoder import VIEW_FEATURES, ConvEncoder, as_floats
from envs.core import Views

SKILL_MODEL_FILE = "skill_model.pt"
VIEWS_PER_PASS = 1280
"""Without gradients, more views than this are drawn and encoded in parts, to save memory."""


@dataclass(frozen=True)
class SkillConfig:
    """Skill extraction. Values of the released SPiRL code for the maze unless a line says otherwise."""

    skill_length: int = 10
    """K, env_steps of one skill (paper and SPiRL: 10)."""
    latent_dim: int = 10
    """dim(z) (paper and SPiRL: 10)."""
    hidden_dim: int = 128
    """Width of every network (SPiRL: 128)."""
    encoder_output_dim: int = 32
    """Width between the skill encoder's LSTM and its head (SPiRL: maze 32, kitchen 128)."""
    decoder_layers: int = 3
    """Blocks of the low-level policy between its input layer and its head (SPiRL: maze 3, kitchen 5)."""
    prior_layers: int = 6
    """Blocks of the skill prior between its input layer and its head (SPiRL: 6)."""
    kl_weight: float = 1e-2
    """beta in equation 3 (SPiRL: maze 1e-2, kitchen 5e-4), with reductions as in the released code."""
    prior_weight: float = 1.0
    """Departure: weight of the prior's loss. It matters only where the prior shares its view encoder (SPiRL: 1)."""
    prior_loss: Literal["nll", "kl"] = "nll"
    """``nll``: released default, NLL of the sampled z; ``kl``: the paper's KL(stopgrad q, p)."""
    prior: Literal["gaussian", "flow"] = "gaussian"
    """``gaussian``: SPiRL's and SiMPL's; ``flow``: a normalising flow (``flow_prior.py``), which SiMPL's appendix C
    suggests for goals all over a large maze."""
    frame_difference_gain: float = 0.0
    """Departure: the encoder of views gets, instead of each older frame, this times its difference from the newest. An
    env_step moves the image by a third of a pixel; scaled up, velocity is seen sooner (SPiRL: 0, the frame itself)."""
    prior_view_encoder: Literal["own", "shared"] = "own"
    """Where there are views: convolutions of the prior's own (SPiRL), or, a departure, those of encoder and decoder."""
    crops: Literal["one_per_trajectory", "by_transitions"] = "one_per_trajectory"
    """What a pass is. ``one_per_trajectory``: a random crop of each (SPiRL's image maze). ``by_transitions``: one for
    every K + 1 transitions of the data, each of a random trajectory (SPiRL's kitchen)."""
    passes: int = 2000
    """Passes over the data (SPiRL: image maze 200 epochs x 10; kitchen 100 x 50. For the state maze SiMPL published
    neither loader nor budget; ours is the image maze's)."""
    batch_size: int = 128
    """Crops per update (SPiRL: 128). A pass's last crops, too few for a batch, are left out (SPiRL)."""
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
    held_out_fraction: float = 0.1
    """Trajectories kept for the figures in the manifest (SPiRL: maze 0.1, kitchen 0.01)."""

    def validate(self) -> None:
        require_between(self, COUNT, "skill_length", "latent_dim", "hidden_dim", "encoder_output_dim")
        require_between(self, COUNT, "decoder_layers", "prior_layers")
        require_between(self, COUNT, "passes", "batch_size")
        require_between(self, RATE, "learning_rate", "final_learning_rate_fraction")
        require_between(self, WEIGHT, "initial_gradient_norm", "prior_weight")
        require_between(self, (0.0, WEIGHT[1]), "kl_weight", "frame_difference_gain")
        require_between(self, (0, COUNT[1]), "clipped_updates")
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction is {self.held_out_fraction}; valid is above 0 and below 1")
        require_log_sigma_clamp(self)
        if self.prior == "flow" and self.prior_loss != "nll":
            raise ValueError(f"prior_loss is {self.prior_loss!r}; valid with a flow, whose KL has no formula: 'nll'")
        if self.prior == "flow" and self.latent_dim < 2:
            raise ValueError(
                f"latent_dim is {self.latent_dim}; valid with a flow, which couples dimensions, is 2 or more"
            )

    def updates_per_pass(self, training_trajectories: int, transitions: int) -> int:
        """Whole batches of crops in a pass; one where all crops together fill none. ``transitions``: of all data."""
        crops = training_trajectories
        if self.crops == "by_transitions":
            crops = int((1 - self.held_out_fraction) * transitions / (self.skill_length + 1))
        return max(1, crops // self.batch_size)

    def budget(self, scale: Scale) -> Budget:
        """Of skill extraction; roll-outs that only picture what was learned are not counted."""
        training = scale.trajectories - max(1, round(scale.trajectories * self.held_out_fraction))
        updates = self.passes * self.updates_per_pass(training, scale.transitions)
        return Budget(updates=updates, rows=updates * self.batch_size)


class SkillModel(StandardisedModel):
    """Skill encoder, low-level policy (decoder) and skill prior."""

    def __init__(self, config: SkillConfig, observation_dim: int, action_dim: int, views: Views | None = None) -> None:
        super().__init__(observation_dim, action_dim)
        self.config, self.views = config, views
        latent, hidden = config.latent_dim, config.hidden_dim
        self.seen_dim = observation_dim if views is None else VIEW_FEATURES
        """What each network sees of a state."""
        self.encoder = SkillEncoder(action_dim + self.seen_dim, hidden, config.encoder_output_dim, latent)
        self.decoder = BatchNormMLP(self.seen_dim + latent, hidden, config.decoder_layers, action_dim)
        self.prior: BatchNormMLP | FlowPrior
        if config.prior == "flow":
            clamp = (config.min_log_sigma, config.max_log_sigma)
            self.prior = FlowPrior(self.seen_dim, hidden, config.prior_layers, latent, clamp)
        else:
            self.prior = BatchNormMLP(self.seen_dim, hidden, config.prior_layers, 2 * latent)
        encoders = 0 if views is None else 2 if config.prior_view_encoder == "own" else 1
        self.view_encoders = nn.ModuleList(
            ConvEncoder(*views.shape[:2], config.frame_difference_gain) for _ in range(encoders) if views is not None
        )
        """``ConvEncoder`` of skill encoder and low-level policy; then the prior's, where it has its own."""
        self.feature_dim = encoders * VIEW_FEATURES

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

    def see(self, observations: Tensor, scenes: NDArray[np.uint8] | None = None) -> Tensor:
        """Rows (B, D) -> states: the rows themselves, or with the features of their views (B, D + F).

        ``scenes`` (B, ...): where each row lies; None: in the world's own scene.
        """
        if self.views is None:
            return observations
        size = len(observations) if self.training else VIEWS_PER_PASS  # batch norm sees a training batch whole
        parts = []
        for first in range(0, len(observations), size):
            rows = observations[first : first + size]
            views = self.views.draw(rows.cpu().numpy(), None if scenes is None else scenes[first : first + size])
            pixels = as_floats(torch.from_numpy(views).to(observations.device))
            parts.append(torch.cat([encoder(pixels) for encoder in self.view_encoders], dim=-1))
        return torch.cat([observations, torch.cat(parts)], dim=-1)

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """See ``StandardisedModel.split``: position and velocity, and the frozen features of the view.

        SPiRL's high-level policy learns convolutions of its own, from where the prior's end. With frozen features the
        replay holds 32 or 64 numbers instead of 6,144 pixels, and an update costs no convolution.
        """
        if self.views is None:
            return super().split(states)
        return states[..., : self.views.state_dim], states[..., self.observation_dim :]

    def seen(self, states: Tensor) -> Tensor:
        """What skill encoder and low-level policy see of states (..., D or D + F): (..., seen_dim)."""
        if self.views is None:
            return self.standardise(states)
        return states[..., self.observation_dim : self.observation_dim + VIEW_FEATURES]

    def seen_by_prior(self, states: Tensor) -> Tensor:
        """What the skill prior sees of states (..., D or D + F): (..., seen_dim)."""
        return self.standardise(states) if self.views is None else states[..., -VIEW_FEATURES:]

    def encode(self, states: Tensor, actions: Tensor) -> Gaussian:
        """q(z given s, a): states (B, K, D) and actions (B, K, A) -> (B, Z)."""
        return self._gaussian(self.encoder(torch.cat([actions, self.seen(states)], dim=-1)))

    def decode(self, states: Tensor, latents: Tensor) -> Tensor:
        """Mean action of pi(a given s, z): (B, D), (B, Z) -> (B, A). Also what acts in the world."""
        actions: Tensor = self.decoder(torch.cat([self.seen(states), latents], dim=-1))
        return actions

    def decode_crops(self, states: Tensor, latents: Tensor) -> Tensor:
        """``decode`` of each state of a crop with its one skill: (B, K, D), (B, Z) -> (B, K, A).

        The skill's part of the input layer is computed once for each crop.
        """
        weight, bias = self.decoder.input.weight, self.decoder.input.bias
        of_skill = F.linear(latents, weight[:, self.seen_dim :], bias)
        hidden = F.linear(self.seen(states), weight[:, : self.seen_dim]) + of_skill[:, None]
        actions: Tensor = self.decoder.after_input(hidden.flatten(0, 1)).unflatten(0, states.shape[:2])
        return actions

    def skill_prior(self, states: Tensor) -> Gaussian:
        """p over what a high-level policy chooses: (B, D) -> (B, Z). That is z, or the flow's u ~ N(0, I)."""
        if isinstance(self.prior, FlowPrior):
            mean = states.new_zeros((len(states), self.latent_dim))
            return Gaussian(mean, torch.ones_like(mean))
        return self._gaussian(self.prior(self.seen_by_prior(states)))

    def latents(self, states: Tensor, skills: Tensor) -> Tensor:
        """z of what a high-level policy chose at ``states``: (B, D), (B, Z) -> (B, Z)."""
        return self.prior.skills(self.seen_by_prior(states), skills) if isinstance(self.prior, FlowPrior) else skills

    def prior_negative_log_likelihood(self, states: Tensor, latents: Tensor) -> Tensor:
        """-log p(z given s), in nats: (B, D), (B, Z) -> (B,)."""
        if isinstance(self.prior, FlowPrior):
            return self.prior.negative_log_likelihood(self.seen_by_prior(states), latents)
        return self.skill_prior(states).negative_log_likelihood(latents).sum(-1)

    @torch.no_grad()
    def prior_columns(self, states: Tensor) -> Tensor:
        """The frozen prior's (mean, sigma) side by side, (B, 2 Z): stored with transitions, computed once."""
        return torch.cat(self.skill_prior(states), dim=-1)


@dataclass(frozen=True)
class SkillLosses:
    """The terms of one batch (scalars); ``total`` is what is minimised."""

    reconstruction: Tensor
    """-log pi of the actions at unit variance, without its constant: half the squared error of a feature."""
    encoder_kl: Tensor
    """KL(q, N(0, I)) of a latent dimension, in nats."""
    prior: Tensor
    """-log p(z given s_0), or KL(stopgrad q, p), in nats."""
    total: Tensor


def skill_losses(model: SkillModel, states: Tensor, actions: Tensor, noise: Tensor) -> SkillLosses:
    """Section 4.1 on crops: states (B, K, D), actions (B, K, A), noise (B, Z)."""
    config = model.config
    posterior = model.encode(states, actions)
    latents = posterior.sample(noise)
    reconstruction = 0.5 * F.mse_loss(model.decode_crops(states, latents), actions)
    encoder_kl = posterior.kl_to_unit().mean() / config.latent_dim
    if config.prior_loss == "nll":
        prior_term = model.prior_negative_log_likelihood(states[:, 0], latents.detach()).mean()
    else:
        prior_term = posterior.detach().kl(model.skill_prior(states[:, 0])).mean()
    total = reconstruction + config.kl_weight * encoder_kl + config.prior_weight * prior_term
    return SkillLosses(reconstruction, encoder_kl, prior_term, total)


def load_skill_model(folder: Path, device: str = "cpu", views: Views | None = None) -> SkillModel:
    """The frozen skill model of a skills artefact: evaluation mode, no gradients. ``views``: of its world.

    Raises ``ValueError`` where there are views and the model was learned from states, or the reverse.
    """
    state = load_tensors(folder / SKILL_MODEL_FILE)
    learned_from_views = any(name.startswith("view_encoders.") for name in state["model"])
    if learned_from_views != (views is not None):
        what = ("views", "none were given") if learned_from_views else ("states", "views were given")
        raise ValueError(f"{folder / SKILL_MODEL_FILE} was learned from {what[0]}, and {what[1]}")
    model = SkillModel(SkillConfig(**state["config"]), state["observation_dim"], state["action_dim"], views)
    model.load_state_dict(state["model"])
    return model.to(device).eval().requires_grad_(False)
