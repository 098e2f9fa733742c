"""Rows and metrics as TensorBoard files, for those who look at all their work there. An option, not a dependency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.files import storage_errors
from bench.results import learning_curve
from bench.stage_logs import Record


class TensorBoardFiles:
    """A folder of event files, one subfolder per run: ``target/return`` by episode, ``<stage>/<metric>`` by record."""

    def __init__(self, folder: Path) -> None:
        """Raises ``UserError`` when the package is missing, or when the folder holds something already."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "--tensorboard needs the package tensorboard: pip install 'simpl-bench[tensorboard]'"
            ) from error
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"--tensorboard {folder}: the folder is not empty; choose another")
        self._folder, self._make = folder, SummaryWriter
        self._writers: dict[str, Any] = {}
        self._written: dict[tuple[str, str], int] = {}

    def write(self, run: str, stage: str, rows: pd.DataFrame, metrics: Sequence[Record]) -> None:
        """Add what was not there the last time. Raises ``StorageError``."""
        curve = learning_curve(rows)
        with storage_errors(f"write TensorBoard files in {self._folder}"):
            for episode, score in self._new(run, f"{stage} curve", list(curve.items())):
                self._writer(run).add_scalar("target/return", score, int(episode))
            for index, record in self._new(run, f"{stage} metrics", list(enumerate(metrics))):
                for name, value in record.items():
                    if name != "seconds" and not math.isnan(value):
                        self._writer(run).add_scalar(f"{stage}/{name}", value, index)

    def _new(self, run: str, kind: str, points: Sequence[Any]) -> Sequence[Any]:
        done = self._written.get((run, kind), 0)
        self._written[run, kind] = max(done, len(points))
        return points[done:]

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            self._writers[run] = self._make(str(self._folder / run))
        return self._writers[run]

    def close(self) -> None:
        """Write what is still in memory."""
        for writer in self._writers.values():
            writer.close()
