"""Preset values: the kitchen's ``paper`` holds those of the released code, and ``paper`` has no departure anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms.registry import algorithm
from bench.config import resolve_config


def resolved(name: str, stage_name: str) -> Any:
    found = algorithm(name)
    (stage,) = [stage for stage in found.stages if stage.name == stage_name]
    return resolve_config(stage.config_class, stage_name, found.presets["kitchen", "paper"], (), "paper")


def test_the_kitchens_paper_preset_is_the_released_code() -> None:
    """Numbers of hyper-parameter tables written out anew: released SiMPL and SPiRL, kitchen."""
    skills = resolved("simpl", "skills")
    assert (skills.skill_length, skills.latent_dim, skills.decoder_layers, skills.hidden_dim) == (10, 10, 5, 128)
    assert (skills.kl_weight, skills.passes, skills.standardise_states) == (5e-4, 100 * 50, False)
    meta = resolved("simpl", "meta_train")
    assert (meta.epochs, meta.task_embedding_dim, meta.small_context_tasks, meta.large_context_tasks) == (500, 6, 3, 27)
    assert (meta.transitions_per_task, meta.small_context, meta.large_context) == (256, 2, 1024)
    assert (meta.replay_capacity, meta.context_capacity, meta.warm_up_transitions) == (3000, 3000, 1024)
    assert (meta.small_target_kl, meta.large_target_kl, meta.kl_clip) == (0.1, 4.0, 6.0)
    assert meta.policy_coefficients_only_grow
    assert (meta.small_initial_coefficient, meta.large_initial_coefficient) == (0.05, 0.03)
    assert (meta.small_encoder_target_kl, meta.large_encoder_target_kl) == (2.0, 10.0)
    assert (meta.small_initial_encoder_coefficient, meta.large_initial_encoder_coefficient) == (1e-3, 1e-4)
    assert (meta.actor_critic.hidden_dim, meta.actor_critic.hidden_layers) == (128, 5)
    assert (meta.transition_reuse, meta.discount, meta.target_rate, meta.learning_rate) == (256.0, 0.99, 0.005, 3e-4)
    adapt = resolved("simpl", "adapt")
    assert (adapt.target_kl, adapt.kl_clip, adapt.batch_size, adapt.exploration_episodes) == (5.0, 20.0, 256, 20)
    spirl = resolved("spirl", "adapt")
    assert (spirl.target_kl, spirl.kl_clip, spirl.initial_coefficient) == (5.0, 10.0, 1.0)
    assert (spirl.coefficient_learning_rate, spirl.learning_rate) == (3e-3, 3e-4)
    assert (adapt.coefficient_only_grows, spirl.coefficient_only_grows) == (True, False)
    assert (spirl.actor_critic.hidden_dim, spirl.actor_critic.hidden_layers) == (128, 5)


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
