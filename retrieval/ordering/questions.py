"""The image-ordering questions of YouMakeup VQA 2020, and any others in their layout.

    image_ordering_validation.json, image_ordering_test.json   one question per line:
        {question_id, video_id, step_caption [...], groundtruth [...], candidate_answer [[...]]}
    images/{question_id}/*.jpg                                 its pictures, in order of name

Files number a question's pictures from 1, in order of name; here they are rows from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrieval.datasets.annotations import read_json_lines, value_of
from retrieval.errors import unknown

FILES = {"valid": "image_ordering_validation.json", "test": "image_ordering_test.json"}
SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGES = 5
"""Pictures of a question, everywhere in the published files."""
CANDIDATES = 4

Order = tuple[int, ...]
"""A question's pictures, rows from 0, from the earliest to the latest."""


class Question(NamedTuple):
    """Some pictures out of order, the steps between them, and orders to choose from.

    Args:
        number: its id in the files.
        video: whose pictures these are.
        captions: every step of the video, in order (L).
        candidates: the orders to choose from.
        truth: the right one, or None where it is hidden.
    """

    number: int
    video: str
    captions: tuple[str, ...]
    candidates: tuple[Order, ...]
    truth: Order | None = None


def read_questions(root: Path, split: str) -> tuple[list[Question], Path]:
    """A split's questions and the folder of its pictures.

    Args:
        root: the data set's folder, its `data` folder, or the one with the questions.
        split: "valid" or "test".

    Raises:
        FileNotFoundError: there is no file of questions.
        ValueError: an unknown split, or a file that is not whole or contradicts itself.
    """
    if split not in FILES:
        raise unknown("split of the ordering questions", split, FILES)
    source = _find(root, split)
    questions = [_question(entry, source) for entry in read_json_lines(source)]
    if not questions:
        raise ValueError(f"{source} holds no questions; fetch it again")
    if len({question.number for question in questions}) < len(questions):
        raise ValueError(f"{source} has a question_id twice; fetch it again")
    own = source.parent / split / "images"
    return questions, own if own.is_dir() else source.parent / "images"


def pictures_of(folder: Path, questions: Sequence[Question]) -> list[list[Path]]:
    """The picture files of each question, in the order that the answers count them in.

    Raises:
        FileNotFoundError: a question has another number of pictures than its candidates order.
    """
    found, wrong = [], []
    for question in questions:
        place = folder / str(question.number)
        files = sorted(place.iterdir()) if place.is_dir() else []
        found.append([file for file in files if file.suffix.lower() in SUFFIXES])
        if len(found[-1]) != len(question.candidates[0]):
            wrong.append(question.number)
    if wrong:
        raise FileNotFoundError(
            f"{len(wrong)} of {len(questions)} questions lack some of their pictures in {folder}, "
            f"the first is question {wrong[0]}; fetch the images, or give their folder as --images"
        )
    return found


def as_published(order: Iterable[int]) -> list[int]:
    """An order as the files spell it: pictures count from 1."""
    return [int(image) + 1 for image in order]


def other_orders(
    truth: Sequence[int], rng: np.random.Generator, count: int = CANDIDATES
) -> tuple[Order, ...]:
    """Candidates made as the published ones: the truth among others, all different, shuffled.

    The published wrong orders fit uniform draws from all other orders: their longest common
    subsequences with the truth have the lengths that chance gives.

    Example:
        >>> made = other_orders([2, 0, 1], np.random.default_rng(0))
        >>> (2, 0, 1) in made, len(set(made)), {len(order) for order in made}
        (True, 4, {3})
    """
    chosen = {tuple(int(image) for image in truth)}
    while len(chosen) < count:
        chosen.add(tuple(rng.permutation(len(truth)).tolist()))
    listed = sorted(chosen)
    return tuple(listed[row] for row in rng.permutation(count))


def _find(root: Path, split: str) -> Path:
    """The file of a split's questions, in any of the layouts it is handed around in."""
    folders = (".", "image_ordering", "task/image_ordering", "data/task/image_ordering")
    places = [root / folder / own for folder in folders for own in (split, ".")]
    for place in places:
        if (place / FILES[split]).is_file():
            return place / FILES[split]
    raise FileNotFoundError(
        f"expected {FILES[split]} in {root} or its task/image_ordering/{split}, where it is "
        "missing; fetch YouMakeup's task files, or make questions with make_ordering"
    )


def _question(entry: Mapping[str, Any], source: Path) -> Question:
    number, video, captions, answers = (
        value_of(entry, field, source)
        for field in ("question_id", "video_id", "step_caption", "candidate_answer")
    )
    truth = entry.get("groundtruth")
    candidates = tuple(_order(answer, number, source) for answer in answers)
    if not candidates or len({len(order) for order in candidates}) > 1:
        raise ValueError(
            f"expected candidate answers of one length for question {number} in {source}; "
            "fetch it again"
        )
    if len(captions) < len(candidates[0]):
        raise ValueError(
            f"expected a step for each of {len(candidates[0])} pictures of question {number} in "
            f"{source}, got {len(captions)}; fetch it again"
        )
    known = None if truth is None else _order(truth, number, source)
    return Question(int(number), str(video), tuple(captions), candidates, known)


def _order(answer: Sequence[int], number: int, source: Path) -> Order:
    """Rows from 0 of an answer that counts from 1."""
    rows = tuple(int(image) - 1 for image in answer)
    if sorted(rows) != list(range(len(rows))):
        raise ValueError(
            f"expected an order of the pictures 1 to {len(rows)} in question {number} of {source}, "
            f"got {list(answer)}; fetch it again"
        )
    return rows
