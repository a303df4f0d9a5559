"""Answer ordering questions: answer_ordering --checkpoint runs/... --first pairwise.pt"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import run, writable

if TYPE_CHECKING:
    import numpy as np

    from retrieval.models import RetrievalModel
    from retrieval.ordering import Evidence, Order, Question

TRUTH = "truth"


@dataclass(frozen=True)
class Args:
    """Choose one of the candidate orders for each question; accuracy where the truth is known."""

    checkpoint: Path | None = None
    """A composer that `train_composer` wrote, or its folder; the method `pairwise` needs none."""
    mod_data_path: Path = Path("./")
    """Kept for the original's command line: a model carries its own vocabulary."""
    split: str = "test"
    """Of the questions: `valid` or `test`."""
    dataset_path: Path | None = None
    """The folder of the questions; by default that of the checkpoint's data."""
    images: Path | None = None
    """The folder of their pictures, `{question_id}/*.jpg`; by default beside the questions."""
    first: str | None = None
    """Who says which picture is the first: a `.pt` of train_pairwise, a `.npy` of numbers from 1
    (as published), or `truth`, a bound."""
    methods: tuple[str, ...] = ("greedy",)
    """greedy (published), greedy-starts, exact, exact-first, exact-anywhere, candidates or
    pairwise; several are answered at once."""
    image_size: int | None = None
    """Height and width of the pictures; by default those of training, else 224."""
    out: Path = Path(".")
    """Receives `{method}_{split}_answer.json`, {question_id: chosen order}, for each method, and
    what a pairwise model takes for the first pictures, `first_{split}.npy`."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: answer_all(args))


def answer_all(args: Args) -> None:
    """Answer, write, and tell each method's accuracy where the truths are known.

    Raises:
        FileNotFoundError: a checkpoint, the questions or their pictures are missing.
        ValueError: an unknown method, or one that lacks something.
    """
    from retrieval.errors import unknown
    from retrieval.files import atomic_write
    from retrieval.ordering import METHODS, accuracy, answer, as_published, read_questions

    for method in args.methods:
        if method not in METHODS:
            raise unknown("way to order", method, METHODS)
    writable(args.out)
    model, arguments = load_composer(args.checkpoint)
    questions, folder = read_questions(root_of(args, arguments), args.split)
    needs_all = any(METHODS[method].wants_all for method in args.methods)
    chosen: dict[str, dict[int, Order]] = {method: {} for method in args.methods}
    size = args.image_size or size_of(arguments)
    firsts = []
    for evidence in gather(questions, args.images or folder, size, model, args.first, needs_all):
        firsts.append(evidence.first)
        for method in args.methods:
            chosen[method][evidence.question.number] = answer(evidence, method)
    if args.first is not None and Path(args.first).suffix == ".pt":
        save_firsts(args.out / f"first_{args.split}.npy", firsts, questions)
    for method, orders in chosen.items():
        path = args.out / f"{method}_{args.split}_answer.json"
        with atomic_write(path) as temporary:
            listed = {str(number): as_published(order) for number, order in orders.items()}
            temporary.write_text(json.dumps(listed))
        right = accuracy(questions, orders)
        told = "" if right is None else f": {100 * right:.1f} % right"
        print(f"{METHODS[method].what}{told} of {len(questions)}, answers in {path}")


def save_firsts(path: Path, firsts: Sequence[int | None], questions: Sequence[Question]) -> None:
    """Write the first pictures, numbered from 1 as published, and tell how many are right."""
    import numpy as np

    from retrieval.files import atomic_write
    from retrieval.ordering import as_published

    with atomic_write(path) as temporary:
        np.save(temporary, np.array(as_published(image for image in firsts if image is not None)))
    if all(question.truth is not None for question in questions):
        pairs = zip(questions, firsts, strict=True)
        right = np.mean([question.truth is not None and question.truth[0] == first
                         for question, first in pairs])  # fmt: skip
        print(f"first images: {100 * right:.1f} % right, in {path}")


def load_composer(path: Path | None) -> tuple[RetrievalModel | None, dict[str, Any]]:
    """A composer and how it was trained; None where no checkpoint is given."""
    from retrieval.training import BEST, load_training
    from retrieval.two_encoders import rebuild

    if path is None:
        return None, {}
    content = load_training(path / BEST if path.is_dir() else path)
    return rebuild(content), dict(content["arguments"])


def root_of(args: Args, trained: dict[str, Any]) -> Path:
    """Where the questions are.

    Raises:
        ValueError: neither given nor told by the checkpoint.
    """
    given = args.dataset_path or trained.get("dataset_path")
    if given is None:
        raise ValueError("the folder of the questions is not known; give it as --dataset_path")
    return Path(given)


def size_of(trained: dict[str, Any]) -> int | None:
    """The pictures' size in training; None for as they are (CSS)."""
    size: int | None = trained.get("image_size")
    return size if size is not None or trained.get("dataset") in ("css3d", "css2d") else 224


def gather(
    questions: Sequence[Question],
    folder: Path,
    size: int | None,
    model: RetrievalModel | None,
    first: str | None,
    needs_all: bool,
) -> Iterator[Evidence]:
    """The evidence on each question, with progress.

    Args:
        questions: to be answered.
        folder: of their pictures.
        size: to which pictures are cropped; None leaves them.
        model: composes, if there is one.
        first: as `--first`.
        needs_all: whether all similarities will be read.
    """
    from tqdm import tqdm

    from retrieval.ordering import (
        Evidence,
        PairwiseModel,
        Similarities,
        first_of,
        load_pairwise,
        pictures_of,
    )

    files = pictures_of(folder, questions)
    told = first_images(first, questions)
    pairwise: PairwiseModel | None = None
    if first is not None and told is None:
        pairwise = load_pairwise(Path(first))
    bar = tqdm(questions, desc="questions", unit="question", file=sys.stderr, mininterval=1.0)
    for number, question in enumerate(bar):
        pictures = opened(files[number], size)
        similarity, later = None, None
        start = None if told is None else told[number]
        if model is not None:
            similarity = Similarities(model, pictures, question.captions)
            if needs_all:
                similarity.compose_all()
        if pairwise is not None:
            later = pairwise.later(pictures)
            start = first_of(later)
        yield Evidence(question, similarity, start, later)


def first_images(first: str | None, questions: Sequence[Question]) -> list[int] | None:
    """The first picture of each question, rows from 0, where it is not for a model to say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the truth is hidden, or the file is about other questions.
    """
    import numpy as np

    from retrieval.pickles import load_pickled

    if first is None or Path(first).suffix == ".pt":
        return None
    if first == TRUTH:
        if any(question.truth is None for question in questions):
            raise ValueError("these questions hide their truth; give another --first")
        return [question.truth[0] for question in questions if question.truth]
    if Path(first).suffix != ".npy":
        raise ValueError(f"expected --first to be a .pt, a .npy or truth, got {first!r}")
    if not Path(first).is_file():
        raise FileNotFoundError(f"no first images at {first}; check --first")
    try:
        numbers = np.load(first, allow_pickle=False)
    except ValueError:
        numbers = np.asarray(load_pickled(Path(first)))
    images = len(questions[0].candidates[0])
    if numbers.shape != (len(questions),) or not np.isin(numbers, range(1, images + 1)).all():
        raise ValueError(
            f"expected a number from 1 to {images} for each of {len(questions)} questions in "
            f"{first}, got an array {numbers.shape}; is it of the other split?"
        )
    return [int(number) - 1 for number in numbers]


def opened(files: Sequence[Path], size: int | None) -> np.ndarray:
    """Pictures of one question, uint8 (M, H, W, 3).

    Raises:
        ValueError: a picture cannot be decoded.
    """
    import numpy as np
    from PIL import Image

    from retrieval.pictures import crop

    pictures = []
    for file in files:
        try:
            with Image.open(file) as picture:
                whole = picture.convert("RGB")
        except OSError as error:
            raise ValueError(f"cannot decode the picture {file} ({error}); replace it") from error
        pictures.append(np.asarray(whole if size is None else crop(whole, (size, size))))
    return np.stack(pictures)


if __name__ == "__main__":
    main()
