"""Named budgets by family of task distributions: what differs from the defaults, which are the released maze's.

``paper`` holds what the paper states, and the released code's values where it is silent; ``released`` holds the
authors' code, value by value, for what they published (SiMPL and SPiRL on maze and kitchen). A field's docstring names
both. ``quick`` is the real algorithm on a budget for one CPU core; what it departs from is a named field each.
``smoke`` takes seconds. Algorithms put these pieces together in their ``presets``; pieces are shared, so stages are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

SKILLS_SMOKE: Values = {
    "skills.passes": 60,
    "skills.hidden_dim": 32,
    "skills.standardise_states": True,
    "skills.held_out_fraction": 0.05,
}

SKILLS_QUICK: Values = {
    "skills.standardise_states": True,
    "skills.final_learning_rate_fraction": 0.1,
    "skills.held_out_fraction": 0.05,
}

KITCHEN_SKILLS: Values = {
    "skills.encoder_output_dim": 128,
    "skills.decoder_layers": 5,
    "skills.kl_weight": 5e-4,
    "skills.crops": "by_transitions",
    "skills.passes": 5000,  # 100 epochs of 50 passes
    "skills.held_out_fraction": 0.01,
}
"""Released SPiRL on the kitchen."""

SKILL_PRESETS: dict[tuple[str, str], Values] = {
    # The paper refers to SPiRL for skills, so "paper" and "released" are the same.
    ("maze", "paper"): {},
    ("maze", "released"): {},
    ("maze", "quick"): {**SKILLS_QUICK, "skills.passes": 600},
    ("maze", "smoke"): SKILLS_SMOKE,
    ("kitchen", "paper"): KITCHEN_SKILLS,
    ("kitchen", "released"): KITCHEN_SKILLS,
    ("kitchen", "quick"): {
        **SKILLS_QUICK,
        "skills.encoder_output_dim": 128,
        "skills.decoder_layers": 5,
        # With a quarter of these passes, 1 crop per trajectory each, the low-level policy gets stuck: prior roll-outs
        # complete 1.4 subtasks of any kind instead of 2.5.
        "skills.passes": 5000,
        # 2.5e-4 leaves 24 nats in z on the scripted data, and roll-outs of the prior complete 0.5 subtasks.
        "skills.kl_weight": 2.5e-3,
    },
    ("kitchen", "smoke"): {
        **SKILLS_SMOKE,
        "skills.encoder_output_dim": 32,
        "skills.decoder_layers": 5,
        "skills.kl_weight": 5e-4,
    },
    # SPiRL's closed-loop image model has the maze's values.
    ("image-maze", "paper"): {},
    ("image-maze", "quick"): {
        **SKILLS_QUICK,  # the networks see views; critics and task encoder take this scale over
        "skills.passes": 800,
        "skills.batch_size": 64,  # 640 views an update: 67 ms on a busy core, so 24,000 are 27 minutes
        "skills.prior_view_encoder": "shared",  # half the convolutions
        "skills.prior_weight": 0.1,  # with which the prior's loss does not rule the shared convolutions
        "skills.frame_difference_gain": 4.0,
    },
    ("image-maze", "smoke"): {
        **SKILLS_SMOKE,
        "skills.passes": 20,
        "skills.batch_size": 32,
        "skills.frame_difference_gain": 4.0,
    },
}
"""Shared by every algorithm that stands on skills, so that they share the artefact too."""

# -- target-task learning, SPiRL's and SiMPL's -----------------------------------------------------

ADAPT_QUICK: Values = {
    "adapt.episodes": 200,
    "adapt.batch_size": 128,
    "adapt.updates_per_episode": 50,
    "adapt.learning_rate": 1e-3,
    "adapt.coefficient_learning_rate": 1e-3,
    "adapt.n_step": 10,
    "adapt.target_rate": 0.01,
    "adapt.clip_targets": True,
    "adapt.rewarded_fraction": 0.0625,
    "adapt.rewarded_capacity": 200,
    "adapt.bf16": True,
}

ADAPT_SMOKE: Values = {"adapt.episodes": 4, "adapt.batch_size": 64, "adapt.transition_reuse": 4.0}

SMALL_NETWORKS: Values = {
    "adapt.actor_critic.hidden_dim": 128,
    "adapt.actor_critic.standardise_states": True,
    "adapt.actor_critic.zero_initial_values": True,
}
"""For an algorithm whose ``adapt`` stage makes its own networks (SiMPL takes the meta-trained ones)."""

KITCHEN_ADAPT: Values = {"adapt.target_kl": 5.0, "adapt.kl_clip": 20.0}
"""Released SiMPL's fine-tuning on the kitchen."""

ADAPT_PAPER: Values = {"adapt.coefficient_only_grows": False}
"""The paper tunes alpha by dual gradient descent, which moves it both ways."""

KITCHEN_ADAPT_PAPER: Values = {
    **ADAPT_PAPER,
    "adapt.episodes": 200,  # where the paper's Figure 4 ends
    "adapt.target_kl": 2.0,
    "adapt.kl_clip": 20.0,
}
"""Section E.2.2 on the kitchen, for SiMPL and, with "the same hyperparameters" (F.3), for SPiRL."""

KITCHEN_ADAPT_QUICK: Values = {**ADAPT_QUICK, "adapt.episodes": 120}
"""Simulating an episode takes a third of a second: 120 of them on ten tasks are seven minutes."""

IMAGE_MAZE_ADAPT_QUICK: Values = {"adapt.target_kl": 3.0}
"""Three times the maze's. The prior alone reaches a goal in about 5 % of its episodes there (26 % on the maze), and
choosing one skill of a hundred better adds less than a coefficient that keeps the KL at 1 takes away: with the maze's
target KLs SiMPL does not lead (envs/image_maze/README.md)."""

SPIRL_KITCHEN: Values = {
    "adapt.target_kl": 5.0,
    "adapt.initial_coefficient": 1.0,
    "adapt.coefficient_learning_rate": 3e-3,
}
"""Released SPiRL on the kitchen."""

SPIRL_KITCHEN_NETWORKS: Values = {"adapt.actor_critic.hidden_dim": 128, "adapt.actor_critic.hidden_layers": 5}
"""Section E.1.3."""

SPIRL_PAPER: Values = {"adapt.initial_coefficient": 0.01, "adapt.actor_critic.sigma_parametrization": "exp"}
"""Section F.3; the residual policy of E.1.3."""

SPIRL_RELEASED: Values = {"adapt.actor_critic.zero_initial_residual": False}
"""As ``RELEASED_POLICY`` below."""

SPIRL_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): {**ADAPT_PAPER, **SPIRL_PAPER, "adapt.kl_clip": 5.0},
    ("maze", "released"): SPIRL_RELEASED,
    ("maze", "quick"): {
        **ADAPT_QUICK,
        **SMALL_NETWORKS,
        "adapt.initial_coefficient": 0.01,  # the paper's value: 0.05 outweighs the reward of distant goals
        "adapt.coefficient_only_grows": True,
        "adapt.kl_clip": 5.0,
    },
    ("maze", "smoke"): {**ADAPT_SMOKE, **SMALL_NETWORKS},
    ("kitchen", "paper"): {**KITCHEN_ADAPT_PAPER, **SPIRL_PAPER, **SPIRL_KITCHEN_NETWORKS},
    ("kitchen", "released"): {
        **SPIRL_KITCHEN,
        **SPIRL_KITCHEN_NETWORKS,
        **SPIRL_RELEASED,
        "adapt.episodes": 1000,
    },
    ("kitchen", "quick"): {**KITCHEN_ADAPT_QUICK, **SMALL_NETWORKS, **SPIRL_KITCHEN},
    ("kitchen", "smoke"): {**ADAPT_SMOKE, **SMALL_NETWORKS, **SPIRL_KITCHEN, "adapt.batch_size": 32},
}
SPIRL_PRESETS |= {("image-maze", preset): SPIRL_PRESETS["maze", preset] for preset in ("paper", "quick", "smoke")}
SPIRL_PRESETS["image-maze", "quick"] = {**SPIRL_PRESETS["image-maze", "quick"], **IMAGE_MAZE_ADAPT_QUICK}

# -- MTRL ------------------------------------------------------------------------------------------


def _of_task_policies(values: Values) -> dict[str, Any]:
    """Settings of ``adapt``, for the stage ``task_policies``."""
    return {name.replace("adapt.", "task_policies.", 1): value for name, value in values.items()}


def _without_networks(values: Values) -> dict[str, Any]:
    """Settings of an ``adapt`` that is given its networks."""
    return {name: value for name, value in values.items() if not name.startswith("adapt.actor_critic.")}


def _mtrl(spirl: Values, own: Values) -> dict[str, Any]:
    """SPiRL's settings, for the policies of training tasks and for the target tasks; ``own`` on top."""
    return {**_of_task_policies(spirl), **_without_networks(spirl), **own}


MTRL_QUICK: Values = {"distil.updates": 3000, "distil.batch_size": 512, "distil.learning_rate": 1e-3}
MTRL_SMOKE: Values = {
    "task_policies.episodes": 2,
    "task_policies.actor_critic.hidden_dim": 32,
    "distil.updates": 20,
    "distil.batch_size": 64,
}

MTRL_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): _mtrl(SPIRL_PRESETS["maze", "paper"], {}),
    ("maze", "quick"): _mtrl(
        SPIRL_PRESETS["maze", "quick"],
        {**MTRL_QUICK, "distil.target_kl": 0.5, "task_policies.episodes": 150},
    ),
    ("maze", "smoke"): _mtrl(SPIRL_PRESETS["maze", "smoke"], MTRL_SMOKE),
    ("kitchen", "paper"): _mtrl(SPIRL_PRESETS["kitchen", "paper"], {"distil.target_kl": 0.2}),
    ("kitchen", "quick"): _mtrl(
        SPIRL_PRESETS["kitchen", "quick"],
        {**MTRL_QUICK, "distil.target_kl": 1.0, "task_policies.episodes": 60},
    ),
    ("kitchen", "smoke"): _mtrl(SPIRL_PRESETS["kitchen", "smoke"], {**MTRL_SMOKE, "distil.target_kl": 0.2}),
}
MTRL_PRESETS |= {("image-maze", preset): MTRL_PRESETS["maze", preset] for preset in ("paper", "smoke")}
MTRL_PRESETS["image-maze", "quick"] = _mtrl(
    SPIRL_PRESETS["image-maze", "quick"], {**MTRL_QUICK, "distil.target_kl": 1.0, "task_policies.episodes": 150}
)

# -- SiMPL's meta-training -------------------------------------------------------------------------

META_QUICK: Values = {
    "meta_train.epochs": 120,
    "meta_train.small_context_tasks": 2,
    "meta_train.large_context_tasks": 6,
    "meta_train.transitions_per_task": 256,
    "meta_train.large_context": 256,
    "meta_train.context_drawn": 2048,
    "meta_train.warm_up_transitions": 1024,
    "meta_train.rewarded_fraction": 0.0625,
    "meta_train.rewarded_capacity": 200,
    "meta_train.transition_reuse": 12.0,
    "meta_train.n_step": 10,
    "meta_train.target_rate": 0.01,
    "meta_train.clip_targets": True,
    "meta_train.learning_rate": 1e-3,
    "meta_train.coefficient_learning_rate": 1e-3,
    "meta_train.small_initial_coefficient": 0.01,
    "meta_train.large_initial_coefficient": 0.003,
    "meta_train.encoder_hidden_dim": 64,
    "meta_train.bf16": True,
    "meta_train.actor_critic.hidden_dim": 128,
    "meta_train.actor_critic.standardise_states": True,
    "meta_train.actor_critic.zero_initial_values": True,
}

META_SMOKE: Values = {
    **META_QUICK,
    "meta_train.epochs": 2,
    "meta_train.large_context": 64,
    "meta_train.context_drawn": 128,
    "meta_train.warm_up_transitions": 128,
    "meta_train.transitions_per_task": 64,
    "meta_train.transition_reuse": 0.5,
    "meta_train.encoder_hidden_dim": 32,
    "meta_train.actor_critic.hidden_dim": 32,
}

META_PAPER: Values = {
    "meta_train.epochs": 450,
    # 20 tasks in all, in the released code's proportion of small to large contexts.
    "meta_train.small_context_tasks": 3,
    "meta_train.large_context_tasks": 17,
    "meta_train.small_target_kl": 0.1,
    "meta_train.large_target_kl": 0.4,
    "meta_train.policy_coefficients_only_grow": False,
    "meta_train.encoder_output_layers": 3,
    "meta_train.actor_critic.sigma_parametrization": "exp",
}
"""Sections E.1.2, E.1.3 and E.2.1, maze: 18,000 episodes for 20 training tasks, at two episodes per task and epoch."""

META_PAPER_BY_DISTRIBUTION: dict[tuple[str, str], Values] = {
    **{(env, "paper"): {"meta_train.epochs": 200, "meta_train.task_embedding_dim": 6} for env in ("maze", "maze-hard")},
    **{(env, "paper"): {"meta_train.epochs": 500} for env in ("maze-10", "maze-top-top", "maze-top-bottom")},
}
"""Sections E.1.2 and E.2.1: 16,000 episodes for 40 training tasks, 10,000 for 10."""

RELEASED_POLICY: Values = {"meta_train.actor_critic.zero_initial_residual": False}
"""The released code leaves the policy's last layer at torch's small random start."""

KITCHEN_META: Values = {
    "meta_train.epochs": 500,
    "meta_train.task_embedding_dim": 6,
    "meta_train.small_context_tasks": 3,
    "meta_train.large_context_tasks": 27,
    "meta_train.transitions_per_task": 256,
    "meta_train.small_context": 2,
    "meta_train.large_context": 1024,
    "meta_train.warm_up_transitions": 1024,
    "meta_train.replay_capacity": 3000,
    "meta_train.context_capacity": 3000,
    "meta_train.small_target_kl": 0.1,
    "meta_train.large_target_kl": 4.0,
    "meta_train.small_initial_coefficient": 0.05,
    "meta_train.large_initial_coefficient": 0.03,
    "meta_train.small_encoder_target_kl": 2.0,
    "meta_train.small_initial_encoder_coefficient": 1e-3,
    "meta_train.large_initial_encoder_coefficient": 1e-4,
    "meta_train.kl_clip": 6.0,
    "meta_train.actor_critic.hidden_dim": 128,
    "meta_train.actor_critic.hidden_layers": 5,
}
"""Released SiMPL on the kitchen."""

KITCHEN_META_PAPER: Values = {
    **KITCHEN_META,
    **META_PAPER,
    "meta_train.epochs": 75,  # 3,450 episodes, at two for each of 23 tasks and epoch
    "meta_train.task_embedding_dim": 10,
    "meta_train.small_context_tasks": 2,
    "meta_train.large_context_tasks": 18,
    "meta_train.small_coefficient_fixed": True,
    "meta_train.small_initial_coefficient": 0.3,
}
"""Sections E.1.2, E.1.3 and E.2.1 on the kitchen."""

KITCHEN_META_QUICK: Values = {
    **KITCHEN_META,
    "meta_train.epochs": 45,
    "meta_train.small_context_tasks": 2,
    "meta_train.large_context_tasks": 14,
    "meta_train.transitions_per_task": 128,
    "meta_train.large_context": 256,
    "meta_train.warm_up_transitions": 128,
    "meta_train.transition_reuse": 128.0,
    "meta_train.n_step": 10,
    "meta_train.target_rate": 0.01,
    "meta_train.clip_targets": True,
    "meta_train.rewarded_fraction": 0.0625,
    "meta_train.rewarded_capacity": 200,
    "meta_train.learning_rate": 1e-3,
    # As SPiRL's on the kitchen: from a strong pull to the prior down to the target. Small coefficients that may only
    # grow let the policy leave the prior (KL 17) before it has seen rewards.
    "meta_train.policy_coefficients_only_grow": False,
    "meta_train.coefficient_learning_rate": 3e-3,
    "meta_train.small_initial_coefficient": 0.3,
    "meta_train.large_initial_coefficient": 0.1,
    "meta_train.small_target_kl": 1.0,
    "meta_train.large_target_kl": 5.0,
    "meta_train.encoder_hidden_dim": 64,
    "meta_train.bf16": True,
    "meta_train.actor_critic.hidden_layers": 3,
    "meta_train.actor_critic.standardise_states": True,
    "meta_train.actor_critic.zero_initial_values": True,
}

SIMPL_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): {**META_PAPER, **ADAPT_PAPER},
    ("maze", "released"): {**RELEASED_POLICY, "adapt.episodes": 1000},
    ("maze", "quick"): {**META_QUICK, **ADAPT_QUICK, "adapt.replay_exploration": True},
    ("maze", "smoke"): {**META_SMOKE, **ADAPT_SMOKE, "adapt.exploration_episodes": 2},
    ("kitchen", "paper"): {**KITCHEN_META_PAPER, **KITCHEN_ADAPT_PAPER},
    ("kitchen", "released"): {**KITCHEN_META, **RELEASED_POLICY, **KITCHEN_ADAPT, "adapt.episodes": 1000},
    ("kitchen", "quick"): {
        **KITCHEN_META_QUICK,
        **KITCHEN_ADAPT_QUICK,
        **KITCHEN_ADAPT,
        "adapt.coefficient_only_grows": False,
        "adapt.coefficient_learning_rate": 3e-3,
        "adapt.replay_exploration": True,
    },
    ("kitchen", "smoke"): {
        **KITCHEN_META_QUICK,
        **META_SMOKE,
        **ADAPT_SMOKE,
        **KITCHEN_ADAPT,
        "meta_train.transitions_per_task": 32,
        "meta_train.large_context": 32,
        "meta_train.context_drawn": 0,
        "meta_train.warm_up_transitions": 32,
        "adapt.batch_size": 32,
        "adapt.exploration_episodes": 2,
    },
}
SIMPL_PRESETS |= {("image-maze", preset): SIMPL_PRESETS["maze", preset] for preset in ("paper", "quick", "smoke")}
SIMPL_PRESETS["image-maze", "quick"] = {
    **SIMPL_PRESETS["image-maze", "quick"],
    **IMAGE_MAZE_ADAPT_QUICK,
    # For the same reason: with 0.5 and 1.0 the success of posterior contexts stalls at 0.3.
    "meta_train.small_target_kl": 1.0,
    "meta_train.large_target_kl": 3.0,
}


def with_skills(presets: Mapping[tuple[str, str], Values]) -> dict[tuple[str, str], Values]:
    """These presets with the skill model's in front, for an algorithm that stands on skills."""
    return {key: {**SKILL_PRESETS[key], **values} for key, values in presets.items()}
