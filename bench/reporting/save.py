"""Figures and tables as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.files import storage_errors
from bench.reporting.model import ReportFigure, ReportTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_ENDINGS = (".png", ".svg", ".pdf")
DOTS_PER_INCH = 150
_PLAIN_TEXT: Any = {"text.parse_math": False}
"""A label may hold what a user typed: ``$`` is a character, never the beginning of a formula."""


def draw_figure(figure: ReportFigure) -> Figure:
    """The figure, drawn."""
    import matplotlib

    with matplotlib.rc_context(_PLAIN_TEXT):
        return figure.draw()


def save_figure(figure: Figure, path_stem: Path, endings: Sequence[str] = FIGURE_ENDINGS) -> list[Path]:
    """Write ``path_stem`` with each ending; the files of equal figures are equal. Raises ``UserError``."""
    import matplotlib

    unknown = [ending for ending in endings if ending not in FIGURE_ENDINGS]
    if unknown:
        raise UserError(
            f"{path_stem}: a figure cannot be written as {unknown[0]!r}; valid: {', '.join(FIGURE_ENDINGS)}"
        )
    written = []
    # Text stays text, and neither time stamps nor random ids make two files of one figure differ.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "simpl-bench", "pdf.fonttype": 42, **_PLAIN_TEXT}
    with matplotlib.rc_context(settings):
        # Once for all forms: working out a layout takes longer than drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    for ending in endings:
        path = path_stem.with_name(path_stem.name + ending)
        metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[ending]
        with storage_errors(f"write {path}"), matplotlib.rc_context(settings):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
        written.append(path)
    return written


def save_table(table: ReportTable, path_stem: Path) -> list[Path]:
    """Write ``path_stem`` with ``.md``, ``.tex`` and ``.csv``. Raises ``UserError``."""
    written = []
    for ending, text in ((".md", table.to_markdown()), (".tex", table.to_latex()), (".csv", table.to_csv())):
        path = path_stem.with_name(path_stem.name + ending)
        with storage_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
