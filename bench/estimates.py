"""What stages take, from those that were measured: in the artefact store, and in the results that ship with the source.

The best witness is a stage with the same computation and configuration, whatever its seed and inputs; else one of the
same name at the same preset. Stages on target tasks are scaled by the number of tasks.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.files import canonical_json, read_json
from bench.graph import Estimate
from bench.plan import PlannedStage, RunPlan
from bench.store import ARTEFACTS_FOLDER, MANIFEST, RUN_FILE

SHIPPED_RUNS = Path(__file__).resolve().parent.parent / "results" / "runs"
"""Only where the source is: an installed package has none."""


@dataclass(frozen=True)
class _Sample:
    seconds: float
    """Per target task, where the stage has target tasks."""
    on_gpu: bool


class StageTimes:
    """Wall times of finished stages."""

    def __init__(self) -> None:
        self._by_config: dict[str, list[_Sample]] = {}
        self._by_preset: dict[tuple[str, str], list[_Sample]] = {}

    @classmethod
    def collect(cls, out: Path, shipped: Path = SHIPPED_RUNS) -> StageTimes:
        """From all that is below ``out`` and ``shipped``; what cannot be read is passed over."""
        times = cls()
        for manifest in _readable(out / ARTEFACTS_FOLDER, MANIFEST):
            times._add_stage(manifest["key"], manifest["seconds"], manifest["device"])
        for folder in (shipped, out):
            for record in _readable(folder, RUN_FILE):
                for stage in record["stages"]:
                    times._add_run_stage(record, stage)
        return times

    def estimate(self, plan: RunPlan, stage: PlannedStage) -> Estimate | None:
        """What a planned stage takes, or None when nothing like it was measured."""
        samples = self._by_config.get(_config_key(stage.key))
        samples = samples or self._by_preset.get((stage.spec.name, plan.request.preset))
        if not samples:
            return None
        seconds = statistics.median(sample.seconds for sample in samples) * _target_tasks(stage.key)
        return Estimate(seconds, any(sample.on_gpu for sample in samples))

    def _add_stage(self, key: Mapping[str, Any], seconds: float, device: str) -> None:
        sample = _Sample(seconds / _target_tasks(key), device == "cuda")
        self._by_config.setdefault(_config_key(key), []).append(sample)

    def _add_run_stage(self, record: Mapping[str, Any], stage: Mapping[str, Any]) -> None:
        if stage["seconds"] is None:
            return
        if "manifest" in stage:
            self._add_stage(stage["manifest"]["key"], stage["seconds"], record["device"])
        if not record["overrides"]:
            # Only the last stage of a run is on its target tasks: those before it are shared by all of them.
            tasks = len(record["target_tasks"]) if stage is record["stages"][-1] else 1
            sample = _Sample(stage["seconds"] / tasks, record["device"] == "cuda")
            self._by_preset.setdefault((stage["name"], record["preset"]), []).append(sample)


def _readable(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"*/{name}")):
        try:
            yield read_json(path)
        except StorageError:
            continue  # An estimate can do without it; whoever needs the file itself will say what is wrong.


def _config_key(key: Mapping[str, Any]) -> str:
    return canonical_json({"implementation": key["implementation"], "config": key["config"]})


def _target_tasks(key: Mapping[str, Any]) -> int:
    """How many target tasks a stage works on; 1 where it works on none."""
    tasks = key["tasks"]
    return len(tasks["target"]) if isinstance(tasks, dict) and "target" in tasks else 1
