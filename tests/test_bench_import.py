"""Choosing the data of a run: ``--data`` with a variant, a file or a folder; ``bench data import``."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import h5py
import numpy as np
import pytest

from algorithms.stage import StageContext
from bench.config import Override
from bench.data_stage import ImportConfig, import_stage_spec
from bench.errors import UserError
from bench.plan import RunPlan, RunRequest, plan_data, plan_run
from envs.trajectories import Trajectories
from tests.conftest import Bench
from tests.toy import TOY_LINE

REQUEST = RunRequest("toy", "toy-line", "smoke")
RUN = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke")
HUMAN = Path(str(resources.files("envs.kitchen") / "data" / "human_complete.npz"))


def own_file(path: Path, value: float = 0.25, dims: int = 3, lengths: tuple[int, ...] = (20, 5)) -> Path:
    rows = sum(lengths)
    observations = np.full((rows, dims), value, np.float32)
    Trajectories(observations, np.zeros((rows, 1), np.float32), np.cumsum(lengths)).save_hdf5(path)
    return path


def hashes(plan: RunPlan) -> dict[str, str]:
    return {stage.spec.name: stage.hash for stage in plan.stages}


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_variant_is_the_field_it_stands_for() -> None:
    chosen = plan_run(replace(REQUEST, data="mirrored"))
    assert chosen.configs["data"].source == "mirrored"
    assert chosen.configs["data"].episodes == 6
    same = plan_run(replace(REQUEST, overrides=(Override("data.source", "mirrored"),)))
    assert (hashes(chosen), chosen.run_name) == (hashes(same), same.run_name)
    assert chosen.run_name != plan_run(REQUEST).run_name
    assert hashes(chosen)["data"] != hashes(plan_run(REQUEST))["data"]


def test_a_file_counts_by_its_contents_not_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = plan_run(replace(REQUEST, data=str(own_file(tmp_path / "one.hdf5"))))
    moved = plan_run(replace(REQUEST, data=str(own_file(tmp_path / "other" / "two.hdf5"))))
    changed = plan_run(replace(REQUEST, data=str(own_file(tmp_path / "one.hdf5", value=0.5))))
    assert first.configs["data"].checksum == Trajectories.load_hdf5(tmp_path / "other" / "two.hdf5").checksum()
    assert (hashes(first), first.run_name) == (hashes(moved), moved.run_name)
    assert all(hashes(first)[name] != hashes(changed)[name] for name in hashes(first))
    assert len({first.run_name, changed.run_name, plan_run(REQUEST).run_name}) == 3
    assert [stage.spec.name for stage in first.stages] == ["data", "fit", "adapt"]


def test_overrides_of_other_stages_go_with_a_file(tmp_path: Path) -> None:
    path = str(own_file(tmp_path / "one.hdf5"))
    plan = plan_run(replace(REQUEST, data=path, overrides=(Override("fit.updates", "3"),)))
    assert plan.configs["fit"].updates == 3
    assert plan.run_name != plan_run(replace(REQUEST, data=path)).run_name


def test_the_data_stage_is_planned_alone_as_a_run_plans_it(tmp_path: Path) -> None:
    for data in (None, "mirrored", str(own_file(tmp_path / "one.hdf5"))):
        assert plan_data("toy-line", "smoke", (), data)[0].hash == hashes(plan_run(replace(REQUEST, data=data)))["data"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "mirored",
            "--data: unknown data 'mirored' of toy-line: did you mean 'mirrored'? "
            "valid: plain, mirrored, an existing file or folder",
        ),
        (
            "/nowhere/77.7",
            "--data: unknown data '/nowhere/77.7' of toy-line: valid: plain, mirrored, an existing file or folder",
        ),
    ],
)
def test_unknown_data_is_refused_with_the_nearest_name(data: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_run(replace(REQUEST, data=data))
    assert str(caught.value) == message


def test_a_field_that_contradicts_the_choice_is_refused(tmp_path: Path) -> None:
    source = (Override("data.source", "plain"),)
    with pytest.raises(UserError, match=r"--data mirrored and --data\.source say the same thing: give one of them"):
        plan_run(replace(REQUEST, data="mirrored", overrides=source))
    path = own_file(tmp_path / "one.hdf5")
    for name in ("data.source", "data.seed", "data.checksum"):
        with pytest.raises(UserError) as caught:
            plan_run(replace(REQUEST, data=str(path), overrides=(Override(name, "1"),)))
        assert str(caught.value) == f"--{name}: --data {path} is read from disk and has no fields to set"


def test_data_for_an_algorithm_that_reads_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.toy import ADAPT, ALGORITHM

    online = replace(ALGORITHM, name="online", stages=(replace(ADAPT, inputs=()),), presets={("toy", "smoke"): {}})
    monkeypatch.setattr("bench.plan.find_algorithm", lambda name: online)
    assert plan_run(RunRequest("online", "toy-line", "smoke")).stages[0].spec.name == "adapt"
    with pytest.raises(UserError, match="--data: online learns from no offline data"):
        plan_run(RunRequest("online", "toy-line", "smoke", data="mirrored"))


@pytest.mark.parametrize(
    ("dims", "lengths", "message"),
    [(4, (20,), "observations have shape (20, 4); expected (transitions, 3)"), (3, (), "not a readable HDF5 file")],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_runs(
    tmp_path: Path, bench: Bench, dims: int, lengths: tuple[int, ...], message: str
) -> None:
    path = tmp_path / "own.hdf5"
    if lengths:
        own_file(path, dims=dims, lengths=lengths)
    else:
        path.write_text("text")
    refused = bench(*RUN, "--data", path, "--out", tmp_path / "runs")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert str(path) in refused.err
    assert message in refused.err
    assert not (tmp_path / "runs").exists()


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_learns_from_a_file_and_says_so(tmp_path: Path, bench: Bench) -> None:
    path, out = own_file(tmp_path / "own.hdf5"), tmp_path / "runs"
    assert bench(*RUN, "--data", path, "--out", out).code == 0
    (folder,) = out.glob("toy-*")
    record = json.loads((folder / "run.json").read_text())
    assert (record["data"], record["overrides"], record["status"]) == (str(path), {}, "done")
    checksum = Trajectories.load_hdf5(path).checksum()
    config = (folder / "config.yaml").read_text()
    assert f'data:\n  checksum: "{checksum}"\n' in config
    assert f"# Offline data: --data {path}\n" in config
    artefact = out / "artefacts" / record["stages"][0]["artefact"]
    assert Trajectories.load_hdf5(artefact / "trajectories.hdf5").checksum() == checksum
    metrics = json.loads((artefact / "manifest.json").read_text())["metrics"]
    assert (metrics["read_from"], metrics["remarks"], metrics["checksum"]) == (str(path), "format: a toy's", checksum)
    assert f"data: {path}\n" in bench("show", folder).out
    again = bench(*RUN, "--data", own_file(tmp_path / "copy.hdf5"), "--out", out)
    assert f"data: reused {record['stages'][0]['artefact']}" in again.out


def test_a_run_without_the_option_keeps_its_name_and_records_none(tmp_path: Path, bench: Bench) -> None:
    bench(*RUN, "--out", tmp_path)
    record = json.loads((tmp_path / "toy-toy-line-smoke-s0" / "run.json").read_text())
    assert record["data"] is None
    assert "Offline data" not in (tmp_path / "toy-toy-line-smoke-s0" / "config.yaml").read_text()
    assert "data: None" not in bench("show", tmp_path / "toy-toy-line-smoke-s0").out


def test_a_run_learns_from_a_variant(tmp_path: Path, bench: Bench) -> None:
    assert bench(*RUN, "--data", "mirrored", "--out", tmp_path).code == 0
    bench(*RUN, "--out", tmp_path)
    observations = {
        json.loads(path.with_name("manifest.json").read_text())["key"]["config"]["source"]: Trajectories.load_hdf5(
            path
        ).observations
        for path in (tmp_path / "artefacts").glob("data-*/trajectories.hdf5")
    }
    np.testing.assert_array_equal(observations["mirrored"], -observations["plain"])
    (folder,) = tmp_path.glob("toy-toy-line-smoke-s0-*")
    assert json.loads((folder / "run.json").read_text())["data"] == "mirrored"


def context() -> StageContext:
    return StageContext(task_distribution=TOY_LINE, target_tasks=(), seed=0, inputs={})


def test_a_file_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    path = own_file(tmp_path / "own.hdf5")
    planned, _ = plan_data("toy-line", "smoke", (), str(path))
    own_file(path, value=0.75)
    stage = planned.spec.factory(planned.config, context())
    with pytest.raises(UserError) as caught:
        stage.advance()
    assert str(caught.value) == (f"{path} has changed since the run was planned; run again to use what it holds now")
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: no such file"):
        stage.advance()


def test_the_import_stage_resumes_by_reading_again(tmp_path: Path) -> None:
    path = own_file(tmp_path / "own.hdf5")
    config = ImportConfig(Trajectories.load_hdf5(path).checksum())
    stages = [import_stage_spec(str(path)).factory(config, context()) for _ in range(2)]
    assert not stages[0].finished
    assert stages[0].advance().metrics == {"transitions": 25.0}
    assert stages[0].finished
    stages[1].load_state_dict(stages[0].state_dict())
    assert stages[1].finished
    assert stages[1].write_artefact(tmp_path)["episodes"] == 2
    stages[1].load_state_dict({"read": False})
    assert not stages[1].finished


def test_help_teaches_the_option_and_the_import(bench: Bench) -> None:
    text = " ".join(bench("run", "--help").out.split())
    assert "--data NAME|PATH" in text
    assert "offline data to learn from: a choice of the field data.source, or a file or folder of trajectories" in text
    fields = bench(*RUN, "--help").out
    assert "--data.source plain|mirrored  [default plain]" in fields
    assert (
        "--data.source plain|mirrored  [default plain, here mirrored]"
        in bench(*RUN, "--data", "mirrored", "--help").out
    )
    assert "FILE|DATASET" in bench("data", "import", "--help").out


# -- bench data -------------------------------------------------------------------------------------------------------


def test_chosen_data_is_built_described_and_verified(tmp_path: Path, bench: Bench) -> None:
    path = own_file(tmp_path / "own.hdf5")
    choice = ("toy-line", "--preset", "smoke", "--data", path, "--out", tmp_path / "runs")
    missing = bench("data", "info", *choice)
    assert missing.code == 2
    assert f"bench data build toy-line --preset smoke --data {path} --out {tmp_path / 'runs'} makes it" in missing.err
    built = bench("data", "build", *choice)
    assert built.code == 0
    checksum = Trajectories.load_hdf5(path).checksum()
    for line in (f"data.checksum: {checksum}", f"read from: {path}", "remarks: format: a toy's", "episodes: 2"):
        assert f"{line}\n" in built.out
    assert bench("data", "info", *choice).out in built.out
    assert "intact, 2 episodes, 25 transitions" in bench("data", "verify", *choice).out
    assert (
        "data.source: mirrored"
        in bench("data", "build", "toy-line", "--preset", "smoke", "--data", "mirrored", "--out", tmp_path / "runs").out
    )


def test_an_import_is_written_once_and_says_what_comes_next(tmp_path: Path, bench: Bench) -> None:
    path, output = own_file(tmp_path / "own.hdf5"), tmp_path / "new folder" / "imported.hdf5"
    imported = bench("data", "import", "toy-line", path, "-o", output)
    assert imported.code == 0
    checksum = Trajectories.load_hdf5(path).checksum()
    assert imported.out.splitlines() == [
        "format: a toy's",
        "episodes: 2",
        "transitions: 25",
        "shortest episode env steps: 5",
        "longest episode env steps: 20",
        f"checksum: {checksum}",
        f"file: {output}",
        f"next: bench run --algo ALGO --env toy-line --data '{output}'",
    ]
    assert Trajectories.load_hdf5(output).checksum() == checksum
    assert [file.name for file in output.parent.iterdir()] == ["imported.hdf5"]
    written = output.stat().st_mtime_ns
    assert bench("data", "import", "toy-line", path, "-o", output).out == imported.out
    assert output.stat().st_mtime_ns == written


def test_an_import_does_not_overwrite_other_contents(tmp_path: Path, bench: Bench) -> None:
    path = own_file(tmp_path / "own.hdf5")
    other, text = own_file(tmp_path / "other.hdf5", value=0.5), tmp_path / "notes.txt"
    text.write_text("mine")
    for output in (other, text):
        before = output.read_bytes()
        refused = bench("data", "import", "toy-line", path, "-o", output)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == (
            f"bench: {output} exists with other contents; remove it, or choose another file with -o FILE\n"
        )
        assert output.read_bytes() == before


def test_an_import_has_a_name_of_its_own_by_default(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_file(tmp_path / "my own:file.hdf5")
    assert "file: toy-line-my-own-file.hdf5\n" in bench("data", "import", "toy-line", "my own:file.hdf5").out
    assert (tmp_path / "toy-line-my-own-file.hdf5").is_file()


@pytest.mark.parametrize(
    ("name", "origin", "message"),
    [
        ("toy-lin", "own.hdf5", "unknown task distribution 'toy-lin'"),
        ("toy-line", "missing.hdf5", "missing.hdf5: no such file"),
        ("toy-line", "wide.hdf5", "wide.hdf5: observations have shape (20, 4); expected (transitions, 3)"),
    ],
)
def test_an_import_that_cannot_be_used_is_refused(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, origin: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own_file(tmp_path / "own.hdf5")
    own_file(tmp_path / "wide.hdf5", dims=4, lengths=(20,))
    refused = bench("data", "import", name, origin, "-o", "out.hdf5")
    assert (refused.code, refused.err.count("\n"), refused.out) == (2, 1, "")
    assert message in refused.err
    assert not (tmp_path / "out.hdf5").exists()


def test_an_import_that_cannot_be_written_is_one_line(tmp_path: Path, bench: Bench) -> None:
    path = own_file(tmp_path / "own.hdf5")
    (tmp_path / "file").touch()
    refused = bench("data", "import", "toy-line", path, "-o", tmp_path / "file" / "out.hdf5")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert f"cannot write {tmp_path / 'file' / 'out.hdf5'}: " in refused.err


# -- the kitchen ------------------------------------------------------------------------------------------------------


def test_the_kitchens_recorded_data_go_from_a_foreign_file_into_a_stage(tmp_path: Path, bench: Bench) -> None:
    raw = np.load(HUMAN)
    positions = raw["observations"][:, [*range(9), *range(18, 39)]]
    rows, ends = len(positions), raw["episode_ends"]
    with h5py.File(tmp_path / "kitchen_mixed.hdf5", "w") as file:
        file["observations"] = np.hstack([positions, np.zeros((rows, 30), np.float32)])
        file["actions"] = raw["actions"]
        file["rewards"] = np.zeros(rows, np.float32)
        file["terminals"] = np.isin(np.arange(rows), ends).astype(np.float32)  # one row late
    imported = bench("data", "import", "kitchen", tmp_path / "kitchen_mixed.hdf5", "-o", tmp_path / "mixed.hdf5")
    assert imported.code == 0, imported.err
    assert "format: flat HDF5, 60 values per observation\n" in imported.out
    assert "cut at 18 jumps inside an episode; nothing was merged\n" in imported.out
    built = bench("data", "build", "kitchen", "--preset", "smoke", "--data", tmp_path / "mixed.hdf5", "--out", tmp_path)
    assert built.code == 0, built.err
    assert f"transitions: {rows}\n" in built.out
    assert "episodes: 37\n" in built.out  # 19, and 18 single rows that the late marks cut off
    verified = bench("data", "verify", "kitchen", "--file", HUMAN, "--min-length", "11")
    assert "fits kitchen, 19 episodes, 4209 transitions" in verified.out


def test_the_kitchens_human_episodes_are_a_variant(tmp_path: Path, bench: Bench) -> None:
    choice = ("kitchen", "--preset", "smoke", "--data", "human", "--out", tmp_path)
    built = bench("data", "build", *choice)
    assert built.code == 0, built.err
    assert "data.source: human\n" in built.out
    assert "transitions: 4209\n" in built.out
    assert "intact, 19 episodes, 4209 transitions" in bench("data", "verify", *choice).out
