"""From what was asked (algorithm, task distribution, preset, seed, overrides) to stages named by their hash.

A plan needs no artefact to exist: the hash of a stage follows from its configuration and the hashes of its inputs,
so equal stages of different runs are recognised before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from algorithms.stage import Algorithm, StageSpec
from bench.config import Override, check_for_tasks, check_override_names, check_preset_names, resolve_config
from bench.data_choice import choose_data
from bench.errors import UserError, unknown_name
from bench.fields import hashed_fields
from bench.files import canonical_json, sha256_of_text
from bench.lookup import DATA_STAGE, find_algorithm, find_task_distribution, needs_data, presets_of_pair, why_impossible
from envs.core import TARGET, TASK_SETS, Task, TaskDistribution
from envs.registry import task_distribution_names


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for."""

    algo: str
    env: str
    preset: str = "quick"
    seed: int = 0
    target_tasks: tuple[int, ...] | None = None
    """Indices into the tasks of ``task_set``; None means all."""
    overrides: tuple[Override, ...] = ()
    data: str | None = None
    """Offline data to learn from: a variant of the data source, or a file or folder; None is what the preset builds."""
    until: str | None = None
    """The last stage to carry out, for example ``meta_train``; None is all of them."""
    task_set: str = TARGET
    """What is adapted to: one of ``envs.core.TASK_SETS``."""


def request_from_json(content: Mapping[str, Any]) -> RunRequest:
    """A ``RunRequest`` from what ``dataclasses.asdict`` made of it, of that shape (``shape.py``)."""
    values = dict(content)
    tasks = values.get("target_tasks")
    values["target_tasks"] = None if tasks is None else tuple(tasks)
    values["overrides"] = tuple(
        Override(override["name"], override["text"]) for override in values.get("overrides", ())
    )
    return RunRequest(**values)


@dataclass(frozen=True)
class PlannedStage:
    """One stage with everything that determines its result."""

    spec: StageSpec
    config: Any
    seed: int
    key: Mapping[str, Any]
    """What is hashed: implementation, config, input hashes, seed, tasks."""
    inputs: Mapping[str, str]
    """Input stage -> name of its artefact."""

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the key, hexadecimal."""
        return sha256_of_text(canonical_json(dict(self.key)))

    @property
    def artefact_name(self) -> str:
        """Name of the artefact's folder: ``<stage>-<first 12 digits of the hash>``."""
        return f"{self.spec.name}-{self.hash[:12]}"


@dataclass(frozen=True)
class RunPlan:
    """A run resolved to its stages, in an order in which inputs come first."""

    request: RunRequest
    algorithm: Algorithm
    task_distribution: TaskDistribution
    target_tasks: tuple[int, ...]
    stages: tuple[PlannedStage, ...]
    run_name: str

    @property
    def configs(self) -> dict[str, Any]:
        """Resolved config of each stage, by stage name."""
        return {stage.spec.name: stage.config for stage in self.stages}

    def distribution_of(self, stage: PlannedStage) -> TaskDistribution:
        """What a stage is given: only those that adapt see other tasks in the place of the target tasks, so that all
        others are shared with runs on the target tasks."""
        adapts = stage.spec.tasks == "target"
        return self.task_distribution.aimed_at(self.request.task_set) if adapts else self.task_distribution

    def task_set_of(self, stage: PlannedStage) -> str:
        """Of which tasks the rows of a stage are: ``train``, one of ``TASK_SETS``, or nothing."""
        return {"none": "", "train": "train", "target": self.request.task_set}[stage.spec.tasks]


def plan_run(request: RunRequest) -> RunPlan:
    """Resolve a request. Raises ``UserError`` for anything in it that is unknown, invalid or impossible."""
    algorithm = find_algorithm(request.algo)
    distribution = find_task_distribution(request.env)
    reason = why_impossible(algorithm, distribution)
    if reason is not None:
        raise UserError(reason)
    presets = presets_of_pair(algorithm, distribution)
    if request.preset not in presets:
        raise unknown_name(f"preset for {request.algo} on {request.env}", request.preset, presets)
    target_tasks = _checked_tasks(request, distribution)
    specs, overrides = algorithm.stages, request.overrides
    preset = algorithm.preset_values(distribution, request.preset)
    if needs_data(algorithm):
        choice = choose_data(distribution, request.preset, overrides, request.data)
        specs, overrides, preset = (choice.spec, *specs), choice.overrides, {**choice.preset, **preset}
    elif request.data is not None:
        raise UserError(f"--data: {request.algo} learns from no offline data")
    classes = {spec.name: spec.config_class for spec in specs}
    check_override_names(overrides, classes)
    check_preset_names(preset, classes, f"preset {request.preset!r} of {request.algo} on {distribution.name}")
    planned: dict[str, PlannedStage] = {}
    for spec in specs:
        config = resolve_config(spec.config_class, spec.name, preset, overrides, request.preset)
        check_for_tasks(config, distribution, spec.name)
        planned[spec.name] = plan_stage(
            spec, config, request.seed, distribution, target_tasks, planned, request.task_set
        )
    stages = _up_to(request.until, tuple(planned.values()), request.algo)
    run_name = _run_name(request, distribution, overrides, cut_short=len(stages) < len(planned))
    return RunPlan(request, algorithm, distribution, target_tasks, stages, run_name)


def _up_to(until: str | None, stages: tuple[PlannedStage, ...], algo: str) -> tuple[PlannedStage, ...]:
    """The stages up to the one called ``until``, with it."""
    names = [stage.spec.name for stage in stages]
    if until is None:
        return stages
    if until not in names:
        raise unknown_name(f"stage of {algo}", until, names)
    return stages[: names.index(until) + 1]


def plan_data(
    env: str, preset: str, overrides: tuple[Override, ...], data: str | None = None
) -> tuple[PlannedStage, TaskDistribution]:
    """The data stage alone, as any run on ``env`` with this preset and this ``--data`` would plan it."""
    distribution = find_task_distribution(env)
    if distribution.data_source is None:
        raise UserError(f"task distribution {env!r} has no offline data")
    if preset not in distribution.data_presets:
        raise unknown_name(f"data preset of {env}", preset, distribution.data_presets)
    choice = choose_data(distribution, preset, overrides, data)
    classes = {DATA_STAGE: choice.spec.config_class}
    check_override_names(choice.overrides, classes)
    check_preset_names(choice.preset, classes, f"data preset {preset!r} of {env}")
    config = resolve_config(choice.spec.config_class, DATA_STAGE, choice.preset, choice.overrides, preset)
    return plan_stage(choice.spec, config, 0, distribution, (), {}), distribution


def plan_stage(
    spec: StageSpec,
    config: Any,
    seed: int,
    distribution: TaskDistribution,
    target_tasks: tuple[int, ...],
    planned: Mapping[str, PlannedStage],
    task_set: str = TARGET,
) -> PlannedStage:
    """Give a stage its hash. ``planned`` holds the stages it may read.

    The device and the number of threads are not part of the hash: they change the last bits of a result, not what
    it means. They are recorded in the manifest.
    """
    for name in spec.inputs:
        if name not in planned:
            raise ValueError(f"stage {spec.name!r} reads {name!r}, which is not an earlier stage of its algorithm")
    key = {
        "implementation": spec.implementation,
        "config": hashed_fields(config),
        "inputs": {name: planned[name].hash for name in spec.inputs},
        # The data config holds its own seed, so that runs with different seeds learn from the same data.
        "seed": None if spec.name == DATA_STAGE else seed,
        "tasks": tasks_key(spec, distribution, target_tasks, task_set),
    }
    inputs = {name: planned[name].artefact_name for name in spec.inputs}
    return PlannedStage(spec, config, seed, key, inputs)


def tasks_key(
    spec: StageSpec, distribution: TaskDistribution, target_tasks: tuple[int, ...], task_set: str = TARGET
) -> Any:
    """What a stage's result depends on in the task distribution, as JSON; ``target_tasks`` index into ``task_set``."""
    if spec.name == DATA_STAGE:
        return {"world": distribution.world_fingerprint}
    key: dict[str, Any] = {
        "world": distribution.world_fingerprint,
        "episode_env_steps": distribution.episode_env_steps,
    }
    if spec.tasks == "none":
        return key  # it may act in the world, but has no task there
    key["train"] = [_task_key(task) for task in distribution.train_tasks]
    if spec.tasks == "target":
        # The index is part of the key: rows name it, and random numbers are keyed by it.
        tasks = distribution.tasks_of(task_set)
        key["target"] = [[index, _task_key(tasks[index])] for index in target_tasks]
        if task_set != TARGET:
            key["task_set"] = task_set
    return key


def _task_key(task: Task) -> Any:
    return {"name": task.name, "spec": dict(task.spec)}


def _checked_tasks(request: RunRequest, distribution: TaskDistribution) -> tuple[int, ...]:
    chosen, task_set = request.target_tasks, request.task_set
    if task_set not in TASK_SETS:
        raise unknown_name("set of tasks (--on)", task_set, TASK_SETS)
    count = len(distribution.tasks_of(task_set))
    if not count:
        raise UserError(
            f"--on {task_set}: {distribution.name} has no {task_set} tasks; "
            f"those that have: {', '.join(_distributions_with(task_set)) or 'none'}"
        )
    if chosen is None:
        return tuple(range(count))
    for index in chosen:
        if not 0 <= index < count:
            raise UserError(f"--tasks: {distribution.name} has no {task_set} task {index}; valid: 0 to {count - 1}")
    if not chosen or len(set(chosen)) != len(chosen):
        raise UserError(f"--tasks: expected different {task_set} tasks, got {','.join(map(str, chosen)) or 'none'}")
    return tuple(sorted(chosen))


def _distributions_with(task_set: str) -> list[str]:
    found = []
    for name in task_distribution_names():
        try:
            distribution = find_task_distribution(name)
        except UserError:
            continue  # Needs what is not installed: bench list says so.
        if distribution.tasks_of(task_set):
            found.append(name)
    return found


def _run_name(
    request: RunRequest, distribution: TaskDistribution, overrides: tuple[Override, ...], cut_short: bool
) -> str:
    name = f"{request.algo}-{request.env}-{request.preset}-s{request.seed}"
    if cut_short:
        name += f"-until-{request.until}"
    if request.task_set != TARGET:
        name += f"-on-{request.task_set}"
    tasks = None if request.target_tasks is None else sorted(request.target_tasks)
    if tasks == list(range(len(distribution.tasks_of(request.task_set)))):
        tasks = None
    if not overrides and tasks is None:
        return name
    changes = {"overrides": sorted((o.name, o.text) for o in overrides), "tasks": tasks}
    return f"{name}-{sha256_of_text(canonical_json(changes))[:8]}"
