"""The tables of ``algorithms/README.md``: who gets gradient from what, and what each algorithm needs, against the code.

A stage's real updates are watched (``gradient_spy.py``); losses that are added up in one pass are looked at one by one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from algorithms.maml import inner_loss, meta_objective
from algorithms.networks import Gaussian
from algorithms.policy_gradient import random_gradient_batch
from algorithms.registry import algorithm_entries
from algorithms.simpl import SimplLearner
from algorithms.skill_model import skill_losses
from algorithms.stage import Stage
from bench.lookup import needs_data
from bench.store import ArtefactStore
from tests.conftest import ROOT
from tests.contract_helpers import ALGORITHMS, build, found, make_plan, stage_context
from tests.gradient_spy import parts_of, reached_by, spy_on

PAGE = ROOT / "algorithms" / "README.md"
UPDATES = 4
"""Watched of each stage."""


def table(first_header: str) -> list[list[str]]:
    """The cells of the page's table whose first column has this header."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


class LossRow(NamedTuple):
    stage: str
    algorithms: tuple[str, ...]
    in_pass: str
    loss: str
    reached: frozenset[str]


LOSSES = [
    LossRow(stage, tuple(of.split(", ")), in_pass, loss, frozenset(reached.split(", ")))
    for stage, of, in_pass, loss, reached in table("stage")
]


def rows_of(stage: str, algorithm: str) -> list[LossRow]:
    return [row for row in LOSSES if row.stage == stage and algorithm in row.algorithms and row.in_pass != "-"]


# -- single losses, of stages that have done some updates ------------------------------------------------------------


def skill_term(name: str) -> Callable[[Any], Tensor]:
    def loss(stage: Any) -> Tensor:
        stage.updates = 0
        term: Tensor = getattr(skill_losses(stage.model, *stage._batch()), name)
        return term

    return loss


def critic_loss_alone(stage: Any) -> Tensor:
    """The loss of critics and encoder with the weight of the encoder's KL at 0."""
    rows, contexts, tasks, noise = stage._draw()
    learner = stage.learner
    if isinstance(learner, SimplLearner):
        learner.encoder_coefficients.raw.data.fill_(-1e4)
        assert not bool(learner.encoder_coefficients.values.any())
        return learner.losses_of_critic_and_encoder(rows, contexts, tasks, noise)[0]
    learner.config = dataclasses.replace(learner.config, encoder_kl_weight=0.0)
    loss: Tensor = learner.losses_of_critic_and_encoder(rows, contexts[0], noise)[0]
    return loss


def encoder_kl_alone(stage: Any) -> Tensor:
    contexts, learner = stage._draw()[1], stage.learner
    if isinstance(learner, SimplLearner):
        posterior = learner.encode(*contexts)
        learner.encoder_coefficients.raw.data.fill_(1.0)
        return learner.encoder_regularisation(posterior, torch.zeros(len(posterior.mean), dtype=torch.int64))[0]
    learner.config = dataclasses.replace(learner.config, encoder_kl_weight=1.0)
    loss: Tensor = learner.encoder_loss(learner.encoder(contexts[0]))[0]
    return loss


def distillation_term(name: str) -> Callable[[Any], Tensor]:
    def loss(stage: Any) -> Tensor:
        states, prior, teacher = stage.draw()
        policy = stage.shared_policy(states, prior)
        if name == "teacher":
            term: Tensor = stage.distillation_loss(policy, teacher)
        else:
            term = stage.prior_divergence(policy, prior)
        return term

    return loss


def inner_loss_alone(stage: Any) -> Tensor:
    batch = random_gradient_batch(stage.context, stage.policy, 1, 20)
    return inner_loss(stage.policy, dict(stage.policy.named_parameters()), type(batch)(*(part[0] for part in batch)))


def meta_loss_alone(stage: Any) -> Tensor:
    batch = random_gradient_batch(stage.context, stage.policy, 3, 20)
    policy = stage.policy
    with torch.no_grad():
        old = Gaussian(*policy.action_prior(batch.states))
    loss, kl = meta_objective(policy, dict(policy.named_parameters()), batch, batch, old, 0.1)
    return loss + kl


TERMS: dict[tuple[str, str], Callable[[Any], Tensor]] = {
    ("skills", "reconstruction"): skill_term("reconstruction"),
    ("skills", "KL(q(z given s, a), N(0, I))"): skill_term("encoder_kl"),
    ("skills", "prior loss"): skill_term("prior"),
    ("meta_train", "critic loss"): critic_loss_alone,
    ("meta_train", "KL(q(e given c), N(0, I))"): encoder_kl_alone,
    ("distil", "KL(pi_T, pi_0)"): distillation_term("teacher"),
    ("distil", "KL(pi_0, prior)"): distillation_term("prior"),
    ("meta_train", "inner loss (REINFORCE)"): inner_loss_alone,
    ("meta_train", "surrogate, through the inner step"): meta_loss_alone,
    ("adapt", "inner loss (REINFORCE)"): inner_loss_alone,
}
"""(stage, loss) -> that loss by itself, where an update adds it to others or needs no backward pass of torch's."""


def stages_of(name: str, store: ArtefactStore) -> Iterator[tuple[str, Stage]]:
    """Each stage of an algorithm at ``smoke``, at its beginning."""
    plan = make_plan(name)
    build(plan, store)
    for planned in plan.stages:
        if planned.spec.name != "data":
            yield planned.spec.name, planned.spec.factory(planned.config, stage_context(plan, planned, store, 0))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_reach_exactly_what_the_table_says(
    name: str, undisturbed: ArtefactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage_name, stage in stages_of(name, undisturbed):
        rows = rows_of(stage_name, name)
        passes = [{part for row in rows if row.in_pass == each for part in row.reached}
                  for each in sorted({row.in_pass for row in rows})]  # fmt: skip
        seen = spy_on(stage, monkeypatch, UPDATES)
        if seen:
            assert seen == passes, stage_name
        for row in rows:
            alone = [other for other in rows if other.in_pass == row.in_pass] == [row]
            if not (alone and seen):
                loss = TERMS[stage_name, row.loss](stage)
                assert reached_by(parts_of(stage), loss.backward) == row.reached, row


def test_every_loss_of_the_table_belongs_to_a_stage_that_there_is() -> None:
    stages = {(stage.name, name) for name in ALGORITHMS for stage in found(name).stages}
    assert {(row.stage, name) for row in LOSSES for name in row.algorithms} == stages


# -- one row per algorithm -------------------------------------------------------------------------------------------


def test_every_algorithm_has_a_row_with_its_file_its_papers_and_what_it_needs() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table("algorithm")}
    assert list(rows) != []
    assert set(rows) == set(ALGORITHMS)
    for entry in algorithm_entries():
        if entry.name not in rows:
            continue
        papers, file, needs, checked_by = rows[entry.name]
        module = entry.target.partition(":")[0].rpartition(".")[2]
        assert file == f"[{module}.py]({module}.py)"
        docstring = (PAGE.parent / f"{module}.py").read_text().partition('"""\n\n')[0]
        identifiers = re.findall(r"\[arXiv ([\d.]+)\]\(https://arxiv.org/abs/([\d.]+)\)", papers)
        assert identifiers != []
        for shown, linked in identifiers:
            assert shown == linked
            assert shown in docstring, f"{entry.name}: {module}.py does not name {shown}"
        algorithm = found(entry.name)
        needed = ["offline data"] * needs_data(algorithm) + ["training tasks"] * algorithm.needs_train_tasks
        assert needs == (", ".join(needed) or "nothing")
        assert checked_by != ""
