"""YouMakeup: faces at the end of the steps of make-up videos, and what was done in between.

    train/train_steps.json, valid/valid_steps.json   one video per line: {video_id, step: {"1":
                                                     {startime, endtime, area, caption}, ...}}
    train/train_id, valid/valid_id                   one video id per line
    {train_images,val_images,frames}/{video}_{start}_{end}/{video}_{frame}.jpg
                                                     pictures of the step between two frames

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

from retrieval.datasets.annotations import file_split, rows_of, with_pictures
from retrieval.datasets.base import ComposedSplit, Sampler
from retrieval.datasets.mod_data import picture_folder, read_mod_data
from retrieval.datasets.youmakeup_steps import SPLITS, Step, read_steps, usable_steps
from retrieval.features import load_named_features
from retrieval.gallery import Triplet

FRAMES = 10
"""Pictures kept of each step, its last ones."""
TRAINED_FRAMES = 5
"""Training draws among the last five of them, so that looks vary but the step is done."""
WITHOUT_FRAMES = "videos without the frames of all their steps"


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
    mod_data: Path | None = None,
    encoder: str | None = None,
) -> ComposedSplit:
    """A split with its pictures; its queries are those of `modifications`, or of a file.

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
        mod_data: a folder with the baseline's mod_data.json, whose modifications are the queries
            then; no annotations are needed.
        encoder: whose extracted features (see `prepare_makeup --features`) come in place of
            pictures.

    Raises:
        FileNotFoundError: annotations, frames or features are missing.
        ValueError: an unknown split, or a file that is not whole.
    """
    file_split("youmakeup", split, SPLITS)
    if mod_data is not None:
        made = read_mod_data(root, mod_data, split)
    else:
        made = drawn_modifications(root, split, skip_missing, seed)
    if encoder is not None:
        vectors = load_named_features(root, features_part(split), encoder, made.names)
        whole = replace(made, features=vectors)
    else:
        row_facts = ("sources", "targets")
        whole = with_pictures(made, root, made.names, size, fit, skip_missing, row_facts)
    return replace(whole, sample=sampler(whole))


def drawn_modifications(
    root: Path, split: str, skip_missing: bool = False, seed: int = 0
) -> ComposedSplit:
    """A split, without pictures, of modifications drawn from the annotations.

    Args:
        root, split, skip_missing, seed: as for `load_composed`.

    Raises:
        FileNotFoundError: annotations or frames are missing.
        ValueError: an unknown split, or a file that is not whole.
    """
    steps = usable_steps(read_steps(root, split))
    annotated = list(steps)
    folder = str(picture_folder(root, split))
    frames, unmatched = match_frames(root, steps, folder)
    if unmatched and (not skip_missing or len(unmatched) == len(annotated)):
        raise FileNotFoundError(
            f"{len(unmatched)} of {len(annotated)} videos lack the frames of their steps in "
            f"{root / folder}, the first is {unmatched[0]}; extract them with prepare_makeup"
            + ("" if len(unmatched) == len(annotated) else " or leave them out with --skip-missing")
        )
    kept = {video: steps[video] for video in annotated if video in frames}
    made = assemble(split, kept, frames, np.random.default_rng(seed))
    if unmatched:
        made = replace(made, skipped={WITHOUT_FRAMES: len(unmatched)})
    return made


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
    root: Path, steps: Mapping[str, Sequence[Step]], folder: str = "frames"
) -> tuple[dict[str, list[list[str]]], list[str]]:
    """The last ten pictures of every step, and the videos whose pictures are not all there.

    Steps and frame folders are both in order of time, so a video whose numbers agree needs no
    frame rate to tell which is which.

    Returns:
        Files relative to `root` for each step of each complete video; the other videos.
    """
    place = root / folder
    folders: dict[str, list[tuple[int, int, str]]] = {}
    for found in place.iterdir() if place.is_dir() else ():
        video, start, end = [*found.name.rsplit("_", 2), "", ""][:3]
        if start.isdigit() and end.isdigit():
            folders.setdefault(video, []).append((int(start), int(end), found.name))
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
    """The baseline's training rule: a modification, then one of the last five frames of both.

    Positions count from the end; of a step with fewer frames its first one stands for those that
    are missing. Departure: the baseline's epoch has five draws for each modification, ours
    (`Training.steps`) one for each image, so checkpoints lie closer together.
    """

    def sample(rng: np.random.Generator, count: int) -> list[Triplet]:
        drawn = rng.integers(len(split.queries), size=count)
        from_end = FRAMES - rng.integers(FRAMES - TRAINED_FRAMES, FRAMES, size=count)
        return [
            Triplet(
                _last(split.facts[query]["sources"], at),
                split.queries[query].caption,
                _last(split.facts[query]["targets"], at),
            )
            for query, at in zip(drawn, from_end, strict=True)
        ]

    return sample


def step_ends(split: ComposedSplit) -> list[list[int]]:
    """For each video the rows of the last frames of its steps, in order of time."""
    last: dict[str, dict[tuple[int, int], tuple[int, int]]] = {}
    for row, name in enumerate(split.names):
        *_, folder, file = name.split("/")
        video, start, end = folder.rsplit("_", 2)
        frame = int(file.removeprefix(f"{video}_").partition(".")[0])
        step = last.setdefault(video, {})
        bounds = (int(start), int(end))
        step[bounds] = max(step.get(bounds, (-1, -1)), (frame, row))
    return [[own[bounds][1] for bounds in sorted(own)] for own in last.values()]


def features_part(split: str) -> str:
    """What extracted features of a split are filed under."""
    return f"youmakeup_{split}"


def _last(rows: Sequence[int], from_end: int) -> int:
    """A step's row so many from the end (1: the last), or its first."""
    return rows[-min(from_end, len(rows))]


def _sequences(count: int, length: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Some of the ordered choices of `length` out of `count` steps, `count` of them at most."""
    total = comb(count, length)
    chosen = set(rng.choice(total, size=min(total, count), replace=False).tolist())
    return [it for at, it in enumerate(combinations(range(count), length)) if at in chosen]


def _last_frames(folder: Path, video: str) -> list[str]:
    """The last pictures of a step's folder, in order of time, relative to the data's root."""
    numbers = sorted(
        int(number)
        for file in folder.glob("*.jpg")
        if (number := file.stem.removeprefix(f"{video}_")).isdigit()
    )
    shown = numbers[-FRAMES:]
    return [f"{folder.parent.name}/{folder.name}/{video}_{number}.jpg" for number in shown]
