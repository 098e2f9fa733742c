"""Slurm's own commands: found, called with a time limit, and their errors told in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from submitit.helpers import clean_env

from bench.errors import UserError

_SECONDS = 20.0
"""How long one command may take: Slurm's clients retry for minutes when no controller answers."""
_IN_FULL = {"SLURM_BITSTR_LEN": "0"}
"""Ranges of array tasks are printed in full, where they would be cut off at 64 characters."""


class SlurmError(UserError):
    """Slurm is not there, does not answer, or refuses."""


def call(command: Sequence[str], seconds: float = _SECONDS) -> str:
    """Standard output of one of Slurm's commands. Raises ``SlurmError``."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env={**os.environ, **_IN_FULL}
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} has not answered for {seconds:.0f} s") from error
    if done.returncode:
        raise SlurmError(f"{command[0]}: {error_lines(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def error_lines(text: str) -> str:
    """What a Slurm command printed as errors, in one line and without ``sbatch: error:`` before each."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(re.sub(r"^\w+: (error: )?", "", line) for line in lines)


def check_cluster() -> int:
    """See that jobs can be submitted from here, and return the cluster's MaxArraySize.

    Raises ``SlurmError`` when there is no Slurm on the PATH or its controller does not answer.
    """
    missing = [name for name in ("sbatch", "srun", "scontrol", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise SlurmError(
            f"no Slurm here: {', '.join(missing)} not on the PATH; "
            "submit from a login node of the cluster, or use --executor local"
        )
    try:
        shown = call(["scontrol", "show", "config"])
    except SlurmError as error:
        raise SlurmError(f"Slurm's controller does not answer ({error}); nothing was submitted") from error
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, flags=re.MULTILINE)
    return int(found.group(1)) if found else 1001


def cancel_jobs(job_ids: Iterable[str]) -> None:
    """Cancel these jobs or arrays, and no others. Raises ``SlurmError``."""
    ids = list(job_ids)
    if ids:
        call(["scancel", *ids])


def release_jobs(job_ids: Iterable[str]) -> None:
    """Let these held jobs run. Raises ``SlurmError``, also where that is left to the cluster's administrators."""
    ids = list(job_ids)
    if ids:
        call(["scontrol", "release", *ids])


@contextmanager
def submission_environment() -> Iterator[None]:
    """Inside a job, hide its ``SLURM_*`` variables from what it submits; where the cluster is stays known."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        if conf is not None:
            os.environ["SLURM_CONF"] = conf
        yield
