"""Where the algorithms differ from papers and released code, collected from what their files say of themselves."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import algorithms.registry
from algorithms.registry import algorithm_entries
from bench.reporting.model import Column, Made, ReportInputs, ReportTable, Value

_HEADING = "Differences from "
_ITEM = "- "


def deviation_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """One table of all algorithms, registered ones of other packages included."""
    rows: list[tuple[Value, ...]] = [
        (path.stem, heading, text) for path in algorithm_files() for heading, text in differences(path)
    ]
    if not rows:
        return Made((), ("deviations: no algorithm's file lists differences",))
    caption = (
        "As the algorithms' files list them. A departure that is off in the preset paper is a named field: its value "
        "is in the table of hyper-parameters."
    )
    columns = (Column("file"), Column("compared with"), Column("difference"))
    return Made(
        (ReportTable("deviations", "Differences from papers and released code", caption, columns, tuple(rows)),)
    )


def algorithm_files() -> list[Path]:
    """The modules of the package of algorithms, then those of algorithms registered from elsewhere."""
    names = [f"{algorithms.__name__}.{module.name}" for module in pkgutil.iter_modules(algorithms.__path__)]
    names += [entry.target.partition(":")[0] for entry in algorithm_entries()]
    found = []
    for name in dict.fromkeys(names):
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:
            continue  # Its package is not installed: bench list says so.
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            found.append(Path(spec.origin))
    return found


def differences(path: Path) -> Iterator[tuple[str, str]]:
    """(what is compared with, one difference) of the list in a module's docstring, if it has one."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    heading, item = "", ""
    for line in [*docstring.splitlines(), ""]:
        if line.startswith(_HEADING):
            heading = line.removeprefix(_HEADING)
        elif heading and line.startswith("  ") and item:
            item += " " + line.strip()
        else:
            if item:
                yield heading, item
            item = line.removeprefix(_ITEM) if heading and line.startswith(_ITEM) else ""
            if heading and not item:
                heading = ""
