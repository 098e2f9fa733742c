"""Named budgets of the algorithms without skills, by family of task distributions: see ``presets.py``.

A choice is an action here, one env_step, where it is a skill of ten in ``presets.py``. So that a budget means the same
experience for both, ``quick`` takes what counts choices from the skill-based presets and makes ten of each
(``in_actions``): replay, contexts and what they are drawn from, warm-up, rewarded transitions that are kept, how far
targets look ahead; a discount is per choice, and its tenth root the same per env_step. How often data is used is told
in updates: about as many, of about as many rows, for an env_step of meta-training and for a target episode.

The aids are those that SPiRL and SiMPL have, too: rewarded transitions drawn more often and kept, targets clipped,
critics that start at 0, states on one scale, exploration episodes replayed. ``paper`` has the papers' numbers: a
discount of 0.99 per env_step, SAC's and PEARL's, looks ten times less far than SiMPL's 0.99 per skill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from algorithms.presets import Values

ENV_STEPS_PER_SKILL = 10

_COUNTED_IN_CHOICES = (
    "replay_capacity", "context_capacity", "context_drawn", "warm_up_transitions", "rewarded_capacity", "n_step",
)  # fmt: skip


def in_actions(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset over skills says of amounts of experience, for a learner that chooses an action each env_step."""
    converted = {}
    for name, value in values.items():
        field = name.rpartition(".")[2]
        assert field in (*_COUNTED_IN_CHOICES, "discount"), f"{name} counts no choices"
        converted[name] = value ** (1 / ENV_STEPS_PER_SKILL) if field == "discount" else value * ENV_STEPS_PER_SKILL
    return converted


# -- behaviour cloning -----------------------------------------------------------------------------

BC_SMOKE: Values = {"bc.updates": 200, "bc.policy.hidden_dim": 32}

BC_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): {},
    ("maze", "quick"): {"bc.updates": 20_000},
    ("maze", "smoke"): BC_SMOKE,
    ("kitchen", "paper"): {},
    ("kitchen", "quick"): {"bc.updates": 20_000},
    ("kitchen", "smoke"): BC_SMOKE,
}
"""Shared by every algorithm that starts from a cloned policy, so that they share the artefact too."""

# -- SAC -------------------------------------------------------------------------------------------

TARGET_EXPERIENCE: Values = in_actions(
    {"adapt.replay_capacity": 20_000, "adapt.rewarded_capacity": 200, "adapt.n_step": 10, "adapt.discount": 0.99}
)
"""SiMPL's and SPiRL's."""

SAC_QUICK: Values = {
    **TARGET_EXPERIENCE,
    "adapt.rewarded_fraction": 0.0625,
    "adapt.clip_targets": True,
    "adapt.episodes": 200,
    "adapt.batch_size": 256,
    "adapt.updates_per_episode": 200,  # of a full episode each transition is drawn 26 times, each skill of SiMPL's 32
    "adapt.learning_rate": 1e-3,
    # From 0.1, entropy over 1,000 env_steps outweighs a reward of 1: alpha must fall within a tenth of the updates.
    "adapt.coefficient_learning_rate": 5e-3,
    "adapt.target_rate": 0.01,
}
"""On the maze, for an algorithm that is given its networks."""

SMALL_SAC: Values = {
    "adapt.actor_critic.hidden_dim": 128,
    "adapt.actor_critic.standardise_states": True,
    "adapt.actor_critic.zero_initial_values": True,
}

SAC_KITCHEN_QUICK: Values = {**SAC_QUICK, "adapt.updates_per_episode": 100, "adapt.episodes": 120}
"""Episodes of 280 env_steps at most."""

SAC_SMOKE: Values = {**SAC_QUICK, "adapt.episodes": 4, "adapt.batch_size": 64, "adapt.updates_per_episode": 2}

REPLAY_EXPLORATION: Values = {"adapt.replay_exploration": True}
"""As SiMPL does, for an algorithm that explores before it fine-tunes."""

SAC_KITCHEN: Values = {"adapt.batch_size": 1024}
"""Paper, F.1."""

SAC_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): {},
    ("maze", "quick"): {**SAC_QUICK, **SMALL_SAC},
    ("maze", "smoke"): {**SAC_SMOKE, **SMALL_SAC},
    ("kitchen", "paper"): SAC_KITCHEN,
    ("kitchen", "quick"): {**SAC_KITCHEN_QUICK, **SMALL_SAC},
    ("kitchen", "smoke"): {**SAC_SMOKE, **SMALL_SAC},
    # Gymnasium's Pendulum-v1: 50 episodes are 10,000 env_steps, with an update for each.
    ("pendulum", "paper"): {"adapt.episodes": 50, "adapt.batch_size": 256},
    ("pendulum", "quick"): {
        "adapt.episodes": 50,
        "adapt.batch_size": 256,
        "adapt.updates_per_episode": 200,
        "adapt.learning_rate": 1e-3,
        "adapt.coefficient_learning_rate": 1e-3,
        "adapt.actor_critic.hidden_dim": 128,
    },
    ("pendulum", "smoke"): {**SMALL_SAC, "adapt.episodes": 3, "adapt.batch_size": 64, "adapt.updates_per_episode": 2},
}

_NOT_IN_TIANSHOU = (
    "rewarded_fraction", "rewarded_capacity", "clip_targets", "standardise_states", "zero_initial_values",
)  # fmt: skip

SAC_TIANSHOU_PRESETS: dict[tuple[str, str], Values] = {
    pair: {name: value for name, value in values.items() if name.rpartition(".")[2] not in _NOT_IN_TIANSHOU}
    for pair, values in SAC_PRESETS.items()
}
"""SAC's, without the aids that tianshou does not have."""

# -- PEARL, PEARL-ft, BC+PEARL ---------------------------------------------------------------------

INFERENCE_QUICK: Values = {
    **in_actions(
        {
            "meta_train.replay_capacity": 20_000,
            "meta_train.context_capacity": 20_000,
            "meta_train.context_drawn": 2048,
            "meta_train.warm_up_transitions": 1024,
            "meta_train.rewarded_capacity": 200,
            "meta_train.n_step": 10,
            "meta_train.discount": 0.99,
        }
    ),
    "meta_train.epochs": 120,
    "meta_train.context_transitions": 256,
    "meta_train.transitions_per_task": 128,
    "meta_train.transition_reuse": 2.0,  # 125 updates of 2,560 transitions for full episodes; SiMPL 94 of 2,048
    "meta_train.rewarded_fraction": 0.0625,
    "meta_train.clip_targets": True,
    "meta_train.target_rate": 0.01,
    # SiMPL's in the same worlds, for the same KL.
    "meta_train.encoder_kl_weight": 1e-4,
    "meta_train.learning_rate": 1e-3,
    "meta_train.coefficient_learning_rate": 5e-3,  # as SAC's above
    "meta_train.encoder_hidden_dim": 64,
    "meta_train.encoder_hidden_layers": 2,
    "meta_train.actor_critic.hidden_dim": 128,
    "meta_train.actor_critic.standardise_states": True,
    "meta_train.actor_critic.zero_initial_values": True,
}
"""On the maze: as many episodes as SiMPL's, 9,600 and the warm-up, at most 20 million env_steps."""

INFERENCE_PAPER: Values = {"meta_train.epochs": 450}
"""As many episodes as the paper states for SiMPL; ``META_PAPER_BY_DISTRIBUTION`` for other numbers of tasks."""

INFERENCE_KITCHEN: Values = {
    "meta_train.task_embedding_dim": 6,  # as SiMPL's
    "meta_train.warm_up_transitions": 280,
    "meta_train.replay_capacity": 50_000,
}

INFERENCE_KITCHEN_PAPER: Values = {
    **INFERENCE_KITCHEN,
    "meta_train.epochs": 75,
    "meta_train.task_embedding_dim": 10,
}
"""Episodes and dim(e) as the paper states them for SiMPL."""

INFERENCE_KITCHEN_QUICK: Values = {
    **INFERENCE_QUICK,
    **INFERENCE_KITCHEN,
    **in_actions(
        {
            "meta_train.replay_capacity": 3000,
            "meta_train.context_capacity": 3000,
            "meta_train.context_drawn": 256,
            "meta_train.warm_up_transitions": 128,
        }
    ),
    "meta_train.epochs": 45,
    "meta_train.transition_reuse": 20.0,  # 100 updates of 2,560 transitions; SiMPL 80 of 2,048
}

INFERENCE_SMOKE: Values = {
    **INFERENCE_QUICK,
    "meta_train.epochs": 2,
    "meta_train.tasks_per_update": 4,
    "meta_train.context_transitions": 32,
    "meta_train.context_drawn": 64,
    "meta_train.replay_capacity": 40_000,
    "meta_train.context_capacity": 20_000,
    "meta_train.transitions_per_task": 32,
    "meta_train.warm_up_transitions": 64,
    "meta_train.transition_reuse": 0.02,
    "meta_train.actor_critic.hidden_dim": 32,
}

INFERENCE_KITCHEN_SMOKE: Values = {
    **INFERENCE_SMOKE,
    **INFERENCE_KITCHEN,
    "meta_train.epochs": 2,
    "meta_train.warm_up_transitions": 64,
    "meta_train.replay_capacity": 10_000,
}

PEARL_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): INFERENCE_PAPER,
    ("maze", "quick"): {**INFERENCE_QUICK, "adapt.episodes": 200},
    ("maze", "smoke"): {**INFERENCE_SMOKE, "adapt.episodes": 4, "adapt.exploration_episodes": 2},
    ("kitchen", "paper"): INFERENCE_KITCHEN_PAPER,
    ("kitchen", "quick"): {**INFERENCE_KITCHEN_QUICK, "adapt.episodes": 120},
    ("kitchen", "smoke"): {**INFERENCE_KITCHEN_SMOKE, "adapt.episodes": 3, "adapt.exploration_episodes": 2},
}

POINT_ROBOT_META: Values = {
    "meta_train.epochs": 160,  # after 40, target goals return -7.6 and -6.6 (seeds 0, 1) once adapted; the best is -3.9
    "meta_train.task_embedding_dim": 5,
    "meta_train.context_transitions": 40,
    "meta_train.transitions_per_task": 64,
    "meta_train.warm_up_transitions": 40,
    "meta_train.transition_reuse": 25.0,  # 78 updates for 200 episodes of 20 env_steps
    "meta_train.replay_capacity": 10_000,
    "meta_train.context_capacity": 40,  # the last two episodes with e ~ p(e): as many as a target task is encoded from
    # 0.1 leaves a nat in e (Rakelly et al. scale rewards up instead); with 1e-3 the Set Transformer's e grows without
    # bound from epoch 60 on (600 nats), and returns fall.
    "meta_train.encoder_kl_weight": 1e-2,
    "meta_train.learning_rate": 1e-3,
    # At 1e-3 alpha needs 2,000 updates to fall from 0.1 to 0.02, and until then the policy is a random walk.
    "meta_train.coefficient_learning_rate": 1e-2,
    "meta_train.encoder_hidden_dim": 64,
    "meta_train.encoder_hidden_layers": 2,
    "meta_train.actor_critic.hidden_dim": 64,
    "meta_train.actor_critic.hidden_layers": 2,
}
POINT_ROBOT_PAPER: Values = {"meta_train.encoder_kl_weight": 1.6e-4}
"""Rakelly et al.'s 0.1 beside rewards that they multiply by 100."""
POINT_ROBOT_META_SMOKE: Values = {**POINT_ROBOT_META, "meta_train.epochs": 2, "meta_train.transition_reuse": 2.0}

TWO_EPISODES: Values = {"adapt.exploration_episodes": 2}
"""Rakelly et al.'s test protocol, as far as its length goes."""

SPARSE_PROTOCOL: Values = {
    "meta_train.posterior_contexts": True,
    "meta_train.dense_critic_rewards": True,
    "meta_train.context_capacity": 1000,
    "meta_train.discount": 0.9,
    "adapt.episodes": 20,
    "adapt.exploration_episodes": 5,
    "adapt.inferring_episodes": 15,
    "adapt.deterministic": True,
}
"""Rakelly et al.'s, released code: critics see the dense reward, contexts the sparse one of the last 50 episodes with
e ~ p(e) and with e ~ q; a test is five episodes with e ~ p(e) and fifteen with e drawn given all before."""

POINT_ROBOT_SAC: Values = {
    "adapt.exploration_episodes": 2,
    "adapt.episodes": 40,
    "adapt.batch_size": 256,
    "adapt.updates_per_episode": 20,
    "adapt.learning_rate": 1e-3,
    "adapt.coefficient_learning_rate": 1e-3,
}

PEARL_PRESETS |= {
    ("point-robot", "paper"): {**POINT_ROBOT_PAPER, **TWO_EPISODES},
    ("point-robot", "quick"): {**POINT_ROBOT_META, **TWO_EPISODES, "adapt.episodes": 20},
    ("point-robot", "smoke"): {**POINT_ROBOT_META_SMOKE, **TWO_EPISODES, "adapt.episodes": 4},
    ("point-robot-sparse", "paper"): {
        **SPARSE_PROTOCOL,
        "meta_train.context_transitions": 1024,
        "meta_train.warm_up_transitions": 200,
    },
    ("point-robot-sparse", "quick"): {
        **POINT_ROBOT_META,
        "meta_train.context_transitions": 256,
        "meta_train.encoder_kl_weight": 1.6e-3,  # Rakelly et al.'s
        **SPARSE_PROTOCOL,
    },
    ("point-robot-sparse", "smoke"): {
        **POINT_ROBOT_META_SMOKE,
        **SPARSE_PROTOCOL,
        "adapt.episodes": 5,
        "adapt.exploration_episodes": 2,
        "adapt.inferring_episodes": 2,
    },
}

PEARL_FT_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): INFERENCE_PAPER,
    ("maze", "quick"): {**INFERENCE_QUICK, **SAC_QUICK, **REPLAY_EXPLORATION},
    ("maze", "smoke"): {**INFERENCE_SMOKE, **SAC_SMOKE, "adapt.exploration_episodes": 2},
    ("kitchen", "paper"): {**INFERENCE_KITCHEN_PAPER, **SAC_KITCHEN},
    ("kitchen", "quick"): {**INFERENCE_KITCHEN_QUICK, **SAC_KITCHEN_QUICK, **REPLAY_EXPLORATION},
    ("kitchen", "smoke"): {**INFERENCE_KITCHEN_SMOKE, **SAC_SMOKE, "adapt.exploration_episodes": 2},
    ("point-robot", "paper"): {**POINT_ROBOT_PAPER, **TWO_EPISODES},
    ("point-robot", "quick"): {**POINT_ROBOT_META, **POINT_ROBOT_SAC},
    ("point-robot", "smoke"): {
        **POINT_ROBOT_META_SMOKE, **POINT_ROBOT_SAC, "adapt.episodes": 6, "adapt.batch_size": 32,
        "adapt.updates_per_episode": 2,
    },
}  # fmt: skip

CLONED: Values = {
    # Of the pull to the cloned policy, as SiMPL's to its prior.
    "meta_train.coefficient_learning_rate": 1e-3,
    "adapt.coefficient_learning_rate": 1e-3,
}

BC_PEARL_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): INFERENCE_PAPER,
    ("maze", "quick"): {**BC_PRESETS["maze", "quick"], **INFERENCE_QUICK, **SAC_QUICK, **CLONED, **REPLAY_EXPLORATION},
    ("maze", "smoke"): {
        **BC_PRESETS["maze", "smoke"], **INFERENCE_SMOKE, **SAC_SMOKE, **CLONED,
        "adapt.exploration_episodes": 2,
    },
    ("kitchen", "paper"): {**INFERENCE_KITCHEN_PAPER, "adapt.batch_size": 256},
    ("kitchen", "quick"): {
        **BC_PRESETS["kitchen", "quick"], **INFERENCE_KITCHEN_QUICK, **SAC_KITCHEN_QUICK, **CLONED,
        **REPLAY_EXPLORATION,
    },
    ("kitchen", "smoke"): {
        **BC_PRESETS["kitchen", "smoke"], **INFERENCE_KITCHEN_SMOKE, **SAC_SMOKE, **CLONED,
        "adapt.exploration_episodes": 2,
    },
}  # fmt: skip

# -- BC+MAML, and MAML alone -----------------------------------------------------------------------

MAML_SMOKE: Values = {
    "meta_train.meta_iterations": 2,
    "meta_train.tasks_per_iteration": 3,
    "meta_train.episodes_per_task": 2,
    "meta_train.lanes": 3,
    "meta_train.gradient_rows": 200,
    "adapt.episodes": 4,
    "adapt.exploration_episodes": 2,
    "adapt.episodes_per_step": 1,
    "adapt.lanes": 2,
}

MAML_QUICK: Values = {
    "meta_train.tasks_per_iteration": 20,
    # Finn et al.'s 0.1 moves the cloned policy by a KL of 0.004 on 20 episodes of each training task of maze-easy, 0.2
    # by 0.017. From a success of 0.17 the first leads to 0.16, the second to 0.28 (400 episodes each, s.e. 0.02).
    "meta_train.inner_rate": 0.2,
    # Of second order on some rows, how theta_i moves with theta would be mostly noise: 0.2 times a Hessian of rewards
    # that few of the episodes have.
    "meta_train.first_order": True,
    "meta_train.gradient_rows": 4000,
    "meta_train.curvature_every": 10,
    "meta_train.trust_region.max_kl": 0.03,
    "adapt.episodes": 200,
}

KITCHEN_LANES: Values = {"meta_train.lanes": 10, "adapt.lanes": 10}
"""Simulating an episode takes a third of a second."""

BC_MAML_PRESETS: dict[tuple[str, str], Values] = {
    ("maze", "paper"): {},
    ("maze", "quick"): {
        **BC_PRESETS["maze", "quick"],
        **MAML_QUICK,
        "meta_train.meta_iterations": 30,  # 24,000 episodes, at most 48 million env_steps
        # The cloned policy takes 600 env_steps (median) to reach a goal of maze-easy: at 0.99 most would learn nothing.
        "meta_train.discount": 0.998,
    },
    ("maze", "smoke"): {**BC_PRESETS["maze", "smoke"], **MAML_SMOKE},
    ("kitchen", "paper"): KITCHEN_LANES,
    ("kitchen", "quick"): {
        **BC_PRESETS["kitchen", "quick"],
        **MAML_QUICK,
        **KITCHEN_LANES,
        "meta_train.meta_iterations": 10,
        "meta_train.episodes_per_task": 10,
        "adapt.episodes": 120,
    },
    ("kitchen", "smoke"): {**BC_PRESETS["kitchen", "smoke"], **MAML_SMOKE},
}

MAML_PRESETS: dict[tuple[str, str], Values] = {
    ("navigation-2d", "paper"): {"meta_train.tasks_per_iteration": 20},
    ("navigation-2d", "quick"): {
        "meta_train.meta_iterations": 150,
        "meta_train.tasks_per_iteration": 20,
        "meta_train.curvature_every": 5,
        "meta_train.lanes": 400,
        "adapt.episodes": 100,
        "adapt.lanes": 800,
    },
    ("navigation-2d", "smoke"): {**MAML_SMOKE, "meta_train.policy.hidden_dim": 16},
}
"""Finn et al., section 5.3."""
