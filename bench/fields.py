"""Fields of frozen configuration dataclasses: their docstrings, their types, and values parsed by type."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union

from bench.errors import nearest_name

_TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
_FALSE_WORDS = frozenset({"false", "no", "off", "0"})
_LARGEST_INTEGER = 10**12
_LARGEST_SEED = 2**63 - 1
_LONGEST_TUPLE = 1000


@cache
def field_docstrings(config_class: type[Any]) -> Mapping[str, str]:
    """Docstring of each field: the string literal that follows its definition, on one line."""
    found: dict[str, str] = {}
    for cls in reversed(config_class.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``(dotted name, value)`` of every field; a field that is itself a dataclass is opened."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def hashed_fields(config: Any) -> dict[str, Any]:
    """``{dotted name: value}`` of what a configuration adds to a stage's hash: see ``algorithms.stage.ADDED_LATER``."""
    left_out = {
        field.name
        for field in dataclasses.fields(config)
        if not field.metadata.get("hashed_at_default", True) and getattr(config, field.name) == field.default
    }
    return {name: value for name, value in flatten(config) if name not in left_out}


def leaf_types(config_class: type[Any], prefix: str = "") -> tuple[tuple[str, Any, str], ...]:
    """``(dotted name, annotation, docstring)`` of every field, nested dataclasses opened."""
    return _leaf_types(config_class, prefix)  # type: ignore[arg-type]  # a class is hashable


@cache
def _leaf_types(config_class: type[Any], prefix: str) -> tuple[tuple[str, Any, str], ...]:
    hints = typing.get_type_hints(config_class)
    docstrings = field_docstrings(config_class)  # type: ignore[arg-type]  # as above
    found: list[tuple[str, Any, str]] = []
    for field in dataclasses.fields(config_class):
        annotation = hints[field.name]
        if dataclasses.is_dataclass(annotation):
            found += leaf_types(typing.cast(type[Any], annotation), f"{prefix}{field.name}.")
        else:
            found.append((prefix + field.name, annotation, docstrings.get(field.name, "")))
    return tuple(found)


def replace_values(config: Any, values: Mapping[str, Any]) -> Any:
    """A copy of ``config`` with the fields of these dotted names replaced."""
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            own[name] = value
    for name, inner in nested.items():
        own[name] = replace_values(getattr(config, name), inner)
    return dataclasses.replace(config, **own)


def describe_type(annotation: Any) -> str:
    """How a type is shown in help and errors: ``int``, ``a|b``, ``float,float``, ``int|none``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(describe_type(argument) for argument in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"{describe_type(arguments[0])},..."
        return ",".join(describe_type(argument) for argument in arguments)
    if annotation is types.NoneType:
        return "none"
    return str(getattr(annotation, "__name__", annotation))


def parse_text(text: str, annotation: Any) -> Any:
    """The value that command-line ``text`` means for a field of this type.

    Tuples are comma-separated, ``none`` is None where it is allowed, and whole numbers may be written ``1e5``.
    Raises ``ValueError`` whose message says what was expected.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        for choice in arguments:
            if str(choice) == text:
                return choice
        near = nearest_name(text, [str(choice) for choice in arguments])
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"expected one of {describe_type(annotation)}{hint}")
    if origin in (Union, types.UnionType):
        return _parse_union(text, annotation, arguments)
    if origin is tuple:
        return _parse_tuple(text, annotation, arguments)
    if annotation is bool:
        if text.lower() in _TRUE_WORDS | _FALSE_WORDS:
            return text.lower() in _TRUE_WORDS
        raise ValueError("expected true or false")
    if annotation is int:
        return _parse_integer(text)
    if annotation is float:
        try:
            return float(text)
        except ValueError as error:
            raise ValueError("expected a number") from error
    if annotation is str:
        return text
    raise TypeError(f"configuration fields of type {annotation} are not supported")


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass  # It may still be a whole number in the form 1e5.
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError("expected a whole number") from error
    if not math.isfinite(value) or not value.is_integer():
        raise ValueError("expected a whole number")
    return int(value)


def _parse_union(text: str, annotation: Any, arguments: Sequence[Any]) -> Any:
    if types.NoneType in arguments and text.lower() == "none":
        return None
    for argument in arguments:
        if argument is types.NoneType:
            continue
        try:
            return parse_text(text, argument)
        except ValueError:
            continue  # The next member of the union may accept it.
    raise ValueError(f"expected {describe_type(annotation)}")


def _parse_tuple(text: str, annotation: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
    if len(parts) > _LONGEST_TUPLE:
        raise ValueError(f"expected at most {_LONGEST_TUPLE} values, got {len(parts)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(parse_text(part, arguments[0]) for part in parts)
    if len(parts) != len(arguments):
        raise ValueError(f"expected {len(arguments)} values ({describe_type(annotation)}), got {len(parts)}")
    return tuple(parse_text(part, argument) for part, argument in zip(parts, arguments, strict=True))


def normalise(value: Any, annotation: Any) -> Any:
    """A value given in Python (a default or a preset) in the field's own type, so that 1 and 1.0 hash alike.

    Raises ``ValueError`` when it does not fit the type.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and isinstance(value, list | tuple):
        text = ",".join(str(item) for item in value)
        return _parse_tuple(text, annotation, arguments) if value else ()
    if value is None and type(None) in arguments:
        return None
    if annotation is str and not isinstance(value, str):
        raise ValueError("expected text")
    if annotation is int and isinstance(value, bool):
        raise ValueError("expected a whole number")
    return parse_text(str(value), annotation)


def check_range(name: str, value: Any) -> None:
    """Refuse numbers no configuration can mean: NaN and infinity, and negative or astronomical whole numbers.

    Finer limits belong to the dataclass's own ``validate()``. Raises ``ValueError``.
    """
    if isinstance(value, tuple):
        for item in value:
            check_range(name, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    elif isinstance(value, int) and not isinstance(value, bool):
        largest = _LARGEST_SEED if name.endswith("seed") else _LARGEST_INTEGER
        if not 0 <= value <= largest:
            raise ValueError(f"expected a whole number from 0 to {largest:,}")
