"""MAML: model-agnostic meta-learning of a policy, by policy gradients.

Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (arXiv 1703.03400),
section 4.2 and algorithm 3: REINFORCE inside, TRPO outside, on-policy.

    inner step   theta_i = theta + alpha grad_theta E_D_i [ A log pi_theta(a given s) ],  D_i: K episodes with theta
    meta-update  max_theta mean_i E_D'_i [ A' pi_theta_i(a given s) / pi_theta_i_old(a given s) ]
                 subject to mean KL(pi_theta_i_old, pi_theta_i) <= max_kl,                 D'_i: K episodes with theta_i

    meta-iteration   tasks -> D -> theta_i -> D' -> ratios and KLs as functions of theta, through the inner step
                       -> conjugate gradients, line search (``trust_region.py``) -> theta

Returns, baseline and advantages are in ``policy_gradient.py``. ``bc_maml.py`` makes algorithms of this and lists the
differences from paper and released code.

Axes: N task, K episode, R row (env_step), P parameter, D feature, A action feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from algorithms.behavior_cloning import BehaviorPolicy, behavior_policy_contents
from algorithms.budget import Budget, Scale, acting
from algorithms.episode_log import EpisodeLog
from algorithms.files import save_tensors
from algorithms.meta_training import META_FILE
from algorithms.networks import Gaussian, torch_generator
from algorithms.policy_gradient import (
    GradientBatch,
    Parameters,
    RowChoice,
    TaskEpisode,
    act,
    make_gradient_batch,
    next_lanes,
    random_gradient_batch,
    same_for_all,
    timed_episodes,
)
from algorithms.ranges import COUNT, RATE, require_between
from algorithms.rollout import EpisodeKey
from algorithms.stage import EpisodeRow, Progress, Stage, StageContext, StageReport, TimedWork
from algorithms.trust_region import Objective, TrustRegionConfig, TrustRegionStep, trust_region_step

PHASES = ("meta_train_prior", "meta_train_posterior")
"""Of episodes before and after the inner step."""


@dataclass(frozen=True)
class MamlConfig:
    """Meta-training. Values: Finn et al. 2017, section 5.3 and appendix A.2, unless a line says otherwise."""

    meta_iterations: int = 500
    """Meta-updates (paper: up to 500)."""
    tasks_per_iteration: int = 40
    """Training tasks drawn for each, all different; all of them where there are fewer (paper: 40; 20 in navigation)."""
    episodes_per_task: int = 20
    """K, before and again after the inner step (paper: 20 in navigation; SiMPL names none)."""
    inner_rate: float = 0.1
    """alpha, the size of the inner step (paper: 0.1)."""
    first_order: bool = False
    """The inner gradient counts as a constant (paper, section 5.2: an approximation that costs little; here off)."""
    discount: float = 0.99
    """Per env_step (rllab's default, which the released code keeps)."""
    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    """The meta-update."""
    gradient_rows: int = 0
    """Departure: the meta-update is over this many of a task's env_steps before the inner step, for how the step moves
    with theta, and after it, for surrogate and KL; a uniform choice (0: all). The step itself is always over all."""
    curvature_every: int = 1
    """Departure: the Hessian of the KL is over every so many of these rows; the line search is over all (1: all)."""
    lanes: int = 200
    """Episodes collected side by side, at most (ours: how soon a signal is answered)."""

    def validate(self) -> None:
        require_between(self, COUNT, "meta_iterations", "tasks_per_iteration", "episodes_per_task", "lanes")
        require_between(self, COUNT, "curvature_every")
        require_between(self, (0, COUNT[1]), "gradient_rows")
        require_between(self, (0.0, 1e3), "inner_rate")
        require_between(self, RATE, "discount")

    def budget(self, scale: Scale) -> Budget:
        """Of meta-training: episodes before and again after the inner step, then one update over the latter."""
        episodes = min(self.tasks_per_iteration, scale.tasks) * self.episodes_per_task
        rows = episodes * scale.episode_env_steps
        return acting(self.meta_iterations * 2 * episodes, scale, self.meta_iterations, rows)


# -- losses ----------------------------------------------------------------------------------------


def log_probability(policy: Gaussian, actions: Tensor) -> Tensor:
    """(..., A) -> (...)."""
    return -policy.negative_log_likelihood(actions).sum(-1)


def inner_loss(policy: BehaviorPolicy, parameters: Parameters, batch: GradientBatch) -> Tensor:
    """-E [ A log pi(a given s) ] on one task's batch (R, ...): its gradient is REINFORCE's."""
    gaussian: Gaussian = functional_call(policy, parameters, (batch.states,))
    return -(batch.weights * batch.advantages * log_probability(gaussian, batch.actions)).sum()


def inner_step(
    policy: BehaviorPolicy, parameters: Parameters, batch: GradientBatch, rate: float, first_order: bool = False
) -> Parameters:
    """theta_i of one task; a function of ``parameters`` that can be differentiated."""
    if rate == 0.0:
        return parameters
    gradients = grad(partial(inner_loss, policy))(parameters, batch)
    if first_order:
        gradients = {name: gradient.detach() for name, gradient in gradients.items()}
    return {name: value - rate * gradients[name] for name, value in parameters.items()}


def inner_steps(policy: BehaviorPolicy, stacked: Parameters, batch: GradientBatch, rate: float) -> Parameters:
    """One inner step of each task from its own parameters (N, ...) on its own rows, without a graph."""
    step = partial(inner_step, policy, rate=rate)
    with torch.no_grad():
        adapted: Parameters = vmap(step)(stacked, batch)
    return adapted


def inner_step_kl(policy: BehaviorPolicy, parameters: Parameters, adapted: Parameters, batch: GradientBatch) -> float:
    """Mean over tasks and their rows of KL(pi_theta, pi_theta_i), how far the inner step goes; all stacked (N, ...)."""

    def of_task(parameters: Parameters, adapted: Parameters, batch: GradientBatch) -> Tensor:
        before: Gaussian = functional_call(policy, parameters, (batch.states,))
        after: Gaussian = functional_call(policy, adapted, (batch.states,))
        return (batch.weights * before.kl(after)).sum()

    with torch.no_grad():
        return float(vmap(of_task)(parameters, adapted, batch).mean())


def meta_objective(
    policy: BehaviorPolicy,
    parameters: Parameters,
    before: GradientBatch,
    after: GradientBatch,
    old: Gaussian,
    rate: float,
    first_order: bool = False,
    offsets: Parameters | None = None,
) -> tuple[Tensor, Tensor]:
    """(-surrogate, KL) at the adapted parameters, both as means over tasks; ``old`` (N, R, A) is pi_theta_i_old.

    ``offsets`` (N, ...), where given, are added to the adapted parameters: what the inner step on ``before``, which may
    be some rows of many, misses of the real one.
    """
    if offsets is None:
        offsets = {name: value.new_zeros(()).expand(len(before.states)) for name, value in parameters.items()}

    def of_task(
        before: GradientBatch, after: GradientBatch, old: Gaussian, offsets: Parameters
    ) -> tuple[Tensor, Tensor]:
        adapted = inner_step(policy, parameters, before, rate, first_order)
        adapted = {name: value + offsets[name] for name, value in adapted.items()}
        gaussian: Gaussian = functional_call(policy, adapted, (after.states,))
        ratio = (log_probability(gaussian, after.actions) - log_probability(old, after.actions)).exp()
        return -(after.weights * after.advantages * ratio).sum(), (after.weights * old.kl(gaussian)).sum()

    losses, kls = vmap(of_task)(before, after, old, offsets)
    return losses.mean(), kls.mean()


def meta_update(
    policy: BehaviorPolicy,
    before: GradientBatch,
    after: GradientBatch,
    config: MamlConfig,
    adapted: Parameters | None = None,
) -> TrustRegionStep:
    """One meta-update of ``policy`` in place.

    ``adapted`` (N, ...) are the parameters that the episodes after the inner step were collected with, where
    ``before`` is not all that the step was on: where they lie is then exact, and how they move with theta, the
    Jacobian 1 - rate x Hessian, is that of the rows in ``before``, whose expectation is the same. To first order they
    move as theta does, and ``before`` is not looked at.
    """
    rate = 0.0 if config.first_order and adapted is not None else config.inner_rate
    named = dict(policy.named_parameters())
    shapes = {name: value.shape for name, value in named.items()}

    def unflatten(flat: Tensor) -> Parameters:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def objective_over_every(rows: int) -> Objective:
        """The KL is to where the inner step leads from the policy as it is, so that 0 is its minimum."""
        batches = before.every(rows), after.every(rows)
        by_these = inner_steps(policy, same_for_all(named, len(before.states)), batches[0], rate)
        offsets = None if adapted is None else {name: adapted[name] - value for name, value in by_these.items()}
        with torch.no_grad():
            old: Gaussian = vmap(partial(functional_call, policy))(adapted or by_these, (batches[1].states,))

        def objective(flat: Tensor) -> tuple[Tensor, Tensor]:
            return meta_objective(policy, unflatten(flat), *batches, old, rate, config.first_order, offsets)

        return objective

    flat = torch.cat([value.detach().flatten() for value in named.values()])
    curvature = objective_over_every(config.curvature_every) if config.curvature_every > 1 else None
    step = trust_region_step(objective_over_every(1), flat, config.trust_region, curvature)
    with torch.no_grad():
        for name, value in unflatten(step.parameters).items():
            named[name].copy_(value)
    return step


# -- stage -----------------------------------------------------------------------------------------


class MamlMetaTraining(Stage):
    """policy -> meta-trained policy."""

    def __init__(self, config: MamlConfig, policy: BehaviorPolicy, context: StageContext) -> None:
        self.config, self.context = config, context
        self.distribution = context.task_distribution
        self.policy = policy.to(context.device).requires_grad_(False)
        self.log = EpisodeLog(self.distribution.score_range[1])
        self.iterations = self.accepted = 0
        self._success: float | None = None
        self._begin_iteration()

    def _begin_iteration(self) -> None:
        count = len(self.distribution.train_tasks)
        generator = torch_generator(self.context.seed, "meta_train", "tasks", self.iterations)
        order = torch.randperm(count, generator=generator)[: self.config.tasks_per_iteration]
        self.tasks: list[int] = order.sort().values.tolist()
        self.episodes: dict[str, list[list[TaskEpisode]]] = {phase: [[] for _ in self.tasks] for phase in PHASES}
        self._results: dict[str, list[EpisodeRow]] = {phase: [] for phase in PHASES}
        self._adapted: Parameters | None = None
        self.inner_kl = 0.0
        """Mean over tasks, once the inner step was made."""

    @property
    def progress(self) -> Progress:
        return Progress(self.iterations, self.config.meta_iterations, "meta-iterations", self._success)

    def advance(self) -> StageReport:
        for phase in PHASES:
            if min(map(len, self.episodes[phase])) < self.config.episodes_per_task:
                return StageReport(self._collect(phase))
        return self._update()

    def _collect(self, phase: str) -> list[EpisodeRow]:
        """Some episodes of this iteration's tasks."""
        collected = [len(of_task) for of_task in self.episodes[phase]]
        chosen, count = next_lanes(collected, self.config.episodes_per_task, self.config.lanes)
        first = self.iterations * self.config.episodes_per_task
        lanes = [(index, first + collected[index] + i) for index in chosen for i in range(count)]
        keys: list[EpisodeKey] = [(self.context.seed, phase, self.tasks[index], i) for index, i in lanes]
        tasks = [self.distribution.train_tasks[self.tasks[index]] for index, _ in lanes]
        stacked = self._parameters() if phase == PHASES[0] else self._adapted_parameters()
        parameters = {name: value[chosen] for name, value in stacked.items()}
        rows = []
        for (index, _), episode in zip(lanes, act(self.context, self.policy, parameters, tasks, keys), strict=True):
            self.episodes[phase][index].append(TaskEpisode.of(episode))
            rows.append(self.log.row(phase, self.tasks[index], episode))
        self._results[phase] += rows
        return rows

    def _parameters(self) -> Parameters:
        return same_for_all(dict(self.policy.named_parameters()), len(self.tasks))

    def _adapted_parameters(self) -> Parameters:
        """theta_i (N, ...) of this iteration's tasks: a function of the episodes before, computed once."""
        if self._adapted is None:
            self._adapted = {name: torch.empty_like(value) for name, value in self._parameters().items()}
            self.inner_kl = 0.0
            for index in range(len(self.tasks)):  # one by one: full episodes of the maze are 20,000 rows a task
                self._adapt(index, self._adapted)
        return self._adapted

    def _adapt(self, index: int, adapted: Parameters) -> None:
        """The inner step of one task, over all rows there are: a gradient on fewer is mostly noise."""
        discount, longest = self.config.discount, self.distribution.episode_env_steps
        batch = make_gradient_batch(self.policy, [self.episodes[PHASES[0]][index]], discount, longest)
        start = same_for_all(dict(self.policy.named_parameters()), 1)
        moved = inner_steps(self.policy, start, batch, self.config.inner_rate)
        self.inner_kl += inner_step_kl(self.policy, start, moved, batch) / len(self.tasks)
        for name, value in moved.items():
            adapted[name][index] = value[0]

    def _batch(self, phase: str) -> GradientBatch:
        """What the meta-update is over: ``gradient_rows`` of each task."""
        choice = None
        if self.config.gradient_rows:
            generator = torch_generator(self.context.seed, "meta_train", "rows", phase, self.iterations)
            choice = RowChoice(self.config.gradient_rows, generator)
        longest = self.distribution.episode_env_steps
        return make_gradient_batch(self.policy, self.episodes[phase], self.config.discount, longest, choice)

    def _update(self) -> StageReport:
        adapted = self._adapted_parameters()
        before, after = self._batch(PHASES[0]), self._batch(PHASES[1])
        step = meta_update(self.policy, before, after, self.config, adapted)
        self.iterations += 1
        self.accepted += step.accepted
        metrics = self._metrics(step)
        self._success = metrics["meta_train_posterior_success"]
        self._begin_iteration()
        return StageReport(metrics=metrics)

    def _metrics(self, step: TrustRegionStep) -> dict[str, float]:
        metrics = {
            "meta_iterations": float(self.iterations),
            "accepted": float(step.accepted),
            "kl": step.kl,
            "inner_kl": self.inner_kl,
            "backtracks": float(step.backtracks),
            "surrogate_gain": step.loss_before - step.loss_after,
            "env_steps": float(sum(self.log.env_steps.values())),
        }
        for phase, rows in self._results.items():
            metrics[f"{phase}_return"] = sum(row.episode_return for row in rows) / len(rows)
            metrics[f"{phase}_success"] = sum(row.success for row in rows) / len(rows)
        return metrics

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "log": self.log.state_dict(),
            "iterations": self.iterations,
            "accepted": self.accepted,
            "success": self._success,
            "episodes": {
                phase: [[list(episode) for episode in of_task] for of_task in tasks]
                for phase, tasks in self.episodes.items()
            },
            "results": {phase: [list(vars(row).values()) for row in rows] for phase, rows in self._results.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.log.load_state_dict(state["log"])
        self.iterations, self.accepted = state["iterations"], state["accepted"]
        self._success = state["success"]
        self._begin_iteration()
        for phase in PHASES:
            self.episodes[phase] = [[TaskEpisode(*episode) for episode in task] for task in state["episodes"][phase]]
            self._results[phase] = [EpisodeRow(*row) for row in state["results"][phase]]

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        contents = {"config": asdict(self.config), "policy": behavior_policy_contents(self.policy)}
        save_tensors(folder / META_FILE, contents)
        return {"meta_iterations": self.iterations, "accepted": self.accepted, "last_posterior_success": self._success}

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An episode of every task of an iteration; a meta-update on as many env_steps as full episodes have."""
        rows = self.config.gradient_rows or self.config.episodes_per_task * self.distribution.episode_env_steps
        before, after = (random_gradient_batch(self.context, self.policy, len(self.tasks), rows) for _ in PHASES)
        tasks = [self.distribution.train_tasks[task] for task in self.tasks]

        def update() -> int:
            meta_update(self.policy, before, after, self.config)
            return 1

        return (
            TimedWork(
                "roll-out", "env_steps", lambda: timed_episodes(self.context, self.policy, self._parameters(), tasks)
            ),
            TimedWork("update", "updates", update),
        )
