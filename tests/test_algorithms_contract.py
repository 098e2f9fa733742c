"""What every registered algorithm keeps to. The tests are parametrised over the registry: a new one is covered at once.

Runs are at ``smoke``, on the first of ``CHEAPEST_WORLDS`` that an algorithm fits. Artefacts are shared between the
tests, as they are between runs: skills are learned once, for all algorithms that stand on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch

import algorithms.registry
import envs.registry
from algorithms.registry import algorithm_names
from algorithms.stage import Algorithm, PlayRequest
from bench.config import Override
from bench.errors import UserError
from bench.fields import leaf_types
from bench.lookup import find_task_distribution, needs_data, why_impossible
from bench.plan import PlannedStage, RunPlan, RunRequest, plan_run
from bench.store import ArtefactStore
from envs.core import TaskDistribution, World
from envs.image_maze.data import recorded_in
from envs.image_maze.world import ImageMazeWorld
from envs.kitchen.world import KitchenWorld
from envs.maze.layout import reference_layout
from envs.registry import task_distribution_names
from tests.algorithm_helpers import differences
from tests.conftest import Bench
from tests.contract_helpers import (
    ALGORITHMS,
    assert_same_artefact,
    build,
    cheapest_world,
    found,
    make_plan,
    stage_context,
    tensors_of,
)

PHASES = {"meta_train_prior", "meta_train_posterior", "task_policy", "explore", "adapt"}


@pytest.fixture(autouse=True)
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no CUDA device, also where it has one; touching it fails."""

    def refuse() -> NoReturn:
        raise AssertionError("CUDA was touched in a run on the CPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)


@pytest.fixture(autouse=True)
def _flushed_denormals() -> Iterator[None]:
    """As in a run; hypothesis, in other tests, refuses floats under it."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@dataclasses.dataclass(frozen=True)
class Stores:
    """Of artefacts that nothing disturbed, and of those that were interrupted after every piece of work."""

    undisturbed: ArtefactStore
    interrupted: ArtefactStore


@pytest.fixture(scope="module")
def stores(undisturbed: ArtefactStore, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return Stores(undisturbed, ArtefactStore(tmp_path_factory.mktemp("interrupted")))


def rows_of(store: ArtefactStore, planned: PlannedStage) -> pd.DataFrame | None:
    path = store.folder(planned.artefact_name) / "episodes.parquet"
    return pd.read_parquet(path) if path.exists() else None


def assert_rows_make_sense(rows: pd.DataFrame, planned: PlannedStage, plan: RunPlan) -> None:
    """Every episode of every task is there once, in order, and within what the world allows."""
    distribution = plan.task_distribution
    low, high = distribution.score_range
    valid = range(len(distribution.train_tasks)) if planned.spec.tasks == "train" else plan.target_tasks
    assert set(rows["task"]) <= set(valid)
    assert set(rows["phase"]) <= PHASES
    assert (rows["status"] == "ok").all()
    assert rows["length"].between(1, distribution.episode_env_steps).all()
    assert rows["return"].between(low, high).all()
    assert (rows["success"] == (rows["return"] >= high)).all()
    for _, mine in rows.groupby("task"):
        assert mine["episode"].tolist() == list(range(len(mine)))
        assert mine["env_steps"].tolist() == mine["length"].cumsum().tolist()


def assert_run_is_sound(plan: RunPlan, store: ArtefactStore) -> None:
    """Rows make sense, every target task was learned, and all that is stored is finite."""
    for planned in plan.stages:
        rows = rows_of(store, planned)
        if rows is not None:
            assert_rows_make_sense(rows, planned, plan)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(store.folder(planned.artefact_name)))
    rows = rows_of(store, plan.stages[-1])
    assert rows is not None, "the last stage says nothing of the target tasks"
    assert set(rows["task"]) == set(plan.target_tasks)
    assert len(tensors_of(store.folder(plan.stages[-1].artefact_name))) > 0, "nothing that was learned is kept"


# -- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_smoke_run(name: str, stores: Stores) -> None:
    plan = make_plan(name)
    build(plan, stores.undisturbed)
    assert_run_is_sound(plan, stores.undisturbed)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_interrupted_after_every_piece_of_work_it_ends_bit_for_bit_the_same(name: str, stores: Stores) -> None:
    """Rows, metrics and weights of every stage. Two runs with one seed are equal, then, too."""
    plan = make_plan(name)
    build(plan, stores.undisturbed)
    own = [stage for stage in plan.stages if not stores.interrupted.is_finished(stage.artefact_name)]
    stops = build(plan, stores.interrupted, stop_at_once=True)
    assert stops >= len(own), "each stage consists of several pieces of work"
    for planned in plan.stages:
        folders = (store.folder(planned.artefact_name) for store in (stores.undisturbed, stores.interrupted))
        assert_same_artefact(*folders)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_another_seed_differs_in_every_stage_from_its_first_piece_of_work(name: str, stores: Stores) -> None:
    plan = make_plan(name)
    build(plan, stores.undisturbed)
    for planned in plan.stages:
        if planned.spec.name == "data":  # has a seed of its own
            continue
        states, first_actions = [], []
        for seed in (0, 1):
            torch.manual_seed(seed)  # as the harness does
            context = stage_context(plan, planned, stores.undisturbed, seed)
            distribution, actions = recording(context.task_distribution)
            stage = planned.spec.factory(planned.config, dataclasses.replace(context, task_distribution=distribution))
            stage.advance()
            states.append(stage.state_dict())
            first_actions.append(actions)
        # Where no episode earned anything, all that differs may be what was done.
        assert differences(*states) != [] or first_actions[0] != first_actions[1], planned.spec.name


def recording(distribution: TaskDistribution) -> tuple[TaskDistribution, list[Any]]:
    """The same distribution, and the actions of the first env_step in each world that is made of it."""
    actions: list[Any] = []

    def make_world(num_lanes: int, threads: int = 1) -> World:
        world = distribution.make_world(num_lanes, threads=threads)
        step = world.step

        def first_step(chosen: Any) -> Any:
            actions.append(chosen.tolist())
            world.step = step  # type: ignore[method-assign]
            return step(chosen)

        world.step = first_step  # type: ignore[method-assign]
        return world

    return dataclasses.replace(distribution, make_world=make_world), actions


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_was_learned_plays_episodes_that_the_seed_fixes(name: str, stores: Stores) -> None:
    plan = make_plan(name)
    build(plan, stores.undisturbed)
    last = plan.stages[-1]
    assert last.spec.play is not None
    context = stage_context(plan, last, stores.undisturbed, last.seed)
    artefact = stores.undisturbed.folder(last.artefact_name)

    def play(episodes: int, seed: int) -> list[list[float]]:
        request = PlayRequest(artefact, plan.target_tasks[-1], episodes, seed)
        played = last.spec.play(last.config, context, request)  # type: ignore[misc]
        assert all(episode.length <= plan.task_distribution.episode_env_steps for episode in played)
        return [episode.observations.flatten().tolist() for episode in played]

    first, second = play(2, 0)
    assert first != second
    assert play(1, 0) == [first]
    assert play(1, 1) != [first]


# -- the kitchen and the image maze ------------------------------------------------------------------------------

BRIEF_EPISODE = 40
"""Time limit, env_steps. Simulating 280 takes a third of a second."""


def brief_kitchen(name: str) -> TaskDistribution:
    """The kitchen with episodes cut short, and two of its training tasks."""
    kitchen = find_task_distribution("kitchen")
    return dataclasses.replace(
        kitchen,
        name=name,
        train_tasks=kitchen.train_tasks[:2],
        make_world=partial(KitchenWorld, episode_env_steps=BRIEF_EPISODE),
        episode_env_steps=BRIEF_EPISODE,
    )


def brief_image_maze(name: str) -> TaskDistribution:
    """The image maze with episodes cut short, and two of its training tasks."""
    image_maze = find_task_distribution("image-maze")
    return dataclasses.replace(
        image_maze,
        name=name,
        train_tasks=image_maze.train_tasks[:2],
        own_trajectories=partial(recorded_in, reference_layout(40), 4, seed=0),
        make_world=partial(ImageMazeWorld, reference_layout(40), episode_env_steps=BRIEF_EPISODE),
        episode_env_steps=BRIEF_EPISODE,
    )


def on(family: str, name: str) -> Algorithm:
    """Skips an algorithm without a preset for the family."""
    algorithm = found(name)
    if (family, "smoke") not in algorithm.presets:
        pytest.skip(f"{name} has no preset for the family {family}")
    return algorithm


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, the others do not see."""
    algorithm_names()  # these find entry points, once
    task_distribution_names()
    for registry in (algorithms.registry, envs.registry):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(scope="module")
def kitchen_store(tmp_path_factory: pytest.TempPathFactory) -> ArtefactStore:
    return ArtefactStore(tmp_path_factory.mktemp("kitchen"))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.usefixtures("registries")
def test_smoke_run_on_a_kitchen_of_brief_episodes(name: str, kitchen_store: ArtefactStore) -> None:
    envs.registry.register_task_distribution("kitchen-brief", brief_kitchen, "for this test")
    data = "human" if needs_data(on("kitchen", name)) else None  # ships with the package: nothing to simulate
    plan = plan_run(RunRequest(name, "kitchen-brief", "smoke", 0, (0, 1), data=data))
    build(plan, kitchen_store)
    assert_run_is_sound(plan, kitchen_store)


@pytest.fixture(scope="module")
def image_maze_store(tmp_path_factory: pytest.TempPathFactory) -> ArtefactStore:
    return ArtefactStore(tmp_path_factory.mktemp("image-maze"))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.usefixtures("registries")
def test_smoke_run_on_an_image_maze_of_brief_episodes(name: str, image_maze_store: ArtefactStore) -> None:
    on("image-maze", name)
    envs.registry.register_task_distribution("image-maze-brief", brief_image_maze, "for this test")
    few = (Override("data.num_trajectories", "8"), Override("data.chunk_trajectories", "8"))
    plan = plan_run(RunRequest(name, "image-maze-brief", "smoke", 0, (0, 1), overrides=few))
    build(plan, image_maze_store)
    assert_run_is_sound(plan, image_maze_store)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["kitchen", "image-maze"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_smoke_run_in_full(name: str, family: str, kitchen_store: ArtefactStore) -> None:
    on(family, name)
    plan = plan_run(RunRequest(name, family, "smoke", 0, (0, 1)))
    build(plan, kitchen_store)
    assert_run_is_sound(plan, kitchen_store)


# -- refusals ----------------------------------------------------------------------------------------------------


def absurd_values(annotation: Any) -> list[str]:
    """Text that no field of this type can mean."""
    if annotation is float:
        return ["-1e300", "1e300", "nan", "inf", "many"]
    if annotation is int:
        return ["-1", str(10**12), "0.5", "many"]
    if annotation is bool:
        return ["perhaps"]
    return ["nonsense"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_field_refuses_absurd_values_by_name(name: str) -> None:
    accepted = []
    for stage in found(name).stages:
        for field, annotation, _ in leaf_types(stage.config_class):
            for text in absurd_values(annotation):
                message = refusal(name, Override(f"{stage.name}.{field}", text))
                if field.rpartition(".")[2] not in message:
                    accepted.append(f"{stage.name}.{field} {text}: {message or 'accepted'}")
    assert accepted == []


def refusal(name: str, override: Override) -> str:
    """What a run with this field is refused with; empty where it is not."""
    try:
        make_plan(name, overrides=(override,))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_bad_configuration_is_one_line_and_leaves_nothing(name: str, bench: Bench, tmp_path: Path) -> None:
    algorithm = found(name)
    last = algorithm.stages[-1]
    command = ("run", "--algo", name, "--env", cheapest_world(algorithm), "--preset", "smoke", "--out", tmp_path / "o")
    for field, text in ((f"{last.name}.episodes", "0"), (f"{last.name}.episods", "3")):
        outcome = bench(*command, f"--{field}", text)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert field.rpartition(".")[2] in outcome.err
        assert outcome.out == ""
    assert not (tmp_path / "o").exists()


NOTHING: Mapping[str, Mapping[str, Any]] = {
    "offline data": {"data_source": None, "data_presets": {}},
    "meta-training tasks": {"train_tasks": ()},
    "family": {"family": "another"},
}
"""What an algorithm may need -> the fields of a task distribution that does not have it."""


def needs(algorithm: Algorithm) -> set[str]:
    """What its stages read, whatever it declares."""
    found = {"family"}
    if any("data" in stage.inputs for stage in algorithm.stages):
        found.add("offline data")
    if any(stage.tasks == "train" for stage in algorithm.stages):
        found.add("meta-training tasks")
    return found


@pytest.mark.parametrize("lacks", NOTHING)
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.usefixtures("registries")
def test_a_world_without_what_it_needs_is_refused_before_anything_runs(
    name: str, lacks: str, bench: Bench, tmp_path: Path
) -> None:
    algorithm = found(name)
    world = find_task_distribution(cheapest_world(algorithm))
    env = f"poor-{name}-{list(NOTHING).index(lacks)}"  # of its own: distributions are cached by name
    without = dataclasses.replace(world, name=env, **NOTHING[lacks])
    assert (why_impossible(algorithm, without) is not None) == (lacks in needs(algorithm))
    envs.registry.register_task_distribution(env, lambda _: without, "for this test")
    if lacks in needs(algorithm):
        outcome = bench("run", "--algo", name, "--env", env, "--preset", "smoke", "--out", tmp_path / "o")
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert lacks in outcome.err
        assert env in outcome.err
        assert not (tmp_path / "o").exists()


# -- what is declared --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_preset_of_every_family_resolves(name: str) -> None:
    algorithm = found(name)
    families = {find_task_distribution(env).family: env for env in task_distribution_names()}
    assert {family for family, _ in algorithm.presets} <= set(families)
    for family, preset in algorithm.presets:
        plan_run(RunRequest(name, families[family], preset))
