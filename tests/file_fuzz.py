"""Reads mutants of files: ``python -m tests.file_fuzz FOLDER MUTANTS KIND ...``. See ``test_fuzz_files.py``."""

from __future__ import annotations

import gzip
import json
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch

from algorithms.files import DamagedFileError, load_tensors, save_tensors
from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.checkpoint_info import CheckpointInfo
from bench.errors import UserError
from bench.files import canonical_json, sha256_of_text, write_sealed_json
from bench.graph import merge_plans
from bench.ledger import Ledger, read_ledger
from bench.locks import lock_holder, lock_process
from bench.node_records import read_record, record_path, start_record, sweep_folder
from bench.plan import RunRequest, plan_run
from bench.reporting.figures.artefacts import read_paths
from bench.results import read_run
from bench.rows import EPISODES_TABLE, read_log, read_table
from bench.run import RunOptions, execute_run
from bench.run_record import read_run_record
from bench.stage_logs import LogTail, read_packed_log, read_records
from bench.stage_state import stage_state
from bench.store import ArtefactStore
from bench.sweep_file import load_sweep
from bench.worker import NodeRequest, read_node_request
from envs.data_files import DataFileError, read_npz_arrays
from envs.kitchen.readers import read_trajectories
from envs.trajectories import Trajectories
from slurm.ledger import JobArray, new_submission, read_submissions
from slurm.profiles import load_profile
from tests.kitchen_files import episodes, log_of, write_flat, write_minari
from tests.toy import register_toy

SECONDS_PER_MUTANT = 20
EXTRA_BYTES = 1 << 30
NASTY_JSON: tuple[bytes, ...] = (
    b"null", b"true", b"-1", b"0.5", b"1e999", b"NaN", b"-Infinity", b'"x"', b'"\\ud800"', b'"\\u001b[31m"', b"[]",
    b"{}",
    b"9" * 5000, b"[" * 3000, b'"' + b"a" * 3000 + b'"', b'"../../etc/passwd"', b'"[/b]"', b"[null]", b'{"a": 1}',
)  # fmt: skip
EXPECTED = (UserError, DataFileError, DamagedFileError)


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    path: Path
    read: Callable[[], object]
    is_json: bool = False
    sealed: bool = False


def mutate(content: bytes, rng: random.Random, kind: Kind) -> bytes:
    """One way to damage a file; of JSON, often a value by another, sealed anew where it has a seal."""
    if kind.is_json and rng.random() < 0.7:
        return _mutate_json(content, rng, kind.sealed)
    data = bytearray(content)
    choice = rng.randrange(8)
    if choice == 0 or not data:
        return bytes(data[: rng.randrange(len(data) + 1)])
    if choice == 1:
        return rng.randbytes(rng.randrange(2000))
    if choice == 2:
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 200)]
    elif choice == 3:
        start = rng.randrange(len(data))
        data[start:start] = rng.choice((b"\x00" * 64, b"\xff" * 8, b"[" * 2000, b"\x1b[31m", rng.randbytes(16)))
    elif choice == 4:
        for _ in range(rng.randrange(1, 50)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif choice == 5:
        start = rng.randrange(len(data))
        data[start : start + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x00\x00\x00\x00\x00\x00\x00\x7f"))
    else:
        # The first bytes of a file hold what is said of the rest.
        data[rng.randrange(min(len(data), 4096))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _mutate_json(content: bytes, rng: random.Random, sealed: bool) -> bytes:
    lines = content.splitlines() or [b"{}"]
    index = rng.randrange(len(lines)) if content.count(b"}\n{") else None
    value = json.loads(lines[index] if index is not None else content)
    places: list[tuple[Any, Any]] = []
    _find_places(value, places)
    holder, key = rng.choice(places)
    action = rng.randrange(4)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder["surplus"] = holder.pop(key)
    else:
        holder[key] = "@@HERE@@"
    nasty = rng.choice(NASTY_JSON)
    text = json.dumps(value).encode().replace(b'"@@HERE@@"', nasty)
    if sealed:
        text = _sealed_again(text)
    if index is None:
        return text
    return b"\n".join([*lines[:index], text, *lines[index + 1 :]]) + b"\n"


def _sealed_again(text: bytes) -> bytes:
    """The same with the right seal, where it can have one: then only its shape can be refused."""
    try:
        value = json.loads(text)
        value.pop("seal", None)
        value["seal"] = sha256_of_text(canonical_json(value))
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return text


def _find_places(value: Any, places: list[tuple[Any, Any]]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if key != "seal":
            places.append((value, key))
            _find_places(inner, places)


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file with what reads it, each made by what makes it."""
    register_toy()
    out = folder / "out"
    request = RunRequest("toy", "toy-line", "smoke")
    run = execute_run(request, RunOptions(out))
    plan = plan_run(request)
    store = ArtefactStore(out / "artefacts")
    fit, adapt = plan.stages[1].artefact_name, plan.stages[2].artefact_name
    sweep = sweep_folder(out, "toys-smoke")
    graph = merge_plans([plan], out)
    settings = {"device": "cpu", "threads": 1, "checkpoint_seconds": 60.0, "profile": None, "max_parallel": None}
    Ledger("toys-smoke", "Toys", "smoke", "toys.toml", "local", (), graph, settings).write(out)
    start_record(sweep, fit, {"a": "b"})
    submission = new_submission(sweep, "toys-smoke", "default")
    submission.with_array(JobArray("a", "fit", ((fit,), (adapt,)), "7")).write()
    partial = folder / "partial"
    partial.mkdir()
    info = CheckpointInfo(
        stage_hash="abc", episodes_bytes=0, metrics_bytes=0, seconds=1.5, device="cpu", threads=1, torch_version="2",
        done=3, total=9, unit="updates", inputs={"data": "0" * 64},
    )  # fmt: skip
    save_checkpoint(partial, info, {"stage": {"weights": torch.arange(50.0)}, "generators": {}})
    (state,) = partial.glob("*.pt")
    rows = pd.read_parquet(run / EPISODES_TABLE)
    columns = ["phase", "task", "episode", "env_steps", "return", "success", "length", "seconds", "status"]
    (partial / "episodes.jsonl").write_text(rows[columns].head(20).to_json(orient="records", lines=True))
    write_sealed_json(partial / "failure.json", {"stage": "fit", "error": "x", "traceback": "y", "seconds": 1.0})
    stage = {"name": "fit", "artefact": "partial", "done": False, "seconds": None}
    metrics = store.folder(fit) / "metrics.jsonl"
    packed = folder / "metrics.jsonl.gz"
    packed.write_bytes(gzip.compress(metrics.read_bytes()))
    node = folder / "node.json"
    node.write_text(json.dumps(NodeRequest("s", fit, "h", request).to_json()))
    sweep_file = folder / "sweep.toml"
    sweep_file.write_text(
        'name = "mine"\ntitle = "[/b] title"\n[[presets.quick]]\nalgorithms = ["simpl"]\nenvs = ["maze"]\n'
        'seeds = [0, 1]\ntasks = [0]\noverrides = { "adapt.episodes" = 5 }\n'
    )
    profile = folder / "profile.toml"
    profile.write_text('partition = "a"\nminutes = 5\nsetup = ["true"]\n[stages.fit]\ngpus = 1\nmemory_mb = 100\n')
    flat = write_flat(folder / "flat.hdf5", episodes(20, 20))
    ours = folder / "trajectories.hdf5"
    read_trajectories(flat)[0].save_hdf5(ours)
    minari = write_minari(folder / "minari.hdf5", episodes(20, 20))
    npz = folder / "data.npz"
    observations, actions = episodes(20)[0]
    np.savez_compressed(npz, observations=observations, actions=actions, episode_ends=np.array([20]))
    log = log_of(folder / "log.mjl", observations[:6], actions[:6])
    paths = folder / "paths.npz"
    np.savez(paths, task=np.array([0, 1]), episode=np.array([0, 0]), ends=np.array([5, 9]),
             states=np.zeros((9, 2), np.float32))  # fmt: skip
    latents = store.folder(fit) / "latents.npz"
    tensors = folder / "tensors.pt"
    save_tensors(tensors, {"weights": torch.arange(50.0), "name": "x"})
    lock = folder / "a.lock"
    lock.write_text(json.dumps({"pid": 1, "host": "x"}))
    return {
        "run.json": Kind(run / "run.json", lambda: (read_run_record(run), read_run(run)), True, True),
        "manifest.json": Kind(store.folder(fit) / "manifest.json", lambda: store.verify_input(fit), True, True),
        "checkpoint.json": Kind(partial / "checkpoint.json", lambda: load_checkpoint(partial, "abc"), True, True),
        "state.pt": Kind(state, lambda: load_checkpoint(partial, "abc")),
        "failure.json": Kind(
            partial / "failure.json",
            lambda: stage_state(stage, _StoreOf(partial)),
            True,
            True,  # type: ignore[arg-type]
        ),
        "episodes.jsonl": Kind(partial / "episodes.jsonl", lambda: read_log(partial), True),
        "metrics.jsonl": Kind(metrics, lambda: (LogTail(metrics).read(), read_records(metrics)), True),
        "metrics.jsonl.gz": Kind(packed, lambda: read_packed_log(packed)),
        "episodes.parquet": Kind(run / EPISODES_TABLE, lambda: read_table(run / EPISODES_TABLE)),
        "sweep.json": Kind(sweep / "sweep.json", lambda: read_ledger(out, "toys-smoke"), True, True),
        "node record": Kind(record_path(sweep, fit), lambda: read_record(sweep, fit), True, True),
        "submission.json": Kind(submission.folder / "submission.json", lambda: read_submissions(sweep), True, True),
        "node request": Kind(node, lambda: read_node_request(node), True),
        "sweep file": Kind(sweep_file, lambda: load_sweep(str(sweep_file)).requests("quick")),
        "profile": Kind(profile, lambda: load_profile(str(profile))),
        "flat.hdf5": Kind(flat, lambda: read_trajectories(flat)),
        "trajectories.hdf5": Kind(ours, lambda: Trajectories.load_hdf5(ours).validate(30, 9, 1)),
        "minari.hdf5": Kind(minari, lambda: read_trajectories(minari)),
        "data.npz": Kind(npz, lambda: read_trajectories(npz)),
        "log.mjl": Kind(log, lambda: read_trajectories(log)),
        "paths.npz": Kind(paths, lambda: read_paths(paths)),
        "latents.npz": Kind(latents, lambda: read_npz_arrays(latents, ("latents", "value", "what", "value_name"))),
        "tensors.pt": Kind(tensors, lambda: load_tensors(tensors)),
        "lock": Kind(lock, lambda: (lock_holder(lock), lock_process(lock)), True),
    }


class _StoreOf:
    """A store whose only partial folder is this one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def partial_folder(self, name: str) -> Path:
        return self._folder


def main(folder: Path, mutants: int, names: list[str]) -> int:
    kinds = make_kinds(folder)
    for kind in kinds.values():
        kind.read()  # What is whole is read; and whatever is imported on use is here before memory is limited.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, used + EXTRA_BYTES))
    signal.signal(signal.SIGALRM, _hang)
    summary, failures = {}, 0
    for name in names:
        kind = kinds[name]
        whole, rng, refused = kind.path.read_bytes(), random.Random(f"20 {name}"), 0
        for number in range(mutants):
            kind.path.write_bytes(mutate(whole, rng, kind))
            signal.alarm(SECONDS_PER_MUTANT)
            try:
                kind.read()
            except EXPECTED as error:
                refused += 1
                if not str(error).strip() or len(str(error)) > 20_000:
                    failures += 1
                    print(f"{name}, mutant {number}: {len(str(error))} characters of message")
            except BaseException:
                failures += 1
                print(f"{name}, mutant {number}:\n{traceback.format_exc()[-1500:]}")
            finally:
                signal.alarm(0)
        kind.path.write_bytes(whole)
        summary[name] = (refused, mutants - refused)
    print(json.dumps(summary))
    return 1 if failures else 0


def _hang(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not read after {SECONDS_PER_MUTANT} s")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
