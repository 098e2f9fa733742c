"""BC+PEARL: it starts exactly at the cloned policy, is pulled back to it, and its stages go on from one another.

On the real maze with a time limit of 20 env_steps, around a policy cloned from the maze's own data.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.bc_pearl import (
    ALGORITHM,
    BcPearlAdaptConfig,
    BcPearlMetaTrainConfig,
    cloned_actions,
    load_meta_trained,
    make_adapt_stage,
    make_meta_train_stage,
    play_adapted,
)
from algorithms.behavior_cloning import BC_STAGE, BcConfig, BehaviorCloning, GaussianPolicyConfig, load_behavior_policy
from algorithms.meta_training import META_FILE, PRIOR_PHASE, MetaTraining
from algorithms.regularized_sac import ActorCriticConfig
from algorithms.stage import PlayRequest, StageContext
from tests.algorithm_helpers import (
    FAR_GOAL,
    START_GOAL,
    advance_to_end,
    config_of,
    differences,
    flat_parameters,
    maze_trajectories,
    short_maze,
    stage_context,
    through_disk,
    write_trajectories,
)

MAZE = short_maze(20, [START_GOAL, FAR_GOAL])
CONFIG = BcPearlMetaTrainConfig(
    epochs=3, task_embedding_dim=2, tasks_per_update=4, context_transitions=15, transitions_per_task=20,
    warm_up_transitions=20, transition_reuse=8.0, replay_capacity=200, context_capacity=60, encoder_hidden_dim=8,
    encoder_hidden_layers=1, learning_rate=3e-3,
    actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=1, standardise_states=True),
)  # fmt: skip
ADAPT = BcPearlAdaptConfig(
    episodes=4, exploration_episodes=2, batch_size=8, replay_capacity=200, updates_per_episode=3, learning_rate=3e-3
)


@pytest.fixture(scope="module")
def bc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bc")
    data = write_trajectories(folder / "data", maze_trajectories(24))
    config = BcConfig(updates=50, batch_size=64, policy=GaussianPolicyConfig(hidden_dim=16, hidden_layers=2))
    stage = BehaviorCloning(config, stage_context(short_maze(20), {"data": data}))
    advance_to_end(stage)
    stage.write_artefact(folder)
    return folder


@pytest.fixture(scope="module")
def meta(bc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = make_stage(bc)
    advance_to_end(stage)
    folder = tmp_path_factory.mktemp("meta")
    stage.write_artefact(folder)
    return folder


def context_of(bc: Path, meta: Path | None = None) -> StageContext:
    return stage_context(MAZE, {"bc": bc} | ({} if meta is None else {"meta_train": meta}))


def make_stage(bc: Path, config: BcPearlMetaTrainConfig = CONFIG) -> MetaTraining:
    return make_meta_train_stage(config, context_of(bc))


def make_adapt(bc: Path, meta: Path) -> Any:
    return make_adapt_stage(ADAPT, context_of(bc, meta))


def test_recipe() -> None:
    assert [stage.name for stage in ALGORITHM.stages] == ["bc", "meta_train", "adapt"]
    assert [stage.inputs for stage in ALGORITHM.stages] == [("data",), ("bc",), ("bc", "meta_train")]
    assert ALGORITHM.stages[0] is BC_STAGE
    assert ALGORITHM.needs_train_tasks


def test_paper_has_no_departure() -> None:
    for family in ("maze", "kitchen"):
        preset = ALGORITHM.presets[family, "paper"]
        meta, adapt = (config_of(ALGORITHM, stage, preset) for stage in ("meta_train", "adapt"))
        for config in (meta, adapt):
            assert (config.rewarded_fraction, config.n_step, config.clip_targets) == (0.0, 1, False)
        assert (meta.context_drawn, meta.tasks_per_update, adapt.exploration_episodes) == (0, 20, 20)
        assert not (meta.actor_critic.standardise_states or meta.actor_critic.zero_initial_values)
        assert not adapt.replay_exploration


def test_the_policy_starts_at_the_cloned_one_whatever_e(bc: Path) -> None:
    """Residuals are 0 at the start (SiMPL E.1.3), so the divergence is 0 too."""
    stage, cloned = make_stage(bc), load_behavior_policy(bc)
    states = torch.randn(1, 30, 4) * 3 + torch.tensor([10.0, 10.0, 0.0, 0.0])
    prior = cloned.skill_prior(states[0])
    for embeddings in (torch.zeros(1, 30, 2), 5 * torch.randn(1, 30, 2)):
        policy = stage.learner.networks.policy_distribution(stage.inputs(states), embeddings, prior)
        torch.testing.assert_close(policy.mean[0], prior.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(policy.sigma[0], prior.sigma + 0.001, rtol=1e-4, atol=1e-6)


def test_transitions_hold_the_cloned_policy_where_they_begin_and_end(bc: Path) -> None:
    stage, cloned = make_stage(bc), load_behavior_policy(bc)
    stage.advance()
    columns = stage.learner.fields.unpack(stage.replay.rows[1, : int(stage.replay.sizes[1])])
    assert len(columns["states"]) == 20
    for of_states, of_prior in (("states", "prior"), ("td_states", "td_prior")):
        raw = columns[of_states] * cloned.state_sigma + cloned.state_mean  # they are stored standardised
        expected = torch.cat(cloned.skill_prior(raw), dim=-1)
        torch.testing.assert_close(columns[of_prior], expected, rtol=1e-3, atol=1e-4)


def test_the_cloned_policy_stays_as_it_is(bc: Path) -> None:
    stage = make_stage(bc)
    before = flat_parameters(stage.space.prior)
    moved = {name: flat_parameters(module) for name, module in stage.learner.named_children()}
    advance_to_end(stage)
    assert stage.updates > 0
    assert torch.equal(flat_parameters(stage.space.prior), before)
    assert all(not torch.equal(flat_parameters(m), moved[name]) for name, m in stage.learner.named_children())


def test_alpha_pulls_harder_where_the_policy_is_further_away_than_its_target(bc: Path) -> None:
    """And lets go where it is nearer: it is tuned both ways."""
    tight, loose = (
        make_stage(bc, dataclasses.replace(CONFIG, target_kl=target, coefficient_learning_rate=0.05))
        for target in (1e-9, 1e3)
    )
    for stage in (tight, loose):
        advance_to_end(stage)
    initial = CONFIG.initial_coefficient
    assert float(tight.learner.coefficient.values) > initial > float(loose.learner.coefficient.values)


def test_a_resumed_meta_training_ends_bit_for_bit_the_same(bc: Path, tmp_path: Path) -> None:
    stage = make_stage(bc)
    states, rows = [], []
    while not stage.finished:
        states.append(through_disk(stage.state_dict(), tmp_path))
        rows.append(list(stage.advance().episodes))
    for moment in (0, len(states) // 2, len(states) - 1):
        resumed = make_stage(bc)
        resumed.load_state_dict(states[moment])
        assert advance_to_end(resumed) == [row for part in rows[moment:] for row in part]
        assert differences(resumed.state_dict(), stage.state_dict()) == []


def test_a_target_task_is_learned_from_what_meta_training_left(bc: Path, meta: Path, tmp_path: Path) -> None:
    stage = make_adapt(bc, meta)
    config, learner = load_meta_trained(stage.context)
    assert config == CONFIG
    assert (meta / META_FILE).exists()
    torch.testing.assert_close(stage.coefficients.values, learner.coefficient.values.expand(2))
    for found, expected in zip(stage.networks.policy.parameters(), learner.networks.policy.parameters(), strict=True):
        assert torch.equal(found.detach(), expected.detach().expand_as(found))
    states, rows = [], []
    while not stage.finished:
        states.append(through_disk(stage.state_dict(), tmp_path))
        rows.append(list(stage.advance().episodes))
    assert [row.phase for row in rows[0]] == ["explore"] * 4
    assert {row.phase for part in rows[1:] for row in part} == {"adapt"}
    for moment, state in enumerate(states):
        resumed = make_adapt(bc, meta)
        resumed.load_state_dict(state)
        assert advance_to_end(resumed) == [row for part in rows[moment:] for row in part]
        assert differences(resumed.state_dict(), stage.state_dict()) == []
    stage.write_artefact(tmp_path)
    (played,) = play_adapted(ADAPT, stage.context, PlayRequest(tmp_path, task=1, episodes=1, seed=0))
    assert played.observations.shape == (21, 4)


def test_actions_of_an_episode_are_drawn_around_the_cloned_ones(bc: Path) -> None:
    """Before any update an episode is the cloned policy's own: standardised noise of its actions is N(0, I)."""
    stage, space = make_stage(bc), cloned_actions(context_of(bc))
    assert (space.latent_dim, space.prior.prior_dim, space.low_level_policy.skill_length) == (2, 4, 1)
    far = next(i for i, task in enumerate(MAZE.train_tasks) if tuple(task.spec["goal"]) == FAR_GOAL)
    for _ in range(8):
        stage._collect(PRIOR_PHASE, [far])
    columns = stage.learner.fields.unpack(stage.replay.rows[far, : int(stage.replay.sizes[far])])
    mean, sigma = columns["prior"].chunk(2, -1)
    noises = (columns["skills"] - mean) / (sigma + 0.001)
    assert noises.numel() == 8 * 20 * 2
    assert float(noises.mean()) == pytest.approx(0.0, abs=0.2)
    assert float(noises.std()) == pytest.approx(1.0, abs=0.12)
