"""Checkpoints: round trip, atomic replacement, and refusal of anything damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import checkpoint as module
from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.checkpoint_info import POINTER, CheckpointInfo, read_checkpoint_info
from bench.errors import StorageError

STATE = {"weights": torch.arange(1000.0), "counters": {"updates": 3, "names": ["a", "b"]}}
INFO = CheckpointInfo(
    stage_hash="abc", episodes_bytes=10, metrics_bytes=20, seconds=1.5, device="cpu", threads=1, torch_version="2",
    done=3, total=9, unit="updates",
)  # fmt: skip


def state_path(folder: Path) -> Path:
    info = read_checkpoint_info(folder)
    assert info is not None
    return folder / info.state_file


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, "abc") is None
    save_checkpoint(tmp_path, INFO, STATE)
    loaded = load_checkpoint(tmp_path, "abc")
    assert loaded is not None
    info, state = loaded
    assert (info.episodes_bytes, info.metrics_bytes, info.seconds, info.done) == (10, 20, 1.5, 3)
    assert torch.equal(state["weights"], STATE["weights"])  # type: ignore[arg-type]
    assert state["counters"] == STATE["counters"]


def test_only_the_newest_state_is_kept(tmp_path: Path) -> None:
    for done in range(5):
        save_checkpoint(tmp_path, INFO, {"done": done})
        loaded = load_checkpoint(tmp_path, "abc")
        assert loaded is not None
        assert loaded[1] == {"done": done}
        assert len(list(tmp_path.glob("*.pt"))) == 1


@pytest.mark.parametrize("crash_in", ["save_state", "write_sealed_json"])
def test_a_crash_while_saving_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_in: str
) -> None:
    save_checkpoint(tmp_path, INFO, {"done": 1})

    def crash(path: Path, *arguments: object) -> str:
        path.write_bytes(b"half a fi") if path.suffix == ".pt" else None
        raise KeyboardInterrupt

    monkeypatch.setattr(module, crash_in, crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, INFO, {"done": 2})
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path, "abc")
    assert loaded is not None
    assert loaded[1] == {"done": 1}
    save_checkpoint(tmp_path, INFO, {"done": 3})
    loaded = load_checkpoint(tmp_path, "abc")
    assert loaded is not None
    assert loaded[1] == {"done": 3}


def test_a_truncated_or_altered_state_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, INFO, STATE)
    path = state_path(tmp_path)
    intact = path.read_bytes()
    for damaged in (intact[:-100], intact[:500] + b"\x00" + intact[501:], b"", intact + b"!"):
        assert damaged != intact
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=rf"{path.name} is truncated or was altered.*delete the folder"):
            load_checkpoint(tmp_path, "abc")
    path.unlink()
    with pytest.raises(StorageError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path, "abc")


def test_an_altered_pointer_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, INFO, STATE)
    pointer = tmp_path / POINTER
    content = json.loads(pointer.read_text())
    pointer.write_text(json.dumps({**content, "episodes_bytes": 11}))
    with pytest.raises(StorageError, match="damaged or was altered"):
        load_checkpoint(tmp_path, "abc")
    pointer.write_text('{"format": ')
    with pytest.raises(StorageError, match="cannot be read"):
        load_checkpoint(tmp_path, "abc")


def test_the_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, INFO, STATE)
    with pytest.raises(StorageError, match="belongs to another stage"):
        load_checkpoint(tmp_path, "xyz")


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    for value in (np.float64(1.0), np.zeros(2), {1, 2}):
        with pytest.raises(TypeError, match=r"state\['replay'\]\[0\] is a"):
            save_checkpoint(tmp_path, INFO, {"replay": [value]})


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_a_checkpoint_cannot_run_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_plain", lambda value, where: None)
    save_checkpoint(tmp_path, INFO, {"evil": _Evil()})
    with pytest.raises(StorageError, match="holds more than tensors"):
        load_checkpoint(tmp_path, "abc")
    assert "executed" not in capsys.readouterr().out
