"""The items of the oracle: what goes in, and what the transcription (``equations.py``) makes of it.

Each item is a file of arrays in ``fixtures/``: ``in.*`` as they were drawn, ``out.*`` as they were computed. To make
them anew (only where an equation was wrong here): ``python -m tests.oracle.items``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.oracle import equations as eq

FIXTURES = Path(__file__).parent / "fixtures"

Arrays = dict[str, NDArray[Any]]
STATE, SKILL, EMBEDDING, HIDDEN, LAYERS = 4, 2, 2, 6, 3
"""Dimensions of states (the maze's), skills and e; width and linear layers of policy and critics."""
ENCODER_HIDDEN, INDUCING = 8, 32
CONTEXT_DIM = 2 * STATE + SKILL + 2
UPDATES = 8
TASKS, EPISODES, TRANSITIONS = 3, 2, 6
"""Training tasks, episodes of each, transitions of each: the first episode terminates, the second is timed out."""
SMALL_SETS, LARGE_SETS, SMALL, LARGE, BATCH = 2, 3, 2, 5, 4


# -- drawing inputs --------------------------------------------------------------------------------------------


def draw_linear(rng: np.random.Generator, name: str, in_dim: int, out_dim: int) -> Arrays:
    bound = 1.5 / np.sqrt(in_dim)
    return {f"{name}.W": rng.uniform(-bound, bound, (out_dim, in_dim)), f"{name}.b": rng.uniform(-0.5, 0.5, out_dim)}


def draw_mlp(rng: np.random.Generator, name: str, dims: list[int]) -> Arrays:
    layers = [draw_linear(rng, f"{name}.{i}", *pair) for i, pair in enumerate(itertools.pairwise(dims))]
    return {key: value for layer in layers for key, value in layer.items()}


def draw_encoder(rng: np.random.Generator) -> Arrays:
    found: Arrays = {}
    hidden = ENCODER_HIDDEN

    def block(name: str, query_dim: int, set_dim: int) -> None:
        for part, in_dim in (("q", query_dim), ("k", set_dim), ("v", set_dim), ("o", hidden)):
            found.update(draw_linear(rng, f"{name}.{part}", in_dim, hidden))

    for name, in_dim in (("isab0", CONTEXT_DIM), ("isab1", hidden)):
        found[f"{name}.I"] = rng.uniform(-1, 1, (INDUCING, hidden))
        block(f"{name}.summarise", hidden, in_dim)
        block(f"{name}.spread", in_dim, hidden)
    found["pma.S"] = rng.uniform(-1, 1, (1, hidden))
    block("pma.pool", hidden, hidden)
    return found | draw_mlp(rng, "enc", [hidden, hidden, 2 * EMBEDDING])


def draw_actor_critic(rng: np.random.Generator) -> Arrays:
    hidden = [HIDDEN] * (LAYERS - 1)
    found = draw_mlp(rng, "policy", [STATE + EMBEDDING, *hidden, 2 * SKILL])
    for name in ("q0", "q1", "target0", "target1"):
        found |= draw_mlp(rng, name, [STATE + EMBEDDING + SKILL, *hidden, 1])
    return found


def draw_prior(rng: np.random.Generator) -> Arrays:
    """A skill prior with mean A s + a and sigma 0.4 + 0.2 tanh(B s)."""
    return {"prior.A": rng.normal(size=(SKILL, STATE)), "prior.a": rng.normal(size=SKILL),
            "prior.B": rng.normal(size=(SKILL, STATE))}  # fmt: skip


def draw_episodes(rng: np.random.Generator, tasks: int) -> Arrays:
    states = rng.normal(size=(tasks, EPISODES, TRANSITIONS + 1, STATE))
    dones = np.zeros((tasks, EPISODES, TRANSITIONS))
    dones[:, 0, -1] = 1.0
    return {
        "episodes.states": states[:, :, :-1],
        "episodes.next_states": states[:, :, 1:],
        "episodes.skills": rng.normal(size=(tasks, EPISODES, TRANSITIONS, SKILL)),
        "episodes.rewards": rng.normal(size=(tasks, EPISODES, TRANSITIONS)),
        "episodes.dones": dones,
    }


def of_prefix(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def named(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}


# -- reading them back -----------------------------------------------------------------------------------------


def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def rule_of(inputs: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in of_prefix(inputs, "rule.").items()}


def prior_at(inputs: Mapping[str, Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
    return states @ inputs["prior.A"].T + inputs["prior.a"], 0.4 + 0.2 * torch.tanh(states @ inputs["prior.B"].T)


def transitions_of(inputs: Mapping[str, Tensor], task: int) -> eq.Transitions:
    """All transitions of a task, episode after episode."""
    fields = of_prefix(inputs, "episodes.")
    flat = {name: value[task].reshape(EPISODES * TRANSITIONS, *value.shape[3:]) for name, value in fields.items()}
    return eq.Transitions(
        **flat, prior=prior_at(inputs, flat["states"]), next_prior=prior_at(inputs, flat["next_states"])
    )


# -- items: (inputs, expected outputs) -------------------------------------------------------------------------


def encoder_inputs(rng: np.random.Generator) -> Arrays:
    return named("w.", draw_encoder(rng)) | {"contexts": rng.normal(size=(3, 7, CONTEXT_DIM))}


def encoder_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    encoded = [eq.task_encoder(of_prefix(inputs, "w."), context) for context in inputs["contexts"]]
    return {"mean": torch.stack([mean for mean, _ in encoded]), "sigma": torch.stack([sigma for _, sigma in encoded])}


def policy_inputs(rng: np.random.Generator) -> Arrays:
    return {
        "output": rng.normal(size=(6, 2 * SKILL)),
        "prior_mean": rng.normal(size=(6, SKILL)),
        "prior_sigma": np.exp(rng.uniform(-5, 1, (6, SKILL))),
        "noise": rng.normal(size=(6, SKILL)),
    }


def policy_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    prior = (inputs["prior_mean"], inputs["prior_sigma"])
    for kind in ("softplus", "exp"):
        for name, output in (("", inputs["output"]), ("start_", torch.zeros_like(inputs["output"]))):
            mean, sigma = eq.residual_policy(output, *prior, kind)
            found |= {f"{kind}.{name}mean": mean, f"{kind}.{name}sigma": sigma}
            found[f"{kind}.{name}sample"] = mean + sigma * inputs["noise"]
            found[f"{kind}.{name}kl"] = eq.gaussian_kl(mean, sigma, *prior)
    return found


def losses_inputs(rng: np.random.Generator) -> Arrays:
    """Two tasks, each with networks of its own."""
    found = named("w0.", draw_actor_critic(rng)) | named("w1.", draw_actor_critic(rng))
    found |= draw_prior(rng) | draw_episodes(rng, 2)
    size = EPISODES * TRANSITIONS
    return found | {
        "e": rng.normal(size=(2, size, EMBEDDING)),
        "target_noise": rng.normal(size=(2, size, SKILL)),
        "policy_noise": rng.normal(size=(2, size, SKILL)),
        "alpha": np.array([0.3, 0.05]),
        "rule.kl_clip": np.array(3.0),
        "rule.discount": np.array(0.9),
    }


def losses_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Targets with and without a KL that the clip binds, each critic's error, the policy's loss, and all gradients."""
    found = {}
    for kind in ("softplus", "exp"):
        for task in (0, 1):
            weights = eq.with_gradients(of_prefix(inputs, f"w{task}."))
            batch, e, alpha = transitions_of(inputs, task), inputs["e"][task], inputs["alpha"][task]
            rule = rule_of(inputs)
            target = eq.td_target(weights, batch, e, alpha, inputs["target_noise"][task], rule, kind)
            errors = eq.critic_errors(weights, batch, e, target)
            loss, kl = eq.policy_loss(weights, batch, e, alpha, inputs["policy_noise"][task], kind)
            found |= named(f"{kind}.{task}.", {"target": target, "errors": torch.stack(errors), "loss": loss, "kl": kl})
            moved = eq.gradients(sum(errors, start=torch.zeros(())), weights, eq.CRITICS)
            moved |= eq.gradients(loss, weights, ("policy",))
            found |= named(f"{kind}.{task}.gradient.", moved)
    return {name: value.detach() for name, value in found.items()}


def dual_inputs(rng: np.random.Generator) -> Arrays:
    """Divergences above their targets, then below: momentum, and what may only grow."""
    excess = rng.normal(size=(2 * UPDATES, 3))
    excess[:3], excess[3:6, 0], excess[:, 2] = np.abs(excess[:3]), -np.abs(excess[3:6, 0]), 0.0
    return {"initial": np.array([3e-3, 0.3, 2.0]), "excess": excess, "rule.learning_rate": np.array(0.01)}


def dual_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, only_grows in (("only_grows", True), ("both_ways", False)):
        dual = eq.DualVariable(eq.inverse_softplus(inputs["initial"]), rule_of(inputs)["learning_rate"], only_grows)
        alphas = []
        for excess in inputs["excess"]:
            dual.step(excess)
            alphas.append(dual.alpha)
        found[name] = torch.stack(alphas)
    return found


SKILL_LENGTH = 4
LENGTHS, TERMINATES = (9, 6, 8, 8, 3, 11), (1, 0, 1, 0, 0, 1)
"""Episodes in env_steps: cut in a skill's first env_step, in its second, at its end; terminated and timed out."""


def episode_inputs(rng: np.random.Generator) -> Arrays:
    found: Arrays = {"terminates": np.array(TERMINATES), "rule.discount": np.array(0.99)}
    for index, length in enumerate(LENGTHS):
        found[f"rewards{index}"] = rng.integers(-8, 9, length) / 4.0  # sums that float32 holds exactly
    return found


def episode_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for index, terminates in enumerate(inputs["terminates"].tolist()):
        rewards = inputs[f"rewards{index}"].tolist()
        for name in ("from", "to", "reward", "done"):
            values = [float(one[name]) for one in eq.skill_transitions(rewards, bool(terminates), SKILL_LENGTH)]
            found[f"{index}.{name}"] = torch.tensor(values, dtype=torch.float64)
        found[f"{index}.bootstrap"] = rule_of(inputs)["discount"] * (1.0 - found[f"{index}.done"])
    return found


META_RULE = {
    "learning_rate": 3e-3, "coefficient_learning_rate": 0.01, "discount": 0.9, "target_rate": 0.05, "kl_clip": 1.5,
    "small_target_kl": 0.5, "large_target_kl": 30.0, "small_initial_coefficient": 0.3, "large_initial_coefficient": 0.1,
    "small_encoder_target_kl": 0.3, "large_encoder_target_kl": 0.02,
    "small_initial_encoder_coefficient": 0.2, "large_initial_encoder_coefficient": 0.05,
}  # fmt: skip


def meta_inputs(rng: np.random.Generator) -> Arrays:
    sets, size = SMALL_SETS + LARGE_SETS, EPISODES * TRANSITIONS
    found = named("w.", draw_encoder(rng) | draw_actor_critic(rng)) | draw_prior(rng) | draw_episodes(rng, TASKS)
    found |= {
        "tasks": rng.integers(0, TASKS, (UPDATES, sets)),
        "small_contexts": rng.integers(0, TRANSITIONS, (UPDATES, SMALL_SETS, SMALL)),
        "large_contexts": rng.integers(0, TRANSITIONS, (UPDATES, LARGE_SETS, LARGE)),
        "rows": rng.integers(0, size, (UPDATES, sets, BATCH)),
        "e_noise": rng.normal(size=(UPDATES, sets, BATCH, EMBEDDING)),
        "target_noise": rng.normal(size=(UPDATES, sets, BATCH, SKILL)),
        "policy_noise": rng.normal(size=(UPDATES, sets, BATCH, SKILL)),
    }
    # In the first update no large context is of task 2, and two of three are of task 1.
    found["tasks"][0] = [2, 0, 1, 1, 0]
    return found | named("rule.", {name: np.array(value) for name, value in META_RULE.items()})


def make_meta_trainer(inputs: Mapping[str, Tensor]) -> eq.MetaTrainer:
    rule = rule_of(inputs)

    def dual(name: str, shape: tuple[int, ...] = ()) -> eq.DualVariable:
        raw = eq.inverse_softplus(torch.full(shape, rule[name], dtype=torch.float64))
        return eq.DualVariable(raw, rule["coefficient_learning_rate"], only_grows=True)

    return eq.MetaTrainer(
        of_prefix(inputs, "w."), rule,
        {True: dual("small_initial_coefficient"), False: dual("large_initial_coefficient")},
        dual("small_initial_encoder_coefficient"), dual("large_initial_encoder_coefficient", (TASKS,)),
    )  # fmt: skip


def meta_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights after the first and after the last update, all coefficients after each."""
    trainer, tasks = make_meta_trainer(inputs), [transitions_of(inputs, task) for task in range(TASKS)]
    found, coefficients = {}, []
    for update in range(UPDATES):
        sets = []
        for index, task in enumerate(inputs["tasks"][update].tolist()):
            small = index < SMALL_SETS
            chosen = inputs["small_contexts"][update, index] if small else (
                inputs["large_contexts"][update, index - SMALL_SETS]
            )  # fmt: skip
            noises = (inputs[f"{name}_noise"][update, index] for name in ("e", "target", "policy"))
            context, batch = tasks[task].take(chosen).as_context(), tasks[task].take(inputs["rows"][update, index])
            sets.append(eq.ContextSet(task, small, context, batch, *noises))
        trainer.update(sets)
        if update in (0, UPDATES - 1):
            found |= named(f"after{update + 1}.", trainer.weights)
        small, large = (trainer.policy_duals[is_small].alpha for is_small in (True, False))
        encoder = (trainer.small_encoder_dual.alpha, *trainer.encoder_duals.alpha)
        coefficients.append(torch.stack([small, large, *encoder]))
    return found | {"coefficients": torch.stack(coefficients)}


ADAPT_RULE = {
    "learning_rate": 3e-3, "coefficient_learning_rate": 0.01, "discount": 0.9, "target_rate": 0.05, "kl_clip": 1.5,
    "target_kl": 1.0, "alpha": 0.07,
}  # fmt: skip
ADAPT_TASKS = 2


def adapt_inputs(rng: np.random.Generator) -> Arrays:
    found = named("w.", draw_encoder(rng) | draw_actor_critic(rng)) | draw_prior(rng) | draw_episodes(rng, ADAPT_TASKS)
    found |= {
        "explored": rng.normal(size=(ADAPT_TASKS, 9, CONTEXT_DIM)),
        "rows": rng.integers(0, EPISODES * TRANSITIONS, (UPDATES, ADAPT_TASKS, BATCH)),
        "target_noise": rng.normal(size=(UPDATES, ADAPT_TASKS, BATCH, SKILL)),
        "policy_noise": rng.normal(size=(UPDATES, ADAPT_TASKS, BATCH, SKILL)),
    }
    return found | named("rule.", {name: np.array(value) for name, value in ADAPT_RULE.items()})


def adapt_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """e*; all weights of both tasks after the first and the last update; alpha after each."""
    rule, found = rule_of(inputs), {}
    meta = of_prefix(inputs, "w.")
    for task in range(ADAPT_TASKS):
        e, _ = eq.task_encoder(meta, inputs["explored"][task])
        weights = {name: copy.deepcopy(w) for name, w in meta.items() if not name.startswith(eq.ENCODER)}
        raw = eq.inverse_softplus(torch.tensor(rule["alpha"], dtype=torch.float64))
        tuner = eq.FineTuner(weights, e, rule, eq.DualVariable(raw, rule["coefficient_learning_rate"], only_grows=True))
        transitions, alphas = transitions_of(inputs, task), []
        for update in range(UPDATES):
            noises = (inputs[f"{name}_noise"][update, task] for name in ("target", "policy"))
            tuner.update(transitions.take(inputs["rows"][update, task]), *noises)
            alphas.append(tuner.dual.alpha)
            if update in (0, UPDATES - 1):
                found |= named(f"{task}.after{update + 1}.", tuner.weights)
        found |= {f"{task}.e": e, f"{task}.alpha": torch.stack(alphas)}
    return found


Item = tuple[Callable[[np.random.Generator], Arrays], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]
ITEMS: dict[str, Item] = {
    "task_encoder": (encoder_inputs, encoder_outputs),
    "residual_policy": (policy_inputs, policy_outputs),
    "targets_and_losses": (losses_inputs, losses_outputs),
    "dual_steps": (dual_inputs, dual_outputs),
    "episodes": (episode_inputs, episode_outputs),
    "meta_updates": (meta_inputs, meta_outputs),
    "fine_tuning_updates": (adapt_inputs, adapt_outputs),
}


def load(item: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(inputs, outputs) as the file holds them."""
    with np.load(FIXTURES / f"{item}.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return tensors(of_prefix(arrays, "in.")), tensors(of_prefix(arrays, "out."))


def write_all() -> None:
    FIXTURES.mkdir(exist_ok=True)
    for number, (name, (draw, compute)) in enumerate(ITEMS.items()):
        inputs = draw(np.random.default_rng(number))
        outputs = {key: value.numpy() for key, value in compute(tensors(inputs)).items()}
        arrays: dict[str, Any] = named("in.", inputs) | named("out.", outputs)
        np.savez_compressed(FIXTURES / f"{name}.npz", **arrays)


if __name__ == "__main__":
    write_all()
