"""Behaviour cloning: the flat counterpart of skills, learned from the same offline trajectories.

SiMPL's appendix A (Nam et al. 2022, arXiv 2204.11828) names it in one clause, "supervised learning from the offline
dataset", and gives no numbers; nothing of it was released. Ours is maximum likelihood:

    max  E_(s, a) in data [ log pi(a given s) ],      pi(a given s) = N(mean(s), diag(sigma(s)^2))

What stands on it: BC+MAML starts from this network, BC+PEARL is regularised by it as SiMPL is by the skill prior.

- Every pair (s, a) counts alike, whatever trajectory it is from; batches are drawn with replacement.
- The network is a plain ReLU MLP without batch norm: MAML differentiates through it, twice and on few rows.
- Recorded actions lie in [-1, 1], many exactly at an end. The Gaussian knows no bounds; the world clips its samples.
- log sigma is clamped. Planners act without noise, and their likelihood grows without limit as sigma falls to 0.

Axes: B batch, D feature, A action feature.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from algorithms.budget import Budget, Scale
from algorithms.files import load_tensors, save_tensors
from algorithms.networks import Gaussian, StandardisedModel, torch_generator
from algorithms.offline_training import (
    OfflineTraining,
    as_tensors,
    draw_rollouts,
    load_trajectories,
    split_off_held_out,
)
from algorithms.ranges import COUNT, RATE, WEIGHT, require_between, require_log_sigma_clamp
from algorithms.rollout import PrimitiveActions
from algorithms.stage import StageContext, StageSpec

BEHAVIOR_POLICY_FILE = "behavior_policy.pt"
MAX_HELD_OUT_ROWS = 100_000


@dataclass(frozen=True)
class GaussianPolicyConfig:
    """A Gaussian policy over primitive actions."""

    hidden_dim: int = 128
    """Width (ours: that of the skill decoder)."""
    hidden_layers: int = 3
    """Hidden layers (ours: as many as the skill decoder has on the maze)."""
    sigma: Literal["head", "parameter"] = "head"
    """``head``: sigma(s), a second output of the network; ``parameter``: one for all states (Finn et al. 2017)."""
    initial_sigma: float = 1.0
    """Of ``parameter`` (Finn et al.: 1)."""
    min_log_sigma: float = -3.0
    """Lower clamp (ours): at sigma 0.05 a cloned action is exact for every purpose."""
    max_log_sigma: float = 2.0
    """Upper clamp (ours, as in SPiRL)."""

    def validate(self) -> None:
        require_between(self, COUNT, "hidden_dim", "hidden_layers")
        require_between(self, WEIGHT, "initial_sigma")
        require_log_sigma_clamp(self)


@dataclass(frozen=True)
class BcConfig:
    """Behaviour cloning. The paper gives no numbers: all are ours."""

    updates: int = 50_000
    """Gradient updates (ours: the held-out likelihood no longer rises)."""
    batch_size: int = 1024
    """Pairs (s, a) per update (ours)."""
    learning_rate: float = 1e-3
    """Adam (ours: as for skills)."""
    final_learning_rate_fraction: float = 0.1
    """The learning rate falls linearly to this fraction of itself (ours)."""
    standardise_states: bool = True
    """Subtract the data's mean from states and divide by its deviation, both over the whole data set (ours: on, since
    nothing else here puts positions of 0 to 20 and speeds of 0 to 5 on one scale)."""
    held_out_fraction: float = 0.05
    """Trajectories kept for the figures in the manifest (ours)."""
    policy: GaussianPolicyConfig = field(default_factory=GaussianPolicyConfig)
    """The network."""

    def validate(self) -> None:
        require_between(self, COUNT, "updates", "batch_size")
        require_between(self, RATE, "learning_rate", "final_learning_rate_fraction")
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction is {self.held_out_fraction}; valid is above 0 and below 1")

    def budget(self, scale: Scale) -> Budget:
        """Of behaviour cloning."""
        return Budget(updates=self.updates, rows=self.updates * self.batch_size)


class BehaviorPolicy(StandardisedModel):
    """pi(a given s), a diagonal Gaussian. Also a prior over "skills" of one env_step, which are actions."""

    def __init__(self, config: GaussianPolicyConfig, observation_dim: int, action_dim: int) -> None:
        super().__init__(observation_dim, action_dim)
        self.config = config
        has_head = config.sigma == "head"
        dims = [observation_dim] + [config.hidden_dim] * config.hidden_layers
        dims.append(2 * action_dim if has_head else action_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))
        initial = torch.full((action_dim,), math.log(config.initial_sigma))
        self.log_sigma = None if has_head else nn.Parameter(initial)

    @property
    def latent_dim(self) -> int:
        """A: the action is what is chosen."""
        return self.action_dim

    @property
    def prior_dim(self) -> int:
        """Columns of ``prior_columns``."""
        return 2 * self.action_dim

    def forward(self, states: Tensor) -> Gaussian:
        """(..., D) -> (..., A)."""
        hidden = self.standardise(states)
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.gaussian(self.layers[-1](hidden), self.log_sigma)

    def gaussian(self, output: Tensor, log_sigma: Tensor | None) -> Gaussian:
        """From the network's output (..., A or 2 A) and, where sigma is one for all states, its logarithm."""
        if log_sigma is None:
            mean, log_sigma = output.chunk(2, dim=-1)
        else:
            mean, log_sigma = output, log_sigma.expand_as(output)
        return Gaussian(mean, log_sigma.clamp(self.config.min_log_sigma, self.config.max_log_sigma).exp())

    def action_prior(self, states: Tensor) -> Gaussian:
        """pi(a given s): (B, D) -> (B, A)."""
        policy: Gaussian = self(states)
        return policy

    def skill_prior(self, states: Tensor) -> Gaussian:
        """The same, by the name that skill-based algorithms call their prior by."""
        return self.action_prior(states)

    @torch.no_grad()
    def prior_columns(self, states: Tensor) -> Tensor:
        """The frozen policy's (mean, sigma) side by side, (B, 2 A): stored with transitions, computed once."""
        return torch.cat(self.action_prior(states), dim=-1)


@dataclass(frozen=True)
class BcLosses:
    """The terms of one batch (scalars); ``total`` is what is minimised."""

    negative_log_likelihood: Tensor
    """Nats per action, summed over its features."""
    squared_error: Tensor
    """Of the mean action, per feature: what an unclipped regression would be judged by."""

    @property
    def total(self) -> Tensor:
        return self.negative_log_likelihood


def bc_losses(policy: BehaviorPolicy, states: Tensor, actions: Tensor) -> BcLosses:
    """On states (B, D) and actions (B, A)."""
    predicted = policy.action_prior(states)
    likelihood = predicted.negative_log_likelihood(actions).sum(-1).mean()
    return BcLosses(likelihood, (predicted.mean - actions).square().mean())


class BehaviorCloning(OfflineTraining):
    """data -> behaviour policy."""

    STAGE = "bc"
    config: BcConfig
    model: BehaviorPolicy

    def __init__(self, config: BcConfig, context: StageContext) -> None:
        super().__init__(context)
        self.config = config
        self.total_updates = config.updates
        trajectories = load_trajectories(context, min_length=1)
        self.states, self.actions = as_tensors(trajectories)
        episodes = len(trajectories.episode_ends)
        training, _ = split_off_held_out(episodes, config.held_out_fraction, "trajectories")
        self.training_rows = int(trajectories.episode_ends[len(training) - 1])
        distribution = context.task_distribution
        dims = (distribution.observation_dim, distribution.action_dim)
        self.make_model(self.states, lambda: BehaviorPolicy(config.policy, *dims))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=True)

    def _batch(self) -> tuple[Tensor, Tensor]:
        generator = torch_generator(self.context.seed, self.STAGE, "update", self.updates)
        rows = torch.randint(self.training_rows, (self.config.batch_size,), generator=generator)
        return self.states[rows].to(self.context.device), self.actions[rows].to(self.context.device)

    def _losses(self) -> BcLosses:
        return bc_losses(self.model, *self._batch())

    def _metrics(self, losses: BcLosses) -> dict[str, float]:
        return {
            "negative_log_likelihood": float(losses.negative_log_likelihood.detach()),
            "squared_error": float(losses.squared_error.detach()),
        }

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """Over the trajectories never trained on, or an even choice of their pairs where they are very many."""
        every = -(-(len(self.states) - self.training_rows) // MAX_HELD_OUT_ROWS)
        rows = slice(self.training_rows, None, every)
        device = self.context.device
        losses = bc_losses(self.model.eval(), self.states[rows].to(device), self.actions[rows].to(device))
        return {f"held_out_{name}": value for name, value in self._metrics(losses).items()}

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        distribution = self.context.task_distribution
        save_tensors(folder / BEHAVIOR_POLICY_FILE, behavior_policy_contents(self.model))
        policy = load_behavior_policy(folder)
        rollouts = draw_rollouts(
            lambda states, noise: policy.action_prior(states).sample(noise),
            PrimitiveActions(distribution.action_dim),
            distribution.action_dim,
            distribution,
            (self.context.seed, self.STAGE, "rollout"),
            folder / "bc_rollouts.png",
            "Roll-outs of the cloned policy from the start",
        )
        numbers = self.held_out_losses() | {f"rollout_{name}": value for name, value in rollouts.items()}
        return numbers | {"updates": self.updates}


def behavior_policy_contents(policy: BehaviorPolicy) -> dict[str, Any]:
    """What a file holds of a policy: the network with its shape."""
    dims = {"observation_dim": policy.observation_dim, "action_dim": policy.action_dim}
    return {"config": asdict(policy.config), **dims, "model": policy.state_dict()}


def behavior_policy_from(saved: Mapping[str, Any], device: str = "cpu") -> BehaviorPolicy:
    """The frozen policy of such contents: evaluation mode, no gradients."""
    config = GaussianPolicyConfig(**saved["config"])
    policy = BehaviorPolicy(config, saved["observation_dim"], saved["action_dim"])
    policy.load_state_dict(saved["model"])
    return policy.to(device).eval().requires_grad_(False)


def load_behavior_policy(folder: Path, device: str = "cpu") -> BehaviorPolicy:
    """The frozen policy of a bc artefact."""
    return behavior_policy_from(load_tensors(folder / BEHAVIOR_POLICY_FILE), device)


BC_STAGE = StageSpec(
    name="bc",
    config_class=BcConfig,
    factory=BehaviorCloning,
    inputs=("data",),
    tasks="none",
    implementation="bc/1",
)
