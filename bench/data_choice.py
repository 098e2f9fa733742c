"""Which offline data a run learns from (``--data``): what the preset builds, a named variant of it, or a file.

The choice becomes a field of the data stage's configuration: ``data.source`` for a variant, ``data.checksum`` for the
contents of a file. So the stage's hash and the run's name follow what the data are, not where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.stage import StageSpec
from bench.config import Override
from bench.errors import UserError, nearest_name
from bench.lookup import DATA_STAGE
from envs.core import TaskDistribution

_SOURCE_FIELD = f"{DATA_STAGE}.source"
_CHECKSUM_FIELD = f"{DATA_STAGE}.checksum"


@dataclass(frozen=True)
class DataChoice:
    """The data stage of a plan."""

    spec: StageSpec
    preset: Mapping[str, Any]
    """{``data.field``: value}"""
    overrides: tuple[Override, ...]
    """The overrides of the request, of all stages, with the one that the choice stands for."""


def choose_data(
    distribution: TaskDistribution, preset: str, overrides: tuple[Override, ...], chosen: str | None
) -> DataChoice:
    """The data stage for ``--data chosen``; None is what the preset builds.

    ``chosen`` is a variant of the distribution's data source, else an existing file or folder, which is read to know
    its contents. Raises ``UserError`` for anything else, and for overrides that contradict it.
    """
    # Imported here because it imports torch, and lists of names need none.
    from bench.data_stage import data_stage_spec, import_stage_spec, read_data

    source = distribution.data_source
    assert source is not None, f"{distribution.name} has no offline data"
    if chosen is None or chosen in source.variants:
        values = {f"{DATA_STAGE}.{name}": value for name, value in distribution.data_presets[preset].items()}
        variant = () if chosen is None else (Override(_SOURCE_FIELD, chosen),)
        if variant and any(override.name == _SOURCE_FIELD for override in overrides):
            raise UserError(f"--data {chosen} and --{_SOURCE_FIELD} say the same thing: give one of them")
        return DataChoice(data_stage_spec(distribution), values, (*overrides, *variant))
    if not _exists(chosen):
        raise _unknown_data(chosen, distribution)
    for override in overrides:
        if override.name.startswith(f"{DATA_STAGE}."):
            raise UserError(f"--{override.name}: --data {chosen} is read from disk and has no fields to set")
    checksum = read_data(distribution, chosen).trajectories.checksum()
    return DataChoice(import_stage_spec(chosen), {}, (*overrides, Override(_CHECKSUM_FIELD, checksum)))


def _exists(path: str) -> bool:
    """Whether a file or folder is there; what cannot even be a path is not."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _unknown_data(chosen: str, distribution: TaskDistribution) -> UserError:
    assert distribution.data_source is not None
    variants = distribution.data_source.variants
    near = nearest_name(chosen, variants)
    hint = f"did you mean {near!r}? " if near else ""
    valid = ", ".join((*variants, "an existing file or folder"))
    return UserError(f"--data: unknown data {chosen!r} of {distribution.name}: {hint}valid: {valid}")
