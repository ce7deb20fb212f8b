"""What a report shows; apart from the page so that the command's help starts fast."""

from __future__ import annotations

from dataclasses import dataclass

from vine_vla.core.errors import VineError


@dataclass(frozen=True)
class ReportConfig:
    """What goes into a report.

    Raises:
        VineError: a number is below its least.
    """

    camera: str = "front"
    """Camera role shown in filmstrips."""
    per_kind: int = 3
    """Scenes shown of each kind (saved, lost, both failed), at least 1."""
    trees: int = 6
    """Decisions whose search tree can be opened, at least 0."""
    resamples: int = 300
    """Bootstrap resamples of reliability bands and AUROC, at least 1."""

    def __post_init__(self) -> None:
        for name, least in (("per_kind", 1), ("trees", 0), ("resamples", 1)):
            if getattr(self, name) < least:
                raise VineError(
                    f"{name} is {getattr(self, name)}",
                    where=f"--{name.replace('_', '-')}",
                    hint=f"give {least} or more",
                )
