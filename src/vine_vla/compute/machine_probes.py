"""What `vine doctor` tries out in a process of its own, because a broken driver may take it down.

    python -m vine_vla.compute.machine_probes render     # draws one MuJoCo frame, prints JSON
    python -m vine_vla.compute.machine_probes torch      # imports torch, prints JSON

A probe prints one JSON object on the last line of stdout, or dies with a traceback on stderr.
"""

import json
import sys
import time
from typing import Any

SCENE = """
<mujoco>
  <visual><quality offsamples="0"/></visual>
  <worldbody>
    <light pos="0 0 2" castshadow="false"/>
    <geom type="plane" size="1 1 .1" rgba=".2 .2 .2 1"/>
    <geom type="box" size=".2 .2 .2" pos="0 0 .2" rgba="1 0 0 1"/>
    <camera name="front" pos="0 -1.5 .6" xyaxes="1 0 0 0 .3 1"/>
  </worldbody>
</mujoco>
"""


def render() -> dict[str, Any]:
    """Draw a red box with MuJoCo off screen; `red` counts its pixels of 96 x 96, `ms` is one frame."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 96, 96)
    renderer.update_scene(data, "front")
    frame = renderer.render()
    started = time.perf_counter()
    for _ in range(5):
        renderer.update_scene(data, "front")
        renderer.render(out=frame)
    elapsed = (time.perf_counter() - started) / 5
    red = int(((frame[..., 0] > 100) & (frame[..., 1] < 60)).sum())
    renderer.close()
    return {"red": red, "ms": round(1000 * elapsed, 2)}


def torch() -> dict[str, Any]:
    """Import torch and name the accelerators it can use."""
    import torch as library

    gpus = []
    if library.cuda.is_available():
        gpus = [library.cuda.get_device_name(i) for i in range(library.cuda.device_count())]
    elif library.backends.mps.is_available():
        gpus = ["mps"]
    return {"version": library.__version__, "gpus": gpus, "threads": library.get_num_threads()}


if __name__ == "__main__":
    print(json.dumps({"render": render, "torch": torch}[sys.argv[1]]()))  # noqa: T201
