"""The skill model and its losses against numpy.

Axes: B batch, K env_steps of a skill, D feature, Z latent dimension.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.files import DamagedFileError, save_tensors
from algorithms.presets import SKILL_PRESETS
from algorithms.skill_model import SKILL_MODEL_FILE, SkillConfig, SkillModel, load_skill_model, skill_losses
from tests.algorithm_helpers import randomise_batch_norms, write_skills

BATCH, OBSERVATION_DIM, ACTION_DIM = 6, 4, 2
CONFIG = SkillConfig(
    skill_length=5, latent_dim=3, hidden_dim=8, encoder_output_dim=6, decoder_layers=2, prior_layers=2, kl_weight=0.03,
)  # fmt: skip

Array = NDArray[np.float64]
PriorLoss = Literal["nll", "kl"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_model(prior_loss: PriorLoss = "nll", standardise: bool = True) -> SkillModel:
    model = SkillModel(dataclasses.replace(CONFIG, prior_loss=prior_loss), OBSERVATION_DIM, ACTION_DIM)
    randomise_batch_norms(model)
    if standardise:
        model.state_mean.copy_(torch.tensor([10.0, 9.0, 0.5, -0.5]))
        model.state_sigma.copy_(torch.tensor([5.0, 4.0, 1.5, 2.0]))
    return model.eval()


def crops() -> tuple[Tensor, Tensor, Tensor]:
    """States (B, K, D) about where the maze's are, actions (B, K, A), noise (B, Z)."""
    states = torch.randn(BATCH, CONFIG.skill_length, OBSERVATION_DIM) * 3 + torch.tensor([10.0, 9.0, 0.0, 0.0])
    return states, torch.rand(BATCH, CONFIG.skill_length, ACTION_DIM) * 2 - 1, torch.randn(BATCH, CONFIG.latent_dim)


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


# -- the three networks ------------------------------------------------------------------------------


def linear(layer: nn.Module, inputs: Array) -> Array:
    return np.asarray(inputs @ array(layer.weight).T + array(layer.bias))  # type: ignore[arg-type]


def test_encoder_equals_a_linear_layer_an_lstm_over_action_and_state_and_two_linear_layers_at_its_last_step() -> None:
    model, (states, actions, _) = make_model(), crops()
    encoder = model.encoder
    w_in, w_hidden, b_in, b_hidden = (
        array(getattr(encoder.cell, name)) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    )
    standardised = (array(states) - array(model.state_mean)) / array(model.state_sigma)
    inputs = linear(encoder.input, np.concatenate([array(actions), standardised], axis=-1))
    hidden, cell = np.zeros((BATCH, CONFIG.hidden_dim)), np.zeros((BATCH, CONFIG.hidden_dim))
    for env_step in range(CONFIG.skill_length):
        gates = inputs[:, env_step] @ w_in.T + b_in + hidden @ w_hidden.T + b_hidden
        into, forget, candidate, out = np.split(gates, 4, axis=1)
        cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(candidate)
        hidden = sigmoid(out) * np.tanh(cell)
    narrow = linear(encoder.output, hidden)
    assert narrow.shape == (BATCH, 6)
    mean, log_sigma = np.split(linear(encoder.head, narrow), 2, axis=1)
    posterior = model.encode(states, actions)
    np.testing.assert_allclose(array(posterior.mean), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(array(posterior.sigma), np.exp(log_sigma), rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "decoder", "prior", "encoder_output_dim"),
    [("maze", (5, 3), (8, 6), 32), ("kitchen", (7, 5), (8, 6), 128)],
)
def test_networks_are_as_deep_as_spirls(
    family: str, decoder: tuple[int, int], prior: tuple[int, int], encoder_output_dim: int
) -> None:
    """(linear layers, batch norms) of released SPiRL, closed loop; its encoder is linear, LSTM, linear, linear."""
    values = {name.removeprefix("skills."): value for name, value in SKILL_PRESETS[family, "paper"].items()}
    model = SkillModel(dataclasses.replace(SkillConfig(), **values), 7, 3)

    def count(network: nn.Module, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in network.modules())

    assert (count(model.decoder, nn.Linear), count(model.decoder, nn.BatchNorm1d)) == decoder
    assert (count(model.prior, nn.Linear), count(model.prior, nn.BatchNorm1d)) == prior
    assert (count(model.encoder, nn.Linear), count(model.encoder, nn.LSTM)) == (3, 1)
    assert [tuple(layer.weight.shape) for layer in (model.encoder.input, model.encoder.output, model.encoder.head)] == [
        (128, 10), (encoder_output_dim, 128), (20, encoder_output_dim),
    ]  # fmt: skip


def test_networks_start_as_spirls() -> None:
    """Predictors xavier-normal with zero bias; both biases of the LSTM's forget gates at 1."""
    model = SkillModel(SkillConfig(hidden_dim=128), 64, 2)
    linears = [m for m in [*model.decoder.modules(), *model.prior.modules()] if isinstance(m, nn.Linear)]
    assert len(linears) == 5 + 8
    for layer in linears:
        fan_out, fan_in = layer.weight.shape
        assert float(layer.weight.detach().std()) == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.15)
        assert layer.bias is None or not bool(layer.bias.any())
    largest = max(float(layer.weight.detach().abs().max()) / float(layer.weight.detach().std()) for layer in linears)
    assert largest > 3.0, "normal, not uniform"
    for bias in (model.encoder.cell.bias_ih_l0, model.encoder.cell.bias_hh_l0):
        assert bool((bias[128:256] == 1.0).all())
        assert not bool((bias[:128] == 1.0).any())
        assert not bool((bias[256:] == 1.0).any())


def test_states_are_standardised_before_every_network() -> None:
    """A model that standardises equals one without, given standardised states."""
    model, plain, (states, actions, noise) = make_model(), make_model(standardise=False), crops()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("state_")}, strict=False)
    standard = (states - model.state_mean) / model.state_sigma
    for got, expected in (
        (model.encode(states, actions), plain.encode(standard, actions)),
        (model.skill_prior(states[:, 0]), plain.skill_prior(standard[:, 0])),
        ((model.decode(states[:, 0], noise),), (plain.decode(standard[:, 0], noise),)),
    ):
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bias", "log_sigma"), [(-100.0, -10.0), (-10.5, -10.0), (1.5, 1.5), (2.5, 2.0), (100.0, 2.0)])
def test_log_sigma_of_prior_and_encoder_is_clamped(bias: float, log_sigma: float) -> None:
    model, (states, actions, _) = make_model(), crops()
    with torch.no_grad():
        for head in (model.prior.head, model.encoder.head):
            head.weight.zero_()
            head.bias[CONFIG.latent_dim :] = bias
    for gaussian in (model.skill_prior(states[:, 0]), model.encode(states, actions)):
        torch.testing.assert_close(gaussian.sigma, torch.full_like(gaussian.sigma, log_sigma).exp(), rtol=1e-5, atol=0)


def test_prior_columns_are_the_priors_mean_and_sigma_without_gradient() -> None:
    model, (states, _, _) = make_model(), crops()
    columns, prior = model.prior_columns(states[:, 0]), model.skill_prior(states[:, 0])
    assert not columns.requires_grad
    assert torch.equal(columns[:, : CONFIG.latent_dim], prior.mean)
    assert torch.equal(columns[:, CONFIG.latent_dim :], prior.sigma)


# -- losses -----------------------------------------------------------------------------------------------


def squared_errors(model: SkillModel, states: Tensor, actions: Tensor, latents: Tensor) -> Array:
    """(B, K, A), one crop and env_step at a time: each is decoded at its own state under its crop's latent."""
    errors = np.zeros((BATCH, CONFIG.skill_length, ACTION_DIM))
    for crop in range(BATCH):
        for env_step in range(CONFIG.skill_length):
            decoded = model.decode(states[crop, env_step][None], latents[crop][None])[0]
            errors[crop, env_step] = array(decoded - actions[crop, env_step]) ** 2
    return errors


@pytest.mark.parametrize("prior_loss", ["nll", "kl"])
def test_losses_equal_numpy(prior_loss: PriorLoss) -> None:
    model, (states, actions, noise) = make_model(prior_loss), crops()
    losses = skill_losses(model, states, actions, noise)

    posterior, prior = model.encode(states, actions), model.skill_prior(states[:, 0])
    mean, sigma, prior_mean, prior_sigma = (array(t) for t in (*posterior, *prior))
    latents = mean + sigma * array(noise)
    errors = squared_errors(model, states, actions, torch.from_numpy(latents).float())
    density_of_actions = np.exp(-errors / 2) / np.sqrt(2 * np.pi)
    reconstruction = -np.log(density_of_actions).mean() - 0.5 * np.log(2 * np.pi)
    encoder_kl = (0.5 * (sigma**2 + mean**2 - 1) - np.log(sigma)).mean()
    if prior_loss == "nll":
        density = np.exp(-0.5 * ((latents - prior_mean) / prior_sigma) ** 2) / (prior_sigma * np.sqrt(2 * np.pi))
        prior_term = -np.log(density).sum(1).mean()
    else:
        prior_term = (
            (np.log(prior_sigma / sigma) + (sigma**2 + (mean - prior_mean) ** 2) / (2 * prior_sigma**2) - 0.5)
            .sum(1)
            .mean()
        )
    assert float(losses.reconstruction.detach()) == pytest.approx(reconstruction, rel=1e-5)
    assert float(losses.encoder_kl.detach()) == pytest.approx(encoder_kl, rel=1e-5)
    assert float(losses.prior.detach()) == pytest.approx(prior_term, rel=1e-5)
    assert float(losses.total.detach()) == pytest.approx(reconstruction + 0.03 * encoder_kl + prior_term, rel=1e-5)


def test_paper_and_released_prior_losses_agree_in_expectation() -> None:
    """E_q[-log p(z)] = KL(q, p) + entropy of q, so they differ by something the prior cannot change."""
    draws = 4000
    states, actions, _ = crops()
    model = make_model("nll")
    many = [tensor[:1].expand(draws, -1, -1) for tensor in (states, actions)]
    nll = float(skill_losses(model, many[0], many[1], torch.randn(draws, CONFIG.latent_dim)).prior.detach())
    kl_model = make_model("kl")
    kl_model.load_state_dict(model.state_dict())
    kl = float(skill_losses(kl_model, states[:1], actions[:1], torch.zeros(1, CONFIG.latent_dim)).prior.detach())
    sigma = array(model.encode(states[:1], actions[:1]).sigma)
    entropy = (0.5 * np.log(2 * np.pi * np.e) + np.log(sigma)).sum()
    assert nll == pytest.approx(kl + entropy, rel=0.03)


@pytest.mark.parametrize("prior_loss", ["nll", "kl"])
@pytest.mark.parametrize(
    ("loss", "learns"),
    [
        ("reconstruction", {"encoder", "decoder"}),
        ("encoder_kl", {"encoder"}),
        ("prior", {"prior"}),
        ("total", {"encoder", "decoder", "prior"}),
    ],
)
def test_who_gets_gradient_from_what(prior_loss: PriorLoss, loss: str, learns: set[str]) -> None:
    """The prior follows the encoder and never the reverse (stop-gradient)."""
    model = make_model(prior_loss).train()
    getattr(skill_losses(model, *crops()), loss).backward()
    networks: dict[str, nn.Module] = {
        "encoder": model.encoder,
        "decoder": model.decoder,
        "prior": model.prior,
    }
    learning = {
        name
        for name, network in networks.items()
        if any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    }
    assert learning == learns


def test_the_prior_sees_only_the_first_state_of_a_skill() -> None:
    model, (states, actions, noise) = make_model("kl"), crops()
    before = skill_losses(model, states, actions, noise).prior
    posterior = model.encode(states, actions)
    prior = model.skill_prior(states[:, 0])
    torch.testing.assert_close(before, posterior.kl(prior).mean())
    last_state_prior = model.skill_prior(states[:, -1])
    assert abs(float((before - posterior.kl(last_state_prior).mean()).detach())) > 1e-3


# -- artefact -----------------------------------------------------------------------------------------------


def test_a_loaded_skill_model_is_the_saved_one_frozen_in_evaluation_mode(tmp_path: Path) -> None:
    model = make_model().train()
    save_tensors(
        tmp_path / SKILL_MODEL_FILE,
        {
            "config": dataclasses.asdict(model.config),
            "observation_dim": OBSERVATION_DIM,
            "action_dim": ACTION_DIM,
            "model": model.state_dict(),
        },
    )
    loaded = load_skill_model(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    states = crops()[0][:, 0]
    model.eval()
    assert torch.equal(loaded.skill_prior(states).mean, model.skill_prior(states).mean)
    assert torch.equal(loaded.standardise(states), model.standardise(states))


def test_acting_never_moves_the_batch_norm_statistics(tmp_path: Path) -> None:
    model = load_skill_model(write_skills(tmp_path / "skills"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.skill_prior(torch.randn(20, OBSERVATION_DIM) * 50)
    model.decode(torch.randn(20, OBSERVATION_DIM) * 50, torch.randn(20, model.config.latent_dim))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_skill_model_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=SKILL_MODEL_FILE):
        load_skill_model(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("skill_length", 0), ("latent_dim", -1), ("hidden_dim", 0), ("passes", 10**8), ("batch_size", 0),
     ("held_out_fraction", 0.0), ("held_out_fraction", 1.0)],
)  # fmt: skip
def test_absurd_configurations_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        dataclasses.replace(CONFIG, **{field: value}).validate()  # type: ignore[arg-type]
    CONFIG.validate()
