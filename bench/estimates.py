"""What stages take, from those that were measured: in the artefact store, and in the results that ship with the source.

The best witness is a stage with the same computation and configuration, whatever its seed and inputs; else one of the
same name at the same preset. Stages on target tasks are scaled by the number of tasks.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.files import canonical_json
from bench.graph import Estimate
from bench.plan import PlannedStage, RunPlan
from bench.run_record import read_run_record
from bench.store import ARTEFACTS_FOLDER, MANIFEST, RUN_FILE, ArtefactStore

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
        store = ArtefactStore(out / ARTEFACTS_FOLDER)
        for name in _folders_with(store.root, MANIFEST):
            with suppress(StorageError):  # An estimate can do without; whoever needs the file itself will say.
                manifest = store.manifest(name)
                times._add_stage(manifest["key"], manifest["seconds"], str(manifest.get("device")))
        for folder in (shipped, out):
            for name in _folders_with(folder, RUN_FILE):
                with suppress(StorageError):
                    record = read_run_record(folder / name)
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
            self._add_stage(stage["manifest"].get("key", {}), stage["seconds"], str(record.get("device")))
        if not record.get("overrides") and record.get("target_tasks"):
            # Only the last stage of a run is on its target tasks: those before it are shared by all of them.
            tasks = len(record["target_tasks"]) if stage is record["stages"][-1] else 1
            sample = _Sample(stage["seconds"] / tasks, record.get("device") == "cuda")
            self._by_preset.setdefault((stage["name"], record["preset"]), []).append(sample)


def _folders_with(folder: Path, file_name: str) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{file_name}"))


def _config_key(key: Mapping[str, Any]) -> str:
    return canonical_json({"implementation": key.get("implementation"), "config": key.get("config")})


def _target_tasks(key: Mapping[str, Any]) -> int:
    """How many target tasks a stage works on; 1 where it works on none."""
    tasks = key.get("tasks")
    return len(tasks["target"]) if isinstance(tasks, dict) and "target" in tasks else 1
