"""Measured overhead of a sweep on this machine: 200 stages of 0.1 s in two processes, against the ideal. Not a test.

    make benchmark          # or: python -m tests.benchmarks.sweep

Run it on a quiet machine. The stages sleep, so what is measured is the harness: starting the workers, handing out
nodes, exit records, checkpoints, manifests, and everything synced to disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.registry import register_algorithm
from algorithms.stage import Algorithm, Progress, Stage, StageContext, StageReport, StageSpec
from bench.graph import REPORT, merge_plans
from bench.local_executor import run_locally
from bench.plan import RunRequest, plan_run
from bench.process import restart_with_environment
from bench.run import RunOptions
from bench.sweep_view import SweepView
from tests.sweep_helpers import toy_environment

STAGES, STAGE_SECONDS, PROCESSES = 200, 0.1, 2


@dataclass(frozen=True)
class WaitConfig:
    """Sleeping."""

    seconds: float = STAGE_SECONDS
    """How long."""


class Wait(Stage):
    def __init__(self, config: WaitConfig, context: StageContext) -> None:
        self.config, self.done = config, 0

    @property
    def progress(self) -> Progress:
        return Progress(self.done, 1, "naps")

    def advance(self) -> StageReport:
        time.sleep(self.config.seconds)
        self.done = 1
        return StageReport()

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        return {}


ALGORITHM = Algorithm(
    name="waits",
    title="Many short stages",
    stages=tuple(StageSpec(f"wait{index}", WaitConfig, Wait, (), "none", f"wait-{index}/1") for index in range(STAGES)),
    presets={("toy", "smoke"): {}},
)


class _QuietView(SweepView):
    def line(self, text: str) -> None:
        if "failed" in text:
            print(text, file=sys.stderr)


def sweep() -> None:
    """Wall time of the stages from the start of the executor, and from when its workers were ready."""
    # tests.conftest has registered the toy, whose task distribution this borrows.
    register_algorithm("waits", "tests.benchmarks.sweep:ALGORITHM", "a benchmark")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(toy_environment(folder / "plugin", "waits = tests.benchmarks.sweep:ALGORITHM"))
        out = folder / "runs"
        graph = merge_plans([plan_run(RunRequest("waits", "toy-line", "smoke"))], out)
        started = time.time()
        outcome = run_locally(graph, "waits", RunOptions(out, device="cpu"), PROCESSES, _QuietView(len(graph.nodes)))
        stages = [node.name for node in graph.nodes.values() if node.stage != REPORT]
        assert set(stages) < set(outcome.done), outcome
        made = [out / "artefacts" / stage / "manifest.json" for stage in stages]
        ended = max(path.stat().st_mtime for path in made)
        begun = min(path.stat().st_mtime for path in made) - STAGE_SECONDS
    ideal = STAGES * STAGE_SECONDS / PROCESSES
    load = os.getloadavg()[0]
    for what, seconds in (("with the start of the workers", ended - started), ("once they are up", ended - begun)):
        print(f"{seconds:.1f} s {what}: {seconds / ideal - 1:+.0%} of the ideal {ideal:.0f} s; load {load:.1f}")


if __name__ == "__main__":
    restart_with_environment(threads=1)  # As bench sweep does: else workers cannot be copies of this process.
    sweep()
