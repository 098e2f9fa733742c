"""How far a sweep has come, for any shell at any time: from its ledger, exit records, artefacts and checkpoints.

No process has to be asked: what exists is done; a record that says ``running`` counts while the stage's lock is held;
for nodes given to a cluster, its own word is added. Nothing here needs torch.
"""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.checkpoint_info import CheckpointInfo, read_checkpoint_info
from bench.cli_parser import DEFAULT_OUT
from bench.errors import StorageError
from bench.files import printable
from bench.graph import REPORT, StageNode
from bench.ledger import LOCK, SLURM, Ledger, read_ledger, sweeps_below
from bench.locks import lock_holder
from bench.node_records import DONE, FAILED, INTERRUPTED, RUNNING, NodeRecord, read_record, sweep_folder
from bench.store import ARTEFACTS_FOLDER, RUN_LOCK, ArtefactStore
from bench.tables import make_console, make_table, plain, print_table

if TYPE_CHECKING:
    from slurm.states import ClusterNode

PENDING, STOPPED, PREEMPTED, BLOCKED, CANCELLED = "pending", "stopped", "preempted", "blocked", "cancelled"
STATES = (DONE, RUNNING, PENDING, PREEMPTED, INTERRUPTED, STOPPED, FAILED, BLOCKED, CANCELLED)
"""``interrupted`` was asked to stop and is saved; ``stopped`` was killed; ``blocked`` needs one that failed."""

NEED_A_LOOK = (FAILED, STOPPED, INTERRUPTED)
CLUSTER_SAYS = "the cluster says "
_WATCH_SECONDS = 2.0
_SHOWN_NODES = 40
"""Nodes that need a look are listed up to this many; ``--json`` has all."""


@dataclass(frozen=True)
class NodeStatus:
    """Where one node stands."""

    name: str
    stage: str
    state: str
    """One of ``STATES``."""
    progress: str = ""
    """``120 of 200 episodes, 0.5 per second``, by the last checkpoint."""
    reason: str = ""
    """One line: why it failed or is blocked."""
    attempts: int = 0
    where: str = ""
    """``pid 12 on host`` of its last attempt."""
    traceback: str = ""
    log: str = ""
    """Where what computed it wrote what it had to say, and its last words."""


@dataclass(frozen=True)
class SweepStatus:
    """Where a sweep stands."""

    ledger: Ledger
    nodes: Mapping[str, NodeStatus]
    is_moving: bool
    """Whether any of it runs, or is queued on a cluster."""
    silence: str = ""
    """Why it is not known what the cluster does: its controller has not answered."""

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes are in each state that occurs, in the order of ``STATES``."""
        counted = Counter(node.state for node in self.nodes.values())
        return {state: counted[state] for state in STATES if counted[state]}

    @cached_property
    def stages_by_run(self) -> Mapping[str, Mapping[str, str]]:
        """Run -> stage -> state."""
        found: dict[str, dict[str, str]] = {run: {} for run in self.ledger.graph.runs}
        for node in self.ledger.graph.nodes.values():
            for run in node.runs:
                found[run][node.stage] = self.nodes[node.name].state
        return found

    def run_state(self, run: str) -> str:
        """State of a run: that of its worst stage, ``done`` when its results are there."""
        stages = self.stages_by_run[run]
        if stages[REPORT] == DONE:
            return DONE
        worst = (FAILED, CANCELLED, STOPPED, INTERRUPTED, PREEMPTED, RUNNING)
        return next((state for state in worst if state in stages.values()), PENDING)

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "sweep": self.ledger.sweep,
            "title": self.ledger.title,
            "executor": self.ledger.executor,
            "left_out": list(self.ledger.left_out),
            "counts": self.counts,
            "cluster_silence": self.silence,
            "runs": {run: self.run_state(run) for run in self.ledger.graph.runs},
            "nodes": [asdict(node) for node in self.nodes.values()],
        }


def read_status(out: Path, sweep: str) -> SweepStatus:
    """Where a sweep below ``out`` stands.

    Raises ``UserError`` when there is none, ``StorageError`` when its ledger or an exit record is damaged.
    """
    ledger = read_ledger(out, sweep)
    folder = sweep_folder(out, sweep)
    cluster, silence = _cluster_nodes(folder) if ledger.executor == SLURM else ({}, "")
    store = ArtefactStore(out / ARTEFACTS_FOLDER)
    wanted = {node.name for node in ledger.graph.missing()}
    nodes: dict[str, NodeStatus] = {}
    for node in ledger.graph.nodes.values():
        if node.exists or node.name not in wanted:
            nodes[node.name] = NodeStatus(node.name, node.stage, DONE)
            continue
        record = read_record(folder, node.name)
        status = _status(node, record, cluster.get(node.name), store, out)
        nodes[node.name] = _blocked(node, status, nodes) or status
    queued = any(known.state in (RUNNING, PENDING, PREEMPTED) for known in cluster.values())
    runs = any(node.state == RUNNING for node in nodes.values())
    is_moving = queued or runs or bool(silence) or lock_holder(folder / LOCK) is not None
    return SweepStatus(ledger, nodes, is_moving, silence)


def _cluster_nodes(folder: Path) -> tuple[Mapping[str, ClusterNode], str]:
    from slurm.states import ask_nodes

    answer = ask_nodes(folder)
    return answer.nodes, answer.silence


def _blocked(node: StageNode, status: NodeStatus, before: Mapping[str, NodeStatus]) -> NodeStatus | None:
    """``blocked``, when an input failed or is blocked itself."""
    for name in node.inputs:
        if before[name].state == FAILED:
            return NodeStatus(node.name, node.stage, BLOCKED, reason=f"needs {name}, which failed")
        if before[name].state == BLOCKED:
            return NodeStatus(node.name, node.stage, BLOCKED, reason=before[name].reason)
    return None


def _status(
    node: StageNode, record: NodeRecord | None, known: ClusterNode | None, store: ArtefactStore, out: Path
) -> NodeStatus:
    cluster = None if known is None else known.state
    said = f"{CLUSTER_SAYS}{known.said}" if known is not None and known.said else ""
    if record is None:
        state = cluster if cluster in STATES and cluster != DONE else PENDING
        # It has not even begun: only its job's log tells why.
        log = known.job.last_words if known is not None and state in (FAILED, INTERRUPTED) else ""
        return NodeStatus(node.name, node.stage, state or PENDING, reason=said, log=log)
    state, reason = record.status, record.last_line
    if state == RUNNING and not _is_held(node, store, out):
        state = STOPPED
        reason = record.gone_text
    if cluster in (FAILED, INTERRUPTED) and state not in (FAILED, DONE):
        state, reason = cluster, "; ".join(filter(None, (reason, said)))
    elif cluster in (RUNNING, PENDING, PREEMPTED, CANCELLED) and not (cluster == PENDING and state == RUNNING):
        state, reason = cluster, said if cluster != CANCELLED else "; ".join(filter(None, (reason, said)))
    if state == PENDING and record.status == INTERRUPTED:
        state = PREEMPTED  # It has begun, was interrupted, and waits in the queue to go on.
    elif state == DONE:
        state, reason = PENDING, "it was done, and its artefact has gone since"
    info = None if node.stage == REPORT else _checkpoint(store.partial_folder(node.name))
    return NodeStatus(
        node.name, node.stage, state, _progress_text(info), "" if state == RUNNING else reason, record.attempts,
        f"pid {record.pid} on {record.host}", record.traceback, record.log_text if state in NEED_A_LOOK else "",
    )  # fmt: skip


def _is_held(node: StageNode, store: ArtefactStore, out: Path) -> bool:
    """Whether a process is at work on the node now."""
    path = out / node.runs[0] / RUN_LOCK if node.stage == REPORT else store.lock_path(node.name)
    return lock_holder(path) is not None


def _checkpoint(partial: Path) -> CheckpointInfo | None:
    try:
        return read_checkpoint_info(partial)
    except StorageError:
        return None  # The stage itself refuses it with the reason; here it is only about progress.


def _progress_text(info: CheckpointInfo | None) -> str:
    if info is None:
        return ""
    rate = f", {info.done / info.seconds:.3g} per second" if info.seconds > 0 and info.done else ""
    return f"{info.done} of {info.total} {info.unit}{rate}"


def print_status(out: Path, sweep: str | None, *, failed: bool, as_json: bool, watch: bool) -> None:
    """``bench status``: one sweep, or one line for each. Raises ``UserError``."""
    if sweep is None:
        _print_all(out, as_json)
        return
    if watch:
        _watch(out, sweep)
        return
    status = read_status(out, sweep)
    if as_json:
        print(json.dumps(status.to_json(), indent=2))
    elif failed:
        _print_failed(status, out)
    else:
        console = make_console()
        for part in status_tables(status):
            console.print(part)


def _print_all(out: Path, as_json: bool) -> None:
    found = [read_status(out, name) for name in sweeps_below(out)]
    if as_json:
        print(json.dumps([status.to_json() for status in found], indent=2))
        return
    rows = [(status.ledger.sweep, status.ledger.executor, _counts_text(status)) for status in found]
    print_table(f"Sweeps in {out}", ("sweep", "executor", "stages"), rows)


def _watch(out: Path, sweep: str) -> None:
    """Show the tables until nothing moves any more, or Ctrl-C."""
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = read_status(out, sweep)
            table = Table.grid()
            for part in status_tables(status):
                table.add_row(part)
            live.update(table, refresh=True)
            if not status.is_moving:
                return
            time.sleep(_WATCH_SECONDS)


def _queue_text(status: SweepStatus) -> str:
    """Why the cluster lets nodes wait, and how many: ``12 PENDING (Dependency), 3 PENDING (Resources)``."""
    waiting = Counter(
        node.reason.removeprefix(CLUSTER_SAYS)
        for node in status.nodes.values()
        if node.state in (PENDING, PREEMPTED) and node.reason.startswith(CLUSTER_SAYS)
    )
    return ", ".join(f"{count} {said}" for said, count in waiting.items())


def _counts_text(status: SweepStatus) -> str:
    return ", ".join(f"{count} {state}" for state, count in status.counts.items())


def status_tables(status: SweepStatus) -> list[Table | Text]:
    """What ``bench status`` prints of one sweep."""
    ledger = status.ledger
    parts: list[Table | Text] = [plain(f"{ledger.sweep}: {ledger.title}; {_counts_text(status)}")]
    parts += [plain(f"left out: {line}") for line in ledger.left_out]
    if status.silence:
        parts.append(plain(f"the cluster does not say what is in its queue: {status.silence}"))
    if queue := _queue_text(status):
        parts.append(plain(f"in the cluster's queue: {queue}"))
    stages = list(dict.fromkeys(node.stage for node in ledger.graph.nodes.values() if node.stage != REPORT))
    runs = make_table("Runs", "run", "state", *stages)
    by_run = status.stages_by_run
    shown = list(by_run)[:_SHOWN_NODES]
    for run in shown:
        runs.add_row(plain(run), status.run_state(run), *(by_run[run].get(stage, "") for stage in stages))
    parts.append(runs)
    if len(by_run) > len(shown):
        parts.append(plain(f"and {len(by_run) - len(shown)} more runs (--json has all)"))
    notable = [node for node in status.nodes.values() if node.state not in (DONE, PENDING, BLOCKED)]
    if notable:
        columns = ("stage", "state", "progress", "tries", "where", "why")
        table = make_table("Stages under way, or in need of a look", *columns)
        for node in notable[:_SHOWN_NODES]:
            cells = (node.name, node.state, node.progress, str(node.attempts or ""), node.where, node.reason)
            table.add_row(*map(plain, cells))
        parts.append(table)
    return parts


def _print_failed(status: SweepStatus, out: Path) -> None:
    failed = [node for node in status.nodes.values() if node.state in (FAILED, STOPPED)]
    for node in failed:
        tries = f" ({node.attempts} tries, {node.where})" if node.attempts else ""
        print(printable(f"{node.name} {node.state}{tries}: {node.reason}"))
        if node.traceback:
            print(printable(node.traceback))
        if node.log:
            print(f"  {node.log}")
    if failed:
        print(f"{retry_command(status.ledger.sweep, out)} tries again")
    else:
        print(f"{status.ledger.sweep}: nothing has failed")


def retry_command(sweep: str, out: Path) -> str:
    """The command line that tries again what failed in a sweep."""
    return f"bench retry {sweep}" + ("" if out == DEFAULT_OUT else f" --out {shlex.quote(str(out))}")
