"""The skills stage on tiny data: crops, what is learned from, gradient clipping, resume, artefact."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.budget import Budget, Scale
from algorithms.skill_model import SkillConfig, load_skill_model, skill_losses
from algorithms.skills import STARTS_LEFT_OUT, CropSampler, SkillTraining
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

CONFIG = SkillConfig(
    skill_length=10, hidden_dim=8, decoder_layers=1, prior_layers=1, latent_dim=2, passes=40, batch_size=8,
    held_out_fraction=0.2, clipped_updates=5,
)  # fmt: skip


def numbered_trajectories(lengths: list[int]) -> Trajectories:
    """Observations say (trajectory, env_step) and actions (trajectory + 0.5, env_step + 0.5)."""
    rows = np.concatenate([np.stack([np.full(n, i), np.arange(n)], axis=1) for i, n in enumerate(lengths)])
    return Trajectories(rows.astype(np.float32), rows.astype(np.float32) + 0.5, np.cumsum(lengths))


def crops_of_the_maze(count: int, env_steps: int) -> Trajectories:
    """The same ``env_steps`` out of ``count`` trajectories of the maze."""
    parts = maze_trajectories(24).split()[:count]
    return Trajectories(
        np.concatenate([observations[30 : 30 + env_steps] for observations, _ in parts]),
        np.concatenate([actions[30 : 30 + env_steps] for _, actions in parts]),
        np.arange(1, count + 1) * env_steps,
    )


def make_stage(
    folder: Path, config: SkillConfig = CONFIG, trajectories: Trajectories | None = None, seed: int = 0
) -> SkillTraining:
    data = crops_of_the_maze(20, 30) if trajectories is None else trajectories
    return SkillTraining(config, stage_context(short_maze(), {"data": write_trajectories(folder / "data", data)}, seed))


def train(stage: SkillTraining) -> SkillTraining:
    while not stage.finished:
        stage.advance()
    return stage


# -- crops ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_crops_never_cross_the_end_of_a_trajectory(lengths: list[int], crop_length: int, seed: int) -> None:
    usable = [index for index, length in enumerate(lengths) if length >= crop_length + 1]
    if len(usable) < 2:
        with pytest.raises(ValueError, match=f"{len(usable)} trajectories of at least {crop_length + 1} steps"):
            CropSampler(numbered_trajectories(lengths), crop_length, 0.2)
        return
    sampler = CropSampler(numbered_trajectories(lengths), crop_length, 0.2)
    chosen = torch.cat([sampler.training, sampler.held_out])
    uniform = torch.rand(len(chosen), generator=torch.Generator().manual_seed(seed))
    for position in (uniform, torch.zeros(len(chosen)), torch.full((len(chosen),), 1 - 2.0**-24)):
        states, actions = sampler.crops(chosen, position)
        assert states.shape == actions.shape == (len(usable), crop_length, 2)
        for row, trajectory in enumerate(usable):
            first = int(states[row, 0, 1])
            expected = [[trajectory, env_step] for env_step in range(first, first + crop_length)]
            assert states[row].tolist() == expected
            assert first + crop_length + 1 <= lengths[trajectory], "the state after the skill is in the trajectory"
        assert torch.equal(actions, states + 0.5)


@pytest.mark.parametrize(("crops", "left_out"), [("one_per_trajectory", 1), ("by_transitions", 3)])
def test_every_crop_of_a_trajectory_is_equally_likely(crops: str, left_out: int) -> None:
    """Crops of 11 states: of 24, one could begin at 14 places; SPiRL's kitchen loader leaves out the last two."""
    sampler = CropSampler(numbered_trajectories([13, 13, 24, 10]), 10, 0.2, STARTS_LEFT_OUT[crops])
    uniform = (torch.arange(420) + 0.5) / 420
    for trajectory, starts in ((0, 4 - left_out), (2, 15 - left_out)):
        states, _ = sampler.crops(torch.full((420,), trajectory), uniform)
        assert torch.bincount(states[:, 0, 1].long()).tolist() == [420 // starts] * starts


def test_a_pass_by_transitions_is_counted_as_spirls_kitchen_loader_counts(tmp_path: Path) -> None:
    """0.99 x 123,202 / 11 = 11,088.18 crops, 86 batches of 128, the last crops left out; here 0.8 x 600 / 11 = 43."""
    config = dataclasses.replace(CONFIG, crops="by_transitions")
    stage = make_stage(tmp_path, config)
    assert len(stage.sampler.states) == 600
    assert (stage.updates_per_pass, stage.total_updates) == (5, 200)
    kitchen = SkillConfig(crops="by_transitions", held_out_fraction=0.01, passes=5000)
    assert kitchen.updates_per_pass(594, 123_202) == 86
    budget = kitchen.budget(
        Scale(tasks=0, episode_env_steps=280, skill_length=10, trajectories=600, transitions=123_202)
    )
    assert budget == Budget(updates=430_000, rows=430_000 * 128)


def test_crops_by_transitions_are_of_trajectories_drawn_anew(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, crops="by_transitions", batch_size=500))
    states, _, _ = stage._batch()
    at = (states[:, 0, None, :] == stage.sampler.states[None]).all(-1).float().argmax(-1)
    counts = torch.bincount(at // 30, minlength=20)
    assert counts[16:].tolist() == [0] * 4, "held out"
    assert 10 < int(counts[:16].min()) < int(counts[:16].max()) < 60, "31 each on average, with replacement"
    assert int((at % 30).max()) == 30 - 10 - 3


def test_training_and_held_out_trajectories_share_nothing() -> None:
    sampler = CropSampler(numbered_trajectories([11, 3, 11, 13, 11, 12]), 10, 0.4)
    assert sampler.training.tolist() == [0, 1, 2], "trajectory 1 of 6 is too short, 2 of the other 5 are held out"
    states, _ = sampler.crops(sampler.held_out, torch.zeros(2))
    assert states[:, 0, 0].tolist() == [4.0, 5.0]


def test_at_least_one_trajectory_is_held_out() -> None:
    assert len(CropSampler(numbered_trajectories([11, 11, 11]), 10, 0.001).held_out) == 1


# -- training --------------------------------------------------------------------------------------------


def test_a_pass_visits_every_training_trajectory_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    orders = []
    for _ in range(2):
        visited: list[int] = []
        for _ in range(stage.updates_per_pass):
            states, _, _ = stage._batch()
            at = (states[:, :, None, :] == stage.sampler.states[None, None]).all(-1).float().argmax(-1)
            assert torch.equal(at[:, 1:] - at[:, :-1], torch.ones_like(at[:, 1:]))
            visited += (at[:, 0] // 30).tolist()
            stage.updates += 1
        assert sorted(visited) == list(range(16)), "16 of 20 trajectories are trained on"
        orders.append(visited)
    assert orders[0] != orders[1]
    assert stage.updates_per_pass == 2
    assert stage.total_updates == CONFIG.passes * 2


def test_states_are_standardised_by_the_whole_data_set(tmp_path: Path) -> None:
    """Held-out trajectories included, as the field says; they enter no batch (below)."""
    data = crops_of_the_maze(20, 30)
    model = make_stage(tmp_path, dataclasses.replace(CONFIG, standardise_states=True), data).model
    states = data.observations.astype(np.float64)
    np.testing.assert_allclose(model.state_mean.numpy(), states.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.state_sigma.numpy(), states.std(0, ddof=1), rtol=1e-5)


def test_a_state_that_hardly_varies_is_not_blown_up(tmp_path: Path) -> None:
    """A joint at rest shows sensor noise alone: a bump of 0.001 in a roll-out must not become a thousand deviations."""
    data = crops_of_the_maze(20, 30)
    observations = data.observations.copy()
    observations[:, 3] = 0.25 + 1e-5 * np.random.default_rng(0).standard_normal(len(observations))
    still = Trajectories(observations, data.actions, data.episode_ends)
    model = make_stage(tmp_path, dataclasses.replace(CONFIG, standardise_states=True), still).model
    bumped = torch.tensor([[0.0, 0.0, 0.0, 0.251]])
    assert float(model.standardise(bumped)[0, 3]) == pytest.approx(0.1, abs=0.01)


def test_held_out_trajectories_are_never_trained_on(tmp_path: Path) -> None:
    """Whatever they hold, the model is the same bit for bit."""
    config = dataclasses.replace(CONFIG, standardise_states=False)
    data = crops_of_the_maze(20, 30)
    first_held_out_row = 16 * 30
    rng = np.random.default_rng(0)
    other_observations, other_actions = data.observations.copy(), data.actions.copy()
    other_observations[first_held_out_row:] = rng.normal(size=(4 * 30, OBSERVATION_DIM)) * 100
    other_actions[first_held_out_row:] = rng.normal(size=(4 * 30, ACTION_DIM)) * 100
    other = Trajectories(other_observations, other_actions, data.episode_ends)
    model = train(make_stage(tmp_path / "data", config, data)).model
    other_model = train(make_stage(tmp_path / "other", config, other)).model
    assert differences(model.state_dict(), other_model.state_dict()) == []


def test_training_overfits_a_tiny_data_set(tmp_path: Path) -> None:
    """One crop per trajectory: reconstruction falls to a fraction of the actions' variance, and the prior learns
    which skill follows which state."""
    data = crops_of_the_maze(17, 11)
    config = dataclasses.replace(
        CONFIG, hidden_dim=32, decoder_layers=3, prior_layers=2, latent_dim=6, passes=400, batch_size=16,
        learning_rate=1e-2, kl_weight=1e-4, standardise_states=True, held_out_fraction=0.05,
        final_learning_rate_fraction=0.1,
    )  # fmt: skip
    stage = make_stage(tmp_path, config, data)
    first = dict(stage.advance().metrics)
    last = first
    while not stage.finished:
        last = dict(stage.advance().metrics)
    variance = float(data.actions.var())
    assert first["squared_error"] > 0.6 * variance
    assert last["squared_error"] < 0.3 * variance
    assert last["prior_nll_nats"] < first["prior_nll_nats"] - 6.0


def test_gradients_are_clipped_in_the_first_updates_only(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)

    def gradient_norm() -> float:
        stage._update()
        return float(torch.cat([p.grad.flatten() for p in stage.model.parameters() if p.grad is not None]).norm())

    stage.model.train()
    norms = [gradient_norm() for _ in range(8)]
    assert norms[:5] == pytest.approx([CONFIG.initial_gradient_norm] * 5, rel=1e-3)
    assert min(norms[5:]) > 10 * CONFIG.initial_gradient_norm


def test_learning_rate_is_constant_or_falls_linearly_to_its_fraction(tmp_path: Path) -> None:
    for fraction in (1.0, 0.1):
        stage = make_stage(tmp_path / str(fraction), dataclasses.replace(CONFIG, final_learning_rate_fraction=fraction))
        stage.model.train()
        for done, expected in ((0, 1.0), (40, (1 + fraction) / 2), (79, fraction + (1 - fraction) / 80)):
            stage.updates = done
            stage._update()
            assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(CONFIG.learning_rate * expected)


def test_an_update_is_radam_on_the_total_loss(tmp_path: Path) -> None:
    """Against torch's RAdam on a copy, from the same batch, after the clipped updates."""
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, clipped_updates=0))
    reference = make_stage(tmp_path)
    reference.load_state_dict(stage.state_dict())
    stage.model.train()
    reference.model.train()
    optimizer = torch.optim.RAdam(reference.model.parameters(), lr=CONFIG.learning_rate)
    for _ in range(10):
        stage._update()
        losses = skill_losses(reference.model, *reference._batch())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        reference.updates += 1
    for (name, one), other in zip(stage.model.named_parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_standardisation_is_by_mean_and_deviation_of_the_data(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, standardise_states=True))
    standard = stage.model.standardise(stage.sampler.states[: 16 * 30])
    assert standard.mean(0).tolist() == pytest.approx([0.0] * OBSERVATION_DIM, abs=0.2)
    assert standard.std(0).tolist() == pytest.approx([1.0] * OBSERVATION_DIM, abs=0.2)
    raw = make_stage(tmp_path / "raw")
    assert torch.equal(raw.model.standardise(raw.sampler.states), raw.sampler.states)


def test_a_constant_observation_is_no_division_by_zero(tmp_path: Path) -> None:
    """The kitchen's observation holds 30 values that never change."""
    data = crops_of_the_maze(20, 30)
    data.observations[:, 3] = 7.0
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, standardise_states=True, passes=2), data)
    train(stage)
    assert all(bool(torch.isfinite(value).all()) for value in stage.model.state_dict().values())
    assert bool(torch.isfinite(stage.model.standardise(stage.sampler.states)).all())


# -- resume, determinism, artefact -----------------------------------------------------------------------


def test_making_a_stage_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_stage(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_artefact_holds_the_model_and_the_manifests_numbers(tmp_path: Path) -> None:
    stage = train(make_stage(tmp_path))
    numbers = stage.write_artefact(tmp_path)
    assert differences(load_skill_model(tmp_path).state_dict(), stage.model.state_dict()) == []
    assert set(numbers) == {
        "held_out_squared_error", "held_out_encoder_kl_nats", "held_out_prior_nll_nats", "updates",
        "prior_rollout_wall_contact_rate", "prior_rollout_cells_visited", "prior_rollout_covered",
        "reach_best_of_1", "reach_best_of_4",
    }  # fmt: skip
    assert numbers["updates"] == 80
    assert all(np.isfinite(value) for value in numbers.values())
    assert 0 <= numbers["reach_best_of_1"] <= numbers["reach_best_of_4"] <= 1
    assert stage.held_out_losses() == stage.held_out_losses(), "drawn from a key"


def test_held_out_numbers_are_means_over_crops_in_evaluation_mode(tmp_path: Path) -> None:
    """One crop fits each held-out trajectory, so the mean over draws is that over trajectories."""
    stage = train(make_stage(tmp_path, trajectories=crops_of_the_maze(20, 11)))
    states, actions = (t[176:].reshape(4, 11, -1)[:, :10] for t in (stage.sampler.states, stage.sampler.actions))
    model = stage.model.eval()
    numbers = stage.held_out_losses()
    with torch.no_grad():
        posterior = model.encode(states, actions)
        kl = float(posterior.kl_to_unit().mean())
        latents = posterior.sample(torch.randn(3000, 4, CONFIG.latent_dim))
        decoded = torch.stack([model.decode(states.transpose(0, 1)[k].repeat(3000, 1), latents.flatten(0, 1))
                               for k in range(10)])  # fmt: skip
    error = float((decoded - actions.transpose(0, 1).repeat(1, 3000, 1)).square().mean())
    assert numbers["held_out_encoder_kl_nats"] == pytest.approx(kl, rel=1e-4)
    assert numbers["held_out_squared_error"] == pytest.approx(error, rel=0.05)


def test_prior_rollouts_are_drawn_on_the_map(tmp_path: Path) -> None:
    distribution = dataclasses.replace(short_maze(20), draw_paths=task_distribution("maze").draw_paths)
    data = write_trajectories(tmp_path / "data", crops_of_the_maze(20, 30))
    stage = SkillTraining(dataclasses.replace(CONFIG, passes=1), stage_context(distribution, {"data": data}))
    train(stage).write_artefact(tmp_path)
    assert (tmp_path / "prior_rollouts.png").read_bytes().startswith(b"\x89PNG")


# -- bad data ---------------------------------------------------------------------------------------------


def test_bad_data_is_refused(tmp_path: Path) -> None:
    good = crops_of_the_maze(20, 30)
    with_nan = Trajectories(good.observations.copy(), good.actions, good.episode_ends)
    with_nan.observations[7, 2] = np.nan
    too_short = crops_of_the_maze(20, 10)
    wrong_dim = Trajectories(good.observations[:, :3].copy(), good.actions, good.episode_ends)
    for name, data, message in (
        ("nan", with_nan, "row 7 holds NaN"),
        ("short", too_short, "the longest episode has 10 env_steps"),
        ("dim", wrong_dim, r"expected \(transitions, 4\)"),
    ):
        with pytest.raises(TrajectoryError, match=message):
            make_stage(tmp_path / name, trajectories=data)


def test_a_passs_last_crops_are_left_out_when_they_fill_no_batch(tmp_path: Path) -> None:
    """9 of 11 trajectories are trained on: one batch of 8, the ninth waits for another pass."""
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, passes=2), crops_of_the_maze(11, 30))
    assert len(stage.sampler.training) == 9
    assert [len(batch) for batch in (stage._batch()[0],)] == [8]
    train(stage)
    assert stage.updates == 2


@pytest.mark.parametrize(("trajectories", "rows"), [(6, 5), (2, 2)])
def test_data_smaller_than_a_batch_is_a_batch_of_its_own(tmp_path: Path, trajectories: int, rows: int) -> None:
    """Batch norm refuses a single row: the one trajectory that is trained on is cut twice."""
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, passes=2), crops_of_the_maze(trajectories, 30))
    assert len(stage._batch()[0]) == rows
    train(stage)
    assert stage.updates == 2


def test_departures_are_off_by_default() -> None:
    config = SkillConfig()
    assert (config.standardise_states, config.final_learning_rate_fraction) == (False, 1.0)
    assert (config.skill_length, config.latent_dim, config.kl_weight, config.passes) == (10, 10, 1e-2, 2000)
