"""Parts of the command line that its commands share: the parser, options of many commands, and types of arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bench.config import Override
from bench.errors import UserError

Command = Callable[[argparse.Namespace, tuple[Override, ...]], None]

DEFAULT_OUT = Path("runs")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ``UserError``: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def add_command(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    summary: str,
    command: Command | None,
    *,
    computes: bool = False,
    takes_overrides: bool = False,
    add_help: bool = True,
    epilog: str | None = None,
) -> Parser:
    parser = commands.add_parser(
        name, help=summary, description=summary, allow_abbrev=False, add_help=add_help, epilog=epilog
    )
    parser.set_defaults(parser=parser, command=command, computes=computes, takes_overrides=takes_overrides)
    return parser


def add_machine_options(parser: Parser) -> None:
    add_out(parser)
    add_device_options(parser)
    parser.add_argument(
        "--checkpoint-seconds",
        type=seconds_argument,
        default=60.0,
        metavar="SECONDS",
        help="between checkpoints (default 60)",
    )


def add_device_options(parser: Parser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default auto)")
    parser.add_argument("--threads", type=integer(1), default=1, help="CPU threads of this process (default 1)")


def add_out(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER", help="(default runs)")


def integer(smallest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        largest = 2**63 - 1 if smallest == 0 else 10**6
        if not text.lstrip("-").isdigit() or not smallest <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"expected a whole number from {smallest} to {largest}, got {text!r}")
        return int(text)

    return parse


def seconds_argument(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}") from error
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to 1e9, got {text!r}")
    return seconds


def indices(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected indices such as 0,3, got {text!r}")
    return tuple(int(part) for part in parts)
