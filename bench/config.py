"""Resolved configuration of a stage: defaults of its frozen dataclass, then the preset, then the command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import UserError, unknown_name
from bench.fields import check_range, describe_type, flatten, leaf_types, normalise, parse_text, replace_values

if TYPE_CHECKING:
    from envs.core import TaskDistribution

_FLAG = re.compile(r"--([A-Za-z_]\w*(?:\.\w+)+)(?:=(.*))?", re.DOTALL)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*(?:\.\w+)+)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """``stage.field`` set from the command line; ``text`` is parsed by the field's type."""

    name: str
    text: str


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], tuple[Override, ...]]:
    """Separate ``--a.b VALUE``, ``--a.b=VALUE`` and ``a.b=VALUE`` from the other command-line arguments.

    Raises ``UserError`` when a dotted name has no value or is given twice.
    """
    others: list[str] = []
    overrides: dict[str, Override] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, assignment = _FLAG.fullmatch(argument), _ASSIGNMENT.fullmatch(argument)
        if flag is None and assignment is None:
            others.append(argument)
            continue
        if flag is not None:
            name, text = flag.group(1), flag.group(2)
            if text is None:
                if not waiting or waiting[0].startswith("--"):
                    raise UserError(f"--{name} needs a value: --{name} VALUE")
                text = waiting.pop(0)
        else:
            assert assignment is not None
            name, text = assignment.groups()
        if name in overrides:
            raise UserError(f"{name} is given twice: {overrides[name].text!r} and {text!r}")
        overrides[name] = Override(name, text)
    return others, tuple(overrides.values())


def check_override_names(overrides: Iterable[Override], config_classes: Mapping[str, type[Any]]) -> None:
    """Raise ``UserError`` with the nearest valid name when an override names no field of these stages."""
    valid = [f"{stage}.{name}" for stage, cls in config_classes.items() for name, _, _ in leaf_types(cls)]
    for override in overrides:
        if override.name not in valid:
            raise unknown_name("field", override.name, _nearby(override.name, valid))


def _nearby(name: str, valid: list[str]) -> list[str]:
    """The fields of the stage that was named, or all when no such stage exists."""
    same_stage = [field for field in valid if field.partition(".")[0] == name.partition(".")[0]]
    return same_stage or valid


def resolve_config(
    config_class: type[Any], stage: str, preset: Mapping[str, Any], overrides: Iterable[Override], preset_name: str
) -> Any:
    """The config of ``stage``: default values <- ``preset`` ({``stage.field``: value}) <- ``overrides``.

    Names of other stages are ignored here; ``check_override_names`` and ``check_preset_names`` refuse unknown ones.
    Raises ``UserError`` for a value of the wrong type or out of range, or refused by the config's ``validate()``.
    """
    annotations = {name: annotation for name, annotation, _ in leaf_types(config_class)}
    config = config_class()
    values = dict(flatten(config))
    prefix = f"{stage}."
    for dotted, value in preset.items():
        if dotted.startswith(prefix):
            values[dotted.removeprefix(prefix)] = value
    for name, value in values.items():
        try:
            values[name] = normalise(value, annotations[name])
            check_range(name, values[name])
        except ValueError as error:
            raise UserError(f"{stage}.{name}: {error}, got {value!r} (from preset {preset_name!r})") from error
    for override in overrides:
        if not override.name.startswith(prefix):
            continue
        name = override.name.removeprefix(prefix)
        try:
            values[name] = parse_text(override.text, annotations[name])
            check_range(name, values[name])
        except ValueError as error:
            raise UserError(f"{override.name}: {error}, got {override.text!r}") from error
    try:
        resolved = replace_values(config, values)
    except ValueError as error:
        raise UserError(f"{stage}: {error}") from error
    return _validated(resolved, stage)


def check_for_tasks(config: Any, distribution: TaskDistribution, stage: str) -> None:
    """Ask a configuration, where it has ``validate_for``, whether it fits the tasks it is for. Raises ``UserError``."""
    validate_for = getattr(config, "validate_for", None)
    if validate_for is not None:
        try:
            validate_for(distribution)
        except ValueError as error:
            raise UserError(f"{stage} on {distribution.name}: {error}") from error


def _validated(config: Any, where: str) -> Any:
    """Call ``validate()`` of the config and of the dataclasses inside it, where they have one."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _validated(value, f"{where}.{field.name}")
    validate = getattr(config, "validate", None)
    if validate is not None:
        try:
            validate()
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
    return config


def check_preset_names(preset: Mapping[str, Any], config_classes: Mapping[str, type[Any]], where: str) -> None:
    """Raise ``UserError`` when a preset sets a field that no stage has: a mistake of whoever wrote the preset."""
    valid = {f"{stage}.{name}" for stage, cls in config_classes.items() for name, _, _ in leaf_types(cls)}
    for dotted in preset:
        if dotted not in valid:
            raise unknown_name(f"field in {where}", dotted, _nearby(dotted, sorted(valid)))


def yaml_text(configs: Mapping[str, Any], remarks: Sequence[str] = ()) -> str:
    """The resolved configs as YAML, one section per stage, below one-line remarks. An output only."""
    lines = ["# The resolved configuration of this run. Written for people; nothing reads it back."]
    lines += [f"# {' '.join(remark.split())}" for remark in remarks]
    for stage, config in configs.items():
        lines.append(f"{stage}:")
        lines += [f"  {name}: {_yaml_scalar(value)}" for name, value in flatten(config)]
    return "\n".join(lines) + "\n"


def _yaml_scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml_scalar(item) for item in value) + "]"
    if isinstance(value, float):
        # YAML 1.1 reads 1e-05 as text: a number needs the point.
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def help_text(stage: str, config_class: type[Any], config: Any) -> str:
    """Every field of a stage: option, type, docstring, default, and the value here where it differs."""
    defaults, values = dict(flatten(config_class())), dict(flatten(config))
    lines = [f"{stage}:"]
    for name, annotation, docstring in leaf_types(config_class):
        default = f"default {_shown(defaults[name])}"
        here = f", here {_shown(values[name])}" if values[name] != defaults[name] else ""
        lines.append(f"  --{stage}.{name} {describe_type(annotation)}  [{default}{here}]")
        if docstring:
            lines.append(f"        {docstring}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value).lower()
