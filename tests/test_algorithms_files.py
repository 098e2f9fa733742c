"""Files of tensors: exact round trips, atomic writes, and a clear refusal of everything else."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from algorithms.files import DamagedFileError, load_tensors, save_tensors
from tests.algorithm_helpers import differences

STATE: dict[Any, Any] = {
    "tensor": torch.arange(12, dtype=torch.float32).view(3, 4),
    "nested": {"integers": torch.tensor([2**62]), "half": torch.ones(2, dtype=torch.bfloat16)},
    "list": [1, 2.5, "text", None, True, (torch.zeros(0, 3),)],
    3: "integer keys, as optimisers use",
}


def file_of(state: Any, folder: Path) -> Path:
    path = folder / "state.pt"
    torch.save(state, path)
    return path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    save_tensors(tmp_path / "state.pt", STATE)
    assert differences(load_tensors(tmp_path / "state.pt"), STATE) == []


def test_an_optimisers_state_survives(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_tensors(tmp_path / "state.pt", {"optimizer": optimizer.state_dict()})
    assert differences(load_tensors(tmp_path / "state.pt"), {"optimizer": optimizer.state_dict()}) == []


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    """Artefacts carry checksums."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        save_tensors(tmp_path / name / "state.pt", STATE)
    assert (tmp_path / "first" / "state.pt").read_bytes() == (tmp_path / "second" / "state.pt").read_bytes()


def test_saving_replaces_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"old")
    save_tensors(path, STATE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]
    assert differences(load_tensors(path), STATE) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_tensors(path, STATE)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_tensors(path, {"bad": lambda: 0})
    assert differences(load_tensors(path), STATE) == []


def saved_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


def zip_with(**contents: bytes) -> bytes:
    """A zip archive of these files, in the folder that torch uses."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


CALL_WITHOUT_ARGUMENTS = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."
"""A pickle that calls an allowed function wrongly, as a changed byte may make it."""


FOREIGN = {
    "empty": b"",
    "one byte": b"\x80",
    "text": b"hello world\n",
    "json": b'{"a": 1}',
    "zeros": bytes(1000),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(300),
    "pickle": pickle.dumps({"a": 1}),
    "pickled list": pickle.dumps([1, 2]),
    "start of a zip": b"PK\x03\x04abc",
    "another zip": zip_with(hello=b"hi"),
    "zip with another pickle": zip_with(**{"data.pkl": b"hi", "version": b"3\n"}),
    "zip with a bad call": zip_with(**{"data.pkl": CALL_WITHOUT_ARGUMENTS, "version": b"3\n"}),
}

quiet_about_foreign_pickles = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
"""torch warns of the pickle before it refuses it."""


@quiet_about_foreign_pickles
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_files_are_refused_in_one_line_with_their_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as refusal:
        load_tensors(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@quiet_about_foreign_pickles
def test_a_file_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = saved_bytes(), tmp_path / "state.pt"
    for kept_bytes in sorted({*range(0, len(whole), 41), 1, len(whole) - 1}):
        path.write_bytes(whole[:kept_bytes])
        with pytest.raises(DamagedFileError):
            load_tensors(path)


@quiet_about_foreign_pickles
@given(st.lists(st.tuples(st.integers(0, len(saved_bytes()) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_changed_bytes_is_loaded_or_refused_and_raises_nothing_else(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    """The bytes of a tensor carry no check of their own (manifests do), but what reads badly must be refused."""
    content, path = bytearray(saved_bytes()), tmp_path / "state.pt"
    for position, value in changes:
        content[position] = value
    path.write_bytes(bytes(content))
    with contextlib.suppress(DamagedFileError):
        assert isinstance(load_tensors(path), dict)


@pytest.mark.parametrize("state", [[torch.ones(2)], torch.ones(2), "text", 3])
def test_what_is_not_a_mapping_is_refused(state: Any, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=f"holds a {type(state).__name__}, not a mapping"):
        load_tensors(file_of(state, tmp_path))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pt", tmp_path):
        with pytest.raises(DamagedFileError, match=str(path)):
            load_tensors(path)


class TouchesAFile:
    """Pickles to code that creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@quiet_about_foreign_pickles
@pytest.mark.parametrize("as_plain_pickle", [False, True])
def test_files_that_carry_code_are_refused_and_the_code_is_not_run(as_plain_pickle: bool, tmp_path: Path) -> None:
    trace, path = tmp_path / "the code was run", tmp_path / "state.pt"
    state = {"a": TouchesAFile(trace)}
    if as_plain_pickle:
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path)
    with pytest.raises(DamagedFileError):
        load_tensors(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(state))
    assert trace.exists(), "the code would have worked"


def test_a_process_killed_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    """The new file has another name until it is whole and synced."""
    path = tmp_path / "state.pt"
    save_tensors(path, {"generation": 1})
    script = (
        "import os, sys, torch; from pathlib import Path; from algorithms.files import save_tensors\n"
        "def die(fd): os._exit(9)\n"
        "os.fsync = die\n"
        f"save_tensors(Path({str(path)!r}), {{'generation': 2, 'ballast': torch.zeros(1000)}})\n"
    )
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 9
    assert load_tensors(path) == {"generation": 1}
    save_tensors(path, {"generation": 3})  # what the dead process left is no obstacle
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]
