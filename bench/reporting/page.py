"""The report's one HTML file: a template filled in, with its style, script and pictures inside.

The page's own security policy allows its style, its script (both by their hash) and pictures given in the page, and
nothing else: no request leaves it, and nothing that a run's name or traceback holds can act.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from bench.reporting.findings import Findings
from bench.reporting.layout import Matrix, World
from bench.reporting.model import ReportFigure, ReportTable
from bench.reporting.runs import Failure, RunEntry
from bench.statistics.analysis import DECLARATION

GENERATOR = "simpl-bench report"
"""In the page's ``<meta name="generator">``: by it a folder is known to hold a report, which may be replaced."""
PAGE_DOTS_PER_INCH = 150
"""Of the pictures' files; in the page they are shown at most this much smaller."""
_COLOURS = 256


@dataclass(frozen=True)
class PageFigure:
    """A figure as it stands in the page."""

    name: str
    title: str
    caption: str
    alt: str
    png: str
    """Base64."""
    width: int
    """In CSS pixels."""
    height: int


@dataclass(frozen=True)
class PageContent:
    """All that the page says."""

    folders: tuple[str, ...]
    findings: tuple[Findings, ...]
    matrix: Matrix
    headline: tuple[str, ...]
    worlds: tuple[World, ...]
    """A section for each of ``findings``."""
    standings: tuple[ReportTable | None, ...]
    """One for each of ``findings``; None where it has none."""
    comparisons: tuple[ReportTable | None, ...]
    """One for each of ``findings``; None where it has none."""
    coverage: ReportTable
    figures: tuple[PageFigure, ...]
    missing_figures: tuple[str, ...]
    tables: tuple[ReportTable, ...]
    missing_tables: tuple[str, ...]
    entries: tuple[RunEntry, ...]
    runs_table: ReportTable
    failures: tuple[Failure, ...]
    report_command: str
    report_versions: str


def page_figure(figure: ReportFigure, png: Path) -> PageFigure:
    """A figure with its picture, which was drawn to ``png``."""
    content = png.read_bytes()
    with Image.open(png) as picture:
        width, height = picture.size
        # The page is to be small enough to send around: a palette says the same in a third of the bytes.
        reduced = io.BytesIO()
        picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(reduced, "PNG", optimize=True)
    smaller = min(content, reduced.getvalue(), key=len)
    scale = 96 / PAGE_DOTS_PER_INCH
    return PageFigure(
        figure.name, figure.title, figure.caption, figure.alt, base64.b64encode(smaller).decode(),
        round(scale * width), round(scale * height),
    )  # fmt: skip


def render(content: PageContent) -> str:
    """The page. Whatever text it is given is escaped."""
    style, script = _part("report.css"), _part("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["with_code"] = _with_code
    template = environment.from_string(_part("report.html.j2"))
    owned = {place for world in content.worlds for place in world.figures}
    owned_tables = {place for world in content.worlds for place in world.tables}
    general = [place for place in range(len(content.figures)) if place not in owned]
    # The picture that a report is known by: the first of the studies that ship.
    opening, others = general[:1], general[1:]
    general_tables = [place for place in range(len(content.tables)) if place not in owned_tables]
    sections = [
        ("summary", "Summary", True),
        *((world.anchor, f"{world.findings.env}, {world.findings.preset}", True) for world in content.worlds),
        ("figures", "Figures across task distributions", others or content.missing_figures),
        ("tables", "Tables", general_tables or content.missing_tables),
        ("left-out", "Failed and excluded", content.failures),
        ("runs", "Runs, commands and versions", content.entries),
    ]
    return template.render(
        {name: getattr(content, name) for name in content.__dataclass_fields__},
        title="Skill-based meta-RL: report",
        generator=GENERATOR,
        declaration=DECLARATION,
        counts=_counts(content),
        opening=opening,
        other_figures=others,
        general_tables=general_tables,
        sections=[(name, heading) for name, heading, present in sections if present],
        commands=list(dict.fromkeys(entry.command for entry in content.entries)),
        versions=_by_versions(content.entries),
        # Markup, for inside <style> and <script> nothing may be escaped; both are the package's own.
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _with_code(text: str) -> Markup:
    """Escaped, with what docstrings put between double backquotes as code."""
    return Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(text))))


def _part(name: str) -> str:
    return (resources.files("bench.reporting") / "page" / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _counts(content: PageContent) -> str:
    algorithms = len({entry.label for entry in content.entries})
    distributions = len({entry.env for entry in content.entries})
    return (
        f"{_plural(len(content.entries), 'run')} of {_plural(algorithms, 'algorithm')} on "
        f"{_plural(distributions, 'task distribution')}, from {', '.join(content.folders)}."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _by_versions(entries: Sequence[RunEntry]) -> Mapping[str, str]:
    """Versions -> the runs made with them."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.versions, []).append(entry.name)
    return {versions: ", ".join(names) for versions, names in found.items()}
