"""``bench board``: a run or a sweep as it goes, on a terminal: stages, learning curves, metrics; from files alone."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.errors import UserError, unknown_name
from bench.files import is_file, printable
from bench.graph import REPORT, StageNode
from bench.ledger import LEDGER, sweeps_below
from bench.locks import lock_holder
from bench.lookup import find_task_distribution
from bench.node_records import RUNNING, SWEEPS_FOLDER, sweep_folder
from bench.progress import duration_text
from bench.results import learning_curve, task_set_of
from bench.run_record import read_run_record
from bench.stage_logs import Record, StageLogs
from bench.stage_state import stage_state
from bench.status import SweepStatus, read_status, status_tables
from bench.store import ARTEFACTS_FOLDER, RUN_FILE, RUN_LOCK, ArtefactStore
from bench.tables import make_console, make_table
from bench.tensorboard import TensorBoardFiles

_REFRESH_SECONDS = 2.0
_LATEST_EPISODES = 10
"""The score shown as the latest is the mean of so many episodes of each task."""
_CURVE_WIDTH = 60
_METRIC_WIDTH = 40
_SHOWN_RUNS = 20
_SHOWN_METRICS = 14
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], low: float, high: float, width: int) -> str:
    """``values`` as at most ``width`` bars from ``low`` to ``high``, each the mean of its share; no bar for NaN."""
    if not len(values):
        return ""
    parts = np.array_split(np.asarray(values, dtype=float), min(width, len(values)))
    heights = [float(np.mean(part)) for part in parts]
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if np.isnan(height) else _BARS[int(np.clip(round((height - low) * scale), 0, len(_BARS) - 1))]
        for height in heights
    )


@dataclass(frozen=True)
class Snapshot:
    """A board at one moment."""

    parts: Sequence[RenderableType]
    is_moving: bool


class Board(ABC):
    """What a board is of."""

    @abstractmethod
    def look(self) -> Snapshot:
        """How things stand now. Raises ``UserError`` when its files have gone or are damaged."""

    @abstractmethod
    def logs(self) -> Iterator[tuple[str, StageLogs]]:
        """Runs with the logs of their stages."""


class RunBoard(Board):
    """One run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = ArtefactStore(folder.parent / ARTEFACTS_FOLDER)

    @cached_property
    def _logs(self) -> Mapping[str, StageLogs]:
        stages = read_run_record(self.folder)["stages"]
        return {s["name"]: StageLogs(self._store, self.folder, s["name"], s["artefact"]) for s in stages}

    def logs(self) -> Iterator[tuple[str, StageLogs]]:
        for logs in self._logs.values():
            yield self.folder.name, logs

    def look(self) -> Snapshot:
        record = read_run_record(self.folder)
        holder = lock_holder(self.folder / RUN_LOCK)
        status = record["status"] if record["status"] != "running" or holder else "stopped"
        parts: list[RenderableType] = [
            Text(printable(f"{record['run']}: {status}") + (f" ({holder})" if holder else ""), style="bold"),
            self._stage_table(record),
        ]
        under_way = next((s["name"] for s in record["stages"] if not s["done"]), record["stages"][-1]["name"])
        tables = {name: logs.read() for name, logs in self._logs.items()}
        curve = learning_curve(pd.concat([rows for rows, _ in tables.values()], ignore_index=True))
        if len(curve):
            parts.append(_curve_table([(record["run"], record["env"], curve)], {task_set_of(record)}))
        metrics = tables[under_way][1]
        if metrics:
            parts.append(_metrics_table(under_way, metrics))
        return Snapshot(parts, holder is not None)

    def _stage_table(self, record: Mapping[str, Any]) -> Table:
        table = make_table("Stages", "stage", "state", "progress", "rate", "time", "left")
        for stage in record["stages"]:
            found = stage_state(stage, self._store)
            is_held = found.state != "done" and lock_holder(self._store.lock_path(stage["artefact"])) is not None
            state = "reused" if stage.get("reused") else "running" if is_held else found.state
            info = found.checkpoint
            if info is None or not info.done or not info.seconds:
                seconds = "" if stage["seconds"] is None else duration_text(stage["seconds"])
                table.add_row(stage["name"], state, Text(found.progress or found.error or ""), "", seconds, "")
                continue
            rate = info.done / info.seconds
            table.add_row(
                stage["name"], state, f"{info.done} of {info.total} {info.unit}", f"{rate:.3g} per second",
                duration_text(info.seconds), duration_text((info.total - info.done) / rate),
            )  # fmt: skip
        return table


class SweepBoard(Board):
    """All runs of a sweep."""

    def __init__(self, out: Path, sweep: str) -> None:
        self.out, self.sweep = out, sweep
        self._store = ArtefactStore(out / ARTEFACTS_FOLDER)
        self._known: dict[tuple[str, str], StageLogs] = {}

    def logs(self) -> Iterator[tuple[str, StageLogs]]:
        for run, nodes in _stages_of(read_status(self.out, self.sweep)).items():
            for node in nodes:
                yield run, self._logs_of(run, node)

    def _logs_of(self, run: str, node: StageNode) -> StageLogs:
        key = (run, node.name)
        if key not in self._known:
            self._known[key] = StageLogs(self._store, self.out / run, node.stage, node.name)
        return self._known[key]

    def look(self) -> Snapshot:
        status = read_status(self.out, self.sweep)
        parts: list[RenderableType] = [*status_tables(status)]
        stages = _stages_of(status)
        curves: list[tuple[str, str, pd.Series]] = []
        task_sets: set[str] = set()
        # Those under way first; a study may have a thousand runs, and reading them all takes longer than a look.
        for run in sorted(stages, key=lambda run: status.run_state(run) != RUNNING):
            rows = [self._logs_of(run, node).read()[0] for node in stages[run]]
            curve = learning_curve(pd.concat(rows, ignore_index=True))
            if len(curve):
                request = stages[run][-1].request  # of the last stage, which no run on other tasks shares
                curves.append((run, request.env, curve))
                task_sets.add(request.task_set)
            if len(curves) == _SHOWN_RUNS:
                break
        if curves:
            parts.append(_curve_table(curves, task_sets))
        if len(curves) == _SHOWN_RUNS < len(stages):
            parts.append(Text(f"(at most {_SHOWN_RUNS} runs; bench report has all)"))
        return Snapshot(parts, status.is_moving)


def _stages_of(status: SweepStatus) -> dict[str, list[StageNode]]:
    """Run -> its stages, the making of its results left out."""
    found: dict[str, list[StageNode]] = {run: [] for run in status.ledger.graph.runs}
    for node in status.ledger.graph.nodes.values():
        if node.stage != REPORT:
            for run in node.runs:
                found[run].append(node)
    return found


def _curve_table(curves: Sequence[tuple[str, str, pd.Series]], task_sets: Collection[str]) -> Table:
    """Learning curves (run, task distribution, mean return by episode), from the lowest to the highest score."""
    title = f"Score on the {' or '.join(sorted(task_sets))} tasks, by episode"
    table = make_table(title, "run", "episodes", "latest", "curve")
    for run, env, curve in curves:
        low, high = _score_range(env, curve)
        latest = float(curve.iloc[-_LATEST_EPISODES:].mean())
        table.add_row(Text(run), str(len(curve)), f"{latest:.2f}", sparkline(list(curve), low, high, _CURVE_WIDTH))
    return table


def _score_range(env: str, curve: pd.Series) -> tuple[float, float]:
    try:
        return find_task_distribution(env).score_range
    except UserError:
        return float(curve.min()), float(curve.max())  # From a package that is not installed here.


def _metrics_table(stage: str, records: Sequence[Record]) -> Table:
    """The latest of each metric and its course, from its lowest to its highest value."""
    table = make_table(f"Metrics of {stage}", "metric", "latest", "lowest", "highest", "course")
    courses: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            if name != "seconds":
                courses.setdefault(name, []).append(float(value))
    for name, values in list(courses.items())[:_SHOWN_METRICS]:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        cells = (f"{value:.4g}" for value in (values[-1], low, high))
        table.add_row(Text(name), *cells, sparkline(values, low, high, _METRIC_WIDTH))
    if len(courses) > _SHOWN_METRICS:
        table.caption = f"and {len(courses) - _SHOWN_METRICS} more metrics"
    return table


def find_board(name: str | None, out: Path) -> Board:
    """The board of a run (its folder, or its name below ``out``) or of a sweep below ``out``; by default the newest.

    Raises ``UserError`` with the nearest name when there is none.
    """
    runs = {path.parent.name: path for path in sorted(out.glob(f"*/{RUN_FILE}"))}
    sweeps = {sweep: sweep_folder(out, sweep) / LEDGER for sweep in sweeps_below(out)}
    if name is None:
        changed = {path: path.stat().st_mtime for path in (*runs.values(), *sweeps.values())}
        if not changed:
            raise UserError(f"no run and no sweep in {out}")
        newest = max(changed, key=lambda path: changed[path])
        return SweepBoard(out, newest.parent.name) if newest.name == LEDGER else RunBoard(newest.parent)
    if is_file(Path(name) / RUN_FILE):
        return RunBoard(Path(name))
    if name in runs:
        return RunBoard(out / name)
    if name in sweeps:
        return SweepBoard(out, name)
    raise unknown_name(f"run or sweep (neither a run's folder nor in {out} or {out / SWEEPS_FOLDER})", name,
                       [*runs, *sweeps])  # fmt: skip


def show_board(name: str | None, out: Path, once: bool, tensorboard: Path | None) -> None:
    """Show a board until nothing moves any more, or Ctrl-C; once where standard output is no terminal.

    With ``tensorboard``, write what it sees there as TensorBoard files, too, for as long as something moves.
    Raises ``UserError``.
    """
    board = find_board(name, out)
    files = None if tensorboard is None else TensorBoardFiles(tensorboard)
    console = make_console()
    try:
        if once or (not console.is_terminal and files is None):
            _show_once(board, console, files)
        else:
            _follow(board, console, files)
    except KeyboardInterrupt:
        pass  # To look on no longer stops nothing.
    finally:
        if files is not None:
            files.close()


def _show_once(board: Board, console: Console, files: TensorBoardFiles | None) -> None:
    for part in board.look().parts:
        console.print(part)
    _write(board, files)


def _follow(board: Board, console: Console, files: TensorBoardFiles | None) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            snapshot = board.look()
            live.update(Group(*snapshot.parts), refresh=console.is_terminal or not snapshot.is_moving)
            _write(board, files)
            if not snapshot.is_moving:
                return
            time.sleep(_REFRESH_SECONDS)


def _write(board: Board, files: TensorBoardFiles | None) -> None:
    if files is not None:
        for run, logs in board.logs():
            files.write(run, logs.stage, *logs.read())
