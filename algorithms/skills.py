"""The skills stage: offline trajectories -> skill model (see ``skill_model.py`` for the model and its losses).

Batches are cut from the flat arrays by one vectorised gather. What a pass over the data is, follows SPiRL's loaders: a
random crop of each trajectory, or one for every K + 1 transitions, each of a trajectory drawn anew. Where the world has
views, a batch draws its own, from its rows and the scenes that they were recorded in.

Where offline data are from other scenes than the world's, what was learned has to carry over. So its losses are also
told on trajectories recorded in the world itself (``world_...``), and what the prior adds, against roll-outs of skills
z ~ N(0, I), which know nothing of the state (``unit_rollout_...``).

Axes: B batch, K env_steps of a skill, D feature, Z latent dimension.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
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
from algorithms.skill_reach import env_steps_to_goals
from algorithms.stage import StageContext, StageSpec
from envs.trajectories import Trajectories

REACH_CHOICES = (1, 4)
"""Skills of the prior tried in each state, to see how far the best of them reaches."""
LATENTS = 1000
"""Skills whose latent vectors are kept for a picture."""


STARTS_LEFT_OUT = {"one_per_trajectory": 1, "by_transitions": 3}
"""A crop of K env_steps could begin at the last K env_steps but so many: SPiRL's crops hold the state after the skill,
too, and its kitchen loader draws none of the two starts behind that."""


class CropSampler:
    """Random K-step crops of trajectories, as one gather from flat arrays."""

    def __init__(
        self, trajectories: Trajectories, crop_length: int, held_out_fraction: float, starts_left_out: int = 1
    ) -> None:
        """Raises ``ValueError`` where less than two trajectories are long enough."""
        ends = torch.from_numpy(np.asarray(trajectories.episode_ends))
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        shortest = crop_length + starts_left_out
        usable = ends - starts >= shortest
        self.states, self.actions = as_tensors(trajectories)
        self._scenes = None if trajectories.scenes is None else trajectories.scenes[usable.numpy()]
        self._offsets = torch.arange(crop_length)
        self._starts = starts[usable]
        self._crop_counts = (ends - starts)[usable] - shortest + 1
        usable_name = f"trajectories of at least {shortest} steps"
        self.training, self.held_out = split_off_held_out(len(self._starts), held_out_fraction, usable_name)

    def crops(self, trajectories: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """One crop of each of ``trajectories`` (B,), at relative position ``uniform`` (B,) in [0, 1)."""
        first = self._starts[trajectories] + (uniform * self._crop_counts[trajectories]).long()
        index = first[:, None] + self._offsets
        return self.states[index], self.actions[index]

    def scenes(self, trajectories: Tensor) -> NDArray[np.uint8] | None:
        """Where each state of a crop of each of ``trajectories`` (B,) lies: (B K, ...); None: in the world's scene."""
        return None if self._scenes is None else self._scenes[trajectories.repeat_interleave(len(self._offsets))]


class SkillTraining(OfflineTraining):
    """data -> skill model."""

    STAGE = "skills"
    config: SkillConfig
    model: SkillModel

    def __init__(self, config: SkillConfig, context: StageContext) -> None:
        super().__init__(context)
        self.config = config
        self._order: tuple[int, Tensor] | None = None
        """(pass, its permutation of the trajectories), once drawn."""
        distribution = context.task_distribution
        trajectories = load_trajectories(context, config.skill_length + STARTS_LEFT_OUT[config.crops])
        self.sampler = self._sampler_of(trajectories)
        dims = (distribution.observation_dim, distribution.action_dim)
        self.make_model(self.sampler.states, lambda: SkillModel(config, *dims, distribution.views))
        self.optimizer = torch.optim.RAdam(self.model.parameters(), lr=config.learning_rate, foreach=True)
        self.updates_per_pass = config.updates_per_pass(len(self.sampler.training), len(self.sampler.states))
        self.total_updates = config.passes * self.updates_per_pass

    def _sampler_of(self, trajectories: Trajectories) -> CropSampler:
        config = self.config
        left_out = STARTS_LEFT_OUT[config.crops]
        return CropSampler(trajectories, config.skill_length, config.held_out_fraction, left_out)

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of update ``self.updates``, keyed."""
        generator = torch_generator(self.context.seed, "skills", "update", self.updates)
        chosen = self._trajectories(generator)
        if len(chosen) == 1:  # batch norm needs two rows
            chosen = chosen.repeat(2)
        states, actions = self._crops(self.sampler, chosen, torch.rand(len(chosen), generator=generator))
        noise = torch.randn((len(chosen), self.config.latent_dim), generator=generator)
        return states, actions, noise.to(self.context.device)

    def _trajectories(self, generator: torch.Generator) -> Tensor:
        """Which trajectories this update's crops are of: (B,)."""
        training, size = self.sampler.training, self.config.batch_size
        if self.config.crops == "by_transitions":
            return training[torch.randint(len(training), (size,), generator=generator)]
        this_pass, place = divmod(self.updates, self.updates_per_pass)
        if self._order is None or self._order[0] != this_pass:
            of_pass = torch_generator(self.context.seed, "skills", "pass", this_pass)
            self._order = this_pass, torch.randperm(len(training), generator=of_pass)
        return training[self._order[1][place * size :][:size]]

    def _crops(self, sampler: CropSampler, trajectories: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """``CropSampler.crops`` on the stage's device, with the features of views where there are any."""
        rows, actions = (part.to(self.context.device) for part in sampler.crops(trajectories, uniform))
        seen = self.model.see(rows.flatten(0, 1), sampler.scenes(trajectories))
        return seen.unflatten(0, rows.shape[:2]), actions

    def _losses(self) -> SkillLosses:
        return skill_losses(self.model, *self._batch())

    def _metrics(self, losses: SkillLosses) -> dict[str, float]:
        return {
            "squared_error": 2 * float(losses.reconstruction.detach()),
            "encoder_kl_nats": float(losses.encoder_kl.detach()) * self.config.latent_dim,
            f"prior_{self.config.prior_loss}_nats": float(losses.prior.detach()),
        }

    def _limit_gradients(self) -> None:
        if self.updates < self.config.clipped_updates:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.initial_gradient_norm)

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """The losses over crops of the trajectories never trained on, in evaluation mode."""
        return self._losses_on(self.sampler, self.sampler.held_out, "held_out") | {"updates": self.updates}

    def _losses_on(self, sampler: CropSampler, trajectories: Tensor, name: str) -> dict[str, float]:
        self.model.eval()
        generator = torch_generator(self.context.seed, "skills", name)
        chosen = trajectories.repeat(-(-2048 // len(trajectories)))
        states, actions = self._crops(sampler, chosen, torch.rand(len(chosen), generator=generator))
        noise = torch.randn((len(chosen), self.config.latent_dim), generator=generator)
        losses = skill_losses(self.model, states, actions, noise.to(self.context.device))
        return {f"{name}_{metric}": value for metric, value in self._metrics(losses).items()}

    @torch.no_grad()
    def world_losses(self) -> dict[str, float]:
        """The losses on trajectories recorded in the world itself; {} where the offline data are from there."""
        record = self.context.task_distribution.own_trajectories
        if record is None:
            return {}
        sampler = self._sampler_of(record())
        return self._losses_on(sampler, torch.cat([sampler.training, sampler.held_out]), "world")

    @torch.no_grad()
    def _save_latents(self, folder: Path) -> None:
        """q(z given s, a) of held-out crops, coloured by how far the state moves."""
        self.model.eval()
        generator = torch_generator(self.context.seed, "skills", "latents")
        chosen = self.sampler.held_out.repeat(-(-LATENTS // len(self.sampler.held_out)))[:LATENTS]
        states, actions = self._crops(self.sampler, chosen, torch.rand(len(chosen), generator=generator))
        means = self.model.encode(states, actions).mean
        scale = self.sampler.states.std(0).clamp(min=MIN_STATE_SIGMA)
        rows = states[..., : len(scale)].cpu()
        moved = ((rows[:, -1] - rows[:, 0]) / scale).norm(dim=1)
        what = "means of q(z given s, a) of crops of trajectories that were not trained on"
        save_latents(folder, means, moved, what, "displacement of the state, in standard deviations of the data")

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        metrics = self.held_out_losses() | self.world_losses()
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
        metrics |= self._rollouts("prior", "Skill prior roll-outs from the start", folder) | self._reach(folder)
        if distribution.own_trajectories is not None:
            metrics |= self._rollouts("unit", "Roll-outs of skills from N(0, I) from the start", folder)
        return metrics

    def _reach(self, folder: Path) -> dict[str, float]:
        """Share of places in the world that the best of so many skills of the prior reaches, by the true way there."""
        distribution = self.context.task_distribution
        if distribution.make_reach is None:
            return {}
        model = load_skill_model(folder, views=distribution.views)
        reached = {
            choices: env_steps_to_goals(model, distribution.make_reach(None, choices), self.context.seed)
            for choices in REACH_CHOICES
        }
        return {f"reach_best_of_{choices}": float((found >= 0).mean()) for choices, found in reached.items()}

    def _rollouts(self, kind: Literal["prior", "unit"], title: str, folder: Path) -> dict[str, float]:
        """Roll-outs of z from the prior, or from N(0, I) whatever the state: a picture, and what they did."""
        model = load_skill_model(folder, views=self.context.task_distribution.views)

        def choose(states: Tensor, noise: Tensor) -> Tensor:
            return model.skill_prior(states).sample(noise) if kind == "prior" else noise

        rollouts = draw_rollouts(
            choose,
            LowLevelPolicy(model, choices_are_latents=kind == "unit"),
            self.config.latent_dim,
            self.context.task_distribution,
            (self.context.seed, "skills", "prior_rollout"),
            folder / f"{kind}_rollouts.png",
            title,
        )
        return {f"{kind}_rollout_{name}": value for name, value in rollouts.items()}


SKILLS_STAGE = StageSpec(
    name="skills",
    config_class=SkillConfig,
    factory=SkillTraining,
    inputs=("data",),
    tasks="none",
    implementation="skill_vae/2",
)
