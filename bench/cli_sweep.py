"""The commands of sweeps: ``sweep``, ``status``, ``retry``, ``cancel``, and ``stage``, which executors start."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.cli_parser import Parser, add_machine_options
from bench.config import Override

HIDDEN = frozenset({"stage"})
"""Commands for programs, not for people."""


def add_sweep_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the commands of sweeps to ``bench``."""
    _add_stage(commands)


def _add_stage(commands: argparse._SubParsersAction[Parser]) -> None:
    summary = "Compute one node of a sweep's graph; executors start this."
    parser = commands.add_parser("stage", description=summary, allow_abbrev=False)
    parser.set_defaults(parser=parser, command=_stage, computes=True, takes_overrides=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run-json", type=Path, metavar="FILE", help="the node, as JSON")
    what.add_argument("--serve", action="store_true", help="take nodes from standard input, one JSON line each")
    add_machine_options(parser)


def _stage(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.run import RunOptions

    run_options = RunOptions(options.out, options.device, options.threads, options.checkpoint_seconds)
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
