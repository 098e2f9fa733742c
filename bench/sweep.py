"""Take on a sweep: plan its graph, write the ledger, hand what is missing to an executor; or only show the graph."""

from __future__ import annotations

import fnmatch
import os
import shlex
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from algorithms.registry import algorithm_names
from bench.budgets import total_budget
from bench.cli_parser import DEFAULT_OUT
from bench.errors import InterruptedRunError, StageFailedError, UserError, nearest_name
from bench.estimates import StageTimes
from bench.files import printable
from bench.graph import REPORT, StageGraph, StageNode, merge_plans
from bench.ledger import LOCAL, LOCK, SLURM, Ledger
from bench.local_executor import default_parallel, run_locally
from bench.locks import LockHeldError, lock_file, lock_process
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair, why_impossible
from bench.node_records import DONE, sweep_folder
from bench.plan import RunPlan, RunRequest, plan_run
from bench.progress import duration_text
from bench.run import RunOptions
from bench.status import NEED_A_LOOK, read_status
from bench.sweep_file import SweepSpec, load_sweep
from bench.sweep_view import make_view
from bench.tables import print_table
from envs.registry import task_distribution_names


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is carried out."""

    run: RunOptions
    executor: str = LOCAL
    profile: str | None = None
    """Cluster profile, for SLURM."""
    max_parallel: int | None = None
    """Stages at a time; None is as many as fit."""
    only: str | None = None
    """Glob of run names: only these runs, and what they need."""
    wait: bool = False
    """For SLURM: return when nothing of it is queued or running any more."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a ledger keeps of them, to go on with the same."""
        run = self.run
        return {
            "device": run.device, "threads": run.threads, "checkpoint_seconds": run.checkpoint_seconds,
            "profile": self.profile, "max_parallel": self.max_parallel,
        }  # fmt: skip


def start_sweep(source: str, preset: str, options: SweepOptions, dry_run: bool) -> None:
    """``bench sweep``: plan, and run or show. Raises ``UserError`` and its kinds; running again goes on from there."""
    ledger = plan_sweep(load_sweep(source), source, preset, options)
    for line in ledger.left_out:
        print(printable(f"left out: {line}"))
    graph = _selected(ledger, options.only)
    if dry_run:
        print_graph(ledger, graph, options)
        return
    print(f"{ledger.sweep}: {_counts_text(graph)}")
    _carry_out(ledger, graph, options)


def retry_sweep(ledger: Ledger, options: SweepOptions) -> None:
    """``bench retry``: run what of a known sweep is still missing, failed stages among it, as its ledger has it."""
    ledger = replace(ledger, executor=options.executor)
    graph = _selected(ledger, options.only)
    print(f"{ledger.sweep}: {_counts_text(graph)}")
    _carry_out(ledger, graph, options)


def plan_sweep(spec: SweepSpec, source: str, preset: str, options: SweepOptions) -> Ledger:
    """The ledger of a sweep, not yet written. Raises ``UserError`` when nothing of it can be run."""
    plans, left_out = plan_runs(spec.requests(preset))
    name = f"{spec.name}-{preset}"
    if not plans:
        raise UserError(f"nothing of the sweep {name} can be run: {'; '.join(left_out)}")
    out = options.run.out
    graph = merge_plans(plans, out, StageTimes.collect(out).estimate)
    return Ledger(name, spec.title, preset, source, options.executor, left_out, graph, options.settings)


def plan_runs(requests: list[RunRequest]) -> tuple[list[RunPlan], tuple[str, ...]]:
    """Plans of all requests that can be planned, and one line for each reason why others cannot be.

    Left out is what names an algorithm or task distribution that is not registered, or a pair or preset that is not
    possible. Anything else that is wrong raises ``UserError``.
    """
    plans, reasons = [], Counter[str]()
    for request in requests:
        reason = _why_left_out(request)
        if reason is None:
            plans.append(plan_run(request))
        else:
            reasons[reason] += 1
    return plans, tuple(f"{reason} ({count} {'run' if count == 1 else 'runs'})" for reason, count in reasons.items())


def _why_left_out(request: RunRequest) -> str | None:
    for kind, name, known in (
        ("algorithm", request.algo, algorithm_names()),
        ("task distribution", request.env, task_distribution_names()),
    ):
        if name not in known:
            return f"{kind} {name!r} is not registered"
    algorithm, distribution = find_algorithm(request.algo), find_task_distribution(request.env)
    reason = why_impossible(algorithm, distribution)
    if reason is None and request.preset not in presets_of_pair(algorithm, distribution):
        reason = f"{request.algo} on {request.env} has no preset {request.preset!r}"
    return reason


def _selected(ledger: Ledger, only: str | None) -> StageGraph:
    if only is None:
        return ledger.graph
    graph = ledger.graph.select(lambda run: fnmatch.fnmatchcase(run, only))
    if not graph.nodes:
        near = nearest_name(only, ledger.graph.runs) or ledger.graph.runs[0]
        raise UserError(f"--only {only}: no run of {ledger.sweep} is called so; one is {near}")
    return graph


def _carry_out(ledger: Ledger, graph: StageGraph, options: SweepOptions) -> None:
    if not graph.missing():
        ledger.write(options.run.out)
        print(f"nothing is missing: {_command('status', ledger, options)}")
    elif options.executor == SLURM:
        _submit(ledger, graph, options)
    else:
        with sweep_lock(ledger.sweep, options.run.out):
            ledger.write(options.run.out)
            _run_here(ledger, graph, options)


def _run_here(ledger: Ledger, graph: StageGraph, options: SweepOptions) -> None:
    parallel = options.max_parallel or default_parallel(options.run)
    with make_view(len(graph.missing())) as view:
        outcome = run_locally(graph, ledger.sweep, options.run, parallel, view)
    again = _command("retry", ledger, options)
    if outcome.signal_number is not None:
        raise InterruptedRunError(
            f"{ledger.sweep} is stopped, {view.summary}; everything is saved: {again} goes on", outcome.signal_number
        )
    print(f"{ledger.sweep}: {view.summary}")
    for name, error in outcome.failed.items():
        print(f"failed: {name}: {error}")
    if outcome.failed:
        blocked = f" and {len(outcome.blocked)} that need them were not run" if outcome.blocked else ""
        raise StageFailedError(
            f"{len(outcome.failed)} of {view.total} failed{blocked}; "
            f"{_command('status', ledger, options)} --failed shows why, {again} tries again"
        )


def _submit(ledger: Ledger, graph: StageGraph, options: SweepOptions) -> None:
    from slurm import executor

    executor.check(options.profile)
    with ledger.written(options.run.out):
        lines = executor.submit(graph, ledger.sweep, options.run, options.profile, options.max_parallel)
    print("\n".join(lines))
    print(f"{_command('status', ledger, options)} shows how far it is")
    if options.wait:
        executor.wait(ledger.sweep, options.run.out)
        _say_how_it_ended(ledger, graph, options)


def _say_how_it_ended(ledger: Ledger, graph: StageGraph, options: SweepOptions) -> None:
    """Print where the nodes of ``graph`` stand. Raises ``StageFailedError`` unless all of them are done."""
    nodes = [node for node in read_status(options.run.out, ledger.sweep).nodes.values() if node.name in graph.nodes]
    for node in nodes:
        if node.state in NEED_A_LOOK:
            print(f"{node.state}: {node.name}: {node.reason}" + (f" ({node.log})" if node.log else ""))
    counts = Counter(node.state for node in nodes)
    print(f"{ledger.sweep}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    if set(counts) != {DONE}:
        why, again = _command("status", ledger, options), _command("retry", ledger, options)
        raise StageFailedError(
            f"{len(nodes) - counts[DONE]} of {len(nodes)} are not done; {why} --failed shows why, {again} tries again"
        )


def _command(name: str, ledger: Ledger, options: SweepOptions) -> str:
    """The command line that goes on with this sweep."""
    out = options.run.out
    return f"bench {name} {ledger.sweep}" + ("" if out == DEFAULT_OUT else f" --out {shlex.quote(str(out))}")


def cancel_sweep(ledger: Ledger, out: Path) -> None:
    """``bench cancel``: stop what runs, saved, and take the rest from the queue. Raises ``UserError``."""
    if ledger.executor == SLURM:
        from slurm import executor

        print("\n".join(executor.cancel(ledger.sweep, out)) or "nothing is queued or running")
        return
    process = lock_process(sweep_folder(out, ledger.sweep) / LOCK)
    if process is None:
        print("nothing is running")
        return
    pid, host = process
    if host != socket.gethostname():
        raise UserError(f"{ledger.sweep} runs on {host}; run bench cancel there")
    os.kill(pid, signal.SIGTERM)
    print(f"asked pid {pid} to save and stop")


@contextmanager
def sweep_lock(sweep: str, out: Path) -> Iterator[None]:
    """Held by the process that runs a sweep on its machine. Raises ``UserError`` naming the other one that does."""
    try:
        with lock_file(sweep_folder(out, sweep) / LOCK, wait=False):
            yield
    except LockHeldError as error:
        raise UserError(f"the sweep {sweep} is already running in {error.holder}") from error


def print_graph(ledger: Ledger, graph: StageGraph, options: SweepOptions) -> None:
    """Print what would be run and reused, what it takes, and how it would be cut into arrays of jobs."""
    missing = graph.missing()
    kinds = dict.fromkeys(node.stage for node in graph.nodes.values())
    needed = {node.name for node in missing}
    rows = []
    for kind in kinds:
        nodes = [node for node in graph.nodes.values() if node.stage == kind]
        to_run = [node for node in nodes if node.name in needed]
        uses = sum(len(node.runs) for node in nodes)
        shared = str(uses - len(nodes)) if kind != REPORT else ""
        budget = _budget_texts(to_run, options.run.out) if kind != REPORT else ("", "")
        exist = str(sum(node.exists for node in nodes))
        rows.append((kind, str(len(to_run)), exist, shared, *budget, _time_text(to_run)))
    print_table(
        f"{ledger.sweep}: {ledger.title}",
        (
            "stage",
            "to run",
            "exist",
            "saved by sharing",
            "env_steps, at most",
            "updates, at most",
            "time each (measured)",
        ),
        rows,
    )
    print(_counts_text(graph))
    for index, level in enumerate(graph.levels(missing)):
        counts = Counter(node.stage for node in level)
        print(f"level {index}: " + ", ".join(f"{kind} array of {count}" for kind, count in counts.items()))
    print(_cost_text(missing, options.run.threads))
    if options.executor == SLURM:
        from slurm import executor

        for line in executor.describe(graph, options.profile):
            print(line)


def _budget_texts(nodes: list[StageNode], out: Path) -> tuple[str, str]:
    """(env_steps, updates) of all these nodes together."""
    budget, uncounted = total_budget(nodes, out)
    if uncounted == len(nodes):
        return "", ""
    left_out = f" (without {uncounted})" if uncounted else ""
    counts = (budget.env_steps, budget.updates)
    env_steps, updates = (f"{count:,}{left_out}" if count else "" for count in counts)
    return env_steps, updates


def _counts_text(graph: StageGraph) -> str:
    stages = [node for node in graph.nodes.values() if node.stage != REPORT]
    reports = len(graph.nodes) - len(stages)
    missing = graph.missing()
    to_run = sum(node.stage != REPORT for node in missing)
    exist = sum(node.exists for node in stages)
    return (
        f"{reports} runs of {graph.stages_before_merging} stages, merged to {len(stages)}: "
        f"{to_run} to run, {exist} exist; {len(missing) - to_run} reports to write"
    )


def _time_text(nodes: list[StageNode]) -> str:
    seconds = [node.estimate.seconds for node in nodes if node.estimate is not None]
    if not seconds:
        return "" if not nodes else "unknown"
    shortest, longest = duration_text(min(seconds)), duration_text(max(seconds))
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _cost_text(missing: tuple[StageNode, ...], threads: int) -> str:
    known = [node.estimate for node in missing if node.estimate is not None]
    hours = sum(estimate.seconds for estimate in known) / 3600
    gpu_hours = sum(estimate.seconds for estimate in known if estimate.on_gpu) / 3600
    text = f"estimated: {hours * threads:.2f} core-hours, {gpu_hours:.2f} GPU-hours"
    unknown = Counter(node.stage for node in missing if node.estimate is None)
    if unknown:
        counts = ", ".join(f"{count} {kind}" for kind, count in unknown.items())
        text += f", without {counts}: nothing like them was measured yet"
    return text
