"""The task encoder against a straightforward Set Transformer, and the symmetries a set function must have.

Axes: S set, C context transition, D feature, H head, Q query.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from algorithms.networks import Gaussian
from algorithms.set_transformer import AttentionBlock, TaskEncoder
from tests.algorithm_helpers import ENCODER_HEADS, naive_task_encoder, relative_error

TRANSITION_DIM, EMBEDDING_DIM, HIDDEN_DIM, INDUCING_POINTS = 11, 5, 32, 8
SETS, CONTEXT = 3, 50


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_encoder(
    context_transitions_per_pass: int = 8192, hidden_dim: int = HIDDEN_DIM, inducing_points: int = INDUCING_POINTS
) -> TaskEncoder:
    torch.manual_seed(1)
    encoder = TaskEncoder(
        TRANSITION_DIM, EMBEDDING_DIM, hidden_dim, ENCODER_HEADS, inducing_points, context_transitions_per_pass
    )
    # torch.nn.Linear starts biases small: larger ones show one that is left out.
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-1, 1)
    return encoder


# -- against the straightforward formula -----------------------------------------------------------


def loss_of(posterior: Gaussian) -> Tensor:
    """Something in which every output counts with another weight."""
    ramp = torch.linspace(-1, 2, posterior.mean.numel()).view_as(posterior.mean).to(posterior.mean)
    return (ramp * posterior.mean).sum() + (ramp.flip(0, 1) * posterior.sigma.log()).sum()


@pytest.mark.parametrize(
    ("hidden_dim", "inducing_points", "context"),
    [(HIDDEN_DIM, INDUCING_POINTS, 1), (HIDDEN_DIM, INDUCING_POINTS, 4), (HIDDEN_DIM, INDUCING_POINTS, CONTEXT),
     (128, 32, 1024)],
    ids=["one transition", "small context", "larger context", "shape of the paper"],
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-4)])
def test_outputs_and_all_gradients_equal_the_straightforward_formula(
    hidden_dim: int, inducing_points: int, context: int, dtype: torch.dtype, tolerance: float
) -> None:
    """In float64, and as far as float32 goes: the first block's key weights get gradients of 1e-7 out of sums of 1."""
    encoder = make_encoder(hidden_dim=hidden_dim, inducing_points=inducing_points).to(dtype)
    contexts = torch.randn(SETS, context, TRANSITION_DIM, dtype=dtype)
    inputs = contexts.clone().requires_grad_()
    posterior = encoder(inputs)
    loss_of(posterior).backward()

    # The reference runs in float64, so that what is measured is the encoder's own error.
    weights = {name: parameter.detach().double().requires_grad_() for name, parameter in encoder.named_parameters()}
    reference_inputs = contexts.double().requires_grad_()
    reference = naive_task_encoder(weights, reference_inputs)
    loss_of(reference).backward()

    assert posterior.mean.dtype == posterior.sigma.dtype == dtype
    torch.testing.assert_close(posterior.mean.double(), reference.mean, rtol=0, atol=tolerance / 100)
    torch.testing.assert_close(posterior.sigma.double(), reference.sigma, rtol=0, atol=tolerance / 100)
    assert inputs.grad is not None
    assert reference_inputs.grad is not None
    assert relative_error(inputs.grad, reference_inputs.grad) < tolerance
    for name, parameter in encoder.named_parameters():
        expected = weights[name].grad
        assert expected is not None
        if name.endswith("key.bias"):
            # Adds the same to all of a query's scores, so the softmax cancels it: its gradient is exactly zero.
            assert float(expected.abs().max()) < 1e-12
            assert parameter.grad is None or float(parameter.grad.abs().max()) < 1e-5
        elif context == 1 and (".summarise.key" in name or "pool.key" in name):
            # One element has weight 1 whatever its score.
            assert float(expected.abs().max()) < 1e-12
            assert parameter.grad is not None
            assert float(parameter.grad.abs().max()) < 1e-5
        else:
            assert parameter.grad is not None, name
            assert relative_error(parameter.grad, expected) < tolerance, name


def test_adam_never_moves_a_key_bias_of_the_folded_attention() -> None:
    """A gradient of pure rounding noise would be blown up to a full step by Adam."""
    encoder = make_encoder()
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(encoder(torch.randn(SETS, CONTEXT, TRANSITION_DIM))).backward()
        optimizer.step()
    still = {name for name, parameter in encoder.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {"blocks.0.summarise.key.bias", "blocks.1.summarise.key.bias", "pool.key.bias"}


# -- symmetries ------------------------------------------------------------------------------------


def assert_same(first: Gaussian, second: Gaussian) -> None:
    torch.testing.assert_close(first.mean, second.mean, rtol=0, atol=3e-6)
    torch.testing.assert_close(first.sigma, second.sigma, rtol=0, atol=3e-6)


@torch.no_grad()
def test_the_order_of_transitions_does_not_matter() -> None:
    encoder, contexts = make_encoder(), torch.randn(SETS, CONTEXT, TRANSITION_DIM)
    assert_same(encoder(contexts[:, torch.randperm(CONTEXT)]), encoder(contexts))


@torch.no_grad()
def test_repeating_the_whole_set_does_not_matter_but_its_contents_do() -> None:
    """Attention is a weighted mean: twice the same transitions say nothing new."""
    encoder, contexts = make_encoder(), torch.randn(SETS, CONTEXT, TRANSITION_DIM)
    assert_same(encoder(torch.cat([contexts, contexts], dim=1)), encoder(contexts))
    other = encoder(torch.cat([contexts, torch.randn_like(contexts)], dim=1))
    assert float((other.mean - encoder(contexts).mean).abs().max()) > 1e-3


@torch.no_grad()
def test_each_set_is_encoded_by_itself() -> None:
    encoder, contexts = make_encoder(), torch.randn(SETS, CONTEXT, TRANSITION_DIM)
    together = encoder(contexts)
    for index in range(SETS):
        alone = encoder(contexts[index : index + 1])
        assert_same(alone, Gaussian(together.mean[index : index + 1], together.sigma[index : index + 1]))


@pytest.mark.parametrize("context_transitions_per_pass", [1, CONTEXT, 2 * CONTEXT, 10**6])
def test_splitting_sets_into_passes_changes_nothing(context_transitions_per_pass: int) -> None:
    """One set at a time even where a single set exceeds the limit; two at a time leaves a pass of one."""
    contexts = torch.randn(SETS, CONTEXT, TRANSITION_DIM, dtype=torch.float64)
    split, whole = make_encoder(context_transitions_per_pass).double(), make_encoder(SETS * CONTEXT).double()
    assert_same(split(contexts), whole(contexts))
    for encoder in (split, whole):
        loss_of(encoder(contexts)).backward()
    for (name, one), other in zip(split.named_parameters(), whole.parameters(), strict=True):
        if not name.endswith("key.bias"):
            assert one.grad is not None
            assert other.grad is not None
            assert relative_error(one.grad, other.grad) < 1e-9, name


# -- sigma -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_sigma_starts_at_about_one_and_is_the_released_codes_where_the_network_says_zero() -> None:
    """0.001 + softplus(softplus^-1(1))."""
    torch.manual_seed(1)
    encoder = TaskEncoder(TRANSITION_DIM, EMBEDDING_DIM)
    sigma = encoder(torch.randn(8, CONTEXT, TRANSITION_DIM)).sigma
    assert 0.8 < float(sigma.min()) <= float(sigma.max()) < 1.25
    encoder.output.weight.zero_()
    encoder.output.bias.zero_()
    expected = torch.full((8, EMBEDDING_DIM), 1.001)
    torch.testing.assert_close(encoder(torch.randn(8, CONTEXT, TRANSITION_DIM)).sigma, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_sigma_never_falls_below_its_minimum() -> None:
    encoder = make_encoder()
    encoder.output.bias[EMBEDDING_DIM:] = -1000.0
    sigma = encoder(torch.randn(SETS, CONTEXT, TRANSITION_DIM)).sigma
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.001), rtol=1e-6, atol=0)


def test_default_shape_is_the_papers() -> None:
    """2 x ISAB32 -> PMA1 -> MLP, 128 wide, 4 heads (appendix E.1.2)."""
    encoder = TaskEncoder(TRANSITION_DIM, EMBEDDING_DIM)
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    assert shapes["blocks.0.inducing"] == shapes["blocks.1.inducing"] == (32, 128)
    assert shapes["seed"] == (1, 128)
    assert shapes["blocks.0.summarise.key.weight"] == (128, TRANSITION_DIM)
    assert shapes["output.weight"] == (2 * EMBEDDING_DIM, 128)
    assert encoder.pool.heads == 4
    assert len(encoder.blocks) == 2


def test_inducing_points_and_seed_start_within_the_released_codes_bounds() -> None:
    """Xavier-uniform, of variance 2 / (fan_in + fan_out), over (1, n, 128): torch takes axes behind the second for a
    receptive field, so the fans are 128 n and 128: bounds 0.038 for 32 inducing points, 0.153 for the seed."""
    torch.manual_seed(0)
    encoders = [TaskEncoder(TRANSITION_DIM, EMBEDDING_DIM) for _ in range(8)]
    drawn = {
        32: torch.stack([encoder.blocks[block].get_parameter("inducing") for encoder in encoders for block in (0, 1)]),
        1: torch.stack([encoder.seed for encoder in encoders]),
    }
    for count, values in drawn.items():
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (128 * count + 128))
        assert bound == pytest.approx({32: 0.038, 1: 0.153}[count], abs=5e-4)
        assert 0.98 * bound < float(values.detach().abs().max()) <= bound
        assert float(values.detach().var()) == pytest.approx(bound**2 / 3, rel=0.1), "uniform"


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="hidden_dim 10 is not a multiple of heads 4"):
        AttentionBlock(8, 8, 10, 4)
