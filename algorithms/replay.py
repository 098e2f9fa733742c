"""Replay of high-level transitions: all tasks in one tensor, so that a meta-batch is one gather.

Axes: N task, B batch, F packed feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class PackedFields:
    """Names the columns of a packed transition: ``{"states": 4, "skills": 10, ...}`` -> slices of one row."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        self.slices: dict[str, slice] = {}
        start = 0
        for name, dim in dims.items():
            self.slices[name] = slice(start, start + dim)
            start += dim
        self.dim = start

    def pack(self, columns: Mapping[str, Tensor]) -> Tensor:
        """{name: (..., dim)} -> (..., F), in the order of the fields."""
        return torch.cat([columns[name] for name in self.slices], dim=-1)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """(..., F) -> {name: (..., dim)}: views, not copies."""
        return {name: rows[..., part] for name, part in self.slices.items()}

    def through(self, last: str) -> int:
        """The number of leading columns up to and including field ``last``."""
        return int(self.slices[last].stop)


def rewarded_first(rewards: Tensor) -> Tensor:
    """Indices (..., B) that put rewards above 0 first, and leave the order as it is otherwise."""
    return torch.argsort((rewards > 0).to(torch.int8), dim=-1, descending=True, stable=True)


class MultiTaskReplay:
    """N ring buffers of ``capacity`` packed transitions each, in one tensor (N, capacity, F)."""

    def __init__(
        self, task_count: int, capacity: int, fields: PackedFields, device: str = "cpu", reward_field: str = "rewards"
    ) -> None:
        """``reward_field`` names the column that makes a transition rewarded where it is above 0."""
        self.fields = fields
        self._reward_column = fields.slices[reward_field].start
        self.capacity = capacity
        self.rows = torch.zeros((task_count, capacity, fields.dim), device=device)
        self.sizes = torch.zeros(task_count, dtype=torch.int64)
        self.added = torch.zeros(task_count, dtype=torch.int64)
        """Transitions ever added, per task; the next goes to ``added % capacity``."""
        self._rewarded: tuple[Tensor, Tensor] | None = None

    def add(self, task: int, rows: Tensor) -> None:
        """Append transitions (B, F) of one task; the oldest are overwritten. B may exceed the capacity."""
        first = int(self.added[task])
        kept = rows[-self.capacity :]
        offset = first + len(rows) - len(kept)
        positions = torch.remainder(torch.arange(offset, offset + len(kept)), self.capacity)
        self.rows[task, positions.to(self.rows.device)] = kept.to(self.rows.device)
        self.added[task] += len(rows)
        self.sizes[task] = min(int(self.added[task]), self.capacity)
        self._rewarded = None

    def draw_uniform(self, tasks: Tensor, uniform: Tensor) -> Tensor:
        """Positions (N', B) drawn with replacement; ``tasks`` (N',), ``uniform`` (N', B) from U[0, 1)."""
        sizes = self.sizes[tasks]
        if bool((sizes == 0).any()):
            raise ValueError(f"task {int(tasks[sizes == 0][0])} has no transitions to draw from")
        return (uniform * sizes[:, None]).long().clamp_(max=self.capacity - 1)

    def rewarded_positions(self) -> tuple[Tensor, Tensor]:
        """(counts (N,), positions (N, largest count)) of the stored transitions with reward > 0."""
        if self._rewarded is None:
            rewards = self.rows[..., self._reward_column].cpu()
            counts = (rewards > 0).sum(1)
            self._rewarded = counts, rewarded_first(rewards)[:, : max(1, int(counts.max()))]
        return self._rewarded

    def draw_stratified(self, tasks: Tensor, uniform: Tensor, rewarded: int) -> Tensor:
        """As ``draw_uniform``, but the first ``rewarded`` of each row come from the rewarded transitions.

        A task without a rewarded transition keeps its uniform draw.
        """
        positions = self.draw_uniform(tasks, uniform)
        if rewarded:
            counts, rewarded_positions = self.rewarded_positions()
            chosen = (uniform[:, :rewarded] * counts[tasks][:, None]).long()
            drawn = rewarded_positions[tasks].gather(1, chosen.clamp_(max=rewarded_positions.shape[1] - 1))
            positions[:, :rewarded] = torch.where(counts[tasks][:, None] > 0, drawn, positions[:, :rewarded])
        return positions

    def draw_rewarded_first(self, tasks: Tensor, uniform: Tensor, kept: int) -> Tensor:
        """Draw as ``draw_uniform``, then keep ``kept`` of each row with the rewarded ones first: (N', kept)."""
        positions = self.draw_uniform(tasks, uniform)
        flat = tasks[:, None] * self.capacity + positions
        rewards = self.rows.view(-1, self.fields.dim)[flat.to(self.rows.device), self._reward_column]
        return positions.gather(1, rewarded_first(rewards).cpu()[:, :kept])

    def gather(self, tasks: Tensor, positions: Tensor) -> Tensor:
        """Rows (N', B, F) at ``positions`` (N', B) of ``tasks`` (N',), in one gather over all tasks."""
        flat = (tasks[:, None] * self.capacity + positions).to(self.rows.device)
        return self.rows.view(-1, self.fields.dim)[flat]

    def fill_with_noise(self, generator: torch.Generator, most_rows: int = 20_000) -> None:
        """Up to ``most_rows`` transitions of each task, every column uniform in [0.05, 0.95): to time an update on."""
        rows = torch.rand((min(self.capacity, most_rows), self.fields.dim), generator=generator) * 0.9 + 0.05
        for task in range(len(self.sizes)):
            self.add(task, rows)

    def keep(self, kept_tasks: Sequence[int]) -> None:
        """Drop all tasks but these (their index becomes their place in ``kept_tasks``)."""
        index = torch.as_tensor(kept_tasks, dtype=torch.int64)
        self.rows = self.rows[index.to(self.rows.device)]
        self.sizes, self.added, self._rewarded = self.sizes[index], self.added[index], None

    def state_dict(self) -> dict[str, Any]:
        """Only the part of the rings that holds transitions."""
        filled = int(self.sizes.max()) if len(self.sizes) else 0
        return {"rows": self.rows[:, :filled].clone(), "sizes": self.sizes.clone(), "added": self.added.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rows: Tensor = state["rows"]
        self.rows = torch.zeros((len(rows), self.capacity, self.fields.dim), device=self.rows.device)
        self.rows[:, : rows.shape[1]] = rows.to(self.rows.device)
        self.sizes, self.added, self._rewarded = state["sizes"].clone(), state["added"].clone(), None
