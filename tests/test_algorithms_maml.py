"""MAML's losses against hand-derived numbers, loops and finite differences; the meta-training stage.

Axes: N task, R row, D feature, A action feature, P parameter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from algorithms.behavior_cloning import BehaviorPolicy, GaussianPolicyConfig, behavior_policy_from
from algorithms.files import load_tensors
from algorithms.maml import (
    PHASES,
    MamlConfig,
    MamlMetaTraining,
    inner_loss,
    inner_step,
    inner_steps,
    log_probability,
    meta_objective,
    meta_update,
)
from algorithms.meta_training import META_FILE
from algorithms.networks import Gaussian
from algorithms.policy_gradient import (
    GradientBatch,
    Parameters,
    make_gradient_batch,
    same_for_all,
    task_advantages,
)
from algorithms.stage import EpisodeRow, StageContext
from algorithms.trust_region import TrustRegionConfig
from tests.algorithm_helpers import (
    ACTION_DIM,
    FAR_GOAL,
    NEAR_GOAL,
    OBSERVATION_DIM,
    START_GOAL,
    advance_to_end,
    differences,
    short_maze,
    stage_context,
)

TASKS, ROWS = 3, 7
NETWORK = GaussianPolicyConfig(hidden_dim=5, hidden_layers=1)
RATE = 0.3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_policy(config: GaussianPolicyConfig = NETWORK, observation_dim: int = OBSERVATION_DIM) -> BehaviorPolicy:
    """In float64, with states that are standardised."""
    policy = BehaviorPolicy(config, observation_dim, ACTION_DIM).double().requires_grad_(False)
    policy.state_mean.normal_()
    policy.state_sigma.uniform_(0.5, 2.0)
    return policy


def parameters_of(policy: BehaviorPolicy) -> Parameters:
    return {name: value.clone() for name, value in policy.named_parameters()}


def random_batch(tasks: int = TASKS) -> GradientBatch:
    """The last two rows of the first task are padding."""
    weights = torch.full((tasks, ROWS), 1 / ROWS)
    weights[0] = torch.tensor([0.2] * 5 + [0.0] * 2)
    columns = torch.randn(tasks, ROWS, OBSERVATION_DIM), torch.randn(tasks, ROWS, ACTION_DIM), torch.randn(tasks, ROWS)
    return GradientBatch(*(column.double() for column in (*columns, weights)))


def of_task(batch: GradientBatch, task: int) -> GradientBatch:
    return GradientBatch(*(column[task] for column in batch))


# -- REINFORCE -------------------------------------------------------------------------------------------------


def test_log_probability_is_torchs() -> None:
    gaussian = Gaussian(torch.randn(4, 2), torch.rand(4, 2) + 0.1)
    actions = torch.randn(4, 2)
    expected = torch.distributions.Normal(*gaussian).log_prob(actions).sum(-1)
    torch.testing.assert_close(log_probability(gaussian, actions), expected)


def test_reinforce_gradient_by_hand() -> None:
    """No hidden layer: mean = W s + b and one sigma. d/db = -E[A (a - mean) / sigma^2], d/dW that times s,
    d/d log sigma = -E[A ((a - mean)^2 / sigma^2 - 1)]."""
    policy = make_policy(GaussianPolicyConfig(hidden_dim=1, hidden_layers=1, sigma="parameter", initial_sigma=0.7))
    with torch.no_grad():  # the hidden unit hands on s_0, which is kept above 0
        policy.state_mean.zero_()
        policy.state_sigma.fill_(1.0)
        policy.layers[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        policy.layers[0].bias.zero_()
    batch = of_task(random_batch(), 0)
    batch.states[:, 0].abs_()
    parameters = parameters_of(policy)
    gradients = torch.func.grad(lambda p: inner_loss(policy, p, batch))(parameters)
    mean = batch.states[:, :1] * parameters["layers.1.weight"].T + parameters["layers.1.bias"]
    factor = (batch.weights * batch.advantages)[:, None]
    score = (batch.actions - mean) / 0.7**2
    torch.testing.assert_close(gradients["layers.1.bias"], -(factor * score).sum(0))
    torch.testing.assert_close(gradients["layers.1.weight"][:, 0], -(factor * score * batch.states[:, :1]).sum(0))
    by_sigma = ((batch.actions - mean) / 0.7).square() - 1
    torch.testing.assert_close(gradients["log_sigma"], -(factor * by_sigma).sum(0))


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, width: float = 1e-6) -> Tensor:
    """Central differences: (P,) -> (P,)."""
    steps = torch.eye(len(at), dtype=at.dtype) * width
    return torch.stack([(function(at + step) - function(at - step)) / (2 * width) for step in steps])


def flatten(parameters: Parameters) -> Tensor:
    return torch.cat([value.flatten() for value in parameters.values()])


def unflatten(flat: Tensor, like: Parameters) -> Parameters:
    parts = flat.split([value.numel() for value in like.values()])
    return {name: part.view_as(value) for part, (name, value) in zip(parts, like.items(), strict=True)}


def test_reinforce_gradient_against_finite_differences() -> None:
    policy, batch = make_policy(), of_task(random_batch(), 0)
    parameters = parameters_of(policy)
    gradients = torch.func.grad(lambda p: inner_loss(policy, p, batch))(parameters)
    numeric = finite_difference(
        lambda flat: inner_loss(policy, unflatten(flat, parameters), batch), flatten(parameters)
    )
    torch.testing.assert_close(flatten(gradients), numeric, rtol=1e-5, atol=1e-8)


def test_padding_is_of_no_effect() -> None:
    policy, batch = make_policy(), random_batch()
    step = inner_step(policy, parameters_of(policy), of_task(batch, 0), RATE)
    for column in batch[:3]:
        column[0, 5:] = 1e3
    again = inner_step(policy, parameters_of(policy), of_task(batch, 0), RATE)
    assert differences(step, again) == []


# -- inner step --------------------------------------------------------------------------------------------------


def test_inner_steps_of_all_tasks_are_those_of_a_loop_with_autograd() -> None:
    """Each task from its own parameters, on its own rows; and no parameter is left out."""
    policy, batch = make_policy(), random_batch()
    starts = [{name: value + 0.1 * task for name, value in parameters_of(policy).items()} for task in range(TASKS)]
    stacked = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    adapted = inner_steps(policy, stacked, batch, RATE)
    for task, start in enumerate(starts):
        leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
        states, actions, advantages, weights = of_task(batch, task)
        gaussian = functional_call(policy, leaves, (states,))
        log_probabilities = torch.distributions.Normal(*gaussian).log_prob(actions).sum(-1)
        loss = -(weights * advantages * log_probabilities).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for (name, value), gradient in zip(start.items(), gradients, strict=True):
            torch.testing.assert_close(adapted[name][task], value - RATE * gradient)
            assert bool((adapted[name][task] != value).any()), name
        assert not any(value.requires_grad for value in adapted.values())


# -- meta-objective ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Problem:
    """A meta-update's data, and pi_theta_i_old at the policy's own parameters."""

    policy: BehaviorPolicy
    parameters: Parameters
    before: GradientBatch
    after: GradientBatch
    old: Gaussian

    @classmethod
    def random(cls, network: GaussianPolicyConfig = NETWORK) -> Problem:
        policy = make_policy(network)
        parameters, before, after = parameters_of(policy), random_batch(), random_batch()
        gaussians = [
            functional_call(policy, inner_step(policy, parameters, of_task(before, task), RATE), (after.states[task],))
            for task in range(TASKS)
        ]
        old = Gaussian(*(torch.stack(part) for part in zip(*gaussians, strict=True)))
        return cls(policy, parameters, before, after, old)

    def __call__(self, flat: Tensor, first_order: bool = False) -> tuple[Tensor, Tensor]:
        parameters = unflatten(flat, self.parameters)
        return meta_objective(self.policy, parameters, self.before, self.after, self.old, RATE, first_order)

    def gradient(self, at: Tensor, first_order: bool) -> Tensor:
        leaf = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self(leaf, first_order)[0], leaf)
        return gradient


def test_meta_objective_is_the_mean_over_tasks_of_surrogate_and_kl() -> None:
    problem = Problem.random()
    moved = {name: value + 0.05 * torch.randn_like(value) for name, value in problem.parameters.items()}
    losses, kls = [], []
    for task in range(TASKS):
        adapted = inner_step(problem.policy, moved, of_task(problem.before, task), RATE)
        states, actions, advantages, weights = of_task(problem.after, task)
        new = torch.distributions.Normal(*functional_call(problem.policy, adapted, (states,)))
        old = torch.distributions.Normal(problem.old.mean[task], problem.old.sigma[task])
        ratio = torch.exp((new.log_prob(actions) - old.log_prob(actions)).sum(-1))
        losses.append(-(weights * advantages * ratio).sum())
        kls.append((weights * torch.distributions.kl_divergence(old, new).sum(-1)).sum())
    loss, kl = problem(flatten(moved))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(kl, torch.stack(kls).mean())
    assert float(kl) > 1e-4


def test_at_the_old_parameters_ratios_are_one_and_the_kl_is_zero() -> None:
    problem = Problem.random()
    loss, kl = problem(flatten(problem.parameters))
    expected = -(problem.after.weights * problem.after.advantages).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert float(kl) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("sigma", ["head", "parameter"])
def test_meta_gradient_is_of_second_order(sigma: str) -> None:
    """Against finite differences of the whole objective, inner step included."""
    problem = Problem.random(dataclasses.replace(NETWORK, sigma=sigma))
    at = flatten(problem.parameters)
    numeric = finite_difference(lambda flat: problem(flat)[0], at)
    torch.testing.assert_close(problem.gradient(at, first_order=False), numeric, rtol=1e-4, atol=1e-8)


def test_first_order_takes_the_inner_gradient_for_a_constant() -> None:
    """It is the gradient at the adapted parameters, averaged; and not that of second order."""
    problem = Problem.random()
    at = flatten(problem.parameters)
    gradients = []
    for task in range(TASKS):
        adapted = inner_step(problem.policy, problem.parameters, of_task(problem.before, task), RATE)
        leaves = {name: value.clone().requires_grad_() for name, value in adapted.items()}
        # At ratio 1 the surrogate's gradient is REINFORCE's.
        loss = inner_loss(problem.policy, leaves, of_task(problem.after, task))
        gradients.append(flatten(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))))
    first = problem.gradient(at, first_order=True)
    torch.testing.assert_close(first, torch.stack(gradients).mean(0))
    second = problem.gradient(at, first_order=False)
    assert float((first - second).norm()) > 0.05 * float(second.norm())


# -- meta-update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature_every", [1, 2])
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_update_raises_the_objective_within_the_limit(curvature_every: int, first_order: bool) -> None:
    """And moves every parameter: with the step's own numbers recomputed from scratch."""
    problem = Problem.random()
    config = MamlConfig(
        inner_rate=RATE, first_order=first_order, curvature_every=curvature_every, trust_region=TrustRegionConfig(1e-3)
    )
    before = problem.parameters
    step = meta_update(problem.policy, problem.before, problem.after, config)
    assert step.accepted
    loss, kl = problem(flatten(parameters_of(problem.policy)))
    old_loss, _ = problem(flatten(before))
    assert float(loss) == pytest.approx(step.loss_after) and float(loss) < float(old_loss)
    assert float(kl) == pytest.approx(step.kl)
    assert 1e-4 < step.kl <= 1e-3
    for name, value in problem.policy.named_parameters():
        assert bool((value != before[name]).any()), name
        assert not value.requires_grad


def test_without_any_reward_the_policy_stays_as_it_is() -> None:
    problem = Problem.random()
    for batch in (problem.before, problem.after):
        batch.advantages.zero_()
    step = meta_update(problem.policy, problem.before, problem.after, MamlConfig())
    assert not step.accepted
    assert differences(parameters_of(problem.policy), problem.parameters) == []


# -- stage -------------------------------------------------------------------------------------------------------

CONFIG = MamlConfig(
    meta_iterations=3, tasks_per_iteration=2, episodes_per_task=3, lanes=4, gradient_rows=40, curvature_every=2
)


def make_stage(config: MamlConfig = CONFIG, seed: int = 0, env_steps: int = 40) -> MamlMetaTraining:
    """Three training goals; a policy that was not learned from anything."""
    context: StageContext = stage_context(short_maze(env_steps, [START_GOAL, NEAR_GOAL, FAR_GOAL]), {}, seed)
    torch.manual_seed(1)
    return MamlMetaTraining(config, BehaviorPolicy(NETWORK, OBSERVATION_DIM, ACTION_DIM), context)


def test_an_iteration_is_episodes_before_episodes_after_and_an_update() -> None:
    """Two lanes for each of two tasks: three episodes come as two and one."""
    stage = make_stage()
    reports = [stage.advance() for _ in range(5)]
    assert [len(report.episodes) for report in reports] == [4, 2, 4, 2, 0]
    assert [{row.phase for row in report.episodes} for report in reports] == [
        {PHASES[0]}, {PHASES[0]}, {PHASES[1]}, {PHASES[1]}, set(),
    ]  # fmt: skip
    assert stage.iterations == 1
    metrics = reports[-1].metrics
    rows = [row for report in reports for row in report.episodes]
    for phase in PHASES:
        returns = [row.episode_return for row in rows if row.phase == phase]
        assert metrics[f"{phase}_return"] == pytest.approx(sum(returns) / 6)
    assert metrics["env_steps"] == sum(row.length for row in rows)


def test_fewer_lanes_than_tasks_collect_the_same_episodes_in_turns() -> None:
    few, many = (make_stage(dataclasses.replace(CONFIG, lanes=lanes)) for lanes in (1, 6))
    rows = [row for _ in range(6) for row in few.advance().episodes]
    assert [row.task for row in rows] == few.tasks * 3
    assert {(row.task, row.episode) for row in rows} == {(row.task, row.episode) for row in many.advance().episodes}
    for of_few, of_many in zip(few.episodes[PHASES[0]], many.episodes[PHASES[0]], strict=True):
        for one, other in zip(of_few, of_many, strict=True):
            torch.testing.assert_close(one.states, other.states)
            torch.testing.assert_close(one.actions, other.actions)


def test_rows_count_episodes_and_env_steps_per_task() -> None:
    rows = advance_to_end(make_stage())
    assert len(rows) == 3 * 2 * 2 * 3
    for task in {row.task for row in rows}:
        of_this = [row for row in rows if row.task == task]
        assert [row.episode for row in of_this] == list(range(len(of_this)))
        totals = [sum(row.length for row in of_this[: i + 1]) for i in range(len(of_this))]
        assert [row.env_steps for row in of_this] == totals
    assert all(row.success == (row.episode_return >= 1.0) for row in rows)


def test_tasks_of_an_iteration_differ_and_all_get_their_turn() -> None:
    stage = make_stage(dataclasses.replace(CONFIG, meta_iterations=12, episodes_per_task=1))
    seen = []
    while not stage.finished:
        assert len(set(stage.tasks)) == 2
        seen += stage.tasks
        stage.advance()
    assert set(seen) == {0, 1, 2}
    everyone = make_stage(dataclasses.replace(CONFIG, tasks_per_iteration=50))
    assert everyone.tasks == [0, 1, 2]


def whole_batch(stage: MamlMetaTraining) -> GradientBatch:
    """All rows before the inner step."""
    return make_gradient_batch(stage.policy, stage.episodes[PHASES[0]], CONFIG.discount, 40)


def test_episodes_after_the_inner_step_are_of_adapted_policies() -> None:
    """Those of tasks that found a reward; the others have nothing to learn from."""
    stage = make_stage(dataclasses.replace(CONFIG, inner_rate=5.0, tasks_per_iteration=3, lanes=9))
    stage.advance()
    adapted = stage._adapted_parameters()
    expected = inner_steps(
        stage.policy, same_for_all(dict(stage.policy.named_parameters()), 3), whole_batch(stage), 5.0
    )
    torch.testing.assert_close(adapted, expected, rtol=1e-5, atol=1e-6)
    moved = [bool((adapted["layers.0.weight"][i] != stage.policy.layers[0].weight).any()) for i in range(3)]
    rewarded = [any(bool(e.rewards.any()) for e in of_task) for of_task in stage.episodes[PHASES[0]]]
    assert moved == rewarded
    assert moved[0]
    assert not moved[2]


def test_the_inner_step_is_over_all_rows_and_says_how_far_it_went() -> None:
    """``gradient_rows`` is of the meta-update alone. Step and KL are computed anew from the episodes, without a batch:
    REINFORCE's gradient by autograd, the KL by torch.distributions, a mean over tasks of means over rows."""
    stage = make_stage(dataclasses.replace(CONFIG, inner_rate=5.0, tasks_per_iteration=3, lanes=9))
    start = deepcopy(stage.policy).requires_grad_()
    while min(map(len, stage.episodes[PHASES[0]])) < CONFIG.episodes_per_task:
        stage.advance()
    adapted, kls = stage._adapted_parameters(), []
    for task, episodes in enumerate(stage.episodes[PHASES[0]]):
        states, actions = (torch.cat([getattr(e, name) for e in episodes]) for name in ("states", "actions"))
        assert len(states) > CONFIG.gradient_rows or task == 0
        advantages = task_advantages(start, episodes, CONFIG.discount, 40)
        old = torch.distributions.Normal(*start(states))
        loss = -(advantages * old.log_prob(actions).sum(-1)).mean()
        gradients = torch.autograd.grad(loss, list(start.parameters()), retain_graph=True)
        moved = {name: p.detach() - 5.0 * g for (name, p), g in zip(start.named_parameters(), gradients, strict=True)}
        for name, value in moved.items():
            torch.testing.assert_close(adapted[name][task], value, rtol=1e-4, atol=1e-6)
        new = torch.distributions.Normal(*functional_call(start, moved, (states,)))
        kls.append(float(torch.distributions.kl_divergence(old, new).sum(-1).mean().detach()))
    metrics: dict[str, float] = {}
    while "inner_kl" not in metrics:
        metrics = dict(stage.advance().metrics)
    assert metrics["inner_kl"] == pytest.approx(sum(kls) / 3, rel=1e-3)
    assert kls[0] > 1e-6 and kls[2] == 0.0


def test_a_meta_update_on_some_rows_is_about_the_real_adapted_parameters() -> None:
    """Rows chosen from more: at theta the adapted parameters are those of the step on all rows, so ratios are 1 and the
    KL is 0; around it they move with theta as the step on the chosen rows does."""
    problem = Problem.random()
    whole, policy, theta = random_batch(), problem.policy, problem.parameters
    adapted = inner_steps(policy, same_for_all(theta, TASKS), whole, RATE)
    by_few = inner_steps(policy, same_for_all(theta, TASKS), problem.before, RATE)
    offsets = {name: adapted[name] - by_few[name] for name in theta}
    assert max(float(offset.abs().max()) for offset in offsets.values()) > 1e-3
    after = problem.after
    olds = [functional_call(policy, {n: v[t] for n, v in adapted.items()}, (after.states[t],)) for t in range(TASKS)]
    old = Gaussian(*(torch.stack(part) for part in zip(*olds, strict=True)))

    def objective(flat: Tensor) -> tuple[Tensor, Tensor]:
        parameters = unflatten(flat, theta)
        return meta_objective(policy, parameters, problem.before, after, old, RATE, offsets=offsets)

    loss, kl = objective(flatten(theta))
    torch.testing.assert_close(loss, -(after.weights * after.advantages).sum(1).mean())
    assert float(kl) == pytest.approx(0.0, abs=1e-12)
    leaf = flatten(theta).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(leaf)[0], leaf)
    expected = torch.zeros_like(
        gradient
    )  # (1 - rate H) v for each task, H of the chosen rows, v at the real parameters
    for task in range(TASKS):
        at = {name: value[task].clone().requires_grad_() for name, value in adapted.items()}
        surrogate = inner_loss(policy, at, of_task(after, task))  # at ratio 1 its gradient is REINFORCE's
        v = flatten(dict(zip(at, torch.autograd.grad(surrogate, list(at.values())), strict=True)))
        hessian = finite_difference(
            lambda flat, task=task: flatten(
                torch.func.grad(lambda p: inner_loss(policy, p, of_task(problem.before, task)))(unflatten(flat, theta))
            ),
            flatten(theta),
        )
        expected += (v - RATE * hessian @ v) / TASKS
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    step = meta_update(policy, problem.before, after, MamlConfig(inner_rate=RATE), adapted)
    assert step.accepted
    assert step.kl > 0.0


def test_to_first_order_adapted_parameters_move_as_theta_does() -> None:
    """Given where they lie, rows before the step are of no account: the step taken is one on the objective with
    theta_i + (theta' - theta), written out here."""
    problem = Problem.random()
    policy, theta, after = problem.policy, problem.parameters, problem.after
    adapted = inner_steps(policy, same_for_all(theta, TASKS), random_batch(), RATE)
    config = MamlConfig(inner_rate=RATE, first_order=True, trust_region=TrustRegionConfig(1e-3))
    step = meta_update(policy, problem.before, after, config, adapted)
    assert step.accepted
    moved = parameters_of(policy)
    losses, kls = [], []
    for task in range(TASKS):
        states, actions, advantages, weights = of_task(after, task)
        at = {name: adapted[name][task] + moved[name] - theta[name] for name in theta}
        old, new = (
            torch.distributions.Normal(*functional_call(policy, parameters, (states,)))
            for parameters in ({name: value[task] for name, value in adapted.items()}, at)
        )
        ratio = (new.log_prob(actions) - old.log_prob(actions)).sum(-1).exp()
        losses.append(-(weights * advantages * ratio).sum())
        kls.append((weights * torch.distributions.kl_divergence(old, new).sum(-1)).sum())
    assert step.loss_after == pytest.approx(float(torch.stack(losses).mean()), rel=1e-6)
    assert step.kl == pytest.approx(float(torch.stack(kls).mean()), rel=1e-6)
    assert step.loss_before == pytest.approx(-float((after.weights * after.advantages).sum(1).mean()), rel=1e-6)


def test_the_limit_of_the_kl_holds_at_every_update() -> None:
    stage = make_stage(dataclasses.replace(CONFIG, meta_iterations=15))
    kls, accepted = [], []
    while not stage.finished:
        metrics = stage.advance().metrics
        if "kl" in metrics:
            kls.append(metrics["kl"])
            accepted.append(metrics["accepted"])
    assert len(kls) == 15
    assert max(kls) <= CONFIG.trust_region.max_kl
    assert sum(accepted) == stage.accepted > 0


def run(stage: MamlMetaTraining) -> tuple[MamlMetaTraining, list[EpisodeRow]]:
    return stage, advance_to_end(stage)


def test_artefact_holds_the_policy_and_the_configuration(tmp_path: Path) -> None:
    stage, _ = run(make_stage())
    numbers = stage.write_artefact(tmp_path)
    saved = load_tensors(tmp_path / META_FILE)
    assert differences(behavior_policy_from(saved["policy"]).state_dict(), stage.policy.state_dict()) == []
    assert saved["config"]["inner_rate"] == CONFIG.inner_rate
    assert numbers["meta_iterations"] == 3
    assert 0.0 <= numbers["last_posterior_success"] <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta_iterations": 0}, "meta_iterations is 0"),
        ({"inner_rate": -0.1}, "inner_rate is -0.1"),
        ({"discount": 1.1}, "discount is 1.1"),
        ({"gradient_rows": -1}, "gradient_rows is -1"),
        ({"curvature_every": 0}, "curvature_every is 0"),
        ({"inner_rate": math.nan}, "inner_rate is nan"),
    ],
)
def test_a_bad_configuration_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change).validate()
