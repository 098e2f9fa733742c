"""Fields of configuration dataclasses: docstrings, types, values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fields import (
    check_range,
    describe_type,
    field_docstrings,
    flatten,
    leaf_types,
    normalise,
    parse_text,
    replace_values,
)


@dataclass(frozen=True)
class Inner:
    """Inside."""

    rate: float = 0.5
    """A rate."""


@dataclass(frozen=True)
class Outer:
    """Outside."""

    inner: Inner = field(default_factory=Inner)
    """Opened."""
    widths: tuple[int, ...] = (1, 2)
    """Two lines
    of text."""


@dataclass(frozen=True)
class Derived(Outer):
    """Inherits docstrings too."""

    episodes: int = 3
    """Episodes."""


def test_docstrings_are_read_from_the_source_and_inherited() -> None:
    assert field_docstrings(Derived) == {"inner": "Opened.", "widths": "Two lines of text.", "episodes": "Episodes."}


def test_nested_dataclasses_are_opened_and_replaced_by_dotted_name() -> None:
    assert dict(flatten(Derived())) == {"inner.rate": 0.5, "widths": (1, 2), "episodes": 3}
    assert [name for name, _, _ in leaf_types(Derived)] == ["inner.rate", "widths", "episodes"]
    changed = replace_values(Derived(), {"inner.rate": 0.1, "episodes": 9})
    assert (changed.inner.rate, changed.widths, changed.episodes) == (0.1, (1, 2), 9)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("1e5", int, 100_000),
        ("1_000", int, 1000),
        ("1e-3", float, 1e-3),
        ("2", float, 2.0),
        ("true", bool, True),
        ("Off", bool, False),
        ("bf16", Literal["fp32", "bf16"], "bf16"),
        ("4", Literal[4, 8], 4),
        ("none", float | None, None),
        ("0.5", float | None, 0.5),
        ("none", str | None, None),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("(1, 2)", tuple[int, int], (1, 2)),
        ("", tuple[int, ...], ()),
        ("0.1,3", tuple[float, int], (0.1, 3)),
    ],
)
def test_text_is_parsed_by_type(text: str, annotation: Any, value: Any) -> None:
    parsed = parse_text(text, annotation)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "message"),
    [
        ("1.5", int, "whole number"),
        ("many", int, "whole number"),
        ("high", float, "number"),
        ("maybe", bool, "true or false"),
        ("bf61", Literal["fp32", "bf16"], r"fp32\|bf16; did you mean 'bf16'"),
        ("x", int | None, r"int\|none"),
        ("1,2,3", tuple[int, int], "2 values"),
    ],
)
def test_a_wrong_value_says_what_is_expected(text: str, annotation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_text(text, annotation)


def test_types_are_described() -> None:
    assert describe_type(tuple[int, ...]) == "int,..."
    assert describe_type(float | None) == "float|none"
    assert describe_type(Literal["a", "b"]) == "a|b"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_normalisation_exactly(value: float) -> None:
    assert normalise(value, float) == value


def test_normalisation_gives_the_fields_own_type() -> None:
    assert type(normalise(1, float)) is float
    assert normalise([1, 2], tuple[int, ...]) == (1, 2)
    assert normalise(None, int | None) is None
    with pytest.raises(ValueError, match="whole number"):
        normalise(True, int)
    with pytest.raises(ValueError, match="text"):
        normalise(3, str)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**13, (1, -2)])
def test_numbers_that_mean_nothing_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_range("episodes", value)


def test_seeds_may_be_large_and_rates_negative() -> None:
    check_range("seed", 2**60)
    check_range("offset", -0.5)
    check_range("flag", True)
