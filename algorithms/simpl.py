"""SiMPL: skill-based meta-policy learning.

Nam, Sun, Pertsch, Hwang, Lim 2022, "Skill-based Meta-Reinforcement Learning" (arXiv 2204.11828).

Stages: data -> skills (4.1) -> meta_train (4.2) -> adapt (4.3)

    equation 4:  max E_T, e ~ q(e given c) E [ r(s, z) - alpha KL(pi(z given s, e), p(z given s)) ]
                 with alpha_1 for small contexts and alpha_2 for large ones, tuned to target KLs delta_1 < delta_2
    equation 5:  the same on the target task with e* ~ q(e given c*), c* from 20 episodes with e ~ p(e)

One meta-training update (order of the released code)

    context sets -> e -> RL batch -> TD target -> critics and encoder -> target networks
      -> encoder coefficients -> policy -> policy coefficients

The task encoder learns through the critic loss and its KL to N(0, I) alone; the policy sees e detached; e is
sampled once per transition. Contexts hold episodes collected with e ~ p(e) only; both kinds feed the critics.

Differences from paper and released code (``paper`` keeps the released values; each field names the other)
- Departures, all off in ``paper``, each a named field: ``rewarded_fraction``, ``context_drawn`` and
  ``rewarded_capacity`` bring rare rewarded transitions into critics' batches and contexts, and keep them; ``n_step``;
  ``clip_targets``; ``zero_initial_values``; ``standardise_states``; ``bf16``; ``replay_exploration``.
- The residual policy starts exactly at the prior (last layer zero); the released code leaves that open.
- Where there are views (image maze), the policy sees the state and the skill model's frozen features of the view,
  critics and task encoder the state alone. Appendix C does not say what sees images; no code of it was released.
- Prior parameters are stored with transitions, all tasks go through the networks in one pass, and the encoder
  folds projections: the same function, cheaper.

Axes: N task, S context set, C context transition, B transitions per set, E task embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from algorithms.adaptation_config import AdaptConfig, ExplorationConfig
from algorithms.encoded_adaptation import EncodedAdaptation
from algorithms.files import load_tensors
from algorithms.meta_training import META_FILE, ContextGroup, MetaLearner, MetaTrainConfig, MetaTraining
from algorithms.networks import Gaussian, torch_generator
from algorithms.playback import play_skill_policy
from algorithms.presets import SIMPL_PRESETS, with_skills
from algorithms.ranges import COUNT, WEIGHT, require_between
from algorithms.regularized_sac import (
    ActorCriticConfig,
    DualCoefficients,
    SkillActorCritic,
    critic_loss,
    highest_target,
    policy_loss,
    td_target,
)
from algorithms.set_transformer import TaskEncoder
from algorithms.skill_space import SkillSpace, learned_skills
from algorithms.skills import SKILLS_STAGE
from algorithms.stage import Algorithm, PlayedEpisode, PlayRequest, StageContext, StageSpec
from algorithms.transitions import CONTEXT_LAST_FIELD, TransitionBatch, transition_fields


@dataclass(frozen=True)
class SimplMetaTrainConfig(MetaTrainConfig):
    """Skill-based meta-training. Values: released code for the maze, unless a line says otherwise."""

    small_context_tasks: int = 4
    """Context sets of ``small_context`` per update (released: 4; paper: 20 tasks in all)."""
    large_context_tasks: int = 26
    """Context sets of ``large_context`` per update (released: 26)."""
    small_context: int = 4
    """Transitions in a small context (paper: maze 4, kitchen 2)."""
    large_context: int = 8192
    """Transitions in a large context (paper: maze 8192, kitchen 1024)."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The high-level policy and critics."""
    small_target_kl: float = 0.5
    """delta_1 (released: 0.5; paper: 0.1)."""
    large_target_kl: float = 1.0
    """delta_2 (released: 1; paper: 0.4)."""
    small_initial_coefficient: float = 3e-3
    """alpha_1 at the start (released)."""
    large_initial_coefficient: float = 1e-3
    """alpha_2 at the start (released)."""
    small_encoder_target_kl: float = 1.0
    """Target of KL(q(e given c), N(0, I)) for small contexts (released)."""
    large_encoder_target_kl: float = 10.0
    """The same for large contexts (released)."""
    small_initial_encoder_coefficient: float = 1e-5
    """Its weight at the start, one shared by all tasks (released)."""
    large_initial_encoder_coefficient: float = 3e-6
    """Its weight at the start, one per training task (released)."""
    kl_clip: float = 5.0
    """Clip of the KL in the TD target (released: maze 5, kitchen 6)."""
    policy_coefficients_only_grow: bool = True
    """alpha_1 and alpha_2 are never lowered (released); off: dual gradient both ways (paper, section 4.2)."""
    bf16: bool = False
    """Departure: networks in bfloat16 autocast (off: float32)."""

    def validate(self) -> None:
        require_between(self, COUNT, "small_context", "large_context")
        require_between(self, (1, 10_000), "small_context_tasks", "large_context_tasks")
        super().validate()
        for kind in ("target_kl", "initial_coefficient", "encoder_target_kl", "initial_encoder_coefficient"):
            require_between(self, WEIGHT, f"small_{kind}", f"large_{kind}")
        require_between(self, WEIGHT, "kl_clip")

    @property
    def context_groups(self) -> tuple[ContextGroup, ...]:
        return (
            ContextGroup(self.small_context_tasks, self.small_context),
            ContextGroup(self.large_context_tasks, self.large_context),
        )


class SimplLearner(MetaLearner):
    """Task encoder, task-conditioned actor-critic, dual coefficients, and their joint update."""

    config: SimplMetaTrainConfig
    encoder: TaskEncoder

    def __init__(
        self,
        config: SimplMetaTrainConfig,
        state_dim: int,
        latent_dim: int,
        task_count: int,
        seed: int,
        highest_return: float = math.inf,
        feature_dim: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        self.highest_target = highest_return if config.clip_targets else math.inf
        self.fields = transition_fields(state_dim, latent_dim, 2 * latent_dim, feature_dim)
        self.context_dim = self.fields.through(CONTEXT_LAST_FIELD)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "meta_train", "encoder").initial_seed())
            self.encoder = TaskEncoder(self.context_dim, config.task_embedding_dim, config.encoder_hidden_dim)
        self.networks = SkillActorCritic(
            config.actor_critic,
            state_dim,
            latent_dim,
            config.task_embedding_dim,
            1,
            torch_generator(seed, "meta_train", "init"),
            feature_dim,
        )
        rate = config.coefficient_learning_rate
        initial_policy = torch.tensor([config.small_initial_coefficient, config.large_initial_coefficient])
        only_grow = config.policy_coefficients_only_grow
        self.policy_coefficients = DualCoefficients(initial_policy, rate, only_grow)  # [small, large]
        initial_encoder = torch.full((1 + task_count,), config.large_initial_encoder_coefficient)
        initial_encoder[0] = config.small_initial_encoder_coefficient
        self.encoder_coefficients = DualCoefficients(initial_encoder, rate)  # [small, task 0, task 1, ...]

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        coefficients = (self.policy_coefficients, self.encoder_coefficients)
        return (self.critic_optimizer, self.policy_optimizer, *(group.optimizer for group in coefficients))

    @property
    def target_task_coefficient(self) -> Tensor:
        """The large-context one (E.2.2)."""
        return self.policy_coefficients.values[1]

    # -- losses --------------------------------------------------------------------------------

    def encode(self, small_contexts: Tensor, large_contexts: Tensor) -> Gaussian:
        """q(e given c) of all sets, small first: (S, E)."""
        small, large = self.encoder(small_contexts), self.encoder(large_contexts)
        return Gaussian(torch.cat([small.mean, large.mean]), torch.cat([small.sigma, large.sigma]))

    def encoder_regularisation(self, posterior: Gaussian, coefficient_index: Tensor) -> tuple[Tensor, Tensor]:
        """(mean over sets of coefficient x KL(q, N(0, I)), KL (S,))."""
        kl = posterior.kl_to_unit()
        return (self.encoder_coefficients.values[coefficient_index] * kl).mean(), kl

    def losses_of_critic_and_encoder(
        self, rows: Tensor, contexts: Sequence[Tensor], tasks: Tensor, noise: Tensor
    ) -> tuple[Tensor, TransitionBatch, Tensor, Tensor, Tensor]:
        """(loss, batch with e attached, row coefficients (1, S B), encoder KL (S,), coefficient index (S,)).

        ``rows`` (S, B, F), ``contexts`` (small, large), ``tasks`` (S,) with the small-context sets first,
        ``noise`` (2, S B, Z + E).
        """
        config = self.config
        sets, per_set = rows.shape[:2]
        posterior = self.encode(*contexts)
        spread = Gaussian(posterior.mean.repeat_interleave(per_set, 0), posterior.sigma.repeat_interleave(per_set, 0))
        embeddings = spread.sample(noise[0, :, self.latent_dim :])[None]
        batch = TransitionBatch.from_rows(self.fields, rows.reshape(1, sets * per_set, -1), embeddings)
        is_large = (torch.arange(sets, device=rows.device) >= config.small_context_tasks).long()
        coefficients = self.policy_coefficients.values[is_large].repeat_interleave(per_set)[None]
        skill_noise = noise[0, :, : self.latent_dim][None]
        targets = td_target(self.networks, batch, coefficients, skill_noise, config.kl_clip, self.highest_target)
        coefficient_index = torch.where(is_large.bool(), 1 + tasks.to(rows.device), 0)
        regularisation, kl = self.encoder_regularisation(posterior, coefficient_index)
        loss = critic_loss(self.networks, batch, targets).sum() + regularisation
        return loss, batch, coefficients, kl.detach(), coefficient_index

    # -- update --------------------------------------------------------------------------------

    def update(self, rows: Tensor, contexts: Sequence[Tensor], tasks: Tensor, noise: Tensor) -> dict[str, float]:
        """One meta-training update; shapes as in ``losses_of_critic_and_encoder``."""
        config = self.config
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            critic_total, batch, coefficients, encoder_kl, coefficient_index = self.losses_of_critic_and_encoder(
                rows, contexts, tasks, noise
            )
        self.critic_optimizer.zero_grad()
        critic_total.backward()
        self.critic_optimizer.step()
        self.networks.update_targets(config.target_rate)
        self._update_encoder_coefficients(encoder_kl, coefficient_index)

        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            losses, kl = policy_loss(self.networks, batch, coefficients, noise[1, :, : self.latent_dim][None])
        self.policy_optimizer.zero_grad()
        losses.sum().backward()
        self.policy_optimizer.step()
        small_rows = config.small_context_tasks * rows.shape[1]
        kl = kl.detach()
        small_kl, large_kl = kl[0, :small_rows].mean(), kl[0, small_rows:].mean()
        targets = kl.new_tensor([config.small_target_kl, config.large_target_kl])
        self.policy_coefficients.update(torch.stack([small_kl, large_kl]) - targets)
        small_sets = config.small_context_tasks
        return {
            "critic_loss": float(critic_total.detach()),
            "policy_loss": float(losses.detach().sum()),
            "small_kl": float(small_kl),
            "large_kl": float(large_kl),
            "small_coefficient": float(self.policy_coefficients.values[0]),
            "large_coefficient": float(self.policy_coefficients.values[1]),
            "small_encoder_kl": float(encoder_kl[:small_sets].mean()),
            "large_encoder_kl": float(encoder_kl[small_sets:].mean()),
        }

    def _update_encoder_coefficients(self, encoder_kl: Tensor, coefficient_index: Tensor) -> None:
        """Each coefficient sees the mean excess of its own sets; one whose task is not in the batch sees 0."""
        config = self.config
        target = torch.where(coefficient_index == 0, config.small_encoder_target_kl, config.large_encoder_target_kl)
        shape = self.encoder_coefficients.raw.shape
        zeros = torch.zeros(shape, device=encoder_kl.device)
        excess = zeros.index_add(0, coefficient_index, encoder_kl - target)
        counts = zeros.index_add(0, coefficient_index, torch.ones_like(encoder_kl))
        self.encoder_coefficients.update(excess / counts.clamp(min=1))


def make_meta_train_stage(config: SimplMetaTrainConfig, context: StageContext) -> MetaTraining:
    distribution, space = context.task_distribution, learned_skills(context)
    state_dim, feature_dim = space.state_dims(distribution)
    learner = SimplLearner(
        config,
        state_dim,
        space.latent_dim,
        len(distribution.train_tasks),
        context.seed,
        highest_target(config.clip_targets, distribution.score_range),
        feature_dim,
    )
    return MetaTraining(config, learner, space, context)


@dataclass(frozen=True)
class SimplAdaptConfig(AdaptConfig, ExplorationConfig):
    """Target-task learning from the meta-trained policy, critics and alpha (section 4.3, E.2.2)."""

    def validate(self) -> None:
        super().validate()
        self.validate_exploration(self.episodes)


def make_adapt_stage(config: SimplAdaptConfig, context: StageContext) -> EncodedAdaptation:
    """20 episodes with e ~ p(e), encode them, then fine-tune pi(z given s, e*) (equation 5)."""
    space = learned_skills(context)
    meta_config, learner = load_meta_trained(context, space)
    return EncodedAdaptation(config, meta_config, learner, space, context)


def load_meta_trained(context: StageContext, space: SkillSpace) -> tuple[SimplMetaTrainConfig, SimplLearner]:
    """What the ``meta_train`` artefact holds, and the configuration it was made with."""
    saved = load_tensors(context.inputs["meta_train"] / META_FILE)
    config = _saved_config(saved)
    state_dim, feature_dim = space.state_dims(context.task_distribution)
    learner = SimplLearner(config, state_dim, space.latent_dim, saved["train_tasks"], seed=0, feature_dim=feature_dim)
    learner.load_state_dict(saved["learner"])
    return config, learner


def _saved_config(saved: Mapping[str, Any]) -> SimplMetaTrainConfig:
    """The configuration in a meta_train artefact."""
    actor_critic = ActorCriticConfig(**saved["config"]["actor_critic"])
    return SimplMetaTrainConfig(**{**saved["config"], "actor_critic": actor_critic})


def play_adapted(config: SimplAdaptConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    meta_config = _saved_config(load_tensors(context.inputs["meta_train"] / META_FILE))
    return play_skill_policy(meta_config.actor_critic, learned_skills(context), context, request)


ALGORITHM = Algorithm(
    name="simpl",
    title="SiMPL: skill-based meta-policy learning (Nam et al. 2022)",
    stages=(
        SKILLS_STAGE,
        StageSpec(
            name="meta_train",
            config_class=SimplMetaTrainConfig,
            factory=make_meta_train_stage,
            inputs=("skills",),
            tasks="train",
            implementation="simpl_meta_train/1",
        ),
        StageSpec(
            name="adapt",
            config_class=SimplAdaptConfig,
            factory=make_adapt_stage,
            inputs=("skills", "meta_train"),
            tasks="target",
            implementation="simpl_adapt/1",
            play=play_adapted,
        ),
    ),
    presets=with_skills(SIMPL_PRESETS),
    needs_train_tasks=True,
)
