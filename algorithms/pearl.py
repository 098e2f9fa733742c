"""PEARL and PEARL-ft: meta-RL with a task encoder and primitive actions, without offline data.

Rakelly et al. 2019 (PEARL, arXiv 1903.08254), as in SiMPL's comparison (Nam et al. 2022, arXiv 2204.11828, section 5.2
and appendix F.2):

    max E_T, e ~ q(e given c) E [ r(s, a) + alpha H(pi(. given s, e)) ] - beta KL(q(e given c), N(0, I))

Stages: meta_train -> adapt, the first the same for both. How an update goes: ``task_inference.py``.

    pearl       encodes 20 episodes with e ~ p(e), then acts with pi(a given s, e*); nothing is learned any more
    pearl-ft    continues with SAC from the meta-trained critics, alpha and pi(a given s, e*)

Differences from papers and released code (SiMPL released neither; PEARL's code is katerakelly/oyster)
- Twin target critics instead of a value network: soft actor-critic as of 2018, as everywhere here.
- alpha is tuned to the target entropy -dim(A), from 0.1 (SiMPL F.2; Rakelly et al. scale the reward instead, by 5 to
  100, which is an alpha of 0.2 to 0.01 that stays).
- Nothing else regularises the policy (released: 1e-3 of the squares of its mean and of its log sigma besides).
- Contexts hold (s, a, r, done, s') (Rakelly et al.: (s, a, r), s' as an option), as in SiMPL.
- KL(q, N(0, I)) enters as a mean over tasks (released: a sum over 16 tasks, beside means of the critics' errors); its
  weight is converted (``encoder_kl_weight``).
- Whole episodes are collected; ``pearl`` keeps e* once the exploration is over. ``posterior_sampling`` is Rakelly et
  al.'s own protocol: e is drawn anew for each exploration episode, given those before. Where the reward is sparse their
  code explores with e ~ p(e), then draws e anew for each of ``inferring_episodes``, and critics learn from a dense
  reward (``dense_critic_rewards``).
- Contexts hold no episodes with e ~ q, but where ``posterior_contexts`` says so (released: where the reward is sparse).
  With a dense reward an encoder that sees them learns to read where the policy went instead of what it was rewarded for
  (results/validation has the numbers).
- Departures, all off in ``paper``, each a named field: ``rewarded_fraction``, ``rewarded_capacity``, ``context_drawn``,
  ``n_step``, ``clip_targets``, ``standardise_states``, ``zero_initial_values``, ``replay_exploration``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from algorithms.adaptation_config import ExplorationConfig, SacConfig
from algorithms.encoded_adaptation import EncodedAdaptation
from algorithms.files import load_tensors
from algorithms.meta_training import META_FILE, MetaTraining
from algorithms.playback import play_skill_policy
from algorithms.posterior_adaptation import PosteriorAdaptation, PosteriorAdaptConfig
from algorithms.presets import META_PAPER_BY_DISTRIBUTION
from algorithms.primitive_presets import PEARL_FT_PRESETS, PEARL_PRESETS
from algorithms.ranges import require_between
from algorithms.regularized_sac import NetworkConfig, SquashedActorCriticConfig, highest_target
from algorithms.search_spaces import ENTROPY_SPACE, PEARL_SPACE
from algorithms.skill_space import primitive_actions
from algorithms.stage import Algorithm, PlayedEpisode, PlayRequest, StageContext, StageSpec
from algorithms.task_inference import TaskInferenceConfig, TaskInferenceLearner


@dataclass(frozen=True)
class PearlMetaTrainConfig(TaskInferenceConfig):
    """PEARL on the meta-training tasks (SiMPL F.2)."""

    target_entropy_per_action_dim: float = -1.0
    """Target entropy, per dimension of the action (SiMPL F.2: -dim(A))."""
    actor_critic: SquashedActorCriticConfig = field(default_factory=lambda: SquashedActorCriticConfig(hidden_layers=3))
    """The policy and critics (Rakelly et al.: 3 hidden layers of 300)."""

    def validate(self) -> None:
        super().validate()
        require_between(self, (-100.0, 100.0), "target_entropy_per_action_dim")

    @property
    def network_config(self) -> NetworkConfig:
        return self.actor_critic

    def target_divergence(self, action_dim: int) -> float:
        return -self.target_entropy_per_action_dim * action_dim


@dataclass(frozen=True)
class PearlFtAdaptConfig(SacConfig, ExplorationConfig):
    """SAC on the target task, from the task-conditioned policy, critics and alpha of meta-training (SiMPL F.2)."""

    def validate(self) -> None:
        super().validate()
        self.validate_exploration(self.episodes)


def make_meta_train_stage(config: PearlMetaTrainConfig, context: StageContext) -> MetaTraining:
    highest = highest_target(config.clip_targets, context.task_distribution.score_range)
    learner = _make_learner(config, context, context.seed, highest)
    return MetaTraining(config, learner, primitive_actions(context), context)


def _make_learner(
    config: PearlMetaTrainConfig, context: StageContext, seed: int, highest_return: float = math.inf
) -> TaskInferenceLearner:
    distribution = context.task_distribution
    dims = (distribution.observation_dim, distribution.action_dim)
    return TaskInferenceLearner(config, *dims, 0, seed, highest_return)


def load_meta_trained(context: StageContext) -> tuple[PearlMetaTrainConfig, TaskInferenceLearner]:
    """What the ``meta_train`` artefact holds, and the configuration it was made with."""
    saved = load_tensors(context.inputs["meta_train"] / META_FILE)
    config = _saved_config(saved)
    learner = _make_learner(config, context, 0)
    learner.load_state_dict(saved["learner"])
    return config, learner


def _saved_config(saved: Mapping[str, Any]) -> PearlMetaTrainConfig:
    actor_critic = SquashedActorCriticConfig(**saved["config"]["actor_critic"])
    return PearlMetaTrainConfig(**{**saved["config"], "actor_critic": actor_critic})


def make_pearl_adapt_stage(config: PosteriorAdaptConfig, context: StageContext) -> PosteriorAdaptation:
    return PosteriorAdaptation(config, *load_meta_trained(context), primitive_actions(context), context)


def make_pearl_ft_adapt_stage(config: PearlFtAdaptConfig, context: StageContext) -> EncodedAdaptation:
    return EncodedAdaptation(config, *load_meta_trained(context), primitive_actions(context), context)


def play_adapted(
    config: PosteriorAdaptConfig | PearlFtAdaptConfig, context: StageContext, request: PlayRequest
) -> list[PlayedEpisode]:
    meta_config = _saved_config(load_tensors(context.inputs["meta_train"] / META_FILE))
    return play_skill_policy(meta_config.actor_critic, primitive_actions(context), context, request)


META_TRAIN_STAGE = StageSpec(
    name="meta_train",
    config_class=PearlMetaTrainConfig,
    factory=make_meta_train_stage,
    inputs=(),
    tasks="train",
    implementation="pearl_meta_train/2",
)

PEARL = Algorithm(
    name="pearl",
    title="PEARL: off-policy meta-RL with a task encoder (Rakelly et al. 2019)",
    stages=(
        META_TRAIN_STAGE,
        StageSpec(
            name="adapt",
            config_class=PosteriorAdaptConfig,
            factory=make_pearl_adapt_stage,
            inputs=("meta_train",),
            tasks="target",
            implementation="pearl_adapt/2",
            play=play_adapted,
        ),
    ),
    presets=PEARL_PRESETS,
    distribution_presets=META_PAPER_BY_DISTRIBUTION,
    search_space=PEARL_SPACE,
    needs_train_tasks=True,
)

PEARL_FT = Algorithm(
    name="pearl-ft",
    title="PEARL-ft: PEARL, then SAC on the target task (Nam et al. 2022, appendix F.2)",
    stages=(
        META_TRAIN_STAGE,
        StageSpec(
            name="adapt",
            config_class=PearlFtAdaptConfig,
            factory=make_pearl_ft_adapt_stage,
            inputs=("meta_train",),
            tasks="target",
            implementation="pearl_ft_adapt/2",
            play=play_adapted,
        ),
    ),
    presets=PEARL_FT_PRESETS,
    distribution_presets=META_PAPER_BY_DISTRIBUTION,
    search_space=ENTROPY_SPACE,
    needs_train_tasks=True,
)
