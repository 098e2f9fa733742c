"""What a stage takes at most, counted from its configuration before anything runs.

A configuration may have a method ``budget(scale) -> Budget``. Episodes count as if each lasted to its time limit, since
how long they are is what is learned; so env_steps, and updates that follow from them, are upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Scale:
    """What a stage's budget depends on besides its configuration."""

    tasks: int
    """Tasks that it acts on: training tasks, or those that it adapts to."""
    episode_env_steps: int
    """Time limit of an episode."""
    skill_length: int
    """env_steps of a choice: of a skill, or 1."""
    trajectories: int
    """In the offline data; 0 where it reads none."""
    transitions: int
    """In the offline data, about, as long as they are not built; 0 where it reads none."""

    @property
    def choices_per_episode(self) -> int:
        """Skills or actions of an episode that lasts to its time limit."""
        return -(-self.episode_env_steps // self.skill_length)


@dataclass(frozen=True)
class Budget:
    """Each at most."""

    episodes: int = 0
    env_steps: int = 0
    updates: int = 0
    rows: int = 0
    """Transitions, crops or pairs that all updates together are over."""

    def __add__(self, other: Budget) -> Budget:
        return Budget(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def acting(episodes: int, scale: Scale, updates: int = 0, rows_per_update: int = 0) -> Budget:
    """So many episodes to the time limit, and so many updates of one size."""
    return Budget(episodes, episodes * scale.episode_env_steps, updates, updates * rows_per_update)
