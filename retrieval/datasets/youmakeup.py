"""YouMakeup: faces at the end of the steps of make-up videos, and what was done in between.

    train/train_steps.json, valid/valid_steps.json   one video per line: {video_id, step: {"1":
                                                     {startime, endtime, area, caption}, ...}}
    train/train_id, valid/valid_id                   one video id per line
    frames/{video}_{start}_{end}/{video}_{frame}.jpg pictures of the step between two frames

Wang et al., "YouMakeup: A Large-Scale Domain-Specific Multimodal Dataset for Fine-Grained
Semantic Comprehension", EMNLP 2019; the queries are those of the baseline of the YouMakeup VQA
challenge 2020: from the end of one step, and the text of the next ones, to the end of the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval.datasets.annotations import (
    file_split,
    read_json_lines,
    read_lines,
    rows_of,
    value_of,
    with_pictures,
)
from retrieval.datasets.base import ComposedSplit, Sampler
from retrieval.gallery import Triplet

SPLITS = {"train": "train", "test": "valid"}
"""The baseline tests on the official validation videos, and so do we."""
FRAMES = 10
"""Pictures kept of each step, its last ones."""
TRAINED_FRAMES = 5
"""Training draws among the last five of them, so that looks vary but the step is done."""
WITHOUT_FRAMES = "videos without the frames of all their steps"


class Step(NamedTuple):
    """One step of a video; times in seconds."""

    start: int
    end: int
    areas: tuple[str, ...]
    caption: str


class Modification(NamedTuple):
    """From the face after one step to the face after a later one; steps count from 0."""

    video: str
    source: int
    target: int
    caption: str


def load_composed(
    root: Path,
    split: str,
    size: int = 224,
    skip_missing: bool = False,
    seed: int = 0,
    fit: str = "crop",
) -> ComposedSplit:
    """A split with its pictures; its queries are those of `modifications`.

    Queries go from the last frame of one step to the last frame of another. Training draws a
    modification, then one position among the last five frames, the same for both sides. The facts
    of a query are its `video`, its `step_gap` and the rows of the ten frames of either step,
    `sources` and `targets`.

    Args:
        root: folder in the published layout, with the extracted frames.
        split: "train" or "test" (the official validation videos).
        size: height and width of the pictures.
        skip_missing: leave out videos without the frames of all steps, and unreadable pictures.
        seed: fixes which step sequences are taken; the baseline drew anew each time. A model and
            its test need no common seed, since models carry their own vocabulary.
        fit: "crop" or "squash", see `retrieval.pictures`.

    Raises:
        FileNotFoundError: annotations or frames are missing.
        ValueError: an unknown split, or a file that is not whole.
    """
    steps = usable_steps(read_steps(root, split))
    annotated = list(steps)
    frames, unmatched = match_frames(root, steps)
    if unmatched and (not skip_missing or len(unmatched) == len(annotated)):
        raise FileNotFoundError(
            f"{len(unmatched)} of {len(annotated)} videos lack the frames of their steps in "
            f"{root / 'frames'}, the first is {unmatched[0]}; extract them again"
            + ("" if len(unmatched) == len(annotated) else " or leave them out with --skip-missing")
        )
    kept = {video: steps[video] for video in annotated if video in frames}
    made = assemble(split, kept, frames, np.random.default_rng(seed))
    if unmatched:
        made = replace(made, skipped={WITHOUT_FRAMES: len(unmatched)})
    row_facts = ("sources", "targets")
    whole = with_pictures(made, root, made.names, size, fit, skip_missing, row_facts)
    return replace(whole, sample=sampler(whole))


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


def modifications(
    steps: Mapping[str, Sequence[Step]], rng: np.random.Generator
) -> list[Modification]:
    """The modification data of the baseline: consecutive pairs in random sequences of steps.

    A video of S steps gives min(S, number of sequences) different sequences of m steps, in order:
    m = 5, or for 2 to 4 steps a random m in 2..S; videos of one step give none. The text of a
    pair is that of every step after the source, up to and with the target, joined by spaces (and
    begun by one, as published).
    """
    made = []
    for video, own in steps.items():
        count = len(own)
        if count < 2:
            continue
        length = 5 if count >= 5 else int(rng.integers(2, count + 1))
        for sequence in _sequences(count, length, rng):
            for source, target in pairwise(sequence):
                caption = "".join(f" {step.caption}" for step in own[source + 1 : target + 1])
                made.append(Modification(video, source, target, caption))
    return made


def match_frames(
    root: Path, steps: Mapping[str, Sequence[Step]]
) -> tuple[dict[str, list[list[str]]], list[str]]:
    """The last ten pictures of every step, and the videos whose pictures are not all there.

    Steps and frame folders are both in order of time, so a video whose numbers agree needs no
    frame rate to tell which is which.

    Returns:
        Files relative to `root` for each step of each complete video; the other videos.
    """
    place = root / "frames"
    folders: dict[str, list[tuple[int, int, str]]] = {}
    for folder in place.iterdir() if place.is_dir() else ():
        video, start, end = [*folder.name.rsplit("_", 2), "", ""][:3]
        if start.isdigit() and end.isdigit():
            folders.setdefault(video, []).append((int(start), int(end), folder.name))
    matched, unmatched = {}, []
    for video, own in steps.items():
        shown = [_last_frames(place / name, video) for _, _, name in sorted(folders.get(video, ()))]
        if len(shown) == len(own) and all(len(files) == FRAMES for files in shown):
            matched[video] = shown
        else:
            unmatched.append(video)
    return matched, unmatched


def assemble(
    split: str,
    steps: Mapping[str, Sequence[Step]],
    frames: Mapping[str, Sequence[Sequence[str]]],
    rng: np.random.Generator,
) -> ComposedSplit:
    """A split, without pictures, of steps and the files of their frames."""
    files = (file for video in steps for own in frames[video] for file in own)
    names = tuple(dict.fromkeys(files))
    row_of = rows_of(names, Path("frames"))
    queries: list[Triplet] = []
    facts: list[dict[str, Any]] = []
    for made in modifications(steps, rng):
        sources = tuple(row_of(file) for file in frames[made.video][made.source])
        targets = tuple(row_of(file) for file in frames[made.video][made.target])
        queries.append(Triplet(sources[-1], made.caption, targets[-1]))
        facts.append(
            {
                "video": made.video,
                "step_gap": made.target - made.source,
                "sources": sources,
                "targets": targets,
            }
        )
    return ComposedSplit(
        "youmakeup",
        split,
        names,
        names,
        None,
        tuple(queries),
        texts=tuple(query.caption for query in queries) if split == "train" else (),
        galleries={"all": np.arange(len(names))},
        facts=tuple(facts),
    )


def sampler(split: ComposedSplit) -> Sampler:
    """The baseline's training rule: a modification, then one of the last five frames of both."""

    def sample(rng: np.random.Generator, count: int) -> list[Triplet]:
        drawn = rng.integers(len(split.queries), size=count)
        position = rng.integers(FRAMES - TRAINED_FRAMES, FRAMES, size=count)
        return [
            Triplet(
                split.facts[query]["sources"][at],
                split.queries[query].caption,
                split.facts[query]["targets"][at],
            )
            for query, at in zip(drawn, position, strict=True)
        ]

    return sample


def _sequences(count: int, length: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Some of the ordered choices of `length` out of `count` steps, `count` of them at most."""
    total = comb(count, length)
    chosen = set(rng.choice(total, size=min(total, count), replace=False).tolist())
    return [it for at, it in enumerate(combinations(range(count), length)) if at in chosen]


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


def _last_frames(folder: Path, video: str) -> list[str]:
    """The last pictures of a step's folder, in order of time, relative to the data's root."""
    numbers = sorted(
        int(number)
        for file in folder.glob("*.jpg")
        if (number := file.stem.removeprefix(f"{video}_")).isdigit()
    )
    shown = numbers[-FRAMES:]
    return [f"frames/{folder.name}/{video}_{number}.jpg" for number in shown]
