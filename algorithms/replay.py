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

    def leading(self, last: str) -> PackedFields:
        """The first of these fields alone, up to and including ``last``."""
        names = list(self.slices)
        return PackedFields({n: p.stop - p.start for n in names[: names.index(last) + 1] for p in [self.slices[n]]})

    def through(self, last: str) -> int:
        """The number of leading columns up to and including field ``last``."""
        return int(self.slices[last].stop)


def rewarded_first(rewards: Tensor) -> Tensor:
    """Indices (..., B) that put rewards above 0 first, and leave the order as it is otherwise."""
    rewarded = rewards > 0
    counts = rewarded.sum(-1, keepdim=True)
    places = torch.where(rewarded, rewarded.cumsum(-1) - 1, counts + (~rewarded).cumsum(-1) - 1)
    order = torch.arange(rewards.shape[-1], device=rewards.device).expand(rewards.shape)
    return torch.empty_like(places).scatter_(-1, places, order)


def draw_of_counts(counts: Tensor, uniform: Tensor) -> Tensor:
    """Whole numbers (N', B) from 0 to below ``counts`` (N',) above 0, by ``uniform`` (N', B) from U[0, 1)."""
    return torch.minimum((uniform * counts[:, None]).long(), counts[:, None] - 1)  # a float32 product may round up


class RewardedIndex:
    """Where the rewarded transitions of N ring buffers lie, kept up with every addition.

    A transition's serial number says how many of its task came before it; its place in the ring is that modulo the
    capacity. Of each task the serial numbers of stored rewarded transitions are kept, oldest first: an addition appends
    to them, and drops from their front what the ring overwrites.
    """

    def __init__(self, task_count: int, capacity: int) -> None:
        self._capacity = capacity
        self._serials = [torch.zeros(0, dtype=torch.int64) for _ in range(task_count)]
        self._flat: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, task: int, first_serial: int, rewarded: Tensor) -> Tensor:
        """Note which (B,) of the transitions that follow ``first_serial`` are rewarded; serial numbers of those that
        have left the ring, among them new ones where B exceeds the capacity."""
        serials = torch.cat([self._serials[task], first_serial + torch.nonzero(rewarded).flatten()])
        oldest = first_serial + len(rewarded) - self._capacity
        gone = int(torch.searchsorted(serials, oldest))
        self._serials[task] = serials[gone:]
        self._flat = None
        return serials[:gone]

    def positions(self, task: int) -> Tensor:
        """(C,) places in the ring, ascending: first of those since it last began anew, then of those before."""
        serials = self._serials[task]
        places = serials % self._capacity
        if len(serials) == 0:
            return places
        begun = int(torch.searchsorted(serials, serials[-1] - places[-1]))
        return torch.cat([places[begun:], places[:begun]])

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """(places of all tasks one after another, where each task's begin (N,), how many each has (N,))."""
        if self._flat is None:
            places = [self.positions(task) for task in range(len(self._serials))]
            counts = torch.tensor([len(part) for part in places], dtype=torch.int64)
            everything = torch.cat(places) if places else torch.zeros(0, dtype=torch.int64)
            self._flat = everything, counts.cumsum(0) - counts, counts
        return self._flat

    def keep(self, kept_tasks: Sequence[int]) -> None:
        self._serials, self._flat = [self._serials[task] for task in kept_tasks], None


class MultiTaskReplay:
    """N ring buffers of ``capacity`` packed transitions each, and beside each ring the last ``rewarded_capacity``
    rewarded transitions that it has overwritten, in one tensor (N, capacity + rewarded_capacity, F).

    What is drawn is drawn from the rings. Transitions beside a ring serve where a draw asks for rewarded ones and the
    ring has none left, so that a task that was solved once is not forgotten.
    """

    def __init__(
        self,
        task_count: int,
        capacity: int,
        fields: PackedFields,
        device: str = "cpu",
        reward_field: str = "rewards",
        rewarded_capacity: int = 0,
    ) -> None:
        """``reward_field`` names the column that makes a transition rewarded where it is above 0."""
        self.fields = fields
        self._reward_column = fields.slices[reward_field].start
        self.capacity, self.rewarded_capacity = capacity, rewarded_capacity
        self.rows = torch.zeros((task_count, capacity + rewarded_capacity, fields.dim), device=device)
        self.sizes = torch.zeros(task_count, dtype=torch.int64)
        self.added = torch.zeros(task_count, dtype=torch.int64)
        """Transitions ever added, per task; the next goes to ``added % capacity``."""
        self.outlived = torch.zeros(task_count, dtype=torch.int64)
        """Rewarded transitions put aside so far, per task: the last lie behind the ring, at ``capacity`` and after."""
        self.rewarded_added = torch.zeros(task_count, dtype=torch.int64)
        """Rewarded transitions ever added, per task."""
        self._index = RewardedIndex(task_count, capacity)

    def add(self, task: int, rows: Tensor) -> None:
        """Append transitions (B, F) of one task; the oldest are overwritten. B may exceed the capacity."""
        first = int(self.added[task])
        rewarded = (rows[:, self._reward_column] > 0).cpu()
        self.rewarded_added[task] += int(rewarded.sum())
        gone = self._index.add(task, first, rewarded)
        if self.rewarded_capacity and len(gone):
            self._outlive(task, gone[-self.rewarded_capacity :], first, rows)
        kept = rows[-self.capacity :]
        offset = first + len(rows) - len(kept)
        positions = torch.remainder(torch.arange(offset, offset + len(kept)), self.capacity)
        self.rows[task, positions.to(self.rows.device)] = kept.to(self.rows.device)
        self.added[task] += len(rows)
        self.sizes[task] = min(int(self.added[task]), self.capacity)

    def _outlive(self, task: int, serials: Tensor, first: int, rows: Tensor) -> None:
        """Copy rewarded transitions that are about to go behind the ring: from the ring, or from new ``rows``."""
        old = serials < first
        copies = torch.cat([self.rows[task, (serials[old] % self.capacity).to(self.rows.device)],
                            rows[(serials[~old] - first).to(rows.device)].to(self.rows.device)])  # fmt: skip
        places = (int(self.outlived[task]) + torch.arange(len(copies))) % self.rewarded_capacity
        self.rows[task, (self.capacity + places).to(self.rows.device)] = copies
        self.outlived[task] += len(copies)

    def draw_uniform(self, tasks: Tensor, uniform: Tensor) -> Tensor:
        """Positions (N', B) drawn with replacement; ``tasks`` (N',), ``uniform`` (N', B) from U[0, 1)."""
        sizes = self.sizes[tasks]
        if bool((sizes == 0).any()):
            raise ValueError(f"task {int(tasks[sizes == 0][0])} has no transitions to draw from")
        return (uniform * sizes[:, None]).long().clamp_(max=self.capacity - 1)

    @property
    def rewarded_counts(self) -> Tensor:
        """(N,) rewarded transitions that can be drawn: those of the ring, or those kept behind it where it has none."""
        _, _, counts = self._index.flat()
        return torch.where(counts > 0, counts, self.outlived.clamp(max=self.rewarded_capacity))

    def draw_rewarded(self, tasks: Tensor, uniform: Tensor) -> Tensor:
        """Positions (N', B) of rewarded transitions, drawn with replacement; -1 for a task that has none."""
        places, begins, in_ring = self._index.flat()
        counts = self.rewarded_counts[tasks]
        chosen = draw_of_counts(counts.clamp(min=1), uniform)
        flat = (begins[tasks][:, None] + chosen).clamp_(max=max(0, len(places) - 1))
        drawn = places[flat] if len(places) else torch.full_like(chosen, -1)
        drawn = torch.where(in_ring[tasks][:, None] > 0, drawn, self.capacity + chosen)
        return torch.where(counts[:, None] > 0, drawn, -1)

    def draw_stratified(self, tasks: Tensor, uniform: Tensor, rewarded: int) -> Tensor:
        """As ``draw_uniform``, but the first ``rewarded`` of each row come from the rewarded transitions.

        A task without a rewarded transition keeps its uniform draw.
        """
        positions = self.draw_uniform(tasks, uniform)
        if rewarded:
            drawn = self.draw_rewarded(tasks, uniform[:, :rewarded])
            positions[:, :rewarded] = torch.where(drawn >= 0, drawn, positions[:, :rewarded])
        return positions

    def draw_rewarded_first(self, tasks: Tensor, uniform: Tensor, kept: int) -> Tensor:
        """Draw as ``draw_uniform``, then keep ``kept`` of each row with the rewarded ones first: (N', kept).

        With a ``rewarded_capacity``, a row that was drawn without a rewarded one begins with one all the same, where
        its task has any.
        """
        positions = self.draw_uniform(tasks, uniform)
        rewards = self._rewards_at(tasks, positions)
        positions = positions.gather(1, rewarded_first(rewards)[:, :kept])
        if self.rewarded_capacity:
            one = self.draw_rewarded(tasks, uniform[:, :1])[:, 0]
            lacks_it = ~(rewards > 0).any(1) & (one >= 0)
            positions[:, 0] = torch.where(lacks_it, one, positions[:, 0])
        return positions

    def _rewards_at(self, tasks: Tensor, positions: Tensor) -> Tensor:
        flat = tasks[:, None] * self.rows.shape[1] + positions
        return self.rows.view(-1, self.fields.dim)[flat.to(self.rows.device), self._reward_column].cpu()

    def gather(self, tasks: Tensor, positions: Tensor) -> Tensor:
        """Rows (N', B, F) at ``positions`` (N', B) of ``tasks`` (N',), in one gather over all tasks."""
        flat = (tasks[:, None] * self.rows.shape[1] + positions).to(self.rows.device)
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
        self.sizes, self.added = self.sizes[index], self.added[index]
        self.outlived, self.rewarded_added = self.outlived[index], self.rewarded_added[index]
        self._index.keep(kept_tasks)

    def state_dict(self) -> dict[str, Any]:
        """Only the part of the rings that holds transitions, and what is kept behind them."""
        filled = int(self.sizes.max()) if len(self.sizes) else 0
        behind = min(int(self.outlived.max()), self.rewarded_capacity) if len(self.sizes) else 0
        return {
            "rows": self.rows[:, :filled].clone(),
            "sizes": self.sizes.clone(),
            "added": self.added.clone(),
            "outlived_rows": self.rows[:, self.capacity : self.capacity + behind].clone(),
            "outlived": self.outlived.clone(),
            "rewarded_added": self.rewarded_added.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rows, behind = state["rows"], state["outlived_rows"]
        width = self.capacity + self.rewarded_capacity
        self.rows = torch.zeros((len(rows), width, self.fields.dim), device=self.rows.device)
        self.rows[:, : rows.shape[1]] = rows.to(self.rows.device)
        self.rows[:, self.capacity : self.capacity + behind.shape[1]] = behind.to(self.rows.device)
        self.sizes, self.added = state["sizes"].clone(), state["added"].clone()
        self.outlived, self.rewarded_added = state["outlived"].clone(), state["rewarded_added"].clone()
        self.find_rewarded()

    def find_rewarded(self) -> None:
        """Index the rewarded transitions anew, from the rings as they are."""
        self._index = RewardedIndex(len(self.sizes), self.capacity)
        for task, (size, added) in enumerate(zip(self.sizes.tolist(), self.added.tolist(), strict=True)):
            places = torch.arange(added - size, added) % self.capacity
            rewards = self.rows[task, places.to(self.rows.device), self._reward_column].cpu()
            self._index.add(task, added - size, rewards > 0)
