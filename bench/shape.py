"""Whether what a JSON file holds has the shape that was written: one check for all of them, by type annotations.

A record is declared once, as a dataclass or a ``TypedDict``; what is read is compared with it before anybody uses it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NewType, TypeVar, Union

from bench.errors import StorageError

FileName = NewType("FileName", str)
"""The name of a file or folder inside a folder that is known: no path, so that nothing outside can be meant."""

T = TypeVar("T")

_PLAIN = (str, int, float, bool, FileName, Path)


def is_file_name(text: str) -> bool:
    """Whether ``text`` can name an entry of a folder, and nothing else."""
    return 0 < len(text) <= 255 and text not in (".", "..") and "/" not in text and text.isprintable()


def load_record(cls: type[T], content: Mapping[str, Any], path: Path, remedy: str) -> T:
    """The dataclass ``cls`` of what the file at ``path`` holds, lists made tuples.

    Raises ``StorageError`` naming the field.
    """
    check_record(content, cls, path, remedy)
    return typing.cast(T, _built(content, cls))


def check_record(content: Any, annotation: Any, path: Path, remedy: str) -> None:
    """Raise ``StorageError`` naming file and field unless ``content`` is what ``annotation`` says."""
    try:
        check_value(content, annotation)
    except ValueError as error:
        raise StorageError(f"{path} does not hold what it should: {error}; {remedy}") from error


def check_value(value: Any, annotation: Any, where: str = "") -> None:
    """Raise ``ValueError`` unless ``value``, plain JSON, fits the annotation.

    Annotations are made of plain types, ``FileName``, ``Literal``, unions, ``tuple[X, ...]``, ``list[X]``,
    ``Mapping[str, X]``, dataclasses and ``TypedDict``, which may have more fields than were declared.
    """
    if annotation is Any:
        return
    if annotation in _PLAIN:
        _check_plain(value, annotation, where)
        return
    origin, arguments = _parts(annotation)
    if origin in (Union, types.UnionType):
        _check_union(value, arguments, where)
    elif origin is Literal:
        _require(value in arguments, value, f"one of {', '.join(map(str, arguments))}", where)
    elif origin in (tuple, list):
        _require(isinstance(value, list | tuple), value, "a list", where)
        _check_items(value, arguments[0], where)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        _require(isinstance(value, Mapping) and all(isinstance(key, str) for key in value), value, "a mapping", where)
        for key, item in value.items():
            check_value(item, arguments[1], f"{where}[{key!r:.60}]")
    elif dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation):
        _check_fields(value, annotation, where)
    else:
        _check_plain(value, annotation, where)


@cache
def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(annotation), typing.get_args(annotation)


def _check_items(values: Any, annotation: Any, where: str) -> None:
    if annotation is str and all(type(item) is str for item in values):
        return
    for index, item in enumerate(values):
        check_value(item, annotation, f"{where}[{index}]")


def _check_union(value: Any, arguments: tuple[Any, ...], where: str) -> None:
    others = [argument for argument in arguments if argument is not types.NoneType]
    if value is None and len(others) < len(arguments):
        return
    for argument in others[:-1]:
        try:
            check_value(value, argument, where)
        except ValueError:
            continue  # Another member of the union may fit.
        return
    check_value(value, others[-1], where)


def _check_fields(value: Any, annotation: Any, where: str) -> None:
    _require(isinstance(value, Mapping), value, "a mapping", where)
    hints, required, may_have_more = _fields(typing.cast(type, annotation))
    for name in required:
        if name not in value:
            raise ValueError(f"{_named(where)}the field {name!r} is missing")
    for name, item in value.items():
        if name in hints:
            check_value(item, hints[name], f"{where}.{name}" if where else name)
        elif not may_have_more:
            raise ValueError(f"{_named(where)}unknown field {name!r:.60}")


@cache
def _fields(annotation: type[Any]) -> tuple[Mapping[str, Any], frozenset[str], bool]:
    """Types of the fields, those without a default, and whether there may be others."""
    hints = typing.get_type_hints(annotation)
    if typing.is_typeddict(annotation):
        # Annotations are text until now, so that the class itself has not seen which fields are not required.
        marked = typing.get_type_hints(annotation, include_extras=True)
        return hints, frozenset(n for n, a in marked.items() if typing.get_origin(a) is not typing.NotRequired), True
    found = dataclasses.fields(annotation)
    missing = dataclasses.MISSING
    required = frozenset(f.name for f in found if f.default is missing and f.default_factory is missing)
    return {field.name: hints[field.name] for field in found}, required, False


def _check_plain(value: Any, annotation: Any, where: str) -> None:
    if annotation is FileName:
        _require(isinstance(value, str) and is_file_name(value), value, "the name of a file or folder", where)
    elif annotation is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), value, "a number", where)
    elif annotation is int:
        # What does not fit into 64 bits fits into no table.
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        _require(fits, value, "a whole number", where)
    elif annotation is Path or annotation is str:
        _require(isinstance(value, str), value, "text", where)
    else:
        _require(isinstance(value, annotation), value, annotation.__name__, where)


def _require(fits: bool, value: Any, expected: str, where: str) -> None:
    if not fits:
        raise ValueError(f"{_named(where)}expected {expected}, got {value!r:.60}")


def _named(where: str) -> str:
    return f"{where}: " if where else ""


def _built(value: Any, annotation: Any) -> Any:
    """``value``, which fits, with dataclasses made of mappings and tuples of lists."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if value is not None and origin in (Union, types.UnionType):
        return _built(value, next(argument for argument in arguments if argument is not types.NoneType))
    if origin is tuple and value is not None:
        return tuple(_built(item, arguments[0]) for item in value)
    if annotation is Path:
        return Path(value)
    if value is not None and dataclasses.is_dataclass(annotation):
        hints = _fields(typing.cast(type, annotation))[0]
        return typing.cast(Any, annotation)(**{name: _built(item, hints[name]) for name, item in value.items()})
    return value
