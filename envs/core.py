"""The nouns of the environment layer: task, world, data source, task distribution.

Axes: L lane, D observation feature, A action feature, T time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from envs.trajectories import Trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

TARGET, VALIDATION = TASK_SETS = ("target", "validation")
"""What can be adapted to: the tasks that results are of, and the tasks that settings are chosen by."""


@dataclass(frozen=True)
class Task:
    """One MDP of a distribution. ``spec`` says to the world which (maze: ``{"goal": [x, y]}``)."""

    name: str
    spec: Mapping[str, Any]


NO_TASK = Task("no task", {})
"""Nothing to reach: no reward, and no end but the time limit. For roll-outs that are judged by what they visit."""


class World(VectorEnv[Any, Any, Any]):
    """A simulator stepped as a batch of L lanes; each lane holds one episode of one task.

    Unlike a plain ``VectorEnv`` a lane is never reset by itself: a finished lane stays finished (and costs
    nothing) until the next ``reset``.
    """

    active_lanes: NDArray[np.int64]
    """Indices of the lanes whose episode still runs, ascending."""

    def start(self, tasks: Sequence[Task], episode_keys: Sequence[tuple[int | str, ...]]) -> Float32Array:
        """Start one episode per lane and return the first observations (L, D).

        ``tasks`` may be shorter than L: the remaining lanes stay finished. Lane i draws everything random
        about its episode from ``keyed_rng(*episode_keys[i])``. Worlds that offline data are of accept ``NO_TASK``, too.
        """
        raise NotImplementedError


ObservationBounds = tuple[Float32Array, Float32Array]
"""(lowest, highest) value of each observation feature, (D,) each; infinite where the world knows none."""


@dataclass(frozen=True)
class RecordedData:
    """Trajectories that were read from somebody's file."""

    trajectories: Trajectories
    remarks: tuple[str, ...] = ()
    """What the reader found and changed, one line each."""


class DataSource(Protocol):
    """Offline trajectories: built in chunks, so that it can be interrupted and resumed, or read from a file."""

    config_class: type[Any]
    """A frozen dataclass: every setting that determines the data, its own ``seed`` included."""

    implementation: str
    """Names the computation in the artefact's hash; changed whenever the same config gives other data."""

    usual_env_steps: int
    """Of a trajectory at the default configuration, on average: budgets are counted with it until data are built."""

    variants: tuple[str, ...]
    """What the config's field ``source`` accepts, so that ``--data NAME`` can set it; () without such a field."""

    def num_chunks(self, config: Any) -> int: ...

    def build_chunk(self, config: Any, chunk_index: int, threads: int) -> Trajectories:
        """Chunk ``chunk_index``: a pure function of (config, chunk_index), whatever ``threads`` is."""
        ...

    def read(self, origin: str, skip_damaged: bool = False) -> RecordedData:
        """Trajectories in any format that this environment knows, by the path of a file or folder, or by a name.

        ``skip_damaged``: where they lie in many files, leave out those that are damaged, and say so in the remarks.
        Raises ``TrajectoryError`` whose line names the origin, its defect and what is valid.
        """
        ...

    def draw_coverage(self, trajectories: Trajectories, path: Path) -> None:
        """Write a PNG that shows which states the trajectories visit."""
        ...


class Views(Protocol):
    """Images as a function of observations, which are rows of a few numbers: rows are stored, images are drawn.

    Axes: B row, D observation feature, C channel, H, W pixels.
    """

    shape: tuple[int, int, int]
    """(C, H, W) of what one observation shows; several frames are stacked along C, newest first."""
    state_dim: int
    """Leading observation features that are the state; the others only serve to draw."""

    def draw(self, observations: NDArray[np.float32], scenes: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(B, D) -> (B, C, H, W) uint8.

        ``scenes``, (B, ...) as ``Trajectories.scenes``, are the places that each row lies in; None: the world's own.
        Raises ``ValueError`` for rows that nothing can be drawn of.
        """
        ...


class Reach(Protocol):
    """Lanes that carry out several choices from one state and keep the one that ends nearest to a place.

    A diagnosis of skills, which knows the map. Axes: T place, C choice, N = T C lane, D observation feature.
    """

    episode_env_steps: int
    """After so many env_steps nothing more is tried."""
    observations: Float32Array
    """Where the lanes are, (N, D)."""
    env_steps_to_goal: NDArray[np.int64]
    """(T,): after how many a place was reached; -1 as long as it is not."""

    def step(self, actions: Float32Array) -> Float32Array:
        """One env_step of all lanes under ``actions`` (N, A); returns ``observations``."""
        ...

    def keep_nearest(self) -> None:
        """All lanes of a place go on from where the nearest of them is."""
        ...


class PictureError(RuntimeError):
    """A picture cannot be made on this machine; the message is one line and says what to install."""


@dataclass(frozen=True)
class EpisodeRenderer:
    """How episodes are shown: as a picture or a video, by the file's ending."""

    endings: tuple[str, ...]
    """Endings of the files it can write (``.png``); the first is the usual one."""
    render: Callable[[Sequence[NDArray[np.floating[Any]]], Sequence[Task], Path, str], None]
    """``render(observations of each episode [(T, D)], tasks, path, title)``: writes ``path``, which has one of the
    endings. One task per episode, or none. Raises ``PictureError``."""
    why_not: Callable[[str], str | None] = lambda ending: None
    """Why a file with this ending cannot be written on this machine, in one line; None when it can."""
    render_in_scene: Callable[[NDArray[np.floating[Any]], NDArray[np.uint8], Path, str], None] | None = None
    """``render_in_scene(observations (T, D), scene, path, title)``: an episode that was recorded in a place of its own
    (``Trajectories.scenes``); None where data has none."""


@dataclass(frozen=True)
class TaskDistribution:
    """A named set of meta-training, target and validation tasks, with the world they live in. Chosen by ``--env``."""

    name: str
    family: str
    """Presets of algorithms are looked up by family: ``maze`` covers all maze distributions."""
    summary: str
    train_tasks: tuple[Task, ...]
    target_tasks: tuple[Task, ...]
    make_world: Callable[..., World]
    """``make_world(num_lanes: int, threads: int = 1) -> World``"""
    world_fingerprint: str
    """Text that determines the dynamics (layout, constants, mujoco version): part of artefact hashes."""
    observation_dim: int
    action_dim: int
    episode_env_steps: int
    """Time limit of an episode; reaching it is truncation, not termination."""
    score_range: tuple[float, float]
    """Lowest and highest possible return of an episode."""
    data_source: DataSource | None
    data_presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """preset name -> {data config field: value}"""
    draw_paths: Callable[[Sequence[NDArray[np.floating[Any]]], Sequence[Task], Path, str], None] | None = None
    """``draw_paths(observations of each episode [(T, D)], tasks, png_path, title)``: many episodes in one PNG."""
    describe_episodes: Callable[[Sequence[NDArray[np.floating[Any]]]], Mapping[str, float]] | None = None
    """Numbers that say what episodes [(T, D)] did, whatever their task: recorded of the skill prior's roll-outs."""
    episode_renderer: EpisodeRenderer | None = None
    score_name: str = "return"
    """What a return counts, as an axis says it: ``success``."""
    draw_paths_on: Callable[[Sequence[NDArray[np.floating[Any]]], Sequence[Task], Axes], None] | None = None
    """``draw_paths_on(observations of each episode [(T, D)], tasks, axes)``: as ``draw_paths``, in a panel of a figure;
    observations may be some of an episode's, in order."""
    own_trajectories: Callable[[], Trajectories] | None = None
    """Some trajectories recorded in the world itself, where offline data are from other places: what was learned from
    those can be judged on these."""
    views: Views | None = None
    """What networks see of an observation, drawn where it is needed; None: they see the observation itself."""
    dense_rewards: Callable[[Task, Float32Array], Float32Array] | None = None
    """``dense_rewards(task, observations after each env_step (T, D))`` -> (T,): a reward that tells more than the
    world's own, for critics that may be trained on it; scores are the world's own. None: there is none."""
    draw_tasks: Callable[[Axes], None] | None = None
    """Draws training, target and validation tasks into an empty matplotlib axes, with labels for a legend."""
    make_reach: Callable[[Sequence[Task] | None, int], Reach] | None = None
    """``make_reach(tasks, choices)``: how far skills reach towards tasks; None: towards places that no task chose."""
    validation_tasks: tuple[Task, ...] = ()
    """Tasks by which presets and other settings are chosen, so that none is chosen by looking at target tasks: like
    those, and neither among them nor among the training tasks. () where there are none to be had."""

    def tasks_of(self, task_set: str) -> tuple[Task, ...]:
        """The tasks of one of ``TASK_SETS``. Raises ``KeyError`` for any other name."""
        return {TARGET: self.target_tasks, VALIDATION: self.validation_tasks}[task_set]

    def aimed_at(self, task_set: str) -> TaskDistribution:
        """This distribution with the tasks of ``task_set`` in the place of its target tasks: what a stage is given that
        adapts to them. Raises ``KeyError`` for a name that is none of ``TASK_SETS``."""
        return self if task_set == TARGET else replace(self, target_tasks=self.tasks_of(task_set))


def observation_bounds(distribution: TaskDistribution) -> ObservationBounds:
    """What the world says of its observations (``single_observation_space``)."""
    world = distribution.make_world(1)
    try:
        space = world.single_observation_space
        assert isinstance(space, Box)
        return space.low.copy(), space.high.copy()
    finally:
        world.close()
