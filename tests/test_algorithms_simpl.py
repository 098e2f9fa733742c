"""SiMPL: one meta-training update against plain formulas, a bandit, and the target-task stage.

Axes: N task, S context set, C context transition, B transitions per set, E task embedding, Z skill.
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
from algorithms.networks import Gaussian
from algorithms.registry import algorithm
from algorithms.regularized_sac import ActorCriticConfig, policy_loss
from algorithms.simpl import (
    ALGORITHM,
    SimplAdaptConfig,
    SimplLearner,
    SimplMetaTrainConfig,
    load_meta_trained,
    make_meta_train_stage,
)
from algorithms.skill_space import learned_skills
from algorithms.skills import SKILLS_STAGE
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    Weights,
    advance_to_end,
    differences,
    flat_parameters,
    naive_task_encoder,
    relative_error,
    short_maze,
    stage_context,
    write_skills,
)

TASKS, STATE_DIM, LATENT_DIM, EMBEDDING_DIM = 4, 4, 3, 2
SMALL_SETS, LARGE_SETS, PER_SET = 2, 3, 6
SETS = SMALL_SETS + LARGE_SETS

CONFIG = SimplMetaTrainConfig(
    epochs=3, task_embedding_dim=EMBEDDING_DIM, small_context_tasks=SMALL_SETS, large_context_tasks=LARGE_SETS,
    transitions_per_task=PER_SET, small_context=2, large_context=9, warm_up_transitions=12, transition_reuse=6.0,
    replay_capacity=50, context_capacity=30, encoder_hidden_dim=16, kl_clip=0.4,
    small_target_kl=0.01, large_target_kl=1.0, small_initial_coefficient=0.3, large_initial_coefficient=0.1,
    small_encoder_target_kl=0.05, large_encoder_target_kl=0.04,
    small_initial_encoder_coefficient=0.2, large_initial_encoder_coefficient=0.05,
    learning_rate=0.05, coefficient_learning_rate=0.01, discount=0.9, target_rate=0.25,
    actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=2),
)  # fmt: skip
"""Large coefficients and rates, so that everything that a formula could forget can be seen."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -- the learner ---------------------------------------------------------------------------------------------


def make_learner(config: SimplMetaTrainConfig = CONFIG, seed: int = 0) -> SimplLearner:
    """A learner as it is after some training: policy off the prior, targets off the critics."""
    learner = SimplLearner(config, STATE_DIM, LATENT_DIM, TASKS, seed)
    with torch.no_grad():
        for network in (learner.networks.policy, learner.networks.target_critics):
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    learner.make_optimizers()
    return learner


@dataclasses.dataclass
class MetaBatch:
    """What one update is given."""

    rows: Tensor
    contexts: tuple[Tensor, Tensor]
    tasks: Tensor
    noise: Tensor

    @classmethod
    def random(cls, learner: SimplLearner) -> MetaBatch:
        """Task 1 is there twice with large contexts, task 3 not at all, task 2 with a small one alone."""
        rows = torch.randn(SETS, PER_SET, learner.fields.dim)
        columns = learner.fields.unpack(rows)
        columns["td_discounts"][:] = 0.9 * (columns["td_discounts"] > 0)
        for name in ("prior", "td_prior"):
            columns[name][..., LATENT_DIM:] = columns[name][..., LATENT_DIM:].abs() + 0.3
        contexts = (torch.randn(SMALL_SETS, 2, learner.context_dim), torch.randn(LARGE_SETS, 9, learner.context_dim))
        noise = torch.randn(2, SETS * PER_SET, LATENT_DIM + EMBEDDING_DIM)
        return cls(rows, contexts, torch.tensor([0, 2, 1, 1, 0]), noise)

    @property
    def arguments(self) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
        return self.rows, self.contexts, self.tasks, self.noise


class PlainUpdate:
    """One meta-training update written down once more, set by set, in float64 and with a plain Set Transformer."""

    def __init__(self, learner: SimplLearner, batch: MetaBatch) -> None:
        self.config, self.batch, self.fields = learner.config, batch, learner.fields
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().double().clone().requires_grad_() for name, parameter in learner.named_parameters()
        }
        encoder = {name.removeprefix("encoder."): w for name, w in self.weights.items() if name.startswith("encoder.")}
        self.posteriors = [
            naive_task_encoder(encoder, context[None].double()) for contexts in batch.contexts for context in contexts
        ]

    def coefficient(self, kind: str, index: int) -> Tensor:
        return F.softplus(self.weights[f"{kind}_coefficients.raw"].detach())[index]

    def policy_coefficient(self, set_index: int) -> Tensor:
        return self.coefficient("policy", 0 if set_index < SMALL_SETS else 1)

    def encoder_coefficient_index(self, set_index: int) -> int:
        """One for all small contexts, then one for the large contexts of each task."""
        return 0 if set_index < SMALL_SETS else 1 + int(self.batch.tasks[set_index])

    def columns(self, set_index: int) -> dict[str, Any]:
        columns: dict[str, Any] = self.fields.unpack(self.batch.rows[set_index].double())
        for name in ("prior", "td_prior"):
            columns[name] = Gaussian(columns[name][:, :LATENT_DIM], columns[name][:, LATENT_DIM:])
        return columns

    def noise(self, set_index: int, which: int) -> Tensor:
        return self.batch.noise[which, set_index * PER_SET : (set_index + 1) * PER_SET].double()

    def embeddings(self, set_index: int) -> Tensor:
        """Sampled once per transition, not once per task."""
        posterior = self.posteriors[set_index]
        return posterior.mean + posterior.sigma * self.noise(set_index, 0)[:, LATENT_DIM:]

    def network(self, weights: Weights, name: str, copy: int, inputs: Tensor) -> Tensor:
        layers = self.config.actor_critic.hidden_layers + 1
        for layer in range(layers):
            weight, bias = (weights[f"networks.{name}.layers.{layer}.{part}"][copy] for part in ("weight", "bias"))
            inputs = inputs @ weight + bias
            inputs = torch.relu(inputs) if layer + 1 < layers else inputs
        return inputs

    def policy(self, states: Tensor, e: Tensor, prior: Gaussian) -> Gaussian:
        output = self.network(self.weights, "policy", 0, torch.cat([states, e], dim=1))
        sigma = 0.001 + F.softplus(torch.log(torch.expm1(prior.sigma)) + output[:, LATENT_DIM:])
        return Gaussian(prior.mean + output[:, :LATENT_DIM], sigma)

    def q(self, weights: Weights, name: str, states: Tensor, e: Tensor, skills: Tensor) -> list[Tensor]:
        inputs = torch.cat([states, e, skills], dim=1)
        return [self.network(weights, name, critic, inputs)[:, 0] for critic in range(2)]

    def critic_and_encoder_loss(self) -> Tensor:
        losses = []
        for i in range(SETS):
            columns, e = self.columns(i), self.embeddings(i)
            with torch.no_grad():
                policy = self.policy(columns["td_states"], e, columns["td_prior"])
                skills = policy.mean + policy.sigma * self.noise(i, 0)[:, :LATENT_DIM]
                kl = policy.kl(columns["td_prior"]).clamp(max=self.config.kl_clip)
                lower = torch.minimum(*self.q(self.weights, "target_critics", columns["td_states"], e, skills))
                bootstrap = lower - self.policy_coefficient(i) * kl
                target = columns["td_rewards"][:, 0] + columns["td_discounts"][:, 0] * bootstrap
            values = self.q(self.weights, "critics", columns["states"], e, columns["skills"])
            error = sum(((value - target) ** 2).mean() for value in values) / 2
            kl_to_unit = self.posteriors[i].kl_to_unit()[0]
            losses.append(error + self.coefficient("encoder", self.encoder_coefficient_index(i)) * kl_to_unit)
        return torch.stack(losses).mean()

    def policy_loss_and_kl(self, critics: Weights) -> tuple[Tensor, list[Tensor]]:
        """With the critics given; e as it was drawn for the critics, detached."""
        losses, kls = [], []
        for i in range(SETS):
            columns, e = self.columns(i), self.embeddings(i).detach()
            policy = self.policy(columns["states"], e, columns["prior"])
            skills = policy.mean + policy.sigma * self.noise(i, 1)[:, :LATENT_DIM]
            kl = policy.kl(columns["prior"])
            lower = torch.minimum(*self.q(critics, "critics", columns["states"], e, skills))
            losses.append((self.policy_coefficient(i) * kl - lower).mean())
            kls.append(kl.detach().mean())
        return torch.stack(losses).mean(), kls


def gradients_of(loss: Tensor, weights: Weights, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    chosen = {name: weight for name, weight in weights.items() if name.startswith(prefixes)}
    gradients = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
    pairs = zip(chosen.items(), gradients, strict=True)
    return {name: torch.zeros_like(weight) if gradient is None else gradient for (name, weight), gradient in pairs}


def test_an_update_equals_the_plain_formulas_step_by_step() -> None:
    """Gradients of critics, encoder and policy to 1e-4, what Adam makes of them, targets and coefficients. The order:
    critics and encoder -> targets -> encoder coefficients -> policy (with the new critics) -> its coefficients."""
    learner = make_learner()
    batch = MetaBatch.random(learner)
    plain = PlainUpdate(learner, batch)
    loss = plain.critic_and_encoder_loss()
    before = {name: weight.detach().clone() for name, weight in plain.weights.items()}
    metrics = learner.update(*batch.arguments)
    after = {name: parameter.detach().double() for name, parameter in learner.named_parameters()}

    assert metrics["critic_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    policy_objective, kls = plain.policy_loss_and_kl(after)
    assert metrics["policy_loss"] == pytest.approx(float(policy_objective.detach()), rel=1e-4)
    expected = gradients_of(loss, plain.weights, ("encoder.", "networks.critics."))
    expected |= gradients_of(policy_objective, plain.weights, ("networks.policy.",))
    stale, _ = plain.policy_loss_and_kl(before)
    with_old_critics = gradients_of(stale, plain.weights, ("networks.policy.",))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, parameter in learner.named_parameters():
        if name not in expected:
            continue
        if name.endswith("key.bias"):
            assert parameter.grad is None or float(parameter.grad.abs().max()) < 1e-5 * largest
            continue
        assert parameter.grad is not None, name
        assert relative_error(parameter.grad, expected[name]) < 1e-4, name
        if name in with_old_critics:
            assert relative_error(parameter.grad, with_old_critics[name]) > 1e-2, name
        # The first step of Adam is learning_rate x gradient / |gradient|.
        gradient = parameter.grad.double()
        step = CONFIG.learning_rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after[name], before[name] - step, rtol=1e-4, atol=1e-5)

    for name in before:
        if name.startswith("networks.target_critics."):
            critic = after[name.replace("target_critics", "critics")]
            torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * critic, rtol=1e-5, atol=1e-6)
    check_coefficients(learner, plain, before, kls)


def check_coefficients(learner: SimplLearner, plain: PlainUpdate, before: Weights, kls: Sequence[Tensor]) -> None:
    """Each is lifted by the mean excess of its own sets; one whose task is not in the batch stays."""
    small_kl, large_kl = torch.stack([*kls[:SMALL_SETS]]).mean(), torch.stack([*kls[SMALL_SETS:]]).mean()
    policy_excess = [float(small_kl) - 0.01, float(large_kl) - 1.0]
    by_coefficient: dict[int, list[float]] = {index: [] for index in range(1 + TASKS)}
    for i, posterior in enumerate(plain.posteriors):
        target = 0.05 if i < SMALL_SETS else 0.04
        by_coefficient[plain.encoder_coefficient_index(i)].append(float(posterior.kl_to_unit().detach()) - target)
    assert [len(excesses) for excesses in by_coefficient.values()] == [2, 1, 2, 0, 0]
    encoder_excess = [float(np.mean(excesses)) if excesses else 0.0 for excesses in by_coefficient.values()]
    assert [excess > 0 for excess in policy_excess] == [True, False], "one of them must not fall"
    assert [excess > 0.01 for excess in encoder_excess] == [True, True, True, False, False]
    for kind, excesses in (("policy", policy_excess), ("encoder", encoder_excess)):
        group = getattr(learner, f"{kind}_coefficients")
        raw = before[f"{kind}_coefficients.raw"]
        expected = torch.clamp(-torch.sigmoid(raw) * torch.tensor(excesses).double(), max=0.0)
        torch.testing.assert_close(group.raw.grad.double(), expected, rtol=1e-3, atol=1e-6)
        moved = group.raw.detach().double() - raw
        lifted = [CONFIG.coefficient_learning_rate if excess > 0 else 0.0 for excess in excesses]
        assert moved.tolist() == pytest.approx(lifted, abs=1e-4)


@pytest.mark.parametrize("part", ["critics and encoder", "policy"])
def test_who_gets_gradient_from_what(part: str) -> None:
    """The encoder learns through the critics and its own KL; the policy sees e detached, even where the batch still
    carries e's graph."""
    learner = make_learner()
    batch = MetaBatch.random(learner)
    learner.requires_grad_()  # targets too, so that only the losses keep gradient away from them
    loss, transitions, coefficients, _, _ = learner.losses_of_critic_and_encoder(*batch.arguments)
    assert transitions.task_embeddings.requires_grad
    if part == "critics and encoder":
        loss.backward()
        expected = {"encoder", "critics"}
    else:
        noise = batch.noise[1, :, :LATENT_DIM][None]
        policy_loss(learner.networks, transitions, coefficients, noise)[0].sum().backward()
        expected = {"policy"}
    modules = {"encoder": learner.encoder, **dict(learner.networks.named_children())}
    modules |= {
        "policy_coefficients": learner.policy_coefficients,
        "encoder_coefficients": learner.encoder_coefficients,
    }
    with_gradient = {
        name
        for name, module in modules.items()
        if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
    }
    assert with_gradient == expected


def test_small_contexts_come_first() -> None:
    learner = make_learner()
    small, large = MetaBatch.random(learner).contexts
    posterior = learner.encode(small, large)
    for index, context in enumerate([*small, *large]):
        alone = learner.encoder(context[None])
        torch.testing.assert_close(posterior.mean[index], alone.mean[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(posterior.sigma[index], alone.sigma[0], rtol=1e-5, atol=1e-6)


def test_coefficients_start_at_their_configured_values() -> None:
    learner = SimplLearner(SimplMetaTrainConfig(), STATE_DIM, LATENT_DIM, TASKS, 0)
    assert learner.policy_coefficients.values.tolist() == pytest.approx([3e-3, 1e-3], rel=1e-4)
    assert learner.encoder_coefficients.values.tolist() == pytest.approx([1e-5] + [3e-6] * TASKS, rel=1e-3)


def test_targets_are_bounded_by_the_highest_return_where_asked_for() -> None:
    config = dataclasses.replace(CONFIG, clip_targets=True)
    learners = [SimplLearner(c, STATE_DIM, LATENT_DIM, TASKS, 0, highest_return=-50.0) for c in (CONFIG, config)]
    batch = MetaBatch.random(learners[0])
    free, bounded = (float(learner.losses_of_critic_and_encoder(*batch.arguments)[0].detach()) for learner in learners)
    assert free < 100
    assert bounded == pytest.approx(50.0**2, rel=0.1), "critics near 0 are asked for -50"


def test_a_seed_fixes_the_learner_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (SimplLearner(CONFIG, STATE_DIM, LATENT_DIM, TASKS, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert differences(first.state_dict(), again.state_dict()) == []
    for module in ("encoder", "networks"):
        assert not torch.equal(flat_parameters(getattr(first, module)), flat_parameters(getattr(other, module)))


# -- it learns -------------------------------------------------------------------------------------------------


def bandit_transitions(learner: SimplLearner, tasks: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(S, count, F) one-step transitions: task 0 rewards skills whose first coordinate is above -1/2, task 1 others."""
    shape = (len(tasks), count)
    skills = torch.randn((*shape, LATENT_DIM), generator=generator)
    above = skills[..., :1] > -0.5
    rewards = torch.where(tasks[:, None, None] == 0, above, ~above).float()
    states, zeros, ones = torch.zeros(*shape, STATE_DIM), torch.zeros(*shape, 1), torch.ones(*shape, 1)
    unit = torch.cat([torch.zeros(*shape, LATENT_DIM), torch.ones(*shape, LATENT_DIM)], dim=-1)
    return learner.fields.pack(
        {"states": states, "skills": skills, "rewards": rewards, "dones": ones, "next_states": states, "prior": unit,
         "td_rewards": rewards, "td_discounts": zeros, "td_states": states, "td_prior": unit,
         "views": states[..., :0], "td_views": states[..., :0]}
    )  # fmt: skip


def test_a_learner_tells_two_bandits_apart() -> None:
    """What a skill is worth depends on e alone, so the encoder has to read it from the rewards of the context."""
    config = dataclasses.replace(
        CONFIG, transitions_per_task=32, encoder_hidden_dim=32, learning_rate=5e-3, coefficient_learning_rate=1e-3,
        small_initial_coefficient=0.2, large_initial_coefficient=0.2, large_target_kl=2.0,
        small_initial_encoder_coefficient=1e-5, large_initial_encoder_coefficient=3e-6, large_encoder_target_kl=10.0,
        actor_critic=ActorCriticConfig(hidden_dim=32, hidden_layers=2),
    )  # fmt: skip
    learner = SimplLearner(config, STATE_DIM, LATENT_DIM, 2, seed=0)
    learner.make_optimizers()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        tasks = torch.randint(2, (SETS,), generator=generator)
        small = bandit_transitions(learner, tasks[:SMALL_SETS], 4, generator)[..., : learner.context_dim]
        large = bandit_transitions(learner, tasks[SMALL_SETS:], 32, generator)[..., : learner.context_dim]
        noise = torch.randn((2, SETS * 32, LATENT_DIM + EMBEDDING_DIM), generator=generator)
        learner.update(bandit_transitions(learner, tasks, 32, generator), (small, large), tasks, noise)

    contexts = bandit_transitions(learner, torch.tensor([0, 1]), 32, generator)[..., : learner.context_dim]
    with torch.no_grad():
        e = learner.encoder(contexts).mean
        skills = torch.zeros(1, 4, LATENT_DIM)
        skills[0, :, 0] = torch.tensor([1.0, -1.5, 1.0, -1.5])  # above and below, under task 0, then under task 1
        critics = learner.networks.critics
        values = learner.networks.q_values(
            critics, torch.zeros(1, 4, STATE_DIM), e.repeat_interleave(2, 0)[None], skills
        )
        above_0, below_0, above_1, below_1 = values.mean(1)[0].tolist()
        prior = Gaussian(torch.zeros(1, 2, LATENT_DIM), torch.ones(1, 2, LATENT_DIM))
        policy = learner.networks.policy_distribution(torch.zeros(1, 2, STATE_DIM), e[None], prior)
    assert above_0 > below_0 + 0.5
    assert below_1 > above_1 + 0.5
    assert float(policy.mean[0, 0, 0]) > 0.1, "the policy goes where the reward is"
    assert float(policy.mean[0, 1, 0]) < -0.5


# -- target-task learning ------------------------------------------------------------------------------------


MAZE = short_maze(60, [START_GOAL, NEAR_GOAL, FAR_GOAL])
META_CONFIG = dataclasses.replace(
    CONFIG, epochs=2, learning_rate=3e-3, replay_capacity=100, context_capacity=100, large_target_kl=1e-9,
    actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=1),
)  # fmt: skip
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
    """Policy, both critics and their targets (E.2.2); alpha is the large-context coefficient as it ended."""
    stage = make_adaptation(inputs)
    saved = load_tensors(inputs["meta_train"] / META_FILE)["learner"]
    for name, meta in saved.items():
        if not name.startswith("networks."):
            continue
        stacked = stage.networks.get_parameter(name.removeprefix("networks."))
        copies = stacked.detach().unflatten(0, (3, -1))
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


def test_e_follows_the_contexts_of_meta_training_where_rewarded_ones_come_first(tmp_path: Path) -> None:
    """A departure: contexts were 4 transitions with the rewarded ones first, and so is c*."""
    config = dataclasses.replace(META_CONFIG, large_context=4, context_drawn=12)
    stage = make_adaptation(write_inputs(tmp_path, config), dataclasses.replace(ADAPT_CONFIG, exploration_episodes=5))
    stage.advance()
    weights = {name: parameter.detach().double() for name, parameter in stage.meta.encoder.named_parameters()}
    explored = [episode for of_task, episode, _ in stage.collected if of_task == 1]
    transitions = torch.cat(
        [torch.cat([e.states, e.skills, e.rewards, e.dones, e.next_states], dim=1) for e in explored]
    ).double()
    rewarded = transitions[:, 4 + LATENT_DIM] > 0
    assert 1 <= int(rewarded.sum()) <= 3, "the test needs an episode that was solved and transitions to choose among"
    # Which of the unrewarded ones are kept is drawn: e* must be among the choices.
    missing = 4 - int(rewarded.sum())
    candidates = torch.combinations(torch.nonzero(~rewarded)[:, 0], missing)
    contexts = torch.stack([torch.cat([transitions[rewarded], transitions[chosen]]) for chosen in candidates])
    possible = naive_task_encoder(weights, contexts).mean
    assert float((possible - stage.task_embeddings[1].double()).abs().amax(1).min()) < 1e-5


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


# -- the recipe ----------------------------------------------------------------------------------------------


def test_simpl_is_registered_as_skills_then_meta_train_then_adapt() -> None:
    assert algorithm("simpl") is ALGORITHM
    assert [stage.name for stage in ALGORITHM.stages] == ["skills", "meta_train", "adapt"]
    assert ALGORITHM.stages[0] is SKILLS_STAGE, "the same artefact for all that stand on skills"
    assert [stage.inputs for stage in ALGORITHM.stages[1:]] == [("skills",), ("skills", "meta_train")]
    assert [stage.tasks for stage in ALGORITHM.stages] == ["none", "train", "target"]
    assert ALGORITHM.needs_train_tasks


def test_paper_preset_changes_nothing_and_holds_the_released_values() -> None:
    assert ALGORITHM.presets["maze", "paper"] == {}
    config = SimplMetaTrainConfig()
    config.validate()
    SimplAdaptConfig().validate()
    assert (config.epochs, config.task_embedding_dim, config.transitions_per_task) == (1000, 5, 1024)
    assert (config.small_context_tasks, config.large_context_tasks) == (4, 26)
    assert (config.small_context, config.large_context, config.warm_up_transitions) == (4, 8192, 8192)
    assert (config.replay_capacity, config.context_capacity, config.transition_reuse) == (20_000, 20_000, 256.0)
    assert (config.small_target_kl, config.large_target_kl, config.kl_clip) == (0.5, 1.0, 5.0)
    assert (config.small_encoder_target_kl, config.large_encoder_target_kl) == (1.0, 10.0)
    assert (config.discount, config.target_rate, config.learning_rate) == (0.99, 0.005, 3e-4)
    departures = (config.rewarded_fraction, config.context_drawn, config.n_step, config.clip_targets, config.bf16)
    assert departures == (0.0, 0, 1, False, False)
    assert config.actor_critic == ActorCriticConfig(
        256, 3, "softplus", standardise_states=False, zero_initial_values=False
    )
