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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.maze.layout import Layout
from envs.maze.physics import CELL_CENTRE_OFFSET, PARTICLE_RADIUS

PIXELS = 32
FRAMES = 2
"""Newest first; the second is the view one env_step earlier."""
POSITION = slice(0, 2)
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
_LINE_OFFSETS = np.arange(_LINES)[:, None] + 0.5
_CHUNK_ROWS = 64
"""Rows drawn at once: their arrays stay in the processor's cache."""


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
        positions = np.empty((count, FRAMES, 2))
        positions[:, 0] = observations[:, POSITION]
        positions[:, 1] = observations[:, PREVIOUS_POSITION]
        first_rows = np.flatnonzero(observations[:, HAS_PREVIOUS] == 0.0)
        positions[first_rows, 1] = positions[first_rows, 0]  # somewhere that can be drawn; then made blank
        views = np.empty((count, *self.shape), dtype=np.uint8)
        for start in range(0, count, _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            padded = self._scene if scenes is None else _padded(scenes[rows])
            _draw(positions[rows].reshape(-1, 2), padded, views[rows].reshape(-1, 3, PIXELS, PIXELS))
        views[first_rows, 3:] = 0
        return views


def _padded(scenes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With floor around them, (S, X + 6, Y + 6); ``np.pad`` takes several times as long."""
    count, num_x, num_y = scenes.shape
    padded = np.zeros((count, num_x + 2 * _PADDING, num_y + 2 * _PADDING), np.uint8)
    padded[:, _PADDING:-_PADDING, _PADDING:-_PADDING] = scenes
    return padded


def _draw(positions: NDArray[np.float64], padded: NDArray[np.uint8], frames: NDArray[np.uint8]) -> None:
    """Draw what is seen from joint positions (N, 2) into ``frames`` (N, 3, R, R).

    ``padded`` are one scene, or one for each row of observations, which has ``FRAMES`` frames.
    """
    count = len(positions)
    num_scenes, num_x, num_y = padded.shape
    places = positions.T - CELL_CENTRE_OFFSET  # (2, N) in cells: cell i covers [i - 0.5, i + 0.5)
    nearest = np.floor(places + 0.5)
    sizes = np.array([num_x, num_y]) - 2 * _PADDING
    if not (nearest.min() >= 0.0 and (nearest.max(axis=1) < sizes).all()):  # neither holds of NaN
        raise ValueError(f"a position lies outside the grid of {sizes[0]} x {sizes[1]} cells")
    first = nearest - 2.0 - (places < nearest)  # first cell of the window of six
    lines = (first - places)[:, None] + _LINE_OFFSETS  # (2, V, N) from the agent
    edges = _edges(lines)

    corner = first.astype(np.int64) + _PADDING
    index = corner[0] * num_y + corner[1]
    if num_scenes > 1:
        index += (np.arange(count) // FRAMES) * (num_x * num_y)
    cells = np.arange(_CELLS)[:, None, None] * num_y + np.arange(_CELLS)[:, None]
    walls = padded.reshape(-1).take(cells + index).view(np.int8)
    hit, triangles = _hits(walls, lines)
    # Summation by parts: shares of atoms are differences of ``below``, and it is cheaper to take those of ``hit``.
    steps = hit[:-1] - hit[1:]
    steps = steps[:, :-1] - steps[:, 1:]
    below = _below(edges)
    wall = np.swapaxes(below[:, 0], 1, 2) @ (steps.transpose(2, 0, 1).astype(np.float32, order="C") @ below[:, 1])
    _add_triangles(wall, triangles, edges)
    _colour(wall, frames)


def _edges(lines: NDArray[np.float64]) -> NDArray[np.float32]:
    """Lines (2, V, N) -> (2, V, 2, N): both edges of the atom that crosses the line, ascending, in pixels."""
    feet, tops = lines * _FLOOR_SCALE, lines * _TOP_SCALE
    edges = np.empty((2, _LINES, 2, lines.shape[2]), np.float32)
    np.minimum(feet, tops, out=edges[:, :, 0], casting="unsafe")
    np.maximum(feet, tops, out=edges[:, :, 1], casting="unsafe")
    edges += np.float32(PIXELS / 2)
    return edges


def _below(edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, V, 2, N) -> (N, 2, E, R): the share of each pixel that lies below each edge; the last edge is at infinity."""
    count = edges.shape[3]
    below = np.ones((count, 2, _EDGES, PIXELS), np.float32)
    inner = below[:, :, :-1]
    by_frame = np.ascontiguousarray(edges.reshape(2, 2 * _LINES, count).transpose(2, 0, 1))
    np.subtract(by_frame[..., None], _PIXEL_STARTS, out=inner)
    np.clip(inner, 0.0, 1.0, out=inner)
    return below


class _Triangles(NamedTuple):
    """K halves of rectangles of slopes in which rays hit a wall."""

    line_x: NDArray[np.int64]
    line_y: NDArray[np.int64]
    frame: NDArray[np.int64]
    kind: NDArray[np.int8]
    """``_WALL_BY_X`` or ``_WALL_BY_Y``."""


def _hits(walls: NDArray[np.int8], lines: NDArray[np.float64]) -> tuple[NDArray[np.int8], _Triangles]:
    """Windows (6, 6, N) -> which pairs of atoms hit a wall, (I + 1, I + 1, N), the last row and column 0; triangles."""
    hit = np.zeros((_EDGES + 1, _EDGES + 1, walls.shape[2]), np.int8)
    hit[:-1:2, :-1:2] = walls
    np.bitwise_or(walls[:-1], walls[1:], out=hit[1:-1:2, :-1:2])
    np.bitwise_or(walls[:, :-1], walls[:, 1:], out=hit[:-1:2, 1:-1:2])
    pairs = walls[:, :-1] + 2 * walls[:, 1:]
    outward = (lines >= 0.0).view(np.int8)
    corners = pairs[:-1] + 4 * pairs[1:]
    corners += 16 * outward[0][:, None] + 32 * outward[1]
    kinds = _CORNER_KINDS.take(corners)
    np.equal(kinds, _WALL, out=hit[1:-1:2, 1:-1:2], casting="unsafe")
    line_x, line_y, frame = np.nonzero(kinds > _WALL)
    return hit, _Triangles(line_x, line_y, frame, kinds[line_x, line_y, frame])


def _corner_kinds() -> NDArray[np.int8]:
    """What a ray meets that crosses a line on both axes, by the four cells around and by where it goes.

    Bits of the index: walls of cells (0, 0), (0, 1), (1, 0), (1, 1); whether it goes to greater x; to greater y.
    """
    kinds = np.full(64, _NO_WALL, np.int8)
    for index in range(64):
        *cells, to_x, to_y = ((index >> bit) & 1 for bit in range(6))
        wall = np.reshape(cells, (2, 2))
        near, far = wall[1 - to_x, 1 - to_y], wall[to_x, to_y]
        by_x, by_y = wall[to_x, 1 - to_y], wall[1 - to_x, to_y]
        if near or far or (by_x and by_y):
            kinds[index] = _WALL
        elif by_x or by_y:
            kinds[index] = _WALL_BY_X if by_x else _WALL_BY_Y
    return kinds


_NO_WALL, _WALL, _WALL_BY_X, _WALL_BY_Y = range(4)
"""A corner where no ray meets a wall; where each does; where those do that cross the line on x first, or that on y."""
_CORNER_KINDS = _corner_kinds()


def _add_triangles(wall: NDArray[np.float32], triangles: _Triangles, edges: NDArray[np.float32]) -> None:
    """Add what triangles cover to the shares of wall (N, R, R); each touches at most 2 x 2 pixels."""
    line_x, line_y, frame, kind = triangles
    low = np.stack([edges[0, line_x, 0, frame], edges[1, line_y, 0, frame]]).astype(np.float64)  # (2, K)
    high = np.stack([edges[0, line_x, 1, frame], edges[1, line_y, 1, frame]])
    size = high - low
    pixel = np.floor(low)
    bounds = pixel + np.arange(3.0)[:, None, None]  # (3, 2, K)
    # Coordinates in the rectangle, 0 at the corner next to the image's centre, 1 at the far one. A line just below the
    # camera has no width.
    inside = np.clip((bounds - low) / np.maximum(size, 1e-9), 0.0, 1.0)
    inside = np.where(low < PIXELS / 2, 1.0 - inside, inside)
    across, along = inside[:, None, 0], inside[None, :, 1]
    least = np.minimum(across, along)
    # Area of {p' < p, q' < q, q' < p'}, or of {..., p' < q'} where the wall is entered by crossing the line on y first.
    area = least * np.where(kind == _WALL_BY_X, across, along) - 0.5 * least * least
    area = area[1:] - area[:-1]
    shares = np.abs(area[:, 1:] - area[:, :-1]) * (size[0] * size[1])  # (2, 2, K)
    at = PIXELS - 1 - pixel.astype(np.int64) - np.arange(2)[:, None, None]  # (2, 2 axes, K)
    seen = (at >= 0) & (at < PIXELS)
    index = (frame * PIXELS + at[:, None, 0]) * PIXELS + at[None, :, 1]
    both = seen[:, None, 0] & seen[None, :, 1]
    # No two triangles of a frame touch the same pixel: lines are seven pixels apart.
    wall.reshape(-1)[index[both]] += shares[both]


def _particle_shares() -> NDArray[np.float32]:
    """Share of each of the four centre pixels that the particle covers: a quarter of its disc, which fits in there."""
    radius = _PIXELS_PER_SLOPE * PARTICLE_RADIUS / math.sqrt(CAMERA_DISTANCE**2 - PARTICLE_RADIUS**2)
    assert radius < 1.0
    return np.full((2, 2), math.pi * radius**2 / 4, np.float32)


_CENTRE = slice(PIXELS // 2 - 1, PIXELS // 2 + 1)
_PARTICLE_SHARES = _particle_shares()


def _colour(wall: NDArray[np.float32], frames: NDArray[np.uint8]) -> None:
    """Shares of wall (N, R, R) -> colours, into ``frames`` (N, 3, R, R)."""
    level = np.empty_like(wall)
    centre = level[:, _CENTRE, _CENTRE]
    for channel, (wall_level, floor_level, particle_level) in enumerate(
        zip(WALL_COLOUR, FLOOR_COLOUR, PARTICLE_COLOUR, strict=True)
    ):
        np.multiply(wall, np.float32(255.0 * (wall_level - floor_level)), out=level)
        level += np.float32(255.0 * floor_level + 0.5)  # the half rounds, since the conversion below truncates
        centre += _PARTICLE_SHARES * (np.float32(255.0 * particle_level + 0.5) - centre)
        np.copyto(frames[:, channel], level, casting="unsafe")
