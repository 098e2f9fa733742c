"""Learning a target task from what meta-training left (SiMPL section 4.3): SiMPL, PEARL-ft and BC+PEARL.

    explore    ``exploration_episodes`` with e ~ p(e) of the meta-trained policy
    encode     e* = the encoder's mean over all their transitions
    fine-tune  policy pi(z given s, e*), critics and alpha from meta-training, target critics as copies of the critics,
               as ``adaptation.py`` does

Axes: M learner (task), C context transition, E task embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from algorithms.adaptation import Adaptation
from algorithms.adaptation_config import ExplorationConfig, TaskLearningConfig
from algorithms.meta_training import MetaLearner, MetaTrainConfig, prior_task_embeddings
from algorithms.networks import Gaussian, torch_generator
from algorithms.regularized_sac import DualCoefficients, FrozenPolicies, NetworkConfig, SkillActorCritic
from algorithms.replay import MultiTaskReplay
from algorithms.skill_space import SkillSpace
from algorithms.stage import StageContext, StageReport
from algorithms.transitions import CONTEXT_LAST_FIELD


class EncodedAdaptation(Adaptation):
    """See the module's docstring."""

    def __init__(
        self,
        config: TaskLearningConfig,
        meta_config: MetaTrainConfig,
        meta: MetaLearner,
        space: SkillSpace,
        context: StageContext,
    ) -> None:
        """``config`` is an ``ExplorationConfig`` too; ``meta`` is what ``meta_config`` meta-trained."""
        assert isinstance(config, ExplorationConfig)
        self.exploration: ExplorationConfig = config
        self.meta_config = meta_config
        self.meta = meta.to(context.device).requires_grad_(False)
        self.explored = False
        network_config: NetworkConfig = self.meta.networks.config
        super().__init__(config, network_config, space, context)

    def initial_learners(self) -> tuple[SkillActorCritic, Tensor, DualCoefficients]:
        """A copy of the meta-trained networks for each target task, and alpha as it ended.

        Targets start as copies of the critics, not of meta-training's lagging targets (released SiMPL).
        """
        copies = len(self.task_indices)
        networks = SkillActorCritic.stack([self.meta.networks] * copies)
        networks.restart_targets()
        embeddings = torch.zeros((copies, self.meta_config.task_embedding_dim), device=self.context.device)
        initial = self.meta.target_task_coefficient.expand(copies).clone()
        return networks, embeddings, self.make_coefficients(initial)

    def explore(self) -> StageReport | None:
        """All exploration episodes of all tasks in one batch, then e* = the encoder's mean over them."""
        if self.explored:
            return None
        count = self.exploration.exploration_episodes
        tasks = [task for task in self.task_indices for _ in range(count)]
        keys = [self.episode_key(task, episode) for task in self.task_indices for episode in range(count)]
        embeddings = prior_task_embeddings(keys, self.task_embeddings.shape[1]).to(self.context.device)
        policies = FrozenPolicies(
            self.meta.networks, embeddings, self.inputs, self.space.prior, self.episode_noise(keys)
        )
        episodes = self.collect(tasks, keys, policies)
        rows = [self.row("explore", task, episode) for task, episode in zip(tasks, episodes, strict=True)]
        for learner in range(len(self.task_indices)):
            packed = [self.pack(e) for e in episodes[learner * count : (learner + 1) * count]]
            context = torch.cat(packed)[:, : self.meta.context_dim]
            task = self.task_indices[learner]
            self.task_embeddings[learner] = encode_context(
                self.meta, self.meta_config, context, self.context.seed, task
            ).mean
            if self.exploration.replay_exploration:
                for transitions in packed:
                    self.learn_from(learner, transitions)
        self.explored = True
        return StageReport(rows, {"exploration_success": sum(row.success for row in rows) / len(rows)})

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"explored": self.explored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.explored = state["explored"]


@torch.no_grad()
def encode_context(meta: MetaLearner, meta_config: MetaTrainConfig, context: Tensor, seed: int, task: int) -> Gaussian:
    """q(e given c) (E,) from exploration transitions (C, context features), chosen as meta-training chose."""
    drawn = meta_config.context_drawn
    if drawn:
        fields, kept = meta.fields.leading(CONTEXT_LAST_FIELD), meta_config.rewarded_capacity
        replay = MultiTaskReplay(1, len(context), fields, str(context.device), "rewards", kept)
        replay.add(0, context)
        uniform = torch.rand((1, drawn), generator=torch_generator(seed, "e*", task))
        size, this_task = meta_config.context_groups[-1].transitions, torch.tensor([0])
        context = replay.gather(this_task, replay.draw_rewarded_first(this_task, uniform, size))[0]
    posterior = meta.encoder(context[None])
    return Gaussian(posterior.mean[0], posterior.sigma[0])
