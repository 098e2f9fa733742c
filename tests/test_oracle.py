"""``algorithms/`` against the oracle: a transcription of SiMPL's equations that shares no code with it (``oracle/``).

Everything runs in float64, through the same functions and stages as a run, and agrees to 1e-10 relative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.encoded_adaptation import EncodedAdaptation, encode_context
from algorithms.networks import Gaussian, StackedMLP
from algorithms.policy_heads import ResidualHead
from algorithms.regularized_sac import (
    ActorCriticConfig,
    DualCoefficients,
    SkillActorCritic,
    critic_errors,
    policy_loss,
    td_target,
)
from algorithms.replay import MultiTaskReplay, PackedFields
from algorithms.rollout import PrimitiveActions, SkillEpisode, collect_episodes
from algorithms.set_transformer import TaskEncoder
from algorithms.simpl import SimplAdaptConfig, SimplLearner, SimplMetaTrainConfig
from algorithms.skill_space import SkillSpace
from algorithms.transitions import StateInputs, TransitionBatch, transition_fields
from envs.core import Task
from tests.algorithm_helpers import FAR_GOAL, NEAR_GOAL, Script, ScriptedWorld, short_maze, stage_context
from tests.oracle import items
from tests.oracle.items import EMBEDDING, EPISODES, HIDDEN, LAYERS, SKILL, STATE, UPDATES, load, of_prefix, rule_of

Fixture = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """What a run makes in float32, it makes in float64 here."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_agrees(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-10) -> None:
    """In the largest entry, relative to the largest entry."""
    assert found.dtype == expected.dtype == torch.float64, what
    assert found.shape == expected.shape, what
    largest = float(expected.abs().max())
    assert largest > 0, f"{what} says nothing"
    error = float((found.detach() - expected).abs().max()) / largest
    assert error <= tolerance, f"{what}: relative error {error:.1e}"


def assert_all_agree(found: Fixture, expected: Fixture, what: str) -> None:
    assert found.keys() == expected.keys(), what
    for name in expected:
        assert_agrees(found[name], expected[name], f"{what}{name}")


# -- weights, by the transcription's names ---------------------------------------------------------------------


@torch.no_grad()
def give_stack(network: StackedMLP, copy: int, weights: Fixture) -> None:
    for index, layer in enumerate(network.layers):
        layer.get_parameter("weight")[copy] = weights[f"{index}.W"].T
        layer.get_parameter("bias")[copy, 0] = weights[f"{index}.b"]


def networks_of(networks: SkillActorCritic, copy: int) -> dict[str, tuple[StackedMLP, int]]:
    """Name of the transcription -> (our stack, place in it)."""
    found = {"policy": (networks.policy, copy)}
    for critic in (0, 1):
        found[f"q{critic}"] = (networks.critics, 2 * copy + critic)
        found[f"target{critic}"] = (networks.target_critics, 2 * copy + critic)
    return found


def give_actor_critic(networks: SkillActorCritic, copy: int, weights: Fixture) -> None:
    for name, (stack, place) in networks_of(networks, copy).items():
        give_stack(stack, place, of_prefix(weights, f"{name}."))


def weights_of(networks: SkillActorCritic, copy: int, gradients: bool = False) -> dict[str, Tensor]:
    """One copy's weights, or their gradients, by the transcription's names."""
    found = {}
    for name, (stack, place) in networks_of(networks, copy).items():
        for index, layer in enumerate(stack.layers):
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            pair = (weight.grad, bias.grad) if gradients else (weight.detach(), bias.detach())
            if pair[0] is not None and pair[1] is not None:
                found |= {f"{name}.{index}.W": pair[0][place].T, f"{name}.{index}.b": pair[1][place, 0]}
    return found


ENCODER_NAMES = {"isab0": "blocks.0", "isab1": "blocks.1", "pma.S": "seed", "pma.pool": "pool", "enc.0": "hidden.0",
                 "enc.1": "output", ".I": ".inducing", ".q.": ".query.", ".k.": ".key.", ".v.": ".value.",
                 ".o.": ".output.", ".W": ".weight", ".b": ".bias"}  # fmt: skip


def encoder_weights(encoder: TaskEncoder, weights: Fixture) -> dict[str, Tensor]:
    """Our parameters under the transcription's names, of which ``weights`` has all (and others)."""
    found, ours = {}, dict(encoder.named_parameters())
    for name in weights:
        if name.startswith(("isab", "pma", "enc")):
            translated = name.replace(".b", ".bias") if name.endswith(".b") else name
            for theirs, mine in ENCODER_NAMES.items():
                if theirs != ".b":
                    translated = translated.replace(theirs, mine)
            found[name] = ours.pop(translated)
    assert not ours, f"the transcription has no {list(ours)}"
    return found


@torch.no_grad()
def give_encoder(encoder: TaskEncoder, weights: Fixture) -> None:
    for name, parameter in encoder_weights(encoder, weights).items():
        parameter.copy_(weights[name])


# -- episodes --------------------------------------------------------------------------------------------------


class LinearPrior:
    """The fixture's skill prior, N(A s + a, 0.4 + 0.2 tanh(B s)), as a ``SkillPrior``."""

    latent_dim, prior_dim, feature_dim = SKILL, 2 * SKILL, 0

    def __init__(self, inputs: Fixture) -> None:
        self._mean, self._offset, self._sigma = (inputs[f"prior.{name}"] for name in ("A", "a", "B"))

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states, states[..., :0]

    def standardise(self, states: Tensor) -> Tensor:
        raise AssertionError("networks see states as they are")

    def skill_prior(self, states: Tensor) -> Gaussian:
        mean = torch.nn.functional.linear(states, self._mean, self._offset)
        return Gaussian(mean, torch.tanh(torch.nn.functional.linear(states, self._sigma)) / 5 + 0.4)

    def prior_columns(self, states: Tensor) -> Tensor:
        return torch.cat(self.skill_prior(states), dim=1)


def episodes_of(inputs: Fixture, task: int) -> list[SkillEpisode]:
    columns = {name: value[task] for name, value in of_prefix(inputs, "episodes.").items()}
    columns |= {name: columns[name][..., None] for name in ("rewards", "dones")}
    return [
        SkillEpisode(**{name: value[episode] for name, value in columns.items()}, length=60, episode_return=0.0)
        for episode in range(EPISODES)
    ]


def packed(inputs: Fixture, task: int, fields: PackedFields) -> list[Tensor]:
    """A task's episodes as they are stored."""
    state_inputs, discount = StateInputs(LinearPrior(inputs), False), rule_of(inputs)["discount"]
    return [state_inputs.pack(fields, episode, discount, n_step=1) for episode in episodes_of(inputs, task)]


ACTOR_CRITIC = ActorCriticConfig(hidden_dim=HIDDEN, hidden_layers=LAYERS - 1)

# -- the fixtures themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("item", items.ITEMS)
def test_a_fixture_is_what_the_transcription_makes_of_its_inputs(item: str) -> None:
    inputs, outputs = load(item)
    _, compute = items.ITEMS[item]
    found = compute(inputs)
    assert found.keys() == outputs.keys()
    for name, expected in outputs.items():
        if expected.any():
            assert_agrees(found[name], expected, name, tolerance=1e-11)
        else:
            assert torch.equal(found[name], expected), name


def test_the_fixtures_show_what_could_be_forgotten() -> None:
    """A clip that binds for some, coefficients that are lifted and ones that must not fall, targets off the critics."""
    inputs, outputs = load("targets_and_losses")
    free = items.losses_outputs({**inputs, "rule.kl_clip": torch.tensor(1e9)})
    clipped = torch.cat([outputs[f"softplus.{task}.target"] != free[f"softplus.{task}.target"] for task in (0, 1)])
    assert 0.2 < float(clipped.double().mean()) < 0.8
    inputs, outputs = load("meta_updates")
    small, large, *encoder = (outputs["coefficients"][-1] / outputs["coefficients"][0]).tolist()
    assert small > 1.05
    assert large == 1.0
    assert all(each > 1.01 for each in encoder)
    first = outputs["coefficients"][0] - torch.tensor([0.3, 0.1, 0.2, 0.05, 0.05, 0.05])
    assert [bool(each > 1e-6) for each in first] == [True, False, True, True, True, False]
    assert float((inputs["w.q0.0.W"] - inputs["w.target0.0.W"]).abs().max()) > 0.1
    _, outputs = load("fine_tuning_updates")
    assert float(outputs["0.alpha"][-1]) > 1.02 * float(outputs["0.alpha"][0])
    assert float(outputs["1.alpha"][-1]) == float(outputs["1.alpha"][0])
    _, outputs = load("dual_steps")
    assert float(outputs["only_grows"][5, 0]) > float(outputs["only_grows"][2, 0]), "Adam's momentum lifts it on"
    assert float(outputs["both_ways"][-1, 0]) != float(outputs["only_grows"][-1, 0])


# -- single equations ------------------------------------------------------------------------------------------


def test_task_encoder() -> None:
    inputs, outputs = load("task_encoder")
    encoder = TaskEncoder(items.CONTEXT_DIM, EMBEDDING, items.ENCODER_HIDDEN)
    give_encoder(encoder, of_prefix(inputs, "w."))
    posterior = encoder(inputs["contexts"])
    assert_agrees(posterior.mean, outputs["mean"], "mean")
    assert_agrees(posterior.sigma, outputs["sigma"], "sigma")


@pytest.mark.parametrize("kind", ["softplus", "exp"])
@pytest.mark.parametrize("at", ["", "start_"])
def test_residual_policy(kind: Any, at: str) -> None:
    inputs, outputs = load("residual_policy")
    prior, head = Gaussian(inputs["prior_mean"], inputs["prior_sigma"]), ResidualHead(kind)
    policy = head.policy(inputs["output"] if at == "" else torch.zeros_like(inputs["output"]), prior)
    assert isinstance(policy, Gaussian)
    assert_agrees(policy.mean, outputs[f"{kind}.{at}mean"], "mean")
    assert_agrees(policy.sigma, outputs[f"{kind}.{at}sigma"], "sigma")
    assert_agrees(policy.sample(inputs["noise"]), outputs[f"{kind}.{at}sample"], "sample")
    kl, expected = head.divergence(policy, prior, inputs["noise"]), outputs[f"{kind}.{at}kl"]
    if (kind, at) == ("exp", "start_"):
        assert float(torch.maximum(kl.abs().max(), expected.abs().max())) < 1e-14, "at its prior"
    else:
        assert_agrees(kl, expected, "KL")


@pytest.mark.parametrize("kind", ["softplus", "exp"])
def test_td_targets_losses_and_their_gradients(kind: Any) -> None:
    """Two tasks side by side, each with its own networks and alpha, from stored episodes on."""
    inputs, outputs = load("targets_and_losses")
    config = dataclasses.replace(ACTOR_CRITIC, sigma_parametrization=kind)
    networks = SkillActorCritic(config, STATE, SKILL, EMBEDDING, 2, torch.Generator())
    fields = transition_fields(STATE, SKILL, 2 * SKILL)
    for task in (0, 1):
        give_actor_critic(networks, task, of_prefix(inputs, f"w{task}."))
    rows = torch.stack([torch.cat(packed(inputs, task, fields)) for task in (0, 1)])
    batch, alpha = TransitionBatch.from_rows(fields, rows, inputs["e"]), inputs["alpha"][:, None]
    targets = td_target(networks, batch, alpha, inputs["target_noise"], rule_of(inputs)["kl_clip"])
    errors = critic_errors(networks, batch, targets)
    losses, kl = policy_loss(networks, batch, alpha, inputs["policy_noise"])
    errors.sum().backward()
    losses.sum().backward()
    for task in (0, 1):
        expected = of_prefix(outputs, f"{kind}.{task}.")
        gradients = weights_of(networks, task, gradients=True)
        found = {"target": targets[task], "errors": errors[task], "loss": losses[task], "kl": kl[task].mean()}
        found |= {f"gradient.{name}": gradient for name, gradient in gradients.items()}
        assert_all_agree(found, expected, f"task {task}: ")


@pytest.mark.parametrize("only_grows", [True, False])
def test_dual_steps(only_grows: bool) -> None:
    inputs, outputs = load("dual_steps")
    dual = DualCoefficients(inputs["initial"], rule_of(inputs)["learning_rate"], only_grows)
    expected = outputs["only_grows" if only_grows else "both_ways"]
    for excess, alpha in zip(inputs["excess"], expected, strict=True):
        dual.update(excess)
        assert_agrees(dual.values, alpha, "alpha")


def test_an_episode_becomes_skill_transitions() -> None:
    """Collected in lockstep, then stored: skills cut by termination and by the time limit, their rewards summed."""
    inputs, outputs = load("episodes")
    ends = inputs["terminates"].tolist()
    scripts = [Script(tuple(inputs[f"rewards{lane}"].tolist()), bool(end)) for lane, end in enumerate(ends)]
    low_level = PrimitiveActions(SKILL)
    low_level.skill_length = items.SKILL_LENGTH

    def choose(states: Tensor, lanes: Any, skill_index: int) -> Tensor:
        return torch.stack([torch.from_numpy(np.array([lane, skill_index], np.float32)) for lane in lanes])

    keys = [(0, lane) for lane in range(len(scripts))]
    tasks = [Task(f"lane-{lane}", {}) for lane in range(len(scripts))]
    episodes = collect_episodes(ScriptedWorld(scripts), tasks, keys, choose, low_level)
    for lane, episode in enumerate(episodes):
        expected = of_prefix(outputs, f"{lane}.")
        doubled = {field.name: getattr(episode, field.name) for field in dataclasses.fields(episode)}
        doubled = {name: value.double() if isinstance(value, Tensor) else value for name, value in doubled.items()}
        fields = transition_fields(2, SKILL, 2 * SKILL)
        ones = torch.ones(SKILL, 2)
        prior = LinearPrior({"prior.A": ones, "prior.B": ones, "prior.a": ones[0]})
        rows = StateInputs(prior, False).pack(fields, SkillEpisode(**doubled), rule_of(inputs)["discount"], 1)
        columns = fields.unpack(rows)
        assert len(rows) == len(expected["reward"])
        for name in ("rewards", "td_rewards"):
            assert torch.equal(columns[name][:, 0], expected["reward"])
        assert torch.equal(columns["dones"][:, 0], expected["done"])
        torch.testing.assert_close(columns["td_discounts"][:, 0], expected["bootstrap"], rtol=1e-10, atol=0)
        # An observation is (lane, env_steps so far); a skill here (lane, its number).
        assert columns["states"].tolist() == [[lane, env_step] for env_step in expected["from"].tolist()]
        for name in ("next_states", "td_states"):
            assert torch.equal(columns[name][:, 1], expected["to"])
        assert columns["skills"][:, 1].tolist() == list(range(len(rows)))


# -- whole updates ---------------------------------------------------------------------------------------------


def meta_config(inputs: Fixture) -> SimplMetaTrainConfig:
    rule = rule_of(inputs)
    known = {field.name for field in dataclasses.fields(SimplMetaTrainConfig)}
    return SimplMetaTrainConfig(
        task_embedding_dim=EMBEDDING, small_context_tasks=items.SMALL_SETS, large_context_tasks=items.LARGE_SETS,
        transitions_per_task=items.BATCH, small_context=items.SMALL, large_context=items.LARGE,
        encoder_hidden_dim=items.ENCODER_HIDDEN, actor_critic=ACTOR_CRITIC,
        **{name: value for name, value in rule.items() if name in known},
    )  # fmt: skip


def make_learner(inputs: Fixture, tasks: int) -> SimplLearner:
    learner = SimplLearner(meta_config(inputs), STATE, SKILL, tasks, seed=0)
    give_encoder(learner.encoder, of_prefix(inputs, "w."))
    give_actor_critic(learner.networks, 0, of_prefix(inputs, "w."))
    learner.make_optimizers()
    return learner


def test_eight_meta_updates() -> None:
    """Encoder, critics, targets, policy and all coefficients, from stored episodes on."""
    inputs, outputs = load("meta_updates")
    learner = make_learner(inputs, items.TASKS)
    replay = MultiTaskReplay(items.TASKS, 20, learner.fields)
    for task in range(items.TASKS):
        for rows in packed(inputs, task, learner.fields):
            replay.add(task, rows)
    for update in range(UPDATES):
        tasks = inputs["tasks"][update]
        groups = zip(tasks.split([items.SMALL_SETS, items.LARGE_SETS]), ("small", "large"), strict=True)
        drawn = [replay.gather(group, inputs[f"{name}_contexts"][update]) for group, name in groups]
        contexts = [transitions[..., : learner.context_dim] for transitions in drawn]
        e_noise, target_noise, policy_noise = (
            inputs[f"{name}_noise"][update].flatten(0, 1) for name in ("e", "target", "policy")
        )
        noise = torch.stack([torch.cat([z, e_noise], dim=1) for z in (target_noise, policy_noise)])
        learner.update(replay.gather(tasks, inputs["rows"][update]), contexts, tasks, noise)
        coefficients = torch.cat([learner.policy_coefficients.values, learner.encoder_coefficients.values])
        assert_agrees(coefficients, outputs["coefficients"][update], f"coefficients after update {update + 1}")
        if expected := of_prefix(outputs, f"after{update + 1}."):
            found = weights_of(learner.networks, 0) | encoder_weights(learner.encoder, expected)
            assert_all_agree(found, expected, f"after update {update + 1}: ")


class GivenDraws(EncodedAdaptation):
    """The stage, with the fixture's batches and noise instead of its own draws."""

    inputs_of_updates: Fixture

    def _draw(self) -> tuple[Tensor, Tensor]:
        update = int(self.updates[0])
        noises = [self.inputs_of_updates[f"{name}_noise"][update] for name in ("target", "policy")]
        return self.inputs_of_updates["rows"][update], torch.stack(noises)


def test_eight_fine_tuning_updates() -> None:
    """Two target tasks in one stack, each with its e*, from what meta-training left and stored episodes on."""
    inputs, outputs = load("fine_tuning_updates")
    rule, maze = rule_of(inputs), short_maze(60, [NEAR_GOAL, FAR_GOAL])
    meta = make_learner(inputs | {"rule.large_initial_coefficient": inputs["rule.alpha"]}, 2)
    config = SimplAdaptConfig(
        batch_size=items.BATCH, learning_rate=rule["learning_rate"], discount=rule["discount"],
        coefficient_learning_rate=rule["coefficient_learning_rate"], target_rate=rule["target_rate"],
        target_kl=rule["target_kl"], kl_clip=rule["kl_clip"],
    )  # fmt: skip
    assert config.coefficient_only_grows
    space = SkillSpace(LinearPrior(inputs), PrimitiveActions(SKILL))
    stage = GivenDraws(config, meta_config(inputs), meta, space, stage_context(maze, {}))
    stage.inputs_of_updates = inputs
    for task in range(items.ADAPT_TASKS):
        e = encode_context(meta, stage.meta_config, inputs["explored"][task], seed=0, task=task).mean
        assert_agrees(e, outputs[f"{task}.e"], "e*")
        stage.task_embeddings[task] = e
        for episode in episodes_of(inputs, task):
            stage.learn_from(task, stage.pack(episode))
    for update in range(UPDATES):
        stage._update()
        for task in range(items.ADAPT_TASKS):
            alpha = outputs[f"{task}.alpha"][update : update + 1]
            assert_agrees(stage.coefficients.values[task : task + 1], alpha, f"alpha after update {update + 1}")
            if expected := of_prefix(outputs, f"{task}.after{update + 1}."):
                assert_all_agree(weights_of(stage.networks, task), expected, f"task {task} after {update + 1}: ")
