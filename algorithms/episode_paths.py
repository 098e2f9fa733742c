"""Paths of chosen training episodes, kept for pictures: the paper's Figure 5 shows episodes 0, 20 and 100.

A path is the states at which the policy chose a skill (or, for primitive actions, as many states at even intervals), so
it costs nothing to record and little to keep. Axes: P path, T state of a path, D observation feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms.rollout import SkillEpisode
from algorithms.stage import PATHS_FILE, EpisodeRow

PATH_EPISODES = (0, 20, 100)
"""Episodes of each task whose paths are kept (paper, Figure 5)."""
LONGEST_PATH = 200
"""States of a path, at most."""


class EpisodePaths:
    """The paths kept so far, by task and episode."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, int], Tensor] = {}

    def keep(self, task: int, episode: int, collected: SkillEpisode) -> None:
        """Keep this episode's path; the last state included, at which nothing is chosen any more."""
        states = torch.cat([collected.states, collected.next_states[-1:]]).cpu()
        if len(states) > LONGEST_PATH:
            states = states[torch.linspace(0, len(states) - 1, LONGEST_PATH).long()]
        self._states[task, episode] = states.clone()

    def keep_if_chosen(self, row: EpisodeRow, collected: SkillEpisode) -> None:
        """Keep the path of the episode of ``row`` if it is one of ``PATH_EPISODES``."""
        if row.episode in PATH_EPISODES:
            self.keep(row.task, row.episode, collected)

    def state_dict(self) -> dict[str, Any]:
        return {f"{task} {episode}": states for (task, episode), states in self._states.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._states = {(int(key.split()[0]), int(key.split()[1])): states for key, states in state.items()}

    def write(self, folder: Path) -> None:
        """``PATHS_FILE``: ``task`` (P,), ``episode`` (P,), ``ends`` (P,), ``states`` (sum of T, D) float32."""
        kept = sorted(self._states.items(), key=lambda item: item[0])
        if not kept:
            return
        np.savez_compressed(
            folder / PATHS_FILE,
            task=np.array([task for (task, _), _ in kept], np.int64),
            episode=np.array([episode for (_, episode), _ in kept], np.int64),
            ends=np.cumsum([len(states) for _, states in kept]),
            states=np.concatenate([states.numpy().astype(np.float32) for _, states in kept]),
        )
