"""The commands of sweeps: ``sweep``, ``status``, ``retry``, ``cancel``, and ``stage``, which executors start."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli_parser import Parser, add_command, add_machine_options, add_out, integer
from bench.config import Override
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.run import RunOptions

HIDDEN = frozenset({"stage"})
"""Commands for programs, not for people."""


def add_sweep_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the commands of sweeps to ``bench``."""
    _add_sweep(commands)
    _add_status(commands)
    _add_retry(commands)
    _add_cancel(commands)
    _add_stage(commands)


def _add_sweep(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "sweep", "Run a study: many runs whose equal stages are computed once; again resumes.", _sweep,
        epilog="Shipped sweeps: bench sweep --list. The format of your own: bench/sweep_file.py.",
    )  # fmt: skip
    parser.add_argument("sweep", nargs="?", metavar="NAME|FILE", help="a shipped sweep, or a TOML file of your own")
    parser.add_argument("--list", action="store_true", help="list the shipped sweeps")
    parser.add_argument("--preset", default="quick", help="named budget: smoke, quick, paper, released (default quick)")
    parser.add_argument("--dry-run", action="store_true", help="print the graph and what it takes; run nothing")
    _add_executor(parser, default="local")
    add_machine_options(parser)


def _add_status(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "status", "Show how far sweeps have come, from any shell.", _status)
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="name of a sweep below --out (default: a line each)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--watch", action="store_true", help="again and again, until nothing moves any more")
    shown.add_argument("--failed", action="store_true", help="the tracebacks of what failed")
    shown.add_argument("--json", action="store_true", help="print JSON")
    add_out(parser)


def _add_cancel(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "cancel", "Stop a sweep; what runs is saved, and retry goes on from there.", _cancel)
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep below --out (bench status)")
    add_out(parser)


def _add_retry(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "retry", "Run again what failed or is missing in a sweep, as it was planned.", _retry
    )
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep below --out (bench status)")
    _add_executor(parser, default=None)
    add_out(parser)


def _add_executor(parser: Parser, default: str | None) -> None:
    shown = f" (default {default})" if default else " (default: as before)"
    parser.add_argument("--executor", choices=("local", "slurm"), default=default, help=f"where it runs{shown}")
    parser.add_argument("--profile", metavar="NAME", help="cluster profile, with --executor slurm")
    parser.add_argument(
        "--max-parallel",
        type=integer(1),
        metavar="N",
        help="stages at a time (default: as many as the CPUs or GPUs fit)",
    )
    parser.add_argument("--only", metavar="GLOB", help="only runs with such a name, for example 'ALGO-*'")
    parser.add_argument("--wait", action="store_true", help="with --executor slurm: return when all of it has ended")


def _run_options(options: argparse.Namespace) -> RunOptions:
    from bench.run import RunOptions

    return RunOptions(options.out, options.device, options.threads, options.checkpoint_seconds)


def _sweep(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.sweep_file import load_sweep, shipped_sweeps

    if options.list:
        for name in shipped_sweeps():
            print(f"{name}: {load_sweep(name).title}")
        return
    if options.sweep is None:
        raise UserError("bench sweep needs a NAME or FILE (bench sweep --list shows the names)")
    from bench.sweep import SweepOptions, start_sweep

    sweep_options = SweepOptions(
        _run_options(options), options.executor, options.profile, options.max_parallel, options.only, options.wait
    )
    start_sweep(options.sweep, options.preset, sweep_options, options.dry_run)


def _add_stage(commands: argparse._SubParsersAction[Parser]) -> None:
    summary = "Compute one node of a sweep's graph; executors start this."
    parser = commands.add_parser("stage", description=summary, allow_abbrev=False)
    parser.set_defaults(parser=parser, command=_stage, computes=True, takes_overrides=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run-json", type=Path, metavar="FILE", help="the node, as JSON")
    what.add_argument("--serve", action="store_true", help="take nodes from standard input, one JSON line each")
    add_machine_options(parser)


def _retry(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.ledger import read_ledger
    from bench.run import RunOptions
    from bench.sweep import SweepOptions, retry_sweep

    ledger = read_ledger(options.out, options.sweep)
    before = ledger.settings
    sweep_options = SweepOptions(
        RunOptions(options.out, before["device"], before["threads"], before["checkpoint_seconds"]),
        options.executor or ledger.executor,
        options.profile or before["profile"],
        options.max_parallel or before["max_parallel"],
        options.only,
        options.wait,
    )
    retry_sweep(ledger, sweep_options)


def _status(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.status import print_status

    if options.sweep is None and (options.watch or options.failed):
        raise UserError("bench status needs a SWEEP for --watch and --failed")
    print_status(options.out, options.sweep, failed=options.failed, as_json=options.json, watch=options.watch)


def _cancel(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.ledger import read_ledger
    from bench.sweep import cancel_sweep

    cancel_sweep(read_ledger(options.out, options.sweep), options.out)


def _stage(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    run_options = _run_options(options)
    if options.serve:
        from bench.worker_process import serve

        sys.exit(serve(run_options))
    from bench.node_records import read_record, sweep_folder
    from bench.worker import read_node_request, run_node

    request = read_node_request(options.run_json)
    code = run_node(request, run_options)
    if code:
        record = read_record(sweep_folder(options.out, request.sweep), request.node)
        print(f"bench: {request.node}: {record.error if record else 'failed'}", file=sys.stderr)
    sys.exit(code)
