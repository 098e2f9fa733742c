"""MAML on target tasks: episodes with the meta-policy, an inner step on them, then episodes and steps in turn.

    episodes   0 ........ 20 ........ 40 ........ 60        exploration_episodes = episodes_per_step = 20
    policy       theta   |  theta_i^1 |  theta_i^2 |        each step is on the episodes since the one before

Every step is REINFORCE's, as in meta-training: the first of the same size, the later ones of half of it (Finn et al.
2017, appendix A.2). Each target task is adapted to by itself; they act side by side.

A gradient here is over every env_step of its episodes, whatever ``gradient_rows`` meta-training had: on the maze, ten
steps on 1,500 of about 37,000 rows each took the success from 0.165 to 0.115, on all rows to 0.275.

Axes: M target task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from algorithms.adaptation import ADAPTED_FILE
from algorithms.behavior_cloning import behavior_policy_contents, behavior_policy_from
from algorithms.budget import Budget, Scale, acting
from algorithms.episode_log import EpisodeLog
from algorithms.files import load_tensors, save_tensors
from algorithms.maml import inner_steps
from algorithms.meta_training import META_FILE
from algorithms.policy_gradient import (
    GradientBatch,
    Parameters,
    TaskEpisode,
    act,
    make_gradient_batch,
    next_lanes,
    random_gradient_batch,
    same_for_all,
    timed_episodes,
)
from algorithms.ranges import COUNT, require_between
from algorithms.rollout import EpisodeKey
from algorithms.stage import PlayedEpisode, PlayRequest, Progress, Stage, StageContext, StageReport, TimedWork


@dataclass(frozen=True)
class MamlAdaptConfig:
    """Target tasks. Inner rate and discount are those of meta-training."""

    episodes: int = 500
    """Episodes per target task, exploration included (SiMPL, Figure 4: about 500)."""
    exploration_episodes: int = 20
    """Episodes with the meta-policy, before the first inner step (Finn et al.: 20; SiMPL's baselines: 20)."""
    episodes_per_step: int = 20
    """Episodes before each further step (ours: as many; Finn et al.: 40 for each of their steps at test time)."""
    later_rate_fraction: float = 0.5
    """Size of further steps, of the first (Finn et al., appendix A.2: half)."""
    lanes: int = 50
    """Episodes collected side by side, at most (ours: how soon a signal is answered)."""

    def validate(self) -> None:
        require_between(self, COUNT, "episodes", "episodes_per_step", "lanes")
        require_between(self, (1, self.episodes), "exploration_episodes")
        require_between(self, (0.0, 10.0), "later_rate_fraction")

    def budget(self, scale: Scale) -> Budget:
        """Of acting on every task; inner steps are not counted as updates."""
        return acting(scale.tasks * self.episodes, scale)


class MamlAdaptation(Stage):
    """meta-trained policy -> episode rows and adapted policies."""

    def __init__(self, config: MamlAdaptConfig, context: StageContext) -> None:
        self.config, self.context = config, context
        saved = load_tensors(context.inputs["meta_train"] / META_FILE)
        self.meta_config: Mapping[str, Any] = saved["config"]
        self.policy = behavior_policy_from(saved["policy"], context.device)
        self.tasks = list(context.target_tasks)
        self.parameters: Parameters = same_for_all(dict(self.policy.named_parameters()), len(self.tasks))
        self.log = EpisodeLog(context.task_distribution.score_range[1])
        self.episodes: list[list[TaskEpisode]] = [[] for _ in self.tasks]
        """Of each task, since the last step."""
        self.steps = self.episodes_before_step = 0
        self._success: float | None = None

    @property
    def progress(self) -> Progress:
        return Progress(self.log.total, self.config.episodes * len(self.tasks), "episodes", self._success)

    def advance(self) -> StageReport:
        config = self.config
        of_this_step = config.episodes_per_step if self.steps else config.exploration_episodes
        due = min(of_this_step, config.episodes - self.episodes_before_step)
        collected = [len(of_task) for of_task in self.episodes]
        chosen, count = next_lanes(collected, due, config.lanes)
        first = self.episodes_before_step
        lanes = [(index, first + collected[index] + i) for index in chosen for i in range(count)]
        keys: list[EpisodeKey] = [(self.context.seed, "adapt", self.tasks[index], i) for index, i in lanes]
        tasks = [self.context.task_distribution.target_tasks[self.tasks[index]] for index, _ in lanes]
        parameters = {name: value[chosen] for name, value in self.parameters.items()}
        phase = "adapt" if self.steps else "explore"
        rows = []
        for (index, _), episode in zip(lanes, act(self.context, self.policy, parameters, tasks, keys), strict=True):
            self.episodes[index].append(TaskEpisode.of(episode))
            rows.append(self.log.row(phase, self.tasks[index], episode))
        self._success = sum(row.success for row in rows) / len(rows)
        if min(map(len, self.episodes)) == of_this_step:
            self._step()
        return StageReport(rows, {"inner_steps": float(self.steps), "success": self._success})

    def _step(self) -> None:
        """An inner step of every task on its episodes since the last one."""
        rate = self.meta_config["inner_rate"] * (self.config.later_rate_fraction if self.steps else 1.0)
        adapted = []
        for index, episodes in enumerate(self.episodes):  # one by one: full episodes of the maze are 40,000 rows
            parameters = {name: value[index : index + 1] for name, value in self.parameters.items()}
            adapted.append(inner_steps(self.policy, parameters, self._batch(episodes), rate))
        self.parameters = {name: torch.cat([each[name] for each in adapted]) for name in self.parameters}
        self.episodes_before_step += len(self.episodes[0])
        self.episodes = [[] for _ in self.tasks]
        self.steps += 1

    def _batch(self, episodes: Sequence[TaskEpisode]) -> GradientBatch:
        """All rows of one task's episodes, as a stack of one task."""
        discount, longest = self.meta_config["discount"], self.context.task_distribution.episode_env_steps
        return make_gradient_batch(self.policy, [episodes], discount, longest)

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": {name: value.clone() for name, value in self.parameters.items()},
            "log": self.log.state_dict(),
            "episodes": [[list(episode) for episode in of_task] for of_task in self.episodes],
            "steps": self.steps,
            "episodes_before_step": self.episodes_before_step,
            "success": self._success,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.context.device
        self.parameters = {name: value.to(device).clone() for name, value in state["parameters"].items()}
        self.log.load_state_dict(state["log"])
        self.episodes = [[TaskEpisode(*episode) for episode in of_task] for of_task in state["episodes"]]
        self.steps, self.episodes_before_step = state["steps"], state["episodes_before_step"]
        self._success = state["success"]

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        learners = {
            task: {name: value[index].cpu().clone() for name, value in self.parameters.items()}
            for index, task in enumerate(self.tasks)
        }
        save_tensors(folder / ADAPTED_FILE, {"policy": behavior_policy_contents(self.policy), "learners": learners})
        return {"tasks": len(learners), "inner_steps": self.steps}

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An episode of every target task; a step of one of them on as many env_steps as full episodes have."""
        distribution = self.context.task_distribution
        rows = self.config.exploration_episodes * distribution.episode_env_steps
        batch = random_gradient_batch(self.context, self.policy, 1, rows)
        parameters = {name: value[:1] for name, value in self.parameters.items()}
        tasks = [distribution.target_tasks[task] for task in self.tasks]

        def update() -> int:
            inner_steps(self.policy, parameters, batch, self.meta_config["inner_rate"])
            return 1

        return (
            TimedWork(
                "roll-out", "env_steps", lambda: timed_episodes(self.context, self.policy, self.parameters, tasks)
            ),
            TimedWork("update", "updates", update),
        )


def play_adapted(config: MamlAdaptConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    """Episodes of the policy adapted to ``request.task``, one at a time: each is the same however many follow."""
    saved = load_tensors(request.artefact / ADAPTED_FILE)
    policy = behavior_policy_from(saved["policy"], context.device)
    learner = saved["learners"][request.task]
    parameters = {name: value[None].to(context.device) for name, value in learner.items()}
    task = context.task_distribution.target_tasks[request.task]
    played = []
    for index in range(request.episodes):
        key: EpisodeKey = (request.seed, "play", request.task, index)
        (episode,) = act(context, policy, parameters, [task], [key], record_paths=True)
        assert episode.path is not None
        played.append(PlayedEpisode(episode.path, episode.episode_return))
    return played
