"""A sweep as it is written down: runs by algorithms x task distributions x seeds, for each preset.

The file is TOML: ``name``, ``title``, and for each preset one or more rows. A row is crossed: every algorithm with
every task distribution and seed, all with the row's tasks, offline data and overrides::

    name = "mine"
    title = "What the picture compares"
    picture = "learning"                        # or "first-episodes" or "meta-training"; default "learning"

    [[presets.quick]]
    algorithms = ["spirl"]
    envs = ["maze"]
    seeds = [0, 1, 2]
    on = "validation"                           # as --on of bench run; default "target"
    tasks = [0, 3]                              # of these; default all
    data = "human"                              # as --data of bench run; default what the preset builds
    until = "meta_train"                        # the last stage of each run; default all of them
    overrides = { "adapt.episodes" = 50 }
"""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import Override
from bench.errors import UserError, nearest_name, unknown_name
from bench.files import is_file, read_bytes
from bench.plan import RunRequest
from envs.core import TARGET, TASK_SETS

_SHIPPED_PACKAGE, _SHIPPED_FOLDER = "slurm", "sweeps"
_ENDING = ".toml"
_LARGEST_BYTES = 1 << 22
_FIELDS = ("name", "title", "picture", "presets")
LEARNING, FEW_EPISODES, META_TRAINING = PICTURES = ("learning", "first-episodes", "meta-training")
"""What the figure of a sweep that ships shows in a report: scores on the target tasks, the first 20 episodes of them,
or scores on the training tasks during meta-training."""
_ROW_FIELDS = ("algorithms", "envs", "seeds", "on", "tasks", "data", "until", "overrides")


@dataclass(frozen=True)
class SweepRow:
    """Every algorithm with every task distribution and seed."""

    algorithms: tuple[str, ...]
    envs: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[int, ...] | None = None
    """Tasks of ``task_set`` by index; None means all."""
    data: str | None = None
    until: str | None = None
    """The last stage of each run; None means all of them."""
    overrides: tuple[Override, ...] = ()
    task_set: str = TARGET
    """What is adapted to: one of ``envs.core.TASK_SETS``."""

    def requests(self, preset: str) -> list[RunRequest]:
        """The runs of this row, task distribution by task distribution."""
        return [
            RunRequest(algo, env, preset, seed, self.tasks, self.overrides, self.data, self.until, self.task_set)
            for env in self.envs
            for algo in self.algorithms
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class SweepSpec:
    """A study: its name, what it shows, and the rows of each preset."""

    name: str
    title: str
    presets: Mapping[str, tuple[SweepRow, ...]]
    picture: str = LEARNING
    """One of ``PICTURES``."""

    def requests(self, preset: str) -> list[RunRequest]:
        """All runs at a preset. Raises ``UserError`` when the sweep does not have it."""
        if preset not in self.presets:
            raise unknown_name(f"preset of the sweep {self.name}", preset, self.presets)
        return [request for row in self.presets[preset] for request in row.requests(preset)]


def shipped_sweeps() -> tuple[str, ...]:
    """Names of the sweeps that come with the package."""
    folder = importlib.resources.files(_SHIPPED_PACKAGE) / _SHIPPED_FOLDER
    names = (item.name for item in folder.iterdir() if item.name.endswith(_ENDING))
    return tuple(sorted((name.removesuffix(_ENDING) for name in names), key=lambda name: (len(name), name)))


def load_sweep(name_or_path: str) -> SweepSpec:
    """The sweep of this name, or in this file. Raises ``UserError`` when there is none or it is not a sweep."""
    if name_or_path in shipped_sweeps():
        file = importlib.resources.files(_SHIPPED_PACKAGE) / _SHIPPED_FOLDER / f"{name_or_path}{_ENDING}"
        return parse_sweep(file.read_text(encoding="utf-8"), str(file))
    path = Path(name_or_path)
    if not is_file(path):
        raise unknown_name("sweep (neither shipped nor a file)", name_or_path, shipped_sweeps())
    try:
        text = read_bytes(path, _LARGEST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name_or_path} cannot be read: {error}") from error
    return parse_sweep(text, name_or_path)


def parse_sweep(text: str, where: str) -> SweepSpec:
    """A sweep from TOML; ``where`` names the file. Raises ``UserError`` naming the field and what is valid."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not TOML: {error}") from error
    _check_fields(content, _FIELDS, ("name", "presets"), where)
    name = _text(content, "name", where)
    if not name.replace("-", "").replace("_", "").replace("+", "").isalnum():
        raise UserError(f"{where}: name: expected letters, digits, - _ and +, got {name!r}")
    title = _text(content, "title", where) if "title" in content else name
    picture = _text(content, "picture", where) if "picture" in content else LEARNING
    if picture not in PICTURES:
        raise UserError(f"{where}: picture: expected {', '.join(PICTURES)}, got {picture!r}")
    presets = content["presets"]
    if not isinstance(presets, dict) or not presets:
        raise UserError(f"{where}: presets: expected at least one row [[presets.PRESET]], got {presets!r:.200}")
    rows = {preset: _rows(rows, f"{where}: {preset}") for preset, rows in presets.items()}
    return SweepSpec(name, title, rows, picture)


def _rows(rows: Any, where: str) -> tuple[SweepRow, ...]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{where}: expected rows [[presets.PRESET]], got {rows!r:.200}")
    return tuple(_row(row, f"{where}, row {index}") for index, row in enumerate(rows, start=1))


def _row(row: Mapping[str, Any], where: str) -> SweepRow:
    _check_fields(row, _ROW_FIELDS, ("algorithms", "envs"), where)
    return SweepRow(
        algorithms=_list(row, "algorithms", str, where),
        envs=_list(row, "envs", str, where),
        seeds=_list(row, "seeds", int, where) if "seeds" in row else (0,),
        tasks=_list(row, "tasks", int, where) if "tasks" in row else None,
        data=_text(row, "data", where) if "data" in row else None,
        until=_text(row, "until", where) if "until" in row else None,
        overrides=_overrides(row.get("overrides", {}), where),
        task_set=_task_set(row, where),
    )


def _check_fields(content: Mapping[str, Any], valid: Sequence[str], required: Sequence[str], where: str) -> None:
    for name in content:
        if name not in valid:
            near = nearest_name(name, valid)
            hint = f"did you mean {near!r}? " if near else ""
            raise UserError(f"{where}: unknown field {name!r}: {hint}valid: {', '.join(valid)}")
    for name in required:
        if name not in content:
            raise UserError(f"{where}: the field {name!r} is missing")


def _text(content: Mapping[str, Any], name: str, where: str) -> str:
    value = content[name]
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {name}: expected a text, got {value!r:.200}")
    return value


def _task_set(row: Mapping[str, Any], where: str) -> str:
    task_set = _text(row, "on", where) if "on" in row else TARGET
    if task_set not in TASK_SETS:
        raise UserError(f"{where}: on: expected {' or '.join(TASK_SETS)}, got {task_set!r}")
    return task_set


def _list(row: Mapping[str, Any], name: str, kind: type[Any], where: str) -> tuple[Any, ...]:
    values = row[name]
    # bool is an int to Python, not to whoever wrote the file.
    fits = isinstance(values, list) and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
    if not fits or not values or len(set(values)) != len(values):
        what = "texts" if kind is str else "whole numbers"
        raise UserError(f"{where}: {name}: expected a list of different {what}, got {values!r:.200}")
    if kind is int and min(values) < 0:
        raise UserError(f"{where}: {name}: expected whole numbers from 0, got {min(values)}")
    if kind is int and max(values) >= 2**63:
        raise UserError(f"{where}: {name}: expected whole numbers below 2^63, got {max(values)}")
    return tuple(values)


def _overrides(values: Any, where: str) -> tuple[Override, ...]:
    if not isinstance(values, dict):
        raise UserError(f'{where}: overrides: expected {{ "stage.field" = value }}, got {values!r:.200}')
    overrides = []
    for name, value in values.items():
        if not isinstance(value, str | int | float | list | dict):
            raise UserError(f"{where}: overrides: {name}: expected a number, a text or a list, got {value!r:.60}")
        if isinstance(value, dict):
            raise UserError(f'{where}: overrides: put quotes around the name: "{name}.{next(iter(value), "...")}"')
        overrides.append(Override(name, _override_text(value)))
    return tuple(overrides)


def _override_text(value: Any) -> str:
    """The text that the command line would take for this value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_override_text(item) for item in value)
    return str(value)
