"""The CSS figures of RESULTS.md: trains and evaluates what is missing, prints the tables.

python -m scripts.results_css --data-path data/css_published
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from scripts.common import run

TIME = "????-??-??_??-??-??"
"""How the names of runs' folders begin."""
CUTS = ("R@1", "R@5", "R@10", "R@50", "R@100")
SEEDS = (0, 1, 2)
PUBLISHED_SIZE = "--published"
SMALL_SIZE = "--train-scenes 120 --test-scenes 300 --edits 18 --captions 1000"
QUICK_SIZE = "--train-scenes 12 --test-scenes 6 --edits 18 --captions 10"
QUICK = "--epochs 1 --embed_dim 32 --batch_size 32 --validation_share 0.2"
"""What is typed after a line's own flags to see it run, not to see figures."""

FAST = "--recipe fast --bfloat16 --evaluate_every 0"
SMALL = (
    f"--dataset css3d --model tirg {FAST} --validation_share 0 --embed_dim 128 --batch_size 64 "
    "--epochs 8"
)
EXPLICIT = "--use_gPenalty True --gradient_penalty_weight 0.01"
IMPLICIT = "--random_grad True --random_grad_mode noise"


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Args:
        name: of the runs' folders, with `-seed0` after it.
        what: as the table says it.
        flags: of `train_composer`, without paths, comment and seed.
        published: Recall@1 in the papers.
        seeds: to train with.
        is_small: on the small training set.
    """

    name: str
    what: str
    flags: str
    published: str = "-"
    seeds: tuple[int, ...] = (0,)
    is_small: bool = False

    def command(self, data: Path, out: Path, seed: int) -> str:
        """What trains and evaluates it, as typed."""
        paths = f"--dataset_path {data} --log_dir {out} --comment {self.name}-seed{seed}"
        return f"train_composer {self.flags} {paths} --seed {seed}"


LINES = (
    Line("imgonly-3d", "image only", f"--dataset css3d --model imgonly {FAST} --epochs 3",
         "6.3 [M]"),
    Line("concat-3d", "concat", f"--dataset css3d --model concat {FAST}", "60.6 [M]"),
    Line("tirg-3d", "TIRG", f"--dataset css3d --model tirg {FAST}", "73.7; GA 91.2"),
    Line("tirg-long-3d", "TIRG, pictures shifted, 40 epochs",
         f"--dataset css3d --model tirg {FAST} --shift 2 --epochs 40"),
    Line("tirg-published-3d", "TIRG, published recipe, equal minutes",
         "--dataset css3d --model tirg --recipe tirg --evaluate_every 0 --max_minutes 8",
         "73.7; google/tirg 76.0"),
    Line("tirg-lastconv-3d", "TIRG on the last map",
         f"--dataset css3d --model tirg_lastconv {FAST} --embed_dim 128 --epochs 12"),
    Line("tirg-2d", "TIRG, 2D", f"--dataset css2d --model tirg {FAST}"),
    Line("tirg-2dto3d-shared", "TIRG, 2D query to 3D gallery, one encoder",
         f"--dataset css3d --query_look 2d --model tirg {FAST} --epochs 5", "46.6"),
    Line("tirg-2dto3d-separate", "TIRG, 2D query to 3D gallery, two encoders",
         f"--dataset css3d --query_look 2d --model tirg --query_encoder separate {FAST} --epochs 4",
         "46.6"),
    Line("small-none", "TIRG, small training set", SMALL, seeds=SEEDS, is_small=True),
    Line("small-implicit", "with implicit GA", f"{SMALL} {IMPLICIT}", seeds=SEEDS, is_small=True),
    Line("small-explicit", "with explicit GA", f"{SMALL} {EXPLICIT}", seeds=SEEDS, is_small=True),
    Line("small-longer", "with none, 24 epochs", f"{SMALL} --epochs 24", seeds=SEEDS,
         is_small=True),
    Line("small-both", "with both", f"{SMALL} {EXPLICIT} {IMPLICIT}", seeds=SEEDS, is_small=True),
)  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Where data and runs are; what is there is not made again."""

    data_path: Path = Path("data/css_published")
    """Splits of the published size; made by make_css --published when missing."""
    small_path: Path = Path("data/css_small")
    """The small training set, made when missing."""
    out: Path = Path("runs/css")
    """Receives a folder per run."""
    only: tuple[str, ...] = ()
    """Names of lines; by default all."""
    seeds: tuple[int, ...] | None = None
    """In place of the seeds of each line."""
    quick: bool = False
    """Tiny data and one epoch, in folders of their own whose names end in -quick: shows in a few
    minutes that all runs, not what they reach."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: reproduce(args))


def reproduce(args: Args) -> None:
    """Train what is missing, line by line, then print the tables.

    Raises:
        ValueError: there is no such line.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown

    names = [line.name for line in LINES]
    for name in args.only:
        if name not in names:
            raise unknown("line", name, names)
    if args.quick:
        args = replace(args, data_path=_apart(args.data_path), small_path=_apart(args.small_path),
                       out=_apart(args.out))  # fmt: skip
    lines = [line for line in LINES if not args.only or line.name in args.only]
    for line in lines:
        for seed in seeds_of(line, args):
            train(line, args, seed)
    print(tables(lines, args.out))


def _apart(path: Path) -> Path:
    """Where the quick form's data or runs lie."""
    return path.with_name(f"{path.name}-quick")


def seeds_of(line: Line, args: Args) -> Sequence[int]:
    """The seeds that a line is trained with."""
    return line.seeds if args.seeds is None else args.seeds


def train(line: Line, args: Args, seed: int) -> None:
    """One run, unless its figures are there."""
    if figures(args.out, line.name, seed) is not None:
        return
    data = args.small_path if line.is_small else args.data_path
    if not data.exists():
        size = SMALL_SIZE if line.is_small else PUBLISHED_SIZE
        call(f"make_css --out {data} {QUICK_SIZE if args.quick else size}")
    call(line.command(data, args.out, seed) + (f" {QUICK}" if args.quick else ""))


def figures(out: Path, name: str, seed: int) -> dict[str, Any] | None:
    """Recalls, in percent, and minutes of training of a run; None where it was not finished."""
    for folder in sorted(out.glob(f"{TIME}{name}-seed{seed}"), reverse=True):
        if (folder / "evaluation.json").is_file():
            report = json.loads((folder / "evaluation.json").read_text())["report"]
            history = json.loads((folder / "metrics.json").read_text())
            found = {cut: 100 * report["rows"][0]["recall"][cut] for cut in CUTS}
            return {**found, "minutes": history[-1]["minutes"]}
    return None


def tables(lines: Sequence[Line], out: Path) -> str:
    """What was found, as Markdown: means over seeds, and differences to the plain small one."""
    head = ["", "seeds", *CUTS, "published R@1", "minutes"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        found = [one for seed in SEEDS for one in [figures(out, line.name, seed)] if one]
        if found:
            cells = [spread([one[cut] for one in found]) for cut in CUTS]
            minutes = f"{mean(one['minutes'] for one in found):.1f}"
            rows.append([line.what, str(len(found)), *cells, line.published, minutes])
    text = ["| " + " | ".join(row) + " |" for row in rows]
    small = [line for line in lines if line.is_small]
    text += [difference(line, small[0], out) for line in small[1:]]
    return "\n".join(text)


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def difference(line: Line, plain: Line, out: Path) -> str:
    """Recall@1 of a line less that of another, paired by seed."""
    pairs = [(figures(out, line.name, seed), figures(out, plain.name, seed)) for seed in SEEDS]
    gains = [one["R@1"] - other["R@1"] for one, other in pairs if one and other]
    if not gains:
        return f"{line.what} - {plain.what}: no seed in common"
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    return f"{line.what} - {plain.what}: R@1 {mean(gains):+.1f} (by seed {each})"


def call(command: str) -> None:
    """Run one of this project's commands as its own process, with one thread unless told.

    Raises:
        RuntimeError: it failed.
    """
    print(f"$ {command}", flush=True)
    name, *typed = shlex.split(command)
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    line = [sys.executable, "-m", f"scripts.{name}", *typed]
    if subprocess.run(line, check=False, env=environment).returncode != 0:
        raise RuntimeError(f"{name} failed; see the message above")


if __name__ == "__main__":
    main()
