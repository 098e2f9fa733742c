"""Regularised soft actor-critic: losses against hand-computed numbers and numpy, and who gets gradient from what.

Axes: M model copy, B batch, D feature, E task embedding, Z skill.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.networks import Gaussian, SigmaParametrization, StackedMLP, torch_generator
from algorithms.policy_heads import residual_gaussian
from algorithms.regularized_sac import (
    ActorCriticConfig,
    FrozenPolicies,
    SkillActorCritic,
    critic_loss,
    highest_target,
    policy_loss,
    td_target,
)
from algorithms.transitions import StateInputs, TransitionBatch
from tests.algorithm_helpers import standardising_skill_model

COPIES, BATCH, STATE_DIM, EMBEDDING_DIM, LATENT_DIM = 2, 6, 4, 3, 2
CONFIG = ActorCriticConfig(hidden_dim=8, hidden_layers=2)
EXP_CONFIG = dataclasses.replace(CONFIG, sigma_parametrization="exp")

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def fresh_networks(config: ActorCriticConfig = CONFIG, copies: int = COPIES) -> SkillActorCritic:
    return SkillActorCritic(config, STATE_DIM, LATENT_DIM, EMBEDDING_DIM, copies, torch_generator(0, "test"))


def trained_networks(config: ActorCriticConfig = CONFIG, copies: int = COPIES) -> SkillActorCritic:
    """As they are after some training: no zero layer, and targets that differ from the critics."""
    networks = fresh_networks(config, copies)
    with torch.no_grad():
        for network in (networks.policy, networks.target_critics):
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return networks


def random_prior(shape: tuple[int, ...]) -> Gaussian:
    return Gaussian(torch.randn(*shape, LATENT_DIM), torch.rand(*shape, LATENT_DIM) + 0.3)


def random_batch(copies: int = COPIES, dones: Tensor | None = None) -> TransitionBatch:
    """One skill ahead at discount 0.9; about every third transition is a termination."""
    shape = (copies, BATCH)
    if dones is None:
        dones = (torch.rand(*shape, 1) < 0.4).float()
    return TransitionBatch(
        states=torch.randn(*shape, STATE_DIM),
        skills=torch.randn(*shape, LATENT_DIM),
        td_rewards=torch.randn(*shape, 1),
        td_discounts=0.9 * (1 - dones),
        td_states=torch.randn(*shape, STATE_DIM),
        prior=random_prior(shape),
        td_prior=random_prior(shape),
        task_embeddings=torch.randn(*shape, EMBEDDING_DIM),
        views=torch.zeros(*shape, 0),
        td_views=torch.zeros(*shape, 0),
    )


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


# -- the same in numpy, one copy and one network at a time --------------------------------------------


def numpy_mlp(stack: StackedMLP, copy: int, inputs: Array) -> Array:
    """(B, in_dim) -> (B, out_dim) of one copy."""
    parameters = [array(parameter)[copy] for parameter in stack.parameters()]
    hidden = inputs
    for layer, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        hidden = hidden @ weight + bias
        if layer + 1 < len(parameters) // 2:
            hidden = np.maximum(hidden, 0.0)
    return hidden


def numpy_policy(
    networks: SkillActorCritic, copy: int, states: Tensor, e: Tensor, prior: Gaussian
) -> tuple[Array, Array]:
    """(mean, sigma), by the paper's or the released formula."""
    output = numpy_mlp(networks.policy, copy, np.concatenate([array(states[copy]), array(e[copy])], axis=1))
    mean_residual, sigma_residual = np.split(output, 2, axis=1)
    prior_sigma = array(prior.sigma[copy])
    if networks.config.sigma_parametrization == "exp":
        sigma = np.exp(np.log(prior_sigma) + sigma_residual)
    else:
        sigma = 0.001 + np.log1p(np.exp(np.log(np.expm1(prior_sigma)) + sigma_residual))
    return array(prior.mean[copy]) + mean_residual, sigma


def numpy_q(critics: StackedMLP, copy: int, states: Tensor, e: Tensor, skills: Array) -> Array:
    """Both critics' values (2, B): those of copy i are networks 2 i and 2 i + 1 of the stack."""
    inputs = np.concatenate([array(states[copy]), array(e[copy]), skills], axis=1)
    return np.stack([numpy_mlp(critics, 2 * copy + critic, inputs)[:, 0] for critic in range(2)])


def numpy_kl(mean: Array, sigma: Array, prior: Gaussian, copy: int) -> Array:
    prior_mean, prior_sigma = array(prior.mean[copy]), array(prior.sigma[copy])
    per_dim = np.log(prior_sigma / sigma) + (sigma**2 + (mean - prior_mean) ** 2) / (2 * prior_sigma**2) - 0.5
    return np.asarray(per_dim.sum(-1))


# -- the residual policy -------------------------------------------------------------------------------


@pytest.mark.parametrize("prior_sigma", [np.exp(-10.0), 0.01, 1.0, np.exp(2.0), 30.0])
def test_zero_residual_is_the_prior(prior_sigma: float) -> None:
    """Over the whole range that the prior's log sigma is clamped to. Released: plus the minimum of 0.001."""
    prior = Gaussian(torch.tensor([0.3, -2.0]), torch.full((2,), float(prior_sigma)))
    exp = residual_gaussian(torch.zeros(4), prior, "exp")
    assert torch.equal(exp.mean, prior.mean)
    assert torch.equal(exp.sigma, prior.sigma)
    softplus = residual_gaussian(torch.zeros(4), prior, "softplus")
    assert torch.equal(softplus.mean, prior.mean)
    torch.testing.assert_close(softplus.sigma, prior.sigma + 0.001, rtol=2e-6, atol=0)


@pytest.mark.parametrize("parametrization", ["softplus", "exp"])
def test_residuals_add_to_the_mean_and_to_the_raw_sigma(parametrization: SigmaParametrization) -> None:
    prior = Gaussian(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 2.0]))
    policy = residual_gaussian(torch.tensor([0.25, -1.0, 0.7, -0.4]), prior, parametrization)
    assert policy.mean.tolist() == [1.25, 0.0]
    for sigma, prior_sigma, residual in zip(policy.sigma.tolist(), (0.5, 2.0), (0.7, -0.4), strict=True):
        if parametrization == "exp":
            expected = np.exp(np.log(prior_sigma) + residual)
        else:
            expected = 0.001 + np.log1p(np.exp(np.log(np.expm1(prior_sigma)) + residual))
        assert sigma == pytest.approx(expected, rel=1e-5)


def test_sigma_never_falls_below_its_minimum() -> None:
    prior = Gaussian(torch.zeros(2), torch.tensor([0.5, 2.0]))
    sigma = residual_gaussian(torch.tensor([0.0, 0.0, -100.0, -1000.0]), prior, "softplus").sigma
    assert sigma.tolist() == pytest.approx([0.001, 0.001])


def test_the_initial_policy_is_the_prior_whatever_the_task() -> None:
    batch = random_batch()
    policy = fresh_networks(EXP_CONFIG).policy_distribution(batch.states, batch.task_embeddings, batch.prior)
    assert torch.equal(policy.mean, batch.prior.mean)
    assert torch.equal(policy.sigma, batch.prior.sigma)
    assert torch.equal(policy.kl(batch.prior), torch.zeros(COPIES, BATCH))
    released = fresh_networks(CONFIG).policy_distribution(batch.states, batch.task_embeddings, batch.prior)
    assert torch.equal(released.mean, batch.prior.mean)
    torch.testing.assert_close(released.sigma, batch.prior.sigma + 0.001, rtol=1e-5, atol=0)


def test_target_critics_start_at_the_critics_and_the_two_critics_differ() -> None:
    networks = fresh_networks()
    for target, critic in zip(networks.target_critics.parameters(), networks.critics.parameters(), strict=True):
        assert torch.equal(target, critic)
        assert not target.requires_grad
    batch = random_batch()
    values = networks.q_values(networks.critics, batch.states, batch.task_embeddings, batch.skills)
    assert float((values[:, 0] - values[:, 1]).detach().abs().min()) > 1e-6


def test_critics_may_start_at_zero_and_still_learn_apart() -> None:
    networks, batch = fresh_networks(dataclasses.replace(CONFIG, zero_initial_values=True)), random_batch()
    for critics in (networks.critics, networks.target_critics):
        values = networks.q_values(critics, batch.states, batch.task_embeddings, batch.skills)
        assert torch.equal(values, torch.zeros(COPIES, 2, BATCH))
    critic_loss(networks, batch, torch.ones(COPIES, BATCH)).sum().backward()
    gradient = networks.critics.layers[-1].get_parameter("weight").grad
    assert gradient is not None
    assert float((gradient[0] - gradient[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("config", [CONFIG, EXP_CONFIG], ids=["softplus", "exp"])
def test_policy_and_critics_equal_numpy(config: ActorCriticConfig) -> None:
    networks, batch = trained_networks(config), random_batch()
    policy = networks.policy_distribution(batch.states, batch.task_embeddings, batch.prior)
    values = networks.q_values(networks.critics, batch.states, batch.task_embeddings, batch.skills)
    for copy in range(COPIES):
        mean, sigma = numpy_policy(networks, copy, batch.states, batch.task_embeddings, batch.prior)
        np.testing.assert_allclose(array(policy.mean[copy]), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(array(policy.sigma[copy]), sigma, rtol=1e-4, atol=1e-5)
        expected = numpy_q(networks.critics, copy, batch.states, batch.task_embeddings, array(batch.skills[copy]))
        np.testing.assert_allclose(array(values[copy]), expected, rtol=1e-4, atol=1e-5)


# -- TD target: hand-made numbers ---------------------------------------------------------------------


def constant_networks(target_values: tuple[float, float], mean_residual: float) -> SkillActorCritic:
    """One copy whose target critics say two constants, whose critics say something else, and whose policy is the
    prior with its mean moved."""
    networks = fresh_networks(EXP_CONFIG, copies=1)
    with torch.no_grad():
        for network in (networks.target_critics, networks.critics, networks.policy):
            for parameter in network.parameters():
                parameter.zero_()
        networks.target_critics.layers[-1].get_parameter("bias")[:, 0, 0] = torch.tensor(target_values)
        networks.critics.layers[-1].get_parameter("bias")[:] = -1000.0
        networks.policy.layers[-1].get_parameter("bias")[0, 0, :LATENT_DIM] = mean_residual
    return networks


@pytest.mark.parametrize(
    ("reward", "discount", "mean_residual", "coefficient", "expected"),
    [
        (1.0, 0.99, 0.0, 0.1, 1 + 0.99 * 2),  # the lower of 2 and 3; KL 0; no entropy; a truncated skill bootstraps
        (1.0, 0.0, 0.0, 0.1, 1.0),  # terminated: nothing follows
        (0.0, 0.99, 1.0, 0.1, 0.99 * (2 - 0.1 * 4)),  # KL = 2 x 1^2 / (2 x 0.5^2) = 4, below the clip
        (0.0, 0.99, 3.0, 0.1, 0.99 * (2 - 0.1 * 5)),  # KL = 36, clipped to 5
        (0.0, 0.99, 3.0, 0.0, 0.99 * 2),
        (-1.0, 0.0, 3.0, 0.1, -1.0),  # the penalty belongs to what follows, too
    ],
)
def test_td_target_by_hand(
    reward: float, discount: float, mean_residual: float, coefficient: float, expected: float
) -> None:
    """y = r + 0.99 (1 - done) (min(Q'_1, Q'_2) - alpha min(KL, 5))"""
    prior = Gaussian(torch.zeros(1, 1, LATENT_DIM), torch.full((1, 1, LATENT_DIM), 0.5))
    batch = TransitionBatch(
        states=torch.zeros(1, 1, STATE_DIM),
        skills=torch.zeros(1, 1, LATENT_DIM),
        td_rewards=torch.full((1, 1, 1), reward),
        td_discounts=torch.full((1, 1, 1), discount),
        td_states=torch.zeros(1, 1, STATE_DIM),
        prior=Gaussian(prior.mean + 7, prior.sigma),
        td_prior=prior,
        task_embeddings=torch.zeros(1, 1, EMBEDDING_DIM),
        views=torch.zeros(1, 1, 0),
        td_views=torch.zeros(1, 1, 0),
    )
    noise = torch.randn(1, 1, LATENT_DIM)
    for target_values in ((2.0, 3.0), (3.0, 2.0)):
        networks = constant_networks(target_values, mean_residual)
        target = td_target(networks, batch, torch.tensor([coefficient]), noise, kl_clip=5.0)
        assert target.shape == (1, 1)
        assert float(target) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("highest", "expected"), [(3.0, 2.8), (2.5, 2.5), (-1.0, -1.0)])
def test_a_td_target_may_be_bounded_from_above(highest: float, expected: float) -> None:
    """A departure for where no return can be higher. The bound is on the whole target: 1 + 0.9 x 2."""
    batch = random_batch(copies=1, dones=torch.zeros(1, BATCH, 1))
    batch = dataclasses.replace(batch, td_rewards=torch.ones(1, BATCH, 1))
    noise = torch.randn(1, BATCH, LATENT_DIM)
    target = td_target(constant_networks((2.0, 3.0), 0.0), batch, torch.ones(1, 1), noise, 5.0, highest)
    assert target[0].tolist() == pytest.approx([expected] * BATCH)


def test_td_target_at_zero_kl_is_finite() -> None:
    """Released: clip(KL) / KL, which is 0 / 0 where the policy still is the prior."""
    batch = random_batch()
    target = td_target(
        fresh_networks(EXP_CONFIG), batch, torch.ones(COPIES, 1), torch.randn(COPIES, BATCH, LATENT_DIM), 0.99, 5.0
    )
    assert bool(torch.isfinite(target).all())


@pytest.mark.parametrize("config", [CONFIG, EXP_CONFIG], ids=["softplus", "exp"])
def test_td_target_equals_numpy_for_a_stack(config: ActorCriticConfig) -> None:
    """Each copy with its own coefficient; the clip lies amid the KLs."""
    networks, batch = trained_networks(config), random_batch()
    coefficients, noise = torch.tensor([[0.3], [0.05]]), torch.randn(COPIES, BATCH, LATENT_DIM)
    kls = []
    for copy in range(COPIES):
        mean, sigma = numpy_policy(networks, copy, batch.td_states, batch.task_embeddings, batch.td_prior)
        kls.append(numpy_kl(mean, sigma, batch.td_prior, copy))
    clip = float(np.median(np.concatenate(kls)))
    target = td_target(networks, batch, coefficients, noise, kl_clip=clip)
    for copy in range(COPIES):
        mean, sigma = numpy_policy(networks, copy, batch.td_states, batch.task_embeddings, batch.td_prior)
        skills = mean + sigma * array(noise[copy])
        lower = numpy_q(networks.target_critics, copy, batch.td_states, batch.task_embeddings, skills).min(0)
        bootstrap = lower - float(coefficients[copy]) * np.minimum(kls[copy], clip)
        expected = array(batch.td_rewards[copy])[:, 0] + array(batch.td_discounts[copy])[:, 0] * bootstrap
        np.testing.assert_allclose(array(target[copy]), expected, rtol=1e-4, atol=1e-5)


def test_td_target_takes_a_coefficient_for_each_transition() -> None:
    """Meta-training: small and large contexts lie in one batch."""
    networks, batch = trained_networks(copies=1), random_batch(copies=1, dones=torch.zeros(1, BATCH, 1))
    noise = torch.randn(1, BATCH, LATENT_DIM)
    mixed = torch.tensor([[0.3] * 2 + [0.1] * (BATCH - 2)])
    target = td_target(networks, batch, mixed, noise, 5.0)
    for coefficient, columns in ((0.3, slice(0, 2)), (0.1, slice(2, BATCH))):
        alone = td_target(networks, batch, torch.full((1, BATCH), coefficient), noise, 5.0)
        assert torch.equal(target[:, columns], alone[:, columns])


# -- losses -------------------------------------------------------------------------------------------------


def test_critic_loss_is_the_mean_over_batch_and_both_critics() -> None:
    networks, batch, targets = trained_networks(), random_batch(), torch.randn(COPIES, BATCH)
    losses = critic_loss(networks, batch, targets)
    assert losses.shape == (COPIES,)
    for copy in range(COPIES):
        values = numpy_q(networks.critics, copy, batch.states, batch.task_embeddings, array(batch.skills[copy]))
        errors = [((values[critic] - array(targets[copy])) ** 2).mean() for critic in range(2)]
        assert float(losses[copy].detach()) == pytest.approx((errors[0] + errors[1]) / 2, rel=1e-5)


@pytest.mark.parametrize("config", [CONFIG, EXP_CONFIG], ids=["softplus", "exp"])
def test_policy_loss_is_the_mean_of_penalty_minus_the_lower_q(config: ActorCriticConfig) -> None:
    """No clip on its KL, the critics themselves and not their targets."""
    networks, batch = trained_networks(config), random_batch()
    coefficients, noise = torch.tensor([[0.3], [20.0]]), torch.randn(COPIES, BATCH, LATENT_DIM)
    losses, kl = policy_loss(networks, batch, coefficients, noise)
    for copy in range(COPIES):
        mean, sigma = numpy_policy(networks, copy, batch.states, batch.task_embeddings, batch.prior)
        skills = mean + sigma * array(noise[copy])
        lower = numpy_q(networks.critics, copy, batch.states, batch.task_embeddings, skills).min(0)
        expected_kl = numpy_kl(mean, sigma, batch.prior, copy)
        np.testing.assert_allclose(array(kl[copy]), expected_kl, rtol=1e-4, atol=1e-5)
        expected = (float(coefficients[copy]) * expected_kl - lower).mean()
        assert float(losses[copy].detach()) == pytest.approx(expected, rel=1e-4)


def test_policy_gradient_equals_finite_differences() -> None:
    """Through the sample, the lower critic and the KL at once."""
    networks, batch, noise = trained_networks(), random_batch(), torch.randn(COPIES, BATCH, LATENT_DIM)
    policy_loss(networks, batch, torch.full((COPIES, 1), 0.3), noise)[0].sum().backward()
    nudged = deepcopy(networks).double()

    def numpy_loss() -> float:
        total = 0.0
        for copy in range(COPIES):
            mean, sigma = numpy_policy(nudged, copy, batch.states, batch.task_embeddings, batch.prior)
            skills = mean + sigma * array(noise[copy])
            lower = numpy_q(nudged.critics, copy, batch.states, batch.task_embeddings, skills).min(0)
            total += float((0.3 * numpy_kl(mean, sigma, batch.prior, copy) - lower).mean())
        return total

    for name in ("layers.0.weight", "layers.1.bias", "layers.2.weight", "layers.2.bias"):
        gradient, values = networks.policy.get_parameter(name).grad, nudged.policy.get_parameter(name).data.view(-1)
        assert gradient is not None
        for index in range(0, len(values), 5):
            around = []
            for nudge in (1e-6, -1e-6):
                values[index] += nudge
                around.append(numpy_loss())
                values[index] -= nudge
            difference = (around[0] - around[1]) / 2e-6
            assert float(gradient.view(-1)[index]) == pytest.approx(difference, rel=1e-3, abs=1e-5), (name, index)


@dataclasses.dataclass
class Leaves:
    """Everything that could get gradient."""

    networks: SkillActorCritic
    batch: TransitionBatch
    coefficients: Tensor

    @classmethod
    def make(cls) -> Leaves:
        batch = random_batch()
        for field in dataclasses.fields(batch):
            value = getattr(batch, field.name)
            for tensor in value if isinstance(value, Gaussian) else (value,):
                tensor.requires_grad_()
        networks = trained_networks()
        networks.target_critics.requires_grad_()  # so that only the losses keep gradient away from them
        return cls(networks, batch, torch.tensor([[0.3], [0.1]], requires_grad=True))

    def with_gradient(self) -> set[str]:
        leaves: dict[str, list[Tensor]] = {
            name: list(module.parameters())
            for name, module in self.networks.named_children()
            if isinstance(module, nn.Module)
        }
        leaves |= {"embeddings": [self.batch.task_embeddings], "prior": [*self.batch.prior, *self.batch.td_prior]}
        return {
            name for name, tensors in leaves.items() if any(t.grad is not None and bool(t.grad.any()) for t in tensors)
        }


def backward_of_critic_loss(leaves: Leaves) -> None:
    noise = torch.randn(COPIES, BATCH, LATENT_DIM)
    targets = td_target(leaves.networks, leaves.batch, leaves.coefficients, noise, 5.0)
    critic_loss(leaves.networks, leaves.batch, targets).sum().backward()


def backward_of_policy_loss(leaves: Leaves) -> None:
    noise = torch.randn(COPIES, BATCH, LATENT_DIM)
    coefficients = leaves.coefficients.detach()
    policy_loss(leaves.networks, leaves.batch, coefficients, noise)[0].sum().backward()


@pytest.mark.parametrize(
    ("backward", "learns"),
    [
        # Embeddings get gradient from the critic loss alone: so the task encoder learns (SiMPL).
        (backward_of_critic_loss, {"critics", "embeddings"}),
        # The prior is stored with the transitions: a gradient to it would lead nowhere but must not disturb either.
        (backward_of_policy_loss, {"policy", "prior"}),
    ],
    ids=["critic loss", "policy loss"],
)
def test_who_gets_gradient_from_what(backward: Callable[[Leaves], None], learns: set[str]) -> None:
    leaves = Leaves.make()
    backward(leaves)
    assert leaves.with_gradient() == learns


def test_the_td_target_carries_no_gradient() -> None:
    leaves = Leaves.make()
    noise = torch.randn(COPIES, BATCH, LATENT_DIM)
    assert not td_target(leaves.networks, leaves.batch, leaves.coefficients, noise, 5.0).requires_grad


def test_learners_of_a_stack_do_not_touch_each_other() -> None:
    """A sum over learners: each learner's gradient is its own."""
    networks, batch, noise = trained_networks(), random_batch(), torch.randn(COPIES, BATCH, LATENT_DIM)
    losses, _ = policy_loss(networks, batch, torch.tensor([[0.3], [0.1]]), noise)
    critic_losses = critic_loss(networks, batch, torch.zeros(COPIES, BATCH))
    (losses[1] + critic_losses[1]).backward()
    for parameter in networks.policy.parameters():
        assert parameter.grad is not None
        assert not bool(parameter.grad[0].any())
        assert bool(parameter.grad[1].any())
    for parameter in networks.critics.parameters():
        assert parameter.grad is not None
        assert not bool(parameter.grad[:2].any())
        assert bool(parameter.grad[2].any())
        assert bool(parameter.grad[3].any())


@pytest.mark.parametrize("rate", [0.0, 0.005, 1.0])
def test_targets_move_towards_the_critics_by_their_rate(rate: float) -> None:
    networks = trained_networks()
    before = [array(parameter) for parameter in networks.target_critics.parameters()]
    critics = [array(parameter) for parameter in networks.critics.parameters()]
    networks.update_targets(rate)
    for target, old, critic in zip(networks.target_critics.parameters(), before, critics, strict=True):
        np.testing.assert_allclose(array(target), (1 - rate) * old + rate * critic, rtol=1e-5, atol=1e-7)
    for critic_now, critic in zip(networks.critics.parameters(), critics, strict=True):
        assert np.array_equal(array(critic_now), critic)


# -- acting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("config", [CONFIG, EXP_CONFIG], ids=["softplus", "exp"])
@pytest.mark.parametrize("lanes", [[0, 1, 2, 3, 4], [1, 3], [4]])
def test_acting_samples_the_policy_of_each_lanes_learner(
    lanes: list[int], config: ActorCriticConfig, standardise: bool
) -> None:
    """Five lanes of learners 1, 0, 1, 1, 0, of which only ``lanes`` are still active."""
    networks, model = trained_networks(config), standardising_skill_model(LATENT_DIM)
    chosen = torch.tensor([1, 0, 1, 1, 0])
    embeddings, noise = torch.randn(5, EMBEDDING_DIM), torch.randn(5, LATENT_DIM)
    inputs = StateInputs(model, standardise)
    act = FrozenPolicies(networks, embeddings, inputs, model, lambda lanes, _: noise[lanes], chosen_models=chosen)
    states = torch.randn(len(lanes), STATE_DIM)
    skills = act(states, np.array(lanes), 0)
    for row, lane in enumerate(lanes):
        learner = int(chosen[lane])
        seen = (states[row] - model.state_mean) / model.state_sigma if standardise else states[row]
        output = numpy_mlp(networks.policy, learner, array(torch.cat([seen, embeddings[lane]]))[None])
        prior = model.skill_prior(states[row : row + 1])
        policy = residual_gaussian(torch.from_numpy(output).float(), prior, config.sigma_parametrization)
        torch.testing.assert_close(skills[row].clone(), policy.sample(noise[lane])[0], rtol=1e-4, atol=1e-5)


def test_acting_with_one_shared_model_equals_its_policy() -> None:
    networks, model = trained_networks(copies=1), standardising_skill_model(LATENT_DIM)
    embeddings, noise = torch.randn(4, EMBEDDING_DIM), torch.randn(4, LATENT_DIM)
    act = FrozenPolicies(networks, embeddings, StateInputs(model, False), model, lambda lanes, _: noise[lanes])
    states, lanes = torch.randn(3, STATE_DIM), np.array([0, 2, 3])
    prior = model.skill_prior(states)
    with torch.no_grad():
        policy = networks.policy_distribution(
            states[None], embeddings[lanes][None], Gaussian(prior.mean[None], prior.sigma[None])
        )
    expected = policy.sample(noise[lanes])[0]
    torch.testing.assert_close(act(states, lanes, 0).clone(), expected, rtol=1e-5, atol=1e-6)


def test_acting_asks_for_the_noise_of_its_lanes_and_skill() -> None:
    asked: list[tuple[list[int], int]] = []

    def noise(lanes: NDArray[np.int64], skill_index: int) -> Tensor:
        asked.append((lanes.tolist(), skill_index))
        return torch.zeros(len(lanes), LATENT_DIM)

    networks, model = trained_networks(copies=1), standardising_skill_model(LATENT_DIM)
    act = FrozenPolicies(networks, torch.zeros(4, EMBEDDING_DIM), StateInputs(model, False), model, noise)
    act(torch.randn(2, STATE_DIM), np.array([1, 3]), 17)
    assert asked == [([1, 3], 17)]


@pytest.mark.parametrize(("field", "value"), [("hidden_dim", 0), ("hidden_layers", 0), ("hidden_dim", 10**6)])
def test_absurd_shapes_are_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        dataclasses.replace(CONFIG, **{field: value}).validate()  # type: ignore[arg-type]
    CONFIG.validate()


def test_targets_are_bounded_by_the_highest_return_only_where_rewards_are_never_negative() -> None:
    assert highest_target(False, (-5.0, -1.0)) == math.inf
    assert highest_target(False, (0.0, 4.0)) == math.inf
    assert highest_target(True, (0.0, 4.0)) == 4.0
    with pytest.raises(ValueError, match="clip_targets is on, but returns go down to -5"):
        highest_target(True, (-5.0, -1.0))
