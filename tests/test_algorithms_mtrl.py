"""MTRL: distillation against independent formulas and closed forms, the stack against single learners, what is kept.

Of the three training tasks one is solved by the first env_step, one by about every third episode, and one never.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from algorithms import spirl
from algorithms.files import load_tensors, save_tensors
from algorithms.mtrl import (
    DISTILLED_FILE,
    TASK_POLICIES_FILE,
    DistilConfig,
    Distillation,
    MtrlAdaptConfig,
    TaskPolicies,
    TaskPoliciesConfig,
    make_adapt_stage,
)
from algorithms.networks import Gaussian
from algorithms.registry import algorithm
from algorithms.regularized_sac import ActorCriticConfig, SkillActorCritic
from algorithms.spirl import SpirlAdaptConfig
from algorithms.stage import StageContext
from envs.core import Task
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    advance_to_end,
    flat_parameters,
    naive_mlp,
    short_maze,
    stage_context,
    write_skills,
)

MAZE = short_maze(60, [START_GOAL, NEAR_GOAL, FAR_GOAL])
AT_ONCE, SOMETIMES, NEVER = 0, 1, 2
STATE_DIM, LATENT_DIM = 4, 3
NETWORKS = ActorCriticConfig(hidden_dim=8, hidden_layers=1)
TASK_CONFIG = TaskPoliciesConfig(
    episodes=3, batch_size=6, replay_capacity=14, transition_reuse=4.0, learning_rate=1e-2, states_per_task=10,
    actor_critic=NETWORKS,
)  # fmt: skip
"""14 of the 18 transitions that three episodes without success bring are kept: the ring is overwritten."""


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_skills(tmp_path_factory.mktemp("skills"))


# -- distillation --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Centre:
    """Task policies N(mean_T, sigma_T), the same in all states, and the prior N(0, 1)."""

    means: Sequence[float] = (2.0, -1.0)
    sigmas: Sequence[float] = (0.5, 1.0)
    states_of_task: Sequence[int] = (40, 10)
    """The second task has a quarter of the first's states, and counts as much."""
    everywhere_the_same: bool = False
    """All tasks are in one and the same state, so that nothing tells them apart."""


def distillation(folder: Path, config: DistilConfig, centre: Centre | None = None) -> Distillation:
    """The stage on made-up task policies."""
    centre = centre or Centre()
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for mean, sigma, count in zip(centre.means, centre.sigmas, centre.states_of_task, strict=True):
        ones = torch.ones(count, LATENT_DIM)
        tasks.append(
            {
                "states": torch.randn(count, STATE_DIM, generator=generator) * (not centre.everywhere_the_same),
                "prior": torch.cat([0 * ones, ones], 1),
                "teacher": torch.cat([mean * ones, sigma * ones], 1),
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / TASK_POLICIES_FILE, {"actor_critic": dataclasses.asdict(NETWORKS), "tasks": tasks})
    return Distillation(config, stage_context(MAZE, {"task_policies": folder}))


def normal(gaussian: Gaussian) -> Independent:
    """In double precision."""
    return Independent(Normal(gaussian.mean.double(), gaussian.sigma.double()), 1)


def random_gaussian() -> Gaussian:
    return Gaussian(torch.randn(7, LATENT_DIM), torch.rand(7, LATENT_DIM) + 0.3)


def off_the_prior(stage: Distillation) -> Distillation:
    with torch.no_grad():
        for parameter in stage.networks.policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return stage


def test_both_divergences_are_those_of_torch_distributions_in_their_direction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage, policy, other = distillation(tmp_path, DistilConfig()), random_gaussian(), random_gaussian()
    from_teacher = kl_divergence(normal(other), normal(policy)).mean()
    to_prior = kl_divergence(normal(policy), normal(other)).mean()
    assert float(stage.distillation_loss(policy, other)) == pytest.approx(float(from_teacher), rel=1e-5)
    assert float(stage.prior_divergence(policy, other)) == pytest.approx(float(to_prior), rel=1e-5)
    assert float(from_teacher) != pytest.approx(float(to_prior), rel=0.05), "the directions can be told apart"


def test_an_update_equals_the_formulas_and_leaves_critics_alone(tmp_path: Path) -> None:
    """The gradient of E KL(pi_T, pi_0) + alpha E KL(pi_0, p), written with torch.distributions; Adam's first step."""
    config = DistilConfig(batch_size=20, learning_rate=0.01, initial_coefficient=0.3)
    stage = off_the_prior(distillation(tmp_path, config))
    states, prior, teacher = stage.draw()
    weights = [p.detach()[0].double().requires_grad_() for p in stage.networks.policy.parameters()]
    layers = [(weights[2 * i], weights[2 * i + 1]) for i in range(len(weights) // 2)]
    mean, residual = naive_mlp(layers, states.double()).chunk(2, -1)
    sigma = 0.001 + F.softplus(torch.log(torch.expm1(prior.sigma.double())) + residual)
    policy = Independent(Normal(prior.mean.double() + mean, sigma), 1)
    distil = kl_divergence(normal(teacher), policy).mean()
    divergence = kl_divergence(policy, normal(prior)).mean()
    (distil + 0.3 * divergence).backward()
    distil, divergence = distil.detach(), divergence.detach()

    critics = flat_parameters(stage.networks.critics)
    metrics = stage.update(states, prior, teacher)
    assert metrics["kl_from_task_policies"] == pytest.approx(float(distil), rel=1e-5)
    assert metrics["kl_to_prior"] == pytest.approx(float(divergence), rel=1e-5)
    for parameter, expected in zip(stage.networks.policy.parameters(), weights, strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(parameter.grad[0].double(), expected.grad, rtol=1e-4, atol=1e-6)
        step = 0.01 * expected.grad / (expected.grad.abs() + 1e-8)
        torch.testing.assert_close(parameter[0].detach().double(), expected.detach() - step, rtol=1e-4, atol=1e-4)
    assert torch.equal(flat_parameters(stage.networks.critics), critics)


@pytest.mark.parametrize(("target_kl", "direction"), [(1e-3, 1), (1e3, -1)])
def test_alpha_rises_above_the_target_and_falls_below_it(tmp_path: Path, target_kl: float, direction: int) -> None:
    """Dual gradient on -alpha (KL - target): d/d raw = -sigmoid(raw) (KL - target); Adam's first step is its rate."""
    stage = off_the_prior(distillation(tmp_path, DistilConfig(target_kl=target_kl, coefficient_learning_rate=0.02)))
    raw = stage.coefficient.raw.detach().clone()
    metrics = stage.update(*stage.draw())
    expected = -torch.sigmoid(raw) * (metrics["kl_to_prior"] - target_kl)
    torch.testing.assert_close(stage.coefficient.raw.grad, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        stage.coefficient.raw.detach() - raw, torch.tensor([direction * 0.02]), rtol=1e-3, atol=0
    )
    assert metrics["coefficient"] == pytest.approx(float(F.softplus(raw + direction * 0.02)), rel=1e-4)


def trained(folder: Path, **settings: Any) -> tuple[Distillation, Mapping[str, float]]:
    config = DistilConfig(
        **{"updates": 800, "batch_size": 500, "learning_rate": 1e-2, "coefficient_learning_rate": 1e-2} | settings
    )
    config.validate()
    stage = distillation(folder / "tasks", config, Centre(everywhere_the_same=True))
    assert advance_to_end(stage) == []
    return stage, stage.write_artefact(folder)


def shared(stage: Distillation) -> Gaussian:
    ones = torch.ones(len(stage.states), LATENT_DIM)
    with torch.no_grad():
        return stage.shared_policy(stage.states, Gaussian(0 * ones, ones))


def test_without_constraint_the_shared_policy_is_the_centroid(tmp_path: Path) -> None:
    """argmin of the mean of KL(N_T, N) over Gaussians N: the mixture's mean and variance. Tasks count alike, whatever
    their number of states: means 2 and -1, variances 1/4 and 1 give 1/2 and (4.25 + 2) / 2 - 1/4."""
    stage, _ = trained(tmp_path, target_kl=1e6)
    policy = shared(stage)
    torch.testing.assert_close(policy.mean.mean(0), torch.full((LATENT_DIM,), 0.5), rtol=0, atol=0.05)
    variance = 6.25 / 2 - 0.25
    torch.testing.assert_close(policy.sigma.square().mean(0), torch.full((LATENT_DIM,), variance), rtol=0.05, atol=0)


def test_the_constraint_holds_at_the_end_and_costs_closeness(tmp_path: Path) -> None:
    """KL(pi_0, prior) settles at the target (it wants to be larger), and what is reached is what the best trade-off
    alpha reaches: at the optimum the gradient of KL(pi_T, pi_0) is -alpha that of KL(pi_0, prior)."""
    free, numbers = trained(tmp_path / "free", target_kl=1e6)
    bound, constrained = trained(tmp_path / "bound", target_kl=0.2)
    assert numbers["kl_to_prior"] > 1.0
    assert constrained["kl_to_prior"] == pytest.approx(0.2, rel=0.1)
    assert constrained["kl_from_task_policies"] > numbers["kl_from_task_policies"]
    assert constrained["kl_from_task_policies"] < constrained["kl_from_task_policies_of_the_prior"]
    assert float(bound.coefficient.values[0]) > 10 * float(free.coefficient.values[0])
    policy, alpha = shared(bound), float(bound.coefficient.values[0])
    mean, variance = float(policy.mean.mean()), float(policy.sigma.square().mean())
    # Stationarity in the mean of sum_T KL(N_T, N) / 2 + alpha KL(N, N(0, 1)): (mean - 1/2) / variance + alpha mean = 0.
    assert (0.5 - mean) / variance == pytest.approx(alpha * mean, rel=0.25)


def test_each_task_is_drawn_as_often_as_another(tmp_path: Path) -> None:
    stage = distillation(tmp_path, DistilConfig(batch_size=4000))
    _, _, teacher = stage.draw()
    assert set(teacher.mean[:, 0].tolist()) == {2.0, -1.0}
    assert float((teacher.mean[:, 0] == 2.0).float().mean()) == pytest.approx(0.5, abs=0.03)
    states, _, _ = stage.draw()
    assert len(states.unique(dim=0)) == 50, "every state gets its turn"


# -- task policies -------------------------------------------------------------------------------------------------


class SomeTaskPolicies(TaskPolicies):
    """Only some of the training tasks, each under its own index."""

    chosen: Sequence[int] = range(3)

    def tasks_to_learn(self) -> tuple[Sequence[Task], Sequence[int]]:
        tasks, _ = super().tasks_to_learn()
        return tasks, self.chosen


def task_policies(skills: Path, chosen: Sequence[int] = range(3)) -> SomeTaskPolicies:
    kind = type("ChosenTaskPolicies", (SomeTaskPolicies,), {"chosen": chosen})
    stage: SomeTaskPolicies = kind(TASK_CONFIG, stage_context(MAZE, {"skills": skills}))
    return stage


def test_one_learner_for_each_training_task(skills: Path, tmp_path: Path) -> None:
    stage = TaskPolicies(TASK_CONFIG, stage_context(MAZE, {"skills": skills}, target_tasks=(1,)))
    rows = advance_to_end(stage)
    assert {row.task for row in rows} == {0, 1, 2}
    assert {row.phase for row in rows} == {"task_policy"}
    stage.write_artefact(tmp_path)
    saved = load_tensors(tmp_path / TASK_POLICIES_FILE)["tasks"]
    transitions = [sum(-(-row.length // 10) for row in rows if row.task == task) for task in range(3)]
    assert transitions[NEVER] == 18
    assert [len(task["states"]) for task in saved] == [min(count, 10) for count in transitions]


@pytest.mark.parametrize("task", [SOMETIMES, NEVER])
def test_a_task_policy_of_the_stack_is_what_it_is_alone(skills: Path, task: int) -> None:
    """The same first episodes, and after all updates the same policy but for sums in another order."""
    together, alone = task_policies(skills), task_policies(skills, (task,))
    rows = [row for row in advance_to_end(together) if row.task == task]
    assert advance_to_end(alone) == rows
    for name in ("states", "prior", "teacher"):
        one, other = together.finished_learners[task][name], alone.finished_learners[task][name]
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    prior, teacher = (together.finished_learners[task][name] for name in ("prior", "teacher"))
    assert float((prior - teacher).abs().max()) > 0.02, "it has learned something"


@pytest.mark.parametrize("learner", [0, 1, 2])
def test_what_is_kept_is_each_learners_own_policy_at_its_newest_states(skills: Path, learner: int) -> None:
    """Written out: mean + residual, softplus of the raw sigma; for each learner with its own weights."""
    stage = task_policies(skills)
    episodes: list[Tensor] = []
    real_pack = stage.pack
    stage.pack = lambda episode: note(episodes, real_pack(episode))  # type: ignore[method-assign]
    while stage.log.count(NEVER) < 3:
        stage._collect_where_waiting()
        stage.owed_updates.zero_()
    for parameter in stage.networks.policy.parameters():
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.3
    kept = stage.learner_state(learner)
    of_learner = torch.cat([rows for index, rows in enumerate(episodes) if index % 3 == learner])[-10:]
    columns = stage.fields.unpack(of_learner)
    assert torch.equal(kept["states"], columns["states"])
    assert torch.equal(kept["prior"], columns["prior"])
    weights = [parameter.detach()[learner] for parameter in stage.networks.policy.parameters()]
    mean, residual = naive_mlp([(weights[0], weights[1]), (weights[2], weights[3])], kept["states"]).chunk(2, -1)
    prior_mean, prior_sigma = kept["prior"].chunk(2, -1)
    sigma = 0.001 + F.softplus(torch.log(torch.expm1(prior_sigma)) + residual)
    torch.testing.assert_close(kept["teacher"], torch.cat([prior_mean + mean, sigma], -1), rtol=1e-4, atol=1e-5)


def note(notes: list[Tensor], rows: Tensor) -> Tensor:
    notes.append(rows)
    return rows


# -- target tasks --------------------------------------------------------------------------------------------------


def distilled(folder: Path) -> Path:
    """A distil artefact with a policy off the prior."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    shapes = [
        shape for before, after in pairwise((STATE_DIM, 8, 2 * LATENT_DIM)) for shape in ((before, after), (1, after))
    ]
    policy = [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]
    save_tensors(folder / DISTILLED_FILE, {"actor_critic": dataclasses.asdict(NETWORKS), "policy": policy})
    return folder


def test_adapting_starts_from_the_distilled_policy_and_carries_nothing_else_over(skills: Path, tmp_path: Path) -> None:
    """Critics, their targets and alpha are what SPiRL starts with, bit for bit."""
    folder = distilled(tmp_path / "distil")
    context: StageContext = stage_context(MAZE, {"skills": skills, "distil": folder}, target_tasks=(0, 2))
    mtrl = make_adapt_stage(MtrlAdaptConfig(initial_coefficient=0.07), context)
    reference = spirl.make_adapt_stage(SpirlAdaptConfig(initial_coefficient=0.07, actor_critic=NETWORKS), context)
    saved = load_tensors(folder / DISTILLED_FILE)
    assert set(saved) == {"actor_critic", "policy"}
    for parameter, expected in zip(mtrl.networks.policy.parameters(), saved["policy"], strict=True):
        assert [torch.equal(one, expected) for one in parameter.detach()] == [True, True]
    mine: SkillActorCritic = mtrl.networks
    for part in ("critics", "target_critics"):
        assert torch.equal(flat_parameters(getattr(mine, part)), flat_parameters(getattr(reference.networks, part)))
    assert torch.equal(mtrl.coefficients.values, reference.coefficients.values)
    assert mtrl.coefficients.values.tolist() == pytest.approx([0.07, 0.07])
    assert (mtrl.config.coefficient_only_grows, mtrl.config.kl_clip) == (False, 10.0)  # type: ignore[attr-defined]
    assert {row.phase for row in mtrl.advance().episodes} == {"adapt"}


def test_states_per_task_fit_in_the_replay() -> None:
    with pytest.raises(ValueError, match="states_per_task is 15"):
        dataclasses.replace(TASK_CONFIG, states_per_task=15).validate()


def test_target_kls_are_the_papers_at_paper() -> None:
    """F.4: 0.1 on the maze, 0.2 on the kitchen; the image maze, which F.4 does not name, is a maze."""
    for family, papers in {"maze": 0.1, "image-maze": 0.1, "kitchen": 0.2}.items():
        values = algorithm("mtrl").presets[family, "paper"]
        assert values.get("distil.target_kl", DistilConfig().target_kl) == papers
