"""The artefact store: one folder per finished stage, named by the hash of what determines it.

``<root>/<stage>-<hash12>/`` holds the artefact's files and ``manifest.json``; ``<stage>-<hash12>.partial/`` holds a
stage under way; ``.locks/`` keeps two processes from building the same artefact. An artefact appears by one rename,
so it is there completely or not at all.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NotRequired, TypedDict

from bench.errors import StorageError
from bench.files import (
    canonical_json,
    read_sealed_json,
    sha256_of_file,
    sha256_of_text,
    storage_errors,
    sync_file,
    sync_folder,
    write_sealed_json,
)
from bench.plan import PlannedStage
from bench.rows import EPISODES_TABLE, METRICS_LOG
from bench.shape import FileName, check_record, is_file_name
from bench.versions import versions

ARTEFACTS_FOLDER = "artefacts"
"""Name of the store's folder among the runs."""
RUN_FILE = "run.json"
"""What each run's own folder holds: what was run, and from which artefacts."""
RUN_LOCK = ".lock"
"""In each run's own folder: locked by the process that is at work on the run."""

MANIFEST = "manifest.json"
FAILURE = "failure.json"
"""In the partial folder of a stage that failed: its error and traceback."""
FORMAT = 1
SOON_MADE_AGAIN_SECONDS = 1.0
"""Work of less time than this is not worth waiting for the disk: five files synced can take longer than it did."""
_BUILD_FOLDER = "artefact"
_READ_BY_NO_STAGE = (EPISODES_TABLE, METRICS_LOG)
"""Files of an artefact that are for people, and hold wall times: a stage that is made again has others."""
_PICTURE = ".png"


def stage_file_name(stage: str, name: str) -> str:
    """Name in an exported run of a file of one of its stages: ``paths-adapt.npz``."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-{stage}{dot}{ending}"


@dataclass(frozen=True)
class Machine:
    """Where a stage ran. Results are exact on the same machine with the same values."""

    device: str
    threads: int


class _Failure(TypedDict):
    """What ``failure.json`` holds at least."""

    error: str
    traceback: str
    seconds: float


def read_failure(partial: Path) -> dict[str, Any] | None:
    """How a stage under way failed, by its partial folder; None where it has not. Raises ``StorageError``."""
    path = partial / FAILURE
    if not path.exists():
        return None
    remedy = "run again to retry the stage"
    content = read_sealed_json(path, remedy)
    check_record(content, _Failure, path, remedy)
    return content


class _Manifest(TypedDict):
    """What ``manifest.json`` holds at least."""

    format: int
    artefact: FileName
    stage: FileName
    hash: str
    key: Mapping[str, Any]
    input_artefacts: Mapping[str, FileName]
    input_checksums: NotRequired[Mapping[str, str]]
    """Input stage -> ``checksum`` of the artefact it was computed from. Artefacts older than this have none."""
    seconds: float
    metrics: Mapping[str, Any]
    files: Mapping[str, str]


class ArtefactStore:
    """Artefacts under ``root``; folders are made as they are needed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Folder of the finished artefact ``name``, which may not exist yet."""
        return self.root / name

    def partial_folder(self, name: str) -> Path:
        """Folder of the stage under way that will become the artefact ``name``."""
        return self.root / f"{name}.partial"

    def lock_path(self, name: str) -> Path:
        """The file locked by the process that builds the artefact ``name``."""
        return self.root / ".locks" / f"{name}.lock"

    def is_finished(self, name: str) -> bool:
        """Whether the artefact exists; ``verify`` tells whether it is intact."""
        return self.folder(name).is_dir()

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a finished artefact. Raises ``StorageError`` when it is missing or damaged."""
        path, remedy = self.folder(name) / MANIFEST, self._remedy(name)
        content = read_sealed_json(path, remedy)
        if content.get("format") != FORMAT:
            raise StorageError(f"{path} has format {content.get('format')!r:.60}, expected {FORMAT}; {remedy}")
        check_record(content, _Manifest, path, remedy)
        return content

    def verify(self, name: str) -> dict[str, Any]:
        """Check every file of an artefact against its manifest, and return the manifest.

        Raises ``StorageError`` naming the file that is missing, changed or foreign, and how to mend it. Foreign is what
        the manifest does not name; hidden files, which folders shared between systems collect, are let be.
        """
        folder, manifest = self.folder(name), self.manifest(name)
        if manifest["artefact"] != name:
            raise StorageError(f"{folder} holds the artefact {manifest['artefact']}; {self._remedy(name)}")
        for file_name, checksum in manifest["files"].items():
            path = folder / file_name
            if not all(map(is_file_name, PurePosixPath(file_name).parts)):
                raise StorageError(f"{folder / MANIFEST} names a file outside of it; {self._remedy(name)}")
            if not path.is_file():
                raise StorageError(f"{path} is missing; {self._remedy(name)}")
            with storage_errors(f"read {path}"):
                if sha256_of_file(path) != checksum:
                    raise StorageError(f"{path} is damaged (its checksum does not match); {self._remedy(name)}")
        expected = {MANIFEST, *manifest["files"]}
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            is_hidden = any(part.startswith(".") for part in relative.parts)
            is_entry = path.is_symlink() or not path.is_dir()
            if is_entry and not is_hidden and relative.as_posix() not in expected:
                raise StorageError(f"{path} is foreign: no file of this artefact; delete it, or {self._remedy(name)}")
        return manifest

    def verify_input(self, name: str) -> str:
        """Check that a stage may be computed from an artefact, and return the artefact's ``checksum``.

        Its files are verified, and it must itself have been computed from the inputs that are there now, as these from
        theirs. Raises ``StorageError`` naming what is not so, and how to mend it.
        """
        manifest = self.verify(name)
        self.check_origin(manifest)
        return self.checksum(manifest)

    def check_origin(self, manifest: Mapping[str, Any]) -> None:
        """Raise ``StorageError`` unless an artefact was computed from its inputs as they are now.

        Inputs that were deleted, and artefacts that are older than these checksums, cannot be compared.
        """
        name = manifest["artefact"]
        for stage, artefact in manifest["input_artefacts"].items():
            if not self.is_finished(artefact):
                continue
            known, now = manifest.get("input_checksums", {}).get(stage), self.manifest(artefact)
            if known is not None and known != self.checksum(now):
                raise StorageError(
                    f"{self.folder(name)} was computed from another {artefact} than the one that is there now; "
                    f"{self._remedy(name)}"
                )
            self.check_origin(now)

    @staticmethod
    def checksum(manifest: Mapping[str, Any]) -> str:
        """SHA-256 of all in an artefact that a stage could read: not of its rows, wall times and pictures."""
        names = [n for n in manifest["files"] if n not in _READ_BY_NO_STAGE and not n.endswith(_PICTURE)]
        return sha256_of_text(canonical_json({name: manifest["files"][name] for name in names}))

    def new_build_folder(self, name: str) -> Path:
        """An empty folder for the artefact's files; what a killed attempt left in it is removed."""
        folder = self.partial_folder(name) / _BUILD_FOLDER
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def commit(
        self,
        stage: PlannedStage,
        metrics: Mapping[str, Any],
        seconds: float,
        machine: Machine,
        input_checksums: Mapping[str, str],
    ) -> dict[str, Any]:
        """Make the build folder the finished artefact: write the manifest, sync everything, rename.

        ``seconds`` is the wall time the stage took over all its attempts, ``input_checksums`` what ``verify_input``
        gave of each input stage. A stage of less than a second is not synced: waiting for the disk can take longer than
        making it again, and if the power fails before the system has written it, its checksums tell. Returns the
        manifest.
        """
        name = stage.artefact_name
        build = self.partial_folder(name) / _BUILD_FOLDER
        files = sorted(path for path in build.rglob("*") if path.is_file())
        manifest = {
            "format": FORMAT,
            "artefact": name,
            "stage": stage.spec.name,
            "hash": stage.hash,
            "key": dict(stage.key),
            "input_artefacts": dict(stage.inputs),
            "input_checksums": dict(input_checksums),
            "seed": stage.key["seed"],
            "seconds": round(seconds, 3),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "device": machine.device,
            "threads": machine.threads,
            "metrics": dict(metrics),
            "files": {path.relative_to(build).as_posix(): sha256_of_file(path) for path in files},
        }
        durable = seconds >= SOON_MADE_AGAIN_SECONDS
        if durable:
            for path in files:
                sync_file(path)
        write_sealed_json(build / MANIFEST, manifest, sync=durable)
        build.rename(self.folder(name))
        if durable:
            sync_folder(self.root)
        self.remove_partial(name)
        return manifest

    def remove_partial(self, name: str) -> None:
        """Remove what a finished stage no longer needs: checkpoints and row logs."""
        partial = self.partial_folder(name)
        if partial.exists():
            shutil.rmtree(partial)

    def _remedy(self, name: str) -> str:
        return f"delete the folder {self.folder(name)} and run again to rebuild it"
