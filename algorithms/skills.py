"""The skills stage: offline trajectories -> skill model (see ``skill_model.py`` for the model and its losses).

Batches are cut from the flat arrays by one vectorised gather: one random crop per trajectory and pass.

Axes: B batch, K env_steps of a skill, D feature, Z latent dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.files import save_tensors
from algorithms.networks import torch_generator
from algorithms.rollout import (
    EpisodeKey,
    EpisodeNoise,
    LowLevelPolicy,
    collect_episodes,
    max_skills_per_episode,
)
from algorithms.skill_model import (
    SKILL_MODEL_FILE,
    SkillConfig,
    SkillLosses,
    SkillModel,
    load_skill_model,
    skill_losses,
)
from algorithms.stage import Progress, Stage, StageContext, StageReport, StageSpec
from envs.core import TaskDistribution
from envs.trajectories import Trajectories

TRAJECTORIES_FILE = "trajectories.hdf5"
MIN_STATE_SIGMA = 0.01
"""Deviation that states are divided by at least. A joint that never moves in the data but for sensor noise would
otherwise be noise blown up to unit size, and a bump against it in a roll-out an input a thousand deviations away."""
PRIOR_ROLLOUTS = 40
"""Episodes of the prior in the picture and its success rates, spread over the target tasks."""


class CropSampler:
    """Random K-step crops of trajectories, as one gather from flat arrays."""

    def __init__(self, trajectories: Trajectories, crop_length: int, held_out_fraction: float) -> None:
        ends = torch.from_numpy(np.asarray(trajectories.episode_ends))
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        usable = ends - starts >= crop_length
        self.states = torch.from_numpy(np.ascontiguousarray(trajectories.observations))
        self.actions = torch.from_numpy(np.ascontiguousarray(trajectories.actions))
        self._offsets = torch.arange(crop_length)
        self._starts = starts[usable]
        self._crop_counts = (ends - starts)[usable] - crop_length + 1
        count = len(self._starts)
        held_out = max(1, round(count * held_out_fraction))
        if count - held_out < 1:
            raise ValueError(f"{count} trajectories of at least {crop_length} steps; need 2 or more to hold one out")
        self.training = torch.arange(count - held_out)
        self.held_out = torch.arange(count - held_out, count)

    def crops(self, trajectories: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """One crop of each of ``trajectories`` (B,), at relative position ``uniform`` (B,) in [0, 1)."""
        first = self._starts[trajectories] + (uniform * self._crop_counts[trajectories]).long()
        index = first[:, None] + self._offsets
        return self.states[index], self.actions[index]


class SkillTraining(Stage):
    """data -> skill model."""

    UPDATES_PER_ADVANCE = 50

    def __init__(self, config: SkillConfig, context: StageContext) -> None:
        self.config, self.context = config, context
        distribution = context.task_distribution
        trajectories = Trajectories.load_hdf5(context.inputs["data"] / TRAJECTORIES_FILE)
        trajectories.validate(distribution.observation_dim, distribution.action_dim, config.skill_length)
        self.sampler = CropSampler(trajectories, config.skill_length, config.held_out_fraction)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(context.seed, "skills", "init").initial_seed())
            self.model = SkillModel(config, distribution.observation_dim, distribution.action_dim)
        if config.standardise_states:
            self.model.state_mean.copy_(self.sampler.states.mean(0))
            self.model.state_sigma.copy_(self.sampler.states.std(0).clamp(min=MIN_STATE_SIGMA))
        self.model.to(context.device)
        self.optimizer = torch.optim.RAdam(self.model.parameters(), lr=config.learning_rate, foreach=True)
        self.updates = 0
        self.updates_per_pass = -(-len(self.sampler.training) // config.batch_size)
        self.total_updates = config.passes * self.updates_per_pass

    @property
    def progress(self) -> Progress:
        return Progress(self.updates, self.total_updates, "updates")

    def advance(self) -> StageReport:
        self.model.train()
        losses = None
        for _ in range(min(self.UPDATES_PER_ADVANCE, self.total_updates - self.updates)):
            losses = self._update()
        assert losses is not None
        return StageReport(
            metrics={
                "updates": self.updates,
                "reconstruction": float(losses.reconstruction.detach()),
                "encoder_kl_per_dim": float(losses.encoder_kl.detach()),
                f"prior_{self.config.prior_loss}_per_dim": float(losses.prior.detach()),
            }
        )

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

    def _update(self) -> SkillLosses:
        config = self.config
        fraction = 1 - (1 - config.final_learning_rate_fraction) * self.updates / self.total_updates
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * fraction
        losses = skill_losses(self.model, *self._batch())
        self.optimizer.zero_grad()
        losses.total.backward()
        if self.updates < config.clipped_updates:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.initial_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        return losses

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

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
        with torch.inference_mode():
            return metrics | draw_prior_rollouts(
                load_skill_model(folder), distribution, self.context.seed, folder / "prior_rollouts.png"
            )


def draw_prior_rollouts(model: SkillModel, distribution: TaskDistribution, seed: int, path: Path) -> dict[str, float]:
    """Act with skills drawn from the prior, draw the paths, and return what they did and earned on target tasks."""
    tasks = [distribution.target_tasks[i % len(distribution.target_tasks)] for i in range(PRIOR_ROLLOUTS)]
    keys: list[EpisodeKey] = [(seed, "skills", "prior_rollout", i) for i in range(PRIOR_ROLLOUTS)]
    max_skills = max_skills_per_episode(distribution.episode_env_steps, model.config.skill_length)
    noise = EpisodeNoise(keys, max_skills, model.config.latent_dim)
    episodes = collect_episodes(
        distribution.make_world(PRIOR_ROLLOUTS),
        tasks,
        keys,
        lambda states, lanes, skill_index: model.skill_prior(states).sample(noise(lanes, skill_index)),
        LowLevelPolicy(model),
        record_paths=True,
    )
    paths = [episode.path for episode in episodes if episode.path is not None]
    if distribution.draw_paths is not None:
        distribution.draw_paths(paths, tasks, path, "Skill prior roll-outs from the start")
    metrics = {"mean_return": sum(episode.episode_return for episode in episodes) / len(episodes)}
    if distribution.describe_episodes is not None:
        metrics |= distribution.describe_episodes(paths)
    return {f"prior_rollout_{name}": value for name, value in metrics.items()}


SKILLS_STAGE = StageSpec(
    name="skills",
    config_class=SkillConfig,
    factory=SkillTraining,
    inputs=("data",),
    tasks="none",
    implementation="skill_vae/1",
)
