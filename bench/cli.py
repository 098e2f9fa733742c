"""The command line ``bench``. Nothing heavy is imported before a command needs it, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bench.cli_parser import Command, Parser, add_command, add_machine_options, add_out, indices, integer
from bench.cli_profile import add_profile_command
from bench.cli_report import add_report_commands
from bench.cli_statistics import add_statistics_commands
from bench.cli_sweep import HIDDEN, add_sweep_commands
from bench.cli_tune import add_tune_command
from bench.config import Override, split_overrides
from bench.errors import UserError, nearest_name, one_line
from bench.process import restart_with_environment, stop_printing

_RUN_EXAMPLE = "bench run --algo ALGO --env ENV --help lists every field of the configuration and its value."


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``bench`` and exit. ``argv`` defaults to the process's own arguments."""
    may_restart = argv is None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Names of files may be no text that can be printed.
    try:
        run_command(sys.argv[1:] if argv is None else argv, may_restart)
    except UserError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except ImportError as error:
        from envs.plugins import BrokenPluginError

        if not isinstance(error, BrokenPluginError):
            raise
        _complain(str(error))  # a name taken twice: met wherever names are first asked for
        sys.exit(UserError.exit_code)
    except BrokenPipeError:
        stop_printing()  # The reader (head, less) has gone: nothing is left to say, and to no one.
        sys.exit(1)
    except OSError as error:
        # What the commands themselves look for says more; this is for what no one has thought of.
        where = f": {error.filename}" if error.filename else ""
        _complain(f"{error.strerror or error}{where}")
        sys.exit(UserError.exit_code)
    except MemoryError:
        _complain("the memory of this machine does not suffice")
        sys.exit(UserError.exit_code)
    except KeyboardInterrupt:
        _complain("stopped at once; running again goes on from the last checkpoint")
        sys.exit(130)


def _complain(message: str) -> None:
    with suppress(OSError):  # The terminal may have gone.
        print(f"bench: {one_line(message)}", file=sys.stderr)


def run_command(argv: Sequence[str], may_restart: bool = False) -> None:
    """Parse ``argv`` and carry out its command. Raises ``UserError``."""
    for argument in argv:
        if not _is_text(argument):
            raise UserError(f"{argument.encode(errors='backslashreplace').decode()!r} is not UTF-8")
    arguments, overrides = split_overrides(argv)
    parser = _make_parser()
    _check_command_name(parser, arguments)
    options, extra = parser.parse_known_args(arguments)
    if extra:
        raise _unknown_argument(options.parser, extra[0])
    if overrides and not options.takes_overrides:
        raise UserError(f"{options.parser.prog} takes no configuration fields, got {overrides[0].name!r}")
    _check_out(getattr(options, "out", None))
    if may_restart and options.computes:
        restart_with_environment(options.threads)
    command: Command = options.command
    command(options, overrides)


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_out(out: Path | None) -> None:
    if out is None:
        return
    if out.is_symlink() and not out.exists():
        raise UserError(f"--out {out} is a link to {out.readlink()}, which is gone: make it, or remove the link")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder")


def _make_parser() -> Parser:
    parser = Parser(
        prog="bench", allow_abbrev=False, description="Benchmark of skill-based meta-reinforcement learning."
    )
    parser.add_argument("--version", action="version", version=f"simpl-bench {_version()}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_run(commands)
    _add_list(commands)
    _add_show(commands)
    _add_play(commands)
    _add_data(commands)
    _add_summary(commands)
    _add_plot(commands)
    _add_export(commands)
    add_statistics_commands(commands)
    add_report_commands(commands)
    add_sweep_commands(commands)
    add_tune_command(commands)
    add_profile_command(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "run", "Run an algorithm on a task distribution; running again resumes or reuses.", _run,
        computes=True, takes_overrides=True, add_help=False, epilog=_RUN_EXAMPLE,
    )  # fmt: skip
    parser.add_argument("-h", "--help", action="store_true", help="show this, and with --algo and --env all fields")
    parser.add_argument("--algo", metavar="ALGO", help="algorithm (bench list)")
    parser.add_argument("--env", metavar="ENV", help="task distribution (bench list)")
    parser.add_argument("--preset", default="quick", help="named budget: smoke, quick, paper, released (default quick)")
    parser.add_argument("--seed", type=integer(0), default=0, help="fixes every random number (default 0)")
    parser.add_argument(
        "--on", default="target", metavar="TASKS",
        help="what is adapted to: target (default; results are of these), or validation, the tasks to choose settings "
        "by, which never enter a result",
    )  # fmt: skip
    parser.add_argument("--tasks", type=indices, metavar="0,3", help="of these, by index (default all)")
    parser.add_argument("--until", metavar="STAGE", help="the last stage to carry out (default all; bench list)")
    _add_data_choice(parser)
    add_machine_options(parser)


def _add_data_choice(parser: Parser) -> None:
    parser.add_argument(
        "--data", metavar="NAME|PATH",
        help="offline data to learn from: a choice of the field data.source, or a file or folder of trajectories "
        "(bench data import --help); default: what the preset builds",
    )  # fmt: skip


def _add_list(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "list", "List algorithms, task distributions, presets and which pairs can be run.", _list
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_show(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "show", "Show what a run is, its stages and its result.", _show)
    parser.add_argument("run", metavar="RUN", help="run folder, or its name below --out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_out(parser)


def _add_play(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "play", "Act with what a run has learned: a picture or a video.", _play)
    parser.add_argument("run", metavar="RUN", help="run folder, or its name below --out")
    parser.add_argument("--task", type=integer(0), metavar="INDEX", help="of those it adapted to (default: its first)")
    parser.add_argument("--episodes", type=integer(1), default=1, help="(default 1)")
    parser.add_argument("--seed", type=integer(0), default=0, help="fixes the episodes (default 0)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(default play-task<INDEX> in the run folder)"
    )
    add_out(parser)


def _add_data(commands: argparse._SubParsersAction[Parser]) -> None:
    group = add_command(commands, "data", "Build, describe, verify or import offline data.", None)
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    build = add_command(
        actions, "build", "Build offline data, or reuse it.", _data_build, computes=True, takes_overrides=True
    )
    info = add_command(actions, "info", "Describe offline data.", _data_info, takes_overrides=True)
    verify = add_command(
        actions, "verify", "Check offline data: checksums, NaN, dimensions.", _data_verify, takes_overrides=True
    )
    for parser in (build, info, verify):
        parser.add_argument("name", metavar="NAME", help="task distribution (bench list)")
        parser.add_argument("--preset", default="quick", help="named budget (default quick)")
        _add_data_choice(parser)
    add_machine_options(build)
    add_out(info)
    add_out(verify)
    verify.add_argument("--file", type=Path, metavar="FILE", help="check this file instead of the built data")
    verify.add_argument(
        "--min-length", type=integer(1), default=1, metavar="ENV_STEPS",
        help="an episode at least this long must be there, for example skill length + 1 (default 1)",
    )  # fmt: skip

    _add_data_show(actions)
    _add_data_import(actions)


def _add_data_show(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        actions,
        "show",
        "Show an episode of built offline data: a picture or a video.",
        _data_show,
        takes_overrides=True,
    )
    parser.add_argument("name", metavar="NAME", help="task distribution (bench list)")
    parser.add_argument("--episode", type=integer(0), default=0, metavar="INDEX", help="(default 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--preset", default="quick", help="named budget (default quick)")
    _add_data_choice(parser)
    add_out(parser)


def _add_data_import(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        actions, "import", "Convert recorded trajectories to flat HDF5, with all checks; for --data.", _data_import
    )
    parser.add_argument("name", metavar="NAME", help="task distribution (bench list)")
    parser.add_argument(
        "origin", metavar="FILE|DATASET", help="file, folder or dataset name in a format that NAME's reader knows"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="(default NAME-FILE.hdf5, here)")
    parser.add_argument(
        "--skip-damaged",
        action="store_true",
        help="of a folder of logs, leave out those that are damaged, and say which",
    )


def _add_summary(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "summary", "Write the scores of many runs into one CSV file.", _summary)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders of them")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CSV", help="file to write")


def _add_plot(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "plot", "Draw the learning curves of many runs into one picture.", _plot)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders of them")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="file to write: .png, .svg or .pdf"
    )
    parser.add_argument(
        "--paper", type=Path, metavar="CSV", help="published curves, drawn dashed (default those of the paper)"
    )
    parser.add_argument("--env", metavar="ENV", help="only runs on this task distribution (default all, a panel each)")


def _add_export(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(
        commands, "export", "Copy a finished run without weights: rows, configuration, versions, picture.", _export
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or that of a tuning (bench tune)")
    parser.add_argument(
        "destination", type=Path, metavar="DEST", help="folder to copy it into, for example results/runs"
    )


def _run(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    if options.help:
        print(options.parser.format_help())
        if options.algo is None or options.env is None:
            return
    for name in ("algo", "env"):
        if getattr(options, name) is None:
            raise UserError(f"bench run needs --{name} NAME (bench list shows the names)")
    from bench.plan import RunRequest
    from bench.run import RunOptions, execute_run
    from bench.show import print_fields, print_result

    request = RunRequest(
        options.algo,
        options.env,
        options.preset,
        options.seed,
        options.tasks,
        overrides,
        options.data,
        options.until,
        options.on,
    )
    if options.help:
        print_fields(request)
        return
    run_options = RunOptions(options.out, options.device, options.threads, options.checkpoint_seconds)
    print_result(execute_run(request, run_options))


def _list(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.listing import print_listing

    print_listing(as_json=options.json)


def _show(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.show import print_run

    print_run(options.run, options.out, as_json=options.json)


def _play(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.play import play_run

    play_run(options.run, options.out, options.task, options.episodes, options.seed, options.output)


def _data_build(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.data import build_data
    from bench.run import RunOptions

    run_options = RunOptions(options.out, options.device, options.threads, options.checkpoint_seconds)
    build_data(options.name, options.preset, overrides, run_options, options.data)


def _data_info(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.data import print_data_info

    print_data_info(options.name, options.preset, overrides, options.out, options.data)


def _data_show(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.data import show_data_episode

    show_data_episode(
        options.name, options.preset, overrides, options.out, options.data, options.episode, options.output
    )


def _data_verify(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.data import verify_data, verify_file

    if options.file is not None:
        verify_file(options.name, options.file, options.min_length)
    else:
        verify_data(options.name, options.preset, overrides, options.out, options.min_length, options.data)


def _data_import(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.data import import_data

    import_data(options.name, options.origin, options.output, options.skip_damaged)


def _summary(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.loading import print_excluded
    from bench.summary import write_summary

    lines, left_out = write_summary(options.folders, options.output)
    print_excluded(left_out)
    print(f"{lines} lines in {options.output}")


def _plot(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.plot import draw_comparison

    runs = draw_comparison(options.folders, options.output, options.paper, options.env)
    print(f"{len(runs)} runs in {options.output}")


def _export(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    from bench.export import export_run
    from bench.tune_results import export_tuning, is_tuning

    export = export_tuning if is_tuning(options.run) else export_run
    print(f"exported to {export(options.run, options.destination)}")


def _check_command_name(parser: Parser, arguments: Sequence[str]) -> None:
    """Refuse an unknown command, or action of ``data``, with the nearest name."""
    for argument in arguments:
        if argument.startswith("-"):
            return
        subcommands = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if subcommands is None:
            return
        if argument not in subcommands.choices:
            valid = [name for name in subcommands.choices if name not in HIDDEN]
            near = nearest_name(argument, valid)
            hint = f"did you mean {near!r}? " if near else ""
            raise UserError(f"unknown command {argument!r}: {hint}valid: {', '.join(valid)}")
        parser = subcommands.choices[argument]


def _unknown_argument(parser: Parser, argument: str) -> UserError:
    valid = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    near = nearest_name(argument.partition("=")[0], valid) if argument.startswith("-") else None
    hint = f"did you mean {near}? " if near else ""
    return UserError(f"unknown argument {argument!r}: {hint}see {parser.prog} --help")


def _version() -> str:
    try:
        return importlib.metadata.version("simpl-bench")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
