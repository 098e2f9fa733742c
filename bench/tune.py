"""``bench tune``: search for the values of a few fields, on validation tasks, with trials that are runs of a sweep.

Every trial is a run on the validation tasks whose fields are overridden; what trials have in common (data, skills,
meta-training) is computed once. Trials go in rounds of ``parallel``; a round is a graph of stages like any sweep's, on
this machine or on a cluster. What is tried next is ``tune_study.py``'s to say, what is shown and kept of it
``tune_results.py``'s.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from algorithms.registry import algorithm_names
from algorithms.stage import OneOf, SearchRange
from bench.config import Override
from bench.errors import InterruptedRunError, StageFailedError, UserError
from bench.fields import flatten
from bench.graph import StageGraph, merge_plans
from bench.ledger import SLURM, Ledger
from bench.local_executor import run_locally
from bench.lookup import find_algorithm
from bench.node_records import FAILED as NODE_FAILED
from bench.plan import PlannedStage, RunPlan, RunRequest, plan_run
from bench.stage_logs import StageLogs
from bench.status import read_status
from bench.store import ARTEFACTS_FOLDER, ArtefactStore
from bench.sweep import SweepOptions, sweep_lock
from bench.sweep_view import make_view
from bench.tune_results import STUDY_FILE, StudyRecord, print_trial, print_tuning, study_folder, write_tuning
from bench.tune_study import DONE, FAILED, Outcome, TrialRecord, TuningStudy, mean_returns
from envs.core import VALIDATION

JOURNAL = "study.journal"
_LOOK_SECONDS = 1.0
"""Between two looks at the episodes of the trials that run."""


@dataclass(frozen=True)
class TuneRequest:
    """What the user asked for. ``run.task_set`` is validation; ``run.overrides`` hold for all trials."""

    run: RunRequest
    trials: int
    parallel: int = 1
    """Trials side by side: those of one round are proposed from the rounds before it."""


def tune(request: TuneRequest, options: SweepOptions) -> Path:
    """Run trials until as many as asked for are there, and return the folder with what was found.

    A call that was interrupted is taken up where it was; after it, a call adds trials. Raises ``UserError`` and its
    kinds; nothing that was computed is lost.
    """
    if request.run.task_set != VALIDATION:
        raise ValueError(f"settings are chosen on validation tasks, got {request.run.task_set!r}")
    plan = plan_run(request.run)
    space = usable_space(plan)
    preset = {name: _value(plan, name) for name in space}
    if options.executor == SLURM:
        from slurm import executor

        executor.check(options.profile)
    out = options.run.out
    folder = study_folder(out, plan.run_name)
    with sweep_lock(sweep_name(plan), out):
        record = StudyRecord.of(plan, space, preset)
        record.keep(folder / STUDY_FILE)
        key = (request.run.algo, request.run.env, request.run.preset)
        study = TuningStudy(folder / JOURNAL, space, preset, key, request.run.seed)
        _Tuning(request, options, plan, study, record, folder).execute()
    return folder


def sweep_name(plan: RunPlan) -> str:
    """What the trials' sweep is called, for ``bench status``, ``cancel`` and ``board``."""
    return f"tune-{plan.run_name}"


def usable_space(plan: RunPlan) -> dict[str, SearchRange]:
    """What the algorithm lets ``bench tune`` search, without fields that are overridden and values that are refused.

    Raises ``UserError`` when nothing is left.
    """
    algo = plan.request.algo
    declared = plan.algorithm.search_space
    if not declared:
        raise UserError(f"{algo} declares no search space; those that do: {', '.join(_tunable()) or 'none'}")
    given = {override.name for override in plan.request.overrides}
    space: dict[str, SearchRange] = {}
    for name, searched in declared.items():
        if name in given:
            continue
        if isinstance(searched, OneOf):
            searched = OneOf(tuple(value for value in searched.values if _is_accepted(plan.request, name, value)))
            if len(searched.values) < 2:
                continue
        space[name] = searched
    if not space:
        raise UserError(f"nothing is left to tune for {algo}: {', '.join(declared)} are all given or have one value")
    return space


def _tunable() -> list[str]:
    found = []
    for name in algorithm_names():
        try:
            if find_algorithm(name).search_space:
                found.append(name)
        except UserError:
            continue  # Needs a package that is not installed: bench list says so.
    return found


def _is_accepted(request: RunRequest, name: str, value: Any) -> bool:
    try:
        plan_run(with_values(request, {name: value}))
    except UserError:
        return False
    return True


def with_values(request: RunRequest, values: Mapping[str, Any]) -> RunRequest:
    """The request with these fields overridden."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return replace(request, overrides=(*request.overrides, *(Override(*item) for item in texts.items())))


def _value(plan: RunPlan, name: str) -> Any:
    stage, _, field_name = name.partition(".")
    if stage not in plan.configs or field_name not in (fields := dict(flatten(plan.configs[stage]))):
        raise UserError(f"the search space of {plan.request.algo} names {name!r}, which no stage of it has")
    return fields[field_name]


@dataclass(frozen=True)
class _OpenTrial:
    """A trial of the round under way."""

    trial: TrialRecord
    plan: RunPlan
    adapting: PlannedStage
    """The stage whose episodes are its score."""
    logs: StageLogs


@dataclass
class _Tuning:
    """One call, inside the lock."""

    request: TuneRequest
    options: SweepOptions
    plan: RunPlan
    study: TuningStudy
    record: StudyRecord
    folder: Path
    decided: dict[int, Outcome] = field(default_factory=dict)
    """Trials of this round that are given up."""
    looked: float = 0.0
    opened: dict[int, _OpenTrial] = field(default_factory=dict)

    @property
    def store(self) -> ArtefactStore:
        return ArtefactStore(self.options.run.out / ARTEFACTS_FOLDER)

    def execute(self) -> None:
        target, goes_on = self.study.begin_call(self.request.trials)
        ended = len(self.study.finished)
        how = "going on" if goes_on else "starting" if not ended else "adding trials"
        print(
            f"{self.plan.run_name}: {how}, {ended} of {target} trials are there; fields: {', '.join(self.record.space)}"
        )
        while round_ := self.study.open_trials(self.request.parallel, target):
            self._run_round([self._open(trial) for trial in round_])
            write_tuning(self.folder, self.record, self.study)
        self.study.end_call()
        print_tuning(self.folder, self.record, self.study)
        if self.study.best is None:
            raise StageFailedError(f"no trial of {self.plan.run_name} was completed; {self.folder} says why")

    def _open(self, trial: TrialRecord) -> _OpenTrial:
        if trial.number not in self.opened:
            self.opened[trial.number] = self._plan(trial)
        return self.opened[trial.number]

    def _plan(self, trial: TrialRecord) -> _OpenTrial:
        # The preset itself is a run like any other, under its own name: it may be there already.
        values = {} if trial.number == 0 else trial.values
        plan = plan_run(with_values(self.request.run, values))
        adapting = next(stage for stage in reversed(plan.stages) if stage.spec.tasks == "target")
        name = adapting.artefact_name
        return _OpenTrial(
            trial, plan, adapting, StageLogs(self.store, self.options.run.out / plan.run_name, adapting.spec.name, name)
        )

    def _run_round(self, trials: list[_OpenTrial]) -> None:
        self.decided = {}
        self._look(trials)  # of trials that were begun by a process that died, all may be known by now
        wanted = [trial for trial in trials if trial.trial.number not in self.decided]
        failures: Mapping[str, str] = {}
        if wanted:
            failures = self._compute(wanted, trials)
        outcomes = {trial.trial.number: self._outcome(trial, failures) for trial in trials}
        self.study.end(outcomes)
        for trial in self.study.finished:
            if trial.number in outcomes:
                print_trial(trial, self.study.best)

    def _compute(self, wanted: list[_OpenTrial], trials: list[_OpenTrial]) -> Mapping[str, str]:
        """Run what is missing of these trials; node -> reason for each that failed."""
        out, sweep = self.options.run.out, sweep_name(self.plan)
        ledger = self._ledger([*self._kept(), *(trial.plan for trial in wanted)])
        graph = merge_plans([trial.plan for trial in wanted], out)
        if not graph.missing():
            ledger.write(out)
            return {}
        if self.options.executor == SLURM:
            return self._compute_on_cluster(ledger, graph)
        ledger.write(out)
        with make_view(len(graph.missing())) as view:
            outcome = run_locally(
                graph, sweep, self.options.run, self.request.parallel, view, lambda: self._unwanted(trials)
            )
        if outcome.signal_number is not None:
            raise InterruptedRunError(
                f"{self.plan.run_name} is stopped, {len(self.study.finished)} trials are there; "
                "everything is saved: the same command goes on",
                outcome.signal_number,
            )
        return outcome.failed

    def _compute_on_cluster(self, ledger: Ledger, graph: StageGraph) -> Mapping[str, str]:
        from slurm import executor

        options, out = self.options, self.options.run.out
        with ledger.written(out):
            lines = executor.submit(graph, ledger.sweep, options.run, options.profile, self.request.parallel)
        print("\n".join(lines))
        executor.wait(ledger.sweep, out)
        nodes = read_status(out, ledger.sweep).nodes.values()
        return {node.name: node.reason for node in nodes if node.state == NODE_FAILED}

    def _kept(self) -> list[RunPlan]:
        """Plans of the trials that are complete: the sweep shows them, too."""
        done = [trial for trial in self.study.finished if trial.outcome is not None and trial.outcome.state == DONE]
        return [self._open(trial).plan for trial in done]

    def _ledger(self, plans: list[RunPlan]) -> Ledger:
        run, out = self.request.run, self.options.run.out
        title = f"tuning {run.algo} on the validation tasks of {run.env}"
        graph = merge_plans(plans, out)
        settings = self.options.settings | {"max_parallel": self.request.parallel}
        return Ledger(
            sweep_name(self.plan), title, run.preset, "bench tune", self.options.executor, (), graph, settings
        )

    # -- looking at trials under way ---------------------------------------------------------------

    def _unwanted(self, trials: list[_OpenTrial]) -> Collection[str]:
        """The adapting stages of trials that are to be given up, looked at from time to time."""
        if time.monotonic() - self.looked >= _LOOK_SECONDS:
            self.looked = time.monotonic()
            self._look(trials)
        return [trial.adapting.artefact_name for trial in trials if trial.trial.number in self.decided]

    def _look(self, trials: list[_OpenTrial]) -> None:
        for trial in trials:
            number = trial.trial.number
            if number not in self.decided:
                rows, _ = trial.logs.read()
                outcome = self.study.look(number, rows, len(trial.plan.target_tasks))
                if outcome is not None:
                    self.decided[number] = replace(outcome, seconds=_seconds(rows))

    def _outcome(self, trial: _OpenTrial, failures: Mapping[str, str]) -> Outcome:
        self._look([trial])
        if trial.trial.number in self.decided:
            return self.decided[trial.trial.number]
        rows, _ = trial.logs.read()
        if self.store.is_finished(trial.adapting.artefact_name):
            returns = mean_returns(rows, len(trial.plan.target_tasks))
            if not len(returns) or returns.isna().any():
                return Outcome(FAILED, seconds=_seconds(rows), reason="its episodes hold no mean return")
            return Outcome(DONE, float(returns.mean()), len(returns), _seconds(rows))
        for stage in trial.plan.stages:
            reason = failures.get(stage.artefact_name)
            if reason is not None and self._is_tuned(trial.plan, stage):
                return Outcome(FAILED, seconds=_seconds(rows), reason=reason)
            if reason is not None:
                raise StageFailedError(f"{stage.artefact_name}, which all trials share, failed: {reason}")
        raise StageFailedError(
            f"trial {trial.trial.number} was not run to its end (bench status {sweep_name(self.plan)} says more); "
            "the same command goes on"
        )

    def _is_tuned(self, plan: RunPlan, stage: PlannedStage) -> bool:
        """Whether what is tuned has a part in a stage: then a failure may be its fault."""
        names = [planned.spec.name for planned in plan.stages]
        first = min(names.index(name.partition(".")[0]) for name in self.record.space)
        return names.index(stage.spec.name) >= first


def _seconds(rows: Any) -> float:
    return round(float(rows["seconds"].max()), 1) if len(rows) else 0.0
