"""PEARL's and BC+PEARL's update: every loss against an independent formula, and who gets gradient from what.

| loss | gradient reaches |
|---|---|
| critic loss | critics, encoder (through e) |
| beta KL(q, N(0, I)) | encoder |
| policy loss | policy |
| dual step | alpha |
| nothing | target critics, which follow the critics |

The reference is written with torch.distributions and plain matrix products, in double precision.

Axes: S context set, C context transition, B transitions per set, E task embedding.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from algorithms.bc_pearl import BcPearlMetaTrainConfig
from algorithms.networks import Gaussian
from algorithms.pearl import PearlMetaTrainConfig
from algorithms.regularized_sac import ActorCriticConfig, SquashedActorCriticConfig, policy_loss
from algorithms.task_inference import TaskInferenceConfig, TaskInferenceLearner
from tests.algorithm_helpers import (
    flat_parameters,
    naive_mlp,
    naive_product_encoder,
    naive_task_encoder,
    relative_error,
)

OBSERVATION_DIM, ACTION_DIM, EMBEDDING_DIM = 3, 2, 4
SETS, CONTEXT, PER_SET = 5, 6, 7
RATE = 1e-2
KL_CLIP = 0.5
COMMON: dict[str, Any] = {
    "task_embedding_dim": EMBEDDING_DIM, "tasks_per_update": SETS, "context_transitions": CONTEXT,
    "transitions_per_task": PER_SET, "encoder_hidden_dim": 8, "encoder_hidden_layers": 2, "encoder_kl_weight": 0.3,
    "initial_coefficient": 0.2, "learning_rate": RATE, "coefficient_learning_rate": RATE, "target_rate": 0.1,
}  # fmt: skip
PEARL = PearlMetaTrainConfig(**COMMON, actor_critic=SquashedActorCriticConfig(hidden_dim=8, hidden_layers=2))
BC_PEARL = BcPearlMetaTrainConfig(
    **COMMON, kl_clip=KL_CLIP, actor_critic=ActorCriticConfig(hidden_dim=8, hidden_layers=2)
)
CONFIGS: dict[str, TaskInferenceConfig] = {
    "pearl": PEARL,
    "pearl, set transformer": dataclasses.replace(PEARL, encoder="set_transformer"),
    "bc+pearl": BC_PEARL,
    "bc+pearl, set transformer": dataclasses.replace(BC_PEARL, encoder="set_transformer"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make_learner(config: TaskInferenceConfig, seed: int = 0, **more: Any) -> TaskInferenceLearner:
    prior_dim = 2 * ACTION_DIM if isinstance(config, BcPearlMetaTrainConfig) else 0
    learner = TaskInferenceLearner(config, OBSERVATION_DIM, ACTION_DIM, prior_dim, seed, **more)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(7)
        for name, parameter in learner.named_parameters():
            if name.startswith(("networks", "encoder")):  # BC+PEARL's policy starts at 0, target critics at the critics
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    learner.make_optimizers()
    return learner


@dataclass
class Inputs:
    """What an update is given."""

    rows: Tensor
    contexts: Tensor
    noise: Tensor


def some_inputs(learner: TaskInferenceLearner, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(SETS, PER_SET, learner.fields.dim, generator=generator)
    columns = learner.fields.unpack(rows)
    columns["td_discounts"].copy_(0.9 * (torch.rand(SETS, PER_SET, 1, generator=generator) > 0.3))
    for name in ("prior", "td_prior"):
        if columns[name].shape[-1]:
            columns[name][..., ACTION_DIM:].abs_().add_(0.2)
    return Inputs(
        rows,
        torch.randn(SETS, CONTEXT, learner.context_dim, generator=generator),
        torch.randn(2, SETS * PER_SET, ACTION_DIM + EMBEDDING_DIM, generator=generator),
    )


# -- the reference ---------------------------------------------------------------------------------


class Reference:
    """The same learner's losses, task by task, from its weights in double precision."""

    def __init__(self, learner: TaskInferenceLearner, inputs: Inputs, highest: float = math.inf) -> None:
        self.highest = highest
        self.config, self.with_prior = learner.config, isinstance(learner.config, BcPearlMetaTrainConfig)
        self.weights = {
            name: parameter.detach().double().requires_grad_() for name, parameter in learner.named_parameters()
        }
        self.alpha = learner.coefficient.values.double()
        columns = learner.fields.unpack(inputs.rows.double())
        self.columns = {name: value.reshape(SETS * PER_SET, -1) for name, value in columns.items()}
        self.contexts, self.noise = inputs.contexts.double(), inputs.noise.double()

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) + 1 :]: w for name, w in self.weights.items() if name.startswith(prefix + ".")}

    def network(self, name: str, copy: int, inputs: Tensor) -> Tensor:
        part = self.part(f"networks.{name}")
        layers = [(part[f"layers.{i}.weight"][copy], part[f"layers.{i}.bias"][copy, 0]) for i in range(len(part) // 2)]
        return naive_mlp(layers, inputs)

    def posterior(self) -> Gaussian:
        naive = naive_product_encoder if self.config.encoder == "gaussian_product" else naive_task_encoder
        return naive(self.part("encoder"), self.contexts)

    def encoder_kl(self) -> Tensor:
        """(S,)"""
        mean, sigma = self.posterior()
        return kl_divergence(Normal(mean, sigma), Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)

    def embeddings(self) -> Tensor:
        """(S B, E): one draw per set, by the noise of its first row."""
        mean, sigma = self.posterior()
        first = self.noise[0].view(SETS, PER_SET, -1)[:, 0, ACTION_DIM:]
        drawn = mean + sigma * first
        return torch.stack([drawn[row // PER_SET] for row in range(SETS * PER_SET)])

    def policy(self, states: Tensor, embeddings: Tensor, prior: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(actions, divergence)"""
        mean, raw = self.network("policy", 0, torch.cat([states, embeddings], 1)).chunk(2, 1)
        if not self.with_prior:
            gaussian = Independent(Normal(mean, raw.clamp(-20, 2).exp()), 1)
            squashed = TransformedDistribution(gaussian, [TanhTransform()])
            actions = torch.tanh(mean + raw.clamp(-20, 2).exp() * noise)
            return actions, squashed.log_prob(actions)
        prior_mean, prior_sigma = prior.chunk(2, 1)
        sigma = 0.001 + torch.log1p(torch.exp(torch.log(torch.expm1(prior_sigma)) + raw))
        mean = prior_mean + mean
        divergence = kl_divergence(Normal(mean, sigma), Normal(prior_mean, prior_sigma)).sum(-1)
        return mean + sigma * noise, divergence

    def targets(self) -> Tensor:
        c, embeddings = self.columns, self.embeddings()
        actions, divergence = self.policy(c["td_states"], embeddings, c["td_prior"], self.noise[0, :, :ACTION_DIM])
        if self.with_prior:
            divergence = divergence.clamp(max=KL_CLIP)
        inputs = torch.cat([c["td_states"], embeddings, actions], 1)
        values = torch.minimum(*(self.network("target_critics", i, inputs)[:, 0] for i in range(2)))
        targets = c["td_rewards"][:, 0] + c["td_discounts"][:, 0] * (values - self.alpha * divergence)
        return targets.detach().clamp(max=self.highest)

    def critic_loss(self) -> Tensor:
        inputs = torch.cat([self.columns["states"], self.embeddings(), self.columns["skills"]], 1)
        errors = [self.network("critics", i, inputs)[:, 0] - self.targets() for i in range(2)]
        return sum((error**2).mean() for error in errors)  # type: ignore[return-value]

    def critic_and_encoder_loss(self) -> Tensor:
        return self.critic_loss() + self.config.encoder_kl_weight * self.encoder_kl().mean()

    def policy_terms(self) -> tuple[Tensor, Tensor]:
        """(loss, divergence (S B,))"""
        c, embeddings = self.columns, self.embeddings().detach()
        actions, divergence = self.policy(c["states"], embeddings, c["prior"], self.noise[1, :, :ACTION_DIM])
        inputs = torch.cat([c["states"], embeddings, actions], 1)
        values = torch.minimum(*(self.network("critics", i, inputs)[:, 0] for i in range(2)))
        return (self.alpha * divergence - values).mean(), divergence


def learner_losses(learner: TaskInferenceLearner, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """(critic and encoder, encoder KL (S,), policy)"""
    total, batch, kl = learner.losses_of_critic_and_encoder(inputs.rows, inputs.contexts, inputs.noise)
    losses, _ = policy_loss(learner.networks, batch, learner.coefficient.values, inputs.noise[1, :, :ACTION_DIM][None])
    return total, kl, losses.sum()


# -- numbers ---------------------------------------------------------------------------------------


@every_config
def test_every_loss_equals_the_independent_formula(config: TaskInferenceConfig) -> None:
    learner = make_learner(config)
    inputs = some_inputs(learner)
    reference = Reference(learner, inputs)
    total, kl, policy = learner_losses(learner, inputs)
    assert total.item() == pytest.approx(reference.critic_and_encoder_loss().item(), rel=1e-4)
    torch.testing.assert_close(kl.double(), reference.encoder_kl().detach(), rtol=1e-4, atol=1e-5)
    assert policy.item() == pytest.approx(reference.policy_terms()[0].item(), rel=1e-4)


def test_the_divergence_is_clipped_in_targets_alone_and_only_around_a_cloned_policy() -> None:
    """The reference clips at 0.5, and some of the divergences lie above it."""
    learner = make_learner(BC_PEARL)
    reference = Reference(learner, some_inputs(learner))
    divergence = reference.policy_terms()[1]
    assert 0 < int((divergence > KL_CLIP).sum()) < len(divergence)
    assert math.isinf(PEARL.divergence_clip)
    assert BC_PEARL.divergence_clip == KL_CLIP


@every_config
def test_the_mean_over_tasks_is_the_mean_of_each_tasks_own_loss(config: TaskInferenceConfig) -> None:
    """So gradients are averaged over tasks, whose transitions, context and e are their own."""
    learner = make_learner(config)
    inputs = some_inputs(learner)
    whole = learner.losses_of_critic_and_encoder(inputs.rows, inputs.contexts, inputs.noise)[0]
    by_set = inputs.noise.view(2, SETS, PER_SET, -1)
    parts = [
        learner.losses_of_critic_and_encoder(inputs.rows[s : s + 1], inputs.contexts[s : s + 1], by_set[:, s])[0]
        for s in range(SETS)
    ]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)


@every_config
def test_the_order_of_a_context_does_not_matter_and_its_owner_does(config: TaskInferenceConfig) -> None:
    learner = make_learner(config)
    inputs = some_inputs(learner)
    shuffled = inputs.contexts[:, torch.randperm(CONTEXT, generator=torch.Generator().manual_seed(0))]
    losses = [
        learner.losses_of_critic_and_encoder(inputs.rows, contexts, inputs.noise)[0].item()
        for contexts in (inputs.contexts, shuffled, inputs.contexts.roll(1, 0))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[2] - losses[0]) > 1e-3


@pytest.mark.parametrize("config", [PEARL, BC_PEARL], ids=["pearl", "bc+pearl"])
def test_targets_are_bounded_where_asked_for(config: TaskInferenceConfig) -> None:
    """At -3 for BC+PEARL; PEARL's entropy may add 0.2 x 2 log 2 x 9, with a discount of 0.9, to the same return."""
    config = dataclasses.replace(config, discount=0.9)
    most_of_entropy = 0.0 if isinstance(config, BcPearlMetaTrainConfig) else 0.2 * 2 * math.log(2) * 9
    highest_return = -3.0 - most_of_entropy
    clipped = make_learner(dataclasses.replace(config, clip_targets=True), highest_return=highest_return)
    unclipped = make_learner(config, highest_return=highest_return)
    inputs = some_inputs(clipped)
    reference = Reference(clipped, inputs, highest=-3.0)
    found = learner_losses(clipped, inputs)[0].item()
    assert found == pytest.approx(reference.critic_and_encoder_loss().item(), rel=1e-4)
    assert found != pytest.approx(learner_losses(unclipped, inputs)[0].item(), rel=1e-2)


# -- gradients -------------------------------------------------------------------------------------


def reached(learner: TaskInferenceLearner) -> set[str]:
    """Parts of a learner that have a gradient other than 0."""
    parts = ("encoder", "networks.policy", "networks.critics", "networks.target_critics", "coefficient")
    return {
        part
        for part in parts
        for name, parameter in learner.named_parameters()
        if name.startswith(part + ".") and parameter.grad is not None and bool(parameter.grad.any())
    }


@every_config
def test_gradients_reach_exactly_what_they_should(config: TaskInferenceConfig) -> None:
    learner = make_learner(config)
    inputs = some_inputs(learner)
    total, _, policy = learner_losses(learner, inputs)
    policy.backward()
    assert reached(learner) == {"networks.policy"}
    learner.zero_grad()
    total.backward()
    assert reached(learner) == {"encoder", "networks.critics"}
    learner.zero_grad()
    learner.encoder_loss(learner.encoder(inputs.contexts))[0].backward()
    assert reached(learner) == {"encoder"}


@every_config
def test_gradients_equal_the_independent_formulas(config: TaskInferenceConfig) -> None:
    """Of the encoder: from the critic loss and from the KL, in the ratio that beta says."""
    learner = make_learner(config)
    inputs = some_inputs(learner)
    reference = Reference(learner, inputs)
    total, _, policy = learner_losses(learner, inputs)
    total.backward()
    reference.critic_and_encoder_loss().backward()
    policy.backward()
    reference.policy_terms()[0].backward(inputs=list(reference.part("networks.policy").values()))
    compared = set()
    for name, parameter in learner.named_parameters():
        expected = reference.weights[name].grad
        if parameter.grad is None or name.endswith("key.bias"):  # a key bias has no effect, up to rounding
            continue
        assert expected is not None, name
        assert relative_error(parameter.grad, expected) < 1e-3, name
        compared.add(".".join(name.split(".")[: 1 if name.startswith("encoder") else 2]))
    assert compared == {"encoder", "networks.policy", "networks.critics"}


# -- update ----------------------------------------------------------------------------------------


@every_config
@pytest.mark.parametrize("target", ["above", "below"])
def test_an_update_moves_every_part_by_its_own_rule(config: TaskInferenceConfig, target: str) -> None:
    """Adam's first step is the learning rate times the gradient's sign; alpha's gradient is -(divergence - target)."""
    divergence_target = 1e4 if target == "above" else 1e-4
    if isinstance(config, PearlMetaTrainConfig):
        sign = -1.0 if target == "above" else 1.0
        per_dim = -1e2 if target == "above" else 1e2  # a target entropy of -dim(A) x 100 is a divergence of 200
        config = dataclasses.replace(config, target_entropy_per_action_dim=per_dim)
        divergence_target = -per_dim * ACTION_DIM
    else:
        assert isinstance(config, BcPearlMetaTrainConfig)
        sign = -1.0 if target == "above" else 1.0
        config = dataclasses.replace(config, target_kl=divergence_target)
    assert config.target_divergence(ACTION_DIM) == divergence_target
    learner = make_learner(config)
    inputs = some_inputs(learner)
    raw, targets = learner.coefficient.raw.detach().clone(), flat_parameters(learner.networks.target_critics)
    before = {name: flat_parameters(module) for name, module in learner.named_modules() if list(module.parameters())}
    metrics = learner.update(inputs.rows, [inputs.contexts], torch.arange(SETS), inputs.noise)
    for name in ("encoder", "networks.policy", "networks.critics"):
        moved = (flat_parameters(learner.get_submodule(name)) - before[name]).abs()
        assert float(moved.max()) == pytest.approx(RATE, rel=1e-2), name
    critics = flat_parameters(learner.networks.critics)
    torch.testing.assert_close(flat_parameters(learner.networks.target_critics), targets + 0.1 * (critics - targets))
    torch.testing.assert_close(learner.coefficient.raw.detach(), raw + sign * RATE, rtol=0, atol=1e-5)
    moved_by_hand = {"pearl": 0.2 * math.exp(sign * RATE), "bc": math.log1p(math.expm1(0.2) * math.exp(sign * RATE))}
    expected = moved_by_hand["bc" if isinstance(config, BcPearlMetaTrainConfig) else "pearl"]
    assert metrics["coefficient"] == pytest.approx(expected, rel=1e-4)


@every_config
def test_the_policy_learns_from_the_critics_as_they_are_after_their_step(config: TaskInferenceConfig) -> None:
    """With e from the encoder before its step, as its gradient was taken there."""
    learner, twin = make_learner(config), make_learner(config)
    inputs = some_inputs(learner)
    metrics = learner.update(inputs.rows, [inputs.contexts], torch.arange(SETS), inputs.noise)
    reference = Reference(twin, inputs)
    total = learner_losses(twin, inputs)[0]
    twin.critic_optimizer.zero_grad()
    total.backward()
    twin.critic_optimizer.step()
    after = Reference(twin, inputs)
    for name in reference.weights:
        if name.startswith("networks.critics"):
            reference.weights[name] = after.weights[name]
    loss, divergence = reference.policy_terms()
    assert metrics["policy_loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert metrics["divergence"] == pytest.approx(divergence.mean().item(), rel=1e-3)
    assert metrics["critic_loss"] == pytest.approx(total.item(), rel=1e-4)
    assert metrics["encoder_kl"] == pytest.approx(reference.encoder_kl().mean().item(), rel=1e-3)


def test_alpha_is_tuned_towards_minus_the_target_entropy() -> None:
    """SiMPL F.2: -dim(A); the divergence of a squashed policy is log pi, whose mean is minus the entropy."""
    assert PearlMetaTrainConfig().target_divergence(9) == 9.0
    assert PearlMetaTrainConfig().initial_coefficient == 0.1
    assert BcPearlMetaTrainConfig(target_kl=2.5).target_divergence(9) == 2.5


@every_config
def test_a_seed_fixes_the_networks_whatever_torchs_own_state(config: TaskInferenceConfig) -> None:
    torch.manual_seed(1)
    first = flat_parameters(make_learner(config, seed=3))
    torch.manual_seed(2)
    assert torch.equal(first, flat_parameters(make_learner(config, seed=3)))
    assert not torch.equal(first, flat_parameters(make_learner(config, seed=4)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("tasks_per_update", 0), ("context_transitions", 0), ("encoder_hidden_layers", 0), ("encoder_kl_weight", 0.0),
     ("initial_coefficient", -1.0), ("learning_rate", 2.0), ("target_rate", 0.0)],
)  # fmt: skip
def test_absurd_configurations_are_refused_by_name(field: str, value: float) -> None:
    for config in (PEARL, BC_PEARL):
        config.validate()
        with pytest.raises(ValueError, match=f"{field} is {value}"):
            dataclasses.replace(config, **{field: value}).validate()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target_kl is 0"):
        dataclasses.replace(BC_PEARL, target_kl=0.0).validate()
    with pytest.raises(ValueError, match="target_entropy_per_action_dim is -1000"):
        dataclasses.replace(PEARL, target_entropy_per_action_dim=-1000.0).validate()
