"""What tests of the algorithms share: a short maze, a tiny skill model learned from its data, comparisons of states."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.files import load_tensors, save_tensors
from algorithms.networks import Gaussian
from algorithms.offline_training import TRAJECTORIES_FILE
from algorithms.skill_model import SKILL_MODEL_FILE, SkillConfig, SkillModel, load_skill_model
from algorithms.skills import SkillTraining
from algorithms.stage import Algorithm, EpisodeRow, Stage, StageContext
from envs.core import Task, TaskDistribution, World
from envs.maze.layout import reference_layout
from envs.maze.world import MazeWorld
from envs.registry import task_distribution
from envs.trajectories import Trajectories

torch.set_num_threads(1)

OBSERVATION_DIM, ACTION_DIM = 4, 2
"""Of the maze."""

START_GOAL, NEAR_GOAL, FAR_GOAL = (10.5, 10.0), (10.0, 11.1), (1.0, 1.0)
"""The start is (10, 10) and the success radius 1: the first is reached by the first env_step, the second within 60
env_steps by about every third episode of random skills, the last never."""

TINY_SKILLS = SkillConfig(hidden_dim=16, decoder_layers=2, prior_layers=2, latent_dim=3, passes=200, batch_size=16)


def short_maze(episode_env_steps: int = 60, goals: Sequence[tuple[float, float]] = ()) -> TaskDistribution:
    """The real maze with another time limit; ``goals``, where given, are its training and its target tasks."""
    maze = task_distribution("maze")
    tasks = tuple(Task(f"goal-{x}-{y}", {"goal": [x, y]}) for x, y in goals)
    return dataclasses.replace(
        maze,
        train_tasks=tasks or maze.train_tasks,
        target_tasks=tasks or maze.target_tasks,
        make_world=partial(MazeWorld, reference_layout(20), episode_env_steps=episode_env_steps),
        episode_env_steps=episode_env_steps,
        draw_paths=None,
    )


@cache
def maze_trajectories(count: int) -> Trajectories:
    """``count`` trajectories of the maze's own data source."""
    source = task_distribution("maze").data_source
    assert source is not None
    return source.build_chunk(source.config_class(num_trajectories=count, chunk_trajectories=count), 0, 1)


def write_trajectories(folder: Path, trajectories: Trajectories) -> Path:
    """A data artefact, as far as stages read it."""
    folder.mkdir(parents=True, exist_ok=True)
    trajectories.save_hdf5(folder / TRAJECTORIES_FILE)
    return folder


def stage_context(
    distribution: TaskDistribution, inputs: Mapping[str, Path], seed: int = 0, target_tasks: Sequence[int] | None = None
) -> StageContext:
    tasks = range(len(distribution.target_tasks)) if target_tasks is None else target_tasks
    return StageContext(task_distribution=distribution, target_tasks=tuple(tasks), seed=seed, inputs=inputs)


@cache
def _tiny_skills_state() -> dict[str, Any]:
    """The file of the tiny skill model: learned once per process by the real stage from real data."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_trajectories(Path(name) / "data", maze_trajectories(24))
        stage = SkillTraining(TINY_SKILLS, stage_context(short_maze(), {"data": folder}))
        while not stage.finished:
            stage.advance()
        stage.write_artefact(folder)
        return load_tensors(folder / SKILL_MODEL_FILE)


def write_skills(folder: Path) -> Path:
    """A skills artefact with the tiny skill model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / SKILL_MODEL_FILE, _tiny_skills_state())
    return folder


@cache
def tiny_skill_model() -> SkillModel:
    with tempfile.TemporaryDirectory() as name:
        return load_skill_model(write_skills(Path(name)))


def untrained_skill_model(observation_dim: int, action_dim: int, config: SkillConfig, seed: int = 0) -> SkillModel:
    """A frozen skill model with batch norm statistics that are not those of a fresh network."""
    torch.manual_seed(seed)
    model = SkillModel(config, observation_dim, action_dim)
    randomise_batch_norms(model)
    return model.eval().requires_grad_(False)


def standardising_skill_model(latent_dim: int) -> SkillModel:
    """Untrained and frozen, of four state features that it standardises and two actions."""
    model = untrained_skill_model(4, 2, SkillConfig(hidden_dim=8, latent_dim=latent_dim))
    model.state_mean.copy_(torch.tensor([1.0, 0.0, -1.0, 0.5]))
    model.state_sigma.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
    return model


def randomise_batch_norms(module: nn.Module) -> None:
    """Fresh statistics are 0 and 1, under which a forgotten batch norm would go unseen."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)


@dataclass(frozen=True)
class Script:
    """What happens in one lane of a ``ScriptedWorld``: a reward for each env_step, and how the episode ends."""

    rewards: tuple[float, ...]
    """One per env_step: their number is the episode's length."""
    terminates: bool
    """Ends by termination; otherwise by the time limit (truncation)."""


class ScriptedWorld(World):
    """Lanes that follow scripts. Observation: (lane, env_steps taken so far); actions are ignored.

    As in the maze, returned arrays are buffers, and a finished lane gives reward 0 and keeps observation and flags.
    """

    def __init__(self, scripts: Sequence[Script], num_lanes: int | None = None) -> None:
        self.num_envs = len(scripts) if num_lanes is None else num_lanes
        self.scripts = scripts
        self.env_steps = np.zeros(self.num_envs, np.int64)
        """Taken by each lane: a finished lane must cost none."""
        self.actions: list[NDArray[np.float32]] = []
        self._observations = np.zeros((self.num_envs, 2), np.float32)
        self._rewards = np.zeros(self.num_envs)
        self._flags = np.zeros((2, self.num_envs), np.bool_)
        self.active_lanes = np.zeros(0, np.int64)

    def start(self, tasks: Sequence[Task], episode_keys: Sequence[tuple[int | str, ...]]) -> NDArray[np.float32]:
        self._observations[:, 0] = np.arange(self.num_envs)
        self._observations[:, 1] = 0.0
        self._flags[:] = False
        self._flags[0, len(tasks) :] = True
        self.env_steps[:] = 0
        self.active_lanes = np.arange(len(tasks))
        return self._observations

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        self.actions.append(np.array(actions))
        self._rewards[:] = 0.0
        for lane in self.active_lanes:
            script = self.scripts[lane]
            self._rewards[lane] = script.rewards[self.env_steps[lane]]
            self.env_steps[lane] += 1
            if self.env_steps[lane] == len(script.rewards):
                self._flags[0 if script.terminates else 1, lane] = True
        self._observations[self.active_lanes, 1] += 1.0
        self.active_lanes = self.active_lanes[~self._flags[:, self.active_lanes].any(0)]
        return self._observations, self._rewards, self._flags[0], self._flags[1], {}


def advance_to_end(stage: Stage, most_advances: int = 500) -> list[EpisodeRow]:
    """All episode rows of a stage."""
    rows: list[EpisodeRow] = []
    for _ in range(most_advances):
        if stage.finished:
            return rows
        rows += stage.advance().episodes
    raise AssertionError(f"the stage is not finished after {most_advances} advances: {stage.progress}")


def through_disk(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a killed and resumed stage is given: the state as it comes back from a file."""
    save_tensors(folder / "state.pt", state)
    return load_tensors(folder / "state.pt")


def differences(first: Any, second: Any, where: str = "state") -> list[str]:
    """Where two states are not equal bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
        return [] if same else [where]
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if list(first) != list(second):
            return [f"{where}: keys {list(first)} and {list(second)}"]
        return [path for key in first for path in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [f"{where}: {len(first)} and {len(second)} items"]
        return [
            path
            for i, pair in enumerate(zip(first, second, strict=True))
            for path in differences(*pair, f"{where}.{i}")
        ]
    both_nan = isinstance(first, float) and isinstance(second, float) and math.isnan(first) and math.isnan(second)
    return [] if both_nan or (type(first) is type(second) and first == second) else [where]


Weights = Mapping[str, Tensor]
"""Parameters by name."""
ENCODER_HEADS = 4


def _linear(weights: Weights, name: str, inputs: Tensor) -> Tensor:
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def naive_attention_block(weights: Weights, name: str, queries: Tensor, elements: Tensor) -> Tensor:
    """MAB of Lee et al. without layer norm, head by head: queries (S, Q, D), elements (S, C, D)."""
    q, k, v = (
        _linear(weights, f"{name}.{part}", inputs)
        for part, inputs in (("query", queries), ("key", elements), ("value", elements))
    )
    attended = []
    for q_head, k_head, v_head in zip(
        q.chunk(ENCODER_HEADS, -1), k.chunk(ENCODER_HEADS, -1), v.chunk(ENCODER_HEADS, -1), strict=True
    ):
        scores = q_head @ k_head.transpose(1, 2) / math.sqrt(q.shape[-1])  # not the usual width of one head
        attended.append(torch.softmax(scores, dim=-1) @ v_head)
    residual = q + torch.cat(attended, dim=-1)
    return residual + torch.relu(_linear(weights, f"{name}.output", residual))


def naive_task_encoder(weights: Weights, contexts: Tensor) -> Gaussian:
    """[2 x ISAB -> PMA1 -> MLP], sigma = 0.001 + softplus, 1.001 where the network says 0."""
    elements = contexts
    for block in ("blocks.0", "blocks.1"):
        inducing = weights[f"{block}.inducing"].expand(len(contexts), -1, -1)
        summary = naive_attention_block(weights, f"{block}.summarise", inducing, elements)
        elements = naive_attention_block(weights, f"{block}.spread", elements, summary)
    seed = weights["seed"].expand(len(contexts), -1, -1)
    pooled = naive_attention_block(weights, "pool", seed, elements)[:, 0]
    layer = 0
    while f"hidden.{layer}.weight" in weights:
        pooled = torch.relu(_linear(weights, f"hidden.{layer}", pooled))
        layer += 1
    mean, raw_sigma = _linear(weights, "output", pooled).chunk(2, -1)
    offset = math.log(math.expm1(1.0))
    return Gaussian(mean, 0.001 + torch.log1p(torch.exp(raw_sigma + offset)))


def naive_mlp(layers: Sequence[tuple[Tensor, Tensor]], inputs: Tensor) -> Tensor:
    """A ReLU network of [(weight (in, out), bias (out,))]."""
    for weight, bias in layers[:-1]:
        inputs = torch.relu(inputs @ weight + bias)
    weight, bias = layers[-1]
    return inputs @ weight + bias


def naive_product_encoder(weights: Weights, contexts: Tensor) -> Gaussian:
    """Factor after factor: multiplying N(a, s) by N(b, t) leaves N((a t + b s) / (s + t), s t / (s + t))."""
    layers = [(weights[f"layers.{i}.weight"].T, weights[f"layers.{i}.bias"]) for i in range(len(weights) // 2)]
    mean, raw = naive_mlp(layers, contexts).chunk(2, -1)
    variance = torch.log1p(torch.exp(raw)).clamp(min=1e-7)
    total_mean, total_variance = mean[:, 0], variance[:, 0]
    for c in range(1, contexts.shape[1]):
        both = total_variance + variance[:, c]
        total_mean = (total_mean * variance[:, c] + mean[:, c] * total_variance) / both
        total_variance = total_variance * variance[:, c] / both
    return Gaussian(total_mean, total_variance.sqrt())


def config_of(algorithm: Algorithm, stage: str, overrides: Mapping[str, Any]) -> Any:
    """The configuration of a stage with ``{"stage.field": value}`` or ``{"stage.group.field": value}`` applied.

    Raises ``TypeError`` for a field that does not exist, and what ``validate`` raises.
    """
    config = next(spec for spec in algorithm.stages if spec.name == stage).config_class()
    for name, value in overrides.items():
        of_stage, *groups, field = name.split(".")
        if of_stage == stage and not groups:
            config = dataclasses.replace(config, **{field: value})
        elif of_stage == stage:
            inner = dataclasses.replace(getattr(config, groups[0]), **{field: value})
            inner.validate()
            config = dataclasses.replace(config, **{groups[0]: inner})
    config.validate()
    return config


def flat_parameters(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def relative_error(value: Tensor, reference: Tensor) -> float:
    """|value - reference| / |reference|, in the Euclidean norm and in float64."""
    return float((value.double() - reference.double()).norm() / reference.double().norm())
