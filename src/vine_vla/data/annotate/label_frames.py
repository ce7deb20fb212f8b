"""Frames for the labelling page: JPEG files, decoded in blocks and kept for a while."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

from PIL import Image as PillowImage

from vine_vla.core.errors import VineError
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.lerobot.video import Image

BLOCK = 16
"""Frames that are decoded together: one seek for all of them, 0.6 s of video at most frame rates."""
KEPT_BYTES = 64 * 2**20
LONGEST_SIDE = 1280
"""Larger frames are shrunk to this many pixels; a page shows no more of them."""


class FrameStore:
    """JPEG files of single frames; may be called from several threads.

    A page gets frames and not the video files, because a label names a frame: the picture must be the very
    one that has this number in the dataset, whereas a browser seeks in time, near the ends of an episode
    into its neighbour in the same file. It also makes every dataset work alike: frames kept as PNG, and
    codecs that only some browsers play, such as VINE's own H.264 in 4:4:4.
    """

    def __init__(self, dataset: DemoDataset) -> None:
        self.dataset = dataset
        self._kept: OrderedDict[tuple[int, str, int], list[bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def jpeg(self, episode_index: int, camera: str, frame: int) -> bytes:
        """One frame of a camera.

        Raises:
            VineError: no such episode, camera or frame, or the video cannot be decoded.
        """
        episodes = self.dataset.demonstrations
        if not 0 <= episode_index < len(episodes):
            raise VineError(f"no episode {episode_index} among {len(episodes)}")
        if camera not in self.dataset.cameras:
            raise VineError(f"no camera {camera!r}", hint=f"cameras: {', '.join(self.dataset.cameras)}")
        length = episodes[episode_index].length
        if not 0 <= frame < length:
            raise VineError(f"frame {frame} of {length}", where=f"episode {episode_index}")
        key = (episode_index, camera, frame // BLOCK)
        with self._lock:  # six requests for one block must decode it once
            if key not in self._kept:
                self._keep(key, range(frame // BLOCK * BLOCK, min((frame // BLOCK + 1) * BLOCK, length)))
            self._kept.move_to_end(key)
            return self._kept[key][frame % BLOCK]

    def _keep(self, key: tuple[int, str, int], frames: range) -> None:
        images = self.dataset.images(key[0], frames, key[1])
        self._kept[key] = [_encode(image) for image in images]
        self._bytes += sum(map(len, self._kept[key]))
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= sum(map(len, self._kept.popitem(last=False)[1]))


def _encode(image: Image) -> bytes:
    picture, file = PillowImage.fromarray(image), io.BytesIO()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))  # keeps the proportions, never enlarges
    picture.save(file, "JPEG", quality=90, subsampling=0)  # full colour: it tells small things apart
    return file.getvalue()
