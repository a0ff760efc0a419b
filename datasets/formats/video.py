"""Pictures of mp4 files by PyAV: frames at given times, and a writer with keyframes for access."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.formats.converter import optional
from telic.datasets.formats.into_store import pixel_buffer
from telic.spec import Array

KEYFRAME_EVERY = 2  # frames, as LeRobot: any frame costs at most two decodings
PRESETS = {"libsvtav1": {"preset": "11"}, "libx264": {"preset": "veryfast"}}
CODECS = {"av1": "libsvtav1", "h264": "libx264"}


class VideoReader:
    """Frames of one video after another; keeps the file that was read last open."""

    def __init__(self) -> None:
        self._av = optional("av", "lerobot")
        self._path: Path | None = None
        self._file: Any = None

    def frames(
        self, path: Path, start_s: float, count: int, fps: float, size: tuple[int, int]
    ) -> Array:
        """The frames at start_s + i / fps, i < count, u8 [count h w 3].

        ValueError where the video has none within half a period of a time, or another size.
        """
        pictures = pixel_buffer(f"{path}: frames", (count, *size, 3))
        filled = 0
        try:
            for time_s, frame in self._decoded(path, start_s, size):
                while filled < count and time_s > start_s + (filled - 0.5) / fps:
                    if time_s > start_s + (filled + 0.5) / fps:
                        at = start_s + filled / fps
                        raise ValueError(f"{path}: has no frame at {at:.4f} s")
                    pictures[filled] = frame.to_ndarray(format="rgb24")
                    filled += 1
                if filled == count:
                    return pictures
        except self._av.FFmpegError as error:
            raise ValueError(f"{path}: not readable as video ({_line(error)})") from error
        raise ValueError(
            f"{path}: ends before frame {filled} of {count} at {start_s + filled / fps:.4f} s"
        )

    def _decoded(
        self, path: Path, start_s: float, size: tuple[int, int]
    ) -> Iterator[tuple[float, Any]]:
        """Time (s) and frame from the keyframe before `start_s` on."""
        stream = self._open(path)
        if stream.time_base is None:
            raise ValueError(f"{path}: its frames have no times")
        base = float(stream.time_base)
        offset = int(max(start_s - 1e-3, 0) / base)
        self._file.seek(offset, stream=stream, backward=True, any_frame=False)
        for frame in self._file.decode(stream):
            if (frame.height, frame.width) != size:
                raise ValueError(
                    f"{path}: frames are {frame.height} x {frame.width}, expected "
                    f"{size[0]} x {size[1]}"
                )
            if frame.pts is None:
                raise ValueError(f"{path}: a frame has no time")
            yield float(frame.pts) * base, frame

    def _open(self, path: Path) -> Any:
        if self._path != path:
            if not path.is_file():
                raise ValueError(f"{path}: is missing; the data set is not whole")
            self.close()
            self._file = self._av.open(str(path))
            self._path = path
        if not self._file.streams.video:
            raise ValueError(f"{path}: holds no video")
        stream = self._file.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f"{path}: its codec is not one that the installed PyAV decodes")
        return stream

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._path = self._file = None


class VideoWriter:
    """Writes one mp4 of pictures u8 [h w 3], a keyframe at least every KEYFRAME_EVERY frames."""

    def __init__(self, path: Path, codec: str, crf: int, rate: Fraction, size: tuple[int, int]):
        av = optional("av", "lerobot")
        self._av = av
        self.num_frames = self.num_bytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("SVT_LOG", "1")  # errors alone: SVT-AV1 prints its settings else
        self._file = av.open(str(path), "w")
        options = {"crf": str(crf), "g": str(KEYFRAME_EVERY), **PRESETS[CODECS[codec]]}
        self._stream = self._file.add_stream(CODECS[codec], rate=rate, options=options)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1

    def append(self, pictures: Array) -> None:
        """Add an episode; its first frame is a keyframe."""
        for step, pixels in enumerate(pictures):
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = self.num_frames
            frame.time_base = 1 / Fraction(self._stream.codec_context.rate)
            if step == 0:
                frame.pict_type = self._av.video.frame.PictureType.I
            self._write(frame)
            self.num_frames += 1

    def close(self) -> None:
        """Write what the encoder holds and the index."""
        self._write(None)
        self._file.close()

    def _write(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self.num_bytes += packet.size
            self._file.mux(packet)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
