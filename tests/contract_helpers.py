"""What tests over the whole registry share: where an algorithm runs cheaply, and how artefacts are compared."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from algorithms.registry import algorithm_names
from algorithms.stage import Algorithm, StageContext
from bench.config import Override
from bench.errors import InterruptedRunError, UserError
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair, why_impossible
from bench.plan import PlannedStage, RunPlan, RunRequest, plan_run
from bench.progress import PlainReporter
from bench.runner import StageRunner
from bench.signals import StopRequest
from bench.store import ArtefactStore, Machine
from envs.registry import task_distribution_names

ALGORITHMS = [name for name in algorithm_names() if name != "toy"]
"""All that are registered, those of installed packages among them."""
CHEAPEST_WORLDS = ("point-robot", "navigation-2d", "pendulum", "maze-10")
"""By the time that a run at ``smoke`` takes, shortest first; any other distribution comes after them."""


def found(name: str) -> Algorithm:
    """Skips where the algorithm needs a package that is not installed."""
    try:
        return find_algorithm(name)
    except UserError as error:
        pytest.skip(str(error))


def cheapest_world(algorithm: Algorithm) -> str:
    """The first world that the algorithm fits and has a preset ``smoke`` for."""
    for name in dict.fromkeys((*CHEAPEST_WORLDS, *task_distribution_names())):
        tasks = find_task_distribution(name)
        if why_impossible(algorithm, tasks) is None and "smoke" in presets_of_pair(algorithm, tasks):
            return name
    raise AssertionError(f"{algorithm.name} has no preset 'smoke' for any task distribution")


def first_targets(env: str) -> tuple[int, ...]:
    """Two target tasks, or the only one."""
    return tuple(range(min(2, len(find_task_distribution(env).target_tasks))))


def make_plan(name: str, overrides: tuple[Override, ...] = ()) -> RunPlan:
    """At ``smoke`` on the cheapest world, for its first two target tasks."""
    env = cheapest_world(found(name))
    return plan_run(RunRequest(name, env, "smoke", 0, first_targets(env), overrides))


def build(plan: RunPlan, store: ArtefactStore, stop_at_once: bool = False) -> int:
    """Run what the store lacks; the number of times that it was stopped and run again."""
    stop, stops = StopRequest(), 0
    if stop_at_once:
        stop.signal_number = signal.SIGTERM
    runner = StageRunner(store, Machine("cpu", 1), PlainReporter(), stop, checkpoint_seconds=1000.0)
    for planned in plan.stages:
        while not store.is_finished(planned.artefact_name):
            torch.manual_seed(random.randrange(10**6))  # What other code left there must not matter.
            try:
                runner.run(planned, plan.task_distribution, plan.target_tasks)
            except InterruptedRunError:
                stops += 1
    return stops


def stage_context(plan: RunPlan, planned: PlannedStage, store: ArtefactStore, seed: int) -> StageContext:
    inputs = {stage: store.folder(artefact) for stage, artefact in planned.inputs.items()}
    return StageContext(plan.task_distribution, plan.target_tasks, seed, inputs)


def assert_same(first: Any, second: Any, where: str) -> None:
    """Compare what ``torch.load`` gives, tensors bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, Mapping):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert first == second, where


def without_seconds(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
    return table.drop(columns=["seconds"])


def assert_same_artefacts(first: Path, second: Path) -> None:
    """All artefacts in two stores agree in every file, up to wall times and pictures made from the same numbers."""
    names = sorted(path.name for path in first.iterdir() if path.name != ".locks")
    assert names == sorted(path.name for path in second.iterdir() if path.name != ".locks")
    for name in names:
        assert_same_artefact(first / name, second / name)


def assert_same_artefact(first: Path, second: Path) -> None:
    """Two artefact folders of one name agree, in tensors bit for bit."""
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (first, second)]
    assert manifests[0]["key"] == manifests[1]["key"]
    assert manifests[0]["metrics"] == manifests[1]["metrics"], first.name
    for file in files:
        one, other = first / file, second / file
        if one.suffix == ".pt":
            loaded = [torch.load(path, map_location="cpu", weights_only=True) for path in (one, other)]
            assert_same(*loaded, f"{first.name}/{file}")
        elif one.suffix in (".parquet", ".jsonl"):
            pd.testing.assert_frame_equal(without_seconds(one), without_seconds(other))


def tensors_of(folder: Path) -> list[torch.Tensor]:
    """All tensors in the files of an artefact, in their order."""

    def walk(value: Any) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        return [tensor for each in values for tensor in walk(each)]

    paths = sorted(folder.glob("*.pt"))
    return [tensor for path in paths for tensor in walk(torch.load(path, map_location="cpu", weights_only=True))]
