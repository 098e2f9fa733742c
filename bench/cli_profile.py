"""The command ``profile``."""

from __future__ import annotations

import argparse

from bench.cli_parser import Parser, add_command, add_device_options, seconds_argument
from bench.config import Override

_EPILOG = (
    "Networks are untrained and data made up, in the sizes of the preset; a field of the configuration can be changed "
    "as in bench run. Figures are medians; the load tells whether the machine had other work. An algorithm that has "
    "another implementation is timed side by side with it, on one target task."
)


def add_profile_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add ``profile`` to ``bench``."""
    parser = add_command(
        commands, "profile", "Time updates, roll-outs and statistics on this machine.", _profile,
        computes=True, takes_overrides=True, epilog=_EPILOG,
    )  # fmt: skip
    parser.add_argument("--algo", nargs="+", metavar="ALGO", help="algorithms (default all; bench list)")
    parser.add_argument(
        "--env", nargs="+", metavar="ENV", help="task distributions (default one of each family; bench list)"
    )
    parser.add_argument("--preset", default="quick", help="named budget, for the sizes (default quick)")
    parser.add_argument(
        "--seconds",
        type=seconds_argument,
        default=1.0,
        help="for each piece of work (default 1), and three blocks at least",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_options(parser)


def _profile(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.profiling import ProfileRequest, print_profile

    algos, envs = (None if names is None else tuple(names) for names in (options.algo, options.env))
    request = ProfileRequest(algos, envs, options.preset, options.seconds, overrides)
    print_profile(request, options.device, options.threads, options.json)
