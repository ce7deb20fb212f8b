"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vine_vla.storage.transaction import writing


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays last: some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Bytes, written atomically."""
    write_atomically(path, lambda file: file.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, written atomically."""
    write_bytes(path, text.encode("utf-8"))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def restore_folder(target: Path) -> None:
    """Put in order what a dead process left of `folder_in_the_making`.

    Its leftovers are removed. If it was killed after setting the old folder aside and before the new one was
    in its place, the old one comes back.
    """
    for leftover in sorted(target.parent.glob(f".{target.name}.*.tmp")):
        *_, kind, pid, _ = leftover.name.split(".")
        if not pid.isdigit() or int(pid) == os.getpid() or _alive(int(pid)):
            continue
        if kind == "old" and not target.exists():
            leftover.rename(target)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def folder_in_the_making(target: Path) -> Iterator[Path]:
    """A temporary sibling of `target` to fill; takes `target`'s place when the block ends well.

    Whoever opens `target` meanwhile finds the old folder or the new one, on Linux at every moment. What dead
    processes left behind is put in order first, see `restore_folder`. Whether `target` may be replaced is the
    caller's decision.

    Raises:
        VineError: nothing can be written there.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        restore_folder(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()  # says now, not after an hour, that it cannot be
        temporary.rmdir()
    try:
        yield temporary
        if not target.exists():
            temporary.rename(target)
        elif not _exchange(temporary, target):
            replaced = target.with_name(f".{target.name}.old.{os.getpid()}.tmp")
            target.rename(replaced)
            temporary.rename(target)
            shutil.rmtree(replaced)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step; False where the system or its file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
