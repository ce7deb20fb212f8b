"""Where annotations go: into the dataset itself, or into a folder that links to its frames."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.data.sidecars import files as sidecars


def annotated_folder(path: Path, out: Path | None) -> Path:
    """The folder whose sidecars are to be written, made ready.

    Args:
        path: LeRobot dataset.
        out: None for `path` itself; else a folder that gets a `meta/` of its own, with `data`, `videos` and
            `images` linked to the source's.

    Raises:
        VineError: `path` is read-only, or `out` holds something else.
    """
    if out is None:
        if not os.access(path / "meta", os.W_OK):
            raise VineError("source is read-only", where=str(path / "meta"), hint="name a folder by --out")
        return path
    if out.exists() and any(out.iterdir()) and not (out / "meta/info.json").is_file():
        raise VineError("exists and is no dataset", where=str(out), hint="choose another folder for --out")
    if out.resolve() == path.resolve():
        return path
    (out / "meta").mkdir(parents=True, exist_ok=True)
    for name in ("data", "videos", "images"):
        link = out / name
        if (path / name).exists() and not link.is_symlink():
            if link.exists():
                raise VineError(
                    "exists and is no link", where=str(link), hint="choose another folder for --out"
                )
            link.symlink_to((path / name).resolve(), target_is_directory=True)
    for file in (path / "meta").rglob("*"):
        own = f"{file.relative_to(path)}" in sidecars.FILES and sidecars.has_sidecars(out)
        if file.is_file() and not own:
            copy = out / file.relative_to(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)  # not its mode: the source may be read-only
    return out
