"""Offscreen OpenGL for pictures of MuJoCo's worlds: which library draws, and a one-line error where none can.

MuJoCo chooses when it is imported: it reads ``MUJOCO_GL`` and without it takes GLFW, which needs a display. When a
picture is asked for, MuJoCo has long been imported to simulate. So the choice is made here, at that time, and MuJoCo
draws into the context that this module opens: the library that ``MUJOCO_GL`` names or, where it names none, the first
of EGL and OSMesa that this machine has.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

from envs.core import PictureError

_LIBRARIES = {"egl": ("libEGL.so", "libegl1 libgl1 libgl1-mesa-dri"), "osmesa": ("libOSMesa.so", "libosmesa6")}
"""Value of MUJOCO_GL -> (shared library, packages of Debian that hold it and what it needs)."""
_OFF = ("disable", "disabled", "off", "false", "0")
_UNDECIDED = ("", "enable", "enabled", "on", "true", "1", "glx")
"""Values with which MuJoCo itself would take GLFW on Linux."""


def why_mujoco_fails() -> str | None:
    """Why MuJoCo cannot even be imported on Linux, in one line: ``MUJOCO_GL`` names no library that is here.

    None when it can. Its own error would be PyOpenGL's: 'NoneType' object has no attribute 'glGetError'.
    """
    wanted = _wanted()
    if sys.platform != "linux" or wanted in ("glfw", *_OFF, *_UNDECIDED):
        return None
    if wanted not in _LIBRARIES:
        return f"MUJOCO_GL is {wanted!r}; valid: {', '.join(_LIBRARIES)}, glfw, disable, or unset"
    if _can_be_loaded(wanted):
        return None
    return f"MUJOCO_GL={wanted}, but {_not_found(wanted)}; where nothing is drawn, unset MUJOCO_GL"


def why_no_gl() -> str | None:
    """Why nothing can be drawn here, in one line that says what to install; None where a library was found.

    A library that is found may still fail when it is used: for want of a driver, or of a display (GLFW).
    """
    wanted = _wanted()
    if wanted in _OFF:
        return f"MUJOCO_GL={wanted} turns drawing off; unset it, or set it to {' or '.join(_LIBRARIES)}"
    opengl = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if opengl and wanted not in _OFF and sys.platform == "linux":
        drawn_by = wanted if wanted not in _UNDECIDED else next(filter(_can_be_loaded, _LIBRARIES), "")
        if drawn_by in _LIBRARIES and opengl != drawn_by:
            return f"PYOPENGL_PLATFORM={opengl} does not go with drawing by {drawn_by}: unset it"
    reason = why_mujoco_fails()
    if reason or wanted not in _UNDECIDED or sys.platform != "linux" or any(map(_can_be_loaded, _LIBRARIES)):
        return reason
    return f"nothing to draw with: {'; or '.join(map(_not_found, _LIBRARIES))}"


def open_contexts(model: Any, width: int, height: int) -> tuple[Any, Any]:
    """MuJoCo's ``GLContext`` of ``width`` x ``height`` pixels, made current, and the ``MjrContext`` of ``model`` in it.

    Raises ``PictureError``, its message one line.
    """
    import mujoco

    reason = why_no_gl()
    if reason is not None:
        raise PictureError(reason)
    name = library_name()
    try:
        gl_context = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
        gl_context.make_current()
        return gl_context, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    except Exception as error:  # drivers and PyOpenGL raise anything from AttributeError to classes of their own
        text = " ".join(str(error).split())
        remedies = (
            [f"apt-get install {_LIBRARIES[name][1]} (Debian) brings what it needs"] if name in _LIBRARIES else []
        )
        remedies += [f"MUJOCO_GL={other} draws with another library" for other in _LIBRARIES if other != name]
        raise PictureError(
            f"drawing with {name} failed ({type(error).__name__}: {text:.200}); {'; '.join(remedies)}"
        ) from error


def _wanted() -> str:
    return os.environ.get("MUJOCO_GL", "").lower().strip()


def library_name() -> str:
    """Which of MuJoCo's modules opens the context, where ``why_no_gl`` is None."""
    wanted = _wanted()
    if sys.platform != "linux":
        return "cgl" if sys.platform == "darwin" and wanted != "glfw" else "glfw"
    if wanted not in _UNDECIDED:
        return wanted
    return next(filter(_can_be_loaded, _LIBRARIES))


def _can_be_loaded(name: str) -> bool:
    """Whether PyOpenGL, which tries the same file names, will find the shared library."""
    file_name = _LIBRARIES[name][0]
    for candidate in (file_name, *(f"{file_name}.{version}" for version in range(10))):
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return True
    return False


def _not_found(name: str) -> str:
    library, packages = _LIBRARIES[name]
    return f"{library} is not found: apt-get install {packages} (Debian), with MUJOCO_GL={name}"
