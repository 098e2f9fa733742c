"""Adapting by inference alone: which e acts when, what the contexts hold, and that no task sees another's data.

On the real point robot: a reward says how far the goal is, so whose transition a context holds can be read off it.

Axes: C context transition, E task embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import algorithms.posterior_adaptation
from algorithms.adaptation import ADAPTED_FILE
from algorithms.encoded_adaptation import encode_context
from algorithms.files import load_tensors
from algorithms.meta_training import META_FILE, prior_task_embeddings
from algorithms.networks import torch_generator
from algorithms.pearl import (
    PearlMetaTrainConfig,
    load_meta_trained,
    make_meta_train_stage,
    make_pearl_adapt_stage,
    play_adapted,
)
from algorithms.posterior_adaptation import PosteriorAdaptConfig
from algorithms.regularized_sac import FrozenPolicies, SquashedActorCriticConfig
from algorithms.stage import EpisodeRow, PlayRequest
from envs.core import TaskDistribution
from envs.registry import task_distribution
from tests.algorithm_helpers import (
    advance_to_end,
    differences,
    flat_parameters,
    naive_mlp,
    naive_product_encoder,
    stage_context,
    through_disk,
)

LENGTH, TASKS, EMBEDDING_DIM = 20, 3, 3
META = PearlMetaTrainConfig(
    epochs=3, task_embedding_dim=EMBEDDING_DIM, tasks_per_update=3, context_transitions=20, transitions_per_task=20,
    warm_up_transitions=20, transition_reuse=3.0, replay_capacity=200, context_capacity=40, encoder_hidden_dim=16,
    encoder_hidden_layers=1, learning_rate=3e-3, encoder_kl_weight=1e-3,
    actor_critic=SquashedActorCriticConfig(hidden_dim=16, hidden_layers=1),
)  # fmt: skip
SAMPLING = PosteriorAdaptConfig(episodes=6, exploration_episodes=3, posterior_sampling=True)
PRIOR = dataclasses.replace(SAMPLING, posterior_sampling=False)


@cache
def points() -> TaskDistribution:
    """The point robot with three of its goals: right, up, left."""
    whole = task_distribution("point-robot")
    return dataclasses.replace(
        whole, train_tasks=tuple(whole.train_tasks[i] for i in (0, 49, 99)),
        target_tasks=tuple(whole.target_tasks[i] for i in (0, 10, 19)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A meta-trained artefact, by the real stage."""
    stage = make_meta_train_stage(META, stage_context(points(), {}))
    advance_to_end(stage)
    folder = tmp_path_factory.mktemp("meta")
    stage.write_artefact(folder)
    return folder


def make_stage(meta: Path, config: PosteriorAdaptConfig, seed: int = 0, tasks: tuple[int, ...] | None = None) -> Any:
    return make_pearl_adapt_stage(config, stage_context(points(), {"meta_train": meta}, seed, tasks))


class SpiedPolicies(FrozenPolicies):
    """The real thing, which also notes the embeddings that it is made with."""

    seen: list[Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen.append(self.task_embeddings.clone())


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    SpiedPolicies.seen = []
    monkeypatch.setattr(algorithms.posterior_adaptation, "FrozenPolicies", SpiedPolicies)
    return SpiedPolicies.seen


def reference_posterior(meta: Path, context: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, sigma) (E,) of a context (C, features), factor after factor in double precision."""
    learner: Mapping[str, Tensor] = load_tensors(meta / META_FILE)["learner"]
    prefix = "encoder."
    weights = {name[len(prefix) :]: w.double() for name, w in learner.items() if name.startswith(prefix)}
    mean, sigma = naive_product_encoder(weights, context.double()[None])
    return mean[0], sigma[0]


def prior_draw(task: int, episode: int, seed: int = 0) -> Tensor:
    return prior_task_embeddings([(seed, "adapt", task, episode)], EMBEDDING_DIM)[0]


def goals_seen(context: Tensor, task: int) -> bool:
    """Whether every transition's reward is minus the distance of its next state from the goal of ``task``."""
    goal = torch.tensor(points().target_tasks[task].spec["goal"])
    next_states, rewards = context[:, -2:], context[:, 4]
    return bool(torch.allclose(rewards, -(next_states - goal).norm(dim=1), atol=1e-5))


# -- posterior sampling (Rakelly et al., algorithm 2) ----------------------------------------------


def test_contexts_grow_by_an_episode_and_e_is_drawn_from_all_before(meta: Path, spied: list[Tensor]) -> None:
    stage = make_stage(meta, SAMPLING)
    for episode in range(3):
        contexts = [torch.cat(parts) if parts else None for parts in stage.contexts]
        rows = stage.advance().episodes
        assert [(row.phase, row.task, row.episode) for row in rows] == [("explore", t, episode) for t in range(TASKS)]
        for task, context in enumerate(contexts):
            noise = prior_draw(task, episode)
            assert (context is None) == (episode == 0)
            expected = noise
            if context is not None:
                assert len(context) == episode * LENGTH
                mean, sigma = reference_posterior(meta, context)
                expected = (mean + sigma * noise).float()
                assert float((expected - noise).abs().max()) > 1e-2, "the posterior is not the prior"
            torch.testing.assert_close(spied[-1][task], expected, rtol=1e-4, atol=1e-5)
            assert len(torch.cat(stage.contexts[task])) == (episode + 1) * LENGTH
    assert len({tuple(e) for part in spied for e in part.tolist()}) == 3 * TASKS


def test_then_the_task_is_known_and_nothing_more_is_encoded(meta: Path, spied: list[Tensor]) -> None:
    """e* is the mean given all exploration transitions; contexts stay as they are."""
    stage = make_stage(meta, SAMPLING)
    while min(stage.episodes) < 3:
        stage.advance()
    known = torch.stack([reference_posterior(meta, torch.cat(parts))[0] for parts in stage.contexts]).float()
    torch.testing.assert_close(stage.task_embeddings, known, rtol=1e-4, atol=1e-5)
    spied.clear()
    rows = advance_to_end(stage)
    assert [row.phase for row in rows] == ["adapt"] * (3 * TASKS)
    assert {(row.task, row.episode) for row in rows} == {
        (task, episode) for task in range(TASKS) for episode in (3, 4, 5)
    }
    acted = torch.cat(spied)
    torch.testing.assert_close(acted, known[[row.task for row in rows]], rtol=1e-4, atol=1e-5)
    assert [len(torch.cat(parts)) for parts in stage.contexts] == [3 * LENGTH] * TASKS


# -- e ~ p(e) while exploring (SiMPL F.2) ----------------------------------------------------------


def test_twenty_episodes_are_encoded_as_simpl_does(meta: Path, spied: list[Tensor]) -> None:
    """Every exploration episode has an e of its own from the prior; the task is encoded from all 20."""
    config = PosteriorAdaptConfig(episodes=21)
    assert (config.exploration_episodes, config.posterior_sampling) == (20, False)
    stage = make_stage(meta, config)
    rows: list[EpisodeRow] = []
    while min(stage.episodes) < 20:
        rows += stage.advance().episodes
    assert [row.phase for row in rows] == ["explore"] * (20 * TASKS)
    drawn = torch.cat(spied)
    expected = torch.stack([prior_draw(row.task, row.episode) for row in rows])
    assert torch.equal(drawn, expected)
    for task in range(TASKS):
        context = torch.cat(stage.contexts[task])
        assert len(context) == 20 * LENGTH
        torch.testing.assert_close(
            stage.task_embeddings[task], reference_posterior(meta, context)[0].float(), rtol=1e-4, atol=1e-5
        )


def test_a_context_may_be_cut_to_its_rewarded_part(meta: Path) -> None:
    """``context_drawn``, a departure of ``quick`` on the maze: the rewarded ones of so many draws come first."""
    config, learner = load_meta_trained(stage_context(points(), {"meta_train": meta}))
    cut = dataclasses.replace(config, context_drawn=200)
    context = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    context[:, 4] = -context[:, 4].abs()
    context[::3, 4] = 1.0
    draws = torch.rand((1, 200), generator=torch_generator(0, "e*", 0))[0]
    drawn = [place for place in (int(u * 60) for u in draws.tolist()) if place % 3 == 0]
    assert len(drawn) > 20, "more rewarded ones than a context holds"
    rewarded = reference_posterior(meta, context[drawn[:20]])
    for found, expected in zip(encode_context(learner, cut, context, 0, 0), rewarded, strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    whole = reference_posterior(meta, context)
    for found, expected in zip(encode_context(learner, config, context, 0, 0), whole, strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    assert float((whole[0] - rewarded[0]).abs().max()) > 1e-2


# -- sparse rewards (Rakelly et al., released code) -------------------------------------------------


INFERRING = PosteriorAdaptConfig(episodes=7, exploration_episodes=2, inferring_episodes=3)


def test_after_the_exploration_e_is_drawn_given_all_episodes_before(meta: Path, spied: list[Tensor]) -> None:
    """Two episodes with e ~ p(e), three with e ~ q given two, three and four, the rest with e* given five."""
    stage = make_stage(meta, INFERRING)
    rows = advance_to_end(stage)
    assert [row.phase for row in sorted(rows, key=lambda row: (row.task, row.episode))] == (
        ["explore"] * 2 + ["adapt"] * 5
    ) * TASKS
    acted = dict(zip(((row.task, row.episode) for row in rows), torch.cat(spied), strict=True))
    for task in range(TASKS):
        assert [len(part) for part in stage.contexts[task]] == [LENGTH] * 5
        for episode in range(7):
            expected = noise = prior_draw(task, episode)
            if episode >= 2:
                mean, sigma = reference_posterior(meta, torch.cat(stage.contexts[task][: min(episode, 5)]))
                expected = (mean + sigma * noise if episode < 5 else mean).float()
            torch.testing.assert_close(acted[task, episode], expected, rtol=1e-4, atol=1e-5)


def test_it_may_act_with_the_policys_mean(meta: Path) -> None:
    """Then an episode is fixed by its e: those on e* are all alike, and each action is the tanh of the mean."""
    stage = make_stage(meta, dataclasses.replace(INFERRING, deterministic=True))
    rows = advance_to_end(stage)
    for task in range(TASKS):
        known = {row.episode_return for row in rows if row.task == task and row.episode >= 5}
        assert len(known) == 1
        context = torch.cat(stage.contexts[task])
        states, actions = context[: 2 * LENGTH, :2], context[: 2 * LENGTH, 2:4]
        drawn = torch.stack([prior_draw(task, episode) for episode in (0, 1)]).repeat_interleave(LENGTH, 0)
        layers = [(layer.weight[0], layer.bias[0]) for layer in stage.meta.networks.policy.layers]
        mean = naive_mlp(layers, torch.cat([states, drawn], dim=1))[:, :2]
        torch.testing.assert_close(actions, torch.tanh(mean), rtol=1e-4, atol=1e-5)
    sampled = advance_to_end(make_stage(meta, INFERRING))
    assert len({row.episode_return for row in sampled if row.task == 0 and row.episode >= 5}) == 2


def test_the_control_encodes_each_task_from_the_episodes_of_the_next(meta: Path) -> None:
    stage = make_stage(meta, dataclasses.replace(INFERRING, shuffled_contexts=True))
    advance_to_end(stage)
    for task in range(TASKS):
        assert goals_seen(torch.cat(stage.contexts[task]), task), "episodes are kept with their own task"
        of_the_next = reference_posterior(meta, torch.cat(stage.contexts[(task + 1) % TASKS]))[0].float()
        torch.testing.assert_close(stage.task_embeddings[task], of_the_next, rtol=1e-4, atol=1e-5)


# -- no leak between tasks -------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SAMPLING, PRIOR], ids=["posterior sampling", "prior"])
def test_a_context_holds_its_own_tasks_transitions_alone(meta: Path, config: PosteriorAdaptConfig) -> None:
    stage = make_stage(meta, config)
    advance_to_end(stage)
    for task in range(TASKS):
        context = torch.cat(stage.contexts[task])
        assert len(context) == 3 * LENGTH
        assert goals_seen(context, task)
        assert not goals_seen(context, (task + 1) % TASKS)


@pytest.mark.parametrize("config", [SAMPLING, PRIOR, INFERRING], ids=["posterior sampling", "prior", "inferring"])
def test_what_a_task_learns_does_not_depend_on_the_others_or_on_lanes(meta: Path, config: PosteriorAdaptConfig) -> None:
    together = make_stage(meta, config)
    all_rows = [row for row in advance_to_end(together) if row.task == 1]
    for other in (make_stage(meta, config, tasks=(1,)), make_stage(meta, dataclasses.replace(config, lanes=2))):
        rows = sorted((row for row in advance_to_end(other) if row.task == 1), key=lambda row: row.episode)
        assert [(row.phase, row.episode, row.env_steps) for row in rows] == [
            (row.phase, row.episode, row.env_steps) for row in all_rows
        ]
        found, expected = ([row.episode_return for row in part] for part in (rows, all_rows))
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        learner = other.tasks.index(1)
        torch.testing.assert_close(other.task_embeddings[learner], together.task_embeddings[1], rtol=1e-3, atol=1e-4)


def test_nothing_is_learned_by_gradient(meta: Path) -> None:
    stage = make_stage(meta, SAMPLING)
    before = flat_parameters(stage.meta)
    advance_to_end(stage)
    assert torch.equal(flat_parameters(stage.meta), before)
    _, untouched = load_meta_trained(stage.context)
    assert torch.equal(flat_parameters(untouched), before)


def test_rows_count_episodes_and_env_steps(meta: Path) -> None:
    stage = make_stage(meta, PRIOR)
    rows = advance_to_end(stage)
    assert len(rows) == 6 * TASKS == stage.progress.done == stage.progress.total
    for task in range(TASKS):
        mine = [row for row in rows if row.task == task]
        assert [row.episode for row in mine] == list(range(6))
        assert [row.env_steps for row in mine] == [LENGTH * (i + 1) for i in range(6)]
        assert [row.phase for row in mine] == ["explore"] * 3 + ["adapt"] * 3
        assert not any(row.success for row in mine), "no goal has the highest return of all goals"


# -- resume, determinism, artefact -----------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [SAMPLING, dataclasses.replace(PRIOR, lanes=4), dataclasses.replace(INFERRING, lanes=2)],
    ids=["posterior sampling", "prior", "inferring"],
)  # fmt: skip
def test_a_resumed_stage_ends_bit_for_bit_the_same(meta: Path, config: PosteriorAdaptConfig, tmp_path: Path) -> None:
    """From before every advance."""
    stage = make_stage(meta, config)
    states, rows = [], []
    while not stage.finished:
        states.append(through_disk(stage.state_dict(), tmp_path))
        rows.append(list(stage.advance().episodes))
    assert len(states) >= 4
    for advance, state in enumerate(states):
        resumed = make_stage(meta, config)
        resumed.load_state_dict(state)
        assert advance_to_end(resumed) == [row for part in rows[advance:] for row in part]
        assert differences(resumed.state_dict(), stage.state_dict()) == []


def test_a_seed_fixes_the_stage_and_another_seed_differs(meta: Path) -> None:
    first, again, other = (advance_to_end(make_stage(meta, SAMPLING, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_the_artefact_holds_e_and_the_policy_and_can_be_played(meta: Path, tmp_path: Path) -> None:
    stage = make_stage(meta, SAMPLING, tasks=(2, 0))
    advance_to_end(stage)
    assert stage.write_artefact(tmp_path) == {"tasks": 2}
    learners = load_tensors(tmp_path / ADAPTED_FILE)["learners"]
    assert list(learners) == [2, 0]
    policy = [parameter[0] for parameter in stage.meta.networks.policy.parameters()]
    for place, task in enumerate((2, 0)):
        assert torch.equal(learners[task]["task_embedding"], stage.task_embeddings[place])
        assert differences(learners[task]["policy"], policy) == []
    played = play_adapted(SAMPLING, stage.context, PlayRequest(tmp_path, task=2, episodes=2, seed=3))
    assert [episode.observations.shape for episode in played] == [(LENGTH + 1, 2)] * 2
    goal = np.array(points().target_tasks[2].spec["goal"])
    for episode in played:
        distances = np.linalg.norm(episode.observations[1:] - goal, axis=1)
        assert episode.episode_return == pytest.approx(-distances.sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [("episodes", 0), ("exploration_episodes", 0), ("exploration_episodes", 7), ("lanes", 0),
     ("inferring_episodes", 4), ("inferring_episodes", -1)],
)  # fmt: skip
def test_absurd_configurations_are_refused_by_name(field: str, value: int) -> None:
    SAMPLING.validate()
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        dataclasses.replace(SAMPLING, **{field: value}).validate()
