"""Cluster profiles: which partition, account, time, memory and GPUs each kind of stage asks Slurm for.

A profile is a TOML file: values at the top hold for every stage, a table ``[stages.<kind>]`` changes them for one kind
(``data``, ``skills``, ``meta_train``, ``adapt``). ``--profile NAME`` names a shipped file of ``slurm/profiles``;
``--profile PATH.toml`` a file of your own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError, unknown_name
from bench.files import read_bytes, storage_errors

FOLDER = Path(__file__).resolve().parent / "profiles"
DEFAULT = "default"
_LARGEST_BYTES = 1 << 20
_LARGEST = 10**9


@dataclass(frozen=True)
class Resources:
    """What one job asks for; None leaves the choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features that a node must have (``sbatch --constraint``)."""
    minutes: int = 240
    """Time limit of a job. A job that reaches it is checkpointed, put back into the queue and goes on."""
    cpus: int = 1
    """CPU cores and torch threads of a stage; results are exact for one value."""
    memory_mb: int = 4000
    gpus: int = 0
    """GPUs of a job; with 0 the stage computes on the CPU."""
    stages_per_job: int = 1
    """How many stages of this kind, ready at the same time, one job runs one after another."""
    signal_seconds: int = 120
    """How long before its time limit a job is told to checkpoint; Slurm may be up to 60 s early."""


@dataclass(frozen=True)
class Profile:
    """A cluster."""

    name: str
    resources: Resources = Resources()
    stages: Mapping[str, Resources] = field(default_factory=dict)
    """Kind of stage -> what its jobs ask for."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job's command: ``module load``, a proxy, a scratch folder."""
    max_restarts: int = 20
    """How often a job may put itself back into the queue before it is given up."""

    def for_stage(self, kind: str) -> Resources:
        """What a stage of this kind asks for."""
        return self.stages.get(kind, self.resources)


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """The profile ``name``: a shipped one, or a path that ends in ``.toml``.

    Raises ``UserError`` for an unknown name or field, a value of the wrong type, or a file that is not TOML.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in profile_names():
        raise unknown_name("profile", name, profile_names())
    with storage_errors(f"read the profile {path}"):
        content_bytes = read_bytes(path, _LARGEST_BYTES)
    try:
        content = tomllib.loads(content_bytes.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"profile {path} is not TOML: {error}") from error
    return _parse(path, content)


def _parse(path: Path, content: dict[str, Any]) -> Profile:
    setup, max_restarts = content.pop("setup", []), content.pop("max_restarts", Profile.max_restarts)
    tables = content.pop("stages", {})
    if not isinstance(setup, list) or not all(isinstance(line, str) for line in setup):
        raise UserError(f"profile {path}: setup must be a list of shell lines, got {setup!r:.60}")
    if type(max_restarts) is not int or not 0 <= max_restarts <= _LARGEST:
        raise UserError(f"profile {path}: max_restarts must be an integer from 0, got {max_restarts!r:.60}")
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UserError(f"profile {path}: stages must be tables such as [stages.skills], got {tables!r:.60}")
    resources = _resources(path, "", content, Resources())
    stages = {kind: _resources(path, f"stages.{kind}.", table, resources) for kind, table in tables.items()}
    return Profile(path.stem, resources, stages, tuple(setup), max_restarts)


def _resources(path: Path, prefix: str, table: Mapping[str, Any], base: Resources) -> Resources:
    valid = {item.name: item.default for item in fields(Resources)}
    for name, value in table.items():
        if name not in valid:
            extra = () if prefix else ("setup", "max_restarts", "stages")
            raise UserError(f"profile {path}: {unknown_name('field', name, [*valid, *extra])}")
        lowest = 0 if name == "gpus" else 1
        if valid[name] is None:
            fits, wanted = isinstance(value, str) and value != "", "text"
        else:
            fits, wanted = type(value) is int and lowest <= value <= _LARGEST, f"an integer from {lowest}"
        if not fits:
            raise UserError(f"profile {path}: {prefix}{name} must be {wanted}, got {value!r:.60}")
    return replace(base, **table)
