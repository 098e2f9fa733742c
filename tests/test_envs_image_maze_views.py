"""Views of the image maze: against MuJoCo's own renderer, against its rays, and what they are drawn of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.gl import open_contexts, why_no_gl
from envs.image_maze.views import (
    CAMERA_DISTANCE,
    FIELD_OF_VIEW_DEGREES,
    FLOOR_COLOUR,
    OBSERVATION_DIM,
    PARTICLE_COLOUR,
    PIXELS,
    WALL_COLOUR,
    MazeViews,
)
from envs.maze.layout import Layout, random_layout, reference_layout
from envs.maze.physics import model_xml

LAYOUTS = {"40x40": reference_layout(40), "random 20x20": random_layout(20, 3)}


def random_rows(layout: Layout, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows at random free places, up to the distance at which the particle touches a wall; both frames differ."""
    rng = np.random.default_rng(seed)
    cells = layout.free_cells
    rows = np.zeros((count, OBSERVATION_DIM), np.float32)
    for columns in (slice(0, 2), slice(4, 6)):
        rows[:, columns] = cells[rng.integers(len(cells), size=count)] - 0.2 + rng.uniform(-0.4, 0.4, (count, 2))
    rows[:, 6] = 1.0
    return rows


def newest(layout: Layout, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """(B, R, R, 3) on [0, 1]."""
    return MazeViews(layout).draw(rows)[:, :3].transpose(0, 2, 3, 1) / 255.0


def coloured_model(layout: Layout) -> mujoco.MjModel:
    """The full model of the physics with a floor, everything in our colours, lighting off."""

    def material(name: str, colour: tuple[float, float, float]) -> str:
        # MuJoCo adds an ambient light of 0.3 to all that is drawn, so emission of the rest gives the colour itself.
        return f'<material name="{name}" rgba="{" ".join(map(str, colour))} 1" emission="0.7"/>'

    xml = model_xml(np.argwhere(layout.walls) + 1.0)
    materials = material("wall", WALL_COLOUR) + material("floor", FLOOR_COLOUR) + material("particle", PARTICLE_COLOUR)
    xml = xml.replace(
        "<worldbody>",
        f"""
        <visual><headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0" active="0"/></visual>
        <asset>{materials}</asset>
        <worldbody>
        <geom type="plane" size="50 50 1" pos="0 0 -0.1" material="floor" contype="0" conaffinity="0"/>
        """,
    )
    xml = xml.replace('type="box"', 'type="box" material="wall"').replace('"sphere"', '"sphere" material="particle"')
    model = mujoco.MjModel.from_xml_string(xml)
    assert model.vis.global_.fovy == FIELD_OF_VIEW_DEGREES
    return model


@contextmanager
def mujoco_renderer(
    layout: Layout, pixels: int, samples: int
) -> Iterator[Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
    """Draws from 5 above the particle with ``pixels`` on each side, and gives the mean of every pixel of ours."""
    model = coloured_model(layout)
    model.vis.global_.offwidth = model.vis.global_.offheight = pixels
    model.vis.quality.offsamples = samples
    data, scene, options = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=3000), mujoco.MjvOption()
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        scene.flags[flag] = False
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = CAMERA_DISTANCE, 0.0, -90.0
    gl, context = open_contexts(model, pixels, pixels)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    viewport = mujoco.MjrRect(0, 0, pixels, pixels)

    def render(row: NDArray[np.float32]) -> NDArray[np.float64]:
        data.qpos[:] = row[:2]
        mujoco.mj_forward(model, data)
        camera.lookat = (row[0] + 1.2, row[1] + 1.2, 0.0)
        category = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, options, None, camera, category, scene)
        frame = np.empty((pixels, pixels, 3), np.uint8)
        mujoco.mjr_render(viewport, scene, context)
        mujoco.mjr_readPixels(frame, None, viewport, context)
        averaged = frame[::-1].reshape(PIXELS, pixels // PIXELS, PIXELS, pixels // PIXELS, 3).mean(axis=(1, 3))
        return averaged / 255.0

    try:
        yield render
    finally:
        context.free()
        gl.free()


def seen_by_rays(model: mujoco.MjModel, row: NDArray[np.float32], rays_per_pixel: int) -> NDArray[np.float64]:
    """(R, R, 3): mean colour of what MuJoCo's rays hit, ``rays_per_pixel`` on each axis. Needs no graphics library."""
    data = mujoco.MjData(model)
    data.qpos[:] = row[:2]
    mujoco.mj_forward(model, data)
    count = PIXELS * rays_per_pixel
    slopes = (1.0 - 2.0 * (np.arange(count) + 0.5) / count) * np.tan(np.radians(FIELD_OF_VIEW_DEGREES / 2))
    directions = np.empty((count, count, 3))
    directions[..., 0], directions[..., 1], directions[..., 2] = slopes[:, None], slopes, -1.0
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    geoms, distances = np.empty(count**2, np.int32), np.empty(count**2)
    eye = np.array([row[0] + 1.2, row[1] + 1.2, CAMERA_DISTANCE])
    rays = directions.ravel()
    mujoco.mj_multiRay(model, data, eye, rays, None, True, -1, geoms, distances, None, count**2, mujoco.mjMAXVAL)
    assert (geoms >= 0).all()
    colours = model.mat_rgba[model.geom_matid[geoms], :3]
    return colours.reshape(PIXELS, rays_per_pixel, PIXELS, rays_per_pixel, 3).mean(axis=(1, 3))


needs_gl = pytest.mark.skipif(why_no_gl() is not None, reason=str(why_no_gl()))


@needs_gl
@pytest.mark.parametrize("name", LAYOUTS)
def test_views_are_those_of_mujocos_renderer(name: str) -> None:
    """The target is a mean absolute error of 0.03; what is left is that it takes few samples of a pixel."""
    layout = LAYOUTS[name]
    rows = random_rows(layout, 200)
    with mujoco_renderer(layout, PIXELS, samples=4) as render:
        rendered = np.array([render(row) for row in rows])
    error = np.abs(newest(layout, rows) - rendered)
    assert error.mean() < 0.005
    assert error.mean(axis=(1, 2, 3)).max() < 0.01
    assert rendered.std() > 0.1


@needs_gl
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_pixel_is_the_mean_over_its_area(name: str) -> None:
    """Of MuJoCo's picture with 32 x 32 pixels for one of ours: colours of 8 bits alone err by 0.004."""
    layout = LAYOUTS[name]
    rows = random_rows(layout, 24, seed=1)
    with mujoco_renderer(layout, 32 * PIXELS, samples=0) as render:
        rendered = np.array([render(row) for row in rows])
    assert np.abs(newest(layout, rows) - rendered).max() < 0.02


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_pixel_is_the_mean_of_its_rays(name: str) -> None:
    """The same by MuJoCo's ray casting; 8 x 8 rays miss up to a sixteenth of a pixel along an edge."""
    layout = LAYOUTS[name]
    model = coloured_model(layout)
    rows = random_rows(layout, 8, seed=2)
    error = np.abs(newest(layout, rows) - np.array([seen_by_rays(model, row, 8) for row in rows]))
    assert error.max() < 0.05
    assert error.mean() < 0.003


def test_the_frames_are_of_the_present_and_the_previous_position() -> None:
    layout = LAYOUTS["40x40"]
    views = MazeViews(layout)
    rows = random_rows(layout, 300)
    swapped = rows.copy()
    swapped[:, :2], swapped[:, 4:6] = rows[:, 4:6], rows[:, :2]
    drawn, drawn_swapped = views.draw(rows), views.draw(swapped)
    assert drawn.shape == (300, *views.shape) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:, :3], drawn_swapped[:, 3:])
    np.testing.assert_array_equal(drawn[:, 3:], drawn_swapped[:, :3])
    assert (drawn[:, :3] != drawn[:, 3:]).any(axis=(1, 2, 3)).mean() > 0.9


def test_the_older_frame_is_blank_after_a_reset() -> None:
    layout = LAYOUTS["40x40"]
    rows = random_rows(layout, 100)
    with_previous = MazeViews(layout).draw(rows)
    rows[::3, 4:6], rows[::3, 6] = -9.0, 0.0  # what is not there need not lie anywhere
    views = MazeViews(layout).draw(rows)
    assert not views[::3, 3:].any()
    kept = np.arange(100) % 3 != 0
    np.testing.assert_array_equal(views[kept], with_previous[kept])
    np.testing.assert_array_equal(views[:, :3], with_previous[:, :3])


def test_a_line_between_cells_may_lie_just_below_the_camera() -> None:
    """Positions on lines, and the next numbers on either side, look as those a thousandth beside them do."""
    layout = LAYOUTS["40x40"]
    rng = np.random.default_rng(0)
    rows = random_rows(layout, 6000)
    cells = np.rint(rows[:, :2] + 0.2)
    free = ~layout.walls
    for axis in (0, 1):
        beside = cells.astype(int)
        beside[:, axis] += 1
        on_line = free[tuple(beside.T)] & (rng.random(6000) < 0.9)
        line = (cells[:, axis] + np.float32(0.3)).astype(np.float32)
        shift = rng.integers(-1, 2, 6000)
        line = np.where(shift == 0, line, np.nextafter(line, np.where(shift > 0, np.inf, -np.inf).astype(np.float32)))
        rows[:, axis] = np.where(on_line, line, rows[:, axis])
    corners = cells.astype(int)
    rows = rows[free[corners[:, 0] + 1, corners[:, 1] + 1]]
    beside = rows.copy()
    beside[:, :2] += 0.001
    with np.errstate(all="raise"):
        error = np.abs(newest(layout, rows) - newest(layout, beside))
    assert len(rows) > 3000
    assert error.max() < 0.03


def test_a_row_looks_the_same_in_any_batch() -> None:
    layout = LAYOUTS["40x40"]
    views, rows = MazeViews(layout), random_rows(layout, 150)
    together = views.draw(rows)
    np.testing.assert_array_equal(np.concatenate([views.draw(row[None]) for row in rows]), together)
    np.testing.assert_array_equal(views.draw(rows[::-1]), together[::-1])
    assert views.draw(rows[:0]).shape == (0, *views.shape)


def test_velocity_is_not_drawn_but_motion_is() -> None:
    layout = LAYOUTS["40x40"]
    rows = np.zeros((2, OBSERVATION_DIM), np.float32)
    rows[:, :2], rows[:, 6] = (10.0, 24.0), 1.0
    rows[0, 4:6], rows[1, 4:6] = (10.0, 24.0), (9.97, 24.0)
    rows[1, 2:4] = 5.0
    still, moving = MazeViews(layout).draw(rows)
    np.testing.assert_array_equal(still[:3], moving[:3])
    np.testing.assert_array_equal(still[:3], still[3:])
    assert (moving[:3] != moving[3:]).any()


def test_scenes_are_the_walls_around_each_row() -> None:
    """Rows in several mazes at once look as each does in its own."""
    layouts = [random_layout(20, seed) for seed in range(3)]
    rows = np.concatenate([random_rows(layout, 50, seed) for seed, layout in enumerate(layouts)])
    of_row = np.repeat(np.arange(3), 50)
    order = np.random.default_rng(0).permutation(150)
    scenes = np.array([layout.walls for layout in layouts], np.uint8)[of_row]
    in_own = np.concatenate([MazeViews(layout).draw(rows[of_row == i]) for i, layout in enumerate(layouts)])
    elsewhere = MazeViews(LAYOUTS["40x40"])
    np.testing.assert_array_equal(elsewhere.draw(rows[order], scenes[order]), in_own[order])
    np.testing.assert_array_equal(elsewhere.draw(rows[:1], scenes[:1]), in_own[:1])


def test_what_cannot_be_drawn_is_refused() -> None:
    layout = LAYOUTS["random 20x20"]
    views, rows = MazeViews(layout), random_rows(layout, 3)
    with pytest.raises(ValueError, match=r"observations have shape \(3, 4\); expected \(rows, 7\)"):
        views.draw(rows[:, :4])
    with pytest.raises(ValueError, match=r"scenes have shape \(1, 22, 22\); expected \(3, X, Y\)"):
        views.draw(rows, layout.walls[None].astype(np.uint8))
    for column, value in ((0, -1.0), (1, 22.0), (4, np.nan), (5, np.inf)):
        broken = rows.copy()
        broken[1, column] = value
        with pytest.raises(ValueError, match="a position lies outside the grid of 22 x 22 cells"):
            views.draw(broken)
