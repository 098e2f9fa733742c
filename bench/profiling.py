"""``bench profile``: how fast updates, roll-outs and statistics are on this machine.

A stage says which of its work is worth timing (``Stage.timed_work``). It is made as a run would make it, at the sizes
of a preset, but from untrained networks: offline data are made up, and every stage writes its artefact right after it
was timed, from which the next one is made. An algorithm that is another implementation of one (``CrossCheck``) is timed
side by side with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.registry import algorithm_names
from algorithms.stage import Algorithm, CrossCheck, Stage, StageContext, TimedWork
from bench.config import Override
from bench.data_stage import TRAJECTORIES_FILE
from bench.errors import UserError
from bench.lookup import DATA_STAGE, find_algorithm, find_task_distribution, presets_of_pair, why_impossible
from bench.plan import PlannedStage, RunPlan, RunRequest, plan_run
from bench.run import RunOptions, prepare_torch
from bench.statistics.aggregates import aggregate
from bench.statistics.scores import ScoreMatrix
from bench.store import Machine
from bench.tables import print_table
from bench.timing import Timing, time_side_by_side
from bench.versions import versions
from envs.core import TaskDistribution
from envs.registry import task_distribution_names
from envs.trajectories import Trajectories

MADE_UP_EPISODES, MADE_UP_LENGTH = 1000, 100
STATISTICS_SHAPE = (5, 10)
"""(runs, tasks) of the scores that are aggregated: as many as in a study of the paper's size."""


@dataclass(frozen=True)
class ProfileRequest:
    """What to time, and for how long."""

    algos: tuple[str, ...] | None = None
    """None: all whose packages are installed."""
    envs: tuple[str, ...] | None = None
    """None: the first task distribution of each family."""
    preset: str = "quick"
    seconds: float = 1.0
    """Wall time for each piece of work, after it has warmed up."""
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True)
class ProfileRow:
    """How fast one piece of work of one stage is."""

    algos: tuple[str, ...]
    """Several where a stage is theirs in common; empty for what belongs to no algorithm."""
    env: str
    stage: str
    work: str
    count: int
    """Units of one repetition."""
    unit: str
    timing: Timing

    @property
    def per_second(self) -> float:
        return self.count / self.timing.wall_seconds

    @property
    def fastest_per_second(self) -> float:
        return self.count / self.timing.fastest_seconds

    @property
    def cpu_ms_each(self) -> float:
        return 1e3 * self.timing.cpu_seconds / self.count

    def record(self) -> dict[str, Any]:
        """As JSON."""
        speed = {name: getattr(self, name) for name in ("per_second", "fastest_per_second", "cpu_ms_each")}
        return asdict(self) | speed


@dataclass(frozen=True)
class SideBySide:
    """One piece of work of two implementations, timed in turn on one target task."""

    env: str
    setting: str
    """``adapt.batch_size=256``"""
    rows: tuple[ProfileRow, ProfileRow]
    """Of the algorithm, and of its other implementation."""

    @property
    def speed_ratio(self) -> float:
        """How many times as fast the first is, by medians."""
        return self.rows[0].per_second / self.rows[1].per_second

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"rows": [row.record() for row in self.rows], "speed_ratio": self.speed_ratio}


@dataclass
class Profile:
    """All that was measured."""

    machine: Machine
    rows: list[ProfileRow] = field(default_factory=list)
    side_by_side: list[SideBySide] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    """Why an algorithm was left out, a line each."""


def print_profile(request: ProfileRequest, device: str, threads: int, as_json: bool) -> None:
    """Measure, then print tables or JSON. Raises ``UserError`` for names that are unknown or do not fit together."""
    profile = make_profile(request, prepare_torch(RunOptions(Path(), device, threads)))
    for line in profile.unavailable:
        print(f"left out: {line}", file=sys.stderr)
    if as_json:
        record = {
            "machine": asdict(profile.machine),
            "versions": versions(),
            "preset": request.preset,
            "overrides": {override.name: override.text for override in request.overrides},
            "rows": [row.record() for row in profile.rows],
            "side_by_side": [comparison.record() for comparison in profile.side_by_side],
            "unavailable": profile.unavailable,
        }
        print(json.dumps(record, indent=2))
        return
    where = f"{profile.machine.device}, threads: {profile.machine.threads}, preset {request.preset}"
    print_table(
        f"Speed ({where})",
        ("algorithms", "env", "stage", "work", "per second", "fastest", "CPU ms each", "load"),
        [
            (
                " ".join(row.algos), row.env, row.stage, row.work, f"{row.per_second:,.4g} {row.unit}",
                f"{row.fastest_per_second:,.4g}", f"{row.cpu_ms_each:.4g}", f"{row.timing.load:.1f}",
            )
            for row in profile.rows
        ],
    )  # fmt: skip
    if profile.side_by_side:
        print_table(
            f"Side by side, one target task ({where})",
            ("work", "env", "setting", "algorithm", "per second", "fastest", "CPU ms each", "times as fast"),
            [
                (
                    row.work, comparison.env, comparison.setting, row.algos[0], f"{row.per_second:,.4g} {row.unit}",
                    f"{row.fastest_per_second:,.4g}", f"{row.cpu_ms_each:.4g}",
                    f"{comparison.speed_ratio if first else 1:.2f}",
                )
                for comparison in profile.side_by_side
                for first, row in zip((True, False), comparison.rows, strict=True)
            ],
        )  # fmt: skip


def make_profile(request: ProfileRequest, machine: Machine) -> Profile:
    """Time everything that ``request`` asks for. Raises ``UserError``."""
    profile = Profile(machine)
    algorithms = _algorithms(request, profile.unavailable)
    envs = request.envs or _one_of_each_family()
    chosen = [name for name in algorithms if request.algos is None or name in request.algos]
    plans = list(_plans(request, {name: algorithms[name] for name in chosen}, envs))
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as scratch:
        measuring = _Measuring(machine, request.seconds, Path(scratch))
        for plan in plans:
            measuring.measure(plan)
        profile.rows = [measuring.statistics(), *measuring.rows]
        for name, algorithm in algorithms.items():
            check = algorithm.cross_check
            if check and {name, check.algorithm} & set(chosen) and check.algorithm in algorithms:
                pair = {one: algorithms[one] for one in (check.algorithm, name)}
                profile.side_by_side += measuring.compare(request, pair, check, envs)
    return profile


def _algorithms(request: ProfileRequest, unavailable: list[str]) -> dict[str, Algorithm]:
    """All that can be loaded. One that was asked for by name and cannot is an error, any other a line."""
    found = {name: find_algorithm(name) for name in request.algos or ()}
    for name in algorithm_names():
        if name not in found:
            try:
                found[name] = find_algorithm(name)
            except UserError as error:
                unavailable.append(str(error))
    return found


def _one_of_each_family() -> tuple[str, ...]:
    first: dict[str, str] = {}
    for name in task_distribution_names():
        first.setdefault(find_task_distribution(name).family, name)
    return tuple(first.values())


def _why_not(algorithm: Algorithm, distribution: TaskDistribution, preset: str) -> str | None:
    """Why this pair cannot be timed at this preset, or None when it can."""
    reason = why_impossible(algorithm, distribution)
    if reason is None and preset not in (known := presets_of_pair(algorithm, distribution)):
        reason = f"{algorithm.name} on {distribution.name} has no preset {preset!r}; valid: {', '.join(known)}"
    return reason


def _plans(request: ProfileRequest, algorithms: Mapping[str, Algorithm], envs: Sequence[str]) -> Iterator[RunPlan]:
    """Every pair that fits together. Raises ``UserError`` when none does."""
    reasons = []
    for env in envs:
        distribution = find_task_distribution(env)
        for name, algorithm in algorithms.items():
            reason = _why_not(algorithm, distribution, request.preset)
            if reason is None:
                yield plan_run(RunRequest(name, env, request.preset, overrides=request.overrides))
            else:
                reasons.append(reason)
    if len(reasons) == len(envs) * len(algorithms):
        raise UserError(f"nothing to time: {'; '.join(reasons)}")


class _Measuring:
    """Stages made from untrained artefacts, and what timing them gave."""

    def __init__(self, machine: Machine, seconds: float, scratch: Path) -> None:
        self._machine, self._seconds, self._scratch = machine, seconds, scratch
        self._rows_of: dict[str, list[ProfileRow]] = {}
        """Of each stage that was timed, by the name of its artefact."""

    @property
    def rows(self) -> list[ProfileRow]:
        return [row for rows in self._rows_of.values() for row in rows]

    def statistics(self) -> ProfileRow:
        """All aggregates of one algorithm's scores."""
        scores = np.random.default_rng(0).random(STATISTICS_SHAPE)
        seeds, tasks = (tuple(range(count)) for count in STATISTICS_SHAPE)
        matrix = ScoreMatrix(scores, seeds, tasks, (0.0, 1.0))
        work = TimedWork("aggregates", "score matrices", lambda: int(bool(aggregate(matrix))))
        return self._time((), "", "statistics", [work])[0]

    def measure(self, plan: RunPlan) -> None:
        """Time the stages of a run, those that an earlier run has in common with it excepted."""
        name = plan.request.algo
        for planned, stage in self._stages(plan):
            known = self._rows_of.get(planned.artefact_name)
            if known is None:
                work = stage.timed_work()
                self._rows_of[planned.artefact_name] = self._time((name,), plan.request.env, planned.spec.name, work)
                stage.write_artefact(self._folder(planned.artefact_name))
            else:
                renamed = [ProfileRow(**{**vars(row), "algos": (*row.algos, name)}) for row in known]
                self._rows_of[planned.artefact_name] = renamed

    def compare(
        self, request: ProfileRequest, pair: Mapping[str, Algorithm], check: CrossCheck, envs: Sequence[str]
    ) -> list[SideBySide]:
        """The same work of both, in turn, on one target task of the first of ``envs`` that both know."""
        fitting = [
            env
            for env in envs
            if not any(_why_not(one, find_task_distribution(env), request.preset) for one in pair.values())
        ]
        comparisons = []
        for env in fitting[:1]:
            for setting in check.settings:
                overrides = tuple(Override(f"{check.stage}.{name}", text) for name, text in setting.items())
                works = []
                for one in pair:
                    plan = plan_run(RunRequest(one, env, request.preset, 0, (0,), overrides))
                    works += [work for work in self._stage(plan, check.stage).timed_work() if work.name == check.work]
                text = ", ".join(f"{override.name}={override.text}" for override in overrides)
                rows = self._time_in_turn(list(pair), env, check.stage, works, text)
                comparisons.append(SideBySide(env, text, (rows[0], rows[1])))
        return comparisons

    def _stage(self, plan: RunPlan, name: str) -> Stage:
        for planned, stage in self._stages(plan):
            if planned.spec.name == name:
                return stage
            if not self._has_artefact(planned):
                stage.timed_work()
                stage.write_artefact(self._folder(planned.artefact_name))
        raise UserError(f"{plan.algorithm.name} has no stage {name!r}")

    def _stages(self, plan: RunPlan) -> Iterator[tuple[PlannedStage, Stage]]:
        """Each stage in turn, made from the artefacts of those before, which the caller has written."""
        for planned in plan.stages:
            if planned.spec.name == DATA_STAGE:
                if not self._has_artefact(planned):
                    trajectories = made_up_trajectories(plan.task_distribution)
                    trajectories.save_hdf5(self._folder(planned.artefact_name) / TRAJECTORIES_FILE)
                continue
            context = StageContext(
                task_distribution=plan.task_distribution,
                target_tasks=plan.target_tasks,
                seed=planned.seed,
                inputs={stage: self._folder(artefact) for stage, artefact in planned.inputs.items()},
                device=self._machine.device,
                threads=self._machine.threads,
            )
            yield planned, planned.spec.factory(planned.config, context)

    def _has_artefact(self, planned: PlannedStage) -> bool:
        return (self._scratch / planned.artefact_name).exists()

    def _folder(self, artefact: str) -> Path:
        folder = self._scratch / artefact
        folder.mkdir(exist_ok=True)
        return folder

    def _time(self, algos: tuple[str, ...], env: str, stage: str, works: Sequence[TimedWork]) -> list[ProfileRow]:
        return [
            ProfileRow(algos, env, stage, work.name, count, work.unit, timing)
            for work in works
            for count, timing in self._timings([work], " ".join((*algos, env, stage, work.name)))
        ]

    def _time_in_turn(
        self, algos: Sequence[str], env: str, stage: str, works: Sequence[TimedWork], setting: str
    ) -> list[ProfileRow]:
        measured = self._timings(works, f"{' against '.join(algos)} {env} {stage} {works[0].name} {setting}")
        return [
            ProfileRow((algo,), env, stage, work.name, count, work.unit, timing)
            for algo, work, (count, timing) in zip(algos, works, measured, strict=True)
        ]

    def _timings(self, works: Sequence[TimedWork], what: str) -> list[tuple[int, Timing]]:
        """(units of one repetition, timing) of each, measured in turn."""
        print(f"timing {' '.join(what.split())}", file=sys.stderr, flush=True)
        counts = [0] * len(works)

        def counted(index: int) -> Callable[[], None]:
            def call() -> None:
                counts[index] = works[index].work()

            return call

        timings = time_side_by_side([counted(i) for i in range(len(works))], self._seconds, self._wait())
        return list(zip(counts, timings, strict=True))

    def _wait(self) -> Callable[[], object]:
        return torch.cuda.synchronize if self._machine.device == "cuda" else lambda: None


def made_up_trajectories(distribution: TaskDistribution) -> Trajectories:
    """Noise in the shape of offline data."""
    rng = np.random.default_rng(0)
    rows = MADE_UP_EPISODES * MADE_UP_LENGTH
    return Trajectories(
        observations=rng.random((rows, distribution.observation_dim), np.float32),
        actions=rng.random((rows, distribution.action_dim), np.float32) * 2 - 1,
        episode_ends=np.arange(1, MADE_UP_EPISODES + 1, dtype=np.int64) * MADE_UP_LENGTH,
    )
