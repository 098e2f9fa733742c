"""A stage: a resumable, deterministic function (config, input artefacts, seed) -> artefact.

The harness calls ``advance`` until ``finished``, saves ``state_dict`` from time to time, and at the end asks
for the artefact. Nothing here imports torch, so that the command line starts fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.core import TaskDistribution

PATHS_FILE = "paths.npz"
"""In an artefact that keeps the paths of some episodes: ``task`` and ``episode`` (P,), where each path ends in
``states`` (``ends``, (P,)), and ``states`` (sum of lengths, D) float32. Tasks are numbered as in the episode rows."""

LATENTS_FILE = "latents.npz"
"""In an artefact that has learned a latent space: ``latents`` (K, Z) float32, ``value`` (K,) float32, which says what
each of them stands for, ``what`` and ``value_name``, texts for a caption and for a colour bar."""


@dataclass(frozen=True)
class EpisodeRow:
    """The unit of result: one training episode as it was collected. The harness adds run and seconds."""

    phase: str
    """``meta_train_prior``, ``meta_train_posterior``, ``explore`` or ``adapt``."""
    task: int
    """Index into the train tasks (meta_train_*) or the target tasks (explore, adapt)."""
    episode: int
    """Counts from 0 within (stage, task); exploration episodes count too."""
    env_steps: int
    """Environment steps taken on this task in this stage, this episode included."""
    episode_return: float
    success: bool
    """True when the episode reached the largest possible return."""
    length: int
    """Environment steps of this episode."""


@dataclass(frozen=True)
class StageReport:
    """What one ``advance`` brought."""

    episodes: Sequence[EpisodeRow] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Diagnostics (losses, KLs, coefficients), appended to ``metrics.jsonl``."""


@dataclass(frozen=True)
class Progress:
    """For the progress bar: ``done`` of ``total`` ``unit``; ``success`` so far where it has a meaning."""

    done: int
    total: int
    unit: str
    success: float | None = None


@dataclass(frozen=True)
class StageContext:
    """What a stage is given besides its config."""

    task_distribution: TaskDistribution
    target_tasks: tuple[int, ...]
    """Indices of the target tasks to adapt to (``--tasks``)."""
    seed: int
    inputs: Mapping[str, Path]
    """Folder of each input artefact, by stage name."""
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class TimedWork:
    """A piece of work that ``bench profile`` times."""

    name: str
    """``update``, ``roll-out``; the same word in every stage for the same kind of work."""
    unit: str
    """What is counted: ``updates``, ``env_steps``."""
    work: Callable[[], int]
    """Does the work once and returns how many units of it that was. Called many times."""


class Stage(ABC):
    """See the module's docstring. Everything random is keyed by ``context.seed`` or kept in the state."""

    @property
    @abstractmethod
    def progress(self) -> Progress: ...

    @property
    def finished(self) -> bool:
        return self.progress.done >= self.progress.total

    @abstractmethod
    def advance(self) -> StageReport:
        """Do one short piece of work (at most a few seconds, so that a signal is answered soon)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors, numbers, strings, lists and dicts of these only."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def write_artefact(self, folder: Path) -> dict[str, Any]:
        """Write the artefact's files into ``folder``; return the numbers that belong in its manifest."""

    def timed_work(self) -> Sequence[TimedWork]:
        """What ``bench profile`` times of this stage, on data it makes up in the sizes that its configuration asks for.

        Called on a fresh stage, whose artefact of untrained networks is then what later stages are made from: so
        ``write_artefact`` must work after it. Here: nothing.
        """
        return ()


@dataclass(frozen=True)
class PlayRequest:
    """Episodes asked of what a finished stage has learned."""

    artefact: Path
    """Folder of the stage's artefact."""
    task: int
    """Index of a target task that the stage was given."""
    episodes: int
    seed: int
    """Fixes the episodes, and nothing else does: episode i is the same whatever ``episodes`` is."""


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode, as it looked."""

    observations: NDArray[np.float32]
    """(length + 1, D): before the first and after every env_step."""
    episode_return: float

    @property
    def length(self) -> int:
        """Environment steps."""
        return len(self.observations) - 1


ADDED_LATER: Mapping[str, Any] = {"hashed_at_default": False}
"""Metadata of a configuration's field that is younger than artefacts in use, and whose default is what they were made
with: at its default it is left out of the hash, so that they are found again."""


@dataclass(frozen=True)
class StageSpec:
    """How the harness makes a stage."""

    name: str
    """``data``, ``skills``, ``bc``, ``meta_train`` or ``adapt``."""
    config_class: type[Any]
    """Frozen dataclass; each field with a docstring that names its source."""
    factory: Callable[[Any, StageContext], Stage]
    inputs: tuple[str, ...]
    """Names of the stages whose artefacts it reads, ``data`` included."""
    tasks: Literal["none", "train", "target"]
    """Which tasks (and so the world) determine its result: part of its hash."""
    implementation: str
    """Names the computation in the hash (``skill_vae/1``): equal stages of two algorithms are shared."""
    play: Callable[[Any, StageContext, PlayRequest], list[PlayedEpisode]] | None = None
    """``play(config, context, request)``: acts with what the stage has learned (``bench play``)."""


@dataclass(frozen=True)
class CrossCheck:
    """Another implementation of an algorithm: ``bench profile`` times the updates of the two side by side."""

    algorithm: str
    """Name of the algorithm that is implemented again."""
    stage: str
    """A stage that both have, with fields of the same names."""
    settings: tuple[Mapping[str, str], ...]
    """What both are timed at, in turn: {``field`` of the stage: value as on the command line}."""
    work: str = "update"
    """Which of the stage's ``timed_work``."""


@dataclass(frozen=True)
class Between:
    """Numbers that ``bench tune`` may try: from ``low`` to ``high``, both included; whole ones where the field is."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly in the logarithm."""


@dataclass(frozen=True)
class OneOf:
    """Values that ``bench tune`` may try, without an order. Those that a preset refuses are left out there."""

    values: tuple[bool | int | float | str, ...]


SearchRange = Between | OneOf


@dataclass(frozen=True)
class Algorithm:
    """A recipe of stages. Chosen by ``--algo``."""

    name: str
    title: str
    stages: tuple[StageSpec, ...]
    """In order, without ``data``: the harness prepends it where a stage names it as an input."""
    presets: Mapping[tuple[str, str], Mapping[str, Any]]
    """(family of task distributions, preset) -> {``stage.field``: value}."""
    needs_train_tasks: bool = False
    cross_check: CrossCheck | None = None
    distribution_presets: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """(task distribution, preset) -> what differs there from the preset of its family."""
    search_space: Mapping[str, SearchRange] = field(default_factory=dict)
    """``stage.field`` -> what ``bench tune`` may try there: two to five fields. {}: it is not tuned."""

    def preset_values(self, distribution: TaskDistribution, preset: str) -> dict[str, Any]:
        """{``stage.field``: value} on ``distribution``. Raises ``KeyError`` for a preset that its family lacks."""
        of_family = self.presets[distribution.family, preset]
        return {**of_family, **self.distribution_presets.get((distribution.name, preset), {})}
