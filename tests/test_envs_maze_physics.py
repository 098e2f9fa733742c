"""The four-box window against the full model, and what is assumed about MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from envs.maze.layout import Layout, random_layout, reference_layout
from envs.maze.physics import CONTACT_MARGIN, MAX_SPEED, PointMassBatch, full_model, model_xml

LANES = 12
ENV_STEPS = 500


def random_run(
    layout: Layout, threads: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Start positions (L, 2), velocities (L, 2), controls (T, L, 2) and states (T, L, 4) of a window run."""
    rng = np.random.default_rng(seed)
    positions = layout.free_cells[rng.integers(len(layout.free_cells), size=LANES)] - 0.2
    positions = positions + rng.uniform(-0.3, 0.3, size=positions.shape)
    velocities = rng.normal(0.0, 4.0, size=(LANES, 2))
    controls = np.repeat(rng.uniform(-1, 1, size=(ENV_STEPS // 20, LANES, 2)), 20, axis=0)
    batch = PointMassBatch(layout, LANES, threads)
    batch.reset(positions, velocities)
    states = np.empty((ENV_STEPS, LANES, 4))
    for env_step in range(ENV_STEPS):
        batch.controls[:] = controls[env_step]
        batch.step()
        states[env_step] = np.hstack([batch.positions, batch.velocities])
    return positions, velocities, controls, states


@pytest.mark.parametrize("layout", [reference_layout(20), random_layout(12, seed=3)], ids=lambda layout: layout.name)
def test_window_is_bit_identical_to_all_boxes(layout: Layout) -> None:
    positions, velocities, controls, states = random_run(layout)
    model = full_model(layout)
    assert model.ngeom == layout.walls.sum() + 1
    contacts = 0
    for lane in range(LANES):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = positions[lane], velocities[lane]
        for env_step in range(ENV_STEPS):
            data.qvel[:] = np.clip(data.qvel, -MAX_SPEED, MAX_SPEED)
            data.ctrl[:] = controls[env_step, lane]
            mujoco.mj_step(model, data)
            contacts += data.ncon
            np.testing.assert_array_equal(np.hstack([data.qpos, data.qvel]), states[env_step, lane])
    assert contacts > 500, "the run must hit walls for the comparison to mean anything"


def test_lanes_in_layouts_of_their_own_move_as_each_would_alone() -> None:
    layouts = [random_layout(20, seed) for seed in range(6)]
    rng = np.random.default_rng(0)
    starts = np.array([layout.free_cells[rng.integers(len(layout.free_cells))] - 0.2 for layout in layouts])
    velocities, controls = rng.normal(0.0, 4.0, (6, 2)), np.repeat(rng.uniform(-1, 1, (25, 6, 2)), 20, axis=0)
    lanes = np.array([0, 2, 3, 5])
    alone = [PointMassBatch(layout, 1) for layout in layouts]
    together = PointMassBatch(layouts, 6)
    together.reset(starts, velocities)
    for lane, batch in enumerate(alone):
        batch.reset(starts[lane : lane + 1], velocities[lane : lane + 1])
    for env_step, control in enumerate(controls):
        some = lanes if env_step % 3 == 0 else None
        together.controls[:] = control
        together.step(some)
        for lane in range(6) if some is None else lanes:
            alone[lane].controls[:] = control[lane]
            alone[lane].step()
        np.testing.assert_array_equal(together.positions, np.concatenate([batch.positions for batch in alone]))
    other = PointMassBatch(layouts[0], 6)
    other.reset(starts, velocities)
    for control in controls:
        other.controls[:] = control
        other.step()
    assert (other.positions != together.positions).any(axis=1).sum() > 3, "the layouts must matter"


def test_layouts_must_fit_the_lanes() -> None:
    same, larger = random_layout(20, 0), random_layout(21, 0)
    for layouts in ([same], [same, same, same], [same, larger], []):
        with pytest.raises(ValueError, match=f"{len(layouts)} layouts for 2 lanes; need one, or one of equal size"):
            PointMassBatch(layouts, 2)


def test_threads_change_nothing() -> None:
    np.testing.assert_array_equal(
        random_run(reference_layout(20), threads=1)[3], random_run(reference_layout(20), 2)[3]
    )


def test_particles_stay_out_of_walls() -> None:
    layout = reference_layout(20)
    positions = random_run(layout, seed=5)[3][..., :2].reshape(-1, 2)
    cells = np.rint(positions + 0.2).astype(int)
    assert not layout.walls[cells[:, 0], cells[:, 1]].any()


def test_velocity_is_clipped_before_the_step() -> None:
    batch = PointMassBatch(reference_layout(20), 1)
    batch.reset(np.array([[10.0, 10.0]]), np.array([[50.0, -50.0]]))
    batch.controls[:] = (1.0, 0.0)
    batch.step()
    mass = 1000.0 * 4.0 / 3.0 * np.pi * 0.1**3
    # Euler with implicit damping: (m + h d) dv = h (force - d v).
    gain = 0.01 / (mass + 0.01)
    expected = np.array([5.0 + gain * (100.0 - 5.0), -5.0 + gain * 5.0])
    np.testing.assert_allclose(batch.velocities[0], expected, rtol=1e-12)
    np.testing.assert_allclose(batch.positions[0], 10.0 + 0.01 * expected, rtol=1e-12)


def test_stepping_some_lanes_leaves_the_others_alone() -> None:
    batch = PointMassBatch(reference_layout(20), 5)
    batch.reset(np.full((5, 2), 10.0), np.ones((5, 2)))
    batch.step(np.array([1, 3]))
    assert (batch.positions[[0, 2, 4]] == 10.0).all()
    assert (batch.positions[[1, 3]] > 10.0).all()


def test_bad_sizes_are_refused() -> None:
    for lanes, threads in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            PointMassBatch(reference_layout(20), lanes, threads)


def test_tacit_mujoco_adds_the_margins_of_two_geoms() -> None:
    model = mujoco.MjModel.from_xml_string(model_xml(np.array([[3.0, 1.2]])))
    data = mujoco.MjData(model)
    for gap, num_contacts in ((0.9 * CONTACT_MARGIN, 1), (1.1 * CONTACT_MARGIN, 0)):
        # The box's near face is at world 2.5, the body's origin at 1.2, the radius 0.1.
        data.qpos[:] = (2.5 - 1.2 - 0.1 - gap, 0.0)
        mujoco.mj_forward(model, data)
        assert data.ncon == num_contacts, "MuJoCo < 4 takes the larger margin: GEOM_MARGIN must change with it"
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert model.opt.iterations == 20
