"""Where one stage of a run stands, told from files alone; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.checkpoint_info import CheckpointInfo, read_checkpoint_info
from bench.store import ArtefactStore, read_failure


@dataclass(frozen=True)
class StageState:
    """Where a stage stands."""

    state: str
    """``done``, ``failed``, ``started`` or ``waiting``."""
    checkpoint: CheckpointInfo | None = None
    """Of a stage that has started."""
    error: str | None = None
    """The last line of a failure."""

    @property
    def progress(self) -> str | None:
        """``120 of 200 episodes``, by the last checkpoint."""
        info = self.checkpoint
        return None if info is None else f"{info.done} of {info.total} {info.unit}"


def stage_state(stage: Mapping[str, Any], store: ArtefactStore) -> StageState:
    """Of a stage in a ``run.json``. Raises ``StorageError`` when its files are damaged."""
    if stage["done"]:
        return StageState("done")
    partial = store.partial_folder(stage["artefact"])
    failure = read_failure(partial)
    if failure is not None:
        return StageState("failed", error=failure["error"])
    info = read_checkpoint_info(partial)
    return StageState("started" if info is not None or partial.exists() else "waiting", info)
