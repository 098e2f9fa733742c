"""A small task distribution and algorithm that exercise the harness with a real torch computation.

``python tests/toy.py run --algo toy --env toy-line ...`` is ``bench`` with these registered.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from algorithms.latents import save_latents
from algorithms.registry import register_algorithm
from algorithms.stage import (
    ADDED_LATER,
    Algorithm,
    Between,
    EpisodeRow,
    Progress,
    Stage,
    StageContext,
    StageReport,
    StageSpec,
    TimedWork,
)
from envs.core import RecordedData, Task, TaskDistribution
from envs.randomness import keyed_rng
from envs.registry import register_task_distribution
from envs.trajectories import Trajectories

FAIL_WHEN_EXISTS = "TOY_FAIL_WHEN_EXISTS"
"""Environment variable: the fit stage raises halfway while the file of this name exists. When the file holds a number,
only a stage of so many updates does."""


@dataclass(frozen=True)
class ToyDataConfig:
    """Offline data of random lines."""

    seed: int = 0
    """Fixes the data."""
    episodes: int = 12
    """Episodes, three per chunk."""
    source: Literal["plain", "mirrored"] = "plain"
    """Which side."""


class ToyDataSource:
    """Three random episodes of 20 env_steps per chunk, or the same mirrored."""

    config_class = ToyDataConfig
    implementation = "toy_trajectories/1"
    usual_env_steps = 20
    variants = ("plain", "mirrored")

    def num_chunks(self, config: ToyDataConfig) -> int:
        return config.episodes // 3

    def build_chunk(self, config: ToyDataConfig, chunk_index: int, threads: int) -> Trajectories:
        rng = keyed_rng(config.seed, "toy", chunk_index)
        observations = rng.standard_normal((60, 3), dtype=np.float32)
        if config.source == "mirrored":
            observations = -observations
        return Trajectories(observations, observations[:, :1] * 0.5, np.array([20, 40, 60]))

    def read(self, origin: str, skip_damaged: bool = False) -> RecordedData:
        return RecordedData(Trajectories.load_hdf5(Path(origin)), ("format: a toy's",))

    def draw_coverage(self, trajectories: Trajectories, path: Path) -> None:
        path.write_bytes(b"a picture")


@dataclass(frozen=True)
class FitConfig:
    """Regression of actions on observations."""

    learning_rate: float = 1e-2
    """Adam's learning rate."""
    updates: int = 40
    """Gradient updates."""
    kind: Literal["linear", "tanh"] = "linear"
    """Shape of the model."""
    widths: tuple[int, ...] = (8,)
    """Widths of hidden layers."""
    clip: float | None = None
    """Largest gradient norm, or none."""
    nesterov: bool = False
    """Unused by the computation: a field of type bool."""
    pause_seconds: float = 0.0
    """Sleep in each advance, so that a test can interrupt it."""
    ballast: int = 0
    """Floats added to the state, so that a test can fill a disk."""

    def validate(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


class FitStage(Stage):
    """Draws from torch's global generator on purpose: the harness promises that this resumes exactly."""

    def __init__(self, config: FitConfig, context: StageContext) -> None:
        self.config = config
        data = Trajectories.load_hdf5(context.inputs["data"] / "trajectories.hdf5")
        self.inputs, self.targets = torch.from_numpy(data.observations), torch.from_numpy(data.actions)
        layers: list[torch.nn.Module] = []
        for before, after in zip((3, *config.widths), (*config.widths, 1), strict=True):
            layers += [torch.nn.Linear(before, after), torch.nn.Tanh()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.ballast = torch.rand(config.ballast)
        self.updates = 0

    @property
    def progress(self) -> Progress:
        return Progress(self.updates, self.config.updates, "updates")

    def advance(self) -> StageReport:
        time.sleep(self.config.pause_seconds)
        if self.updates >= self.config.updates // 2 and _told_to_fail(self.config.updates):
            raise ArithmeticError("the toy was told to fail")
        batch = torch.randint(len(self.inputs), (16,))
        loss = (self.model(self.inputs[batch]) - self.targets[batch]).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.updates += 1
        return StageReport(metrics={"loss": loss.item()})

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
            "ballast": self.ballast,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates, self.ballast = state["updates"], state["ballast"]

    def timed_work(self) -> Sequence[TimedWork]:
        def update() -> int:
            self.advance()
            return 1

        return (TimedWork("update", "updates", update),)

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        weights = torch.cat([value.flatten() for value in self.model.state_dict().values()])
        np.save(folder / "weights.npy", weights.numpy())
        np.save(folder / "ballast.npy", self.ballast.numpy())
        save_latents(folder, self.inputs[:, :2], self.targets[:, 0], "inputs of the toy", "target")
        with torch.no_grad():
            return {"final_loss": (self.model(self.inputs) - self.targets).square().mean().item()}


def _told_to_fail(updates: int) -> bool:
    path = Path(os.environ.get(FAIL_WHEN_EXISTS, "/nowhere"))
    return path.exists() and path.read_text() in ("", str(updates))


@dataclass(frozen=True)
class AdaptConfig:
    """Episodes whose return grows."""

    episodes: int = 30
    """Episodes per target task."""
    pause_seconds: float = 0.0
    """Sleep in each advance."""
    aim: float = field(default=0.0, metadata=ADDED_LATER)
    """Returns are higher by up to 0.36, the nearer this is to 0.6."""


class AdaptStage(Stage):
    """One episode of every target task per advance; returns are noise from a keyed generator plus a trend."""

    def __init__(self, config: AdaptConfig, context: StageContext) -> None:
        self.config, self.context = config, context
        self.offset = float(np.load(context.inputs["fit"] / "weights.npy").sum())
        self.episodes = 0

    @property
    def progress(self) -> Progress:
        return Progress(self.episodes, self.config.episodes, "episodes", success=0.5)

    def advance(self) -> StageReport:
        time.sleep(self.config.pause_seconds)
        rows = []
        for task in self.context.target_tasks:
            noise = keyed_rng(self.context.seed, "adapt", task, self.episodes).random() + self.offset
            trend = self.episodes / self.config.episodes + 0.36 - (self.config.aim - 0.6) ** 2
            episode_return = min(1.0, abs(noise) % 1.0 * 0.2 + trend)
            phase = "explore" if self.episodes < 5 else "adapt"
            success = episode_return >= 1.0
            rows.append(EpisodeRow(phase, task, self.episodes, 10 * (self.episodes + 1), episode_return, success, 10))
        self.episodes += 1
        return StageReport(episodes=rows)

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.episodes = state["episodes"]

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        return {"episodes": self.episodes}


def _no_world(num_lanes: int, threads: int = 1) -> Any:
    raise NotImplementedError("the toy has no world")


TOY_LINE = TaskDistribution(
    name="toy-line",
    family="toy",
    summary="nothing moves",
    train_tasks=(Task("train", {"goal": [0]}),),
    target_tasks=tuple(Task(f"target-{index}", {"goal": [index]}) for index in range(3)),
    make_world=_no_world,
    world_fingerprint="toy/1",
    observation_dim=3,
    action_dim=1,
    episode_env_steps=10,
    score_range=(0.0, 1.0),
    data_source=ToyDataSource(),
    data_presets={"smoke": {"episodes": 6}, "quick": {}},
    validation_tasks=tuple(Task(f"validation-{index}", {"goal": [10 + index]}) for index in range(2)),
)

FIT = StageSpec("fit", FitConfig, FitStage, ("data",), "none", "toy-fit/1")
ADAPT = StageSpec("adapt", AdaptConfig, AdaptStage, ("fit",), "target", "toy-adapt/1")
ALGORITHM = Algorithm(
    name="toy",
    title="Toy",
    stages=(FIT, ADAPT),
    presets={("toy", "smoke"): {"fit.updates": 10, "adapt.episodes": 25}, ("toy", "quick"): {}},
    search_space={"adapt.aim": Between(0.0, 1.0)},
)


def make_toy_line(name: str) -> TaskDistribution:
    """``TOY_LINE``, for registries and entry points."""
    return TOY_LINE


def register_toy() -> None:
    """Make ``toy`` and ``toy-line`` known to the registries of this process."""
    register_algorithm("toy", "tests.toy:ALGORITHM", "a test of the harness")
    register_task_distribution("toy-line", make_toy_line, "a test of the harness")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    register_toy()
    from bench.cli import main

    main()
