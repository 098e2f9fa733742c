"""From nodes to job arrays: level by level, stages of one kind together, short ones packed, chunked to the limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.graph import StageGraph, StageNode
from slurm.profiles import Profile, Resources

T = TypeVar("T")


@dataclass(frozen=True)
class PlannedArray:
    """One ``sbatch`` to come."""

    stage: str
    resources: Resources
    packs: tuple[tuple[StageNode, ...], ...]
    """Nodes of each job, which computes them one after another."""

    @property
    def inputs(self) -> set[str]:
        """Names of all nodes that its nodes read."""
        return {name for pack in self.packs for node in pack for name in node.inputs}

    def describe(self) -> str:
        """One line: how many jobs, and what each asks for."""
        asked, jobs = self.resources, len(self.packs)
        nodes = sum(map(len, self.packs))
        gpus = f", {asked.gpus} GPU" if asked.gpus else ""
        return (
            f"{self.stage}: {nodes} {'stage' if nodes == 1 else 'stages'} in an array of {jobs} "
            f"{'job' if jobs == 1 else 'jobs'}, each {asked.cpus} CPU{gpus}, {asked.memory_mb} MB, {asked.minutes} min"
        )


def plan_arrays(
    graph: StageGraph, nodes: Sequence[StageNode], profile: Profile, max_array_size: int
) -> list[PlannedArray]:
    """Arrays in which every node comes after those of ``nodes`` that it reads; none has more jobs than allowed."""
    arrays = []
    for level in graph.levels(nodes):
        for stage in dict.fromkeys(node.stage for node in level):
            asked = profile.for_stage(stage)
            packs = list(_chunks([node for node in level if node.stage == stage], asked.stages_per_job))
            arrays += [PlannedArray(stage, asked, chunk) for chunk in _chunks(packs, max_array_size)]
    return arrays


def _chunks(items: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])
