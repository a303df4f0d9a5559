"""From make-up videos to pictures of the end of each step; needs PyAV (extra `video`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrieval.datasets.mod_data import IMAGE_FOLDERS
from retrieval.datasets.youmakeup import FRAMES
from retrieval.datasets.youmakeup_steps import Step
from retrieval.files import atomic_write
from retrieval.pictures import crop

STRIDE = 5
"""Frames between the pictures of a long step; short ones give their very last frames."""
LONG = 10
"""Seconds above which a step is long."""
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".m4v")
TENSOR_SIZE = 224
QUALITY = 95


@dataclass(frozen=True)
class ShownStep:
    """A step with the frames that were taken of it.

    Args:
        number: of the step among all of its video, from 0.
        start, end: its first and last frame.
        frames: the frames taken, ascending.
    """

    number: int
    start: int
    end: int
    frames: tuple[int, ...]

    def folder(self, video: str) -> str:
        """The name of the folder of its pictures."""
        return f"{video}_{self.start}_{self.end}"


@dataclass(frozen=True)
class ShownVideo:
    """A video whose frames lie on disk: its rate in frames a second, and its steps."""

    rate: float
    steps: tuple[ShownStep, ...]


def choose_frames(steps: Sequence[Step], rate: float, count: int) -> list[ShownStep]:
    """Which frames of a video show the ends of its steps.

    Ten of each step, backwards from its last frame: every fifth of a step longer than 10 seconds,
    else every one. A frame that two steps claim is the later one's. Steps that end no later than
    they begin, in frames, show nothing, nor do frames before the video.

    Args:
        steps: all of the video, in order, times in seconds.
        rate: frames a second.
        count: frames of the video; times beyond stand for its last frame.
    """
    owner: dict[int, int] = {}
    bounds = {}
    for number, step in enumerate(steps):
        start, end = (min(int(time * rate), count - 1) for time in (step.start, step.end))
        if end <= start:
            continue
        bounds[number] = (start, end)
        stride = STRIDE if end - start > int(LONG * rate) else 1
        taken = range(end, end - FRAMES * stride, -stride)
        owner.update((frame, number) for frame in taken if frame >= 0)
    shown = []
    for number, (start, end) in bounds.items():
        own = tuple(sorted(frame for frame, of in owner.items() if of == number))
        if own:
            shown.append(ShownStep(number, start, end, own))
    return shown


def find_videos(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """The files of some videos: named by the id, or ending in it after a title, "-" or "_".

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected a folder of videos at {folder}, where there is none; give it as --videos"
        )
    wanted = set(ids)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        stem = path.stem
        ends = [stem, *(stem[at + 1 :] for at, sign in enumerate(stem) if sign in "-_")]
        video = next((end for end in ends if end in wanted), None)  # the longest that is an id
        if video is not None:
            found.setdefault(video, path)
    return found


def extract_video(
    path: Path, video: str, steps: Sequence[Step], folder: Path, tensors: bool = False
) -> ShownVideo:
    """Write the frames of a video's steps as pictures; what was written before is kept.

    A note `{video}.json` beside the folders, written last, says that a video is complete.

    Args:
        path: the video.
        video: its id.
        steps: all of them, in order.
        folder: receives `{video}_{start}_{end}/{video}_{frame}.jpg`.
        tensors: also write `.pt` files as published: 224 px, centre cut out, ImageNet's mean
            and spread, 0.6 MB each. This project decodes the pictures into one table instead.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the file is no video, or ends before the last frame that is asked for.
    """
    note = folder / f"{video}.json"
    if note.is_file():
        noted = json.loads(note.read_text())
        if noted["tensors"] or not tensors:
            return _from_note(noted)
    rate, count = measure_video(path)
    chosen = choose_frames(steps, rate, count)
    place = {frame: step for step in chosen for frame in step.frames}
    written: set[int] = set()
    for number, picture in decode_frames(path, sorted(place)):
        own = folder / place[number].folder(video)
        with atomic_write(own / f"{video}_{number}.jpg") as temporary:
            picture.save(temporary, quality=QUALITY)
        if tensors:
            _write_tensor(own / f"{video}_{number}.pt", picture)
        written.add(number)
    if len(written) < len(place):
        raise ValueError(
            f"{path} ends before frame {min(set(place) - written)} of the {count} it announces; "
            "fetch it again"
        )
    shown = ShownVideo(rate, tuple(chosen))
    with atomic_write(note) as temporary:
        temporary.write_text(json.dumps({**asdict(shown), "tensors": tensors}))
    return shown


def read_shown(folder: Path, videos: Iterable[str]) -> dict[str, ShownVideo]:
    """The videos whose notes say that they were extracted, in the order asked for."""
    shown = {}
    for video in videos:
        note = folder / f"{video}.json"
        if note.is_file():
            shown[video] = _from_note(json.loads(note.read_text()))
    return shown


def image_folder(out: Path, split: str) -> Path:
    """Where a split's frames are written, as published: train_images or val_images."""
    return out / IMAGE_FOLDERS[split]


def measure_video(path: Path) -> tuple[float, int]:
    """A video's frames a second and how many it has.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the file is no video.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError(f"{path} does not say how many frames a second it has; convert it")
        count = stream.frames
        if not count:  # some containers do not say
            count = sum(packet.size > 0 for packet in container.demux(stream))
        return float(rate), int(count)


def decode_frames(path: Path, numbers: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """Some frames of a video by number, from 0, ascending; fewer where it ends early."""
    if not numbers:
        return
    wanted = set(numbers)
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                yield number, frame.to_image()
            if number >= numbers[-1]:
                return


def _opened(path: Path) -> Any:
    """A container with pictures.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the file is no video.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "PyAV reads the videos and is not installed: `pip install av` (extra `video`)"
        ) from error
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"cannot read {path} as a video ({error}); fetch it again") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path} holds no pictures; fetch the video again")
    return container


def _from_note(noted: Mapping[str, Any]) -> ShownVideo:
    steps = tuple(
        ShownStep(step["number"], step["start"], step["end"], tuple(step["frames"]))
        for step in noted["steps"]
    )
    return ShownVideo(noted["rate"], steps)


def _write_tensor(path: Path, picture: Image.Image) -> None:
    """The published tensor (3, 224, 224) of a picture."""
    import torch

    from retrieval.encoders.image import IMAGENET_MEAN, IMAGENET_STD

    pixels = np.asarray(crop(picture.convert("RGB"), (TENSOR_SIZE, TENSOR_SIZE)))
    shade = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
    mean, spread = (torch.tensor(it).view(3, 1, 1) for it in (IMAGENET_MEAN, IMAGENET_STD))
    with atomic_write(path) as temporary:
        torch.save((shade - mean) / spread, temporary)
