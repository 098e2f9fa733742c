"""What a checkpoint says of itself: everything but the state. Read without torch, so that looking is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import StorageError
from bench.files import read_sealed_json
from bench.shape import load_record

POINTER = "checkpoint.json"
FORMAT = 2
_OLDER_FORMATS = (1,)
"""Format 1 has no checksums of row logs and inputs."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Everything of a checkpoint but the state."""

    format: int = FORMAT
    stage_hash: str
    state_file: str = ""
    state_sha256: str = ""
    episodes_bytes: int
    """Length of ``episodes.jsonl`` when the state was taken: what is beyond is of a later, lost moment."""
    metrics_bytes: int
    """The same for ``metrics.jsonl``."""
    episodes_sha256: str | None = None
    """Checksum of so many bytes of ``episodes.jsonl``; None in a checkpoint of format 1."""
    metrics_sha256: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input stage -> checksum of the artefact it was read from (``ArtefactStore.checksum``)."""
    seconds: float
    """Wall time the stage has taken up to this state, over all attempts."""
    device: str
    threads: int
    torch_version: str
    done: int
    total: int
    unit: str
    """Progress: ``done`` of ``total`` ``unit``."""


def read_checkpoint_info(folder: Path) -> CheckpointInfo | None:
    """What the checkpoint in ``folder`` says of itself, or None when there is none.

    Raises ``StorageError`` when it is damaged or of another format.
    """
    path = folder / POINTER
    if not path.exists():
        return None
    content = read_sealed_json(path, remedy(folder))
    if content.get("format") not in (FORMAT, *_OLDER_FORMATS):
        raise StorageError(f"{path} has format {content.get('format')!r:.60}, expected {FORMAT}; {remedy(folder)}")
    return load_record(CheckpointInfo, content, path, remedy(folder))


def remedy(folder: Path) -> str:
    """What to do about a damaged checkpoint in ``folder``."""
    return f"delete the folder {folder} to start this stage again"
