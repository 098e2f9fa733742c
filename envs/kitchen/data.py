"""Offline data of the kitchen: scripted demonstrations, the human ones, or both (paper section 5.1.2).

The paper's data are 600 human sequences of four subtasks each, without rewards or task labels (Gupta et al. 2019). The
default here is generated: a scripted demonstrator (``demonstrator.py``) goes through the 18 orders of subtasks of the
human data (``data/human_orders.csv``) in turn, with noise in waypoints, orientations, speeds and actions. A sequence is
kept if it completed its subtasks in order and all are still done at its end; otherwise it is drawn anew.

Axes: L lane, T env_step.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.core import RecordedData
from envs.kitchen.arm import ARM_JOINTS, ArmBatch, Command
from envs.kitchen.demonstrator import demonstrate
from envs.kitchen.motions import Lane, Script
from envs.kitchen.physics import INITIAL_POSITIONS, ROBOT_JOINTS, KitchenBatch, robot_limits
from envs.kitchen.pictures import draw_data_coverage
from envs.kitchen.readers import human_trajectories, read_trajectories
from envs.kitchen.subtasks import completed, parse_subtasks
from envs.kitchen.world import EPISODE_ENV_STEPS
from envs.randomness import keyed_rng
from envs.trajectories import Trajectories

MAX_ATTEMPTS = 50
"""A sequence that fails this often in a row means that the demonstrator is broken."""


@dataclass(frozen=True)
class KitchenDataConfig:
    """Everything that determines the offline data."""

    source: Literal["scripted", "human", "both"] = "scripted"
    """``scripted``: our demonstrator; ``human``: the 19 teleoperated episodes of D4RL kitchen/complete; ``both``."""
    num_trajectories: int = 600
    """Scripted sequences kept (paper: 600 human sequences)."""
    seed: int = 0
    """Seed of the data alone: runs with other seeds share the same data, as in the paper."""
    chunk_trajectories: int = 36
    """Scripted sequences built together. Has no effect on the data, only on how it is cut into chunks."""
    action_noise: tuple[float, ...] = (0.05, 0.10, 0.15)
    """Deviations of the Gaussian noise on arm actions; one is drawn for each sequence (ours, measured)."""

    def validate(self) -> None:
        for name, high in (("num_trajectories", 10**7), ("chunk_trajectories", 10**5)):
            if not 1 <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; valid is 1 to {high:,}")
        if not 1 <= len(self.action_noise) <= 100 or not all(0.0 <= sigma <= 0.3 for sigma in self.action_noise):
            raise ValueError(f"action_noise must be deviations from 0 to 0.3; got {self.action_noise}")


KITCHEN_DATA_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"num_trajectories": 36, "chunk_trajectories": 18},
    "quick": {},
    "paper": {},
    "released": {},
}


class KitchenDataSource:
    """Offline trajectories of the kitchen; a ``DataSource``.

    Sequence i, attempt k draws everything from ``(seed, "kitchen data", i, k)``, so the data depends neither on how it
    is cut into chunks nor on lanes or threads.
    """

    config_class: type[Any] = KitchenDataConfig
    implementation = "trajectories/1/kitchen/KitchenDataConfig"
    usual_env_steps = 205
    variants: tuple[str, ...] = ("scripted", "human", "both")

    def num_chunks(self, config: KitchenDataConfig) -> int:
        """Chunks of scripted sequences, the last one may be smaller; the human episodes come last, in one."""
        scripted = 0 if config.source == "human" else -(-config.num_trajectories // config.chunk_trajectories)
        return scripted + (config.source != "scripted")

    def build_chunk(self, config: KitchenDataConfig, chunk_index: int, threads: int = 1) -> Trajectories:
        """See ``DataSource.build_chunk``. Raises ``ValueError`` for a chunk that does not exist."""
        if not 0 <= chunk_index < self.num_chunks(config):
            raise ValueError(f"chunk {chunk_index} does not exist; valid: 0 to {self.num_chunks(config) - 1}")
        if config.source != "scripted" and chunk_index == self.num_chunks(config) - 1:
            return human_trajectories()
        first = chunk_index * config.chunk_trajectories
        last = min(first + config.chunk_trajectories, config.num_trajectories)
        return demonstrations(config, range(first, last), threads)[0]

    def read(self, origin: str, skip_damaged: bool = False) -> RecordedData:
        """Anything that the kitchen's readers know. Raises ``TrajectoryError``."""
        trajectories, report = read_trajectories(origin, skip_damaged)
        return RecordedData(trajectories, report.lines())

    def draw_coverage(self, trajectories: Trajectories, path: Path) -> None:
        """Write a PNG: how often each subtask is completed, what follows what, and lengths."""
        draw_data_coverage(trajectories, path)


@cache
def human_orders() -> tuple[tuple[str, ...], ...]:
    """The 18 orders of four subtasks that occur in the human data."""
    text = resources.files("envs.kitchen").joinpath("data/human_orders.csv").read_text(encoding="utf-8")
    return tuple(tuple(row.values()) for row in csv.DictReader(text.splitlines()))


def demonstrations(config: KitchenDataConfig, sequences: range, threads: int = 1) -> tuple[Trajectories, int]:
    """The scripted trajectories of these sequence numbers, and how many were generated to keep them.

    Raises ``RuntimeError`` if a sequence fails ``MAX_ATTEMPTS`` times.
    """
    studio = _Studio(config, len(sequences), threads)
    return studio.record(sequences)


class _Take:
    """One attempt at one sequence, on one lane."""

    def __init__(self, config: KitchenDataConfig, sequence: int, attempt: int, lane: Lane) -> None:
        self.sequence, self.attempt, self.lane = sequence, attempt, lane
        self.rng = lane.rng
        order = human_orders()[sequence % len(human_orders())]
        self.subtasks = parse_subtasks(order)
        self.action_noise = float(self.rng.choice(config.action_noise))
        self.observations: list[NDArray[np.float32]] = []
        self.actions: list[NDArray[np.float32]] = []
        self.done_since = np.full(len(order), -1)
        """env_step at which each subtask was first done."""
        lane.look()
        self.script: Script = demonstrate(lane, order)

    def command(self) -> Command | None:
        """The next one, or None when the script has ended or the time is up."""
        return next(self.script, None) if self.lane.env_steps < EPISODE_ENV_STEPS else None

    def see(self, done: NDArray[np.bool_]) -> None:
        """Account for one env_step, after which these elements (S,) are at their goal."""
        self.lane.env_steps += 1
        self.lane.look()
        newly = done[list(self.subtasks)] & (self.done_since < 0)
        self.done_since[newly] = self.lane.env_steps

    def succeeded(self, done: NDArray[np.bool_]) -> bool:
        """All subtasks done at the end (S,), and completed one after the other."""
        return bool(done[list(self.subtasks)].all() and (np.diff(self.done_since) > 0).all())


class _Studio:
    """Lanes that record takes until every sequence has one that succeeded."""

    MAX_LANES = 36

    def __init__(self, config: KitchenDataConfig, num_sequences: int, threads: int) -> None:
        self.config = config
        self.physics = KitchenBatch(min(num_sequences, self.MAX_LANES), threads)
        self.arm = ArmBatch(self.physics)
        model = self.physics.model
        self.site_ids = {model.site(index).name: index for index in range(model.nsite)}
        self.observed = np.zeros((self.physics.num_lanes, len(INITIAL_POSITIONS)))
        self.takes: dict[int, _Take] = {}
        """By lane."""

    def record(self, sequences: range) -> tuple[Trajectories, int]:
        waiting, kept, attempts = list(sequences), {}, 0
        for lane in range(self.physics.num_lanes):
            self._begin(lane, waiting.pop(0), 0)
        while self.takes:
            ended = self._step()
            for lane in ended:
                take = self.takes.pop(lane)
                attempts += 1
                if take.succeeded(completed(self.physics.positions[[lane]])[0]):
                    kept[take.sequence] = take
                    if waiting:
                        self._begin(lane, waiting.pop(0), 0)
                elif take.attempt + 1 < MAX_ATTEMPTS:
                    self._begin(lane, take.sequence, take.attempt + 1)
                else:
                    raise RuntimeError(f"demonstration {take.sequence} failed {MAX_ATTEMPTS} times")
        takes = [kept[sequence] for sequence in sequences]
        return (
            Trajectories(
                observations=np.concatenate([np.stack(take.observations) for take in takes]),
                actions=np.concatenate([np.stack(take.actions) for take in takes]),
                episode_ends=np.cumsum([len(take.actions) for take in takes]),
            ),
            attempts,
        )

    def _begin(self, lane: int, sequence: int, attempt: int) -> None:
        rng = keyed_rng(self.config.seed, "kitchen data", sequence, attempt)
        self.physics.reset(INITIAL_POSITIONS, lanes=np.array([lane]))
        self.takes[lane] = _Take(self.config, sequence, attempt, Lane(lane, self.physics, self.arm, self.site_ids, rng))
        self._observe(lane)

    def _observe(self, lane: int) -> None:
        noise = self.takes[lane].rng.uniform(-1.0, 1.0, len(INITIAL_POSITIONS))
        self.observed[lane] = self.physics.positions[lane] + robot_limits().noise_amplitudes * noise

    def _step(self) -> list[int]:
        """One env_step of every take; the lanes whose take has ended, before the step."""
        commands = {lane: self.takes[lane].command() for lane in sorted(self.takes)}
        ended = [lane for lane, command in commands.items() if command is None]
        moving = [(lane, command) for lane, command in commands.items() if command is not None]
        if moving:
            lanes = np.array([lane for lane, _ in moving])
            actions = self._actions(lanes, [command for _, command in moving])
            for lane, action in zip(lanes, actions, strict=True):
                self.takes[lane].observations.append(self.observed[lane].astype(np.float32))
                self.takes[lane].actions.append(action)
            self.physics.step(actions, self.observed[lanes, :ROBOT_JOINTS], lanes)
            for lane, done in zip(lanes, completed(self.physics.positions[lanes]), strict=True):
                self.takes[lane].see(done)
                self._observe(lane)
        return ended

    def _actions(self, lanes: NDArray[np.int64], commands: list[Command]) -> NDArray[np.float32]:
        """Noisy actions (A, 9), in float32 before they are applied, so that the recorded ones are exact."""
        actions = self.arm.actions(lanes, commands)
        for row, (lane, command) in enumerate(zip(lanes, commands, strict=True)):
            take = self.takes[lane]
            sigma = take.action_noise * command.noise_scale
            actions[row, :ARM_JOINTS] += sigma * take.rng.standard_normal(ARM_JOINTS)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)
