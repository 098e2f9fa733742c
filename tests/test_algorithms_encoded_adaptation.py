"""Target-task learning from a task embedding, as SiMPL does it: exploration, e, and learners that start meta-trained.

Axes: N task, S context set, C context transition, E task embedding, Z skill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.encoded_adaptation import EncodedAdaptation
from algorithms.files import DamagedFileError, load_tensors
from algorithms.meta_training import META_FILE
from algorithms.networks import torch_generator
from algorithms.regularized_sac import ActorCriticConfig
from algorithms.simpl import (
    SimplAdaptConfig,
    SimplMetaTrainConfig,
    load_meta_trained,
    make_meta_train_stage,
)
from algorithms.skill_space import learned_skills
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    advance_to_end,
    naive_task_encoder,
    short_maze,
    stage_context,
    write_skills,
)

LATENT_DIM, EMBEDDING_DIM = 3, 2


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


MAZE = short_maze(60, [START_GOAL, NEAR_GOAL, FAR_GOAL])
META_CONFIG = SimplMetaTrainConfig(
    epochs=2, task_embedding_dim=EMBEDDING_DIM, small_context_tasks=2, large_context_tasks=3,
    transitions_per_task=6, small_context=2, large_context=9, warm_up_transitions=12, transition_reuse=6.0,
    replay_capacity=100, context_capacity=100, encoder_hidden_dim=16, kl_clip=0.4,
    small_target_kl=0.01, large_target_kl=1e-9, small_initial_coefficient=0.3, large_initial_coefficient=0.1,
    small_encoder_target_kl=0.05, large_encoder_target_kl=0.04,
    small_initial_encoder_coefficient=0.2, large_initial_encoder_coefficient=0.05,
    learning_rate=3e-3, coefficient_learning_rate=0.01, discount=0.9, target_rate=0.25,
    actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=1),
)  # fmt: skip
"""Large coefficients and rates, so that everything that a formula could forget can be seen."""
ADAPT_CONFIG = SimplAdaptConfig(
    episodes=7, exploration_episodes=3, batch_size=6, replay_capacity=50, transition_reuse=4.0, target_kl=0.01,
)  # fmt: skip


def write_inputs(folder: Path, meta_config: SimplMetaTrainConfig = META_CONFIG) -> dict[str, Path]:
    """Artefacts of the tiny skill model and of a short meta-training on it."""
    skills, meta = write_skills(folder / "skills"), folder / "meta_train"
    meta.mkdir()
    stage = make_meta_train_stage(meta_config, stage_context(MAZE, {"skills": skills}))
    advance_to_end(stage)
    stage.write_artefact(meta)
    return {"skills": skills, "meta_train": meta}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


class ObservedAdaptation(EncodedAdaptation):
    """Keeps what was collected: episodes, and the embedding each was played with."""

    def collect(self, tasks: Sequence[int], keys: Any, policy: Any) -> Any:
        episodes = super().collect(tasks, keys, policy)
        if not hasattr(self, "collected"):
            self.collected: list[tuple[int, Any, Tensor]] = []
        self.collected += list(zip(tasks, episodes, policy.task_embeddings.clone(), strict=True))
        return episodes


def make_adaptation(
    inputs: dict[str, Path], config: SimplAdaptConfig = ADAPT_CONFIG, tasks: Sequence[int] = (0, 1, 2), seed: int = 0
) -> ObservedAdaptation:
    context = stage_context(MAZE, inputs, seed, tasks)
    space = learned_skills(context)
    return ObservedAdaptation(config, *load_meta_trained(context, space), space, context)


def test_every_learner_starts_as_the_meta_trained_one(inputs: dict[str, Path]) -> None:
    """Policy and both critics (E.2.2), of which the targets are copies, not those of meta-training (released); alpha is
    the large-context coefficient as it ended."""
    stage = make_adaptation(inputs)
    saved = load_tensors(inputs["meta_train"] / META_FILE)["learner"]
    for name, meta in saved.items():
        if not name.startswith("networks."):
            continue
        stacked = stage.networks.get_parameter(name.removeprefix("networks."))
        copies = stacked.detach().unflatten(0, (3, -1))
        if "target_critics" in name:
            lagging, meta = meta, saved[name.replace("target_critics", "critics")]
            assert not torch.equal(lagging, meta), "meta-training's targets lag behind its critics"
        assert all(torch.equal(copy, meta) for copy in copies), name
    large = float(F.softplus(saved["policy_coefficients.raw"][1]))
    assert large != pytest.approx(META_CONFIG.large_initial_coefficient, rel=1e-4), "it moved in meta-training"
    assert stage.coefficients.values.tolist() == pytest.approx([large] * 3, rel=1e-5)
    assert len(set(stage.coefficients.values.tolist()) | {float(F.softplus(saved["policy_coefficients.raw"][0]))}) == 2


def test_exploration_comes_first_and_counts_as_episodes(inputs: dict[str, Path]) -> None:
    stage = make_adaptation(inputs)
    rows = advance_to_end(stage)
    for task in range(3):
        mine = [row for row in rows if row.task == task]
        assert [row.episode for row in mine] == list(range(7))
        assert [row.phase for row in mine] == ["explore"] * 3 + ["adapt"] * 4
        assert mine[-1].env_steps == sum(row.length for row in mine)
    assert [row.phase for row in rows[:9]] == ["explore"] * 9
    assert stage.progress.done == stage.progress.total == 21


def test_exploration_draws_e_from_its_prior_for_each_episode(inputs: dict[str, Path]) -> None:
    config = dataclasses.replace(ADAPT_CONFIG, episodes=60, exploration_episodes=50)
    stage = make_adaptation(inputs, config)
    stage.advance()
    embeddings = torch.stack([e for _, _, e in stage.collected])
    assert len({tuple(e.tolist()) for e in embeddings}) == 150
    assert float(embeddings.mean()) == pytest.approx(0.0, abs=0.2)
    assert float(embeddings.std()) == pytest.approx(1.0, abs=0.15)


def test_exploration_episodes_are_not_fine_tuned_on(inputs: dict[str, Path]) -> None:
    stage = make_adaptation(inputs)
    stage.advance()
    assert stage.replay.added.tolist() == [0, 0, 0]
    assert stage.updates.tolist() == [0, 0, 0]
    rows = stage.advance().episodes
    transitions = {row.task: -(-row.length // 10) for row in rows}
    assert {row.phase for row in rows} == {"adapt"}
    assert stage.replay.added.tolist() == [transitions[task] for task in range(3)]


def test_exploration_episodes_can_be_fine_tuned_on_before_the_first_episode(inputs: dict[str, Path]) -> None:
    config = dataclasses.replace(ADAPT_CONFIG, replay_exploration=True, updates_per_episode=4, batch_size=1)
    stage = make_adaptation(inputs, config)
    explored = stage.advance().episodes
    transitions = [sum(-(-row.length // 10) for row in explored if row.task == task) for task in range(3)]
    assert stage.replay.added.tolist() == transitions
    stored = stage.replay.rows[0, : transitions[0], : stage.fields.slices["states"].stop]
    collected = torch.cat([episode.states for task, episode, _ in stage.collected if task == 0])
    np.testing.assert_allclose(stored.numpy(), collected.numpy(), rtol=1e-6)
    assert stage.advance().episodes == []  # 3 episodes bring 12 updates, and these come first
    assert stage.updates.tolist() == [12, 12, 12]
    assert {row.phase for row in stage.advance().episodes} == {"adapt"}


def test_e_is_the_encoders_mean_over_all_exploration_transitions(inputs: dict[str, Path]) -> None:
    """As a plain Set Transformer computes it, and held from then on."""
    stage = make_adaptation(inputs)
    stage.advance()
    weights = {name: parameter.detach().double() for name, parameter in stage.meta.encoder.named_parameters()}
    for task in range(3):
        explored = [episode for of_task, episode, _ in stage.collected if of_task == task]
        assert len(explored) == 3
        columns = [torch.cat([getattr(episode, name) for episode in explored])
                   for name in ("states", "skills", "rewards", "dones", "next_states")]  # fmt: skip
        expected = naive_task_encoder(weights, torch.cat(columns, dim=1)[None].double()).mean[0]
        torch.testing.assert_close(stage.task_embeddings[task].double(), expected, rtol=1e-4, atol=1e-5)
    assert len({tuple(e.tolist()) for e in stage.task_embeddings}) == 3
    held = stage.task_embeddings.clone()
    advance_to_end(stage)
    for task, _, e in stage.collected[9:]:
        assert torch.equal(e, held[task])
        assert torch.equal(stage.finished_learners[task]["task_embedding"], held[task])


def context_by_hand(transitions: Tensor, drawn: int, size: int, task: int, at_least_one: bool) -> Tensor:
    """``drawn`` of these (C, D) with replacement, the rewarded first, ``size`` of them; where none is rewarded and one
    must be, it takes the first place."""
    uniform = torch.rand((1, drawn), generator=torch_generator(0, "e*", task))[0].tolist()
    picked = [int(u * len(transitions)) for u in uniform]
    rewarded = [index for index in range(len(transitions)) if transitions[index, 4 + LATENT_DIM] > 0]
    chosen = [index for index in picked if index in rewarded] + [index for index in picked if index not in rewarded]
    if at_least_one and rewarded and chosen[0] not in rewarded:
        chosen[0] = rewarded[int(uniform[0] * len(rewarded))]
    return transitions[chosen[:size]]


@pytest.mark.parametrize("rewarded_capacity", [0, 5])
@pytest.mark.parametrize("drawn", [4, 12, 60])
def test_a_target_tasks_context_is_drawn_as_those_of_meta_training(
    drawn: int, rewarded_capacity: int, tmp_path: Path
) -> None:
    """A departure: contexts were 4 of so many drawn transitions with the rewarded ones first, and so is c*. Rewards
    that were found can be missed by few draws there as here, unless contexts hold at least one."""
    config = dataclasses.replace(META_CONFIG, large_context=4, context_drawn=drawn, rewarded_capacity=rewarded_capacity)
    stage = make_adaptation(write_inputs(tmp_path, config), dataclasses.replace(ADAPT_CONFIG, exploration_episodes=5))
    stage.advance()
    weights = {name: parameter.detach().double() for name, parameter in stage.meta.encoder.named_parameters()}
    explored = [episode for of_task, episode, _ in stage.collected if of_task == 1]
    transitions = torch.cat(
        [torch.cat([e.states, e.skills, e.rewards, e.dones, e.next_states], dim=1) for e in explored]
    ).double()
    assert 1 <= int((transitions[:, 4 + LATENT_DIM] > 0).sum()) <= 3, "the test needs an episode that was solved"
    context = context_by_hand(transitions, drawn, 4, 1, rewarded_capacity > 0)
    assert len(context) == 4
    expected = naive_task_encoder(weights, context[None]).mean[0]
    torch.testing.assert_close(stage.task_embeddings[1].double(), expected, rtol=1e-4, atol=1e-5)
    if rewarded_capacity:
        assert float(context[0, 4 + LATENT_DIM]) > 0


@pytest.mark.parametrize("task", [1, 2])
def test_a_target_task_learns_in_the_stack_what_it_learns_alone(inputs: dict[str, Path], task: int) -> None:
    """Ten tasks at once are a matter of speed: rows, embedding and weights do not depend on the others."""
    together, alone = make_adaptation(inputs), make_adaptation(inputs, tasks=(task,))
    rows = [row for row in advance_to_end(together) if row.task == task]
    assert advance_to_end(alone) == rows
    one, other = (stage.finished_learners[task] for stage in (together, alone))
    torch.testing.assert_close(one["task_embedding"], other["task_embedding"], rtol=1e-4, atol=1e-5)
    assert one["coefficient"] == pytest.approx(other["coefficient"], rel=1e-3)
    for name in ("policy", "critics"):
        for mine, theirs in zip(one[name], other[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("exploration_episodes", [0, 7])
def test_no_exploration_and_nothing_but_exploration_work_or_are_refused(
    inputs: dict[str, Path], exploration_episodes: int
) -> None:
    """What ``validate`` lets through must reach an artefact with every learner in it."""
    config = dataclasses.replace(ADAPT_CONFIG, exploration_episodes=exploration_episodes)
    try:
        config.validate()
    except ValueError:
        return
    stage = make_adaptation(inputs, config)
    rows = advance_to_end(stage)
    assert set(stage.finished_learners) == {0, 1, 2}
    assert len(rows) == 3 * config.episodes


def test_a_damaged_meta_artefact_is_refused_by_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / META_FILE
    damaged.write_bytes((inputs["meta_train"] / META_FILE).read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match=str(damaged)):
        make_adaptation(inputs | {"meta_train": tmp_path})
