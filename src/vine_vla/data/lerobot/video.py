"""Video: encode an episode's frames as they come, decode chosen frames of a file in one pass.

Frames are stored as H.264 in 4:4:4. The usual 4:2:0 halves the resolution of colour, which caps the quality
at about 34 dB on rendered 192-pixel scenes whatever the bit rate, and blurs details of a few pixels. 4:4:4 at
crf 18 keeps 46 dB at about 3 kB a frame; encoding and decoding take about 1 ms a frame on one core.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vine_vla.core.errors import VineError

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoSettings:
    """How frames are encoded.

    Args:
        codec: name that LeRobot and FFmpeg share.
        pixel_format: FFmpeg's name; `yuv420p` plays in every browser but blurs colour.
        preset: speed of the encoder.
        crf: quality, lower is better; 0 to 51.
        key_frame_every: frames between key frames; random access decodes half as many.
    """

    codec: str = "h264"
    pixel_format: str = "yuv444p"
    preset: str = "ultrafast"
    crf: int = 18
    key_frame_every: int = 5

    @property
    def options(self) -> dict[str, str]:
        """For FFmpeg."""
        return {
            "preset": self.preset,
            "crf": str(self.crf),
            "g": str(self.key_frame_every),
            "threads": "1",
        }


class EpisodeEncoder:
    """One camera of one episode, encoded to an MP4 in memory while it is recorded.

    Args:
        fps: frames a second.
        settings: codec settings.
    """

    def __init__(self, fps: float, settings: VideoSettings | None = None) -> None:
        self.frames = 0
        self._fps = Fraction(fps).limit_denominator(1001)
        self._settings = settings or VideoSettings()
        self._buffer = io.BytesIO()
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.stream.VideoStream | None = None

    def add(self, image: Image) -> None:
        """Append a frame, uint8 RGB [height, width, 3]; all frames must have the first one's size."""
        if self._container is None:
            self._open(*image.shape[:2])
        assert self._container is not None and self._stream is not None
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self.frames, 1 / self._fps
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> bytes:
        """Finish the file and return it."""
        if self._container is None or self._stream is None:
            raise VineError(
                "a camera has no frames", hint="add at least one frame before finishing an episode"
            )
        self._container.mux(self._stream.encode())
        self._container.close()
        self._container = self._stream = None  # frees the codec
        return self._buffer.getvalue()

    def _open(self, height: int, width: int) -> None:
        self._container = av.open(self._buffer, "w", format="mp4")
        codec, options = self._settings.codec, self._settings.options
        stream = self._container.add_stream(codec, rate=self._fps, options=options)
        assert isinstance(stream, av.video.stream.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, self._settings.pixel_format
        self._stream = stream


def decode_frames(source: Path | bytes, start: float, fps: float, frames: Sequence[int]) -> Image:
    """Chosen frames of the episode that begins at `start` seconds in a video.

    Reads forward once from the key frame before the first one wanted, so that a whole episode costs one pass.

    Args:
        source: MP4 file or its bytes.
        start: where the episode begins in the file, in seconds.
        fps: frames a second of the dataset.
        frames: frame numbers within the episode, in any order, repeats allowed; N of them.

    Returns:
        uint8 RGB [N, height, width, 3].

    Raises:
        VineError: the file cannot be decoded, or has no frame within a quarter period of a wanted time.
    """
    where = str(source) if isinstance(source, Path) else "staged video"
    wanted = np.asarray(frames, np.int64)
    if not wanted.size:
        raise VineError("no frames asked for", where=where)
    if wanted.min() < 0:
        raise VineError(f"negative frame number {wanted.min()}", where=where)
    times, tolerance = start + np.arange(wanted.max() + 1) / fps, 0.25 / fps
    needed, out = set(wanted.tolist()), {}
    try:
        with av.open(source if isinstance(source, Path) else io.BytesIO(source), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            assert stream.time_base is not None
            first = times[wanted.min()]
            if first > tolerance:
                container.seek(int((first - tolerance) / stream.time_base), backward=True, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                time = float(frame.pts * stream.time_base)
                number = round((time - start) * fps)
                if number in needed and number not in out and abs(time - times[number]) <= tolerance:
                    out[number] = frame.to_ndarray(format="rgb24")
                    if len(out) == len(needed):
                        break
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VineError(
            f"video cannot be decoded: {error}", where=where, hint="record or copy it again"
        ) from error
    missing = sorted(needed - out.keys())
    if missing:
        raise VineError(
            f"video has no frame at {times[missing[0]]:.3f} s (frame {missing[0]} of its episode)",
            where=where,
            hint="the video is shorter than the table or off its time grid: convert or record it again",
        )
    return np.stack([out[number] for number in wanted.tolist()])


def check_present(path: Path, key: str = "") -> None:
    """Raises VineError when a video file is missing; `key` is the feature that needs it."""
    if not path.is_file():
        where = f"{path}, feature {key}" if key else str(path)
        raise VineError("video is missing", where=where, hint="copy it from the source of the dataset")


def frame_times(path: Path) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Times of all frames of a video in seconds, sorted, and its height and width; nothing is decoded.

    Raises:
        VineError: the file cannot be read.
    """
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.pts is not None and p.size]
            times = sorted(float(p.pts * p.time_base) for p in packets)
            return np.array(times), (stream.height, stream.width)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VineError(f"video cannot be read: {error}", where=str(path), hint="copy it again") from error


def silence_codec_logs() -> None:
    """Keep the codecs' chatter off stderr, also after LeRobot has let it loose; errors remain exceptions."""
    av.logging.set_level(None)
