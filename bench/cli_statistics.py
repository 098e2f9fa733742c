"""The commands of statistics: ``compare`` and ``power``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from bench.cli_parser import DEFAULT_OUT, Parser, add_command
from bench.config import Override

_COMPARE_EPILOG = (
    "A - B is the difference of mean scores with its 95 % interval, IQM A - B that of the interquartile means (the "
    "lowest and highest quarter of the scores left out), P(A > B) the chance that a run of A beats one of B on a task. "
    "p is the chance of a difference as large if the algorithms were equal: a t-test of the differences at equal "
    "seeds, corrected by Holm's method for all pairs of algorithms that the results hold of the task distribution, "
    "whichever of them is asked for. One window decides: the last that half of the algorithms have completed, or those "
    "of --episodes; the others are described. bench report gives the same verdicts on the same rows. Runs with rows "
    "that cannot be are left out and named."
)
_POWER_EPILOG = (
    "Plan a study with it: run some seeds, ask how many the smallest difference that matters needs, run those. With "
    "too few seeds a real difference is missed most of the time, and one that is found is exaggerated. --difference is "
    "in the unit of the score (success: 0.1 is ten in a hundred episodes); half of it needs four times as many seeds."
)


def add_statistics_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add ``compare`` and ``power`` to ``bench``."""
    parser = add_command(
        commands, "compare", "Compare two algorithms or two folders of results: how far apart, how sure.", _compare,
        epilog=_COMPARE_EPILOG,
    )  # fmt: skip
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="an algorithm, or a folder of runs")
    parser.add_argument(
        "--results", nargs="+", type=Path, default=[DEFAULT_OUT], metavar="FOLDER",
        help="where the runs of the two algorithms are (default runs)",
    )  # fmt: skip
    _add_choice(parser)
    add_method(parser)

    parser = add_command(
        commands, "power", "How many seeds are needed to see a difference, by the spread of existing runs.", _power,
        epilog=_POWER_EPILOG,
    )  # fmt: skip
    parser.add_argument("folders", nargs="+", type=Path, metavar="RESULTS", help="run folders, or folders of them")
    parser.add_argument(
        "--difference", type=_positive, default=0.1, metavar="SCORE", help="true difference to be seen (default 0.1)"
    )
    parser.add_argument("--power", type=_share, default=0.8, help="chance to see it (default 0.8)")
    parser.add_argument("--alpha", type=_share, default=0.05, help="p-value that counts as seen (default 0.05)")
    parser.add_argument(
        "--comparisons", type=_count, metavar="N",
        help="how many are corrected together (default: as many as the runs make; 1: two algorithms alone)",
    )  # fmt: skip
    _add_choice(parser)


def _add_choice(parser: Parser) -> None:
    parser.add_argument("--env", metavar="ENV", help="only this task distribution (default all)")
    parser.add_argument(
        "--episodes", type=windows_argument, metavar="90-110",
        help="window over which scores are averaged, the last episode not included; several: 0-20,90-110 "
        "(default: the last of the usual windows that half of the algorithms have completed)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_method(parser: Parser) -> None:
    """``--method``: whose intervals."""
    parser.add_argument(
        "--method", choices=("runs", "rliable"), default="runs",
        help="runs: intervals over runs (default); rliable: by that library, too; verdicts stay the same",
    )  # fmt: skip


def windows_argument(text: str) -> list[tuple[int, int]]:
    """Windows of episodes, for argparse: ``0-20,90-110``."""
    windows = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", part.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise argparse.ArgumentTypeError(f"expected episodes such as 90-110, got {text!r}")
        windows.append((int(match[1]), int(match[2])))
    return windows


def _positive(text: str) -> float:
    return _number(text, 1e9, "a number above 0")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**6:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    return _number(text, 1.0, "a number between 0 and 1")


def _number(text: str, limit: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < limit:
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
    return number


def _compare(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.compare import print_comparison

    print_comparison(options.a, options.b, options.results, options.env, options.episodes, options.json, options.method)


def _power(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.power import PowerRequest, print_power

    request = PowerRequest(options.difference, options.power, options.alpha, options.comparisons)
    print_power(options.folders, request, options.env, options.episodes, options.json)
