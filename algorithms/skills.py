"""The skills stage: offline trajectories -> skill model (see ``skill_model.py`` for the model and its losses).

Batches are cut from the flat arrays by one vectorised gather: one random crop per trajectory and pass.

Axes: B batch, K env_steps of a skill, D feature, Z latent dimension.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.files import save_tensors
from algorithms.latents import save_latents
from algorithms.networks import torch_generator
from algorithms.offline_training import (
    MIN_STATE_SIGMA,
    OfflineTraining,
    as_tensors,
    draw_rollouts,
    load_trajectories,
    split_off_held_out,
)
from algorithms.rollout import LowLevelPolicy
from algorithms.skill_model import (
    SKILL_MODEL_FILE,
    SkillConfig,
    SkillLosses,
    SkillModel,
    load_skill_model,
    skill_losses,
)
from algorithms.stage import StageContext, StageSpec
from envs.trajectories import Trajectories

LATENTS = 1000
"""Skills whose latent vectors are kept for a picture."""


class CropSampler:
    """Random K-step crops of trajectories, as one gather from flat arrays."""

    def __init__(self, trajectories: Trajectories, crop_length: int, held_out_fraction: float) -> None:
        ends = torch.from_numpy(np.asarray(trajectories.episode_ends))
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        usable = ends - starts >= crop_length
        self.states, self.actions = as_tensors(trajectories)
        self._offsets = torch.arange(crop_length)
        self._starts = starts[usable]
        self._crop_counts = (ends - starts)[usable] - crop_length + 1
        usable_name = f"trajectories of at least {crop_length} steps"
        self.training, self.held_out = split_off_held_out(len(self._starts), held_out_fraction, usable_name)

    def crops(self, trajectories: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """One crop of each of ``trajectories`` (B,), at relative position ``uniform`` (B,) in [0, 1)."""
        first = self._starts[trajectories] + (uniform * self._crop_counts[trajectories]).long()
        index = first[:, None] + self._offsets
        return self.states[index], self.actions[index]


class SkillTraining(OfflineTraining):
    """data -> skill model."""

    STAGE = "skills"
    config: SkillConfig
    model: SkillModel

    def __init__(self, config: SkillConfig, context: StageContext) -> None:
        super().__init__(context)
        self.config = config
        distribution = context.task_distribution
        trajectories = load_trajectories(context, config.skill_length)
        self.sampler = CropSampler(trajectories, config.skill_length, config.held_out_fraction)
        self.make_model(
            self.sampler.states, lambda: SkillModel(config, distribution.observation_dim, distribution.action_dim)
        )
        self.optimizer = torch.optim.RAdam(self.model.parameters(), lr=config.learning_rate, foreach=True)
        self.updates_per_pass = -(-len(self.sampler.training) // config.batch_size)
        self.total_updates = config.passes * self.updates_per_pass

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of update ``self.updates``, keyed: each pass is a permutation of the trajectories."""
        seed, config = self.context.seed, self.config
        this_pass, place = divmod(self.updates, self.updates_per_pass)
        order = torch.randperm(len(self.sampler.training), generator=torch_generator(seed, "skills", "pass", this_pass))
        chosen = self.sampler.training[order[place * config.batch_size :][: config.batch_size]]
        if len(chosen) == 1:  # batch norm needs two rows
            chosen = chosen.repeat(2)
        generator = torch_generator(seed, "skills", "update", self.updates)
        states, actions = self.sampler.crops(chosen, torch.rand(len(chosen), generator=generator))
        noise = torch.randn((len(chosen), config.latent_dim), generator=generator)
        device = self.context.device
        return states.to(device), actions.to(device), noise.to(device)

    def _losses(self) -> SkillLosses:
        return skill_losses(self.model, *self._batch())

    def _metrics(self, losses: SkillLosses) -> dict[str, float]:
        return {
            "reconstruction": float(losses.reconstruction.detach()),
            "encoder_kl_per_dim": float(losses.encoder_kl.detach()),
            f"prior_{self.config.prior_loss}_per_dim": float(losses.prior.detach()),
        }

    def _limit_gradients(self) -> None:
        if self.updates < self.config.clipped_updates:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.initial_gradient_norm)

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """The losses over crops of the trajectories never trained on, in evaluation mode."""
        self.model.eval()
        generator = torch_generator(self.context.seed, "skills", "held_out")
        chosen = self.sampler.held_out.repeat(-(-2048 // len(self.sampler.held_out)))
        states, actions = self.sampler.crops(chosen, torch.rand(len(chosen), generator=generator))
        noise = torch.randn((len(chosen), self.config.latent_dim), generator=generator)
        device = self.context.device
        losses = skill_losses(self.model, states.to(device), actions.to(device), noise.to(device))
        return {
            "held_out_reconstruction": float(losses.reconstruction.detach()),
            "held_out_encoder_kl_nats": float(losses.encoder_kl) * self.config.latent_dim,
            f"held_out_prior_{self.config.prior_loss}_per_dim": float(losses.prior),
            "updates": self.updates,
        }

    @torch.no_grad()
    def _save_latents(self, folder: Path) -> None:
        """q(z given s, a) of held-out crops, coloured by how far the state moves."""
        self.model.eval()
        generator = torch_generator(self.context.seed, "skills", "latents")
        chosen = self.sampler.held_out.repeat(-(-LATENTS // len(self.sampler.held_out)))[:LATENTS]
        states, actions = self.sampler.crops(chosen, torch.rand(len(chosen), generator=generator))
        means = self.model.encode(states.to(self.context.device), actions.to(self.context.device)).mean
        scale = self.sampler.states.std(0).clamp(min=MIN_STATE_SIGMA)
        moved = ((states[:, -1] - states[:, 0]) / scale).norm(dim=1)
        what = "means of q(z given s, a) of crops of trajectories that were not trained on"
        save_latents(folder, means, moved, what, "displacement of the state, in standard deviations of the data")

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        metrics = self.held_out_losses()
        distribution = self.context.task_distribution
        save_tensors(
            folder / SKILL_MODEL_FILE,
            {
                "config": asdict(self.config),
                "observation_dim": distribution.observation_dim,
                "action_dim": distribution.action_dim,
                "model": self.model.state_dict(),
            },
        )
        self._save_latents(folder)
        model = load_skill_model(folder)
        rollouts = draw_rollouts(
            lambda states, noise: model.skill_prior(states).sample(noise),
            LowLevelPolicy(model),
            self.config.latent_dim,
            distribution,
            (self.context.seed, "skills", "prior_rollout"),
            folder / "prior_rollouts.png",
            "Skill prior roll-outs from the start",
        )
        return metrics | {f"prior_rollout_{name}": value for name, value in rollouts.items()}


SKILLS_STAGE = StageSpec(
    name="skills",
    config_class=SkillConfig,
    factory=SkillTraining,
    inputs=("data",),
    tasks="none",
    implementation="skill_vae/1",
)
