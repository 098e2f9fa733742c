"""Many runs as one graph of stages: equal stages of different runs are one node, and what exists is known.

A node is named like the artefact it makes. Each run ends in a ``report`` node, which gathers its rows, tables and
picture from the artefacts of all its stages. Building the graph computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bench.errors import StorageError
from bench.files import canonical_json, read_sealed_json, sha256_of_text
from bench.plan import PlannedStage, RunPlan, RunRequest
from bench.store import ARTEFACTS_FOLDER, RUN_FILE, ArtefactStore

REPORT = "report"
"""Stage name of the node that ends each run."""


@dataclass(frozen=True)
class Estimate:
    """What a node takes."""

    seconds: float
    """Wall time."""
    on_gpu: bool = False
    """Whether it was measured on a GPU."""


Estimator = Callable[[RunPlan, PlannedStage], Estimate | None]
_REPORT_ESTIMATE = Estimate(1.0)
"""What gathering a run's results takes, to its order of magnitude."""


@dataclass(frozen=True)
class StageNode:
    """One piece of work: a stage that one or more runs need, or the report of one run."""

    name: str
    """Name of the artefact, or ``report-<run>``."""
    stage: str
    """``data``, ``skills``, ... or ``report``."""
    hash: str
    """SHA-256 of everything that determines the result."""
    inputs: tuple[str, ...]
    """Names of the nodes whose artefacts it reads."""
    request: RunRequest
    """One of the runs that need it."""
    runs: tuple[str, ...]
    """Names of all runs that need it."""
    exists: bool
    """Whether its artefact, or the run's results, are there already."""
    estimate: Estimate | None = None
    """What it takes, by stages like it that were measured; None when there are none."""


@dataclass(frozen=True)
class StageGraph:
    """Nodes by name, inputs before what reads them."""

    nodes: Mapping[str, StageNode]
    stages_before_merging: int = 0
    """Stages of all runs together, reports left out: how many there would be if nothing were shared."""

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of all runs."""
        return tuple(node.runs[0] for node in self.nodes.values() if node.stage == REPORT)

    @cached_property
    def dependants(self) -> Mapping[str, tuple[str, ...]]:
        """For each node, the nodes that read it."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.inputs:
                found[name].append(node.name)
        return {name: tuple(names) for name, names in found.items()}

    def missing(self) -> tuple[StageNode, ...]:
        """What has to be run, inputs first: nodes that do not exist and that an unfinished report needs."""
        needed: set[str] = set()
        for node in reversed(list(self.nodes.values())):
            wanted = node.stage == REPORT or any(name in needed for name in self.dependants[node.name])
            if wanted and not node.exists:
                needed.add(node.name)
        return tuple(node for node in self.nodes.values() if node.name in needed)

    def levels(self, nodes: Iterable[StageNode] | None = None) -> list[list[StageNode]]:
        """Nodes (default ``missing()``) in levels: each needs only nodes of earlier levels, or nodes outside."""
        chosen = self.missing() if nodes is None else tuple(nodes)
        depth: dict[str, int] = {}
        for node in chosen:
            depth[node.name] = max((depth[name] + 1 for name in node.inputs if name in depth), default=0)
        levels: list[list[StageNode]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for node in chosen:
            levels[depth[node.name]].append(node)
        return levels

    def select(self, wanted: Callable[[str], bool]) -> StageGraph:
        """The part of the graph that runs with a ``wanted`` name need."""
        nodes = {name: node for name, node in self.nodes.items() if any(map(wanted, node.runs))}
        before = sum(len(node.inputs) for node in nodes.values() if node.stage == REPORT)
        return StageGraph(nodes, before)


def merge_plans(plans: Iterable[RunPlan], out: Path, estimator: Estimator = lambda plan, stage: None) -> StageGraph:
    """The graph of these runs, whose artefacts and results lie below ``out``."""
    chosen: dict[str, tuple[RunPlan, PlannedStage]] = {}
    runs: dict[str, list[str]] = {}
    reports: dict[str, RunPlan] = {}
    before = 0
    for plan in plans:
        if plan.run_name in reports:
            continue
        reports[plan.run_name] = plan
        before += len(plan.stages)
        for stage in plan.stages:
            chosen.setdefault(stage.artefact_name, (plan, stage))
            runs.setdefault(stage.artefact_name, []).append(plan.run_name)
    nodes = [
        StageNode(
            name, stage.spec.name, stage.hash, tuple(stage.inputs.values()), plan.request, tuple(runs[name]),
            exists=False, estimate=estimator(plan, stage),
        )
        for name, (plan, stage) in chosen.items()
    ] + [report_node(plan) for plan in reports.values()]  # fmt: skip
    return look_for(StageGraph({node.name: node for node in nodes}, before), out)


def report_node(plan: RunPlan) -> StageNode:
    """The node that gathers the results of a run."""
    inputs = tuple(stage.artefact_name for stage in plan.stages)
    name = f"{REPORT}-{plan.run_name}"
    return StageNode(
        name, REPORT, report_hash(plan), inputs, plan.request, (plan.run_name,), exists=False, estimate=_REPORT_ESTIMATE
    )


def report_hash(plan: RunPlan) -> str:
    """SHA-256 of the hashes of a run's stages."""
    return sha256_of_text(canonical_json([stage.hash for stage in plan.stages]))


def look_for(graph: StageGraph, out: Path) -> StageGraph:
    """The same graph with ``exists`` as it is below ``out`` now."""
    store = ArtefactStore(out / ARTEFACTS_FOLDER)
    nodes = {
        node.name: replace(
            node,
            exists=_is_reported(out / node.runs[0], node.inputs)
            if node.stage == REPORT
            else store.is_finished(node.name),
        )
        for node in graph.nodes.values()
    }
    return StageGraph(nodes, graph.stages_before_merging)


def _is_reported(folder: Path, artefacts: tuple[str, ...]) -> bool:
    """Whether the run's folder holds the results of just these artefacts."""
    try:
        # Not all of its shape is checked: a study has a thousand runs, and whoever reads the results will see to it.
        record = read_sealed_json(folder / RUN_FILE, "", required=False)
        return bool(record["status"] == "done" and tuple(stage["artefact"] for stage in record["stages"]) == artefacts)
    except (StorageError, KeyError, TypeError):
        return False  # Not there, or of another version: it is written anew.
