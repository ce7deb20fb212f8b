"""This machine: whether it has what VINE needs, and how to get what is missing.

Renders a frame, encodes and decodes a video, compares the installed packages with the lock file, looks at
disk, memory, cores and accelerators.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

EGL_PACKAGES = "libegl1 libgl1-mesa-dri"
PYTHON_NEEDED = (3, 12)
REPAIR = "run `make clean-env bootstrap` (or `sh tools/bootstrap.sh` after removing .venv)"
ROOT = Path(__file__).resolve().parents[3]

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One finding: `warning` does not stop VINE from working, `failed` does."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def check_machine(folder: Path) -> list[Check]:
    """Every check; `folder` is where runs are written."""
    return [
        check_python(),
        check_versions(),
        check_rendering(),
        check_video("h264"),
        check_video("av1"),
        check_torch(),
        check_disk(folder),
        check_memory(),
    ]


def check_python() -> Check:
    """The interpreter's version."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < PYTHON_NEEDED:
        wanted = ".".join(map(str, PYTHON_NEEDED))
        return Check(
            "python", "failed", detail, f"VINE needs Python >= {wanted}: `PYTHON=... make bootstrap`"
        )
    return Check("python", "ok", detail)


def check_versions(lock: Path | None = None) -> Check:
    """Installed packages against the lock file or, without one, against what the project declares.

    A package at another version than the lock's works as a rule (warning) unless it breaks what the
    project declares; a missing one is a failure.
    """
    from packaging.requirements import Requirement

    lock = lock or ROOT / "requirements.lock"
    declared = [Requirement(line) for line in metadata.requires("vine-vla") or []]
    needed = [wanted for wanted in declared if wanted.marker is None or wanted.marker.evaluate({"extra": ""})]
    missing, broken, drifted, count = [], [], [], len(needed)
    for wanted in needed:
        installed = _installed(wanted.name)
        if installed is None:
            missing.append(wanted.name)
        elif not wanted.specifier.contains(installed, prereleases=True):
            broken.append(f"{wanted.name} {installed} (needs {wanted.specifier})")
    if lock.is_file():
        pins = list(_read_lock(lock.read_text(encoding="utf-8").splitlines()))
        count = len(pins)
        for name, version in pins:
            installed = _installed(name)
            if installed is None:
                missing.append(name)
            elif installed != version:
                drifted.append(f"{name} {installed} (lock: {version})")
    if missing or broken:
        parts = [f"missing: {', '.join(sorted(set(missing)))}"] if missing else []
        parts += [f"unsuitable: {', '.join(broken)}"] if broken else []
        return Check("packages", "failed", "; ".join(parts), REPAIR)
    if drifted:
        return Check("packages", "warning", f"other than locked: {', '.join(drifted)}", REPAIR)
    source = "as locked" if lock.is_file() else "as declared (no requirements.lock beside this installation)"
    return Check("packages", "ok", f"{count} {source}; mujoco {_installed('mujoco')}")


def check_rendering() -> Check:
    """Draw a small MuJoCo scene without a screen, in a process of its own."""
    backend = os.environ.get("MUJOCO_GL", "egl")
    result, problem = _probe("render", {"MUJOCO_GL": backend})
    fix = (
        f"install the software renderer: `apt-get install -y --no-install-recommends {EGL_PACKAGES}`"
        if backend == "egl"
        else f"MUJOCO_GL={backend} does not work here: use `export MUJOCO_GL=egl` ({EGL_PACKAGES})"
    )
    if result is None:
        return Check("rendering", "failed", f"MuJoCo cannot draw with MUJOCO_GL={backend}: {problem}", fix)
    if not 200 < result["red"] < 5000:
        return Check("rendering", "failed", f"{backend} draws a wrong picture ({result['red']} red px)", fix)
    if result["ms"] > 20:
        return Check("rendering", "warning", f"{backend} is slow: {result['ms']} ms for a 96 px frame", "")
    return Check("rendering", "ok", f"{backend}, {result['ms']} ms for a 96 px frame")


def check_video(codec: Literal["h264", "av1"]) -> Check:
    """Encode eight frames with the codec, decode them again, compare the pictures."""
    name = f"video {codec}"
    fix = f"reinstall PyAV, whose wheel brings the codecs: {REPAIR}"
    try:
        error, count = round_trip(codec)
    except (ImportError, OSError, ValueError, LookupError) as problem:  # av's errors derive from these
        return Check(name, "failed", f"{type(problem).__name__}: {problem}", fix)
    if count != 8 or error > 6.0:
        return Check(name, "failed", f"{count} of 8 frames come back, mean error {error:.1f} of 255", fix)
    return Check(name, "ok", f"encoded and decoded 8 frames, mean error {error:.1f} of 255")


def round_trip(codec: Literal["h264", "av1"]) -> tuple[float, int]:
    """Mean absolute error (0 to 255) and number of decoded frames of an 8-frame mp4 in memory."""
    import av
    import numpy as np

    encoder, options = {
        "h264": ("libx264", {"preset": "ultrafast", "crf": "18"}),
        "av1": ("libsvtav1", {"preset": "12", "crf": "30"}),
    }[codec]
    # libsvtav1 writes its banner past PyAV's own log; its level is read when the library is loaded.
    os.environ.setdefault("SVT_LOG", "0")
    y, x = np.mgrid[0:96, 0:128]
    frames = [
        np.stack([2 * x - 8 * t, 2 * y + 4 * t, x + y], -1).clip(0, 255).astype(np.uint8) for t in range(8)
    ]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    errors = [np.abs(a.astype(float) - b).mean() for a, b in zip(frames, decoded, strict=False)]
    return float(np.mean(errors)) if errors else 255.0, len(decoded)


def check_torch() -> Check:
    """Import torch and look for an accelerator; none is needed."""
    result, problem = _probe("torch", {})
    if result is None:
        return Check("torch", "failed", f"torch does not import: {problem}", REPAIR)
    gpu = ", ".join(result["gpus"]) or "no GPU (none is needed)"
    return Check("torch", "ok", f"{result['version']}, {gpu}")


def check_disk(folder: Path) -> Check:
    """Free space where runs are written."""
    free = shutil.disk_usage(folder).free / 1e9
    detail = f"{free:.1f} GB free"
    if free < 1:
        return Check("disk", "failed", detail, f"free at least 5 GB where {folder} is")
    if free < 5:
        return Check(
            "disk", "warning", detail, f"a full experiment writes about 5 GB; make room where {folder} is"
        )
    return Check("disk", "ok", detail)


def check_memory() -> Check:
    """Memory that can be had now, and the cores this process may use."""
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    detail = f"{memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free, {cores} cores"
    if memory.available < 6e9:
        return Check("memory", "warning", detail, "`make demo` takes up to 6 GB: close other programs")
    return Check("memory", "ok", detail)


def _probe(name: str, environment: dict[str, str]) -> tuple[dict[str, Any] | None, str]:
    """Run a probe of `machine_probes`; its result, or None and the last line of what went wrong."""
    command = [sys.executable, "-m", "vine_vla.compute.machine_probes", name]
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return None, "no answer within 120 s"
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), ""
    # A traceback of the interpreter's exit may follow the real one: the first error line is the cause.
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith((" ", "Traceback"))]
    return None, next((line for line in lines if "Error" in line), f"exit code {done.returncode}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _read_lock(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Name and version of the lock's lines that hold for this machine."""
    from packaging.requirements import Requirement

    for line in lines:
        if line.strip() and not line.startswith("#"):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate():
                yield wanted.name, next(iter(wanted.specifier)).version
