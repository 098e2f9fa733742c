"""``bench play`` and ``bench data show``, on small runs of the maze; what a renderer lacks, by one that lacks it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray

from bench import lookup
from bench.cli import main
from bench.play import find_learned
from bench.run_record import write_run_record
from envs.core import EpisodeRenderer, PictureError, Task
from envs.registry import task_distribution
from tests.conftest import ROOT, Bench

SPIRL, SIMPL = "spirl-maze-smoke-s0", "simpl-maze-smoke-s0"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each algorithm, both of target tasks 0 and 3."""
    folder = tmp_path_factory.mktemp("runs")
    for algo in ("spirl", "simpl"):
        command = ["run", "--algo", algo, "--env", "maze", "--preset", "smoke", "--tasks", "0,3", "--out", str(folder)]
        main(command)
        (run,) = folder.glob(f"{algo}-*")
        run.rename(folder / f"{algo}-maze-smoke-s0")
    return folder


class Recorder:
    """A renderer that notes what it is given, and lacks what a test says."""

    def __init__(self, **reasons: str) -> None:
        self.reasons = reasons
        self.shown: list[tuple[list[NDArray[Any]], list[Task], Path, str]] = []
        self.renderer = EpisodeRenderer((".mp4", ".png"), self.render, lambda ending: reasons.get(ending[1:]))

    def render(self, episodes: Sequence[NDArray[Any]], tasks: Sequence[Task], path: Path, title: str) -> None:
        if "late" in self.reasons:
            raise PictureError(self.reasons["late"])
        self.shown.append((list(episodes), list(tasks), path, title))


@pytest.fixture
def show_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``show_with(renderer or None)``: the maze shows episodes so."""

    def replace(renderer: EpisodeRenderer | None) -> None:
        maze = dataclasses.replace(task_distribution("maze"), episode_renderer=renderer)
        monkeypatch.setattr(lookup, "task_distribution", lambda name: maze)

    return replace


@pytest.mark.parametrize("run", [SPIRL, SIMPL])
def test_a_run_is_played_into_its_own_folder(run: str, out: Path, bench: Bench) -> None:
    outcome = bench("play", run, "--out", out, "--task", 3, "--episodes", 2)
    assert outcome.code == 0, outcome.err
    picture = out / run / "play-task3.png"
    first, second, last = outcome.out.splitlines()
    assert first.startswith("episode 0: return ") and second.startswith("episode 1: return ")
    assert last == f"file: {picture}"
    image = imageio.imread(picture)[..., :3]
    assert min(image.shape[:2]) > 500
    assert image.std() > 40
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50


def test_the_seed_fixes_the_episodes(out: Path, bench: Bench, show_with: Any) -> None:
    recorder = Recorder()
    show_with(recorder.renderer)
    printed = [
        bench("play", SPIRL, "--out", out, "--task", 3, "--seed", seed, "-o", out / "x.png").out for seed in (1, 1, 2)
    ]
    (first,), (again,), (other,) = (episodes for episodes, *_ in recorder.shown)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert printed[0] == printed[1]
    assert f"{len(first) - 1} env_steps" in printed[0]
    _, tasks, path, title = recorder.shown[0]
    assert tasks == [task_distribution("maze").target_tasks[3]]
    assert path == out / "x.png"
    assert title.startswith("spirl on maze, target task 3: return ")


def test_a_run_is_found_by_its_folder_and_plays_its_first_task(out: Path, bench: Bench, show_with: Any) -> None:
    recorder = Recorder()
    show_with(recorder.renderer)
    outcome = bench("play", out / SPIRL, "--episodes", 2)
    ((episodes, tasks, path, _),) = recorder.shown
    assert (len(episodes), path) == (2, out / SPIRL / "play-task0.mp4")
    assert tasks == [task_distribution("maze").target_tasks[0]] * 2
    assert outcome.out.splitlines()[-1] == f"file: {path}"


def test_a_run_on_validation_tasks_plays_them(tmp_path: Path, bench: Bench, show_with: Any) -> None:
    arguments = ["--preset", "smoke", "--on", "validation", "--tasks", "2", "--out", tmp_path]
    assert bench("run", "--algo", "spirl", "--env", "maze", *arguments).code == 0
    (run,) = tmp_path.glob("spirl-maze-smoke-s0-on-validation-*")
    recorder = Recorder()
    show_with(recorder.renderer)
    played = bench("play", run)
    assert played.code == 0 and "note:" not in played.out
    ((_, tasks, path, title),) = recorder.shown
    assert tasks == [task_distribution("maze").validation_tasks[2]] and path.stem == "play-task2"
    assert title.startswith("spirl on maze, validation task 2: return ")
    assert "has not learned validation task 0; valid: 2" in bench("play", run, "--task", 0).err


# -- what cannot be written here ---------------------------------------------------------------


def test_another_kind_of_file_is_not_chosen_in_silence(out: Path, bench: Bench, show_with: Any) -> None:
    recorder = Recorder(mp4="an mp4 needs this and that")
    show_with(recorder.renderer)
    outcome = bench("play", SPIRL, "--out", out)
    assert outcome.out.splitlines()[0] == "note: an mp4 needs this and that; writing a .png file instead"
    assert recorder.shown[0][2] == out / SPIRL / "play-task0.png"


@pytest.mark.parametrize(
    ("reasons", "arguments", "message"),
    [
        ({"mp4": "no codec"}, ["-o", "x.mp4"], "bench: x.mp4: no codec\n"),
        ({"mp4": "no library", "png": "no library"}, [], "bench: no library\n"),
        ({"late": "no driver"}, ["-o", "x.png"], "bench: x.png: no driver\n"),
        ({}, ["-o", "x.avi"], "bench: x.avi: episodes of maze cannot be shown as '.avi'; valid: .mp4, .png\n"),
        ({}, ["-o", "x"], "bench: x: episodes of maze cannot be shown as ''; valid: .mp4, .png\n"),
    ],
)
def test_what_a_renderer_cannot_do_is_one_line(
    reasons: dict[str, str], arguments: list[str], message: str, out: Path, bench: Bench, show_with: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    show_with(Recorder(**reasons).renderer)
    outcome = bench("play", SPIRL, "--out", out, *arguments)
    assert (outcome.code, outcome.err) == (2, message)


def test_a_distribution_without_a_renderer_is_refused(out: Path, bench: Bench, show_with: Any) -> None:
    show_with(None)
    assert bench("play", SPIRL, "--out", out).err == "bench: maze has no way to show episodes\n"


# -- what cannot be played ---------------------------------------------------------------------


@pytest.fixture
def copied(out: Path, tmp_path: Path) -> Path:
    """A copy of the SPiRL run and of all artefacts, to be damaged."""
    shutil.copytree(out / SPIRL, tmp_path / SPIRL)
    shutil.copytree(out / "artefacts", tmp_path / "artefacts")
    return tmp_path / SPIRL


def change_record(run: Path, **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text()) | changes
    record.pop("seal", None)
    write_run_record(run, record)
    return record


def adapt_artefact(run: Path) -> Path:
    return find_learned(run).artefact


def test_an_unknown_run_or_task_is_refused(out: Path, bench: Bench) -> None:
    assert f"did you mean {SPIRL!r}" in bench("play", "spirl-maze-smoke-s1", "--out", out).err
    outcome = bench("play", SPIRL, "--out", out, "--task", 1)
    assert (outcome.code, outcome.err) == (2, f"bench: --task: {SPIRL} has not learned target task 1; valid: 0, 3\n")


def test_an_unfinished_run_is_refused(copied: Path, bench: Bench) -> None:
    record = json.loads((copied / "run.json").read_text())
    stages = [{**stage, "done": stage["name"] != "adapt"} for stage in record["stages"]]
    change_record(copied, stages=stages, status="interrupted")
    outcome = bench("play", copied)
    assert outcome.code == 2
    assert outcome.err == f"bench: {copied} has not finished its stage adapt (interrupted): bench run resumes it\n"


def test_a_shipped_run_has_no_weights(bench: Bench) -> None:
    run = next((ROOT / "results" / "runs").glob("simpl-maze-*"))
    outcome = bench("play", run)
    assert outcome.code == 2
    assert outcome.err.startswith(f"bench: {run} has no weights to play: ")
    assert outcome.err.endswith("is missing (exported runs have none)\n")


def test_damaged_weights_are_refused(copied: Path, bench: Bench) -> None:
    weights = adapt_artefact(copied) / "adapted.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    outcome = bench("play", copied)
    assert outcome.code == 2
    assert outcome.err.startswith(f"bench: {weights} is damaged (its checksum does not match)")


def test_damaged_inputs_are_refused(copied: Path, bench: Bench) -> None:
    weights = find_learned(copied).inputs["skills"] / "skill_model.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert bench("play", copied).err.startswith(f"bench: {weights} is damaged")


def test_weights_of_another_implementation_are_refused(
    out: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spirl = lookup.find_algorithm("spirl")
    stages = tuple(
        dataclasses.replace(stage, implementation="newer/9") if stage.name == "adapt" else stage
        for stage in spirl.stages
    )
    changed = dataclasses.replace(spirl, stages=stages)
    monkeypatch.setattr(lookup, "algorithm", lambda name: changed)
    assert "was made by skill_adaptation/3, this version has newer/9" in bench("play", SPIRL, "--out", out).err


def test_another_world_is_noted(out: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    maze = dataclasses.replace(task_distribution("maze"), world_fingerprint="another mujoco")
    monkeypatch.setattr(lookup, "task_distribution", lambda name: maze)
    outcome = bench("play", SPIRL, "--out", out)
    assert outcome.code == 0
    assert outcome.out.startswith("note: the tasks or their dynamics")


def test_an_algorithm_that_learns_nothing_to_play_is_refused(bench: Bench, tmp_path: Path) -> None:
    assert bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path).code == 0
    assert bench("play", "toy-toy-line-smoke-s0", "--out", tmp_path).err == (
        "bench: toy has no stage that can be played\n"
    )


# -- offline data ------------------------------------------------------------------------------


def test_an_episode_of_the_data_is_shown(out: Path, bench: Bench, show_with: Any) -> None:
    recorder = Recorder()
    show_with(recorder.renderer)
    arguments = ("data", "show", "maze", "--preset", "smoke", "--out", out, "-o", out / "demo.png")
    outcome = bench(*arguments, "--episode", 5)
    assert (outcome.code, outcome.out) == (0, f"file: {out / 'demo.png'}\n")
    ((episodes, tasks, _, title),) = recorder.shown
    source = task_distribution("maze").data_source
    assert source is not None
    assert np.array_equal(episodes[0][:, :2], source.build_chunk(smoke_data(), 0, 1).split()[5][0][:, :2])
    assert (tasks, title) == ([], "Episode 5 of the offline data of maze (smoke)")
    assert "valid: 0 to " in bench(*arguments, "--episode", 10**6).err


def smoke_data() -> Any:
    maze = task_distribution("maze")
    assert maze.data_source is not None
    return maze.data_source.config_class(**maze.data_presets["smoke"])


def test_data_that_is_not_built_says_what_builds_it(bench: Bench, tmp_path: Path) -> None:
    outcome = bench("data", "show", "maze", "--preset", "smoke", "--out", tmp_path, "-o", tmp_path / "demo.png")
    assert f"bench data build maze --preset smoke --out {tmp_path} makes it" in outcome.err


def test_an_episode_from_another_place_is_shown_in_that_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offline data with scenes; they survive the data stage and its checkpoints, too."""
    world = task_distribution("image-maze")
    source, renderer = world.data_source, world.episode_renderer
    assert source is not None and renderer is not None and renderer.render_in_scene is not None
    small = ("--preset", "smoke", "--data.num_trajectories", 4, "--data.chunk_trajectories", 2)
    assert bench("data", "build", "image-maze", *small, "--out", tmp_path).code == 0
    built = source.build_chunk(source.config_class(num_trajectories=4, chunk_trajectories=2), 1, 1)
    assert built.scenes is not None
    show = ("data", "show", "image-maze", *small, "--out", tmp_path, "-o", tmp_path / "demo.png", "--episode", 3)
    outcome = bench(*show)
    assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")

    shown: list[tuple[Any, ...]] = []
    recording = dataclasses.replace(renderer, render_in_scene=lambda *given: shown.append(given))
    unable = dataclasses.replace(renderer, render_in_scene=None)
    for other in (recording, unable):
        monkeypatch.setattr(
            lookup, "task_distribution", lambda name, other=other: dataclasses.replace(world, episode_renderer=other)
        )
        outcome = bench(*show)
    ((observations, scene, path, title),) = shown
    assert np.array_equal(observations, built.split()[1][0]) and np.array_equal(scene, built.scenes[1])
    assert (path, title) == (tmp_path / "demo.png", "Episode 3 of the offline data of image-maze (smoke)")
    assert outcome.err == "bench: image-maze has no way to show an episode in a place of its own\n"
