"""Target-task learning as a stage, on the real maze with a time limit of 60 env_steps and a tiny skill model.

Of the three target tasks one is solved by the first env_step (one transition per episode), one by about every third
episode, and one never (six transitions per episode), so that learners run on different clocks and retire one by one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.adaptation import ADAPTED_FILE, Adaptation
from algorithms.adaptation_config import AdaptConfig
from algorithms.files import load_tensors
from algorithms.networks import torch_generator
from algorithms.regularized_sac import (
    ActorCriticConfig,
    DualCoefficients,
    SkillActorCritic,
    critic_errors,
    policy_loss,
    td_target,
)
from algorithms.skill_space import learned_skills
from algorithms.stage import EpisodeRow
from algorithms.transitions import TransitionBatch
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    advance_to_end,
    differences,
    short_maze,
    stage_context,
    through_disk,
    tiny_skill_model,
    write_skills,
)

AT_ONCE, SOMETIMES, NEVER = 0, 1, 2
"""The target tasks, by how often they are solved."""
MAZE = short_maze(60, [START_GOAL, NEAR_GOAL, FAR_GOAL])
CONFIG = AdaptConfig(
    episodes=6, batch_size=6, replay_capacity=30, transition_reuse=4.0, learning_rate=1e-3,
    coefficient_learning_rate=1e-2, target_kl=0.01,
)  # fmt: skip
NETWORKS = ActorCriticConfig(hidden_dim=8, hidden_layers=1)


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_skills(tmp_path_factory.mktemp("skills"))


class ObservedAdaptation(Adaptation):
    """Notes each learner's weights and coefficient after each of its updates."""

    def _update(self) -> dict[str, float]:
        metrics = super()._update()
        if not hasattr(self, "after_update"):
            self.after_update: dict[tuple[int, int], Tensor] = {}
        for learner, task in enumerate(self.learning_tasks):
            self.after_update[task, int(self.updates[learner])] = flat_learner(self, learner)
        return metrics


def make_stage(
    skills: Path, config: AdaptConfig = CONFIG, tasks: Sequence[int] = (0, 1, 2), seed: int = 0
) -> ObservedAdaptation:
    context = stage_context(MAZE, {"skills": skills}, seed, tasks)
    return ObservedAdaptation(config, NETWORKS, learned_skills(context), context)


def flat_learner(stage: Adaptation, learner: int) -> Tensor:
    """Policy, critics and coefficient of one learner of the stack, as one vector."""
    state = stage.learner_state(learner)
    parts = [*state["policy"], *state["critics"], torch.tensor([state["coefficient"]])]
    return torch.cat([part.flatten() for part in parts])


def updates_by_the_rule(config: AdaptConfig, lengths: Sequence[int]) -> int:
    """Updates of a learner after episodes of these env_steps: reuse x transitions / batch, rounded down, at least one;
    none before a batch."""
    stored = updates = 0
    for length in lengths:
        transitions = math.ceil(length / tiny_skill_model().config.skill_length)
        stored += transitions
        if stored >= config.batch_size:
            updates += max(1, math.floor(config.transition_reuse * transitions / config.batch_size))
    return updates


# -- clocks: episodes and updates ------------------------------------------------------------------------


@pytest.mark.parametrize("transition_reuse", [0.5, 1.7, 4.0, 7.0, 120.0])
def test_updates_per_episode_are_reuse_times_transitions_over_batch_size(skills: Path, transition_reuse: float) -> None:
    """For every learner, to the last update after its last episode; 120 is more than one advance may do."""
    config = dataclasses.replace(CONFIG, episodes=4, transition_reuse=transition_reuse)
    stage = make_stage(skills, config, (SOMETIMES, NEVER))
    rows = advance_to_end(stage)
    for task in (SOMETIMES, NEVER):
        lengths = [row.length for row in rows if row.task == task]
        done = [update for of_task, update in getattr(stage, "after_update", {}) if of_task == task]
        assert max(done, default=0) == len(done) == updates_by_the_rule(config, lengths)
    assert set(stage.finished_learners) == {SOMETIMES, NEVER}


def test_no_update_before_a_batch_of_transitions(skills: Path) -> None:
    """13 transitions: two episodes of six are too few."""
    stage = make_stage(skills, dataclasses.replace(CONFIG, batch_size=13), (NEVER,))
    before = flat_learner(stage, 0)
    for _ in range(2):
        assert len(stage.advance().episodes) == 1
        assert torch.equal(flat_learner(stage, 0), before)
    assert len(stage.advance().episodes) == 1
    assert not torch.equal(flat_learner(stage, 0), before)
    assert int(stage.replay.sizes[0]) == 18


def test_updates_per_episode_may_be_fixed(skills: Path) -> None:
    stage = make_stage(skills, dataclasses.replace(CONFIG, episodes=3, updates_per_episode=5))
    rows = advance_to_end(stage)
    for task in (AT_ONCE, SOMETIMES, NEVER):
        transitions = [math.ceil(row.length / 10) for row in rows if row.task == task]
        enough = sum(sum(transitions[: count + 1]) >= CONFIG.batch_size for count in range(3))
        assert sum(of_task == task for of_task, _ in stage.after_update) == 5 * enough


def test_every_advance_is_short(skills: Path) -> None:
    """A signal is answered between two of them."""
    stage = make_stage(skills, dataclasses.replace(CONFIG, transition_reuse=150.0), (NEVER,))
    last = 0
    for _ in range(5):
        stage.advance()
        done = int(stage.updates[0])
        assert done - last <= Adaptation.MAX_UPDATES_PER_ADVANCE
        last = done
    assert last > Adaptation.MAX_UPDATES_PER_ADVANCE


def test_rows_count_episodes_env_steps_and_successes(skills: Path) -> None:
    stage = make_stage(skills)
    assert stage.progress.success is None
    rows = advance_to_end(stage)
    assert stage.progress.done == stage.progress.total == len(rows) == 3 * CONFIG.episodes
    for task in (AT_ONCE, SOMETIMES, NEVER):
        mine = [row for row in rows if row.task == task]
        assert [row.episode for row in mine] == list(range(CONFIG.episodes))
        assert [row.env_steps for row in mine] == [
            sum(row.length for row in mine[: count + 1]) for count in range(CONFIG.episodes)
        ]
        assert all(row.success == (row.episode_return == 1.0) == (row.length < 60) for row in mine)
        assert {row.phase for row in mine} == {"adapt"}
    assert all(row.success and row.length == 1 for row in rows if row.task == AT_ONCE)
    assert not any(row.success for row in rows if row.task == NEVER)
    last_success = [[row for row in rows if row.task == task][-1].success for task in range(3)]
    assert stage.progress.success == pytest.approx(sum(last_success) / 3)


def test_replay_holds_what_was_collected(skills: Path) -> None:
    """Rewards and dones of solved episodes, bootstrapping of timed-out ones."""
    stage = make_stage(skills, dataclasses.replace(CONFIG, batch_size=30))
    for _ in range(4):
        stage.advance()
    columns = stage.fields.unpack(stage.replay.rows)
    sizes = stage.replay.sizes.tolist()
    assert sizes[AT_ONCE] == 4
    assert sizes[NEVER] == 24
    for task in (AT_ONCE, SOMETIMES, NEVER):
        rewards, dones = (columns[name][task, : sizes[task], 0] for name in ("rewards", "dones"))
        assert torch.equal(rewards, dones)
        assert int(rewards.sum()) == {AT_ONCE: 4, SOMETIMES: int(rewards.sum()), NEVER: 0}[task]
        assert bool((columns["states"][task, : sizes[task]] != 0).any(-1).all())


# -- one update ----------------------------------------------------------------------------------------------


def test_an_update_is_critics_then_targets_then_policy_then_coefficient(skills: Path) -> None:
    """Each learner's update done by itself with plain Adam. The policy loss must use the critics just updated, and
    the old coefficient."""
    # A large rate, so that critics before and after their update give policies that can be told apart; and a target
    # that one learner's divergence is below.
    config = dataclasses.replace(CONFIG, target_kl=0.75, learning_rate=0.1, target_rate=0.3)
    stage = make_stage(skills, config)
    while int(stage.owed_updates.min()) == 0:
        stage._collect_where_waiting()
    for _ in range(2):  # away from the start, where the policy is the prior
        stage._update()
    positions, noise = stage._draw()
    rows = stage.replay.gather(torch.arange(3), positions)
    updated = copy_of(stage, skills)
    updated._update()
    for learner in range(3):
        mine = (stage, learner, rows[learner : learner + 1], noise[:, learner])
        after = flat_learner(updated, learner)
        torch.testing.assert_close(after, reference_update(*mine), rtol=1e-4, atol=1e-5)
        assert float((after - reference_update(*mine, policy_first=True)).abs().max()) > 1e-3
    before, now = stage.networks, updated.networks
    modules = (before.target_critics, now.target_critics, now.critics)
    triples = zip(*(module.parameters() for module in modules), strict=True)
    for old_target, target, critic in triples:
        torch.testing.assert_close(target, 0.7 * old_target + 0.3 * critic.detach(), rtol=1e-5, atol=1e-6)


def copy_of(stage: Adaptation, skills: Path) -> ObservedAdaptation:
    """A second stage in the same state, sharing no tensor."""
    copy = make_stage(skills, stage.config)
    copy.load_state_dict(through_disk(stage.state_dict(), skills))
    return copy


def reference_update(
    stage: Adaptation, learner: int, rows: Tensor, noise: Tensor, policy_first: bool = False
) -> Tensor:
    """One learner alone: its weights and coefficient after an update, in the order of the released code."""
    config = stage.config
    alone = SkillActorCritic(NETWORKS, 4, stage.space.latent_dim, 0, 1, torch_generator(0))
    copy_learner(stage, learner, alone)
    both = [2 * learner, 2 * learner + 1]
    policy_optimizer = adam_of_one(stage.policy_optimizer, alone.policy, [learner])
    critic_optimizer = adam_of_one(stage.critic_optimizer, alone.critics, both)
    one_coefficient = DualCoefficients(stage.coefficients.values[learner : learner + 1], 0.0)
    raw_optimizer = adam_of_one(stage.coefficients.optimizer, one_coefficient, [learner])
    coefficient = one_coefficient.values[:, None]
    batch = TransitionBatch.from_rows(stage.fields, rows, torch.zeros(1, rows.shape[1], 0))
    kl = torch.zeros(0)
    for turn in ("policy", "critics") if policy_first else ("critics", "policy"):
        if turn == "critics":
            targets = td_target(alone, batch, coefficient, noise[None, 0], config.kl_clip)
            critic_optimizer.zero_grad()
            critic_errors(alone, batch, targets).sum().backward()
            critic_optimizer.step()
        else:
            loss, kl = policy_loss(alone, batch, coefficient, noise[None, 1])
            policy_optimizer.zero_grad()
            loss.sum().backward()
            policy_optimizer.step()
    excess = kl.detach().mean() - config.target_kl
    one_coefficient.raw.grad = torch.clamp(-torch.sigmoid(one_coefficient.raw.detach()) * excess, max=0.0)
    raw_optimizer.step()
    critics = [parameter.detach().flatten() for parameter in alone.critics.parameters()]
    policy = [parameter.detach().flatten() for parameter in alone.policy.parameters()]
    return torch.cat([*policy, *critics, one_coefficient.values])


def adam_of_one(stacked: torch.optim.Optimizer, module: torch.nn.Module, chosen: list[int]) -> torch.optim.Adam:
    """Plain Adam for one learner's network, with its part of the stack's moments."""
    optimizer = torch.optim.Adam(module.parameters(), lr=stacked.param_groups[0]["lr"])
    for mine, theirs in zip(module.parameters(), stacked.param_groups[0]["params"], strict=True):
        optimizer.state[mine] = {
            name: value.clone() if name == "step" else value[chosen].clone()
            for name, value in stacked.state[theirs].items()
        }
    return optimizer


@torch.no_grad()
def copy_learner(stage: Adaptation, learner: int, alone: SkillActorCritic) -> None:
    """Give a network of one copy the weights of a learner of the stack."""
    pairs = (
        (alone.policy, stage.networks.policy, [learner]),
        (alone.critics, stage.networks.critics, [2 * learner, 2 * learner + 1]),
        (alone.target_critics, stage.networks.target_critics, [2 * learner, 2 * learner + 1]),
    )
    for mine, theirs, chosen in pairs:
        for parameter, stacked in zip(mine.parameters(), theirs.parameters(), strict=True):
            parameter.copy_(stacked[chosen])


def test_a_part_of_each_batch_is_rewarded_where_asked_for(skills: Path) -> None:
    stage = make_stage(skills, dataclasses.replace(CONFIG, rewarded_fraction=0.5))
    for _ in range(8):
        stage._collect_where_waiting()
        stage.owed_updates.zero_()
    positions, _ = stage._draw()
    rewards = stage.fields.unpack(stage.replay.gather(torch.arange(3), positions))["rewards"][..., 0]
    assert float(stage.fields.unpack(stage.replay.rows)["rewards"][SOMETIMES].sum()) >= 1, "solved at least once"
    assert rewards[AT_ONCE].tolist() == [1.0] * 6
    assert rewards[SOMETIMES, :3].tolist() == [1.0] * 3
    assert rewards[NEVER].tolist() == [0.0] * 6


# -- the stack -------------------------------------------------------------------------------------------------


def test_learners_retire_one_by_one_with_their_final_weights(skills: Path) -> None:
    stage = make_stage(skills)
    stacks = []
    while not stage.finished:
        stage.advance()
        stacks.append(tuple(stage.learning_tasks))
        assert stage.networks.model_copies == len(stage.learning_tasks) == len(stage.updates)
        assert len(stage.replay.sizes) == len(stage.learning_tasks) == len(stage.coefficients.values)
    assert stacks[0] == (0, 1, 2)
    assert (1, 2) in stacks, "the learner of the shortest episodes has them all first"
    assert stacks[-1] == ()
    for task, learner in stage.finished_learners.items():
        last_update = max((update for of_task, update in stage.after_update if of_task == task), default=0)
        if last_update:
            parts = [*learner["policy"], *learner["critics"], torch.tensor([learner["coefficient"]])]
            final = torch.cat([part.flatten() for part in parts])
            assert torch.equal(final, stage.after_update[task, last_update]), task


@pytest.mark.parametrize("kept", [[1], [0, 2], [2, 0], []])
def test_shrinking_the_stack_leaves_the_remaining_learners_as_they_were(skills: Path, kept: list[int]) -> None:
    """Weights, targets, Adam's moments, replay, draws: the next updates equal those of the whole stack."""
    whole = make_stage(skills)
    while int(whole.owed_updates.min()) == 0:
        whole._collect_where_waiting()
    for _ in range(3):
        whole._update()
    shrunk = copy_of(whole, skills)
    shrunk._keep(kept)
    assert [shrunk.learning_tasks[place] for place in range(len(kept))] == kept
    for _ in range(3 if kept else 0):
        whole._update()
        shrunk._update()
    for place, learner in enumerate(kept):
        before = whole.after_update[learner, 3]
        expected = flat_learner(whole, learner)
        assert float((expected - before).abs().max()) > 1e-4, "the updates should move it"
        torch.testing.assert_close(flat_learner(shrunk, place), expected, rtol=1e-4, atol=1e-6)
        for mine, theirs in zip(
            shrunk.networks.target_critics.parameters(), whole.networks.target_critics.parameters(), strict=True
        ):
            both = slice(2 * learner, 2 * learner + 2)
            torch.testing.assert_close(mine[2 * place : 2 * place + 2], theirs[both], rtol=1e-4, atol=1e-6)


def test_learners_start_the_same_whatever_stack_they_are_in(skills: Path) -> None:
    """What a task's learner does must not depend on which other tasks ``--tasks`` names."""
    together, alone = make_stage(skills), make_stage(skills, tasks=(NEVER,))
    assert torch.equal(flat_learner(together, NEVER), flat_learner(alone, 0))


@pytest.mark.parametrize("task", [SOMETIMES, NEVER])
def test_a_learner_does_in_the_stack_what_it_does_alone(skills: Path, task: int) -> None:
    """From the same weights; also after another learner has retired. Sums in another order make it differ in the
    last digits, so only the first updates are compared."""
    together, alone = make_stage(skills), make_stage(skills, tasks=(task,))
    copy_learner(together, task, alone.networks)
    rows = [row for row in advance_to_end(together) if row.task == task]
    rows_alone = advance_to_end(alone)
    assert together.finished_learners.keys() == {0, 1, 2}
    assert len(alone.after_update) >= 8
    for update in range(1, 9):
        torch.testing.assert_close(
            together.after_update[task, update], alone.after_update[task, update], rtol=1e-3, atol=1e-4
        )
    assert rows[:2] == rows_alone[:2]


# -- resume, determinism, artefact ---------------------------------------------------------------------------------


@cache
def undisturbed(skills: Path) -> tuple[list[dict[str, Any]], list[list[EpisodeRow]], dict[str, Any]]:
    """States before each advance, rows of each advance, and the final state of a run that nothing stops."""
    stage = make_stage(skills)
    states, rows = [], []
    while not stage.finished:
        states.append(through_disk(stage.state_dict(), skills))
        rows.append(list(stage.advance().episodes))
    return states, rows, stage.state_dict()


@pytest.mark.parametrize("moment", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_resumed_stage_ends_bit_for_bit_the_same(skills: Path, moment: float) -> None:
    """At the start, in the middle of updates, after learners retired, before the last advance."""
    states, rows, final = undisturbed(skills)
    advance = round(moment * (len(states) - 1))
    torch.manual_seed(99)
    resumed = make_stage(skills)
    resumed.load_state_dict(states[advance])
    assert advance_to_end(resumed) == [row for part in rows[advance:] for row in part]
    assert differences(resumed.state_dict(), final) == []


def test_a_finished_stage_can_be_restored(skills: Path) -> None:
    """It may be killed after its last checkpoint and before its artefact is written."""
    _, _, final = undisturbed(skills)
    restored = make_stage(skills)
    restored.load_state_dict(final)
    assert restored.finished
    assert differences(restored.state_dict(), final) == []


def test_artefact_holds_every_learner(skills: Path, tmp_path: Path) -> None:
    stage = make_stage(skills)
    advance_to_end(stage)
    assert stage.write_artefact(tmp_path) == {"tasks": 3}
    learners = load_tensors(tmp_path / ADAPTED_FILE)["learners"]
    assert set(learners) == {0, 1, 2}
    latent_dim = stage.space.latent_dim
    for learner in learners.values():
        assert [tuple(p.shape) for p in learner["policy"]] == [(4, 8), (1, 8), (8, 2 * latent_dim), (1, 2 * latent_dim)]
        critic_shapes = [(2, 4 + latent_dim, 8), (2, 1, 8), (2, 8, 1), (2, 1, 1)]
        assert [tuple(p.shape) for p in learner["critics"]] == critic_shapes
        assert learner["coefficient"] >= CONFIG.initial_coefficient * 0.9999


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("episodes", 0), ("episodes", 10**7),
     ("batch_size", 0), ("batch_size", 31), ("rewarded_fraction", 1.5), ("transition_reuse", 0.0),
     ("updates_per_episode", -1), ("n_step", 0)],
)  # fmt: skip
def test_absurd_configurations_are_refused_by_name(field: str, value: float) -> None:
    CONFIG.validate()
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        dataclasses.replace(CONFIG, **{field: value}).validate()  # type: ignore[arg-type]


def test_defaults_are_the_released_values() -> None:
    config = AdaptConfig()
    assert (config.episodes, config.batch_size, config.replay_capacity) == (500, 256, 20_000)
    assert (config.target_kl, config.kl_clip, config.discount, config.target_rate) == (1.0, 5.0, 0.99, 0.005)
    assert (config.learning_rate, config.coefficient_learning_rate) == (3e-4, 3e-4)
    assert (config.transition_reuse, config.initial_coefficient) == (256.0, 0.05)
    departures = (config.rewarded_fraction, config.updates_per_episode, config.n_step, config.clip_targets, config.bf16)
    assert departures == (0.0, 0, 1, False, False)
