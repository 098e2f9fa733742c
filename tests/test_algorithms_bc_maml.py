"""BC+MAML and MAML as algorithms: where they start, what the paper preset holds, and 2-D navigation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from algorithms.bc_maml import (
    ALGORITHM,
    MAML,
    BcMamlConfig,
    ScratchMamlConfig,
    meta_train_from_bc,
    meta_train_from_scratch,
)
from algorithms.behavior_cloning import BC_STAGE, BcConfig, BehaviorCloning, GaussianPolicyConfig, load_behavior_policy
from algorithms.maml import PHASES
from algorithms.maml_adaptation import MamlAdaptation, MamlAdaptConfig
from algorithms.registry import algorithm
from algorithms.stage import StageContext
from envs.core import TaskDistribution
from envs.registry import task_distribution
from tests.algorithm_helpers import (
    advance_to_end,
    config_of,
    differences,
    maze_trajectories,
    short_maze,
    stage_context,
    write_trajectories,
)
from tests.conftest import Bench


def navigation_to_corners() -> TaskDistribution:
    """Finn et al.'s 2-D navigation with four training goals, which are the target goals too: those furthest out on the
    diagonals. Where goals lie together, a policy that goes between them does well without any inner step."""
    whole = task_distribution("navigation-2d")
    corners = [
        max(whole.train_tasks, key=lambda task: x * task.spec["goal"][0] + y * task.spec["goal"][1])
        for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1))
    ]
    return dataclasses.replace(whole, train_tasks=tuple(corners), target_tasks=tuple(corners))


def write_bc(folder: Path) -> Path:
    """A bc artefact of the real stage, on few trajectories of the maze."""
    data = write_trajectories(folder / "data", maze_trajectories(24))
    network = GaussianPolicyConfig(hidden_dim=16, hidden_layers=2)
    stage = BehaviorCloning(
        BcConfig(updates=50, batch_size=64, policy=network), stage_context(short_maze(20), {"data": data})
    )
    advance_to_end(stage)
    stage.write_artefact(folder)
    return folder


# -- recipes -----------------------------------------------------------------------------------------------------


def test_maml_is_bc_maml_without_bc() -> None:
    assert [stage.name for stage in ALGORITHM.stages] == ["bc", "meta_train", "adapt"]
    assert [stage.inputs for stage in ALGORITHM.stages] == [("data",), ("bc",), ("meta_train",)]
    assert ALGORITHM.stages[0] is BC_STAGE
    assert [stage.name for stage in MAML.stages] == ["meta_train", "adapt"]
    assert [stage.inputs for stage in MAML.stages] == [(), ("meta_train",)]
    assert MAML.stages[1] is ALGORITHM.stages[2]
    assert MAML.stages[0].implementation != ALGORITHM.stages[1].implementation
    assert (algorithm("bc+maml"), algorithm("maml")) == (ALGORITHM, MAML)
    assert ALGORITHM.needs_train_tasks
    assert MAML.needs_train_tasks


def test_paper_presets_are_finn_et_al() -> None:
    """Numbers of section 5.3 and appendix A.2, and of rllab, written out anew; no departure is on."""
    for found, key, tasks in ((ALGORITHM, ("maze", "paper"), 40), (MAML, ("navigation-2d", "paper"), 20)):
        meta = config_of(found, "meta_train", found.presets[key])
        assert (meta.meta_iterations, meta.tasks_per_iteration, meta.episodes_per_task) == (500, tasks, 20)
        assert (meta.inner_rate, meta.discount, meta.first_order) == (0.1, 0.99, False)
        assert (meta.gradient_rows, meta.curvature_every) == (0, 1)
        region = meta.trust_region
        assert (region.max_kl, region.conjugate_gradient_rounds, region.damping) == (0.01, 10, 1e-5)
        assert (region.backtracks, region.backtrack_ratio) == (15, 0.8)
        adapt = config_of(found, "adapt", found.presets[key])
        assert (adapt.exploration_episodes, adapt.episodes_per_step, adapt.later_rate_fraction) == (20, 20, 0.5)
    network = config_of(MAML, "meta_train", MAML.presets["navigation-2d", "paper"]).policy
    assert (network.hidden_dim, network.hidden_layers, network.sigma, network.initial_sigma) == (100, 2, "parameter", 1)


# -- where they start --------------------------------------------------------------------------------------------


def test_bc_maml_starts_from_the_cloned_policy_with_a_higher_floor_of_sigma(tmp_path: Path) -> None:
    context = stage_context(short_maze(20), {"bc": write_bc(tmp_path)})
    cloned = load_behavior_policy(tmp_path)
    stage = meta_train_from_bc(BcMamlConfig(min_log_sigma=-0.1), context)
    assert differences(stage.policy.state_dict(), cloned.state_dict()) == []
    states = torch.from_numpy(maze_trajectories(24).observations[:200])
    start, reference = stage.policy.action_prior(states), cloned.action_prior(states)
    assert torch.equal(start.mean, reference.mean)
    torch.testing.assert_close(start.sigma, reference.sigma.clamp(min=float(torch.tensor(-0.1).exp())))
    lower = meta_train_from_bc(BcMamlConfig(min_log_sigma=-9.0), context)
    assert torch.equal(lower.policy.action_prior(states).sigma, reference.sigma), "the network's own floor is higher"


def test_maml_starts_from_a_fresh_network_that_the_seed_fixes() -> None:
    contexts = [stage_context(short_maze(20), {}, seed) for seed in (0, 0, 1)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (meta_train_from_scratch(ScratchMamlConfig(), context).policy for context in contexts)
    assert torch.equal(torch.rand(3), expected), "the global generator is left alone"
    assert differences(first.state_dict(), again.state_dict()) == []
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)
    assert [tuple(layer.weight.shape) for layer in first.layers] == [(100, 4), (100, 100), (2, 100)]
    assert first.action_prior(torch.randn(3, 4)).sigma.tolist() == [[1.0, 1.0]] * 3


# -- 2-D navigation ------------------------------------------------------------------------------------------------


def returns_before_and_after(config: ScratchMamlConfig, context: StageContext) -> list[tuple[float, float, float]]:
    """(before the inner step, after it, KL of the update) of each meta-iteration."""
    stage = meta_train_from_scratch(config, context)
    course = []
    while not stage.finished:
        metrics = stage.advance().metrics
        if "kl" in metrics:
            course.append((*(metrics[f"{phase}_return"] for phase in PHASES), metrics["kl"]))
    return course


def test_a_handful_of_navigation_tasks_is_overfitted() -> None:
    """Returns after one inner step rise well above those before it, and above where they began."""
    config = ScratchMamlConfig(
        meta_iterations=12, tasks_per_iteration=4, episodes_per_task=10, lanes=40, curvature_every=5,
        policy=GaussianPolicyConfig(hidden_dim=32, hidden_layers=2, sigma="parameter"),
    )  # fmt: skip
    course = returns_before_and_after(config, stage_context(navigation_to_corners(), {}))
    assert max(kl for *_, kl in course) <= 0.01
    after_at_first = course[0][1]
    before, after = (sum(each[i] for each in course[-4:]) / 4 for i in (0, 1))
    assert after > before + 5
    assert after > 0.4 * after_at_first, f"{after_at_first} is negative: 0.4 of it is closer to 0"


@pytest.mark.slow
def test_navigation_at_quick_is_learned_in_one_step(tmp_path: Path) -> None:
    """Finn et al., section 5.3, 20 of quick's iterations, then unseen goals: one step of gradient is what does it."""
    preset = MAML.presets["navigation-2d", "quick"]
    config = dataclasses.replace(config_of(MAML, "meta_train", preset), meta_iterations=30)
    context = stage_context(task_distribution("navigation-2d"), {"meta_train": tmp_path})
    stage = meta_train_from_scratch(config, context)
    course = []
    while not stage.finished:
        metrics = stage.advance().metrics
        if "kl" in metrics:
            course.append([*(metrics[f"{phase}_return"] for phase in PHASES), metrics["kl"]])
    assert max(kl for *_, kl in course) <= config.trust_region.max_kl
    stage.write_artefact(tmp_path)
    before, after = (sum(each[i] for each in course[-5:]) / 5 for i in (0, 1))
    assert course[0][1] < -40
    assert after > -7
    assert after > before + 10
    rows = advance_to_end(MamlAdaptation(MamlAdaptConfig(episodes=40), context))
    unseen = [sum(row.episode_return for row in rows if row.episode // 20 == k) / (len(rows) / 2) for k in (0, 1)]
    assert unseen[1] > -7
    assert unseen[1] > unseen[0] + 10


# -- the maze ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_on_the_easy_maze_an_inner_step_raises_success(bench: Bench, tmp_path: Path) -> None:
    """Of a policy cloned from quick's data, over three of quick's iterations: 1,200 episodes before the step and 1,200
    after it, each with the reward or without. The difference lies more than three standard errors above 0."""
    outcome = bench(
        "run", "--algo", "bc+maml", "--env", "maze-easy", "--preset", "quick", "--until", "meta_train",
        "--meta_train.meta_iterations", "3", "--out", tmp_path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (rows,) = tmp_path.glob("bc+maml-*/episodes.parquet")
    table = pd.read_parquet(rows)
    before, after = (table.loc[table["phase"] == phase, "success"].to_numpy(float) for phase in PHASES)
    assert len(before) == len(after) == 3 * 20 * 20
    error = np.sqrt(before.var() / len(before) + after.var() / len(after))
    z = (after.mean() - before.mean()) / error
    assert z > 3, f"{before.mean():.3f} before, {after.mean():.3f} after, z = {z:.1f}"
