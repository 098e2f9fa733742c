"""The flow prior: densities against differences and grids, that it is a bijection, and what it can fit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from algorithms.flow_prior import FlowPrior
from algorithms.networks import Gaussian
from algorithms.skill_model import SkillConfig, SkillModel, skill_losses
from tests.algorithm_helpers import randomise_batch_norms

SEEN, LATENT = 3, 5
CLAMP = (-10.0, 2.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_flow(latent_dim: int = LATENT) -> FlowPrior:
    """Far from the identity."""
    flow = FlowPrior(SEEN, 8, 2, latent_dim, CLAMP)
    randomise_batch_norms(flow)
    for layer in flow.second:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.4)
    return flow.double().eval()


def random_inputs(count: int, latent_dim: int = LATENT) -> tuple[Tensor, Tensor]:
    return torch.randn(count, SEEN, dtype=torch.float64), torch.randn(count, latent_dim, dtype=torch.float64)


@pytest.mark.parametrize("latent_dim", [2, 3, LATENT, 10])
def test_skill_and_base_are_each_others_inverse(latent_dim: int) -> None:
    flow, (seen, base) = make_flow(latent_dim), random_inputs(40, latent_dim)
    skills = flow.skills(seen, base)
    assert float((skills - base).abs().max().detach()) > 0.5
    torch.testing.assert_close(flow.base(seen, skills)[0], base)
    torch.testing.assert_close(flow.skills(seen, flow.base(seen, base)[0]), base)


def test_density_is_that_of_the_base_over_the_determinant_of_the_jacobian() -> None:
    """log p(z) = log N(u; 0, I) - log |det dz/du|, with the Jacobian by automatic differentiation."""
    flow, (seen, base) = make_flow(), random_inputs(6)
    skills = flow.skills(seen, base)
    for row in range(len(seen)):

        def of_base(u: Tensor, row: int = row) -> Tensor:
            return flow.skills(seen[row : row + 1], u[None])[0]

        log_det = torch.linalg.slogdet(jacobian(of_base, base[row])).logabsdet
        normal = -0.5 * float(base[row].square().sum()) - 0.5 * LATENT * math.log(2 * math.pi)
        density = -flow.negative_log_likelihood(seen[row : row + 1], skills[row : row + 1])
        assert float(density.detach()) == pytest.approx(normal - float(log_det), rel=1e-9)


def test_it_integrates_to_one() -> None:
    flow = make_flow(2)
    seen = torch.randn(1, SEEN, dtype=torch.float64)
    samples = flow.skills(seen.expand(20_000, -1), torch.randn(20_000, 2, dtype=torch.float64)).detach()
    low, high = samples.amin(0) - 2, samples.amax(0) + 2
    axes = [torch.linspace(float(a), float(b), 800, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    with torch.no_grad():
        density = torch.cat(
            [(-flow.negative_log_likelihood(seen.expand(len(p), -1), p)).exp() for p in grid.split(250_000)]
        )
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    assert float(density.sum()) * cell == pytest.approx(1.0, abs=0.01)


def test_it_starts_as_a_gaussian() -> None:
    torch.manual_seed(3)
    flow = FlowPrior(SEEN, 8, 2, LATENT, CLAMP).double().eval()
    seen, skills = random_inputs(30)
    mean, log_sigma = flow.trunk(seen)[:, : 2 * LATENT].chunk(2, dim=-1)
    gaussian = Gaussian(mean, log_sigma.exp())
    expected = gaussian.negative_log_likelihood(skills).sum(-1)
    torch.testing.assert_close(flow.negative_log_likelihood(seen, skills), expected)


def test_kl_of_policies_is_the_same_before_and_after_the_flow() -> None:
    """Why a policy may choose u: E_q[log q - log p] in z, by sampling, is the closed KL(q, N(0, I)) in u."""
    flow, seen = make_flow(), torch.randn(1, SEEN, dtype=torch.float64).expand(40_000, -1)
    policy = Gaussian(torch.full((LATENT,), 0.7, dtype=torch.float64), torch.full((LATENT,), 0.6, dtype=torch.float64))
    base = policy.sample(torch.randn(40_000, LATENT, dtype=torch.float64))
    with torch.no_grad():
        skills = flow.skills(seen, base)
        recovered, log_det = flow.base(seen, skills)
        log_policy = -policy.negative_log_likelihood(recovered).sum(-1) + log_det  # density of the policy in z
        sampled = log_policy + flow.negative_log_likelihood(seen, skills)
    assert float(sampled.mean()) == pytest.approx(float(policy.kl_to_unit()), rel=0.02)


def ways(count: int) -> Tensor:
    """Skills at a junction: about (-2, 0) or about (2, 1), each as often, spread 0.1."""
    centres = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    return centres[torch.randint(2, (count,))] + 0.1 * torch.randn(count, 2)


def test_it_learns_two_ways_at_a_junction_which_a_gaussian_cannot() -> None:
    """The entropy of the mixture, in nats, is the least NLL there is; a Gaussian's least is that of its moments."""
    flow = FlowPrior(SEEN, 16, 1, 2, CLAMP)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    seen = torch.ones(256, SEEN) + 0.1 * torch.randn(256, SEEN)
    for _ in range(1500):
        loss = flow.negative_log_likelihood(seen, ways(256)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = ways(4000)
    least = math.log(2) + 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    gaussian = float(held_out.std(0).log().sum()) + math.log(2 * math.pi * math.e)  # of a diagonal one
    with torch.no_grad():
        flow.eval()
        reached = float(flow.negative_log_likelihood(seen[:1].expand(4000, -1), held_out).mean())
        drawn = flow.skills(seen[:1].expand(4000, -1), torch.randn(4000, 2))
    assert least - 0.1 < reached < least + 1.0
    assert gaussian > reached + 2.0
    assert float((drawn[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert float((drawn[:, 0].abs() < 1.0).float().mean()) < 0.2  # few skills between the ways; of a Gaussian, 0.38


# -- in the skill model --------------------------------------------------------------------------------------------

CONFIG = SkillConfig(skill_length=5, latent_dim=3, hidden_dim=8, decoder_layers=2, prior_layers=2, prior="flow")


def make_model() -> SkillModel:
    model = SkillModel(CONFIG, 4, 2)
    randomise_batch_norms(model)
    assert isinstance(model.prior, FlowPrior)
    for layer in model.prior.second:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


def crops() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(6, 5, 4), torch.rand(6, 5, 2) * 2 - 1, torch.randn(6, 3)


def test_the_prior_loss_is_the_likelihood_of_the_sampled_skill_at_the_first_state() -> None:
    model, (states, actions, noise) = make_model(), crops()
    assert isinstance(model.prior, FlowPrior)
    latents = model.encode(states, actions).sample(noise)
    expected = model.prior.negative_log_likelihood(states[:, 0], latents).mean()
    torch.testing.assert_close(skill_losses(model, states, actions, noise).prior, expected)


@pytest.mark.parametrize(
    ("loss", "learns"), [("reconstruction", {"encoder", "decoder"}), ("encoder_kl", {"encoder"}), ("prior", {"prior"})]
)
def test_who_gets_gradient_from_what(loss: str, learns: set[str]) -> None:
    model = make_model().train()
    getattr(skill_losses(model, *crops()), loss).backward()
    networks = {"encoder": [model.encoder], "decoder": [model.decoder], "prior": [model.prior]}
    learning = {
        name
        for name, modules in networks.items()
        if any(p.grad is not None and bool(p.grad.any()) for module in modules for p in module.parameters())
    }
    assert learning == learns
    if loss == "prior":
        assert [name for name, p in model.prior.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_a_high_level_policy_chooses_in_the_base_where_the_prior_is_n_0_i() -> None:
    model, (states, _, _) = make_model(), crops()
    assert isinstance(model.prior, FlowPrior)
    prior = model.skill_prior(states[:, 0])
    assert torch.equal(prior.mean, torch.zeros(6, 3))
    assert torch.equal(prior.sigma, torch.ones(6, 3))
    assert torch.equal(model.prior_columns(states[:, 0]), torch.cat([torch.zeros(6, 3), torch.ones(6, 3)], dim=1))
    base = torch.randn(6, 3)
    latents = model.latents(states[:, 0], base)
    torch.testing.assert_close(latents, model.prior.skills(states[:, 0], base))
    nll = model.prior_negative_log_likelihood(states[:, 0], latents)
    torch.testing.assert_close(nll, model.prior.negative_log_likelihood(states[:, 0], latents))


def test_a_gaussian_prior_is_over_the_skill_itself() -> None:
    torch.manual_seed(0)
    model = SkillModel(dataclasses.replace(CONFIG, prior="gaussian"), 4, 2).eval()
    states, skills = torch.randn(6, 4), torch.randn(6, 3)
    assert model.latents(states, skills) is skills
    mean, sigma = (part.detach().double().numpy() for part in model.skill_prior(states))
    z = skills.double().numpy()
    expected = (0.5 * ((z - mean) / sigma) ** 2 + np.log(sigma) + 0.5 * np.log(2 * np.pi)).sum(1)
    np.testing.assert_allclose(
        model.prior_negative_log_likelihood(states, skills).detach().numpy(), expected, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"prior_loss": "kl"}, "prior_loss is 'kl'; valid with a flow"), ({"latent_dim": 1}, "latent_dim is 1; valid")],
)
def test_what_a_flow_cannot_do_is_refused(changes: dict[str, object], message: str) -> None:
    CONFIG.validate()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes).validate()  # type: ignore[arg-type]
