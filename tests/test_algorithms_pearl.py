"""PEARL and PEARL-ft as algorithms: recipes, contexts apart from batches, both kinds of episodes, resume, one artefact.

Meta-training runs on the real point robot with three of its goals.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import algorithms.meta_training
from algorithms.files import load_tensors
from algorithms.meta_training import META_FILE, MetaTraining, prior_task_embeddings
from algorithms.pearl import (
    PEARL,
    PEARL_FT,
    PearlFtAdaptConfig,
    PearlMetaTrainConfig,
    load_meta_trained,
    make_meta_train_stage,
    make_pearl_ft_adapt_stage,
)
from algorithms.regularized_sac import FrozenPolicies, SquashedActorCriticConfig
from algorithms.stage import EpisodeRow
from bench.plan import RunRequest, plan_run
from envs.core import TaskDistribution
from envs.registry import task_distribution
from tests.algorithm_helpers import (
    advance_to_end,
    config_of,
    differences,
    flat_parameters,
    naive_product_encoder,
    stage_context,
    through_disk,
)
from tests.conftest import Bench

PRIOR, POSTERIOR = "meta_train_prior", "meta_train_posterior"
LENGTH, TASKS, SETS = 20, 3, 4
CONFIG = PearlMetaTrainConfig(
    epochs=3, task_embedding_dim=3, tasks_per_update=SETS, context_transitions=15, transitions_per_task=30,
    warm_up_transitions=40, transition_reuse=12.0, replay_capacity=200, context_capacity=40, encoder_hidden_dim=8,
    encoder_hidden_layers=1, learning_rate=3e-3, encoder_kl_weight=1e-3,
    actor_critic=SquashedActorCriticConfig(hidden_dim=8, hidden_layers=1),
)  # fmt: skip
SET_TRANSFORMER = dataclasses.replace(CONFIG, encoder="set_transformer")


@cache
def points() -> TaskDistribution:
    """The point robot with three of its goals: right, up, left."""
    whole = task_distribution("point-robot")
    return dataclasses.replace(
        whole, train_tasks=tuple(whole.train_tasks[i] for i in (0, 49, 99)), target_tasks=whole.target_tasks[:2]
    )


def make_stage(config: PearlMetaTrainConfig = CONFIG, seed: int = 0) -> MetaTraining:
    return make_meta_train_stage(config, stage_context(points(), {}, seed))


# -- recipes ---------------------------------------------------------------------------------------


def test_stages_and_what_they_need() -> None:
    assert (
        [stage.name for stage in PEARL.stages] == [stage.name for stage in PEARL_FT.stages] == ["meta_train", "adapt"]
    )
    assert PEARL.stages[0] is PEARL_FT.stages[0]
    assert PEARL.stages[0].inputs == ()
    assert PEARL.stages[1].inputs == PEARL_FT.stages[1].inputs == ("meta_train",)
    assert PEARL.stages[1].implementation != PEARL_FT.stages[1].implementation
    assert PEARL.needs_train_tasks and PEARL_FT.needs_train_tasks


@pytest.mark.parametrize("env", ["maze", "kitchen", "point-robot"])
@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_pearl_and_pearl_ft_share_one_meta_train_artefact(env: str, preset: str) -> None:
    """At every preset: a difference in a field of meta_train would train twice."""
    (pearl, adapt), (pearl_ft, adapt_ft) = (
        plan_run(RunRequest(algo, env, preset)).stages for algo in ("pearl", "pearl-ft")
    )
    assert pearl.artefact_name == pearl_ft.artefact_name
    assert adapt.artefact_name != adapt_ft.artefact_name
    assert adapt.inputs == adapt_ft.inputs == {"meta_train": pearl.artefact_name}
    other_seed = plan_run(RunRequest("pearl", env, preset, seed=1)).stages[0]
    assert other_seed.artefact_name != pearl.artefact_name


def test_what_one_has_trained_the_other_reuses_and_both_can_be_played(bench: Bench, tmp_path: Path) -> None:
    common = ("--env", "point-robot", "--preset", "smoke", "--tasks", "0,7", "--out", tmp_path)
    first, second = (bench("run", "--algo", algo, *common) for algo in ("pearl", "pearl-ft"))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert len(list((tmp_path / "artefacts").glob("meta_train-*"))) == 1
    assert len(list((tmp_path / "artefacts").glob("adapt-*"))) == 2
    for run in tmp_path.glob("pearl*"):
        assert json.loads((run / "run.json").read_text())["status"] == "done"
        played = bench("play", run, "--task", 7, "--episodes", 2)
        assert played.code == 0, played.err
        assert (run / "play-task7.png").read_bytes().startswith(b"\x89PNG")


def test_paper_presets_hold_what_simpls_appendix_states() -> None:
    """F.2, written out anew; no departure is on. On the toy, Rakelly et al.'s own protocol."""
    for env in ("maze", "kitchen", "point-robot"):
        for found in (PEARL, PEARL_FT):
            meta = config_of(found, "meta_train", found.presets[env, "paper"])
            assert (meta.tasks_per_update, meta.initial_coefficient, meta.target_entropy_per_action_dim) == (
                20,
                0.1,
                -1,
            )
            assert (meta.rewarded_fraction, meta.context_drawn, meta.n_step, meta.clip_targets) == (0.0, 0, 1, False)
            assert meta.encoder == "gaussian_product"
            assert not meta.actor_critic.zero_initial_values
            adapt = config_of(found, "adapt", found.presets[env, "paper"])
            assert adapt.exploration_episodes == (2 if env == "point-robot" else 20)
        assert not (meta.posterior_contexts or meta.dense_critic_rewards or meta.rewarded_capacity)
        adapt = config_of(PEARL, "adapt", PEARL.presets[env, "paper"])
        assert not (adapt.posterior_sampling or adapt.inferring_episodes or adapt.deterministic)
    sparse = PEARL.presets["point-robot-sparse", "paper"]
    meta, adapt = (config_of(PEARL, stage, sparse) for stage in ("meta_train", "adapt"))
    assert meta.posterior_contexts and meta.dense_critic_rewards
    assert (meta.discount, meta.context_transitions, meta.context_capacity) == (0.9, 1024, 1000)
    assert meta.encoder_kl_weight == pytest.approx(1.0 * 16 / 100**2)
    assert (adapt.exploration_episodes, adapt.inferring_episodes, adapt.episodes) == (5, 15, 20)
    assert adapt.deterministic and not adapt.shuffled_contexts


# -- contexts and batches --------------------------------------------------------------------------


def test_contexts_may_hold_both_kinds_of_episodes_and_critics_learn_from_another_reward() -> None:
    """The sparse point robot as in Rakelly et al.'s code. Sparse and dense reward are computed anew from positions."""
    whole = task_distribution("point-robot-sparse")
    distribution = dataclasses.replace(whole, train_tasks=tuple(whole.train_tasks[i] for i in (0, 50)))
    config = dataclasses.replace(
        CONFIG,
        epochs=2,
        posterior_contexts=True,
        dense_critic_rewards=True,
        discount=0.9,
        n_step=3,
        context_capacity=200,
    )
    config.validate_for(distribution)
    stage = make_meta_train_stage(config, stage_context(distribution, {}))
    rows = advance_to_end(stage)
    for task in range(2):
        episodes = sum(row.task == task for row in rows)
        assert stage.context_replay.added.tolist()[task] == stage.replay.added.tolist()[task] == LENGTH * episodes
        goal = np.array(distribution.train_tasks[task].spec["goal"])
        held = stage.replay.fields.unpack(stage.replay.rows[task, : stage.replay.sizes[task]])
        distances = np.linalg.norm(held["next_states"].numpy() - goal, axis=1)
        sparse = np.where(distances <= 0.2, 1 - distances, 0.0)
        np.testing.assert_allclose(held["rewards"][:, 0].numpy(), sparse, atol=1e-5)
        dense = -distances.reshape(-1, LENGTH)
        padded = np.pad(dense, ((0, 0), (0, 2)))
        ahead = sum(0.9**k * padded[:, k : k + LENGTH] for k in range(3))
        np.testing.assert_allclose(held["td_rewards"][:, 0].numpy().reshape(-1, LENGTH), ahead, rtol=1e-4)


@pytest.mark.parametrize(
    ("env", "change", "message"),
    [
        ("maze", {"dense_critic_rewards": True}, "dense_critic_rewards is on, but maze has no dense reward"),
        ("point-robot-sparse", {"dense_critic_rewards": True, "clip_targets": True}, "clip_targets and dense_critic"),
    ],
)
def test_a_dense_reward_that_there_is_not_is_refused(env: str, change: dict[str, bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change).validate_for(task_distribution(env))  # type: ignore[arg-type]


def test_only_episodes_with_e_from_the_prior_enter_the_contexts() -> None:
    """The latest of them, for the ring holds two; the critics' replay takes both kinds."""
    stage = make_stage()
    warm_up = []
    while stage.epochs == 0:
        warm_up.append([(row.phase, row.task) for row in stage.advance().episodes])
    assert warm_up[:2] == [[(PRIOR, task) for task in range(TASKS)]] * 2, "two episodes fill a context"
    assert warm_up[2] == [(phase, task) for phase in (PRIOR, POSTERIOR) for task in range(TASKS)]
    rows = advance_to_end(stage)
    epochs = CONFIG.epochs
    assert [row.phase for row in rows].count(POSTERIOR) == (epochs - 1) * TASKS
    assert stage.replay.added.tolist() == [LENGTH * (2 + 2 * epochs)] * TASKS
    assert stage.context_replay.added.tolist() == [LENGTH * (2 + epochs)] * TASKS
    for task in range(TASKS):
        leading = stage.replay.rows[task, : stage.replay.sizes[task], : stage.learner.context_dim]
        everything = [tuple(row) for row in leading.tolist()]
        # Of the last two epochs, each of which brings one episode with e ~ p(e), then one with e ~ q.
        latest = {tuple(row) for row in [*everything[-4 * LENGTH : -3 * LENGTH], *everything[-2 * LENGTH : -LENGTH]]}
        assert {tuple(row) for row in stage.context_replay.rows[task].tolist()} == latest


def test_context_batches_are_separate_from_rl_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn from replays of their own, at positions of their own, of the same tasks."""
    stage = make_stage()
    while stage.epochs == 0:
        stage.advance()
    assert stage.replay.rows.data_ptr() != stage.context_replay.rows.data_ptr()
    for replay, offset in ((stage.replay, 0.0), (stage.context_replay, 100.0)):
        replay.rows[:, :, 0] = torch.arange(TASKS)[:, None] + offset
        replay.rows[:, :, 1] = torch.arange(replay.capacity)[None]
    positions = []
    for update in range(20):
        stage.updates = update
        rows, (contexts,), tasks, noise = stage._draw()
        assert rows.shape == (SETS, 30, stage.learner.fields.dim)
        assert contexts.shape == (SETS, 15, stage.learner.context_dim)
        assert noise.shape == (2, SETS * 30, 2 + 3)
        assert torch.equal(rows[:, :, 0], tasks[:, None].expand(-1, 30).float())
        assert torch.equal(contexts[:, :, 0], tasks[:, None].expand(-1, 15) + 100.0)
        positions.append((rows[:, :15, 1], contexts[:, :, 1]))
    of_rows, of_contexts = (torch.stack(part).flatten() for part in zip(*positions, strict=True))
    assert abs(float(torch.corrcoef(torch.stack([of_rows, of_contexts]))[0, 1])) < 0.1


class SpiedPolicies(FrozenPolicies):
    """The real thing, which also notes the embeddings that it is made with."""

    seen: list[Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen.append(self.task_embeddings.clone())


def test_prior_episodes_draw_e_from_n01_and_posterior_ones_from_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latter is a draw, with the episode's own noise, from q given transitions of that task's contexts."""
    stage = make_stage()
    SpiedPolicies.seen = []
    monkeypatch.setattr(algorithms.meta_training, "FrozenPolicies", SpiedPolicies)
    while stage.epochs == 0:
        round_index = stage.rounds
        rows = stage.advance().episodes
    assert stage.updates == 0
    contexts = stage.context_replay.rows.clone()[:, :, : stage.learner.context_dim]  # this epoch's episodes among them
    weights = {name: w.detach().double() for name, w in stage.learner.encoder.named_parameters()}
    keys = [(0, row.phase, row.task, round_index + (row.phase == POSTERIOR)) for row in rows]
    noise = prior_task_embeddings(keys, 3)
    acted = torch.cat(SpiedPolicies.seen[-2:])
    assert torch.equal(acted[:TASKS], noise[:TASKS])
    # Every transition is one of two episodes', so each mean lies within what single transitions say.
    for task in range(TASKS):
        singles = naive_product_encoder(weights, contexts[task].double()[:, None])
        precision = (15 / singles.sigma.square()).aminmax(dim=0)
        e = acted[TASKS + task].double()
        sigma = precision.min.rsqrt()
        slack = sigma * noise[TASKS + task].double().abs() + 1e-6
        assert bool((e >= singles.mean.amin(0) - slack).all()) and bool((e <= singles.mean.amax(0) + slack).all())
    assert float((acted[TASKS:] - noise[TASKS:]).abs().max()) > 0.05


# -- resume, determinism, artefact -----------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, SET_TRANSFORMER], ids=["product", "attention"])
def test_a_resumed_stage_ends_bit_for_bit_the_same(config: PearlMetaTrainConfig, tmp_path: Path) -> None:
    """From the start, the warm-up, amid an epoch's updates and before the last ones; the seed fixes everything."""
    stage, again = make_stage(config), make_stage(config)
    states: list[Mapping[str, Any]] = []
    rows: list[list[EpisodeRow]] = []
    while not stage.finished:
        states.append(through_disk(stage.state_dict(), tmp_path))
        rows.append(list(stage.advance().episodes))
    for moment in (0, 1, len(states) // 2, len(states) - 1):
        torch.manual_seed(99)
        resumed = make_stage(config)
        resumed.load_state_dict(states[moment])
        assert advance_to_end(resumed) == [row for part in rows[moment:] for row in part]
        assert differences(resumed.state_dict(), stage.state_dict()) == []
    assert advance_to_end(again) == [row for part in rows for row in part]
    assert advance_to_end(make_stage(config, seed=1)) != [row for part in rows for row in part]


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage = make_stage()
    advance_to_end(stage)
    folder = tmp_path_factory.mktemp("meta")
    stage.write_artefact(folder)
    return folder


def test_the_artefact_holds_learner_and_configuration(meta: Path) -> None:
    config, learner = load_meta_trained(stage_context(points(), {"meta_train": meta}))
    assert config == CONFIG
    assert differences(dict(learner.state_dict()), load_tensors(meta / META_FILE)["learner"]) == []


# -- PEARL-ft --------------------------------------------------------------------------------------

FT = PearlFtAdaptConfig(
    episodes=5, exploration_episodes=2, batch_size=16, replay_capacity=200, updates_per_episode=4, learning_rate=3e-3
)


def make_ft(meta: Path, config: PearlFtAdaptConfig = FT) -> Any:
    return make_pearl_ft_adapt_stage(config, stage_context(points(), {"meta_train": meta}))


def test_pearl_ft_goes_on_from_policy_critics_and_alpha(meta: Path) -> None:
    """Of every task, conditioned on its own e*; target critics start as copies of critics; alpha is tuned both ways, to
    the target entropy -dim(A)."""
    stage = make_ft(meta)
    _, learner = load_meta_trained(stage.context)
    for name, source in (("policy", "policy"), ("critics", "critics"), ("target_critics", "critics")):
        expected = list(getattr(learner.networks, source).parameters())
        for copy in range(2):
            found = [p.unflatten(0, (2, -1))[copy] for p in getattr(stage.networks, name).parameters()]
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), name
    torch.testing.assert_close(stage.coefficients.values, learner.coefficient.values.expand(2))
    assert FT.target_divergence(2) == 2.0 and not FT.divergence_only_weighs_more
    explored = stage.advance().episodes
    assert [(row.phase, row.task, row.episode) for row in explored] == [
        ("explore", task, episode) for task in range(2) for episode in range(2)
    ]
    assert not torch.equal(stage.task_embeddings[0], stage.task_embeddings[1])
    assert flat_parameters(stage.meta.encoder).equal(flat_parameters(learner.encoder))
    rows = advance_to_end(stage)
    assert [row.phase for row in rows] == ["adapt"] * 6
    assert flat_parameters(stage.meta.networks).equal(flat_parameters(learner.networks)), "the copies learn, not these"


def test_a_resumed_pearl_ft_ends_bit_for_bit_the_same(meta: Path, tmp_path: Path) -> None:
    stage = make_ft(meta)
    states, rows = [], []
    while not stage.finished:
        states.append(through_disk(stage.state_dict(), tmp_path))
        rows.append(list(stage.advance().episodes))
    for moment, state in enumerate(states):
        resumed = make_ft(meta)
        resumed.load_state_dict(state)
        assert advance_to_end(resumed) == [row for part in rows[moment:] for row in part]
        assert differences(resumed.state_dict(), stage.state_dict()) == []


def test_pearl_ft_needs_an_episode_to_fine_tune() -> None:
    FT.validate()
    with pytest.raises(ValueError, match="exploration_episodes is 5; valid is 1 to 4"):
        dataclasses.replace(FT, exploration_episodes=5).validate()
