"""Behaviour cloning: likelihood by hand, what is learned from, the frozen policy, resume, artefact."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.behavior_cloning import (
    BEHAVIOR_POLICY_FILE,
    BcConfig,
    BehaviorCloning,
    BehaviorPolicy,
    GaussianPolicyConfig,
    bc_losses,
    load_behavior_policy,
)
from algorithms.files import DamagedFileError
from envs.registry import task_distribution
from envs.trajectories import Trajectories, TrajectoryError
from tests.algorithm_helpers import (
    ACTION_DIM,
    OBSERVATION_DIM,
    differences,
    maze_trajectories,
    short_maze,
    stage_context,
    write_trajectories,
)

NETWORK = GaussianPolicyConfig(hidden_dim=16, hidden_layers=2)
CONFIG = BcConfig(updates=60, batch_size=32, held_out_fraction=0.2, policy=NETWORK)


def make_stage(
    folder: Path, config: BcConfig = CONFIG, trajectories: Trajectories | None = None, seed: int = 0
) -> BehaviorCloning:
    data = maze_trajectories(24) if trajectories is None else trajectories
    context = stage_context(short_maze(), {"data": write_trajectories(folder / "data", data)}, seed)
    return BehaviorCloning(config, context)


def train(stage: BehaviorCloning) -> BehaviorCloning:
    while not stage.finished:
        stage.advance()
    return stage


def numbered(lengths: list[int]) -> Trajectories:
    """Observations say (trajectory, env_step, 0, 0), actions (trajectory, env_step)."""
    rows = np.concatenate([np.stack([np.full(n, i), np.arange(n)], axis=1) for i, n in enumerate(lengths)])
    rows = rows.astype(np.float32)
    return Trajectories(np.hstack([rows, 0 * rows]), rows, np.cumsum(lengths))


# -- policy and loss ---------------------------------------------------------------------------------------


def test_likelihood_and_error_by_hand() -> None:
    """A network whose last layer ignores its input: mean (0.5, -1), sigma (e^-1, e^0.5)."""
    policy = BehaviorPolicy(NETWORK, OBSERVATION_DIM, ACTION_DIM)
    with torch.no_grad():
        policy.layers[-1].weight.zero_()
        policy.layers[-1].bias.copy_(torch.tensor([0.5, -1.0, -1.0, 0.5]))
    states, actions = torch.randn(2, OBSERVATION_DIM), torch.tensor([[1.0, 0.0], [0.5, -2.0]])
    losses = bc_losses(policy.requires_grad_(False), states, actions)
    nats = [
        0.5 * (0.5 / math.exp(-1)) ** 2 - 1 + 0.5 * (1 / math.exp(0.5)) ** 2 + 0.5 + math.log(2 * math.pi),
        -1 + 0.5 * (1 / math.exp(0.5)) ** 2 + 0.5 + math.log(2 * math.pi),
    ]
    assert float(losses.negative_log_likelihood) == pytest.approx(sum(nats) / 2, rel=1e-6)
    assert float(losses.squared_error) == pytest.approx((0.25 + 1 + 0 + 1) / 4, rel=1e-6)
    assert losses.total is losses.negative_log_likelihood


def test_the_network_is_a_plain_mlp_of_standardised_states() -> None:
    torch.manual_seed(0)
    policy = BehaviorPolicy(NETWORK, OBSERVATION_DIM, ACTION_DIM)
    policy.state_mean.normal_()
    policy.state_sigma.uniform_(0.5, 2.0)
    states = torch.randn(5, OBSERVATION_DIM)
    hidden = (states - policy.state_mean) / policy.state_sigma
    for layer in policy.layers[:-1]:
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    output = hidden @ policy.layers[-1].weight.T + policy.layers[-1].bias
    gaussian = policy.action_prior(states)
    torch.testing.assert_close(gaussian.mean, output[:, :ACTION_DIM])
    torch.testing.assert_close(gaussian.sigma, output[:, ACTION_DIM:].exp())
    torch.testing.assert_close(policy.prior_columns(states), torch.cat([gaussian.mean, gaussian.sigma], dim=1))
    assert (policy.latent_dim, policy.prior_dim) == (ACTION_DIM, 2 * ACTION_DIM)
    assert [name for name, _ in policy.named_buffers()] == ["state_mean", "state_sigma"], "no batch norm"


def test_sigma_is_clamped_on_both_sides() -> None:
    policy = BehaviorPolicy(NETWORK, OBSERVATION_DIM, ACTION_DIM)
    with torch.no_grad():
        policy.layers[-1].weight.zero_()
        policy.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, -50.0, 50.0]))
    sigma = policy.action_prior(torch.zeros(1, OBSERVATION_DIM)).sigma[0].tolist()
    assert sigma == pytest.approx([math.exp(NETWORK.min_log_sigma), math.exp(NETWORK.max_log_sigma)])


def test_one_sigma_for_all_states_is_a_parameter() -> None:
    config = dataclasses.replace(NETWORK, sigma="parameter", initial_sigma=0.3)
    policy = BehaviorPolicy(config, OBSERVATION_DIM, ACTION_DIM)
    gaussian = policy.action_prior(torch.randn(7, OBSERVATION_DIM))
    torch.testing.assert_close(gaussian.sigma, torch.full((7, ACTION_DIM), 0.3))
    assert gaussian.mean.shape == (7, ACTION_DIM)
    assert "log_sigma" in dict(policy.named_parameters())


# -- training ------------------------------------------------------------------------------------------------


def test_every_pair_of_the_training_trajectories_can_be_drawn_and_no_other(tmp_path: Path) -> None:
    """Short trajectories count too; of five, the last is held out."""
    stage = make_stage(tmp_path, trajectories=numbered([3, 1, 4, 2, 5]))
    drawn = set()
    for update in range(40):
        stage.updates = update
        states, actions = stage._batch()
        assert torch.equal(states[:, :2], actions), "a pair stays a pair"
        drawn |= {tuple(row) for row in actions.tolist()}
    assert drawn == {(i, t) for i, n in enumerate([3, 1, 4, 2]) for t in range(n)}
    expected = bc_losses(stage.model.requires_grad_(False), stage.states[10:], stage.actions[10:])
    numbers = stage.held_out_losses()
    assert numbers["held_out_negative_log_likelihood"] == pytest.approx(float(expected.total), rel=1e-5)


def test_states_are_standardised_by_the_whole_data_set_or_not_at_all(tmp_path: Path) -> None:
    states = maze_trajectories(24).observations.astype(np.float64)
    model = make_stage(tmp_path).model
    np.testing.assert_allclose(model.state_mean.numpy(), states.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.state_sigma.numpy(), states.std(0, ddof=1), rtol=1e-5)
    raw = make_stage(tmp_path / "raw", dataclasses.replace(CONFIG, standardise_states=False)).model
    assert (raw.state_mean.tolist(), raw.state_sigma.tolist()) == ([0.0] * 4, [1.0] * 4)


def test_a_known_gaussian_is_recovered(tmp_path: Path) -> None:
    """a = (s_0 + 0.2 n, 0.5 n): mean and sigma within a few hundredths, and the likelihood that of the truth."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(4000, 4)).astype(np.float32)
    noise = rng.normal(size=(4000, 2)) * [0.2, 0.5]
    actions = (noise + np.stack([states[:, 0], np.zeros(4000)], axis=1)).astype(np.float32)
    data = Trajectories(states, actions, np.arange(1, 41) * 100)
    config = dataclasses.replace(CONFIG, updates=1500, batch_size=256, learning_rate=3e-3)
    stage = train(make_stage(tmp_path, config, data))
    gaussian = stage.model.requires_grad_(False).action_prior(torch.from_numpy(states[:500]))
    assert float((gaussian.mean[:, 0] - torch.from_numpy(states[:500, 0])).abs().mean()) < 0.05
    assert gaussian.sigma.mean(0).tolist() == pytest.approx([0.2, 0.5], rel=0.1)
    truth = math.log(2 * math.pi * math.e) + math.log(0.2 * 0.5)
    assert stage.held_out_losses()["held_out_negative_log_likelihood"] == pytest.approx(truth, abs=0.12)


def test_learning_rate_falls_linearly(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    for done, fraction in ((0, 1.0), (30, 0.55)):
        stage.updates = done
        stage._update()
        assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(CONFIG.learning_rate * fraction)


# -- resume, determinism, artefact ---------------------------------------------------------------------------


def test_artefact_holds_the_frozen_policy_its_picture_and_the_manifests_numbers(tmp_path: Path) -> None:
    distribution = dataclasses.replace(short_maze(20), draw_paths=task_distribution("maze").draw_paths)
    data = write_trajectories(tmp_path / "data", maze_trajectories(24))
    stage = train(BehaviorCloning(CONFIG, stage_context(distribution, {"data": data})))
    numbers = stage.write_artefact(tmp_path)
    policy = load_behavior_policy(tmp_path)
    assert differences(policy.state_dict(), stage.model.state_dict()) == []
    assert not policy.training
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    assert set(numbers) == {
        "held_out_negative_log_likelihood", "held_out_squared_error", "updates",
        "rollout_wall_contact_rate", "rollout_cells_visited", "rollout_covered",
    }  # fmt: skip
    assert 0.0 < numbers["rollout_covered"] <= 1.0
    assert all(np.isfinite(value) for value in numbers.values())
    assert (tmp_path / "bc_rollouts.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_artefact_is_refused(tmp_path: Path) -> None:
    (tmp_path / BEHAVIOR_POLICY_FILE).write_bytes(b"not a file of tensors")
    with pytest.raises(DamagedFileError, match=BEHAVIOR_POLICY_FILE):
        load_behavior_policy(tmp_path)


def test_bad_data_is_refused(tmp_path: Path) -> None:
    good = maze_trajectories(24)
    with_nan = Trajectories(good.observations.copy(), good.actions, good.episode_ends)
    with_nan.observations[7, 2] = np.nan
    with pytest.raises(TrajectoryError, match="row 7 holds NaN"):
        make_stage(tmp_path / "nan", trajectories=with_nan)
    with pytest.raises(ValueError, match="1 trajectories; need 2 or more to hold one out"):
        make_stage(tmp_path / "one", trajectories=numbered([5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": 0}, "updates is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"held_out_fraction": 1.0}, "held_out_fraction is 1.0"),
    ],
)
def test_a_bad_configuration_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change).validate()


def test_a_bad_network_is_refused() -> None:
    with pytest.raises(ValueError, match="min_log_sigma is 3; valid is below max_log_sigma 2"):
        dataclasses.replace(NETWORK, min_log_sigma=3).validate()
