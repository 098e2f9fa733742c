"""A long-lived worker process: takes nodes one after the other, so that torch is loaded once and not for each.

Its parent writes one node request per line on standard input, as JSON, and reads lines of JSON from standard output:
``{"node": ..., "done": ..., "total": ..., "unit": ...}`` while a stage runs, ``{"node": ..., "code": ...}`` at its
end. Everything printed goes to standard error. When standard input closes, because the parent is done or dead, or on
SIGTERM, the stage under way is saved and the process ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from typing import IO, Any

from algorithms.stage import Progress
from bench.progress import Reporter
from bench.run import RunOptions
from bench.signals import StopRequest, stop_on_signals
from bench.worker import NodeRequest, run_node

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 0.5


class _PipeReporter(Reporter):
    """Sends progress to the parent, at most twice a second."""

    def __init__(self, pipe: IO[str], node: str) -> None:
        self._pipe, self._node = pipe, node
        self._sent = 0.0

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start_stage(self, name: str, progress: Progress) -> None:
        self._send(progress)

    def update(self, progress: Progress) -> None:
        if time.monotonic() - self._sent >= _REPORT_SECONDS:
            self._send(progress)

    def end_stage(self) -> None: ...

    def close(self) -> None: ...

    def _send(self, progress: Progress) -> None:
        self._sent = time.monotonic()
        send(self._pipe, node=self._node, done=progress.done, total=progress.total, unit=progress.unit)


def send(pipe: IO[str], **message: Any) -> None:
    """Write one message; when nobody reads any more, nothing happens: the end of standard input says so too."""
    try:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()
    except BrokenPipeError:
        pass


def serve(options: RunOptions) -> int:
    """Work until standard input ends or a signal comes; returns the exit code."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with stop_on_signals() as stop:
        requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read_requests, args=(requests, stop), daemon=True).start()
        while not stop.requested:
            try:
                line = requests.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                break
            request = NodeRequest.from_json(json.loads(line))
            code = run_node(request, options, stop, reporter=_PipeReporter(pipe, request.node))
            send(pipe, node=request.node, code=code)
    return 0


def _read_requests(requests: queue.SimpleQueue[str | None], stop: StopRequest) -> None:
    for line in sys.stdin:
        requests.put(line)
    if stop.signal_number is None:
        stop.signal_number = signal.SIGTERM
    requests.put(None)
