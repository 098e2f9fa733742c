"""What the agent sees: 32 x 32 RGB views from above, centred on it, as an exact function of where it is.

The picture is that of the released model: a camera at distance 5 above the particle, looking straight down with
MuJoCo's field of view of 45 degrees, +x up and +y to the left in the image. The particle is a sphere; wall boxes rise
to z = 0.2 and the floor lies at z = -0.1, so perspective shows the sides of walls. Each surface has one flat colour
(lighting off), and each pixel the mean colour of its area. Differences from the released picture: no lights and
shadows, a plain floor instead of a faint checker, the physical particle (radius 0.1) instead of a site of twice its
radius, no marker at the goal (the task must not be observable), and a camera that follows without lag.

**Exact coverage.** Let s = (sx, sy) be a ray's slopes, so that it passes the offset s d at depth d below the camera. On
its way from the tops of walls (d = 4.8) to the floor (d = 5.1) it changes cell at most once on each axis. The line at
offset g between two cells is thus crossed by slopes from g / 5.1 to g / 4.8, which cuts each axis into *atoms*: a ray
stays in one cell (6 atoms), or crosses one line (5 atoms). Whether a ray hits a wall depends on its two atoms alone
(it does if any of the cells on its way is a wall), except where it crosses a line on both axes: there the diagonal of
the rectangle of slopes decides which of two cells it passes in between. So

    share of wall in pixel (r, c) = sum_ij hit[i, j] X[i, r] Y[j, c] + corners

where X[i, r] is the share of pixel row r that atom i covers, and corners are the triangles. In the four pixels that the
particle partly covers, the rest shows the mean of the whole pixel.

Axes: B row of observations, N frame, I atom, E edge between atoms (and one at infinity), V line between cells, R pixel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.maze.layout import Layout
from envs.maze.physics import CELL_CENTRE_OFFSET, PARTICLE_RADIUS

PIXELS = 32
FRAMES = 2
"""Newest first; the second is the view one env_step earlier."""
STATE_DIM = 4
"""Leading columns of an observation: position and velocity."""
PREVIOUS_POSITION = slice(4, 6)
"""Columns of the position one env_step earlier."""
HAS_PREVIOUS = 6
"""Column: 1, or 0 just after a reset, when the older frame is blank."""
OBSERVATION_DIM = 7

CAMERA_DISTANCE = 5.0
FIELD_OF_VIEW_DEGREES = 45.0
WALL_TOP = 0.2
FLOOR = -0.1
WALL_COLOUR = (0.7, 0.5, 0.3)
FLOOR_COLOUR = (0.2, 0.3, 0.4)
PARTICLE_COLOUR = (0.3, 0.6, 0.3)

_CELLS = 6
"""Cells on each axis that a view can show: it is 4.2 wide at the floor."""
_LINES = _CELLS - 1
_EDGES = 2 * _LINES + 1
_PADDING = 3
"""Cells outside the border that a view from within can show: floor."""
_TAN = math.tan(math.radians(FIELD_OF_VIEW_DEGREES) / 2)
_PIXELS_PER_SLOPE = PIXELS / 2 / _TAN
_FLOOR_SCALE = _PIXELS_PER_SLOPE / (CAMERA_DISTANCE - FLOOR)
"""Pixels for each unit of length at the floor; a wall's foot."""
_TOP_SCALE = _PIXELS_PER_SLOPE / (CAMERA_DISTANCE - WALL_TOP)
_PIXEL_STARTS = np.arange(PIXELS - 1, -1, -1, dtype=np.float32)
"""Image rows go down as x grows up, columns right as y grows left: pixel r covers [31 - r, 32 - r], 16 = the centre."""
_CHUNK_FRAMES = 128
"""Frames drawn at once: their arrays stay in the processor's cache."""


class MazeViews:
    """``envs.core.Views`` of the image maze; a scene is a layout's walls, (X, Y) uint8, 1 = wall."""

    shape = (3 * FRAMES, PIXELS, PIXELS)
    state_dim = STATE_DIM
    implementation = "views 1"
    """Part of the world's fingerprint; changed whenever the same row gives another image."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._scene = _padded(layout.walls[None].astype(np.uint8))

    def draw(self, observations: NDArray[np.float32], scenes: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(B, 7) -> (B, 6, 32, 32) uint8: RGB of the newest frame, then of the one before.

        ``scenes`` (B, X, Y) are the walls around each row; None: the world's own layout. Raises ``ValueError`` for
        rows of another width, a number of scenes other than B, or a position outside its scene's grid.
        """
        if observations.ndim != 2 or observations.shape[1] != OBSERVATION_DIM:
            raise ValueError(f"observations have shape {observations.shape}; expected (rows, {OBSERVATION_DIM})")
        count = len(observations)
        if scenes is not None and (scenes.ndim != 3 or len(scenes) != count):
            raise ValueError(f"scenes have shape {scenes.shape}; expected ({count}, X, Y), one for each row")
        views = np.zeros((count, *self.shape), dtype=np.uint8)
        has_previous = observations[:, HAS_PREVIOUS] != 0
        for frame, columns in enumerate((slice(0, 2), PREVIOUS_POSITION)):
            rows = np.arange(count) if frame == 0 else np.flatnonzero(has_previous)
            for start in range(0, len(rows), _CHUNK_FRAMES):
                chunk = rows[start : start + _CHUNK_FRAMES]
                padded = self._scene if scenes is None else _padded(scenes[chunk])
                views[chunk, 3 * frame : 3 * frame + 3] = _frames(observations[chunk, columns], padded)
        return views


def _padded(scenes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(scenes, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING)))


def _frames(positions: NDArray[np.float32], padded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Joint positions (N, 2) and their scene, (1, ...), or scenes, (N, ...), ``_padded`` -> (N, 3, R, R)."""
    count = len(positions)
    _, num_x, num_y = padded.shape
    places = positions.astype(np.float64) - CELL_CENTRE_OFFSET  # in cells: cell i covers [i - 0.5, i + 0.5)
    nearest = np.floor(places + 0.5).astype(np.int64)
    sizes = np.array([num_x, num_y]) - 2 * _PADDING
    if not (np.isfinite(places).all() and (nearest >= 0).all() and (nearest < sizes).all()):
        raise ValueError(f"a position lies outside the grid of {sizes[0]} x {sizes[1]} cells")
    first = nearest - np.where(places < nearest, 3, 2)  # first cell of the window of six
    lines = (first - places)[:, :, None] + (np.arange(_LINES) + 0.5)  # (N, 2, V) offsets from the agent
    edges = _edges(lines)
    below = _below(edges)

    scene = np.arange(count) if len(padded) > 1 else 0
    corner = (scene * num_x + first[:, 0] + _PADDING) * num_y + first[:, 1] + _PADDING
    window = (np.arange(_CELLS)[:, None] * num_y + np.arange(_CELLS)).ravel()
    walls = padded.reshape(-1).take(corner[:, None] + window).reshape(count, _CELLS, _CELLS).astype(bool)
    hit, triangles = _hits(walls, lines)
    # Summation by parts: shares of atoms are differences of ``below``, and it is cheaper to take those of ``hit``.
    steps = np.zeros((count, _EDGES + 1, _EDGES + 1), np.float32)
    steps[:, :-1, :-1] = hit
    steps = steps[:, :-1] - steps[:, 1:]
    steps = steps[:, :, :-1] - steps[:, :, 1:]
    wall = np.swapaxes(below[:, 0], 1, 2) @ (steps @ below[:, 1])
    _add_triangles(wall, triangles, edges)
    return _coloured(wall)


def _edges(lines: NDArray[np.float64]) -> NDArray[np.float32]:
    """Lines (N, 2, V) -> (N, 2, V, 2): both edges of the atom that crosses the line, ascending, in pixels."""
    feet, tops = lines * _FLOOR_SCALE, lines * _TOP_SCALE
    return (np.stack([np.minimum(feet, tops), np.maximum(feet, tops)], axis=-1) + PIXELS / 2).astype(np.float32)


def _below(edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 2, V, 2) -> (N, 2, E, R): the share of each pixel that lies below each edge; the last edge is at infinity."""
    count = len(edges)
    below = np.ones((count, 2, _EDGES, PIXELS), np.float32)
    inner = below[:, :, :-1]
    np.subtract(edges.reshape(count, 2, -1, 1), _PIXEL_STARTS, out=inner)
    np.maximum(inner, 0.0, out=inner)
    np.minimum(inner, 1.0, out=inner)
    return below


def _hits(
    walls: NDArray[np.bool_], lines: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.int64], ...]]:
    """Windows (N, 6, 6) -> which pairs of atoms hit a wall (N, I, I); and the triangles: (frame, line, line, half).

    ``half`` is 1 where the wall is the cell that is entered by crossing the line on x first.
    """
    hit = np.empty((len(walls), _EDGES, _EDGES), bool)
    hit[:, ::2, ::2] = walls
    hit[:, 1::2, ::2] = walls[:, :-1] | walls[:, 1:]
    hit[:, ::2, 1::2] = walls[:, :, :-1] | walls[:, :, 1:]
    corners = walls[:, :-1, :-1], walls[:, 1:, 1:], walls[:, 1:, :-1], walls[:, :-1, 1:]
    outward = lines >= 0.0
    along = outward[:, 0, :, None] == outward[:, 1, None, :]  # the ray runs to (+, +) or (-, -)
    low_low, high_high, high_low, low_high = corners
    ends = np.where(along, low_low | high_high, high_low | low_high)
    between_all = np.where(along, high_low & low_high, low_low & high_high)
    between_any = np.where(along, high_low | low_high, low_low | high_high)
    hit[:, 1::2, 1::2] = ends | between_all
    frame, line_x, line_y = np.nonzero(between_any & ~ends & ~between_all)
    # The cell entered by x first is far on x and near on y.
    far_x = line_x + outward[frame, 0, line_x]
    near_y = line_y + ~outward[frame, 1, line_y]
    return hit, (frame, line_x, line_y, walls[frame, far_x, near_y].astype(np.int64))


def _add_triangles(
    wall: NDArray[np.float32], triangles: tuple[NDArray[np.int64], ...], edges: NDArray[np.float32]
) -> None:
    """Add to shares of wall (N, R, R) the triangles' areas; a rectangle of slopes touches at most 2 x 2 pixels."""
    frame, line_x, line_y, x_first = triangles
    if len(frame) == 0:
        return
    ends = np.stack([edges[frame, 0, line_x], edges[frame, 1, line_y]], axis=1).astype(np.float64)  # (K, 2, 2)
    inwards = ends.mean(axis=2) < PIXELS / 2
    widths = ends[:, :, 1] - ends[:, :, 0]
    pixel = np.floor(ends[:, :, 0])
    bounds = pixel[:, :, None] + np.arange(3.0)
    # Coordinates in the rectangle, 0 at the corner next to the image's centre, 1 at the far one.
    inside = np.clip((bounds - ends[:, :, :1]) / widths[:, :, None], 0.0, 1.0)
    inside = np.where(inwards[:, :, None], 1.0 - inside, inside)
    across, along = inside[:, 0, :, None], inside[:, 1, None, :]
    low = np.minimum(across, along)
    # Area of {p' < p, q' < q, q' < p'}, or of {..., p' < q'} where the wall is entered by y first.
    area = low * np.where(x_first[:, None, None] == 1, across, along) - low * low / 2
    shares = np.abs(np.diff(np.diff(area, axis=1), axis=2)) * (widths[:, 0] * widths[:, 1])[:, None, None]
    rows = PIXELS - 1 - (pixel[:, 0, None] + np.arange(2)).astype(np.int64)
    columns = PIXELS - 1 - (pixel[:, 1, None] + np.arange(2)).astype(np.int64)
    valid = ((rows >= 0) & (rows < PIXELS))[:, :, None] & ((columns >= 0) & (columns < PIXELS))[:, None, :]
    index = (frame[:, None, None] * PIXELS + rows[:, :, None]) * PIXELS + columns[:, None, :]
    # No two triangles of a frame touch the same pixel: lines are seven pixels apart.
    wall.reshape(-1)[index[valid]] += shares[valid]


def _particle_shares() -> NDArray[np.float32]:
    """Share of each of the four centre pixels that the particle covers: a quarter of its disc, which fits in there."""
    radius = _PIXELS_PER_SLOPE * PARTICLE_RADIUS / math.sqrt(CAMERA_DISTANCE**2 - PARTICLE_RADIUS**2)
    assert radius < 1.0
    return np.full((2, 2), math.pi * radius**2 / 4, np.float32)


_CENTRE = slice(PIXELS // 2 - 1, PIXELS // 2 + 1)
_PARTICLE_SHARES = _particle_shares()


def _coloured(wall: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shares of wall (N, R, R) -> (N, 3, R, R)."""
    frames = np.empty((len(wall), 3, PIXELS, PIXELS), np.uint8)
    level = np.empty_like(wall)
    for channel, (wall_level, floor_level, particle_level) in enumerate(
        zip(WALL_COLOUR, FLOOR_COLOUR, PARTICLE_COLOUR, strict=True)
    ):
        np.multiply(wall, np.float32(255.0 * (wall_level - floor_level)), out=level)
        level += np.float32(255.0 * floor_level + 0.5)  # the half rounds, since the conversion below truncates
        centre: NDArray[Any] = level[:, _CENTRE, _CENTRE]
        centre += _PARTICLE_SHARES * (255.0 * particle_level + 0.5 - centre)
        np.copyto(frames[:, channel], level, casting="unsafe")
    return frames
