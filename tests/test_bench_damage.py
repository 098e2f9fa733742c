"""Damaged artefacts, row logs and checkpoints: no result is computed from them, and none that was counts as sound."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.checkpoint_info import CheckpointInfo
from bench.errors import StorageError
from bench.files import write_sealed_json
from bench.node_records import read_record, sweep_folder
from bench.plan import RunRequest, plan_run
from bench.run import RunOptions, execute_run
from bench.worker import NodeRequest, run_node
from tests.conftest import Bench
from tests.toy import FAIL_WHEN_EXISTS

RUN = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--checkpoint-seconds", "0")
RUN_FOLDER = "toy-toy-line-smoke-s0"


def artefact(out: Path, stage: str) -> Path:
    (folder,) = (path for path in (out / "artefacts").glob(f"{stage}-*") if not path.name.endswith(".partial"))
    return folder


def flip_byte(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_sweep_computes_nothing_from_a_damaged_artefact(tmp_path: Path, bench: Bench) -> None:
    assert bench(*RUN, "--until", "fit", "--out", tmp_path).code == 0
    flip_byte(artefact(tmp_path, "fit") / "weights.npy")
    adapt = plan_run(RunRequest("toy", "toy-line", "smoke")).stages[-1]
    node = NodeRequest("toys-smoke", adapt.artefact_name, adapt.hash, RunRequest("toy", "toy-line", "smoke"))
    assert run_node(node, RunOptions(tmp_path)) == 1
    assert not list((tmp_path / "artefacts").glob("adapt-*[0-9a-f]"))
    record = read_record(sweep_folder(tmp_path, "toys-smoke"), node.node)
    assert record is not None
    assert "weights.npy is damaged" in record.error and "delete the folder" in record.error


def test_what_was_computed_from_another_input_is_not_reused(tmp_path: Path, bench: Bench) -> None:
    """As after a version that did not check: adapt from damaged weights, and fit built again since."""
    out = tmp_path / "out"
    assert bench(*RUN, "--out", out).code == 0
    undisturbed = json.loads((artefact(out, "adapt") / "manifest.json").read_text())["input_checksums"]["fit"]
    files = json.loads((artefact(out, "fit") / "manifest.json").read_text())["files"]
    read = {name: checksum for name, checksum in files.items() if name in ("weights.npy", "ballast.npy", "latents.npz")}
    text = json.dumps(read, sort_keys=True, separators=(",", ":"))
    assert undisturbed == hashlib.sha256(text.encode()).hexdigest()
    assert bench(*RUN, "--out", out).code == 0  # The same inputs: reused.

    fit, other = artefact(out, "fit"), tmp_path / "other"
    shutil.copytree(out, other)
    shutil.rmtree(fit)
    assert bench(*RUN, "--out", out).code == 0  # Made again, with other wall times in its logs: still reused.
    shutil.rmtree(artefact(other, "fit"))
    _seal_other_weights(fit)
    refused = bench(*RUN, "--out", out)
    assert refused.code == 2
    assert f"adapt-{artefact(out, 'adapt').name[6:]} was computed from another {fit.name}" in refused.err
    assert "delete the folder" in refused.err
    played = bench("show", RUN_FOLDER, "--out", out)
    assert played.code == 0
    shutil.rmtree(artefact(out, "adapt"))
    assert bench(*RUN, "--out", out).code == 0


def _seal_other_weights(folder: Path) -> None:
    """An intact artefact of the same name with other weights: as one that was built elsewhere."""
    path = folder / "weights.npy"
    flip_byte(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["seal"]
    manifest["files"]["weights.npy"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_sealed_json(folder / "manifest.json", manifest)


@pytest.fixture
def half_adapted(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The partial folder of a fit stage that failed at 5 of 10 updates, its checkpoint there."""
    marker, out = tmp_path / "fail", tmp_path / "out"
    marker.touch()
    monkeypatch.setenv(FAIL_WHEN_EXISTS, str(marker))
    assert bench(*RUN, "--out", out).code == 1
    marker.unlink()
    (partial,) = (out / "artefacts").glob("fit-*.partial")
    return partial


def test_a_checkpoint_goes_with_the_inputs_it_was_computed_from(
    half_adapted: Path, tmp_path: Path, bench: Bench
) -> None:
    out = tmp_path / "out"
    data = artefact(out, "data")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "trajectories.hdf5").write_bytes((data / "trajectories.hdf5").read_bytes() + b"\0")
    del manifest["seal"]
    manifest["files"]["trajectories.hdf5"] = hashlib.sha256((data / "trajectories.hdf5").read_bytes()).hexdigest()
    write_sealed_json(data / "manifest.json", manifest)
    refused = bench(*RUN, "--out", out)
    assert refused.code == 2
    assert f"{half_adapted} was begun with another {data.name}" in refused.err


@pytest.mark.parametrize(("old", "new"), [(b'"loss"', b'"lozs"'), (b"0.", b"1."), (b"}", b"]")])
def test_a_row_log_that_was_altered_before_resuming_is_refused_at_once(
    half_adapted: Path, tmp_path: Path, bench: Bench, old: bytes, new: bytes
) -> None:
    log = half_adapted / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(old, new, 1))
    refused = bench(*RUN, "--out", tmp_path / "out")
    assert refused.code == 2
    assert f"{log} is damaged or was altered" in refused.err and "delete the folder" in refused.err
    assert len(log.read_bytes().splitlines()) == 5  # Nothing was computed meanwhile.


def test_rows_that_were_altered_before_resuming_are_refused(tmp_path: Path, bench: Bench) -> None:
    """As in the report of the fault: one digit of a return, in a stage with episodes."""
    out = tmp_path / "out"
    command = (*RUN, "--adapt.pause_seconds", "0.01", "--out", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.toy.AdaptStage.write_artefact", _fail)
        assert bench(*command).code == 1
    (partial,) = (out / "artefacts").glob("adapt-*.partial")
    log = partial / "episodes.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"length": 10', b'"length": 11')
    log.write_bytes(b"".join(lines))
    refused = bench(*command)
    assert refused.code == 2 and f"{log} is damaged or was altered" in refused.err


def _fail(*arguments: object) -> None:
    raise ArithmeticError("told to fail")


def test_a_row_log_that_is_altered_while_its_stage_runs_makes_no_artefact(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.toy import AdaptStage

    out, advance = tmp_path / "out", AdaptStage.advance

    def advance_and_damage(stage: AdaptStage) -> object:
        report = advance(stage)
        if stage.episodes == 20:
            (log,) = (out / "artefacts").glob("adapt-*.partial/episodes.jsonl")
            flip_byte(log, 5)
        return report

    monkeypatch.setattr(AdaptStage, "advance", advance_and_damage)
    failed = bench(*RUN, "--out", out)
    assert failed.code == 2
    assert "episodes.jsonl was altered while its stage ran" in failed.err
    assert not list((out / "artefacts").glob("adapt-*[0-9a-f]"))


STATE = {"weights": torch.arange(5.0)}
INFO = CheckpointInfo(
    stage_hash="abc", episodes_bytes=0, metrics_bytes=0, seconds=1.5, device="cpu", threads=1, torch_version="2",
    done=3, total=9, unit="updates",
)  # fmt: skip


def _folder_sync_fails(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("has_one_before", [False, True])
def test_an_error_after_the_pointer_is_renamed_leaves_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_one_before: bool
) -> None:
    if has_one_before:
        save_checkpoint(tmp_path, INFO, {"done": 1})
    with monkeypatch.context() as patch:
        _folder_sync_fails(patch, errno.EIO)
        with pytest.raises(StorageError, match="cannot save the checkpoint") as caught:
            save_checkpoint(tmp_path, INFO, {"done": 2})
    assert ("the one before it is intact" in str(caught.value)) is has_one_before
    loaded = load_checkpoint(tmp_path, "abc")
    assert loaded is not None and loaded[1] == {"done": 2}
    save_checkpoint(tmp_path, INFO, {"done": 3})
    loaded = load_checkpoint(tmp_path, "abc")
    assert loaded is not None and loaded[1] == {"done": 3}
    assert len(list(tmp_path.glob("*.pt"))) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_said_and_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench, number: int
) -> None:
    monkeypatch.setattr("bench.files._SAID", set())
    _folder_sync_fails(monkeypatch, number)
    outcome = bench(*RUN, "--out", tmp_path)
    assert outcome.code == 0
    assert outcome.err.count("cannot sync folders") == 1


def test_foreign_files_in_an_artefact_are_refused(tmp_path: Path, bench: Bench) -> None:
    assert bench(*RUN, "--out", tmp_path).code == 0
    fit = artefact(tmp_path, "fit")
    (fit / ".DS_Store").touch()  # Folders shared between systems collect these.
    assert bench(*RUN, "--out", tmp_path).code == 0
    for make in (
        lambda: (fit / "extra.pt").touch(),
        lambda: (fit / "extra.pt").symlink_to("/etc/passwd"),
        lambda: (fit / "sub").mkdir() or (fit / "sub" / "extra.pt").touch(),
    ):
        make()
        refused = bench(*RUN, "--out", tmp_path)
        assert refused.code == 2 and "extra.pt is foreign" in refused.err
        (fit / "extra.pt").unlink(missing_ok=True)
        shutil.rmtree(fit / "sub", ignore_errors=True)
    assert bench(*RUN, "--out", tmp_path).code == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with one finished run of the toy."""
    out = tmp_path_factory.mktemp("finished")
    execute_run(RunRequest("toy", "toy-line", "smoke"), RunOptions(out))
    torch.set_flush_denormal(False)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_rows_of_a_run_that_were_altered_are_refused(copied: Path, bench: Bench, tmp_path: Path) -> None:
    """A table that is whole, of another run: as after a mistake in copying."""
    run = copied / RUN_FOLDER
    table = pd.read_parquet(run / "episodes.parquet")
    table.assign(**{"return": 1.0}).to_parquet(run / "episodes.parquet")
    for command in (("show", run), ("export", run, tmp_path / "exported")):
        refused = bench(*command)
        assert refused.code == 2, command
        assert "episodes.parquet is damaged or was altered" in refused.err
    left_out = bench("summary", copied, "-o", tmp_path / "s.csv")
    assert left_out.out.startswith("0 lines") and "episodes.parquet is damaged or was altered" in left_out.err
    assert not (tmp_path / "exported" / RUN_FOLDER).exists()


def test_a_record_of_a_run_that_was_altered_is_refused(copied: Path, bench: Bench) -> None:
    path = copied / RUN_FOLDER / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    refused = bench("show", RUN_FOLDER, "--out", copied)
    assert refused.code == 2 and "run.json is damaged or was altered" in refused.err


@pytest.mark.parametrize("name", ["../X", "/tmp/X", "..", "a/b", "", "x\x1b[31m"])
def test_an_export_writes_nowhere_else(copied: Path, bench: Bench, tmp_path: Path, name: str) -> None:
    run = copied / RUN_FOLDER
    record = json.loads((run / "run.json").read_text())
    del record["seal"]
    (run / "run.json").write_text(json.dumps({**record, "run": name}))
    refused = bench("export", run, tmp_path / "exported" / "here")
    assert refused.code == 2 and "run: expected the name of a file or folder" in refused.err
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("name", ["curve.png", "config.yaml", "episodes.parquet"])
def test_an_export_follows_no_links(copied: Path, bench: Bench, tmp_path: Path, name: str) -> None:
    file, elsewhere = copied / RUN_FOLDER / name, tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    refused = bench("export", copied / RUN_FOLDER, tmp_path / "exported")
    assert refused.code == 2 and f"{file} is a link to {elsewhere}" in refused.err
    assert list((tmp_path / "exported").iterdir()) == []
