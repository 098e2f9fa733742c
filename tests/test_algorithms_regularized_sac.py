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
from torch import Tensor, nn

from algorithms.networks import Gaussian
from algorithms.policy_heads import ResidualHead, SquashedHead
from algorithms.regularized_sac import (
    ActorCriticConfig,
    SkillActorCritic,
    critic_errors,
    highest_soft_value,
    highest_target,
    policy_loss,
    td_target,
)
from algorithms.transitions import TransitionBatch
from tests.actor_critic_helpers import (
    BATCH,
    CONFIG,
    COPIES,
    EMBEDDING_DIM,
    EXP_CONFIG,
    LATENT_DIM,
    STATE_DIM,
    array,
    fresh_networks,
    numpy_kl,
    numpy_policy,
    numpy_q,
    random_batch,
    trained_networks,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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


def test_each_critics_error_is_the_mean_over_the_batch() -> None:
    networks, batch, targets = trained_networks(), random_batch(), torch.randn(COPIES, BATCH)
    errors = critic_errors(networks, batch, targets)
    assert errors.shape == (COPIES, 2)
    for copy in range(COPIES):
        values = numpy_q(networks.critics, copy, batch.states, batch.task_embeddings, array(batch.skills[copy]))
        for critic in range(2):
            expected = ((values[critic] - array(targets[copy])) ** 2).mean()
            assert float(errors[copy, critic].detach()) == pytest.approx(expected, rel=1e-5)


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
    critic_errors(leaves.networks, leaves.batch, targets).sum().backward()


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
    errors = critic_errors(networks, batch, torch.zeros(COPIES, BATCH))
    (losses[1] + errors[1].sum()).backward()
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


# -- options ------------------------------------------------------------------------------------------------


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


def test_the_bound_of_targets_leaves_room_for_what_entropy_is_worth() -> None:
    """A uniform policy over two actions in (-1, 1), alpha 0.1, discount 0.9, and a last reward of 1 that ends the
    episode after k choices: its soft value is 0.9^k + 0.1 x 2 log 2 x (0.9 + ... + 0.9^k), more than any return. The
    bound lets every one of them through; with a KL there is no room."""
    coefficients = torch.tensor([[0.1], [0.0]])
    bound = highest_soft_value(SquashedHead(), 1.0, coefficients, 0.9, 2)
    assert isinstance(bound, Tensor)
    assert bound.flatten().tolist() == pytest.approx([1 + 0.1 * 2 * math.log(2) * 9, 1.0])
    soft_values = [0.9**k + 0.1 * 2 * math.log(2) * sum(0.9**later for later in range(1, k + 1)) for k in range(60)]
    assert 1.09 < max(soft_values) < float(bound[0])
    assert max(soft_values) > 1.0, "the highest return alone would cut them"
    assert highest_soft_value(SquashedHead(), math.inf, coefficients, 0.9, 2) == math.inf
    assert highest_soft_value(SquashedHead(), 1.0, coefficients, 1.0, 2) == math.inf
    assert highest_soft_value(ResidualHead("softplus"), 1.0, coefficients, 0.9, 2) == 1.0


def test_a_bound_of_each_copy_cuts_its_targets_alone() -> None:
    batch = random_batch(copies=2, dones=torch.zeros(2, BATCH, 1))
    batch = dataclasses.replace(batch, td_rewards=torch.full((2, BATCH, 1), 50.0))
    noise = torch.randn(2, BATCH, LATENT_DIM)
    target = td_target(fresh_networks(), batch, torch.zeros(2, 1), noise, 5.0, torch.tensor([[3.0], [4.0]]))
    assert target[0].tolist() == [3.0] * BATCH
    assert target[1].tolist() == [4.0] * BATCH
