"""The ordering figures of RESULTS.md: makes and trains what is missing, prints the tables.

python -m scripts.results_ordering
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from scripts.common import run
from scripts.results_css import TIME, call

CHANCE = 25.0
PAIRWISE = ("pairwise", "greedy", "exact-first")
"""Methods that a pairwise model gives what they need, and those that need none:"""
ALONE = ("greedy-starts", "exact", "exact-anywhere", "candidates")
TRAIN = "--dataset css3d --model tirg --recipe fast --evaluate_every 0 --max_minutes 15"
QUICK_TRAIN = ("--dataset css3d --model tirg --recipe fast --evaluate_every 0 --epochs 1 "
               "--embed_dim 32 --batch_size 16 --validation_share 0.2")  # fmt: skip
QUICK_DATA = "--train-scenes 12 --test-scenes 6 --edits 18 --captions 10"


@dataclass(frozen=True)
class Line:
    """One kind of questions.

    Args:
        name: of its folders.
        what: as the table says it.
        steps: instructions of a question.
        growing: nothing is ever removed.
    """

    name: str
    what: str
    steps: int = 5
    growing: bool = False


LINES = (
    Line("any", "5 steps, any edits"),
    Line("growing", "5 steps, nothing removed", growing=True),
    Line("any-8", "5 of 8 steps, any edits", 8),
    Line("growing-8", "5 of 8 steps, nothing removed", 8, True),
)


@dataclass(frozen=True)
class Args:
    """Where things are; what is there is not made again."""

    checkpoint: Path | None = None
    """A composer trained on css3d, or its folder; by default the newest `tirg-3d` of --runs,
    trained when missing."""
    runs: Path = Path("runs/css")
    """Where results_css leaves its runs."""
    data_path: Path | None = None
    """CSS data; by default that of the checkpoint."""
    out: Path = Path("runs/ordering")
    """Receives questions, pairwise models and answers."""
    questions: int = 1000
    """Of each kind."""
    only: tuple[str, ...] = ()
    """Names of kinds; by default all."""
    quick: bool = False
    """Tiny data, one epoch and ten questions, in folders of their own whose names end in -quick:
    shows in a minute that all runs, not what it reaches."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: reproduce(args))


def reproduce(args: Args) -> None:
    """Make and train what is missing, kind by kind, then print the table.

    Raises:
        ValueError: there is no such kind.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown

    names = [line.name for line in LINES]
    for name in args.only:
        if name not in names:
            raise unknown("kind of questions", name, names)
    if args.quick:
        args = replace(args, out=args.out.with_name(f"{args.out.name}-quick"), questions=10,
                       checkpoint=None, data_path=None)  # fmt: skip
        args = replace(args, runs=args.out / "composer")
    checkpoint, data = composer_of(args)
    lines = [line for line in LINES if not args.only or line.name in args.only]
    for line in lines:
        ask(line, args, checkpoint, data)
    print(table(lines, args.out))


def composer_of(args: Args) -> tuple[Path, str]:
    """The composer, trained now if there is none, and its data as a flag."""
    from retrieval.training import BEST, load_training

    found = args.checkpoint or newest(args.runs)
    if found is None:
        if args.quick:
            data = args.out / "css"
            call(f"make_css --out {data} {QUICK_DATA}")
            call(f"train_composer {QUICK_TRAIN} --dataset_path {data} --log_dir {args.runs} "
                 "--comment tirg-3d-seed0")  # fmt: skip
        else:
            where = "" if args.data_path is None else f"--dataset_path {args.data_path} "
            call(f"train_composer {TRAIN} {where}--log_dir {args.runs} --comment tirg-3d-seed0")
        found = newest(args.runs)
        assert found is not None
    path = found / BEST if found.is_dir() else found
    root = args.data_path or load_training(path)["arguments"]["dataset_path"]
    return path, "" if root is None else f"--dataset_path {root} "


def newest(runs: Path) -> Path | None:
    """The newest finished run of the plain 3D TIRG."""
    found = [path.parent for path in runs.glob(f"{TIME}tirg-3d-seed0/evaluation.json")]
    return max(found, default=None)


def ask(line: Line, args: Args, checkpoint: Path, data: str) -> None:
    """Questions, pairwise model and answers of one kind, as far as they are missing."""
    questions = args.out / f"questions-{line.name}"
    grows = " --growing" if line.growing else ""
    call(f"make_ordering --out {questions} {data}--questions {args.questions} "
         f"--steps {line.steps}{grows}")  # fmt: skip
    pairwise = args.out / f"pairwise-{'growing' if line.growing else 'any'}.pt"
    size = "--sequences 20 --epochs 1" if args.quick else "--sequences 500 --epochs 5"
    call(f"train_pairwise --dataset css3d {data}--out {pairwise}{grows} {size}")
    answers = args.out / f"answers-{line.name}"
    shared = f"answer_ordering --checkpoint {checkpoint} --dataset_path {questions}"
    methods = [*PAIRWISE, *ALONE]
    if not all((answers / f"{method}_test_answer.json").is_file() for method in methods):
        call(f"{shared} --first {pairwise} --out {answers} --methods {' '.join(methods)}")
    if not (answers / "true" / "greedy_test_answer.json").is_file():
        call(f"{shared} --first truth --out {answers / 'true'} --methods greedy exact-first")


def table(lines: Sequence[Line], out: Path) -> str:
    """Accuracies in percent with 95 % intervals, as Markdown, and what exact search gains."""
    from retrieval.ordering import METHODS

    rows = {"chance": [f"{CHANCE:.0f}" for _ in lines]}
    firsts = [first_right(line, out) for line in lines]
    rows["first image by the pairwise model (chance 20)"] = [_percent(it) for it in firsts]
    for method in (*PAIRWISE, *ALONE):
        what = METHODS[method].what.replace("the given first image", "the pairwise model's image")
        rows[what] = [_percent(right(line, out, method)) for line in lines]
    for method in ("greedy", "exact-first"):
        what = METHODS[method].what.replace("the given first image", "the true first image")
        rows[what] = [_percent(right(line, out, f"true/{method}")) for line in lines]
    pairs = (("exact-first", "greedy", "from the pairwise model's image"),
             ("exact", "greedy", "over all orders"),
             ("exact", "greedy-starts", "against greedy chains from every image"),
             ("true/exact-first", "true/greedy", "from the true first image"))  # fmt: skip
    for better, worse, what in pairs:
        rows[f"gain of exact search {what}"] = [
            _gain(right(line, out, better), right(line, out, worse)) for line in lines
        ]
    head = ["", *(line.what for line in lines)]
    text = [head, ["---"] * len(head), *([what, *cells] for what, cells in rows.items())]
    return "\n".join("| " + " | ".join(row) + " |" for row in text)


def right(line: Line, out: Path, method: str) -> np.ndarray:
    """Which questions a method answered right (Q,)."""
    from retrieval.ordering import as_published, read_questions

    questions, _ = read_questions(out / f"questions-{line.name}", "test")
    path = out / f"answers-{line.name}" / f"{method}_test_answer.json"
    given = json.loads(path.read_text())
    return np.array(
        [given[str(it.number)] == as_published(it.truth or ()) for it in questions], dtype=bool
    )


def first_right(line: Line, out: Path) -> np.ndarray:
    """Of which questions the pairwise model's first image is right (Q,)."""
    from retrieval.ordering import read_questions

    questions, _ = read_questions(out / f"questions-{line.name}", "test")
    numbers = np.load(out / f"answers-{line.name}" / "first_test.npy", allow_pickle=False)
    pairs = zip(questions, numbers, strict=True)
    return np.array([it.truth is not None and it.truth[0] + 1 == number for it, number in pairs])


def _percent(found: np.ndarray) -> str:
    """A share in percent with its 95 % interval (Wilson)."""
    count, share, z = len(found), float(found.mean()), 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(
        share * (1 - share) / count + z * z / (4 * count * count)
    )  # fmt: skip
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _gain(better: np.ndarray, worse: np.ndarray) -> str:
    """The difference of two shares in points, paired by question, with its 95 % interval."""
    each = better.astype(float) - worse.astype(float)
    half = 1.96 * each.std(ddof=1) / math.sqrt(len(each))
    low, high = (100 * (each.mean() + sign * half) for sign in (-1, 1))
    return f"{100 * each.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
