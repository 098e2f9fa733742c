"""Small tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.files import printable

_FORMULA = re.compile(r"[=+@\t\r]|-[^-]")
"""How a formula begins; ``--field value`` is none."""
_MINIMUM_WIDTH = 120
"""Where output is not a terminal, columns are not squeezed into 80 characters."""


def make_console() -> Console:
    """A console on standard output, wide enough when that is a file or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _MINIMUM_WIDTH), soft_wrap=True)
    return console


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; numbers should come as text."""
    table = make_table(title, *columns)
    for row in rows:
        table.add_row(*map(plain, row))
    make_console().print(table)


def make_table(title: str, *columns: str) -> Table:
    """An empty table whose title and heads mean nothing but themselves."""
    table = Table(title=plain(title), title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(plain(column), overflow="fold")
    return table


def csv_cell(value: object) -> object:
    """A cell of a CSV file. Text that a spreadsheet would carry out as a formula is quoted with ``'``, as it asks."""
    if value is None:
        return ""
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return value


def plain(text: str) -> Text:
    """Text that means nothing to rich nor to a terminal: no markup, no escapes."""
    return Text(printable(text))
