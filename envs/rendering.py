"""Off-screen pictures of MuJoCo scenes, and which graphics library draws them.

MuJoCo reads MUJOCO_GL once, when it is first imported, and a value whose library is missing kills
that import. So `choose_backend` tries the libraries first, and must run before `import mujoco`.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from telic.spec import Array

DEBIAN_PACKAGES: Final = "libegl1 libgl1 libgl1-mesa-dri"
_RENDERERS: weakref.WeakSet[SceneRenderer] = weakref.WeakSet()
_SWITCHED_OFF: Final = ("disable", "disabled", "off", "false", "0")


def _loads(*names: str) -> bool:
    """Return whether any of the shared libraries can be loaded."""
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _available(backend: str) -> bool:
    if backend == "egl":
        return _loads("libEGL.so.1") and _loads("libOpenGL.so.0", "libGL.so.1")
    if backend == "osmesa":
        return _loads("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
    return False


@cache
def choose_backend() -> str | None:
    """Return "egl", "osmesa", "glfw" or None, what will draw, and set MUJOCO_GL to match.

    A backend named by MUJOCO_GL is kept where its library loads; "glfw" needs a display. None
    means that no picture can be drawn; everything else works.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in _SWITCHED_OFF:
        return None
    if sys.platform != "linux":
        return "glfw"  # a desktop: MuJoCo's own choice
    has_display = bool(os.environ.get("DISPLAY"))
    for backend in sorted(("egl", "osmesa", "glfw"), key=lambda backend: backend != asked):
        if has_display if backend == "glfw" else _available(backend):
            os.environ["MUJOCO_GL"] = backend
            if backend != "glfw":
                os.environ["PYOPENGL_PLATFORM"] = backend
            return backend
    os.environ["MUJOCO_GL"] = "disable"
    return None


def load_mujoco() -> Any:
    """Return the `mujoco` module, imported after the backend is chosen."""
    choose_backend()
    import mujoco

    return mujoco


def _load_triton() -> None:
    """Load torch's kernel compiler, where there is one, before Mesa.

    Both carry an LLVM. With Mesa's there first, loading triton's ends the process with SIGSEGV
    (Mesa 22.3, triton 3.8), and torch loads it without being asked. 0.06 s, whoever is first.
    """
    triton = importlib.util.find_spec("triton")
    for folder in (triton.submodule_search_locations or []) if triton is not None else []:
        library = Path(folder) / "_C" / "libtriton.so"
        if library.is_file():
            ctypes.CDLL(str(library))


@cache
def _context() -> Any:
    """Return the OpenGL context that every scene of this process is drawn in.

    Raises whatever a library raises without one: GLFW gives a context without a display too, in
    which only drawing fails, so a first buffer is made here.
    """
    _load_triton()
    import mujoco  # not before the backend is chosen

    context: Any = mujoco.GLContext.__new__(mujoco.GLContext)
    context._context = None  # else its destructor complains where its constructor has failed
    with warnings.catch_warnings(action="ignore"):  # GLFW's are in the error that comes
        context.__init__(640, 480)
        context.make_current()
    empty = mujoco.MjModel.from_xml_string("<mujoco/>")
    mujoco.MjrContext(empty, mujoco.mjtFontScale.mjFONTSCALE_100).free()
    atexit.register(_free_all)  # after MuJoCo has registered the end of its display, so before it
    return context


def _free_all() -> None:
    """Free every buffer and then the context.

    At the end of the process, while OpenGL is still there: the modules that a destructor needs are
    gone, or the display is, when Python takes apart what is left.
    """
    for renderer in list(_RENDERERS):
        renderer.close()
    _context.cache_clear()


def require_rendering() -> None:
    """Raise ValueError, in one line with the way out, unless pictures can be drawn here."""
    if choose_backend() is None:
        libraries_are_there = _available("egl") or _available("osmesa")
        why = (
            f"MUJOCO_GL={os.environ['MUJOCO_GL']} switches rendering off"
            if libraries_are_there
            else "the libraries for off-screen rendering are missing"
        )
        raise ValueError(f"cannot draw camera pictures: {why}; {_WAY_OUT}")
    import mujoco
    from OpenGL.error import Error as OpenGLError

    try:
        _context()
    except (ImportError, RuntimeError, AttributeError, OpenGLError, mujoco.FatalError) as error:
        text = str(error) if isinstance(error, ImportError) else f"{type(error).__name__} in OpenGL"
        if choose_backend() == "glfw":
            text = f"MUJOCO_GL=glfw opens no window on DISPLAY={os.environ.get('DISPLAY', '')}"
        raise ValueError(f"cannot draw camera pictures: {text}; {_WAY_OUT}") from error


_WAY_OUT: Final = (
    f"leave MUJOCO_GL unset (on Debian or Ubuntu with `apt-get install {DEBIAN_PACKAGES}`), "
    "or ask for no cameras and no videos"
)


class SceneRenderer:
    """Pictures of one MuJoCo model from its named cameras, at any size.

    Shadows, reflections and multisampling are switched off in `model`: on a CPU they make a
    picture 7 to 13 times slower. `decorate(scene, data)` may add to an MjvScene before it is drawn.
    """

    def __init__(self, model: Any, decorate: Callable[[Any, Any], None] | None = None) -> None:
        require_rendering()
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._decorate = decorate
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._buffer: Any = None
        _RENDERERS.add(self)

    def picture(self, data: Any, camera: str, size: tuple[int, int]) -> Array:
        """Return what `camera` sees, u8 [h w 3] with size = (h, w), row 0 at the camera's top."""
        rect = self._render(data, camera, size)
        pixels = np.empty((*size, 3), np.uint8)
        self._mujoco.mjr_readPixels(pixels, None, rect, self._buffer)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the lowest

    def depth(self, data: Any, camera: str, size: tuple[int, int]) -> Array:
        """Return how far along its axis what `camera` sees is, f32 [h w] in the model's unit."""
        rect = self._render(data, camera, size)
        buffer = np.empty(size, np.float32)
        self._mujoco.mjr_readPixels(None, buffer, rect, self._buffer)
        planes = self._model.vis.map
        near, far = (plane * self._model.stat.extent for plane in (planes.znear, planes.zfar))
        reciprocal = buffer * (1 / far - 1 / near) + 1 / near  # 0 is the near plane, 1 the far one
        return (1 / reciprocal[::-1]).astype(np.float32)

    def _render(self, data: Any, camera: str, size: tuple[int, int]) -> Any:
        """Draw into the off-screen buffer and return the rectangle that the picture fills."""
        height, width = size
        mujoco = self._mujoco
        _context().make_current()
        self._grow_buffer(height, width)
        self._camera.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._options,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        if self._decorate is not None:
            self._decorate(self._scene, data)
        rect = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffer)
        mujoco.mjr_render(rect, self._scene, self._buffer)
        return rect

    def _grow_buffer(self, height: int, width: int) -> None:
        """Make the off-screen buffer at least `height` x `width`."""
        offscreen = self._model.vis.global_
        if self._buffer is not None:
            if height <= offscreen.offheight and width <= offscreen.offwidth:
                return
            self._buffer.free()
        offscreen.offheight = max(height, offscreen.offheight)
        offscreen.offwidth = max(width, offscreen.offwidth)
        self._buffer = self._mujoco.MjrContext(
            self._model, self._mujoco.mjtFontScale.mjFONTSCALE_100
        )

    def close(self) -> None:
        """Give the buffer's memory back; the next picture makes a new one."""
        if self._buffer is not None:
            _context().make_current()
            self._buffer.free()
            self._buffer = None
