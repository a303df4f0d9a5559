"""Sequences of CSS scenes, each made from the one before by an instruction, as ordering questions.

A stand-in for the make-up videos that can be drawn: a face's steps are edits of a scene, a step's
caption is its instruction. The first caption led to the first scene, so that L captions go with L
scenes, as in `retrieval.ordering.questions`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from retrieval.files import atomic_write
from retrieval.ordering.questions import FILES, IMAGES, as_published, other_orders
from retrieval.rendering.pictures_3d import render_3d
from retrieval.rendering.scenes import sample_edit, to_objects

COMPLETE = "complete.json"
_TRIES = 1000


class SceneSequence(NamedTuple):
    """L instructions, and the scenes (L, 9, 3) that they lead to one after another."""

    captions: tuple[str, ...]
    scenes: np.ndarray


def sample_sequence(
    start: np.ndarray,
    steps: int,
    rng: np.random.Generator,
    taken: Collection[bytes] = (),
    growing: bool = False,
) -> SceneSequence:
    """A random sequence from a scene (9, 3) that it does not show itself.

    Args:
        start: what the first instruction is about.
        steps: number L of instructions.
        rng: draws the edits, as for the queries of the built-in data.
        taken: scenes that may not occur, as bytes; no scene occurs twice either.
        growing: nothing is ever removed, as make-up is only put on: later scenes tend to hold
            more, so that something of the order can be seen. Otherwise time leaves no trace.

    Raises:
        ValueError: no further edit leads to a scene that may be shown.
    """
    scene = start
    captions: list[str] = []
    scenes: list[np.ndarray] = []
    seen = {start.tobytes()}
    for _ in range(steps):
        for _ in range(_TRIES):
            edit = sample_edit(scene, rng)
            key = edit.scene.tobytes()
            if key in seen or key in taken or (growing and edit.instruction.startswith("remove")):
                continue
            break
        else:
            raise ValueError(
                f"no edit leads to a scene that may be shown after {len(scenes)} of {steps} steps; "
                "use fewer steps"
            )
        seen.add(key)
        scene = edit.scene
        captions.append(edit.instruction)
        scenes.append(scene)
    return SceneSequence(tuple(captions), np.stack(scenes))


def sample_sequences(
    starts: np.ndarray,
    count: int,
    steps: int,
    rng: np.random.Generator,
    taken: Collection[bytes] = (),
    growing: bool = False,
) -> list[SceneSequence]:
    """Sequences from scenes (S, 9, 3) drawn one after another in a random order, and again."""
    rounds = -(-count // len(starts))
    rows = np.concatenate([rng.permutation(len(starts)) for _ in range(rounds)])[:count]
    return [sample_sequence(starts[row], steps, rng, taken, growing) for row in rows]


def draw_scenes(scenes: np.ndarray, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """3D pictures uint8 (S, H, W, 3) of scenes (S, 9, 3), each with light and jitter of its own."""
    bar = tqdm(scenes, desc="drawing scenes", unit="picture", file=sys.stderr, mininterval=1.0)
    return np.stack([render_3d(to_objects(scene), rng, size, size) for scene in bar])


def write_questions(
    folder: Path,
    starts: np.ndarray,
    count: int = 1000,
    steps: int = IMAGES,
    seed: int = 0,
    taken: Collection[bytes] = (),
    growing: bool = False,
    size: int = 64,
    split: str = "test",
) -> None:
    """Questions on disk in the published layout; what is complete is not made again.

    Every question has five of its sequence's scenes, drawn at random where there are more, in a
    random order, and four candidates as `other_orders` makes them. Pictures are PNG files, since
    JPEG would show in small pictures.

    Args:
        folder: receives the file of questions and `images`.
        starts: scenes (S, 9, 3) to begin with.
        count: questions.
        steps: captions of each (L).
        seed: fixes everything.
        taken, growing: as for `sample_sequence`.
        size: height and width of the pictures.
        split: whose file it is, "valid" or "test".

    Raises:
        ValueError: fewer captions than pictures, or the folder holds other questions.
    """
    if steps < IMAGES:
        raise ValueError(f"expected at least {IMAGES} steps for {IMAGES} pictures, got {steps}")
    made_of = {"count": count, "steps": steps, "seed": seed, "growing": growing, "size": size,
               "split": split, "starts": len(starts), "taken": len(taken)}  # fmt: skip
    note = folder / COMPLETE
    if note.is_file():
        if json.loads(note.read_text()) != made_of:
            raise ValueError(f"{folder} holds other questions; choose another folder")
        return
    rng = np.random.default_rng([seed, 17])
    lines = []
    bar = tqdm(range(1, count + 1), desc="questions", unit="question", file=sys.stderr,
               mininterval=1.0)  # fmt: skip
    for number in bar:
        start = starts[rng.integers(len(starts))]
        sequence = sample_sequence(start, steps, rng, taken, growing)
        shown = np.sort(rng.choice(steps, IMAGES, replace=False))  # steps of the five, in order
        truth = rng.permutation(IMAGES).tolist()  # the place among the pictures of each
        for step, place in zip(shown, truth, strict=True):
            picture = render_3d(to_objects(sequence.scenes[step]), rng, size, size)
            path = folder / "images" / str(number) / f"{place + 1}.png"
            with atomic_write(path) as temporary:
                Image.fromarray(picture).save(temporary)
        lines.append(
            {
                "question_id": number,
                "video_id": f"css_{number}",
                "step_caption": list(sequence.captions),
                "groundtruth": as_published(truth),
                "candidate_answer": [as_published(one) for one in other_orders(truth, rng)],
            }
        )
    with atomic_write(folder / FILES[split]) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with atomic_write(note) as temporary:
        temporary.write_text(json.dumps(made_of))
