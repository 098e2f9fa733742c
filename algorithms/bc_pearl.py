"""BC+PEARL: meta-RL with a task encoder around a cloned policy, without skills.

SiMPL's appendix A (Nam et al. 2022, arXiv 2204.11828): offline data helps through a flat behaviour policy p(a given s)
instead of skills; then, "analogous to our approach", a task encoder and a policy are meta-trained with

    max E_T, e ~ q(e given c) E [ r(s, a) - alpha KL(pi(a given s, e), p(a given s)) ] - beta KL(q(e given c), N(0, I))

Stages: data -> bc -> meta_train -> adapt. How an update goes: ``task_inference.py`` (PEARL, Rakelly et al. 2019, arXiv
1903.08254). The policy is a residual around the frozen behaviour policy (E.1.3), with whose mean, and sigma + 0.001,
it starts. Target tasks are learned as SiMPL learns them: 20 episodes with e ~ p(e), encode, fine-tune from critics,
alpha and policy.

Differences from the paper (nothing was released)
- The paper gives no number for this baseline. ``target_kl`` is ours: nats for one action, where SiMPL's are for one
  skill of ten; alpha is tuned both ways, as the dual gradient says.
- The policy is an unbounded Gaussian, as the residual parameterisation needs; the world clips actions to [-1, 1]. The
  critics see the action as sampled, and so may value actions that the world treats alike differently.
- Departures, all off in ``paper``, each a named field: ``rewarded_fraction``, ``rewarded_capacity``,
  ``context_drawn``, ``n_step``, ``clip_targets``, ``standardise_states``, ``zero_initial_values``,
  ``replay_exploration``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from algorithms.adaptation_config import AdaptConfig, ExplorationConfig
from algorithms.behavior_cloning import BC_STAGE, load_behavior_policy
from algorithms.encoded_adaptation import EncodedAdaptation
from algorithms.files import load_tensors
from algorithms.meta_training import META_FILE, MetaTraining
from algorithms.playback import play_skill_policy
from algorithms.presets import META_PAPER_BY_DISTRIBUTION
from algorithms.primitive_presets import BC_PEARL_PRESETS
from algorithms.ranges import require_between
from algorithms.regularized_sac import ActorCriticConfig, NetworkConfig, highest_target
from algorithms.search_spaces import ACTION_PRIOR_SPACE
from algorithms.skill_space import SkillSpace, primitive_actions
from algorithms.stage import Algorithm, PlayedEpisode, PlayRequest, StageContext, StageSpec
from algorithms.task_inference import TaskInferenceConfig, TaskInferenceLearner


@dataclass(frozen=True)
class BcPearlMetaTrainConfig(TaskInferenceConfig):
    """Meta-training around the behaviour policy (SiMPL, appendix A)."""

    target_kl: float = 1.0
    """Target of KL(pi, behaviour policy), nats for one action (ours)."""
    kl_clip: float = 20.0
    """Clip of the KL in the TD target (ours: released SiMPL has one, 5 for a skill)."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The policy and critics (as SiMPL's)."""

    def validate(self) -> None:
        super().validate()
        require_between(self, (1e-12, 1e6), "target_kl", "kl_clip")

    @property
    def network_config(self) -> NetworkConfig:
        return self.actor_critic

    @property
    def divergence_clip(self) -> float:
        return self.kl_clip

    def target_divergence(self, action_dim: int) -> float:
        return self.target_kl


@dataclass(frozen=True)
class BcPearlAdaptConfig(AdaptConfig, ExplorationConfig):
    """Target-task learning from the meta-trained policy, critics and alpha, as SiMPL's."""

    coefficient_only_grows: bool = False
    """alpha is tuned both ways, as in meta-training (ours)."""
    kl_clip: float = 20.0
    """Clip of the KL in the TD target (ours, as in meta-training)."""
    replay_capacity: int = 200_000
    """Transitions kept per task: the last 100 episodes of the maze (ours)."""

    def validate(self) -> None:
        super().validate()
        self.validate_exploration(self.episodes)


def cloned_actions(context: StageContext) -> SkillSpace:
    """Primitive actions, and the behaviour policy of the ``bc`` artefact as their prior."""
    return primitive_actions(context, load_behavior_policy(context.inputs["bc"], context.device))


def make_meta_train_stage(config: BcPearlMetaTrainConfig, context: StageContext) -> MetaTraining:
    highest = highest_target(config.clip_targets, context.task_distribution.score_range)
    return MetaTraining(config, _make_learner(config, context, context.seed, highest), cloned_actions(context), context)


def _make_learner(
    config: BcPearlMetaTrainConfig, context: StageContext, seed: int, highest_return: float = math.inf
) -> TaskInferenceLearner:
    distribution = context.task_distribution
    dims = (distribution.observation_dim, distribution.action_dim, 2 * distribution.action_dim)
    return TaskInferenceLearner(config, *dims, seed, highest_return)


def load_meta_trained(context: StageContext) -> tuple[BcPearlMetaTrainConfig, TaskInferenceLearner]:
    """What the ``meta_train`` artefact holds, and the configuration it was made with."""
    saved = load_tensors(context.inputs["meta_train"] / META_FILE)
    config = _saved_config(saved)
    learner = _make_learner(config, context, 0)
    learner.load_state_dict(saved["learner"])
    return config, learner


def _saved_config(saved: Mapping[str, Any]) -> BcPearlMetaTrainConfig:
    actor_critic = ActorCriticConfig(**saved["config"]["actor_critic"])
    return BcPearlMetaTrainConfig(**{**saved["config"], "actor_critic": actor_critic})


def make_adapt_stage(config: BcPearlAdaptConfig, context: StageContext) -> EncodedAdaptation:
    return EncodedAdaptation(config, *load_meta_trained(context), cloned_actions(context), context)


def play_adapted(config: BcPearlAdaptConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    meta_config = _saved_config(load_tensors(context.inputs["meta_train"] / META_FILE))
    return play_skill_policy(meta_config.actor_critic, cloned_actions(context), context, request)


ALGORITHM = Algorithm(
    name="bc+pearl",
    title="BC+PEARL: PEARL around a cloned policy (Nam et al. 2022, appendix A)",
    stages=(
        BC_STAGE,
        StageSpec(
            name="meta_train",
            config_class=BcPearlMetaTrainConfig,
            factory=make_meta_train_stage,
            inputs=("bc",),
            tasks="train",
            implementation="bc_pearl_meta_train/2",
        ),
        StageSpec(
            name="adapt",
            config_class=BcPearlAdaptConfig,
            factory=make_adapt_stage,
            inputs=("bc", "meta_train"),
            tasks="target",
            implementation="bc_pearl_adapt/2",
            play=play_adapted,
        ),
    ),
    presets=BC_PEARL_PRESETS,
    distribution_presets=META_PAPER_BY_DISTRIBUTION,
    search_space=ACTION_PRIOR_SPACE,
    needs_train_tasks=True,
)
