"""``paper`` and ``released`` of SiMPL and SPiRL, field by field, against values that stand here.

The values are those of the paper (sections 4 and 5, appendices E and F) and of the authors' published code, not of the
presets. Where the paper is silent, ``paper`` holds the code's value. Fields that no table names are network sizes and
the like that neither changes, and the departures, which other tests hold to be off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from algorithms.registry import algorithm
from bench.config import resolve_config
from bench.fields import flatten
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair
from bench.plan import RunRequest, plan_run

Values = Mapping[str, Any]

SKILLS: Values = {
    "skill_length": 10, "latent_dim": 10, "hidden_dim": 128, "prior_layers": 6, "batch_size": 128,
    "learning_rate": 1e-3, "initial_gradient_norm": 1e-3, "clipped_updates": 100, "prior_loss": "nll",
    "min_log_sigma": -10.0, "max_log_sigma": 2.0,
}  # fmt: skip
MAZE_SKILLS: Values = {
    **SKILLS, "encoder_output_dim": 32, "decoder_layers": 3, "kl_weight": 1e-2, "held_out_fraction": 0.1,
    "crops": "one_per_trajectory", "passes": 2000,
}  # fmt: skip
KITCHEN_SKILLS: Values = {
    **SKILLS, "encoder_output_dim": 128, "decoder_layers": 5, "kl_weight": 5e-4, "held_out_fraction": 0.01,
    "crops": "by_transitions", "passes": 5000,
}  # fmt: skip

META: Values = {
    "transition_reuse": 256.0, "discount": 0.99, "target_rate": 0.005, "learning_rate": 3e-4,
    "coefficient_learning_rate": 3e-4, "encoder_hidden_dim": 128, "large_encoder_target_kl": 10.0,
}  # fmt: skip
MAZE_META: Values = {
    **META, "transitions_per_task": 1024, "small_context": 4, "large_context": 8192, "warm_up_transitions": 8192,
    "replay_capacity": 20_000, "context_capacity": 20_000, "kl_clip": 5.0, "small_encoder_target_kl": 1.0,
    "small_initial_encoder_coefficient": 1e-5, "large_initial_encoder_coefficient": 3e-6,
    "small_initial_coefficient": 3e-3, "large_initial_coefficient": 1e-3,
    "actor_critic.hidden_dim": 256, "actor_critic.hidden_layers": 3,
}  # fmt: skip
KITCHEN_META: Values = {
    **META, "transitions_per_task": 256, "small_context": 2, "large_context": 1024, "warm_up_transitions": 1024,
    "replay_capacity": 3000, "context_capacity": 3000, "kl_clip": 6.0, "small_encoder_target_kl": 2.0,
    "small_initial_encoder_coefficient": 1e-3, "large_initial_encoder_coefficient": 1e-4,
    "large_initial_coefficient": 0.03, "actor_critic.hidden_dim": 128, "actor_critic.hidden_layers": 5,
}  # fmt: skip
META_BY_PRESET: Mapping[str, Values] = {
    "paper": {
        "policy_coefficients_only_grow": False, "encoder_output_layers": 3,
        "actor_critic.sigma_parametrization": "exp", "actor_critic.zero_initial_residual": True,
    },
    "released": {
        "policy_coefficients_only_grow": True, "encoder_output_layers": 2,
        "actor_critic.sigma_parametrization": "softplus", "actor_critic.zero_initial_residual": False,
    },
}  # fmt: skip
MAZE_META_BY_PRESET: Mapping[str, Values] = {
    "paper": {
        "small_context_tasks": 3, "large_context_tasks": 17, "small_target_kl": 0.1, "large_target_kl": 0.4,
        "small_coefficient_fixed": False,
    },
    "released": {
        "small_context_tasks": 4, "large_context_tasks": 26, "small_target_kl": 0.5, "large_target_kl": 1.0,
        "small_coefficient_fixed": False, "epochs": 1000, "task_embedding_dim": 5,
    },
}  # fmt: skip
OF_TASKS: Mapping[str, Values] = {
    "maze": {"epochs": 16_000 // (2 * 40), "task_embedding_dim": 6},
    "maze-20": {"epochs": 18_000 // (2 * 20), "task_embedding_dim": 5},
    "maze-10": {"epochs": 10_000 // (2 * 10), "task_embedding_dim": 5},
}
KITCHEN_META_BY_PRESET: Mapping[str, Values] = {
    "paper": {
        "small_context_tasks": 2, "large_context_tasks": 18, "large_target_kl": 0.4, "task_embedding_dim": 10,
        "small_coefficient_fixed": True, "small_initial_coefficient": 0.3, "epochs": 3450 // (2 * 23),
    },
    "released": {
        "small_context_tasks": 3, "large_context_tasks": 27, "small_target_kl": 0.1, "large_target_kl": 4.0,
        "task_embedding_dim": 6, "small_coefficient_fixed": False, "small_initial_coefficient": 0.05, "epochs": 500,
    },
}  # fmt: skip

ADAPT: Values = {
    "batch_size": 256, "replay_capacity": 20_000, "transition_reuse": 256.0, "learning_rate": 3e-4, "discount": 0.99,
    "target_rate": 0.005,
}  # fmt: skip
SIMPL_ADAPT: Values = {
    **ADAPT, "exploration_episodes": 20, "replay_exploration": False, "coefficient_learning_rate": 3e-4,
}  # fmt: skip
SIMPL_ADAPT_ON: Mapping[tuple[str, str], Values] = {
    ("maze", "paper"): {"episodes": 500, "target_kl": 1.0, "kl_clip": 5.0, "coefficient_only_grows": False},
    ("maze", "released"): {"episodes": 1000, "target_kl": 1.0, "kl_clip": 5.0, "coefficient_only_grows": True},
    ("kitchen", "paper"): {"episodes": 200, "target_kl": 2.0, "kl_clip": 20.0, "coefficient_only_grows": False},
    ("kitchen", "released"): {"episodes": 1000, "target_kl": 5.0, "kl_clip": 20.0, "coefficient_only_grows": True},
}
MAZE_NETWORKS: Values = {"actor_critic.hidden_dim": 256, "actor_critic.hidden_layers": 3}
KITCHEN_NETWORKS: Values = {"actor_critic.hidden_dim": 128, "actor_critic.hidden_layers": 5}
SPIRL_ADAPT_ON: Mapping[tuple[str, str], Values] = {
    ("maze", "paper"): {
        **MAZE_NETWORKS, "episodes": 500, "target_kl": 1.0, "kl_clip": 5.0, "coefficient_only_grows": False,
        "initial_coefficient": 0.01, "coefficient_learning_rate": 3e-4, "actor_critic.sigma_parametrization": "exp",
        "actor_critic.zero_initial_residual": True,
    },
    ("maze", "released"): {
        **MAZE_NETWORKS, "episodes": 500, "target_kl": 1.0, "kl_clip": 10.0, "coefficient_only_grows": False,
        "initial_coefficient": 0.05, "coefficient_learning_rate": 3e-4,
        "actor_critic.sigma_parametrization": "softplus", "actor_critic.zero_initial_residual": False,
    },
    ("kitchen", "paper"): {
        **KITCHEN_NETWORKS, "episodes": 200, "target_kl": 2.0, "kl_clip": 20.0, "coefficient_only_grows": False,
        "initial_coefficient": 0.01, "coefficient_learning_rate": 3e-4, "actor_critic.sigma_parametrization": "exp",
        "actor_critic.zero_initial_residual": True,
    },
    ("kitchen", "released"): {
        **KITCHEN_NETWORKS, "episodes": 1000, "target_kl": 5.0, "kl_clip": 10.0, "coefficient_only_grows": False,
        "initial_coefficient": 1.0, "coefficient_learning_rate": 3e-3,
        "actor_critic.sigma_parametrization": "softplus", "actor_critic.zero_initial_residual": False,
    },
}  # fmt: skip

PRESETS = ("paper", "released")
MAZES = ("maze", "maze-20", "maze-10")


def expected(algo: str, env: str, preset: str) -> dict[str, Values]:
    family = "kitchen" if env == "kitchen" else "maze"
    stages: dict[str, Values] = {"skills": KITCHEN_SKILLS if family == "kitchen" else MAZE_SKILLS}
    if algo == "spirl":
        return stages | {"adapt": {**ADAPT, **SPIRL_ADAPT_ON[family, preset]}}
    if family == "kitchen":
        meta = {**KITCHEN_META, **META_BY_PRESET[preset], **KITCHEN_META_BY_PRESET[preset]}
    else:
        meta = {**MAZE_META, **META_BY_PRESET[preset], **MAZE_META_BY_PRESET[preset]}
        meta |= OF_TASKS[env] if preset == "paper" else {}
    return stages | {"meta_train": meta, "adapt": {**SIMPL_ADAPT, **SIMPL_ADAPT_ON[family, preset]}}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", [*MAZES, "kitchen"])
@pytest.mark.parametrize("algo", ["simpl", "spirl"])
def test_every_value_of_paper_and_released(algo: str, env: str, preset: str) -> None:
    configs = plan_run(RunRequest(algo, env, preset)).configs
    for stage, values in expected(algo, env, preset).items():
        found = dict(flatten(configs[stage]))
        assert {name: found[name] for name in values} == values, stage


@pytest.mark.parametrize("algo", ["simpl", "spirl"])
def test_the_image_maze_has_no_released_preset(algo: str) -> None:
    """Nothing of it was released."""

    presets = presets_of_pair(find_algorithm(algo), find_task_distribution("image-maze"))
    assert set(presets) == {"smoke", "quick", "paper"}


def test_skills_of_paper_and_released_are_shared() -> None:
    """The paper refers to SPiRL for them: what is learned at one preset is found at the other."""
    for env in ("maze", "kitchen"):
        plans = [plan_run(RunRequest(algo, env, preset)) for algo in ("simpl", "spirl") for preset in PRESETS]
        assert len({stage.hash for plan in plans for stage in plan.stages if stage.spec.name == "skills"}) == 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", ["maze", "kitchen"])
@pytest.mark.parametrize("algo", ["simpl", "spirl"])
def test_neither_has_a_departure(algo: str, env: str, preset: str) -> None:
    off = {
        "n_step": 1, "rewarded_fraction": 0.0, "context_drawn": 0, "clip_targets": False, "bf16": False,
        "standardise_states": False, "zero_initial_values": False, "updates_per_episode": 0,
        "final_learning_rate_fraction": 1.0, "replay_exploration": False, "prior_weight": 1.0,
        "prior_view_encoder": "own", "frame_difference_gain": 0.0,
    }  # fmt: skip
    for stage, config in plan_run(RunRequest(algo, env, preset)).configs.items():
        for part in (config, getattr(config, "actor_critic", config)):
            for field, value in off.items():
                assert getattr(part, field, value) == value, f"{stage}.{field}"


@pytest.mark.parametrize("family", ["maze", "kitchen"])
@pytest.mark.parametrize("name", ["simpl", "spirl", "mtrl", "sac", "pearl", "pearl-ft", "bc+pearl"])
def test_paper_has_no_departure(name: str, family: str) -> None:
    found = algorithm(name)
    off = {
        "n_step": 1, "rewarded_fraction": 0.0, "context_drawn": 0, "clip_targets": False, "bf16": False,
        "standardise_states": False, "zero_initial_values": False, "updates_per_episode": 0,
        "final_learning_rate_fraction": 1.0, "rewarded_capacity": 0,
    }  # fmt: skip
    for stage in found.stages:
        if stage.name == "bc":  # the paper says nothing of it, and all of it is ours
            continue
        config = resolve_config(stage.config_class, stage.name, found.presets[family, "paper"], (), "paper")
        for part in (config, getattr(config, "actor_critic", config)):
            for field, value in off.items():
                assert getattr(part, field, value) == value, f"{stage.name}.{field}"


# -- the same chances at quick -------------------------------------------------------------------------------

OFF_POLICY = ("simpl", "spirl", "mtrl", "sac", "pearl-ft", "bc+pearl")
META_TRAINED = ("simpl", "pearl", "pearl-ft", "bc+pearl")


def quick(name: str, family: str, stage_name: str) -> tuple[Any, int]:
    """(configuration of a stage, env_steps of one choice)."""
    found = algorithm(name)
    configs = {
        stage.name: resolve_config(stage.config_class, stage.name, found.presets[family, "quick"], (), "quick")
        for stage in found.stages
    }
    return configs[stage_name], configs["skills"].skill_length if "skills" in configs else 1


def experience(config: Any, env_steps: int, fields: tuple[str, ...]) -> dict[str, float]:
    """Amounts in env_steps, and what a reward 1,000 env_steps ahead is worth now."""
    amounts = {name: getattr(config, name) * env_steps for name in fields}
    return amounts | {"worth": pytest.approx(config.discount ** (1000 / env_steps), rel=1e-9)}


@pytest.mark.parametrize("family", ["maze", "kitchen"])
def test_amounts_of_experience_are_the_same_with_skills_and_without(family: str) -> None:
    """In env_steps: what replays hold, contexts are drawn from, rewards outlive and targets look ahead."""
    fields = ("replay_capacity", "rewarded_capacity", "n_step")
    adapt = {name: experience(*quick(name, family, "adapt"), fields) for name in OFF_POLICY}
    assert adapt["spirl"]["n_step"] == 100
    for name, found in adapt.items():
        assert found == adapt["simpl"], name
    fields = (*fields, "context_capacity", "warm_up_transitions")
    meta = {name: experience(*quick(name, family, "meta_train"), fields) for name in META_TRAINED}
    for name, found in meta.items():
        assert found == meta["simpl"], name


@pytest.mark.parametrize("family", ["maze", "kitchen"])
def test_episodes_and_updates_are_about_as_many_with_skills_and_without(family: str) -> None:
    """Rows that meta-training's updates go through for an env_step, and updates for a target episode."""
    rows, epochs = {}, {}
    for name in META_TRAINED:
        config, env_steps = quick(name, family, "meta_train")
        rows[name], epochs[name] = config.transition_reuse / env_steps, config.epochs
    assert set(epochs.values()) == {epochs["simpl"]}
    for name in META_TRAINED:
        assert 1.0 <= rows[name] / rows["simpl"] <= 2.0, name
    for name in OFF_POLICY:
        config, _ = quick(name, family, "adapt")
        assert config.updates_per_episode >= quick("simpl", family, "adapt")[0].updates_per_episode, name


@pytest.mark.parametrize("family", ["maze", "kitchen"])
def test_aids_at_quick_are_on_for_all(family: str) -> None:
    """Clipped targets, rewards drawn more often, critics from 0, one scale of states, exploration replayed."""
    for name in OFF_POLICY:
        config, _ = quick(name, family, "adapt")
        assert (config.clip_targets, config.rewarded_fraction) == (True, 0.0625), name
        assert getattr(config, "replay_exploration", True), name
    owners = [(name, "meta_train") for name in META_TRAINED] + [("spirl", "adapt"), ("sac", "adapt")]
    for name, stage in [*owners, ("mtrl", "task_policies")]:
        config, _ = quick(name, family, stage)
        assert (config.clip_targets, config.rewarded_fraction) == (True, 0.0625), name
        networks = config.actor_critic
        assert (networks.zero_initial_values, networks.standardise_states) == (True, True), name


@pytest.mark.parametrize(("family", "papers"), [("maze", 0.1), ("kitchen", 0.2)])
def test_mtrl_may_depart_from_the_prior_as_far_as_simpl_may_before_it_knows_the_task(
    family: str, papers: float
) -> None:
    """At ``paper`` by the paper's delta; at ``quick`` both by values of one kind, and as SPiRL on target tasks."""
    found = algorithm("mtrl")
    paper = resolve_config(
        next(stage.config_class for stage in found.stages if stage.name == "distil"),
        "distil", found.presets[family, "paper"], (), "paper",
    )  # fmt: skip
    assert paper.target_kl == papers
    families = [family] if family == "kitchen" else [family, "image-maze"]
    for each in families:
        assert quick("mtrl", each, "distil")[0].target_kl == quick("simpl", each, "meta_train")[0].small_target_kl
        spirl, _ = quick("spirl", each, "adapt")
        for stage in ("task_policies", "adapt"):
            assert quick("mtrl", each, stage)[0].target_kl == spirl.target_kl


@pytest.mark.parametrize("env", [*MAZES, "kitchen"])
@pytest.mark.parametrize("algo", ["pearl", "pearl-ft", "bc+pearl"])
def test_who_meta_trains_by_inference_has_simpls_episodes_and_embedding_at_paper(algo: str, env: str) -> None:
    meta, simpl = (plan_run(RunRequest(name, env, "paper")).configs["meta_train"] for name in (algo, "simpl"))
    assert (meta.epochs, meta.task_embedding_dim) == (simpl.epochs, simpl.task_embedding_dim)
