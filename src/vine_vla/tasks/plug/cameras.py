"""Cameras: images at 192 px and the projection of points into them.

Shadows and reflections are off and multisampling is zero: on a CPU that draws five to ten times as many
frames.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported: a server has no window system
os.environ.setdefault("LP_NUM_THREADS", "1")  # the software renderer: processes scale, threads do not

import mujoco
import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Box
from vine_vla.tasks.plug.spec import ROLES, SIZE

_OPEN: weakref.WeakSet[Cameras] = weakref.WeakSet()
"""Cameras with a renderer: one that is freed after the GL library complains."""


def _close_all() -> None:
    for cameras in list(_OPEN):
        cameras.close()


class Cameras:
    """Renders and projects; the renderer is created at the first image, in the process that asks for it."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, size: int = SIZE) -> None:
        self.model, self.data, self.size = model, data, size
        self._ids = {role: model.camera(role).id for role in ROLES}
        self._renderer: mujoco.Renderer | None = None

    def render(self) -> dict[str, NDArray[np.uint8]]:
        """Camera role -> RGB image, uint8 [size, size, 3]."""
        if self._renderer is None:
            self._renderer = self._create()
            # MuJoCo has by now asked for the end of GL at exit; what is registered later runs before that.
            if not _OPEN:
                atexit.register(_close_all)
            _OPEN.add(self)
        images = {}
        for role, camera in self._ids.items():
            self._renderer.update_scene(self.data, camera)
            flags = self._renderer.scene.flags
            flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            images[role] = self._renderer.render()
        return images

    def _create(self) -> mujoco.Renderer:
        try:
            return mujoco.Renderer(self.model, self.size, self.size)
        except Exception as error:  # whatever the OpenGL loader throws: there are several kinds
            raise VineError(
                f"cannot render: {error}", where=f"MUJOCO_GL={os.environ.get('MUJOCO_GL')}",
                hint="set MUJOCO_GL=egl before mujoco is imported; `vine doctor` checks EGL",
            ) from error  # fmt: skip

    def close(self) -> None:
        """Free the renderer; it is created again when needed."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def project(self, role: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """World points [..., 3] (m) to [..., 3]: x and y in image widths from the top left, and depth (m)."""
        camera = self._ids[role]
        rotation = self.data.cam_xmat[camera].reshape(3, 3)
        local = (points - self.data.cam_xpos[camera]) @ rotation
        depth = -local[..., 2]
        focal = 0.5 / np.tan(np.deg2rad(self.model.cam_fovy[camera]) / 2)
        safe = np.maximum(depth, 1e-3)
        x = 0.5 + focal * local[..., 0] / safe
        y = 0.5 - focal * local[..., 1] / safe
        return np.stack([x, y, depth], axis=-1)

    def boxes(
        self, role: str, clouds: Sequence[NDArray[np.float64]], least: float = 0.25
    ) -> list[Box | None]:
        """Amodal boxes around clouds of points [N, 3], clipped to the image.

        None for a cloud of whose box less than `least` is inside, or of which no two points are before the
        camera.
        """
        seen = self.project(role, np.concatenate(clouds))
        found: list[Box | None] = []
        start = 0
        for cloud in clouds:
            points = seen[start : start + len(cloud)]
            start += len(cloud)
            points = points[points[:, 2] > 0.01]
            if len(points) < 2:
                found.append(None)
                continue
            (x0, y0, _), (x1, y1, _) = points.min(0).tolist(), points.max(0).tolist()
            inner = max(min(x1, 1.0) - max(x0, 0.0), 0.0) * max(min(y1, 1.0) - max(y0, 0.0), 0.0)
            area = (x1 - x0) * (y1 - y0)
            inside = area > 0 and inner >= least * area
            found.append(Box(max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)) if inside else None)
        return found
