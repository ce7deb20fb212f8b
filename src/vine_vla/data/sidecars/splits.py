"""Splits: what an episode is used for, by a hash of its id, which stays with it through merging."""

from __future__ import annotations

import hashlib

from vine_vla.core.errors import VineError
from vine_vla.core.options import Split

CALIBRATION_SHARE = 0.15


def calibration_split(episode_id: str, share: float = CALIBRATION_SHARE) -> Split:
    """`calibration` for about `share` of all ids, `train` for the rest; depends on the id alone."""
    digest = hashlib.blake2b(episode_id.encode(), digest_size=8, person=b"vine-split").digest()
    return Split.CALIBRATION if int.from_bytes(digest, "big") < share * 2**64 else Split.TRAIN


def check_share(share: float) -> None:
    """Raises VineError unless `share` is one, in [0, 1]."""
    if not 0 <= share <= 1:
        raise VineError(f"calibration share {share}", hint="give --calibration-share between 0 and 1")
