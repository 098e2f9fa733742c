"""The command ``tune``."""

from __future__ import annotations

import argparse

from bench.cli_parser import Parser, add_command, add_machine_options, indices, integer
from bench.config import Override
from bench.errors import UserError

DEFAULT_TRIALS = 16
"""The budget that every algorithm is given."""

_EPILOG = (
    "Each trial is a run on the validation tasks, never on target tasks; its score is the mean return of its training "
    "episodes, exploration included. What is searched each algorithm declares: two to five fields with ranges. A field "
    "that is given (--adapt.n_step 10) is the same in all trials. The first trial is the preset itself; one that is "
    "below the median of the others after 20 episodes is given up. Data, skills and meta-training are computed once. "
    "A call that was stopped or killed is finished by the same command; after that, the command adds trials. Folder: "
    "tuning/<run>/ below --out, with found.toml (what to change in the preset), trials.csv and Optuna's journal; bench "
    "export copies it."
)


def add_tune_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add ``tune`` to ``bench``."""
    parser = add_command(
        commands, "tune", "Search for an algorithm's settings on validation tasks, within a small budget.", _tune,
        takes_overrides=True, epilog=_EPILOG,
    )  # fmt: skip
    parser.add_argument("--algo", metavar="ALGO", help="algorithm (bench list)")
    parser.add_argument("--env", metavar="ENV", help="task distribution (bench list)")
    parser.add_argument("--preset", default="quick", help="named budget of each trial (default quick)")
    parser.add_argument(
        "--trials", type=integer(1), default=DEFAULT_TRIALS, metavar="N",
        help=f"how many to add (default {DEFAULT_TRIALS}: the same for every algorithm)",
    )  # fmt: skip
    parser.add_argument("--seed", type=integer(0), default=0, help="of the trials' runs and of the search (default 0)")
    parser.add_argument("--tasks", type=indices, metavar="0,3", help="validation tasks by index (default all)")
    parser.add_argument("--data", metavar="NAME|PATH", help="offline data, as for bench run")
    parser.add_argument(
        "--parallel", type=integer(1), default=1, metavar="N",
        help="trials side by side (default 1); they do not learn from each other, only from those before",
    )  # fmt: skip
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="where it runs (default local)")
    parser.add_argument("--profile", metavar="NAME", help="cluster profile, with --executor slurm")
    add_machine_options(parser)


def _tune(options: argparse.Namespace, overrides: tuple[Override, ...]) -> None:
    for name in ("algo", "env"):
        if getattr(options, name) is None:
            raise UserError(f"bench tune needs --{name} NAME (bench list shows the names)")
    from bench.plan import RunRequest
    from bench.run import RunOptions
    from bench.sweep import SweepOptions
    from bench.tune import TuneRequest, tune
    from envs.core import VALIDATION

    run = RunRequest(
        options.algo, options.env, options.preset, options.seed, options.tasks, overrides, options.data,
        task_set=VALIDATION,
    )  # fmt: skip
    run_options = RunOptions(options.out, options.device, options.threads, options.checkpoint_seconds)
    tune(
        TuneRequest(run, options.trials, options.parallel),
        SweepOptions(run_options, options.executor, options.profile, options.parallel),
    )
