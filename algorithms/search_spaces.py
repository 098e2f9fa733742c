"""What ``bench tune`` searches: for each algorithm a few fields of its ``adapt`` stage, over ranges around the presets.

Algorithms name these in their ``search_space``, beside their presets. Every range holds what the presets have, so that
a preset itself can be the first trial. Fields that change how much is computed (episodes, updates, batch sizes) are in
none: all trials of all algorithms have the budget of their preset.
"""

from __future__ import annotations

from collections.abc import Mapping

from algorithms.stage import Between, OneOf, SearchRange

LEARNING_RATE: Mapping[str, SearchRange] = {"adapt.learning_rate": Between(1e-4, 3e-3, log=True)}
SKILL_N_STEP: Mapping[str, SearchRange] = {"adapt.n_step": Between(1, 20, log=True)}
ACTION_N_STEP: Mapping[str, SearchRange] = {"adapt.n_step": Between(1, 200, log=True)}
"""As many env_steps ahead as twenty skills."""

PRIOR_SPACE: Mapping[str, SearchRange] = {
    **LEARNING_RATE,
    **SKILL_N_STEP,
    "adapt.target_kl": Between(0.3, 10.0, log=True),
    "adapt.coefficient_learning_rate": Between(1e-4, 1e-2, log=True),
}
"""Close to a prior whose weight is given at the start of fine-tuning: SiMPL."""

ACTION_PRIOR_SPACE: Mapping[str, SearchRange] = {**PRIOR_SPACE, **ACTION_N_STEP}
"""The same over actions: BC+PEARL."""

SPIRL_SPACE: Mapping[str, SearchRange] = {**PRIOR_SPACE, "adapt.initial_coefficient": Between(3e-3, 3.0, log=True)}
"""Close to a prior whose weight starts anew on each task: SPiRL, MTRL."""

ENTROPY_SPACE: Mapping[str, SearchRange] = {
    **LEARNING_RATE,
    **ACTION_N_STEP,
    "adapt.coefficient_learning_rate": Between(1e-4, 1e-2, log=True),
}
"""Soft actor-critic whose alpha is given at the start: PEARL-ft."""

SAC_SPACE: Mapping[str, SearchRange] = {**ENTROPY_SPACE, "adapt.initial_coefficient": Between(3e-3, 0.3, log=True)}

PEARL_SPACE: Mapping[str, SearchRange] = {
    "adapt.exploration_episodes": OneOf((1, 2, 3, 5, 10, 20)),
    "adapt.posterior_sampling": OneOf((False, True)),
}
"""All that adapting by inference alone has."""

MAML_SPACE: Mapping[str, SearchRange] = {
    "adapt.episodes_per_step": OneOf((1, 5, 10, 20, 40)),
    "adapt.later_rate_fraction": Between(0.1, 2.0, log=True),
}
"""The inner rate is meta-training's."""
