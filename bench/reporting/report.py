"""``bench report``: from run folders to a folder with one HTML page, the figures as files and the tables as files."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from algorithms.stage import Progress
from bench.errors import UserError
from bench.files import storage_errors
from bench.loading import print_excluded
from bench.progress import Reporter, make_reporter
from bench.reporting.figures import make_figures
from bench.reporting.findings import Findings, findings_of
from bench.reporting.findings_tables import comparisons_table, coverage_figures, standings_table
from bench.reporting.inputs import load_inputs
from bench.reporting.layout import headline, in_paper_order, matrix_of, worlds_of
from bench.reporting.model import ReportInputs, ReportTable
from bench.reporting.page import GENERATOR, PageContent, PageFigure, page_figure, render
from bench.reporting.runs import failures, run_entries, runs_table
from bench.reporting.save import draw_figure, save_figure, save_table
from bench.reporting.tables import make_tables
from bench.statistics.analysis import Window, studies
from bench.statistics.with_rliable import RLIABLE, RUNS, require_rliable

PAGE = "index.html"
FIGURES_FOLDER, TABLES_FOLDER = "figures", "tables"
_PACKAGES = ("simpl-bench", "numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class ReportRequest:
    """What ``bench report`` was asked for."""

    folders: tuple[Path, ...]
    out: Path
    windows: Sequence[Window] | None = None
    """Windows of episodes that are compared; None for the usual ones."""
    paper: Path | None = None
    """Published curves; None for those that ship."""
    method: str = RUNS
    """Whose intervals the figures have."""


def write_report(request: ReportRequest) -> Path:
    """Make the report and return its page. A report that is there already is replaced, as a whole and at the end.

    Raises ``UserError`` when there is no run, when a folder is missing, or when ``out`` holds something else.
    """
    out = request.out
    _check_replaceable(out)
    if request.method == RLIABLE:
        require_rliable()
    inputs = replace(load_inputs(request.folders, request.paper), method=request.method)
    print_excluded(inputs.excluded)
    build = out.with_name(f".{out.name}.partial")
    with storage_errors(f"write the report {out}"):
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        try:
            with make_reporter() as reporter:
                content = _make(inputs, request, build, reporter)
            (build / PAGE).write_text(render(content), encoding="utf-8")
            if out.exists():
                shutil.rmtree(out)
            build.rename(out)
        finally:
            shutil.rmtree(build, ignore_errors=True)
    return out / PAGE


def _check_replaceable(out: Path) -> None:
    if not out.resolve().name:
        raise UserError(f"-o {out}: a report needs a folder of its own")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is not a folder")
    with storage_errors(f"read {out}"):
        page = out / PAGE
        known = page.is_file() and f'content="{GENERATOR}"' in page.read_text(encoding="utf-8", errors="replace")
        if any(out.iterdir()) and not known:
            raise UserError(f"{out} holds something that is not a report; choose another folder with -o")


def _make(inputs: ReportInputs, request: ReportRequest, build: Path, reporter: Reporter) -> PageContent:
    """Draw and write all parts into ``build``, and return what the page says."""
    found_studies = studies(inputs.groups, request.windows)
    figures = make_figures(inputs)
    total = len(found_studies) + len(figures.items) + 1
    done = 0

    def finished() -> None:
        nonlocal done
        done += 1
        reporter.update(Progress(done, total, "parts"))

    reporter.start_stage("report", Progress(0, total, "parts"))
    found = [_counted(findings_of(one), finished) for one in found_studies]
    drawn = []
    for figure in figures.items:
        png, *_ = save_figure(draw_figure(figure), build / FIGURES_FOLDER / figure.name)
        drawn.append(page_figure(figure, png))
        finished()
    tables = make_tables(inputs)
    content = _content(inputs, request, found, drawn, figures.missing, tables.items, tables.missing)
    for table in (*content.standings, *content.comparisons, content.coverage, *content.tables, content.runs_table):
        if table is not None:
            save_table(table, build / TABLES_FOLDER / table.name)
    finished()
    reporter.end_stage()
    return content


def _counted(found: Findings, finished: Callable[[], None]) -> Findings:
    finished()
    return found


def _content(
    inputs: ReportInputs,
    request: ReportRequest,
    found: Sequence[Findings],
    drawn: Sequence[PageFigure],
    missing_figures: tuple[str, ...],
    tables: tuple[ReportTable, ...],
    missing_tables: tuple[str, ...],
) -> PageContent:
    entries = run_entries(inputs, request.out)
    ordered = in_paper_order(found)
    return PageContent(
        folders=tuple(map(str, inputs.folders)), findings=tuple(ordered),
        matrix=matrix_of(ordered), headline=headline(ordered, inputs),
        worlds=tuple(worlds_of(ordered, drawn, tables)), standings=tuple(map(standings_table, ordered)),
        comparisons=tuple(map(comparisons_table, ordered)), coverage=coverage_figures(),
        figures=tuple(drawn), missing_figures=missing_figures,
        tables=tables, missing_tables=missing_tables,
        entries=tuple(entries), runs_table=runs_table(entries), failures=tuple(failures(inputs, request.out)),
        report_command=_command(request), report_versions=_versions(),
    )  # fmt: skip


def _command(request: ReportRequest) -> str:
    words = ["bench", "report", *map(str, request.folders), "-o", str(request.out)]
    if request.windows is not None:
        words += ["--episodes", ",".join(f"{start}-{stop}" for start, stop in request.windows)]
    if request.paper is not None:
        words += ["--paper", str(request.paper)]
    if request.method != RUNS:
        words += ["--method", request.method]
    return shlex.join(words)


def _versions() -> str:
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return ", ".join(found)
