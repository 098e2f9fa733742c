"""SAC: soft actor-critic from scratch on each target task, with primitive actions.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905), as the baseline of SiMPL's
comparison (Nam et al. 2022, arXiv 2204.11828, appendix F.1): no offline data, no meta-training tasks.

    max E [ r(s, a) + alpha H(pi(. given s)) ],   alpha tuned to the target entropy -dim(A)

Stages: adapt. The policy is a tanh Gaussian; twin critics; targets bootstrap past the time limit, not past success.

Differences from paper and released code (the SiMPL release has no SAC)
- Updates come after each episode, as many as ``transition_reuse`` says, instead of after each env_step.
- Target tasks are learned side by side in one stack of independent learners (see ``adaptation.py``).
- Budgets of the paper that it does not state (replay, updates per env_step) are named in the configuration.
- Departures, all off in ``paper``, each a named field: ``rewarded_fraction``, ``rewarded_capacity``, ``n_step``,
  ``clip_targets``, ``updates_per_episode``, ``standardise_states``, ``zero_initial_values``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from algorithms.adaptation import Adaptation
from algorithms.adaptation_config import SacConfig
from algorithms.playback import play_skill_policy
from algorithms.primitive_presets import SAC_PRESETS
from algorithms.regularized_sac import SquashedActorCriticConfig
from algorithms.search_spaces import SAC_SPACE
from algorithms.skill_space import primitive_actions
from algorithms.stage import Algorithm, PlayedEpisode, PlayRequest, StageContext, StageSpec


@dataclass(frozen=True)
class SacAdaptConfig(SacConfig):
    """Soft actor-critic from scratch on each target task."""

    actor_critic: SquashedActorCriticConfig = field(default_factory=SquashedActorCriticConfig)
    """The policy and critics."""


def make_adapt_stage(config: SacAdaptConfig, context: StageContext) -> Adaptation:
    return Adaptation(config, config.actor_critic, primitive_actions(context), context)


def play_adapted(config: SacAdaptConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    return play_skill_policy(config.actor_critic, primitive_actions(context), context, request)


ALGORITHM = Algorithm(
    name="sac",
    title="SAC: soft actor-critic from scratch (Haarnoja et al. 2018)",
    stages=(
        StageSpec(
            name="adapt",
            config_class=SacAdaptConfig,
            factory=make_adapt_stage,
            inputs=(),
            tasks="target",
            implementation="sac/2",
            play=play_adapted,
        ),
    ),
    presets=SAC_PRESETS,
    search_space=SAC_SPACE,
)
