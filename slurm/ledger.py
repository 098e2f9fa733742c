"""What was submitted to Slurm: one folder per submission, with a sealed record that is written around each ``sbatch``.

``<out>/sweeps/<sweep>/slurm/0001/`` holds ``submission.json``, ``code/`` (what its jobs run) and ``logs/``.

An array has a name of its own before it is submitted, so that one whose job id was never recorded (the submitting shell
was killed in between) can still be found in the queue.
"""

from __future__ import annotations

import datetime
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.errors import StorageError
from bench.files import read_sealed_json, storage_errors, write_sealed_json
from bench.shape import load_record

FOLDER = "slurm"
RECORD, CODE, LOGS = "submission.json", "code", "logs"
FORMAT = 1


@dataclass(frozen=True)
class JobArray:
    """One ``sbatch``: an array of jobs, each of which computes some nodes one after another."""

    name: str
    """Slurm's job name: unique, so that an array can be recognised whatever its id."""
    stage: str
    """Kind of the nodes."""
    packs: tuple[tuple[str, ...], ...]
    """Names of the nodes of each job."""
    job_id: str | None = None
    """Slurm's id of the array; None until ``sbatch`` has answered."""
    dropped: bool = False
    """Taken back: its submission failed half-way, or was cut off before its id was known."""

    def task_id(self, index: int) -> str | None:
        """Slurm's id of one job; an array of one is submitted as a plain job."""
        if self.job_id is None:
            return None
        return self.job_id if len(self.packs) == 1 else f"{self.job_id}_{index}"


@dataclass(frozen=True)
class Submission:
    """All arrays that one ``bench sweep`` submitted, in order."""

    folder: Path
    sweep: str
    profile: str
    created: str
    arrays: tuple[JobArray, ...] = ()

    def with_array(self, array: JobArray) -> Submission:
        """This submission with ``array`` added, or in place of the one of its name."""
        others = [array if known.name == array.name else known for known in self.arrays]
        if array not in others:
            others.append(array)
        return replace(self, arrays=tuple(others))

    def write(self) -> None:
        """Make this the record on disk. Raises ``StorageError``."""
        content = {
            "format": FORMAT,
            "sweep": self.sweep,
            "profile": self.profile,
            "created": self.created,
            "arrays": [asdict(array) for array in self.arrays],
        }
        with storage_errors(f"write {self.folder / RECORD}"):
            write_sealed_json(self.folder / RECORD, content)


def new_submission(sweep_folder: Path, sweep: str, profile: str) -> Submission:
    """A submission in a folder that no other ever used. Raises ``StorageError``."""
    parent = sweep_folder / FOLDER
    numbers = [int(path.name) for path in _folders(sweep_folder)]
    folder = parent / f"{max(numbers, default=0) + 1:04d}"
    with storage_errors(f"make the folder {folder}"):
        # Jobs run what lies in these two (code, pickles): nobody else may write there, whatever the umask.
        for inner in (LOGS, CODE):
            (folder / inner).mkdir(parents=True)
            (folder / inner).chmod(0o700)
        folder.chmod(0o755)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    submission = Submission(folder, sweep, profile, created)
    submission.write()
    return submission


def array_name(submission: Submission, stage: str) -> str:
    """A name for the next array: what it is, and eight random digits."""
    sweep = re.sub(r"[^\w.-]", "_", submission.sweep)
    return f"{sweep}.{submission.folder.name}.{len(submission.arrays)}.{stage}.{secrets.token_hex(4)}"


def read_submissions(sweep_folder: Path) -> list[Submission]:
    """All submissions of a sweep, oldest first. Raises ``StorageError`` for a damaged or foreign record."""
    # A folder without a record was cut off before it could submit anything.
    return [_read(folder) for folder in _folders(sweep_folder) if (folder / RECORD).exists()]


def _folders(sweep_folder: Path) -> list[Path]:
    return sorted(path for path in (sweep_folder / FOLDER).glob("[0-9]*") if path.name.isdigit())


def _read(folder: Path) -> Submission:
    path = folder / RECORD
    remedy = f"move the folder {folder} away; jobs that it submitted are then no longer followed"
    content = read_sealed_json(path, remedy)
    if content.get("format") != FORMAT:
        raise StorageError(f"{path} has format {content.get('format')!r:.60}, expected {FORMAT}; {remedy}")
    content = {name: value for name, value in content.items() if name != "format"}
    return load_record(Submission, {**content, "folder": str(folder)}, path, remedy)
