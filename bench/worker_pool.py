"""Long-lived worker processes on this machine, as their parent sees them; ``worker_process.py`` is the other side."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from bench.errors import UserError
from bench.files import last_lines, storage_errors
from bench.forked_process import ForkedProcess, can_fork
from bench.process import wanted_environment
from bench.run import RunOptions
from bench.worker import NodeRequest
from bench.worker_process import serve

_SOURCE = Path(__file__).resolve().parent.parent
_DEVICES = "CUDA_VISIBLE_DEVICES"
_GPU_NAME = re.compile(r"\d{1,4}|GPU-[\w-]+|MIG-[\w/-]+")
_NVIDIA_SECONDS = 20.0


class Worker:
    """One worker process. Its standard error, with everything its stages print, goes to ``log``."""

    def __init__(self, options: RunOptions, log: Path, gpu: str | None) -> None:
        """Start it. Raises ``StorageError`` when the log cannot be written."""
        self.log = log
        self.node: str | None = None
        """The node it is at work on."""
        self._buffer = b""
        with storage_errors(f"write {log}"):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab")
        with file:
            if gpu is None and can_fork(wanted_environment(options.threads)):
                self.process: _Process = ForkedProcess(lambda: serve(options), file)
            else:
                self.process = _start_new(options, worker_environment(options.threads, gpu), file)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def fileno(self) -> int:
        """Becomes readable when the worker says something or dies."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def assign(self, request: NodeRequest) -> None:
        """Give it a node. When it has died meanwhile, ``messages`` will tell."""
        self.node = request.node
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request.to_json()).encode() + b"\n")
            self.process.stdin.flush()

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """What it has said since the last call; None at the end when it has closed its output, that is, died."""
        assert self.process.stdout is not None
        while chunk := self._read():
            self._buffer += chunk
        closed = chunk == b""
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            yield json.loads(line)
        if closed:
            yield None

    def _read(self) -> bytes | None:
        try:
            return os.read(self.fileno(), 1 << 16)
        except BlockingIOError:
            return None

    def ask_to_stop(self) -> None:
        """Let it save what it is doing and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def close(self, kill: bool = False) -> int:
        """End it: an idle one ends when its input does. Waits for it, and returns its exit code (-N after signal N)."""
        if kill and self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return self.process.wait()

    def last_words(self) -> str:
        """The last line it printed, or nothing."""
        return next(iter(last_lines(self.log, 1)), "")


class _Process(Protocol):
    """What a worker's process is asked for."""

    pid: int

    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


def _start_new(options: RunOptions, environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # Without -P, -m would look for the packages in the current folder first, where the user may have an envs/ as well.
    command = [
        sys.executable, "-P", "-m", "bench", "stage", "--serve", "--out", str(options.out), "--device", options.device,
        "--threads", str(options.threads), "--checkpoint-seconds", str(options.checkpoint_seconds),
    ]  # fmt: skip
    # A session of its own: Ctrl-C reaches the parent alone, which asks the workers to stop.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, env=environment
    )


def worker_environment(threads: int, gpu: str | None) -> dict[str, str]:
    """The environment of a worker: this process's, with its threads, its one GPU, and the same code as here."""
    path = os.pathsep.join(part for part in (str(_SOURCE), os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, **wanted_environment(threads), "PYTHONPATH": path}
    return environment if gpu is None else {**environment, _DEVICES: gpu}


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that may be used here, as ``CUDA_VISIBLE_DEVICES`` names them; empty where there are none.

    As CUDA reads that variable, what follows a name that can be no GPU's (``-1``, ``none``, ``NoDevFiles``) does not
    count. Raises ``UserError`` when ``nvidia-smi`` hangs, as it does on a machine whose driver is broken.
    """
    if _DEVICES in environment:
        names = (part.strip() for part in environment[_DEVICES].split(","))
        return tuple(itertools.takewhile(_GPU_NAME.fullmatch, names))
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, check=False, timeout=_NVIDIA_SECONDS, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{program} has not said for {_NVIDIA_SECONDS:.0f} s which GPUs there are: the driver hangs; use --device "
            f"cpu, or name them in {_DEVICES}"
        ) from error
    except OSError as error:
        raise UserError(f"{program} cannot be run ({error.strerror}); use --device cpu") from error
    return tuple(str(index) for index, line in enumerate(filter(_is_gpu, done.stdout.splitlines())))


def _is_gpu(line: str) -> bool:
    return line.startswith("GPU ")
