"""A trained System 2 from its folder, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from vine_vla.core.errors import VineError
from vine_vla.system2.backend import Backend
from vine_vla.system2.folder import CALIBRATION, default_variant, read_info, system2_folder
from vine_vla.system2.registry import find_backend


def load_system2(folder: Path | str, variant: str | None = None, *, device: str | None = None) -> Backend:
    """System 2 from its folder, or from the run folder that holds it as `system2`.

    Args:
        folder: as training wrote it. variant: default `all`, else the first there is.
        device: where nets run, e.g. `cpu` or `cuda`; default: cuda if there is one.

    Raises:
        VineError: no System 2, no such variant or kind, or files that are damaged or not the ones training
            wrote.
    """
    path = system2_folder(folder)
    kind = find_backend(read_info(path)["kind"])
    name = variant or default_variant(path)
    found = kind.load(path, name, device=device)
    if kind.calibrate is not None:
        return found
    if not (path / name / CALIBRATION).is_file():
        raise VineError(
            f"variant {name!r} is not calibrated: training has not finished",
            where=str(path),
            hint="run `vine train system2` again",
        )
    from vine_vla.system2.uncertainty.wrap import read_calibrated  # late: torch

    return read_calibrated(found, path)
