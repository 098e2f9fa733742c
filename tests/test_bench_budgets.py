"""Budgets of planned stages against counts by hand; and what ``bench sweep --dry-run`` says of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from algorithms.budget import Budget
from bench.budgets import stage_budget
from bench.plan import RunRequest, plan_run
from tests.conftest import Bench


def budget(algo: str, env: str, preset: str, stage: str, out: Path) -> Budget:
    plan = plan_run(RunRequest(algo, env, preset))
    (planned,) = [each for each in plan.stages if each.spec.name == stage]
    found = stage_budget(plan, planned, out)
    assert found is not None
    return found


def test_simpl_on_the_kitchen_at_paper_is_the_papers_budget(tmp_path: Path) -> None:
    """23 tasks, 280 env_steps and 28 skills an episode; 20 sets of 256 transitions an update, reuse 256."""
    warm_up = 23 * (math.ceil(1024 / 28) + math.ceil(256 / 28))
    found = budget("simpl", "kitchen", "paper", "meta_train", tmp_path)
    assert found.episodes == 3450 + warm_up
    assert found.env_steps == found.episodes * 280
    assert found.updates == 75 * (256 * 2 * 23 * 28 // (20 * 256)) == 75 * 64
    assert found.rows == found.updates * 20 * 256
    adapt = budget("simpl", "kitchen", "paper", "adapt", tmp_path)
    assert (adapt.episodes, adapt.env_steps) == (10 * 200, 10 * 200 * 280)
    assert adapt.updates == 10 * (200 - 20) * 28, "256 x 28 / 256 an episode, none for exploration, which is dropped"


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_skills_of_the_kitchen_take_about_the_released_updates(preset: str, tmp_path: Path) -> None:
    """600 trajectories of about 205 env_steps: 0.99 x 123,000 / 11 crops, 86 batches a pass, 5,000 passes."""
    found = budget("spirl", "kitchen", preset, "skills", tmp_path)
    assert found == Budget(updates=430_000, rows=430_000 * 128)


def test_the_maze_at_paper_has_the_papers_episodes_whatever_its_number_of_tasks(tmp_path: Path) -> None:
    for env, episodes in (("maze", 16_000), ("maze-20", 18_000), ("maze-10", 10_000)):
        tasks = {"maze": 40, "maze-20": 20, "maze-10": 10}[env]
        warm_up = tasks * (math.ceil(8192 / 200) + math.ceil(1024 / 200))
        assert budget("simpl", env, "paper", "meta_train", tmp_path).episodes == episodes + warm_up


def test_every_stage_of_every_paper_preset_is_counted(tmp_path: Path) -> None:
    for algo in ("simpl", "spirl", "mtrl", "sac", "pearl", "pearl-ft", "bc+pearl", "bc+maml"):
        for env in ("maze", "kitchen"):
            plan = plan_run(RunRequest(algo, env, "paper"))
            for planned in plan.stages:
                found = stage_budget(plan, planned, tmp_path)
                assert planned.spec.name == "data" or (found is not None and found.updates + found.episodes > 0)


def test_a_dry_run_counts_env_steps_and_updates(bench: Bench, tmp_path: Path) -> None:
    outcome = bench(
        "sweep", "figure4", "--preset", "released", "--dry-run", "--only", "spirl-kitchen-*-s0", "--out", str(tmp_path)
    )
    assert outcome.code == 0
    assert "430,000" in outcome.out
    assert f"{10 * 1000 * 280:,}" in outcome.out, "adapt's env_steps"
    assert f"{10 * 1000 * 28:,}" in outcome.out, "adapt's updates"
