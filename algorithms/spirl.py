"""SPiRL: skill-prior reinforcement learning from scratch on each target task.

Pertsch, Lee, Lim 2020, "Accelerating Reinforcement Learning with Learned Skill Priors" (arXiv 2010.11944), with
the settings of SiMPL's comparison (Nam et al. 2022, arXiv 2204.11828, equation 1 and appendix F.3):

    max E [ r(s, z) - alpha KL(pi(z given s), p(z given s)) ]

Stages: data -> skills -> adapt. The high-level policy starts at the skill prior; the low-level policy is fixed.

Differences from paper and released code
- The policy is the residual policy of SiMPL (E.1.3), as in the released SiMPL code, not SPiRL's copy of the prior; how
  it starts, and what else differs in episodes, in the KL's clip and in Adam, is listed in ``simpl.py``.
- Where SiMPL's paper and its released code disagree, the presets ``paper`` and ``released`` take a side each: alpha
  starts at 0.01 (paper), or at 0.05 on the maze and 1 on the kitchen; "the same hyperparameters" as SiMPL (paper, F.3),
  or a clip and, on the kitchen, a rate of alpha of its own.
- Where there are views (image maze), critics see the state, as in SPiRL; the policy sees the state and the skill
  model's frozen features of the view, where SPiRL's policy sees the view alone, by convolutions of its own.
- Target tasks are learned side by side in one stack of independent learners (see ``adaptation.py``).
- Departures, off in ``paper`` and ``released``, each a named field: ``n_step``, ``rewarded_fraction``,
  ``rewarded_capacity``, ``clip_targets``, ``updates_per_episode``, ``zero_initial_values``,
  ``standardise_states``, ``bf16``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from algorithms.adaptation import Adaptation
from algorithms.adaptation_config import AdaptConfig
from algorithms.playback import play_skill_policy
from algorithms.presets import SPIRL_PRESETS, with_skills
from algorithms.regularized_sac import ActorCriticConfig
from algorithms.search_spaces import SPIRL_SPACE
from algorithms.skill_space import learned_skills
from algorithms.skills import SKILLS_STAGE
from algorithms.stage import Algorithm, PlayedEpisode, PlayRequest, StageContext, StageSpec


@dataclass(frozen=True)
class SpirlAdaptConfig(AdaptConfig):
    """Target-task learning from the skill prior."""

    coefficient_only_grows: bool = False
    """alpha is tuned both ways (released)."""
    kl_clip: float = 10.0
    """Clip of the KL in the TD target (released: maze and kitchen 10)."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The high-level policy and critics."""


def make_adapt_stage(config: SpirlAdaptConfig, context: StageContext) -> Adaptation:
    return Adaptation(config, config.actor_critic, learned_skills(context), context)


def play_adapted(config: SpirlAdaptConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    return play_skill_policy(config.actor_critic, learned_skills(context), context, request)


ALGORITHM = Algorithm(
    name="spirl",
    title="SPiRL: skill-prior RL (Pertsch et al. 2020)",
    stages=(
        SKILLS_STAGE,
        StageSpec(
            name="adapt",
            config_class=SpirlAdaptConfig,
            factory=make_adapt_stage,
            inputs=("skills",),
            tasks="target",
            implementation="skill_adaptation/3",
            play=play_adapted,
        ),
    ),
    presets=with_skills(SPIRL_PRESETS),
    search_space=SPIRL_SPACE,
)
