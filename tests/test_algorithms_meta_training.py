"""Meta-training as a stage, with SiMPL's learner, on the real maze with a time limit of 60 env_steps.

Of the three training tasks one is solved by the first env_step (one transition per episode), one by about every third
episode, and one never (six transitions per episode).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import algorithms.meta_training
from algorithms.files import load_tensors
from algorithms.meta_training import META_FILE, MetaTraining
from algorithms.networks import Gaussian
from algorithms.regularized_sac import ActorCriticConfig, FrozenPolicies
from algorithms.simpl import SimplMetaTrainConfig, make_meta_train_stage
from algorithms.stage import EpisodeRow
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    advance_to_end,
    differences,
    flat_parameters,
    naive_task_encoder,
    short_maze,
    stage_context,
    tiny_skill_model,
    write_skills,
)

AT_ONCE, SOMETIMES, NEVER = 0, 1, 2
"""The training tasks, by how often they are solved."""
MAZE = short_maze(60, [START_GOAL, NEAR_GOAL, FAR_GOAL])
PRIOR, POSTERIOR = "meta_train_prior", "meta_train_posterior"
SMALL_SETS, LARGE_SETS = 2, 3
CONFIG = SimplMetaTrainConfig(
    epochs=3, task_embedding_dim=2, small_context_tasks=SMALL_SETS, large_context_tasks=LARGE_SETS,
    transitions_per_task=8, small_context=2, large_context=9, warm_up_transitions=5, transition_reuse=20.0,
    replay_capacity=60, context_capacity=40, encoder_hidden_dim=16, learning_rate=3e-3,
    actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_skills(tmp_path_factory.mktemp("skills"))


def make_stage(skills: Path, config: SimplMetaTrainConfig = CONFIG, seed: int = 0) -> MetaTraining:
    return make_meta_train_stage(config, stage_context(MAZE, {"skills": skills}, seed))


def transitions(rows: Sequence[EpisodeRow], task: int, phases: tuple[str, ...] = (PRIOR, POSTERIOR)) -> int:
    """Skill transitions of a task's episodes."""
    return sum(math.ceil(row.length / 10) for row in rows if row.task == task and row.phase in phases)


def warmed_up(skills: Path, config: SimplMetaTrainConfig = CONFIG) -> MetaTraining:
    """A stage after its warm-up and the episodes of its first epoch."""
    stage = make_stage(skills, config)
    while stage.epochs == 0:
        stage.advance()
    return stage


# -- collecting ----------------------------------------------------------------------------------------------


def test_warm_up_fills_contexts_with_prior_episodes_then_the_critics_replay_with_posterior_ones(skills: Path) -> None:
    """5 context transitions, then 8 for the critics, which the episodes before do not serve: the task solved at once
    needs five episodes, then eight; the one never solved one of six transitions, then two."""
    stage, calendar = make_stage(skills), []
    while stage.epochs == 0:
        assert stage.updates == 0
        rows = stage.advance().episodes
        calendar.append([(row.phase, row.task) for row in rows])
    assert calendar[0] == [(PRIOR, AT_ONCE), (PRIOR, SOMETIMES), (PRIOR, NEVER)]
    first_posterior = next(index for index, batch in enumerate(calendar) if batch[0][0] == POSTERIOR)
    assert all(phase == PRIOR for batch in calendar[:first_posterior] for phase, _ in batch)
    warm_up = calendar[:-1]
    assert all(phase == POSTERIOR for batch in warm_up[first_posterior:] for phase, _ in batch)
    tasks = [task for batch in warm_up[:first_posterior] for _, task in batch]
    assert (tasks.count(AT_ONCE), tasks.count(NEVER)) == (5, 1), "a full context needs no further episode"
    tasks = [task for batch in warm_up[first_posterior:] for _, task in batch]
    assert (tasks.count(AT_ONCE), tasks.count(NEVER)) == (8, 2)
    assert calendar[-1] == [(phase, task) for phase in (PRIOR, POSTERIOR) for task in range(3)]


@pytest.mark.parametrize("warm_up_feeds_critics", [False, True])
def test_only_prior_episodes_enter_the_contexts_and_both_kinds_the_critics_replay(
    skills: Path, warm_up_feeds_critics: bool
) -> None:
    """Those of the warm-up serve contexts alone (released SiMPL) or both (released PEARL), as the learner says."""
    config = dataclasses.replace(CONFIG, replay_capacity=1000, context_capacity=1000)
    stage = make_stage(skills, config)
    assert stage.learner.warm_up_feeds_critics is False
    stage.learner.warm_up_feeds_critics = warm_up_feeds_critics
    rows = advance_to_end(stage)
    assert {row.phase for row in rows} == {PRIOR, POSTERIOR}
    for task in (AT_ONCE, SOMETIMES, NEVER):
        mine = [row for row in rows if row.task == task]
        warm_up = [row for row in mine[: -2 * config.epochs] if row.phase == PRIOR]
        in_contexts, in_warm_up = transitions(mine, task, (PRIOR,)), transitions(warm_up, task)
        assert in_warm_up >= 5
        assert int(stage.context_replay.added[task]) == in_contexts
        left_out = 0 if warm_up_feeds_critics else in_warm_up
        assert int(stage.replay.added[task]) == transitions(mine, task) - left_out
        # The critics' replay holds the contexts' other episodes among its own, each transition once.
        contexts = {tuple(row) for row in stage.context_replay.rows[task, left_out:in_contexts].tolist()}
        rows_of_task = stage.replay.rows[task, : stage.replay.sizes[task]]
        everything = [tuple(row) for row in rows_of_task[:, : stage.learner.context_dim].tolist()]
        assert contexts < set(everything)
        assert len(everything) == len(set(everything))
        only_contexts = {tuple(row) for row in stage.context_replay.rows[task, :left_out].tolist()}
        assert not only_contexts & set(everything)


def test_an_epochs_prior_episodes_enter_the_contexts_before_its_posterior_ones_draw_theirs(
    skills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(skills)
    in_contexts: list[list[int]] = []
    encode = stage._encode

    def noting(tasks: Tensor, generator: torch.Generator) -> Gaussian:
        in_contexts.append(stage.context_replay.added.tolist())
        return encode(tasks, generator)

    monkeypatch.setattr(stage, "_encode", noting)
    rows: list[EpisodeRow] = []
    while not stage.finished:
        epochs = stage.epochs
        rows += stage.advance().episodes
        if stage.epochs > epochs:
            assert in_contexts[-1] == [transitions(rows, task, (PRIOR,)) for task in range(3)]


def test_rows_count_episodes_env_steps_and_successes(skills: Path) -> None:
    stage = make_stage(skills)
    rows = advance_to_end(stage)
    for task in (AT_ONCE, SOMETIMES, NEVER):
        mine = [row for row in rows if row.task == task]
        assert [row.episode for row in mine] == list(range(len(mine)))
        assert [row.env_steps for row in mine] == [sum(r.length for r in mine[: i + 1]) for i in range(len(mine))]
        assert all(row.success == (row.episode_return == 1.0) == (row.length < 60) for row in mine)
    assert all(row.success for row in rows if row.task == AT_ONCE)
    last_epoch = [row for row in rows[-6:] if row.phase == POSTERIOR]
    assert stage.progress.success == pytest.approx(sum(row.success for row in last_epoch) / 3)
    assert (stage.progress.done, stage.progress.total, stage.progress.unit) == (3, 3, "epochs")


class SpiedPolicies(FrozenPolicies):
    """The real thing, which also notes the embeddings that it is made with."""

    seen: list[Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen.append(self.task_embeddings.clone())


def test_prior_episodes_act_with_e_from_the_prior_and_posterior_ones_with_e_from_the_encoder(
    skills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The posterior is sampled, given a large context of that task; e is drawn once per episode."""
    stage = make_stage(skills, dataclasses.replace(CONFIG, epochs=40, transition_reuse=1e-9, learning_rate=1e-9))
    with torch.no_grad():
        stage.learner.encoder.output.bias.copy_(torch.tensor([50.0, -50.0, -100.0, 3.0]))
    SpiedPolicies.seen = []
    monkeypatch.setattr(algorithms.meta_training, "FrozenPolicies", SpiedPolicies)
    rows = advance_to_end(stage)
    embeddings = torch.cat(SpiedPolicies.seen)
    assert len(embeddings) == len(rows), "one for each episode"
    from_prior = torch.tensor([row.phase == PRIOR for row in rows])
    prior, posterior = embeddings[from_prior], embeddings[~from_prior]
    assert float(prior.mean()) == pytest.approx(0.0, abs=0.2)
    assert float(prior.std()) == pytest.approx(1.0, abs=0.15)
    assert len({tuple(e) for e in prior.tolist()}) == len(prior)
    # mean 50 with the minimal sigma, and mean -50 with a sigma of about 3.5, up to what the context says
    assert float((posterior[:, 0] - 50).abs().max()) < 5
    assert float(posterior[:, 1].mean()) == pytest.approx(-50, abs=5)
    assert float(posterior[:, 1].std()) == pytest.approx(3.5, rel=0.35)


def test_the_acting_posterior_is_that_of_a_large_context_of_the_task(skills: Path) -> None:
    """As a plain Set Transformer computes it from the transitions that are in the context replay, nine of them."""
    stage = warmed_up(skills)
    stage.context_replay.rows[:, :, 0] = torch.tensor([[1.0], [2.0], [3.0]])  # the first coordinate names the task
    tasks = torch.tensor([2, 0])
    contexts = stage._contexts(
        tasks, stage.config.large_context, stage.config.context_drawn, torch.Generator().manual_seed(0)
    )
    assert contexts.shape == (2, 9, stage.learner.context_dim)
    assert contexts[:, :, 0].tolist() == [[3.0] * 9, [1.0] * 9]
    weights = {name: parameter.detach().double() for name, parameter in stage.learner.encoder.named_parameters()}
    expected = naive_task_encoder(weights, contexts.double())
    posterior = stage._encode(tasks, torch.Generator().manual_seed(0))
    torch.testing.assert_close(posterior.mean.double(), expected.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.sigma.double(), expected.sigma, rtol=1e-4, atol=1e-5)


# -- updating ------------------------------------------------------------------------------------------------


def test_updates_per_epoch_are_reuse_times_collected_over_the_update_size(skills: Path) -> None:
    """reuse x skill transitions of the epoch / context sets / transitions per set, rounded down, a few per advance; all
    of them before the next episodes, and after the last ones."""
    stage = make_stage(skills, dataclasses.replace(CONFIG, transition_reuse=23.0))
    expected = done_before = uneven = 0
    while not stage.finished:
        report = stage.advance()
        assert stage.updates - done_before <= stage.MAX_UPDATES_PER_ADVANCE
        if report.episodes:
            assert stage.updates == done_before == expected
        if report.episodes and stage.epochs:
            collected = sum(math.ceil(row.length / 10) for row in report.episodes)
            exact = 23.0 * collected / (SMALL_SETS + LARGE_SETS) / 8
            epoch_updates = math.floor(exact)
            assert epoch_updates > stage.MAX_UPDATES_PER_ADVANCE
            uneven += exact - epoch_updates >= 0.5
            expected += epoch_updates
        done_before = stage.updates
    assert stage.epochs == 3
    assert stage.updates == expected
    assert uneven, "some epoch must tell rounding down from rounding"


def test_an_epoch_is_followed_by_one_update_at_least(skills: Path) -> None:
    stage = make_stage(skills, dataclasses.replace(CONFIG, transition_reuse=1e-9))
    advance_to_end(stage)
    assert (stage.epochs, stage.updates) == (3, 3)


def test_a_draw_takes_contexts_and_batches_of_the_same_tasks_from_their_own_replays(skills: Path) -> None:
    """Small contexts first. The context is independent of the batch: other positions of another replay."""
    stage = warmed_up(skills)
    for replay, offset in ((stage.replay, 0.0), (stage.context_replay, 100.0)):
        replay.rows[:, :, 0] = torch.arange(3)[:, None] + offset
        replay.rows[:, :, 1] = torch.arange(replay.capacity)[None]
    seen_tasks = set()
    for update in range(20):
        stage.updates = update
        rows, (small, large), tasks, noise = stage._draw()
        seen_tasks |= set(tasks.tolist())
        assert rows.shape == (5, 8, stage.learner.fields.dim)
        assert small.shape == (SMALL_SETS, 2, stage.learner.context_dim)
        assert large.shape == (LARGE_SETS, 9, stage.learner.context_dim)
        assert noise.shape == (2, 5 * 8, tiny_skill_model().config.latent_dim + 2)
        for index, task in enumerate(tasks.tolist()):
            context = small[index] if index < SMALL_SETS else large[index - SMALL_SETS]
            assert rows[index, :, 0].tolist() == [task] * 8
            assert context[:, 0].tolist() == [task + 100.0] * len(context)
            assert int(rows[index, :, 1].max()) < int(stage.replay.sizes[task])
            assert int(context[:, 1].max()) < int(stage.context_replay.sizes[task])
    assert seen_tasks == {0, 1, 2}


def test_draws_are_keyed_by_the_update(skills: Path) -> None:
    stage = warmed_up(skills)
    first, again = stage._draw(), stage._draw()
    stage.updates += 1
    other = stage._draw()
    assert differences(first, again) == []
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[3], other[3])
    assert not torch.equal(first[3][0], first[3][1]), "critics and policy have noise of their own"


def test_rewarded_transitions_come_first_where_asked_for(skills: Path) -> None:
    """Departures: a part of each critic batch, and the first of 30 drawn for each large context."""
    config = dataclasses.replace(CONFIG, rewarded_fraction=0.5, context_drawn=30)
    stage = warmed_up(skills, config)
    columns = stage.learner.fields.unpack(stage.context_replay.rows)
    columns["rewards"][SOMETIMES, 3] = 1.0
    stage.replay.rows[:, :, stage.learner.fields.slices["td_rewards"]] = 0.0
    stage.replay.rows[SOMETIMES, 2, stage.learner.fields.slices["td_rewards"]] = 1.0
    stage.replay.find_rewarded()
    stage.context_replay.find_rewarded()
    checked = 0
    for update in range(10):
        stage.updates = update
        rows, (_, large), tasks, _ = stage._draw()
        rewarded = rows[..., stage.learner.fields.slices["td_rewards"]][..., 0] > 0
        in_context = large[..., stage.learner.fields.slices["rewards"]][..., 0] > 0
        for index, task in enumerate(tasks.tolist()):
            assert bool(rewarded[index, :4].all()) == (task == SOMETIMES)
            if index >= SMALL_SETS:
                context = in_context[index - SMALL_SETS]
                assert context.tolist() == sorted(context.tolist(), reverse=True)
                checked += task == SOMETIMES and bool(context[0])
    assert checked >= 3


def test_it_says_which_part_of_the_contexts_holds_a_reward(skills: Path) -> None:
    """Counted by hand in the contexts of the update, of all and of those whose tasks were ever solved."""
    stage = warmed_up(skills)
    checked, every_name = set(), set()
    for update in range(30):
        stage.updates = update
        _, (_, large), tasks, _ = stage._draw()
        tasks = tasks[SMALL_SETS:]
        rewards = large[..., stage.learner.fields.slices["rewards"]][..., 0]
        holds = [any(reward > 0 for reward in of_set) for of_set in rewards.tolist()]
        td_rewards = stage.replay.rows[tasks][..., stage.learner.fields.slices["td_rewards"]]
        solved = [bool((of_task > 0).any()) for of_task in td_rewards]
        metrics = stage._rewarded_contexts(large, tasks)
        assert metrics["rewarded_contexts"] == pytest.approx(sum(holds) / LARGE_SETS)
        if any(solved):
            of_solved = sum(h for h, s in zip(holds, solved, strict=True) if s) / sum(solved)
            assert metrics["rewarded_contexts_of_solved_tasks"] == pytest.approx(of_solved)
        else:
            assert "rewarded_contexts_of_solved_tasks" not in metrics
        checked.add(metrics["rewarded_contexts"])
        every_name |= set(metrics)
    assert len(checked) >= 2
    assert every_name == {"rewarded_contexts", "rewarded_contexts_of_solved_tasks"}
    assert "rewarded_contexts" in stage._update()


def test_a_task_once_solved_has_a_reward_in_every_context_where_rewards_are_kept(skills: Path) -> None:
    """A ring of 24 transitions, which holds none of the one that was rewarded, 100 transitions ago."""
    config = dataclasses.replace(CONFIG, context_drawn=9, context_capacity=24, rewarded_capacity=3)
    stage = warmed_up(skills, config)
    once = torch.zeros(1, stage.learner.context_dim)
    once[0, stage.learner.fields.slices["rewards"]] = 1.0
    stage.context_replay.add(NEVER, once)
    stage.context_replay.add(NEVER, torch.zeros(100, stage.learner.context_dim))
    contexts = stage._contexts(torch.tensor([NEVER] * 20), 9, 9, torch.Generator().manual_seed(0))
    rewards = contexts[..., stage.learner.fields.slices["rewards"]][..., 0]
    assert rewards[:, 0].tolist() == [1.0] * 20
    assert not rewards[:, 1:].any()


def test_everything_that_should_learn_moves_and_nothing_else(skills: Path) -> None:
    config = dataclasses.replace(
        CONFIG, small_target_kl=1e-9, large_target_kl=1e-9, small_encoder_target_kl=1e-9, large_encoder_target_kl=1e-9
    )
    stage = warmed_up(skills, config)
    learner = stage.learner
    before = {name: flat_parameters(module) for name, module in learner.named_children()}
    prior_before = flat_parameters(stage.space.prior)
    while stage.owed_updates:
        metrics = stage.advance().metrics
    assert metrics["updates"] == stage.updates > 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(not torch.equal(flat_parameters(module), before[name]) for name, module in learner.named_children())
    assert torch.equal(flat_parameters(stage.space.prior), prior_before)


# -- resume, determinism, artefact -----------------------------------------------------------------------------


def test_artefact_holds_learner_and_configuration(skills: Path, tmp_path: Path) -> None:
    stage = make_stage(skills)
    advance_to_end(stage)
    numbers = stage.write_artefact(tmp_path)
    saved = load_tensors(tmp_path / META_FILE)
    assert numbers == {"updates": stage.updates, "last_posterior_success": stage.progress.success}
    assert differences(saved["learner"], dict(stage.learner.state_dict())) == []
    assert saved["train_tasks"] == 3
    assert SimplMetaTrainConfig(
        **{**saved["config"], "actor_critic": ActorCriticConfig(**saved["config"]["actor_critic"])}
    ) == CONFIG  # fmt: skip


# -- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("transitions_per_task", 0), ("transitions_per_task", 61), ("small_context", 0),
     ("large_context", 0), ("warm_up_transitions", 41), ("small_context_tasks", 0), ("large_context_tasks", 10**5),
     ("task_embedding_dim", 0), ("context_drawn", 8), ("rewarded_fraction", -0.1), ("encoder_output_layers", 0)],
)  # fmt: skip
def test_absurd_configurations_are_refused_by_name(field: str, value: float) -> None:
    CONFIG.validate()
    with pytest.raises(ValueError, match=f"{field}( is)? {value}"):
        dataclasses.replace(CONFIG, **{field: value}).validate()  # type: ignore[arg-type]
