"""Where annotations go: into the dataset itself, or into a folder that links to its frames."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.data.sidecars import files as sidecars
from vine_vla.storage.files import folder_in_the_making
from vine_vla.storage.transaction import current, locked, writing

FRAMES = ("data", "videos", "images")


def check_target(path: Path, out: Path | None) -> Path:
    """The folder whose sidecars are to be written; nothing is made yet.

    Args:
        path: LeRobot dataset.
        out: None for `path` itself; else a folder of its own, new or made for `path` before.

    Raises:
        VineError: `path` is read-only, or `out` lies in `path` or holds something else.
    """
    if out is None:
        if not os.access(path / "meta", os.W_OK):
            raise VineError("source is read-only", where=str(path / "meta"), hint="name a folder by --out")
        return path
    hint = "choose another folder for --out"
    if out.resolve() == path.resolve():
        raise VineError("--out is the dataset itself", where=str(out), hint="leave --out away")
    if path.resolve() in out.resolve().parents:
        raise VineError("--out lies inside the dataset", where=str(out), hint=hint)
    if any((path / name).resolve() in (out.resolve(), *out.resolve().parents) for name in FRAMES):
        raise VineError("--out lies among the dataset's frames", where=str(out), hint=hint)
    with writing(out):
        if not out.exists():
            return out
        if not out.is_dir():
            raise VineError("exists and is no folder", where=str(out), hint=hint)
        if not any(out.iterdir()):
            return out
    if not (out / "meta/info.json").is_file():
        raise VineError("exists and is no dataset", where=str(out), hint=hint)
    for name in FRAMES:
        link = out / name
        if (path / name).exists() and not link.is_symlink():
            raise VineError("exists and is no link", where=str(link), hint=hint)
        if (path / name).exists() and link.resolve() != (path / name).resolve():
            raise VineError("links to another dataset", where=str(link), hint=hint)
    return out


@contextmanager
def annotated_folder(path: Path, out: Path | None) -> Iterator[Path]:
    """The folder to write sidecars into, locked; a new one appears when the block ends well, or not at all.

    Args:
        path, out: as for `check_target`. A new `out` gets a `meta/` of its own, with `data`, `videos` and
            `images` linked to the source's.

    Raises:
        VineError: as `check_target`, or the disk refuses.
    """
    target = check_target(path, out)
    if (target / "meta").is_dir():
        with locked(target):
            yield target
        return
    with writing(target), folder_in_the_making(target) as folder:
        _link(path, folder)
        with locked(folder):
            yield folder


def _link(path: Path, folder: Path) -> None:
    for name in FRAMES:
        if (path / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((path / name).resolve(), target_is_directory=True)
    meta = path / "meta"
    files = [f for f in meta.rglob("*") if f.is_file() and not _hidden(f.relative_to(meta))]
    wanted = {f.relative_to(path).as_posix(): f for f in files}
    wanted |= {n: current(path, n) for n in sidecars.FILES if current(path, n).is_file()}
    for name, file in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)  # not its mode: the source may be read-only


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
