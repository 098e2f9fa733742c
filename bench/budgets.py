"""What planned stages take at most, in episodes, env_steps and updates (``algorithms/budget.py``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from algorithms.budget import Budget, Scale
from bench.errors import StorageError
from bench.files import read_json
from bench.graph import StageNode
from bench.lookup import DATA_STAGE
from bench.plan import PlannedStage, RunPlan, plan_run
from bench.store import ARTEFACTS_FOLDER, MANIFEST


def stage_budget(plan: RunPlan, stage: PlannedStage, out: Path) -> Budget | None:
    """At most so much of a planned stage; None where its configuration has no ``budget``.

    The size of offline data is that of the artefact below ``out``; until it is built, what its configuration says.
    """
    count = getattr(stage.config, "budget", None)
    if count is None:
        return None
    distribution = plan.distribution_of(stage)
    tasks = {"none": 0, "train": len(distribution.train_tasks), "target": len(plan.target_tasks)}[stage.spec.tasks]
    skill_lengths = [getattr(planned.config, "skill_length", 1) for planned in plan.stages]
    trajectories, transitions = _data_size(plan, out)
    scale = Scale(
        tasks=tasks,
        episode_env_steps=distribution.episode_env_steps,
        skill_length=max(skill_lengths),
        trajectories=trajectories,
        transitions=transitions,
    )
    budget: Budget = count(scale)
    return budget


def _data_size(plan: RunPlan, out: Path) -> tuple[int, int]:
    """(trajectories, transitions)."""
    data = next((planned for planned in plan.stages if planned.spec.name == DATA_STAGE), None)
    source = plan.task_distribution.data_source
    if data is None or source is None:
        return 0, 0
    try:
        metrics: Mapping[str, Any] = read_json(out / ARTEFACTS_FOLDER / data.artefact_name / MANIFEST)["metrics"]
        return int(metrics["episodes"]), int(metrics["transitions"])
    except (StorageError, KeyError, TypeError, ValueError):
        pass  # not built yet, or not readable: whoever uses it will say so
    trajectories = getattr(data.config, "num_trajectories", 0)
    return trajectories, trajectories * source.usual_env_steps


def total_budget(nodes: Iterable[StageNode], out: Path) -> tuple[Budget, int]:
    """(sum over these nodes of a graph, how many of them are not counted)."""
    total, uncounted = Budget(), 0
    for node in nodes:
        plan = plan_run(node.request)
        stage = next((planned for planned in plan.stages if planned.artefact_name == node.name), None)
        budget = None if stage is None else stage_budget(plan, stage, out)
        if budget is None:
            uncounted += 1
        else:
            total += budget
    return total, uncounted
