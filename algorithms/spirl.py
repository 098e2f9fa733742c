"""SPiRL: skill-prior reinforcement learning from scratch on each target task.

Pertsch, Lee, Lim 2020, "Accelerating Reinforcement Learning with Learned Skill Priors" (arXiv 2010.11944), with
the settings of SiMPL's comparison (Nam et al. 2022, arXiv 2204.11828, equation 1 and appendix F.3):

    max E [ r(s, z) - alpha KL(pi(z given s), p(z given s)) ]

Stages: data -> skills -> adapt. The high-level policy starts at the skill prior; the low-level policy is fixed.

Differences from paper and released code
- The policy is the residual policy of SiMPL (E.1.3), as in the released SiMPL code, not SPiRL's copy of the prior.
- alpha starts at 0.05 (released) where the paper says 0.01.
- Target tasks are learned side by side in one stack of independent learners (see ``adaptation.py``).
- Departures, all off in ``paper``, each a named field: ``n_step``, ``rewarded_fraction``, ``clip_targets``,
  ``updates_per_episode``, ``zero_initial_values``, ``standardise_states``, ``bf16``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from algorithms.adaptation import AdaptConfig, SkillAdaptation
from algorithms.regularized_sac import ActorCriticConfig
from algorithms.skills import SKILL_PRESETS, SKILLS_STAGE
from algorithms.stage import Algorithm, StageContext, StageSpec


@dataclass(frozen=True)
class SpirlAdaptConfig(AdaptConfig):
    """Target-task learning from the skill prior."""

    exploration_episodes: int = 0
    """SPiRL has no task encoder: it learns from the first episode on."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The high-level policy and critics."""


def make_adapt_stage(config: SpirlAdaptConfig, context: StageContext) -> SkillAdaptation:
    return SkillAdaptation(config, config.actor_critic, context)


ADAPT_QUICK: dict[str, Any] = {
    "adapt.episodes": 200,
    "adapt.batch_size": 128,
    "adapt.updates_per_episode": 50,
    "adapt.learning_rate": 1e-3,
    "adapt.coefficient_learning_rate": 1e-3,
    "adapt.n_step": 10,
    "adapt.target_rate": 0.01,
    "adapt.clip_targets": True,
    "adapt.rewarded_fraction": 0.0625,
    "adapt.bf16": True,
}
"""The quick budget of target-task learning, the same for SPiRL and SiMPL."""

ADAPT_SMOKE: dict[str, Any] = {
    "adapt.episodes": 4,
    "adapt.batch_size": 64,
    "adapt.transition_reuse": 4.0,
}

SMALL_NETWORKS: dict[str, Any] = {
    "adapt.actor_critic.hidden_dim": 128,
    "adapt.actor_critic.standardise_states": True,
    "adapt.actor_critic.zero_initial_values": True,
}

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
            implementation="skill_adaptation/2",
        ),
    ),
    presets={
        ("maze", "paper"): {**SKILL_PRESETS["maze", "paper"]},
        ("maze", "quick"): {
            **SKILL_PRESETS["maze", "quick"],
            **ADAPT_QUICK,
            **SMALL_NETWORKS,
            "adapt.initial_coefficient": 0.01,  # the paper's value: 0.05 outweighs the reward of distant goals
        },
        ("maze", "smoke"): {**SKILL_PRESETS["maze", "smoke"], **ADAPT_SMOKE, **SMALL_NETWORKS},
    },
)
