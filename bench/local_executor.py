"""Run a graph of stages on this machine: a bounded number of processes, inputs first.

A node that fails takes its dependants with it, and nothing else. A worker that is killed is replaced, and its node
tried once more. SIGINT or SIGTERM is passed on: every stage under way is saved, and running again goes on from there.
"""

from __future__ import annotations

import heapq
import selectors
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from bench.graph import REPORT, StageGraph, StageNode
from bench.node_records import FAILED, end_record, read_record, start_record, sweep_folder
from bench.plan import plan_run
from bench.process import available_cpus
from bench.run import RunOptions
from bench.signals import StopRequest, stop_on_signals
from bench.sweep_view import SweepView
from bench.worker import NodeRequest, leave_failed_run
from bench.worker_pool import Worker, visible_gpus

_POLL_SECONDS = 0.2
_KILLS_UNTIL_FAILED = 2
_UNKNOWN_SECONDS = 60.0
"""What a stage counts for in the order of work when nothing like it was measured."""


@dataclass
class LocalOutcome:
    """How a sweep on this machine ended."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Node -> its error, one line."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Node that was not run -> the failed node it needs."""
    given_up: set[str] = field(default_factory=set)
    """Nodes that were stopped because nobody wants them any more; they are saved."""
    signal_number: int | None = None
    """The signal that stopped it, if one did."""


def default_parallel(options: RunOptions) -> int:
    """One process per GPU where there are any to use, else as many as the CPUs have room for."""
    gpus = () if options.device == "cpu" else visible_gpus()
    return len(gpus) or max(1, available_cpus() // options.threads)


def run_locally(
    graph: StageGraph,
    sweep: str,
    options: RunOptions,
    max_parallel: int,
    view: SweepView,
    unwanted: Callable[[], Collection[str]] = lambda: (),
) -> LocalOutcome:
    """Run all that is missing in ``graph``, in at most ``max_parallel`` processes of ``options.threads`` threads.

    ``unwanted`` is asked again and again which nodes nobody wants any more: where one of them runs it is stopped, and
    what needs it is not run. Raises ``StorageError`` when logs or exit records cannot be written.
    """
    with stop_on_signals() as stop:
        return _Queue(graph, sweep, options, max_parallel, view, stop, unwanted).run()


class _Queue:
    def __init__(
        self,
        graph: StageGraph,
        sweep: str,
        options: RunOptions,
        max_parallel: int,
        view: SweepView,
        stop: StopRequest,
        unwanted: Callable[[], Collection[str]],
    ) -> None:
        self.graph, self.sweep, self.options, self.view, self.stop = graph, sweep, options, view, stop
        self.unwanted = unwanted
        self.folder = sweep_folder(options.out, sweep)
        missing = {node.name: node for node in graph.missing()}
        self.waiting_for = {
            name: {other for other in node.inputs if other in missing} for name, node in missing.items()
        }
        self.missing, self.urgency = missing, _urgency(graph, missing)
        self.ready: list[tuple[float, int, str]] = []
        self.order = {name: index for index, name in enumerate(missing)}
        self.kills: dict[str, int] = {}
        self.outcome = LocalOutcome()
        self.slots = min(max_parallel, len(missing))
        self.gpus = () if options.device == "cpu" else visible_gpus()
        self.workers: dict[int, Worker] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> LocalOutcome:
        for name in self.missing:
            if not self.waiting_for[name]:
                self._make_ready(name)
        asked_to_stop = False
        try:
            for slot in range(self.slots):
                self._start_worker(slot)
            while True:
                if self.stop.requested and not asked_to_stop:
                    asked_to_stop = True
                    self.view.line("stopping: waiting until the stages under way are saved (Ctrl-C again: at once)")
                    for worker in self.workers.values():
                        worker.ask_to_stop()
                if not asked_to_stop:
                    self._give_up()
                    self._hand_out()
                busy = [worker for worker in self.workers.values() if worker.node is not None]
                if not busy and (asked_to_stop or not self.ready):
                    break
                for key, _ in self.selector.select(_POLL_SECONDS):
                    self._listen(key.data)
                self.view.refresh()
        finally:
            # After Ctrl-C twice a worker may be in the middle of a stage: its last checkpoint is what remains.
            for worker in self.workers.values():
                worker.close(kill=worker.node is not None)
            self.selector.close()
        self.outcome.signal_number = self.stop.signal_number
        return self.outcome

    def _make_ready(self, name: str) -> None:
        heapq.heappush(self.ready, (-self.urgency[name], self.order[name], name))

    def _start_worker(self, slot: int) -> Worker:
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        worker = Worker(self.options, self.folder / "logs" / f"worker-{slot}.log", gpu)
        self.workers[slot] = worker
        self.selector.register(worker, selectors.EVENT_READ, slot)
        return worker

    def _hand_out(self) -> None:
        for slot in range(self.slots):
            if not self.ready:
                return
            worker = self.workers.get(slot)
            if worker is None:
                worker = self._start_worker(slot)
            if worker.node is None:
                node = self.missing[heapq.heappop(self.ready)[2]]
                self.view.started(node)
                worker.assign(NodeRequest(self.sweep, node.name, node.hash, node.request))

    def _give_up(self) -> None:
        unwanted = set(self.unwanted()) - self.outcome.given_up
        for worker in self.workers.values():
            if worker.node in unwanted:
                self.outcome.given_up.add(worker.node)
                worker.ask_to_stop()

    def _listen(self, slot: int) -> None:
        worker = self.workers[slot]
        for message in worker.messages():
            if message is None:
                self._worker_died(slot, worker)
            elif "code" not in message:
                self.view.progress(message["node"], message["done"], message["total"], message["unit"])
            else:
                worker.node = None
                self._ended(message["node"], message["code"])

    def _ended(self, name: str, code: int) -> None:
        if code == 0:
            self.outcome.done.append(name)
            self.view.ended(name, "done")
            for other in self.graph.dependants[name]:
                if other in self.waiting_for:
                    self.waiting_for[other].discard(name)
                    if not self.waiting_for[other]:
                        self._make_ready(other)
        elif code < 128:
            record = read_record(self.folder, name)
            self._failed(name, "no exit record" if record is None else record.last_line, self._log_of(name))
        elif self.stop.requested:
            self.view.ended(name, "saved")
        elif name in self.outcome.given_up:
            self.view.ended(name, "given up")
        else:
            self._killed(name, signal.Signals(code - 128).name)

    def _log_of(self, name: str) -> str:
        record = read_record(self.folder, name)
        return "" if record is None or not record.log else record.log

    def _failed(self, name: str, error: str, log: str) -> None:
        self.outcome.failed[name] = error
        self.view.ended(name, "failed", f"{error} (log {log})" if log and log not in error else error)
        unreached = list(self.graph.dependants[name])
        while unreached:
            other = unreached.pop()
            if other in self.waiting_for and other not in self.outcome.blocked:
                self.outcome.blocked[other] = name
                if self.missing[other].stage == REPORT:
                    leave_failed_run(plan_run(self.missing[other].request), self.options, self.sweep)
                unreached += self.graph.dependants[other]

    def _killed(self, name: str, by: str) -> None:
        """Its worker was killed from outside: once may be chance, twice is the node's own doing."""
        self.kills[name] = self.kills.get(name, 0) + 1
        if self.kills[name] < _KILLS_UNTIL_FAILED:
            self.view.ended(name, "killed", f"its worker got {by}; trying once more from its last checkpoint")
            self._make_ready(name)
            return
        error = f"its worker was killed twice, the last time by {by}"
        self._record_failure(name, error + (" (out of memory?)" if by == "SIGKILL" else ""))

    def _worker_died(self, slot: int, worker: Worker) -> None:
        self.selector.unregister(worker)
        del self.workers[slot]
        code = worker.close()
        if worker.node is None:
            return
        if self.stop.requested:
            self.view.ended(worker.node, "stopped")
        elif worker.node in self.outcome.given_up:
            self.view.ended(worker.node, "given up")
        elif code < 0:
            self._killed(worker.node, signal.Signals(-code).name)
        else:
            words = worker.last_words()
            self._record_failure(worker.node, f"its worker ended with exit code {code}: {words} (log: {worker.log})")

    def _record_failure(self, name: str, error: str) -> None:
        # Of a node that never wrote a record itself, the log would be this process's own: the error names the worker's.
        record = read_record(self.folder, name) or replace(start_record(self.folder, name, {}), log="")
        end_record(self.folder, record, FAILED, error=error)
        self._failed(name, error, record.log)


def _urgency(graph: StageGraph, missing: Mapping[str, StageNode]) -> dict[str, float]:
    """Seconds from the start of each missing node to the end of all that waits for it: the longest first."""
    urgency: dict[str, float] = {}
    for name, node in reversed(list(missing.items())):
        seconds = _UNKNOWN_SECONDS if node.estimate is None else node.estimate.seconds
        urgency[name] = seconds + max(
            (urgency[other] for other in graph.dependants[name] if other in missing), default=0
        )
    return urgency
