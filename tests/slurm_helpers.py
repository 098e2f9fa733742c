"""A real Slurm for tests (``tests/slurm/minislurm.sh``), and the toy as a package that its jobs can find."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from bench.config import Override
from bench.plan import RunPlan, RunRequest, plan_run
from bench.store import ARTEFACTS_FOLDER, ArtefactStore

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = ROOT / "tests" / "slurm" / "minislurm.sh"
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_PORTS = 32
"""Ports one cluster uses: slurmctld, slurmdbd and its slurmds."""


@dataclass(frozen=True)
class MiniSlurm:
    """A Slurm of some nodes with two fake GPUs each, all on this machine."""

    base: Path
    nodes: int = 4
    accounting: bool = False
    max_array_size: int = 1001
    port: int = 0
    prolog: Path | None = None
    """A script that nodes run before each job; where it fails, the launch has failed."""

    def script(self, *arguments: str) -> None:
        """Call ``minislurm.sh``; what it says goes to a log, since daemons keep its output open."""
        environment = {**os.environ, "MINISLURM_PORT": str(self.port), "MINISLURM_MAXARRAY": str(self.max_array_size),
                       "MINISLURM_PROLOG": str(self.prolog or "")}  # fmt: skip
        log = self.base / "minislurm.log"
        with log.open("a") as file:
            done = subprocess.run(
                [SCRIPT, arguments[0], str(self.base), *arguments[1:]],
                env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=120, check=False,
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()

    def up(self) -> None:
        self.script("up", str(self.nodes), "dbd" if self.accounting else "none")

    def down(self) -> None:
        self.script("down")

    def use(self, monkeypatch: pytest.MonkeyPatch, plugin: Path) -> None:
        """Point Slurm's commands at this cluster, and let jobs import what is in ``plugin``."""
        monkeypatch.setenv("SLURM_CONF", str(self.base / "etc" / "slurm.conf"))
        monkeypatch.setenv("PYTHONPATH", str(plugin))

    def cancel_all(self) -> None:
        """Empty the queue."""
        environment = {**os.environ, "SLURM_CONF": str(self.base / "etc" / "slurm.conf")}
        subprocess.run(["scancel", "-u", getpass.getuser()], env=environment, timeout=60, check=True)
        queue = ["squeue", "-h"]
        wait_until(
            lambda: not subprocess.run(queue, env=environment, capture_output=True, timeout=60, check=True).stdout,
            60, "an empty queue",
        )  # fmt: skip

    def open_queue(self, is_open: bool) -> None:
        """Whether jobs start; submitting works in any case."""
        state = "up" if is_open else "down"
        subprocess.run(["scontrol", "update", "partitionname=main", f"state={state}"], timeout=60, check=True)

    def kill_controller(self) -> None:
        """As a crash would: no state is saved."""
        os.kill(int((self.base / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)

    def start_controller(self) -> None:
        self.script("start-controller")

    def kill_node(self, name: str) -> None:
        """Kill a node's slurmd and everything it started."""
        pid = int((self.base / "run" / f"slurmd-{name}.pid").read_text())
        step_daemons = [p for p in all_pids() if "slurmstepd" in command_of(p) and self._is_on(p, name)]
        for victim in [pid, *step_daemons, *(child for p in step_daemons for child in descendants(p))]:
            kill(victim)

    def start_node(self, name: str) -> None:
        self.script("start-node", name)

    def _is_on(self, pid: int, name: str) -> bool:
        """Whether the step daemon ``pid`` runs a job of this cluster's node ``name``."""
        marks = (f"SLURMD_NODENAME={name}", f"SLURM_CONF={self.base}/etc/slurm.conf")
        return any(all(mark in environment_of(child) for mark in marks) for child in descendants(pid))


def all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def environment_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on."""
    parents = {}
    for other in all_pids():
        try:
            parents[other] = int(re.sub(r"^.*\) ", "", Path(f"/proc/{other}/stat").read_text()).split()[1])
        except OSError:
            continue
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, of in parents.items() if of == parent]
        found += children
        todo += children
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def free_ports() -> int:
    """The first of some free ports in a row, away from those the system hands out."""
    for first in range(16800 + os.getpid() % 100 * _PORTS, 32000, _PORTS):
        try:
            for port in range(first, first + _PORTS):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports for a Slurm")


@contextmanager
def running_slurm(
    accounting: bool = False, max_array_size: int = 1001, prolog: Path | None = None
) -> Iterator[MiniSlurm]:
    """A Slurm of four nodes, in a folder of its own: where job ids start anew, an old folder would mislead."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name, path=PATH) is None]
    assert not missing, f"{', '.join(missing)} not installed; make test-slurm installs Slurm"
    base = Path(tempfile.mkdtemp(prefix="minislurm-"))
    cluster = MiniSlurm(base, accounting=accounting, max_array_size=max_array_size, port=free_ports(), prolog=prolog)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(base, ignore_errors=True)


def install_toy(folder: Path) -> Path:
    """Put the toy into ``folder`` like an installed package with entry points; for PYTHONPATH."""
    package, metadata = folder / "tests", folder / "toy_plugin-0.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(ROOT / "tests" / "toy.py", package)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[simpl_bench.algorithms]\ntoy = tests.toy:ALGORITHM\n"
        "[simpl_bench.task_distributions]\ntoy-line = tests.toy:make_toy_line\n"
    )
    return folder


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Look twice a second; fail when it takes longer than ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.5)


def write_profile(folder: Path, **values: object) -> str:
    """A profile of small jobs, with ``values`` in place of its own."""
    shown = {"memory_mb": 900, "minutes": 20, **values}
    path = folder / f"profile-{time.monotonic_ns()}.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in shown.items()))
    return str(path)


def toy_plan(seed: int = 0, **fields: object) -> RunPlan:
    """A run of the toy; ``fit__updates=3`` overrides ``fit.updates``."""
    overrides = tuple(Override(name.replace("__", "."), str(value)) for name, value in fields.items())
    return plan_run(RunRequest("toy", "toy-line", "smoke", seed, overrides=overrides))


def without_seconds(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
    return table.drop(columns=["seconds"])


def assert_same_artefacts(first: Path, second: Path, names: Iterable[str]) -> None:
    """These artefacts agree in every file: bit for bit, but for the column of wall times."""
    for name in names:
        manifests = [ArtefactStore(out / ARTEFACTS_FOLDER).verify(name) for out in (first, second)]
        assert manifests[0]["key"] == manifests[1]["key"]
        assert manifests[0]["metrics"] == manifests[1]["metrics"], name
        assert list(manifests[0]["files"]) == list(manifests[1]["files"]), name
        for file, checksum in manifests[0]["files"].items():
            if file.endswith((".parquet", ".jsonl")):
                paths = [out / ARTEFACTS_FOLDER / name / file for out in (first, second)]
                pd.testing.assert_frame_equal(*map(without_seconds, paths))
            else:
                assert checksum == manifests[1]["files"][file], f"{name}/{file}"


def write_toy_sweep(folder: Path, name: str = "toys", seeds: Sequence[int] = (0, 1), **fields: object) -> Path:
    """A sweep file of the toy at ``smoke``; ``fit__updates=3`` overrides ``fit.updates``."""
    overrides = ", ".join(f'"{field.replace("__", ".")}" = {json.dumps(value)}' for field, value in fields.items())
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\ntitle = "toys"\n[[presets.smoke]]\nalgorithms = ["toy"]\nenvs = ["toy-line"]\n'
        f"seeds = {list(seeds)}\noverrides = {{ {overrides} }}\n"
    )
    return path
