"""Shared fixtures: one torch thread, the toy algorithm registered, and ``bench`` as a function and as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.store import ArtefactStore
from tests.slurm_helpers import MiniSlurm, install_toy, running_slurm
from tests.toy import register_toy

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)
register_toy()


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code and what it printed."""

    code: int
    out: str
    err: str


Bench = Callable[..., Outcome]


@pytest.fixture
def denormals() -> Iterator[None]:
    """For tests that run a stage in this process: it flushes denormals, and hypothesis refuses floats under that."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    """``bench(*arguments)`` in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_request:
            code = exit_request.code if isinstance(exit_request.code, int) else 1
        finally:
            torch.set_flush_denormal(False)  # A run sets it; hypothesis refuses to draw floats under it.
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ArtefactStore:
    """Artefacts of runs at ``smoke``, for all tests over the registry: what one has built another finds."""
    return ArtefactStore(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def start_bench() -> Callable[..., subprocess.Popen[str]]:
    """``start_bench(*arguments)``: ``bench`` with the toy registered, as a process of its own."""

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "toy.py"), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment},
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[MiniSlurm]:
    """A Slurm of four nodes without accounting, for all tests marked ``slurm``."""
    with running_slurm() as cluster:
        yield cluster


@pytest.fixture
def slurm(
    slurm_cluster: MiniSlurm, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MiniSlurm]:
    """The Slurm with an empty queue, its commands pointed at it, and the toy where its jobs find it."""
    slurm_cluster.use(monkeypatch, install_toy(tmp_path_factory.mktemp("plugin")))
    yield slurm_cluster
    slurm_cluster.cancel_all()
