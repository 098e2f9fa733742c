"""Layouts and the grid planner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.maze.layout import (
    Layout,
    LayoutError,
    free_space_is_connected,
    random_layout,
    reference_goals,
    reference_layout,
)
from envs.maze.planner import PlannerError, can_move, path_length_map, shortest_path

LAYOUT = reference_layout(20)

SMALL = Layout.parse("small", "######\n#....#\n#.##.#\n#..#.#\n######")


@pytest.mark.parametrize(("size", "num_walls"), [(20, 192), (40, None)])
def test_reference_layouts(size: int, num_walls: int | None) -> None:
    layout = reference_layout(size)
    assert layout.walls.shape == (size + 2, size + 2)
    assert num_walls is None or layout.walls.sum() == num_walls
    assert Layout.parse("again", layout.text()) == layout
    with pytest.raises(ValueError, match="read-only"):
        layout.walls[0, 0] = False


def test_bad_layouts_are_refused() -> None:
    with pytest.raises(LayoutError, match="no reference layout of size 30; valid: 20, 40"):
        reference_layout(30)
    for text in ("", "###\n#.#\n##", "#x#", "###\n#..\n###", "###\n###\n###"):
        with pytest.raises(LayoutError):
            Layout.parse("bad", text)
    with pytest.raises(LayoutError, match="size 3"):
        random_layout(3, seed=0)


def test_goals_lie_on_free_cells_that_the_start_reaches() -> None:
    lengths = path_length_map(LAYOUT, (10, 10))
    goals = reference_goals()
    assert {split: len(cells) for split, cells in goals.items()} == {
        "train-40": 40,
        "train-20": 20,
        "train-10": 10,
        "target": 10,
        "train-top": 10,
        "target-top": 10,
        "target-bottom": 10,
    }
    assert all(math.isfinite(lengths[goal]) for cells in goals.values() for goal in cells)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(8, 24), seed=st.integers(0, 2**31))
def test_random_layouts_are_connected_and_deterministic(size: int, seed: int) -> None:
    layout = random_layout(size, seed)
    assert free_space_is_connected(layout.walls)
    assert 0.4 < len(layout.free_cells) / size**2 < 1.0
    assert random_layout(size, seed) == layout


def test_random_layouts_are_what_they_were() -> None:
    """Offline data are named by their configuration alone, so mazes of a seed may not change: recorded digests."""
    digests = [random_layout(size, seed).checksum[:8] for size, seed in ((20, 0), (20, 7), (8, 1), (40, 2))]
    assert digests == ["5db3aa78", "ca4095dc", "1b051621", "7c1f622f"]


def test_random_layouts_differ_by_seed() -> None:
    assert len({random_layout(20, seed).checksum for seed in range(5)}) == 5
    assert random_layout(20, 0) != LAYOUT


def test_connectivity_counts_edges_not_corners() -> None:
    assert free_space_is_connected(SMALL.walls)
    assert not free_space_is_connected(Layout.parse("corner", "####\n#.##\n##.#\n####").walls)


def test_paths_never_cut_corners() -> None:
    assert shortest_path(SMALL, (3, 2), (3, 4)) == [
        (3, 2),
        (3, 1),
        (2, 1),
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (2, 4),
        (3, 4),
    ]
    assert path_length_map(SMALL, (3, 2))[3, 4] == 8.0
    assert math.isinf(path_length_map(SMALL, (3, 2))[0, 0])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_shortest_paths_have_the_length_of_the_map(data: st.DataObject) -> None:
    cells = [tuple(map(int, cell)) for cell in LAYOUT.free_cells]
    start, goal = data.draw(st.sampled_from(cells)), data.draw(st.sampled_from(cells))
    length = path_length_map(LAYOUT, start)[goal]
    assert length == pytest.approx(path_length_map(LAYOUT, goal)[start])
    if math.isinf(length):
        with pytest.raises(PlannerError, match="no path"):
            shortest_path(LAYOUT, start, goal)
        return
    path = shortest_path(LAYOUT, start, goal)
    moves = np.diff(path, axis=0)
    assert (path[0], path[-1]) == (start, goal)
    assert np.linalg.norm(moves, axis=1).sum() == pytest.approx(length)
    assert all(can_move(LAYOUT, cell, tuple(move)) for cell, move in zip(path, moves.tolist(), strict=False))


def test_planner_refuses_walls() -> None:
    with pytest.raises(PlannerError, match=r"\(0, 0\) .* not free"):
        path_length_map(LAYOUT, (0, 0))
