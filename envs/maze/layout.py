"""Maze layouts: which cells are walls.

A layout is a boolean grid with its border included; index [x, y] is the cell whose unit box is centred at joint
position (x - 0.2, y - 0.2), see ``envs.maze.physics``. Cells are written (x, y), the goals' convention.

The layouts of the paper (seed 0, sizes 20 and 40) ship as data, because the generator that made them is not ours.
``random_layout`` is our own generator of mazes of the same kind: its seed 0 is *not* the paper's maze.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from envs.randomness import keyed_rng

REFERENCE_SIZES = (20, 40)
MIN_RANDOM_SIZE = 8


class LayoutError(ValueError):
    """A layout that cannot be built or parsed."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A maze. Equality and hash go by the walls."""

    name: str
    walls: NDArray[np.bool_]
    """(X, Y) bool, border included, read-only: True where the cell is a wall."""

    def __post_init__(self) -> None:
        walls = np.array(self.walls, dtype=bool)
        border = np.concatenate([walls[0], walls[-1], walls[:, 0], walls[:, -1]]) if walls.ndim == 2 else None
        if border is None or not border.all() or walls.all():
            raise LayoutError(f"layout {self.name}: needs a 2-d grid with a closed border and at least one free cell")
        walls.flags.writeable = False
        object.__setattr__(self, "walls", walls)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.checksum == other.checksum

    def __hash__(self) -> int:
        return hash(self.checksum)

    @staticmethod
    def parse(name: str, text: str) -> Layout:
        """Read ``#`` (wall) and ``.`` (free); line = x, column = y. Raises ``LayoutError``."""
        lines = text.split()
        if not lines or any(len(line) != len(lines[0]) or set(line) - {"#", "."} for line in lines):
            raise LayoutError(f"layout {name}: needs lines of equal length made of '#' and '.'")
        return Layout(name, np.array([[character == "#" for character in line] for line in lines]))

    def text(self) -> str:
        """The inverse of ``parse``."""
        return "\n".join("".join("#" if wall else "." for wall in line) for line in self.walls) + "\n"

    @property
    def free_cells(self) -> NDArray[np.int64]:
        """Every free cell as (x, y), (F, 2), in row-major order."""
        return np.argwhere(~self.walls)

    def is_free(self, x: int, y: int) -> bool:
        """Whether (x, y) is a free cell; False outside the grid."""
        return 0 <= x < self.walls.shape[0] and 0 <= y < self.walls.shape[1] and not bool(self.walls[x, y])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hex) of the walls."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def reference_layout(size: int) -> Layout:
    """The paper's maze of ``size`` x ``size`` cells (seed 0), shipped as data (see ``data/SOURCES.md``).

    Raises ``LayoutError`` for any size but 20 (maze experiments) and 40 (image maze's target maze).
    """
    if size not in REFERENCE_SIZES:
        raise LayoutError(f"no reference layout of size {size}; valid: {', '.join(map(str, REFERENCE_SIZES))}")
    name = f"maze_layout_{size}_seed0"
    return Layout.parse(name, (resources.files("envs.maze") / "data" / f"{name}.txt").read_text())


def reference_goals() -> dict[str, tuple[tuple[int, int], ...]]:
    """Split name -> goal cells (x, y) in the 20x20 reference layout, in the released order."""
    goals: dict[str, list[tuple[int, int]]] = {}
    with (resources.files("envs.maze") / "data" / "maze_goals.csv").open() as file:
        for row in csv.DictReader(file):
            goals.setdefault(row["split"], []).append((int(row["x"]), int(row["y"])))
    return {split: tuple(cells) for split, cells in goals.items()}


def random_layout(size: int, seed: int) -> Layout:
    """A random maze of ``size`` x ``size`` cells inside a border: a pure function of (size, seed).

    Rooms are cut by recursive division, as in the reference: a wall of one cell's thickness across the region, with
    a door of 1 to 3 cells; regions below 5 cells stay open. Short free-standing segments and small blocks are
    then dropped into the rooms. A wall that would cut the free space in two is not placed, so all free cells stay
    connected. Raises ``LayoutError`` below size 8.
    """
    if size < MIN_RANDOM_SIZE:
        raise LayoutError(f"random layout of size {size}: at least {MIN_RANDOM_SIZE} is needed")
    rng = keyed_rng(seed, "maze layout", size)
    walls = np.ones((size + 2, size + 2), dtype=bool)
    walls[1:-1, 1:-1] = False
    _divide(walls, (1, size + 1), (1, size + 1), rng)
    for _ in range(size * size // 20):
        length, thickness = int(rng.integers(2, 6)), 1 + int(rng.random() < 0.15)
        shape = (length, thickness) if rng.random() < 0.5 else (thickness, length)
        x, y = rng.integers(1, size + 1 - np.array(shape) + 1)
        _place(walls, (slice(int(x), int(x) + shape[0]), slice(int(y), int(y) + shape[1])))
    return Layout(f"random_layout_{size}_seed{seed}", walls)


def _divide(
    walls: NDArray[np.bool_], x_range: tuple[int, int], y_range: tuple[int, int], rng: np.random.Generator
) -> None:
    """Split the region by a wall with a door, across its longer side, and go on in both halves."""
    extents = (x_range[1] - x_range[0], y_range[1] - y_range[0])
    across = int(np.argmax(extents)) if extents[0] != extents[1] else int(rng.integers(2))
    if extents[across] < 7 or extents[1 - across] < 5:
        return
    low, high = (x_range, y_range)[across]
    position = int(rng.integers(low + 3, high - 3))
    other_low, other_high = (x_range, y_range)[1 - across]
    door_width = int(rng.integers(1, 4))
    door = int(rng.integers(other_low, other_high - door_width + 1))
    for cell in range(other_low, other_high):
        if not door <= cell < door + door_width:
            index = (position, cell) if across == 0 else (cell, position)
            _place(walls, (slice(index[0], index[0] + 1), slice(index[1], index[1] + 1)))
    for half in ((low, position), (position + 1, high)):
        _divide(walls, half if across == 0 else x_range, y_range if across == 0 else half, rng)


def _place(walls: NDArray[np.bool_], where: tuple[slice, slice]) -> None:
    """Make the block a wall unless that would disconnect the free space."""
    candidate = walls.copy()
    candidate[where] = True
    if free_space_is_connected(candidate):
        walls[where] = True


def free_space_is_connected(walls: NDArray[np.bool_]) -> bool:
    """Whether all free cells of an (X, Y) grid with a border reach each other through edges."""
    # A flood over the bits of one integer; the closed border keeps it from running over the ends of rows.
    row = walls.shape[1]
    unreached = int.from_bytes(np.packbits(~walls.ravel(), bitorder="little").tobytes(), "little")
    frontier = unreached & -unreached
    while frontier:
        unreached &= ~frontier
        frontier = (frontier << 1 | frontier >> 1 | frontier << row | frontier >> row) & unreached
    return unreached == 0
