"""Small videos that tests encode themselves; frame n is grey of the shade 4 n, up to white."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

CODECS = {".mp4": ("mpeg4", "yuv420p"), ".mkv": ("ffv1", "yuv420p")}


def write_clip(path: Path, frames: int, rate: int = 2, side: int = 32) -> Path:
    """A clip of some frames; .mkv does not say how many it has."""
    av = pytest.importorskip("av", reason="PyAV (extra video) encodes the clips")
    path.parent.mkdir(parents=True, exist_ok=True)
    codec, layout = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = side
        stream.pix_fmt = layout
        stream.bit_rate = 10_000_000  # shades must survive
        for number in range(frames):
            picture = np.full((side, side, 3), min(4 * number, 255), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_steps(root: Path, part: str, videos: Mapping[str, list[tuple[int, int]]]) -> None:
    """Annotations in the published layout; a step is (start, end) in seconds."""
    folder = root / part
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for video, bounds in videos.items():
        steps = {
            str(at + 1): {
                "startime": f"00:00:{start:02}", "endtime": f"00:00:{end:02}",
                "area": [f"area {at}"], "caption": f"apply product {at} on face",
            }
            for at, (start, end) in enumerate(bounds)
        }  # fmt: skip
        lines.append(json.dumps({"video_id": video, "step": steps}))
    (folder / f"{part}_steps.json").write_text("\n".join(lines))
    (folder / f"{part}_id").write_text("\n".join(videos))
