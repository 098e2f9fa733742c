"""Episode rows as they come, and per task what they count: episodes, env_steps, the last success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from algorithms.rollout import SkillEpisode
from algorithms.stage import EpisodeRow

_COUNTS = ("episodes", "env_steps", "last_success")


class EpisodeLog:
    """Numbers the episodes of each task and adds up their env_steps."""

    def __init__(self, highest_return: float) -> None:
        """An episode that reaches ``highest_return`` is a success."""
        self._highest_return = highest_return
        self.episodes: dict[int, int] = {}
        self.env_steps: dict[int, int] = {}
        self.last_success: dict[int, bool] = {}

    def row(self, phase: str, task: int, episode: SkillEpisode) -> EpisodeRow:
        """Counts ``episode`` in."""
        index = self.count(task)
        self.episodes[task] = index + 1
        self.env_steps[task] = self.env_steps.get(task, 0) + episode.length
        self.last_success[task] = success = episode.episode_return >= self._highest_return
        return EpisodeRow(phase, task, index, self.env_steps[task], episode.episode_return, success, episode.length)

    def count(self, task: int) -> int:
        """Episodes of ``task`` so far: the number of its next one."""
        return self.episodes.get(task, 0)

    @property
    def total(self) -> int:
        """Episodes of all tasks so far."""
        return sum(self.episodes.values())

    @property
    def success(self) -> float | None:
        """The share of tasks whose last episode was a success; None before the first."""
        return sum(self.last_success.values()) / len(self.last_success) if self.last_success else None

    def state_dict(self) -> dict[str, Any]:
        return {name: dict(getattr(self, name)) for name in _COUNTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``state`` may hold more than the log's own entries. A list is what checkpoints of meta-training once held."""
        for name in _COUNTS:
            counts = state.get(name, {})
            setattr(self, name, dict(enumerate(counts)) if isinstance(counts, list) else dict(counts))
