"""Networks and the diagonal Gaussian, against torch.distributions, torch.nn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from algorithms.networks import (
    BatchNormMLP,
    FoldedMLP,
    Gaussian,
    StackedLinear,
    StackedMLP,
    softplus_inverse,
    torch_generator,
)
from tests.algorithm_helpers import randomise_batch_norms

COPIES, BATCH, IN_DIM, OUT_DIM = 3, 7, 5, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_gaussian(shape: tuple[int, ...], seed: int, low: float = 0.05, high: float = 5.0) -> Gaussian:
    """Means of a few units, sigmas log-uniform between ``low`` and ``high``."""
    generator = torch.Generator().manual_seed(seed)
    log_sigma = torch.rand(shape, generator=generator) * float(np.log(high / low)) + float(np.log(low))
    return Gaussian(torch.randn(shape, generator=generator) * 2, log_sigma.exp())


def as_torch(gaussian: Gaussian) -> Independent[Normal]:
    return Independent(Normal(gaussian.mean.double(), gaussian.sigma.double()), 1)


# -- Gaussian ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_kl_equals_torch_distributions(seed: int) -> None:
    first, second = random_gaussian((2, 6, 10), seed), random_gaussian((2, 6, 10), seed + 100)
    expected = kl_divergence(as_torch(first), as_torch(second)).float()
    torch.testing.assert_close(first.kl(second), expected, rtol=1e-5, atol=1e-5)


def test_kl_is_from_the_first_to_the_second() -> None:
    """Its direction: KL(N(0, 1), N(0, 2)) = log 2 + 1/8 - 1/2, and not the reverse."""
    narrow, wide = Gaussian(torch.zeros(1), torch.ones(1)), Gaussian(torch.zeros(1), torch.full((1,), 2.0))
    assert float(narrow.kl(wide)) == pytest.approx(np.log(2) + 1 / 8 - 1 / 2, rel=1e-6)
    assert float(wide.kl(narrow)) == pytest.approx(-np.log(2) + 4 / 2 - 1 / 2, rel=1e-6)


def test_kl_of_a_gaussian_to_itself_is_exactly_zero_with_a_finite_gradient() -> None:
    """The policy starts at the prior: KL = 0 is the first thing that training sees."""
    mean, sigma = torch.randn(4, 3, requires_grad=True), (torch.rand(4, 3) + 0.1).requires_grad_()
    kl = Gaussian(mean, sigma).kl(Gaussian(mean.detach(), sigma.detach()))
    kl.sum().backward()
    assert torch.equal(kl, torch.zeros(4))
    assert mean.grad is not None
    assert sigma.grad is not None
    assert torch.equal(mean.grad, torch.zeros(4, 3))
    torch.testing.assert_close(sigma.grad, torch.zeros(4, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_kl_to_unit_equals_torch_distributions(seed: int) -> None:
    gaussian = random_gaussian((8, 5), seed)
    unit = Independent(Normal(torch.zeros(8, 5).double(), torch.ones(8, 5).double()), 1)
    expected = kl_divergence(as_torch(gaussian), unit).float()
    torch.testing.assert_close(gaussian.kl_to_unit(), expected, rtol=1e-5, atol=1e-5)


def test_negative_log_likelihood_equals_torch_distributions_per_dimension() -> None:
    gaussian, value = random_gaussian((8, 5), 0), torch.randn(8, 5)
    expected = -Normal(gaussian.mean.double(), gaussian.sigma.double()).log_prob(value.double())
    torch.testing.assert_close(gaussian.negative_log_likelihood(value), expected.float(), rtol=1e-5, atol=1e-5)


def test_sample_is_reparameterised() -> None:
    mean, sigma = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 0.5], requires_grad=True)
    noise = torch.tensor([-1.0, 2.0])
    sample = Gaussian(mean, sigma).sample(noise)
    sample.sum().backward()
    assert sample.tolist() == [-2.0, 3.0]
    assert mean.grad is not None
    assert sigma.grad is not None
    assert mean.grad.tolist() == [1.0, 1.0]
    assert sigma.grad.tolist() == [-1.0, 2.0]


def test_detach_cuts_mean_and_sigma() -> None:
    gaussian = Gaussian(torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)).detach()
    assert not gaussian.mean.requires_grad
    assert not gaussian.sigma.requires_grad


# -- softplus_inverse ----------------------------------------------------------------------------


@given(st.floats(-18.0, 9.0))
@settings(max_examples=200, deadline=None)
def test_softplus_inverse_round_trip_from_tiny_to_large(log_value: float) -> None:
    """From 1e-8 (a sigma at its clamp is e^-10) to 8000, where expm1 overflows long before."""
    value = torch.tensor(log_value).exp()
    inverse = softplus_inverse(value)
    # softplus in float64 is the reference: numpy's logaddexp(0, x) = log(1 + exp x).
    round_trip = np.logaddexp(0.0, float(inverse.double()))
    assert round_trip == pytest.approx(float(value), rel=1e-5)


def test_softplus_inverse_at_the_ends() -> None:
    values = torch.tensor([1e-30, 1.0, 1e4])
    expected = torch.tensor([np.log(1e-30), np.log(np.expm1(1.0)), 1e4], dtype=torch.float32)
    torch.testing.assert_close(softplus_inverse(values), expected, rtol=1e-6, atol=0)


# -- keyed generators ----------------------------------------------------------------------------


def test_torch_generator_depends_on_seed_and_key_alone() -> None:
    def draw(seed: int, *key: int | str) -> list[float]:
        return torch.rand(4, generator=torch_generator(seed, *key)).tolist()

    first = draw(0, "adapt", 1)
    torch.rand(10)  # the global generator has no part in it
    assert draw(0, "adapt", 1) == first
    others = [draw(1, "adapt", 1), draw(0, "adapt", 2), draw(0, "meta_train", 1), draw(0, "adapt", "1")]
    assert all(other != first for other in others)


# -- stacks --------------------------------------------------------------------------------------


def stacked(copies: int = COPIES, out_dim: int = OUT_DIM, **options: bool) -> StackedMLP:
    return StackedMLP(copies, IN_DIM, (8, 6), out_dim, torch_generator(0, "test"), **options)


def plain_copy(stack: StackedMLP, copy: int) -> nn.Sequential:
    """Copy ``copy`` of a stack as plain torch layers."""
    layers: list[nn.Module] = []
    for stacked_layer in stack.layers:
        assert isinstance(stacked_layer, StackedLinear)
        linear = nn.Linear(*stacked_layer.weight.shape[1:])
        linear.weight.data = stacked_layer.weight.data[copy].t().clone()
        linear.bias.data = stacked_layer.bias.data[copy, 0].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("out_dim", [1, OUT_DIM])
@pytest.mark.parametrize("copies", [1, 2, COPIES])
@pytest.mark.parametrize("frozen", [False, True])
def test_stacked_mlp_equals_a_loop_of_plain_networks_in_outputs_and_gradients(
    copies: int, frozen: bool, out_dim: int
) -> None:
    stack = stacked(copies, out_dim)
    inputs = torch.randn(copies, BATCH, IN_DIM, requires_grad=True)
    outputs = stack(inputs, frozen=frozen)
    outputs.square().sum().backward()
    assert inputs.grad is not None
    for copy in range(copies):
        plain = plain_copy(stack, copy)
        plain_inputs = inputs.detach()[copy].clone().requires_grad_()
        expected = plain(plain_inputs)
        expected.square().sum().backward()
        torch.testing.assert_close(outputs[copy], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(inputs.grad[copy], plain_inputs.grad, rtol=1e-4, atol=1e-6)
        if not frozen:
            for parameter, plain_parameter in zip(stack.parameters(), plain.parameters(), strict=True):
                assert parameter.grad is not None
                assert plain_parameter.grad is not None
                expected_gradient = (
                    plain_parameter.grad.t() if plain_parameter.ndim == 2 else plain_parameter.grad[None]
                )
                torch.testing.assert_close(parameter.grad[copy], expected_gradient, rtol=1e-4, atol=1e-6)


def test_copies_of_a_stack_are_independent() -> None:
    """Neither outputs nor gradients of copy 1 depend on the other copies' weights and inputs."""

    def output_and_gradients(stack: StackedMLP, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        output = stack(inputs)
        gradients = torch.autograd.grad(output.square().sum(), list(stack.parameters()))
        return output[1].detach(), [gradient[1] for gradient in gradients]

    stack, inputs = stacked(), torch.randn(COPIES, BATCH, IN_DIM)
    output, gradients = output_and_gradients(stack, inputs)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter[[0, 2]] = torch.randn_like(parameter[[0, 2]])
    inputs[[0, 2]] = torch.randn(2, BATCH, IN_DIM)
    other_output, other_gradients = output_and_gradients(stack, inputs)
    assert torch.equal(output, other_output)
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_copies_of_a_stack_start_different_and_within_torchs_default_bound() -> None:
    layer = StackedLinear(2, 100, 50, torch_generator(0, "test"))
    assert not torch.equal(layer.weight[0], layer.weight[1])
    for parameter in (layer.weight, layer.bias):
        assert float(parameter.detach().abs().max()) <= 100**-0.5
    # torch.nn.Linear draws from U(-1 / sqrt(in_dim), 1 / sqrt(in_dim)), of deviation bound / sqrt(3).
    assert float(layer.weight.detach().std()) == pytest.approx(100**-0.5 / 3**0.5, rel=0.03)
    assert float(layer.weight.detach().mean()) == pytest.approx(0.0, abs=3e-3)


def test_zero_output_makes_the_network_zero_but_keeps_its_hidden_layers() -> None:
    stack = stacked(zero_output=True)
    assert torch.equal(stack(torch.randn(COPIES, BATCH, IN_DIM)), torch.zeros(COPIES, BATCH, OUT_DIM))
    assert all(
        float(parameter.detach().abs().max()) > 0 for layer in stack.layers[:-1] for parameter in layer.parameters()
    )


def test_frozen_passes_gradient_to_inputs_and_none_to_weights() -> None:
    stack, inputs = stacked(), torch.randn(COPIES, BATCH, IN_DIM, requires_grad=True)
    stack(inputs, frozen=True).sum().backward()
    assert inputs.grad is not None
    assert float(inputs.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in stack.parameters())


def test_the_last_layer_stays_in_float32_under_bfloat16_autocast() -> None:
    """A value rounded to 1 part in 256 could not carry the small differences that TD learning lives on."""
    stack, inputs = stacked(), torch.randn(COPIES, BATCH, IN_DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = stack(inputs)
        last_inputs = torch.relu(stack.layers[1](torch.relu(stack.layers[0](inputs)))).float()
    last = stack.layers[-1]
    assert isinstance(last, StackedLinear)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, last_inputs @ last.weight + last.bias, rtol=1e-5, atol=1e-6)


# -- SPiRL's predictor ---------------------------------------------------------------------------


def predictor() -> BatchNormMLP:
    torch.manual_seed(0)
    network = BatchNormMLP(IN_DIM, hidden_dim=8, blocks=2, out_dim=OUT_DIM)
    randomise_batch_norms(network)
    return network


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_mlp_equals_numpy(training: bool) -> None:
    """linear -> LeakyReLU(0.2), then linear -> batch norm -> LeakyReLU(0.2) per block, then a plain linear head."""
    network, inputs = predictor().train(training), torch.randn(16, IN_DIM)
    assert len(network.linears) == 2
    hidden = inputs.double().numpy() @ network.input.weight.detach().numpy().T + network.input.bias.detach().numpy()
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    for linear, norm in zip(network.linears, network.norms, strict=True):
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        hidden = hidden @ linear.weight.detach().double().numpy().T
        mean = hidden.mean(0) if training else norm.running_mean.numpy()
        variance = hidden.var(0) if training else norm.running_var.numpy()
        hidden = (hidden - mean) / np.sqrt(variance + 1e-5) * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    expected = hidden @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()
    torch.testing.assert_close(network(inputs), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 16])
def test_folded_mlp_equals_batch_norm_mlp_in_evaluation_mode(batch: int) -> None:
    network, inputs = predictor().eval(), torch.randn(batch, IN_DIM)
    torch.testing.assert_close(FoldedMLP(network)(inputs).clone(), network(inputs).detach(), rtol=1e-5, atol=1e-6)


def test_folded_mlp_is_a_copy_that_later_training_does_not_move() -> None:
    network, inputs = predictor().eval(), torch.randn(3, IN_DIM)
    folded = FoldedMLP(network)
    before = folded(inputs).clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert torch.equal(folded(inputs), before)


def test_folded_mlp_reuses_a_buffer_per_batch_size_and_leaves_its_inputs_alone() -> None:
    folded = FoldedMLP(predictor().eval())
    inputs = torch.randn(4, IN_DIM)
    kept = inputs.clone()
    of_four = folded(inputs)
    first = of_four.clone()
    folded(torch.randn(2, IN_DIM))
    assert torch.equal(of_four, first), "another batch size has its own buffers"
    folded(torch.randn(4, IN_DIM))
    assert not torch.equal(of_four, first), "the next call with this batch size overwrites the result, as documented"
    assert torch.equal(inputs, kept)


def test_a_batch_in_parts_is_the_same_function_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = StackedMLP(2, 5, (16, 16), 3, torch_generator(0, "parts"))
    inputs = torch.randn((2, 1000, 5), generator=torch_generator(1, "parts"))
    weights = torch.randn((2, 1000, 3), generator=torch_generator(2, "parts"))
    found = []
    for rows_per_pass in (1000, 300):  # at once; in four parts, the last one shorter
        monkeypatch.setattr(StackedMLP, "ROWS_PER_PASS", rows_per_pass)
        networks.zero_grad()
        leaf = inputs.clone().requires_grad_()
        output = networks(leaf)
        (output * weights).sum().backward()
        assert leaf.grad is not None
        gradients = [parameter.grad.clone() for parameter in networks.parameters() if parameter.grad is not None]
        found.append([output.detach(), leaf.grad, *gradients])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
