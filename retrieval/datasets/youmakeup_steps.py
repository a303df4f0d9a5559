"""The steps of YouMakeup's videos, from their annotation files; see `datasets.youmakeup`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.datasets.annotations import file_split, read_json_lines, read_lines, value_of

SPLITS = {"train": "train", "test": "valid"}
"""The baseline tests on the official validation videos, and so do we."""


class Step(NamedTuple):
    """One step of a video; times in seconds."""

    start: int
    end: int
    areas: tuple[str, ...]
    caption: str


def read_steps(root: Path, split: str) -> dict[str, tuple[Step, ...]]:
    """Every step of the split's videos, in the order of the id list.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an unknown split, or a file that is not whole.
    """
    part = file_split("youmakeup", split, SPLITS)
    source = root / part / f"{part}_steps.json"
    videos = {
        value_of(entry, "video_id", source): tuple(
            _step(step, source) for step in value_of(entry, "step", source).values()
        )
        for entry in read_json_lines(source)
    }
    ids = read_lines(root / part / f"{part}_id")
    lost = [video for video in ids if video not in videos]
    if lost:
        raise ValueError(
            f"{len(lost)} of {len(ids)} videos in {root / part} have no steps, the first is "
            f"{lost[0]}; fetch annotations of one version"
        )
    return {video: videos[video] for video in ids}


def usable_steps(steps: Mapping[str, Sequence[Step]]) -> dict[str, tuple[Step, ...]]:
    """The videos' steps less those that end before they have begun: they show nothing."""
    return {
        video: tuple(step for step in own if step.end > step.start) for video, own in steps.items()
    }


def _step(entry: Mapping[str, Any], source: Path) -> Step:
    start, end, areas, caption = (
        value_of(entry, field, source) for field in ("startime", "endtime", "area", "caption")
    )
    return Step(_seconds(start, source), _seconds(end, source), tuple(areas), caption)


def _seconds(time: str, source: Path) -> int:
    try:
        hours, minutes, seconds = (int(part) for part in time.split(":"))
    except ValueError as error:
        raise ValueError(
            f"expected times like 00:01:37 in {source}, got {time!r}; fetch it again"
        ) from error
    return 3600 * hours + 60 * minutes + seconds
