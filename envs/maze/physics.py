"""The point mass in the maze, stepped as a batch of L lanes: MuJoCo physics without tasks, rewards or episodes.

Constants are those of the released code (namsan96/SiMPL; the model goes back to D4RL's point maze): each wall cell
(x, y) is a unit box centred at world (x + 1, y + 1); the particle's body sits at world (1.2, 1.2), so joint position
q is world q + 1.2 and cell (x, y) covers joint positions within 0.5 of (x - 0.2, y - 0.2).

**Four-box window.** The particle (radius 0.1) can only touch the 2 x 2 cells nearest to it. So the model has four boxes
instead of one per wall, and each lane moves them (per-lane ``geom_pos``) to the walls among its nearest four cells;
unused boxes are parked far away. Trajectories are bit-identical to the full model's (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from envs.maze.layout import Layout

CELL_CENTRE_OFFSET = -0.2
"""Cell (x, y) is centred at joint position (x - 0.2, y - 0.2)."""
PARTICLE_RADIUS = 0.1
MAX_SPEED = 5.0
"""Velocity is clipped to [-5, 5] per axis before each step."""
ENV_STEP_SECONDS = 0.01
"""One physics step per environment step."""
CONTACT_MARGIN = 0.002
GEOM_MARGIN = CONTACT_MARGIN / 2
"""MuJoCo 4 adds the margins of the two geoms of a contact; 3.x took the larger of the two."""

_WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))
_PARKED = (1000.0, 1000.0, 0.0)


def model_xml(box_positions: NDArray[np.floating[Any]]) -> str:
    """MJCF of the particle and one wall box at each world position (x, y) of ``box_positions``, (W, 2)."""
    boxes = "\n".join(f'    <geom type="box" size="0.5 0.5 0.2" pos="{x} {y} 0"/>' for x, y in box_positions)
    # Mid-phase collision pruning uses bounding volumes computed at compile time, which do not follow moved boxes.
    return f"""
<mujoco model="point maze">
  <option timestep="{ENV_STEP_SECONDS}" gravity="0 0 0" iterations="20" integrator="Euler">
    <flag midphase="disable"/>
  </option>
  <default>
    <geom margin="{GEOM_MARGIN}" condim="1" density="1000" contype="2" conaffinity="1"/>
    <joint type="slide" damping="1"/>
    <motor gear="100" ctrllimited="true" ctrlrange="-1 1"/>
  </default>
  <worldbody>
{boxes}
    <body name="particle" pos="1.2 1.2 0">
      <geom type="sphere" size="{PARTICLE_RADIUS}" contype="1"/>
      <joint name="x" axis="1 0 0"/>
      <joint name="y" axis="0 1 0"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x"/>
    <motor joint="y"/>
  </actuator>
</mujoco>
"""


def full_model(layout: Layout) -> mujoco.MjModel:
    """The reference model with one box per wall cell (for tests and rendering; the batch uses the window)."""
    return mujoco.MjModel.from_xml_string(model_xml(np.argwhere(layout.walls) + 1.0))


def dynamics_fingerprint(layout: Layout) -> str:
    """Text that determines the dynamics: model, layout and MuJoCo's version."""
    model = model_xml(np.zeros((0, 2)))
    return f"mujoco {mujoco.__version__}; max speed {MAX_SPEED}; layout {layout.checksum}; {' '.join(model.split())}"


class PointMassBatch:
    """L particles in one layout or each in its own. Write ``positions``, ``velocities``, ``controls``; then ``step``.

    The three arrays are live (L, 2) float64 views of the simulation's state.
    """

    def __init__(self, layouts: Layout | Sequence[Layout], num_lanes: int, threads: int = 1) -> None:
        """``layouts``: the layout of all lanes, or one for each lane, all of one size; else raises ``ValueError``."""
        if num_lanes < 1 or threads < 1:
            raise ValueError(f"num_lanes and threads must be at least 1; got {num_lanes} and {threads}")
        shared = isinstance(layouts, Layout)
        each = [layouts] if isinstance(layouts, Layout) else layouts
        if len(each) != (1 if shared else num_lanes) or len({layout.walls.shape for layout in each}) != 1:
            raise ValueError(f"{len(each)} layouts for {num_lanes} lanes; need one, or one of equal size for each lane")
        self._batch = Batch(
            mujoco.MjModel.from_xml_string(model_xml(np.full((4, 2), 1000.0))), num_lanes, nthread=threads
        )
        geom_positions: NDArray[np.float64] = self._batch.expand("geom_pos")
        self._geom_positions = geom_positions.reshape(num_lanes, -1)
        self.positions: NDArray[np.float64] = self._batch.bind("qpos")
        self.velocities: NDArray[np.float64] = self._batch.bind("qvel")
        self.controls: NDArray[np.float64] = self._batch.bind("ctrl")
        self._windows = np.concatenate([_window_table(layout) for layout in each])
        num_x, self._window_columns = each[0].walls.shape
        self._first_window = None if shared else np.arange(num_lanes) * (num_x * self._window_columns)
        """Row of ``_windows`` where each lane's layout begins, where lanes have their own."""
        self._corners = np.zeros((num_lanes, 2), dtype=np.int64)

    def reset(self, positions: NDArray[np.float64], velocities: NDArray[np.float64]) -> None:
        """Forget everything (solver warm start included) and place the particles; both are (L, 2)."""
        self._batch.reset(stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        self.positions[:] = positions
        self.velocities[:] = velocities

    def step(self, lanes: NDArray[np.int64] | None = None) -> None:
        """One environment step of the given lanes (ascending indices; None: all), in the released order.

        Clips the velocity, moves the window, steps. ``controls`` must lie in [-1, 1].
        """
        # All lanes are prepared, finished ones too: that is cheaper than picking, and changes nothing they show.
        np.minimum(self.velocities, MAX_SPEED, out=self.velocities)
        np.maximum(self.velocities, -MAX_SPEED, out=self.velocities)
        # The lower of the two nearest cells on each axis: cell c is centred at c - 0.2. Truncation is floor here.
        corners = self._corners
        np.copyto(corners, self.positions - CELL_CENTRE_OFFSET, casting="unsafe")
        window = corners[:, 0] * self._window_columns
        window += corners[:, 1]
        if self._first_window is not None:
            window += self._first_window
        # Without mode="clip" numpy fills a buffer first.
        self._windows.take(window, axis=0, out=self._geom_positions, mode="clip")
        self._batch.step(lanes)


def _window_table(layout: Layout) -> NDArray[np.float64]:
    """Positions of all geoms for each 2 x 2 window: (X * Y, 5 * 3), row x * Y + y for lowest cell (x, y).

    The fifth geom is the particle's own, at its body's origin.
    """
    num_x, num_y = layout.walls.shape
    table = np.zeros((num_x, num_y, 5, 3))
    table[:, :, :4] = _PARKED
    for slot, (dx, dy) in enumerate(_WINDOW):
        for x, y in np.argwhere(layout.walls[dx:, dy:]):
            table[x, y, slot] = (x + dx + 1.0, y + dy + 1.0, 0.0)
    return table.reshape(num_x * num_y, -1)
