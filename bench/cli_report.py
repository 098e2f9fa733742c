"""The commands that show results and what goes on: ``report`` and ``board``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli_parser import DEFAULT_OUT, Parser, add_command, add_out
from bench.cli_statistics import add_method, windows_argument
from bench.config import Override

_REPORT_EPILOG = (
    "The folder holds index.html, one page with everything in it (no network needed), and beside it each figure as "
    "PNG, SVG and PDF and each table as CSV, Markdown and LaTeX. The same runs give the same bytes. Runs that failed "
    "or hold a NaN are in no number; the page names them with their tracebacks. A report that is there already is "
    "replaced."
)


def add_report_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add ``report`` and ``board`` to ``bench``."""
    parser = add_command(
        commands, "report", "Make a report of many runs: summary, figures, tables, in one HTML page.", _report,
        computes=True, epilog=_REPORT_EPILOG,
    )  # fmt: skip
    parser.set_defaults(threads=1)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[DEFAULT_OUT], metavar="RESULTS",
        help="run folders, or folders of them (default runs)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report"), metavar="FOLDER", help="folder to write (default report)"
    )
    parser.add_argument(
        "--episodes", type=windows_argument, metavar="90-110",
        help="windows in which algorithms are compared, as for bench compare (default: 20-40 and the last that both "
        "have completed)",
    )  # fmt: skip
    add_method(parser)
    parser.add_argument("--paper", type=Path, metavar="CSV", help="published curves (default: those of the paper)")

    parser = add_command(
        commands, "board", "Watch a run or a sweep as it goes: stages, learning curves, metrics.", _board,
        epilog="It only looks on, from any shell: Ctrl-C ends the board and nothing else.",
    )  # fmt: skip
    parser.add_argument(
        "name", nargs="?", metavar="RUN|SWEEP",
        help="a run (its folder, or its name below --out) or a sweep below --out (default: the newest)",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="print it once, as where there is no terminal")
    parser.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="write TensorBoard files there, too (needs tensorboard)"
    )
    add_out(parser)


def _report(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.reporting.report import ReportRequest, write_report

    page = write_report(
        ReportRequest(tuple(options.folders), options.output, options.episodes, options.paper, options.method)
    )
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")


def _board(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.board import show_board

    show_board(options.name, options.out, options.once, options.tensorboard)
