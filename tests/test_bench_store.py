"""The artefact store: complete or absent, verified before use, honest about damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.errors import StorageError
from bench.plan import PlannedStage, RunRequest, plan_run
from bench.store import MANIFEST, ArtefactStore, Machine


@pytest.fixture
def planned() -> PlannedStage:
    return plan_run(RunRequest("toy", "toy-line", "smoke")).stages[1]


def build(store: ArtefactStore, planned: PlannedStage) -> Path:
    folder = store.new_build_folder(planned.artefact_name)
    (folder / "weights.bin").write_bytes(b"weights")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"picture")
    store.commit(planned, {"loss": 0.5}, 12.3456, Machine("cpu", 1), {"data": "0" * 64})
    return store.folder(planned.artefact_name)


def test_a_committed_artefact_is_verified_with_its_manifest(tmp_path: Path, planned: PlannedStage) -> None:
    store = ArtefactStore(tmp_path)
    assert not store.is_finished(planned.artefact_name)
    folder = build(store, planned)
    manifest = store.verify(planned.artefact_name)
    assert folder.name == f"fit-{planned.hash[:12]}"
    assert not store.partial_folder(planned.artefact_name).exists()
    assert manifest["hash"] == planned.hash
    assert manifest["key"]["config"]["updates"] == 10
    assert manifest["metrics"] == {"loss": 0.5}
    assert manifest["seconds"] == 12.346
    assert set(manifest["files"]) == {"weights.bin", "pictures/a.png"}
    assert set(manifest["versions"]) == {
        "python", "torch", "numpy", "mujoco", "gymnasium", "simpl-bench", "git_commit",
    }  # fmt: skip


def test_every_kind_of_damage_is_named_with_its_remedy(tmp_path: Path, planned: PlannedStage) -> None:
    store = ArtefactStore(tmp_path)
    folder = build(store, planned)
    weights, manifest = folder / "weights.bin", folder / MANIFEST
    weights.write_bytes(b"weightz")
    with pytest.raises(StorageError, match=rf"{weights} is damaged .*delete the folder {folder}"):
        store.verify(planned.artefact_name)
    weights.unlink()
    with pytest.raises(StorageError, match=f"{weights} is missing"):
        store.verify(planned.artefact_name)
    weights.write_bytes(b"weights")
    store.verify(planned.artefact_name)
    intact = manifest.read_text()
    content = json.loads(intact)
    manifest.write_text(json.dumps({**content, "metrics": {"loss": 0.1}}))
    with pytest.raises(StorageError, match="damaged or was altered"):
        store.verify(planned.artefact_name)
    manifest.write_text(intact[: len(intact) // 2])
    with pytest.raises(StorageError, match="cannot be read"):
        store.verify(planned.artefact_name)
    manifest.write_text(intact)
    other = tmp_path / "fit-000000000000"
    folder.rename(other)
    with pytest.raises(StorageError, match="holds the artefact"):
        store.verify(other.name)


def test_what_a_killed_attempt_left_is_not_part_of_the_next(tmp_path: Path, planned: PlannedStage) -> None:
    store = ArtefactStore(tmp_path)
    (store.new_build_folder(planned.artefact_name) / "half.bin").write_bytes(b"ha")
    folder = build(store, planned)
    assert not (folder / "half.bin").exists()
