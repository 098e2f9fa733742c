"""Worlds with views: who sees the image and who the state, from offline data to a learned target task.

Axes: B batch, K env_steps of a skill, D observation feature, F feature of a view.
"""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.adaptation import Adaptation
from algorithms.mtrl import TaskPolicies
from algorithms.networks import torch_generator
from algorithms.registry import algorithm, algorithm_names
from algorithms.regularized_sac import (
    ActorCriticConfig,
    FrozenPolicies,
    SkillActorCritic,
    critic_errors,
    policy_loss,
    td_target,
)
from algorithms.rollout import EpisodeKey, EpisodeNoise, LowLevelPolicy, SkillEpisode, collect_episodes
from algorithms.skill_model import SkillConfig, SkillModel, load_skill_model, skill_losses
from algorithms.skill_space import learned_skills
from algorithms.skills import CropSampler, SkillTraining
from algorithms.stage import PlayRequest, StageContext
from algorithms.transitions import StateInputs, TransitionBatch, transition_fields
from algorithms.view_encoder import VIEW_FEATURES, ConvEncoder, as_floats
from bench.lookup import why_impossible
from envs.core import Task, TaskDistribution
from envs.image_maze.data import recorded_in
from envs.image_maze.world import ImageMazeWorld
from envs.maze.layout import reference_layout
from envs.registry import task_distribution
from envs.trajectories import Trajectories
from tests.algorithm_helpers import (
    advance_to_end,
    config_of,
    differences,
    randomise_batch_norms,
    stage_context,
    through_disk,
    write_trajectories,
)

STATE_DIM, ROW_DIM, ACTION_DIM = 4, 7, 2
FEATURES = 2 * VIEW_FEATURES
"""Of encoder and decoder, and of the prior."""
CONFIG = SkillConfig(
    skill_length=5, latent_dim=3, hidden_dim=8, decoder_layers=2, prior_layers=2, passes=4, batch_size=8,
    held_out_fraction=0.2, clipped_updates=2,
)  # fmt: skip


def brief_image_maze(episode_env_steps: int = 33) -> TaskDistribution:
    """The image maze with another time limit; its training and target tasks are two goals next to the start."""
    tasks = tuple(Task(f"goal-{x}-{y}", {"goal": [x, y]}) for x, y in ((10.0, 25.2), (11.2, 24.0)))
    return dataclasses.replace(
        task_distribution("image-maze"),
        train_tasks=tasks,
        target_tasks=tasks,
        make_world=partial(ImageMazeWorld, reference_layout(40), episode_env_steps=episode_env_steps),
        episode_env_steps=episode_env_steps,
        own_trajectories=partial(recorded_in, reference_layout(40), 4, seed=0),
        draw_paths=None,
    )


@cache
def recorded(count: int = 12, env_steps: int = 20) -> Trajectories:
    """The first ``env_steps`` of trajectories of the image maze's own data source."""
    source = task_distribution("image-maze").data_source
    assert source is not None
    whole = source.build_chunk(source.config_class(num_trajectories=count, chunk_trajectories=count), 0, 1)
    parts = [(rows[:env_steps], actions[:env_steps]) for rows, actions in whole.split()]
    lengths = [len(rows) for rows, _ in parts]
    return Trajectories(
        np.concatenate([rows for rows, _ in parts]),
        np.concatenate([actions for _, actions in parts]),
        np.cumsum(lengths),
        whole.scenes,
    )


def make_model(config: SkillConfig = CONFIG) -> SkillModel:
    torch.manual_seed(0)
    model = SkillModel(config, ROW_DIM, ACTION_DIM, task_distribution("image-maze").views)
    randomise_batch_norms(model)
    model.state_mean.copy_(torch.arange(ROW_DIM) + 5.0)
    model.state_sigma.copy_(torch.arange(ROW_DIM) + 2.0)
    return model.eval()


def crops(count: int = 6) -> tuple[Tensor, Tensor, NDArray[np.uint8] | None]:
    """Rows (B, K, D), actions (B, K, A), scenes (B K, X, Y)."""
    sampler = CropSampler(recorded(), CONFIG.skill_length, CONFIG.held_out_fraction)
    chosen = torch.arange(count)
    return *sampler.crops(chosen, torch.rand(count, generator=torch_generator(0, "crops"))), sampler.scenes(chosen)


def context(folder: Path, seed: int = 0, episode_env_steps: int = 33) -> StageContext:
    data = write_trajectories(folder / "data", recorded())
    return stage_context(brief_image_maze(episode_env_steps), {"data": data}, seed)


@cache
def _skills_file() -> bytes:
    """Of a skill model learned from the recorded trajectories."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        stage = SkillTraining(CONFIG, context(Path(name)))
        advance_to_end(stage)
        stage.write_artefact(Path(name))
        return (Path(name) / "skill_model.pt").read_bytes()


def skills_context(folder: Path, distribution: TaskDistribution | None = None) -> StageContext:
    folder.mkdir(exist_ok=True)
    (folder / "skill_model.pt").write_bytes(_skills_file())
    return stage_context(distribution or brief_image_maze(), {"skills": folder})


# -- the skill model -----------------------------------------------------------------------------------------------


def test_crops_come_with_the_maze_that_their_trajectory_was_recorded_in() -> None:
    trajectories = recorded()
    sampler = CropSampler(trajectories, 5, 0.2)
    chosen = torch.tensor([7, 2, 2])
    rows, _ = sampler.crops(chosen, torch.tensor([0.0, 0.5, 0.99]))
    scenes = sampler.scenes(chosen)
    assert scenes is not None
    assert trajectories.scenes is not None
    assert scenes.shape == (15, 22, 22)
    for flat, trajectory in enumerate([7] * 5 + [2] * 10):
        assert np.array_equal(scenes[flat], trajectories.scenes[trajectory])
        x, y = np.floor(rows.flatten(0, 1)[flat, :2].numpy() + 0.7).astype(int)
        assert scenes[flat, x, y] == 0, "the agent is in a wall"
    assert not np.array_equal(scenes[0], scenes[5])


def test_states_are_rows_with_the_features_of_their_views() -> None:
    model, (rows, _, scenes) = make_model(), crops()
    assert model.views is not None
    assert scenes is not None
    flat = rows.flatten(0, 1)
    states = model.see(flat, scenes)
    assert len(model.view_encoders) == 2, "one of encoder and decoder, one of the prior"
    assert states.shape == (30, ROW_DIM + 2 * VIEW_FEATURES)
    assert torch.equal(states[:, :ROW_DIM], flat)
    for row in (0, 11, 29):  # one at a time
        view = torch.from_numpy(model.views.draw(flat[row : row + 1].numpy(), scenes[row : row + 1]))
        expected = torch.cat([encoder(as_floats(view))[0] for encoder in model.view_encoders])
        torch.testing.assert_close(states[row, ROW_DIM:], expected, rtol=1e-4, atol=1e-5)
    shared = make_model(dataclasses.replace(CONFIG, prior_view_encoder="shared"))
    assert shared.see(flat, scenes).shape == (30, ROW_DIM + VIEW_FEATURES)


def test_many_views_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (rows, _, scenes) = make_model(), crops()
    whole = model.see(rows.flatten(0, 1), scenes)
    monkeypatch.setattr("algorithms.skill_model.VIEWS_PER_PASS", 7)
    torch.testing.assert_close(model.see(rows.flatten(0, 1), scenes), whole, rtol=1e-4, atol=1e-5)


def test_encoder_decoder_and_prior_see_only_the_view() -> None:
    """Another position and velocity with the same features changes nothing; other features do."""
    model, (rows, actions, scenes) = make_model(), crops()
    states = model.see(rows.flatten(0, 1), scenes).unflatten(0, rows.shape[:2])
    elsewhere, another = states.clone(), states.clone()
    elsewhere[..., :ROW_DIM] = torch.randn(*rows.shape)
    another[..., ROW_DIM:] += 1.0
    latents = torch.randn(len(rows), CONFIG.latent_dim)

    def outputs(seen: Tensor) -> list[Tensor]:
        return [*model.encode(seen, actions), *model.skill_prior(seen[:, 0]), model.decode(seen[:, 0], latents)]

    for same, moved, changed in zip(outputs(states), outputs(elsewhere), outputs(another), strict=True):
        assert torch.equal(same, moved)
        assert not torch.allclose(same, changed)


@pytest.mark.parametrize("prior", ["gaussian", "flow"])
@pytest.mark.parametrize("prior_view_encoder", ["own", "shared"])
@pytest.mark.parametrize(
    ("loss", "learns"),
    [
        ("reconstruction", {"view_encoders.0", "encoder", "decoder"}),
        ("encoder_kl", {"view_encoders.0", "encoder"}),
        ("prior", {"view_encoders.1", "prior"}),
    ],
)
def test_who_gets_gradient_from_what(loss: str, learns: set[str], prior_view_encoder: Any, prior: Any) -> None:
    """The prior's loss reaches convolutions of its own, or those that all share; never skill encoder or decoder."""
    config = dataclasses.replace(CONFIG, prior=prior, prior_view_encoder=prior_view_encoder)
    model, (rows, actions, scenes) = make_model(config).train(), crops()
    states = model.see(rows.flatten(0, 1), scenes).unflatten(0, rows.shape[:2])
    getattr(skill_losses(model, states, actions, torch.randn(len(rows), CONFIG.latent_dim)), loss).backward()
    convolutions = {f"view_encoders.{index}": module for index, module in enumerate(model.view_encoders)}
    modules = {name: module for name, module in model.named_children() if name != "view_encoders"} | convolutions
    learning = {
        name
        for name, module in modules.items()
        if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
    }
    if prior_view_encoder == "shared":
        learns = {name.replace("view_encoders.1", "view_encoders.0") for name in learns}
    assert learning == learns


def test_the_prior_loss_moves_the_convolutions_through_the_first_view_alone() -> None:
    """Not through the sampled z, which all views of the crop have made."""
    model, (rows, actions, scenes) = make_model(), crops()
    states = model.see(rows.flatten(0, 1), scenes).unflatten(0, rows.shape[:2]).detach().requires_grad_()
    skill_losses(model, states, actions, torch.randn(len(rows), CONFIG.latent_dim)).prior.backward()
    assert states.grad is not None
    assert bool(states.grad[:, 0, ROW_DIM:].any())
    assert not bool(states.grad[:, 1:].any())


def test_critics_see_position_and_velocity_and_the_policy_features_too() -> None:
    model, (rows, _, scenes) = make_model(), crops()
    states = model.see(rows[:, 0], None if scenes is None else scenes[::5]).detach()
    raw, standard = StateInputs(model, standardise=False), StateInputs(model, standardise=True)
    assert torch.equal(raw(states), rows[:, 0, :STATE_DIM])
    expected = (rows[:, 0, :STATE_DIM] - torch.arange(4) - 5.0) / (torch.arange(4) + 2.0)
    torch.testing.assert_close(standard(states), expected)
    torch.testing.assert_close(standard.of_policy(states), torch.cat([expected, states[:, ROW_DIM:]], dim=1))


# -- the stage ---------------------------------------------------------------------------------------------------


def test_skills_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = (SkillTraining(CONFIG, context(tmp_path / name)) for name in ("whole", "stopped"))
    monkeypatch.setattr(SkillTraining, "UPDATES_PER_ADVANCE", 1)
    for _ in range(3):
        stopped.advance()
    resumed = SkillTraining(CONFIG, context(tmp_path / "resumed"))
    resumed.load_state_dict(through_disk(stopped.state_dict(), tmp_path))
    for stage in (whole, resumed):
        advance_to_end(stage)
    assert differences(whole.state_dict(), resumed.state_dict()) == []


def test_the_artefact_tells_of_both_places_and_loads_with_the_views(tmp_path: Path) -> None:
    stage = SkillTraining(CONFIG, context(tmp_path, episode_env_steps=250))
    advance_to_end(stage)
    numbers = stage.write_artefact(tmp_path)
    for place in ("held_out", "world"):
        for loss in ("squared_error", "encoder_kl_nats", "prior_nll_nats"):
            assert np.isfinite(numbers[f"{place}_{loss}"])
    assert numbers["held_out_squared_error"] != numbers["world_squared_error"]
    for kind in ("prior", "unit"):
        assert 0 <= numbers[f"{kind}_rollout_wall_contact_rate"] <= 1
    assert numbers["prior_rollout_cells_visited"] != numbers["unit_rollout_cells_visited"]
    loaded = load_skill_model(tmp_path, views=task_distribution("image-maze").views)
    assert differences(loaded.state_dict(), stage.model.state_dict()) == []
    assert [type(encoder) for encoder in loaded.view_encoders] == [ConvEncoder, ConvEncoder]
    with pytest.raises(ValueError, match="learned from views"):
        load_skill_model(tmp_path)


# -- acting --------------------------------------------------------------------------------------------------------


class CountedViews:
    """The image maze's views, and how many rows each call drew."""

    def __init__(self) -> None:
        views = task_distribution("image-maze").views
        assert views is not None
        self.views, self.shape, self.state_dim = views, views.shape, views.state_dim
        self.drawn: list[int] = []

    def draw(self, observations: NDArray[np.float32], scenes: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        self.drawn.append(len(observations))
        return self.views.draw(observations, scenes)


def act(model: SkillModel, env_steps: int = 23, lanes: int = 2) -> list[SkillEpisode]:
    distribution = brief_image_maze(env_steps)
    keys: list[EpisodeKey] = [(0, "views", lane) for lane in range(lanes)]
    noise = EpisodeNoise(keys, 5, CONFIG.latent_dim)
    return collect_episodes(
        distribution.make_world(lanes),
        [Task("far", {"goal": [40.0, 40.0]})] * lanes,
        keys,
        lambda states, active, index: model.skill_prior(states).sample(noise(active, index)),
        LowLevelPolicy(model),
        record_paths=True,
    )


def test_a_view_is_drawn_once_per_lane_and_env_step() -> None:
    """Where a skill begins, policy, prior and decoder share it; one more tells where the episode ended."""
    views = CountedViews()
    model = make_model()
    model.views = views
    model.requires_grad_(False)
    act(model, env_steps=23, lanes=2)
    assert views.drawn == [2] * 24


def test_episodes_keep_rows_with_features_and_paths_keep_rows() -> None:
    model = make_model().requires_grad_(False)
    assert model.views is not None
    for episode in act(model):
        assert episode.path is not None
        assert episode.path.shape == (24, ROW_DIM)
        expected = model.see(torch.from_numpy(episode.path))
        begins = [0, 5, 10, 15, 20]
        torch.testing.assert_close(episode.states, expected[begins], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(episode.next_states, expected[[5, 10, 15, 20, 23]], rtol=1e-4, atol=1e-4)


def test_the_low_level_policy_is_the_decoder_at_the_current_view() -> None:
    model = make_model().requires_grad_(False)
    rows = torch.from_numpy(np.concatenate([episode.path[:6] for episode in act(model) if episode.path is not None]))
    policy, skills = LowLevelPolicy(model), torch.randn(len(rows), CONFIG.latent_dim)
    states = policy.see(rows)
    policy.begin(skills, states)
    expected = model.decode(model.see(rows), skills)
    torch.testing.assert_close(policy.act(states).clone(), expected, rtol=1e-4, atol=1e-5)


def test_under_a_flow_the_chosen_base_becomes_a_skill_where_it_begins() -> None:
    model = make_model(dataclasses.replace(CONFIG, prior="flow")).requires_grad_(False)
    for parameter in model.prior.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    rows = torch.from_numpy(np.concatenate([episode.path[:6] for episode in act(model) if episode.path is not None]))
    base, policy, as_latents = torch.randn(len(rows), 3), LowLevelPolicy(model), LowLevelPolicy(model, True)
    states, later = policy.see(rows), policy.see(rows.flip(0))
    latents = model.latents(states, base)
    assert not torch.allclose(latents, base, atol=0.1)
    policy.begin(base, states)
    as_latents.begin(latents, states)
    torch.testing.assert_close(policy.act(later).clone(), model.decode(later, latents), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(as_latents.act(later).clone(), model.decode(later, latents), rtol=1e-4, atol=1e-5)


# -- the high level ------------------------------------------------------------------------------------------------

ACTOR_CRITIC = ActorCriticConfig(hidden_dim=8, hidden_layers=2)


def packed() -> tuple[SkillModel, SkillEpisode, TransitionBatch]:
    """An episode as a batch of one model copy, n = 2."""
    model = make_model().requires_grad_(False)
    episode = act(model)[0]
    fields = transition_fields(STATE_DIM, 3, 6, FEATURES)
    rows = StateInputs(model, standardise=True).pack(fields, episode, discount=0.9, n_step=2)
    assert rows.shape == (5, fields.dim)
    return model, episode, TransitionBatch.from_rows(fields, rows[None], torch.zeros(1, 5, 0))


def test_a_stored_transition_holds_state_and_features_here_and_there() -> None:
    model, episode, batch = packed()
    ends = episode.next_states[[1, 2, 3, 4, 4]]
    for states, views, of in ((batch.states, batch.views, episode.states), (batch.td_states, batch.td_views, ends)):
        torch.testing.assert_close(states[0], model.standardise(of[:, :ROW_DIM])[:, :STATE_DIM])
        assert torch.equal(views[0], of[:, ROW_DIM:])
    assert torch.equal(batch.prior.mean[0], model.skill_prior(episode.states).mean)
    assert torch.equal(batch.td_prior.sigma[0], model.skill_prior(ends).sigma)
    assert torch.equal(batch.policy_states, torch.cat([batch.states, batch.views], dim=-1))


def test_the_policy_sees_features_and_the_critics_do_not() -> None:
    _, _, batch = packed()
    generator = torch_generator(0, "test")
    networks = SkillActorCritic(ACTOR_CRITIC, STATE_DIM, 3, 0, 1, generator, FEATURES)
    assert networks.policy.layers[0].weight.shape[1] == STATE_DIM + FEATURES
    assert networks.critics.layers[0].weight.shape[1] == STATE_DIM + 3
    for parameter in networks.policy.parameters():
        parameter.data += 0.3
    blind = dataclasses.replace(batch, views=torch.zeros_like(batch.views), td_views=torch.zeros_like(batch.td_views))
    noise, coefficients = torch.randn(1, 5, 3), torch.tensor([[0.1]])
    targets = td_target(networks, batch, coefficients, noise, 5.0)
    assert not torch.allclose(targets, td_target(networks, blind, coefficients, noise, 5.0))
    assert torch.equal(critic_errors(networks, batch, targets), critic_errors(networks, blind, targets))
    losses = [policy_loss(networks, one, coefficients, noise)[0] for one in (batch, blind)]
    assert not torch.allclose(*losses)


def test_acting_is_the_policy_that_learning_sees() -> None:
    model, episode, batch = packed()
    networks = SkillActorCritic(ACTOR_CRITIC, STATE_DIM, 3, 0, 1, torch_generator(0, "test"), FEATURES)
    for parameter in networks.policy.parameters():
        parameter.data += 0.1
    noise = torch.randn(5, 3)
    inputs = StateInputs(model, standardise=True)
    policies = FrozenPolicies(networks, torch.zeros(5, 0), inputs, model, lambda lanes, _: noise[lanes])
    expected = networks.policy_distribution(batch.policy_states, batch.task_embeddings, batch.prior).sample(noise[None])
    torch.testing.assert_close(policies(episode.states, np.arange(5), 0), expected[0].detach(), rtol=1e-4, atol=1e-5)


# -- algorithms ----------------------------------------------------------------------------------------------------


def tiny(name: str, stage: str, **overrides: Any) -> Any:
    """The smoke configuration of a stage, with even fewer of everything."""
    found = algorithm(name)
    return config_of(found, stage, {**found.presets["image-maze", "smoke"], **overrides})


def test_spirl_learns_target_tasks_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = tiny("spirl", "adapt", **{"adapt.batch_size": 16})
    spec = algorithm("spirl").stages[-1]
    stages = [spec.factory(config, skills_context(tmp_path / "skills")) for _ in range(3)]
    rows = advance_to_end(stages[0])
    assert len(rows) == 2 * config.episodes
    stages[1].advance()
    stages[1].advance()
    stages[2].load_state_dict(through_disk(stages[1].state_dict(), tmp_path))
    resumed = advance_to_end(stages[2])
    assert resumed == rows[-len(resumed) :]
    assert differences(stages[0].finished_learners, stages[2].finished_learners) == []  # type: ignore[attr-defined]

    stages[0].write_artefact(tmp_path)
    assert spec.play is not None
    (played,) = spec.play(config, stages[0].context, PlayRequest(tmp_path, task=1, episodes=1, seed=0))  # type: ignore[attr-defined]
    assert played.observations.shape == (played.length + 1, ROW_DIM)


def test_mtrl_hands_on_what_the_policy_saw(tmp_path: Path) -> None:
    """States for distillation are the policy's inputs, features included."""
    config = tiny("mtrl", "task_policies", **{"task_policies.batch_size": 16})
    stage = TaskPolicies(config, skills_context(tmp_path / "skills"))
    advance_to_end(stage)
    for saved in stage.finished_learners.values():
        assert saved["states"].shape[1] == STATE_DIM + FEATURES


def test_networks_are_as_wide_as_what_they_see(tmp_path: Path) -> None:
    stage = algorithm("spirl").stages[-1].factory(tiny("spirl", "adapt"), skills_context(tmp_path / "skills"))
    assert isinstance(stage, Adaptation)
    space = learned_skills(stage.context)
    assert space.state_dims(stage.context.task_distribution) == (STATE_DIM, FEATURES)
    assert space.state_dims(task_distribution("maze"))[0] == 4
    assert stage.networks.policy.layers[0].weight.shape[1] == STATE_DIM + FEATURES


@pytest.mark.parametrize("name", algorithm_names())
def test_algorithms_over_primitive_actions_are_refused(name: str) -> None:
    """They would need convolutions of their own, or else see a state that is not what this world is about."""
    reason = why_impossible(algorithm(name), task_distribution("image-maze"))
    if name in ("simpl", "spirl", "mtrl") or algorithm(name).name == "skill-search":
        assert reason is None
    else:
        assert reason is not None
        assert "no preset for the family 'image-maze'" in reason
