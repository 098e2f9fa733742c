"""What runs inside a Slurm job: some nodes one after another, and what to do when Slurm wants the job to stop.

A job stops for its time limit (SIGUSR2 some time before it), for a job of higher priority (SIGTERM, or SIGUSR2 where
the cluster is set up so) and because somebody cancels it (SIGTERM). In all cases the stage under way is checkpointed;
unless it was cancelled, the job then puts itself back into the queue and later goes on where it was. This module is
pickled by name and imported in the job, so it imports nothing heavy before the signals are handled.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.helpers import Checkpointable

from bench.signals import StopRequest
from slurm.cluster import SlurmError, call

JOB_LABEL, ARRAY_LABEL = "slurm_job", "slurm_array"
"""Labels of a node's exit record: Slurm's id of the job, and the name of its array."""
_INPUT_SECONDS = 60.0
"""An input that another node has just written may be seen so late here, where the file system caches attributes."""
_REQUEUE_ATTEMPTS = 12
_REQUEUE_SECONDS = 10.0
"""A controller that restarts is waited for this often and this long."""


@dataclass(frozen=True)
class Pack(Checkpointable):
    """The nodes of one job. All fields are plain JSON, so that the pickle holds no code."""

    array: str
    """Name of the array the job belongs to."""
    requests: Sequence[Mapping[str, Any]]
    """Node requests, in order."""
    options: Mapping[str, Any]
    """``RunOptions``."""
    max_restarts: int

    def __call__(self) -> None:
        """Compute the nodes that are not there yet. Exits with 1 when one of them failed, after the others."""
        stop = StopRequest()

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            stop.signal_number = number

        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask_to_stop)

        from bench.run import RunOptions
        from bench.worker import NodeRequest, run_node

        options = RunOptions(**{**self.options, "out": Path(self.options["out"])})
        labels = {JOB_LABEL: _job_id(), ARRAY_LABEL: self.array}
        failed = []
        for content in self.requests:
            if not stop.requested:
                request = NodeRequest.from_json(content)
                code = run_node(request, options, stop, labels, input_patience_seconds=_INPUT_SECONDS)
                if code == 1:
                    failed.append(request.node)
        if stop.requested:
            sys.exit(_put_back(self.max_restarts))
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
            sys.exit(1)


def _job_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def _may_go_on(shown: str) -> bool:
    """Whether a job, by what ``scontrol`` shows, was told to stop but not cancelled.

    Cancelled jobs and those at their time limit both show ``COMPLETING``; the reason tells them apart.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", shown))
    return fields.get("JobState") == "RUNNING" or fields.get("Reason") == "TimeLimit"


def _put_back(max_restarts: int) -> int:
    """Requeue this job unless it was cancelled; returns the exit code to end with."""
    job_id = os.environ["SLURM_JOB_ID"]
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if restarts >= max_restarts:
        print(f"job {job_id} was requeued {restarts} times (max_restarts of the profile): not again", file=sys.stderr)
        return 1
    for _ in range(_REQUEUE_ATTEMPTS):
        try:
            if not _may_go_on(call(["scontrol", "-o", "show", "job", job_id])):
                print(f"job {job_id} is saved, was cancelled and is not requeued", file=sys.stderr)
                return 1
            call(["scontrol", "requeue", job_id])
        except SlurmError as error:
            print(f"job {job_id} cannot be requeued: {error}", file=sys.stderr)
            time.sleep(_REQUEUE_SECONDS)
        else:
            print(f"job {job_id} is saved and requeued", file=sys.stderr)
            return 1
    return 1
