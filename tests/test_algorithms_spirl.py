"""SPiRL: what it says beside the shared target-task learning, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from algorithms.registry import algorithm
from algorithms.regularized_sac import ActorCriticConfig
from algorithms.skills import SKILLS_STAGE
from algorithms.spirl import ALGORITHM, SpirlAdaptConfig, make_adapt_stage
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    advance_to_end,
    short_maze,
    stage_context,
    tiny_skill_model,
    write_skills,
)

MAZE = short_maze(60, [NEAR_GOAL, FAR_GOAL])


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_skills(tmp_path_factory.mktemp("skills"))


def test_spirl_is_registered_as_skills_then_adapt() -> None:
    assert algorithm("spirl") is ALGORITHM
    assert [stage.name for stage in ALGORITHM.stages] == ["skills", "adapt"]
    assert ALGORITHM.stages[0] is SKILLS_STAGE, "the same artefact for all that stand on skills"
    assert ALGORITHM.stages[1].inputs == ("skills",)
    assert not ALGORITHM.needs_train_tasks


def test_learners_start_at_the_skill_prior_without_task_embedding(skills: Path) -> None:
    """alpha 0.05 (released); critics differ between tasks and between the two of a task."""
    stage = make_adapt_stage(SpirlAdaptConfig(), stage_context(MAZE, {"skills": skills}))
    assert stage.task_embeddings.shape == (2, 0)
    assert stage.coefficients.values.tolist() == pytest.approx([0.05, 0.05])
    assert not any(bool(parameter.any()) for parameter in stage.networks.policy.layers[-1].parameters())
    states = torch.randn(2, 5, 4) + 10
    prior = tiny_skill_model().skill_prior(states.flatten(0, 1))
    prior = type(prior)(prior.mean.view(2, 5, -1), prior.sigma.view(2, 5, -1))
    policy = stage.networks.policy_distribution(states, torch.zeros(2, 5, 0), prior)
    assert torch.equal(policy.mean, prior.mean)
    torch.testing.assert_close(policy.sigma, prior.sigma + 0.001, rtol=1e-5, atol=0)
    critics = stage.networks.critics.layers[0].get_parameter("weight").detach()
    assert len({tuple(one.flatten().tolist()) for one in critics}) == 4


def test_there_is_no_exploration_phase(skills: Path) -> None:
    config = SpirlAdaptConfig(episodes=2, actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=1))
    config.validate()
    rows = advance_to_end(make_adapt_stage(config, stage_context(MAZE, {"skills": skills})))
    assert [row.phase for row in rows] == ["adapt"] * 4


def test_defaults_are_the_released_mazes_values() -> None:
    config = SpirlAdaptConfig()
    config.validate()
    assert config.actor_critic == ActorCriticConfig(hidden_dim=256, hidden_layers=3)
    assert config.actor_critic.sigma_parametrization == "softplus"
    assert not config.actor_critic.standardise_states


@pytest.mark.slow
def test_spirl_learns_a_near_goal(skills: Path) -> None:
    """Random skills reach it in about every third episode; after some learning nearly always."""
    config = SpirlAdaptConfig(
        episodes=120, batch_size=64, replay_capacity=2000, transition_reuse=256.0, learning_rate=1e-3, target_kl=3.0,
        actor_critic=ActorCriticConfig(hidden_dim=32, hidden_layers=2, standardise_states=True),
    )  # fmt: skip
    near = dataclasses.replace(MAZE, target_tasks=MAZE.target_tasks[:1])
    stage = make_adapt_stage(config, stage_context(near, {"skills": skills}))
    solved = [row.success for row in advance_to_end(stage, 10_000)]
    assert sum(solved[:20]) < 14
    assert sum(solved[-30:]) >= 27
