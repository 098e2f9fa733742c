"""A scripted demonstrator for the Franka kitchen: every subtask, in any order, with noise for diversity.

Each subtask is a short script of straight segments (approach, contact) and of drives, in which the target follows
the object's own joint ("where the handle would be a little further open"). The numbers are those of a recipe that was
measured to work in this model (success per subtask about 100 % at action noise 0.10): the knobs are grasped and twisted
(pushed, the wrist's contact locks them), the doors are pulled by a gripper that straddles the handle, light switch
and slide cabinet are pushed with closed fingers, the kettle is lifted with both fingers under its bar.

Frames, orientations and noise: see ``motions.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from envs.kitchen.arm import Matrix, Vector
from envs.kitchen.motions import (
    CLOSED,
    JOINT,
    OPEN,
    TURN_SPEED,
    Lane,
    Script,
    approach,
    drive,
    hold,
    orientation,
    retreat,
    segment,
    transit,
    xyz,
)

HINGE_OPEN = 0.5
"""The hinge cabinet's door is in the way of some scripts beyond this angle (rad)."""


def turn_knob(lane: Lane, name: str) -> Script:
    """Grasp a burner's knob and twist the wrist."""
    goal = (0.88 if name == "bottom burner" else 0.92) - lane.uniform(0.0, 0.1)
    # With the hinge cabinet open, a level gripper would hit its door on the way to the upper knob.
    raised = name == "top burner" and lane.joint("hinge cabinet") > HINGE_OPEN
    pitch, yaw = (-0.7 if raised else 0.0) + lane.r(0.5), lane.r(0.5)
    level, ahead = orientation(pitch, yaw), approach(yaw)
    opening = 0.028 + lane.uniform(-0.004, 0.012)
    knob = lane.site(name)
    yield from segment(lane, knob - 0.09 * ahead + lane.n(1.0), level, opening, 1.1, tolerance=0.03)
    grasp = knob + 0.003 * ahead
    yield from segment(lane, grasp, level, opening, 0.7, tolerance=0.012, turn_tolerance=0.15)
    yield from hold(lane, grasp, level, CLOSED, 2)
    twist = lane.uniform(0.5, 1.2)

    def turned() -> float:
        return -lane.joint(name)

    def pose() -> tuple[Vector, Matrix]:
        return grasp, orientation(pitch, yaw, min(turned() + twist, goal + 0.6))

    yield from drive(lane, pose, CLOSED, lambda: turned() > goal, turn_speed=9.0)
    yield from retreat(lane, -0.09 * ahead, 0.03)


def flip_light(lane: Lane) -> Script:
    """Push the light switch's lever to -X with closed fingers."""
    goal = 0.66 - lane.uniform(0.0, 0.06)
    rotation = orientation(lane.r(0.6), lane.r(0.6))
    lift = xyz(0.0, 0.0, lane.uniform(-0.006, 0.006))
    lever = lane.site("light switch") + lift
    beside = lever + xyz(0.052, -0.10, 0.0) + lane.n(1.0)
    yield from segment(lane, beside, rotation, CLOSED, 1.1, tolerance=0.03)
    yield from segment(lane, lever + xyz(0.050, 0.006, 0.0), rotation, CLOSED, 0.7, tolerance=0.016)

    def pushed() -> float:
        return -lane.joint("light switch")

    def pose() -> tuple[Vector, Matrix]:
        angle = -min(pushed() + 0.6, goal + 0.3)
        tip = lane.turned_site("light switch", angle)
        along = tip - lane.arm.hinge(lane.index, JOINT["light switch"])[0]
        along /= np.linalg.norm(along)
        return tip + lift + 0.025 * xyz(-along[1], along[0], 0.0), rotation

    yield from drive(lane, pose, CLOSED, lambda: pushed() > goal)
    yield from retreat(lane, xyz(0.02, -0.10, 0.0), CLOSED)


def open_slide_cabinet(lane: Lane) -> Script:
    """Push the handle to +X with closed fingers; with the hinge door open there is no room beside it: grasp it."""
    goal = 0.37 - lane.uniform(0.0, 0.03)
    if lane.joint("hinge cabinet") > HINGE_OPEN:
        yield from _pull_slide_cabinet(lane, goal)
        return
    pitch, yaw = lane.r(1.0), lane.r(1.0)
    drop = xyz(0.0, 0.0, -0.06 + lane.uniform(-0.04, 0.05))
    handle = lane.site("slide cabinet") + drop
    rotation = orientation(pitch, yaw)
    yield from segment(lane, handle + xyz(-0.065, -0.10, 0.0) + lane.n(1.0), rotation, CLOSED, 1.1, tolerance=0.03)
    yield from segment(lane, handle + xyz(-0.062, 0.0, 0.0), rotation, CLOSED, 0.8, tolerance=0.025)

    def pose() -> tuple[Vector, Matrix]:
        opened = lane.joint("slide cabinet")
        ahead = -0.038 + min(0.20, goal + 0.06 - opened)
        return lane.site("slide cabinet") + drop + xyz(ahead, 0.0, 0.0), orientation(pitch, yaw - 0.5 * opened)

    yield from drive(lane, pose, CLOSED, lambda: lane.joint("slide cabinet") > goal, lead=0.14)
    yield from retreat(lane, xyz(-0.03, -0.12, 0.0), CLOSED)


def _pull_slide_cabinet(lane: Lane, goal: float) -> Script:
    yaw = 0.6 + lane.r(1.0)
    ahead, drop = approach(yaw), xyz(0.0, 0.0, -0.08 + lane.uniform(-0.02, 0.02))
    rotation = orientation(0.0, yaw)
    yield from segment(lane, xyz(0.10, 0.25, 2.5) + lane.n(1.0), rotation, OPEN, 1.1, tolerance=0.05)
    handle = lane.site("slide cabinet") + drop
    yield from segment(lane, handle - 0.11 * ahead, rotation, OPEN, 1.1, tolerance=0.03)
    yield from segment(lane, handle + 0.015 * ahead, rotation, OPEN, 0.7)
    yield from hold(lane, handle + 0.015 * ahead, rotation, CLOSED, 2)

    def pose() -> tuple[Vector, Matrix]:
        opened = lane.joint("slide cabinet")
        pulled = lane.site("slide cabinet") + drop + xyz(min(0.12, goal + 0.06 - opened), 0.0, 0.0)
        return pulled + 0.015 * ahead, orientation(0.0, yaw - 0.5 * opened)

    yield from drive(lane, pose, CLOSED, lambda: lane.joint("slide cabinet") > goal, lead=0.10)
    yield from retreat(lane, -0.12 * ahead, OPEN)


@dataclass(frozen=True)
class _Door:
    """How a hinged door is pulled open by its handle; ``sign`` is the sense of its joint."""

    name: str
    sign: float
    goal: tuple[float, float]
    """Range of the opening angle at which to let go (rad)."""
    yaw: float
    yaw_noise: float
    drop: tuple[float, float]
    """Range of the height of the grasp relative to the handle's site (m)."""
    step: float
    """How far ahead of the door the hand is driven (rad)."""
    beyond: float
    """How far beyond the goal, at most (rad)."""
    yaw_offset: float
    yaw_per_angle: float
    turn_speed: float
    enough: float
    """An opening below this is tried again."""
    approach_noise: float
    approach_tolerance: float
    max_env_steps: int


_HINGE_DOOR = _Door(
    "hinge cabinet", 1.0, (1.34, 1.42), 0.0, 0.8, (-0.11, -0.03), 0.18, 0.15, 0.0, 0.35, 9.0, 1.2, 1.0, 0.03, 60
)
_MICROWAVE_DOOR = _Door(
    "microwave", -1.0, (0.75, 0.95), 0.3, 1.0, (-0.06, 0.06), 0.13, 0.05, 0.1, 0.1, TURN_SPEED, 0.55, 1.5, 0.04, 45
)
_INSERTION = 0.034
"""Finger tips go this far beyond the handle: less than 0.03 loses the grip (m)."""
_GRIP_LOST = 0.085
"""Beyond this distance of the tool centre point from the handle the grip is lost (m)."""


def pull_door(lane: Lane, door: _Door) -> Script:
    """Straddle the handle and pull it along its arc; up to three attempts."""
    for _ in range(3):
        yield from _pull_door_once(lane, door)
        if door.sign * lane.joint(door.name) >= door.enough:
            return


def _pull_door_once(lane: Lane, door: _Door) -> Script:
    goal = lane.uniform(*door.goal)

    def opened() -> float:
        return door.sign * lane.joint(door.name)

    base_yaw = door.yaw + lane.r(door.yaw_noise)
    first_yaw = base_yaw + door.yaw_per_angle * opened()
    drop = xyz(0.0, 0.0, lane.uniform(*door.drop))
    ahead, rotation, handle = approach(first_yaw), orientation(0.0, first_yaw), lane.site(door.name) + drop
    noise = lane.n(door.approach_noise)
    yield from segment(
        lane, handle - 0.11 * ahead + noise, rotation, OPEN, 1.1, tolerance=door.approach_tolerance, max_env_steps=45
    )
    grasp = lane.site(door.name) + drop + _INSERTION * ahead
    yield from segment(lane, grasp, rotation, OPEN, 0.7)
    yield from hold(lane, grasp, rotation, CLOSED, 3)

    def pose() -> tuple[Vector, Matrix]:
        angle = min(goal + door.beyond, opened() + door.step)
        yaw = base_yaw + door.yaw_offset + door.yaw_per_angle * angle
        point = lane.turned_site(door.name, door.sign * angle) + drop + _INSERTION * approach(yaw)
        return point, orientation(0.0, yaw)

    def stop() -> bool:
        lost = np.linalg.norm(lane.tool - lane.site(door.name) - drop) > _GRIP_LOST
        return opened() > goal or bool(lost)

    yield from drive(lane, pose, CLOSED, stop, lead=0.14, turn_speed=door.turn_speed, max_env_steps=door.max_env_steps)
    backwards = -lane.rotation[:, 2] * [1.0, 1.0, 0.0]
    yield from retreat(lane, 0.11 * backwards / np.linalg.norm(backwards), OPEN)


def open_hinge_cabinet(lane: Lane) -> Script:
    return pull_door(lane, _HINGE_DOOR)


def open_microwave(lane: Lane) -> Script:
    yield from transit(lane, lane.site("microwave") - 0.11 * approach(_MICROWAVE_DOOR.yaw))
    yield from pull_door(lane, _MICROWAVE_DOOR)


def move_kettle(lane: Lane) -> Script:
    """Lift the kettle with both fingers under its bar, carry it back, put it down."""
    yield from transit(lane, lane.site("kettle") + xyz(-0.04, -0.10, -0.043))
    rotation = orientation(-0.08 + lane.r(0.5), lane.r(0.5))
    fingers = 0.026 + lane.uniform(-0.006, 0.006)
    bar = lane.site("kettle")
    before = bar + xyz(-0.04, -0.10, -0.043) + lane.n(1.0)
    yield from segment(lane, before, rotation, fingers, 1.1, tolerance=0.04, max_env_steps=30)
    under = bar + xyz(0.0, 0.03, -0.058)
    yield from segment(lane, under, rotation, fingers, 0.7, tolerance=0.015)
    height = bar[2] - 0.038 + lane.uniform(0.027, 0.050)
    yield from segment(lane, xyz(under[0], under[1], height), rotation, fingers, 0.5)
    x, y = -0.23 + lane.uniform(-0.01, 0.02), 0.735 + lane.uniform(-0.03, 0.015) + 0.03
    there = xyz(x, y, height)
    yield from segment(lane, there, rotation, fingers, 0.65, tolerance=0.03, turn_tolerance=0.4)
    down = xyz(x, y, bar[2] - 0.070)
    yield from segment(lane, down, rotation, fingers, 0.5, stop=lambda: lane.kettle_height < 1.623)
    yield from segment(lane, lane.tool + xyz(0.0, -0.14, 0.0), lane.rotation, fingers, 1.1, tolerance=0.03)


_SCRIPTS: dict[str, Callable[[Lane], Script]] = {
    "bottom burner": lambda lane: turn_knob(lane, "bottom burner"),
    "top burner": lambda lane: turn_knob(lane, "top burner"),
    "light switch": flip_light,
    "slide cabinet": open_slide_cabinet,
    "hinge cabinet": open_hinge_cabinet,
    "microwave": open_microwave,
    "kettle": move_kettle,
}


def demonstrate(lane: Lane, subtasks: Sequence[str]) -> Script:
    """The script of a whole demonstration. Raises ``KeyError`` for a name that is no subtask."""
    for name in subtasks:
        yield from _SCRIPTS[name](lane)
