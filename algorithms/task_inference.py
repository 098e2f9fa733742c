"""Meta-training with a task encoder and primitive actions: what PEARL and BC+PEARL share.

Rakelly et al. 2019, "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables" (PEARL,
arXiv 1903.08254), algorithm 1. One update:

    contexts c_T of ``tasks_per_update`` tasks -> e_T ~ q(e given c_T), one for each task
      -> critics and encoder:  critic loss + beta KL(q(e given c_T), N(0, I))
      -> target critics -> policy (sees e detached) -> alpha

Losses are means over all tasks' transitions, so gradients are averaged over tasks; the two critics' are added up
(released). Contexts come from a replay of their own, which holds recent episodes with e ~ p(e) (``meta_training.py``);
critics learn from both kinds of episodes, those of the warm-up included (released, unlike SiMPL's).

What regularises the policy is its head's divergence: log pi (PEARL) or the KL to a behaviour policy (BC+PEARL).

Axes: S context set (one per task of the update), C context transition, B transitions per set, E task embedding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algorithms.gaussian_product_encoder import GaussianProductEncoder
from algorithms.meta_training import ContextGroup, MetaLearner, MetaTrainConfig
from algorithms.networks import Gaussian, torch_generator
from algorithms.ranges import COUNT, WEIGHT, require_between
from algorithms.regularized_sac import (
    DualCoefficients,
    NetworkConfig,
    SkillActorCritic,
    critic_errors,
    highest_soft_value,
    policy_loss,
    td_target,
)
from algorithms.set_transformer import TaskEncoder
from algorithms.transitions import CONTEXT_LAST_FIELD, TransitionBatch, transition_fields


@dataclass(frozen=True)
class TaskInferenceConfig(MetaTrainConfig):
    """Meta-training with a task encoder and primitive actions. SiMPL's paper states tasks per update, the initial alpha
    and its target for PEARL; the rest is Rakelly et al.'s released code, or ours where a line says so."""

    epochs: int = 1000
    """Each: one episode per task with e ~ p(e) and one with e ~ q (``paper``: as many as SiMPL's)."""
    tasks_per_update: int = 20
    """Tasks whose gradients are averaged (SiMPL F.2: 20)."""
    context_transitions: int = 256
    """Transitions that an update encodes of each task (Rakelly et al.: 64, on the sparse point robot 1,024)."""
    transitions_per_task: int = 256
    """RL transitions per task and update (Rakelly et al.: 256)."""
    warm_up_transitions: int = 2000
    """Context transitions collected per task before the first epoch (Rakelly et al.: 2,000 on the robots)."""
    transition_reuse: float = 20.0
    """Updates per epoch = this x transitions collected / tasks / transitions_per_task (Rakelly et al.: 4,000 updates
    of 16 tasks x 256 for 5,000 env_steps, far more; ours)."""
    replay_capacity: int = 100_000
    """Transitions kept per task for the critics (Rakelly et al.: 1,000,000 in all)."""
    context_capacity: int = 20_000
    """Transitions kept per task for contexts, so contexts are recent (Rakelly et al.: the last iteration's)."""
    encoder: Literal["gaussian_product", "set_transformer"] = "gaussian_product"
    """``gaussian_product``: Rakelly et al.; ``set_transformer``: SiMPL's encoder."""
    encoder_hidden_dim: int = 200
    """Width of the encoder (Rakelly et al.: 200)."""
    encoder_hidden_layers: int = 3
    """Hidden layers of the Gaussian product's factors (Rakelly et al.: 3)."""
    encoder_kl_weight: float = 1.6e-3
    """beta, the weight of the mean over tasks of KL(q(e given c), N(0, I)), beside squared errors of unscaled rewards.
    Rakelly et al. write 0.1, and 1 where the reward is sparse, of a sum over 16 tasks, beside errors of rewards that
    are multiplied by 5 on cheetahs and by 100 on point robots. Of ours that is 0.1 x 16 / 5^2 = 0.064 and
    0.1 x 16 / 100^2 = 1.6e-4, and 1 x 16 / 100^2 = 1.6e-3 where the reward is sparse, as in the maze."""
    initial_coefficient: float = 0.1
    """alpha at the start (SiMPL F.2: 0.1)."""

    def validate(self) -> None:
        require_between(self, (1, 10_000), "tasks_per_update", "encoder_hidden_layers")
        require_between(self, COUNT, "context_transitions")
        require_between(self, WEIGHT, "encoder_kl_weight", "initial_coefficient")
        super().validate()

    @property
    def context_groups(self) -> tuple[ContextGroup, ...]:
        return (ContextGroup(self.tasks_per_update, self.context_transitions),)

    @property
    @abstractmethod
    def network_config(self) -> NetworkConfig:
        """Shape and head of policy and critics."""

    @property
    def divergence_clip(self) -> float:
        """Clip of the divergence in the TD target."""
        return math.inf

    @abstractmethod
    def target_divergence(self, action_dim: int) -> float:
        """What alpha is tuned towards."""


class TaskInferenceLearner(MetaLearner):
    """Task encoder, task-conditioned actor-critic, alpha, and their joint update."""

    config: TaskInferenceConfig
    encoder: GaussianProductEncoder | TaskEncoder
    warm_up_feeds_critics = True
    """As in Rakelly et al.'s released code."""

    def __init__(
        self,
        config: TaskInferenceConfig,
        observation_dim: int,
        action_dim: int,
        prior_dim: int,
        seed: int,
        highest_return: float = math.inf,
    ) -> None:
        super().__init__()
        self.config, self.latent_dim = config, action_dim
        self.highest_return = highest_return if config.clip_targets else math.inf
        self.fields = transition_fields(observation_dim, action_dim, prior_dim)
        self.context_dim = self.fields.through(CONTEXT_LAST_FIELD)
        embedding_dim, hidden_dim = config.task_embedding_dim, config.encoder_hidden_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "meta_train", "encoder").initial_seed())
            if config.encoder == "gaussian_product":
                layers = config.encoder_hidden_layers
                self.encoder = GaussianProductEncoder(self.context_dim, embedding_dim, hidden_dim, layers)
            else:
                self.encoder = TaskEncoder(self.context_dim, embedding_dim, hidden_dim)
        dims = (observation_dim, action_dim, embedding_dim, 1)
        self.networks = SkillActorCritic(config.network_config, *dims, torch_generator(seed, "meta_train", "init"))
        rate = config.coefficient_learning_rate
        initial, kind = torch.tensor([config.initial_coefficient]), self.networks.head.coefficient
        self.coefficient = DualCoefficients(initial, rate, growing_only=False, kind=kind)

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.critic_optimizer, self.policy_optimizer, self.coefficient.optimizer)

    @property
    def target_task_coefficient(self) -> Tensor:
        """alpha as meta-training left it (SiMPL F.2)."""
        return self.coefficient.values[0]

    # -- losses --------------------------------------------------------------------------------

    def encoder_loss(self, posterior: Gaussian) -> tuple[Tensor, Tensor]:
        """(beta x mean over tasks of KL(q, N(0, I)), KL (S,))."""
        kl = posterior.kl_to_unit()
        return self.config.encoder_kl_weight * kl.mean(), kl

    def losses_of_critic_and_encoder(
        self, rows: Tensor, contexts: Tensor, noise: Tensor
    ) -> tuple[Tensor, TransitionBatch, Tensor]:
        """(loss, batch with e attached, encoder KL (S,)).

        ``rows`` (S, B, F), ``contexts`` (S, C, context features), ``noise`` (2, S B, Z + E): the first row of each set
        draws the set's e.
        """
        sets, per_set = rows.shape[:2]
        posterior = self.encoder(contexts)
        task_noise = noise[0].view(sets, per_set, -1)[:, 0, self.latent_dim :]
        embeddings = posterior.sample(task_noise).repeat_interleave(per_set, 0)[None]
        batch = TransitionBatch.from_rows(self.fields, rows.reshape(1, sets * per_set, -1), embeddings)
        alpha, action_noise = self.coefficient.values, noise[0, :, : self.latent_dim][None]
        clip, head = self.config.divergence_clip, self.networks.head
        highest = highest_soft_value(head, self.highest_return, alpha, self.config.discount, self.latent_dim)
        targets = td_target(self.networks, batch, alpha, action_noise, clip, highest)
        regularisation, kl = self.encoder_loss(posterior)
        return critic_errors(self.networks, batch, targets).sum() + regularisation, batch, kl.detach()

    # -- update --------------------------------------------------------------------------------

    def update(self, rows: Tensor, contexts: Sequence[Tensor], tasks: Tensor, noise: Tensor) -> dict[str, float]:
        """One meta-training update; shapes as in ``losses_of_critic_and_encoder``."""
        critic_total, batch, encoder_kl = self.losses_of_critic_and_encoder(rows, contexts[0], noise)
        self.critic_optimizer.zero_grad()
        critic_total.backward()
        self.critic_optimizer.step()
        self.networks.update_targets(self.config.target_rate)

        action_noise = noise[1, :, : self.latent_dim][None]
        losses, divergence = policy_loss(self.networks, batch, self.coefficient.values, action_noise)
        self.policy_optimizer.zero_grad()
        losses.sum().backward()
        self.policy_optimizer.step()
        divergence = divergence.detach().mean()
        self.coefficient.update((divergence - self.config.target_divergence(self.latent_dim))[None])
        return {
            "critic_loss": float(critic_total.detach()),
            "policy_loss": float(losses.detach().sum()),
            "divergence": float(divergence),
            "coefficient": float(self.coefficient.values[0]),
            "encoder_kl": float(encoder_kl.mean()),
        }
