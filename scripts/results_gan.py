"""The figures of generated pictures: trains and measures what is missing, prints the tables.

python -m scripts.results_gan
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from scripts.common import run
from scripts.results_css import call

COMPOSER = (
    "train_composer --dataset css3d --model tirg --recipe fast --image_encoder features "
    "--features scene-cnn --text_encoder gru --embed_dim 256 --matching_weight 1 "
    "--learning_rate 4e-3 --epochs 20 --evaluate_every 5 --comment composer"
)
SHORT = "--width 16 --nepochs 3 --save_epoch 3 --bfloat16"
OPEN = "--augmentation linear --kl_weight 0.02 --condition_scale 100 --GENERATOR_LR 1e-3"
READ = "--attribute_weight 10"
PIXELS = "--pixel_weight 20"
CALM = "--adversarial hinge --discriminator_norm spectral"
ALL = f"{OPEN} {READ} {PIXELS} {CALM} --ema 0.999"
LONG = (
    f"--batch_size 32 --width 16 --condition mix {ALL} "
    "--LR_DECAY_EPOCH 15 --nepochs 60 --save_epoch 3 --max_minutes 75 --bfloat16"
)
SECOND = f"--width 16 --condition mix {ALL} --nepochs 3 --save_epoch 1 --max_minutes 20 --bfloat16"
LARGER = "make_css --size 128"
COUNT = 1000
"""Test queries that are measured."""
QUICK_DATA = "make_css --train-scenes 12 --test-scenes 6 --edits 5 --captions 10"
QUICK = "--width 2 --nepochs 1 --batch_size 8 --save_epoch 1 --watch 4"
"""What is typed after a line's own flags to see it run, not to see figures."""


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Args:
        name: of the run's folder.
        what: as the table says it.
        flags: of `train_gan`, without paths.
        stage: 1 or 2.
    """

    name: str
    what: str
    flags: str
    stage: int = 1


LINES = (
    Line("published", "losses and rates as published", SHORT),
    Line("read", "+ attribute loss", f"{SHORT} {READ}"),
    Line("open", "+ open codes", f"{SHORT} {OPEN}"),
    Line("both", "+ open codes, attribute loss", f"{SHORT} {OPEN} {READ}"),
    Line("both-pixels", "both + pixel loss", f"{SHORT} {OPEN} {READ} {PIXELS}"),
    Line("both-hinge", "both + hinge", f"{SHORT} {OPEN} {READ} --adversarial hinge"),
    Line("both-spectral", "both + spectral normalisation",
         f"{SHORT} {OPEN} {READ} --discriminator_norm spectral"),
    Line("both-r1", "both + R1, no BatchNorm in the discriminator",
         f"{SHORT} {OPEN} {READ} --discriminator_norm none --r1_weight 1"),
    Line("both-ema", "both + average of weights", f"{SHORT} {OPEN} {READ} --ema 0.99"),
    Line("both-calm", "both + hinge, spectral normalisation, pixel loss",
         f"{SHORT} {OPEN} {READ} {CALM} {PIXELS}"),
    Line("stage1", "stage I, all of these but R1, longer, told features and queries", LONG),
    Line("stage2", "stage II on it", SECOND, stage=2),
)  # fmt: skip
"""Open codes: no ReLU after the Linear that makes codes, so that their noise can be turned down,
little weight on their divergence, longer conditions, and a generator that learns five times as
fast."""


@dataclass(frozen=True)
class Args:
    """Where runs are; what is there is not made again."""

    out: Path = Path("runs/gan")
    """Receives a folder per run."""
    larger_path: Path = Path("data/css_128")
    """The built-in scenes drawn at 128 px, for stage 2; made when missing."""
    only: tuple[str, ...] = ()
    """Names of lines; by default all."""
    quick: bool = False
    """Tiny data, tiny networks, one epoch, in folders whose names end in -quick: shows in a few
    minutes that all runs, not what they reach."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: reproduce(args))


def reproduce(args: Args) -> None:
    """Train what is missing, line by line, then print the table.

    Raises:
        ValueError: there is no such line.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown
    from retrieval.files import atomic_write

    names = [line.name for line in LINES]
    for name in args.only:
        if name not in names:
            raise unknown("line", name, names)
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    data = quick_data(out) if args.quick else ""
    lines = [line for line in LINES if not args.only or line.name in args.only]
    composer = composer_of(out, data, args.quick)
    for line in lines:
        train(line, args, out, composer, data)
    found = {line.name: figures(out, line.name) for line in lines}
    with atomic_write(out / "table.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(table(lines, out))


def quick_data(out: Path) -> str:
    """The flag of tiny data, made with its features when missing."""
    root = out / "data"
    if not root.exists():
        call(f"{QUICK_DATA} --out {root}")
        call(f"extract_features --encoder scene-cnn --data-path {root}")
    return f" --dataset_path {root}"


def composer_of(out: Path, data: str, is_quick: bool) -> Path:
    """The run whose space the conditions are in, trained when there is none that was finished."""
    if not (found := sorted(out.glob("*composer*/evaluation.json"))):
        short = " --epochs 1 --batch_size 8 --validation_share 0.2" if is_quick else ""
        call(f"{COMPOSER} --log_dir {out}{data}{short}")
        found = sorted(out.glob("*composer*/evaluation.json"))
    return found[-1].parent


def train(line: Line, args: Args, out: Path, composer: Path, data: str) -> None:
    """One run and its figures, unless they are there; one that was stopped goes on."""
    folder = out / line.name
    if (folder / "evaluation.json").is_file():
        return
    short = f" {QUICK}" if args.quick else ""
    first = folder if line.stage == 1 else out / "stage1"
    paths = f"--save_dir_GAN {first} --readers {out / 'readers'}{data}"
    if line.stage == 2:
        paths += f" --save_dir_GAN2 {folder} --bestmodel_gan last.pt"
    if line.stage == 2 and not args.quick:
        if not args.larger_path.exists():
            call(f"{LARGER} --out {args.larger_path}")
        paths += f" --larger_path {args.larger_path}"
    resume = " --resume" if (folder / "last.pt").is_file() else ""
    call(
        f"train_gan --stage {line.stage} --composer {composer} {line.flags}{short} {paths}{resume}"
    )
    call(f"evaluate_gan --checkpoint {folder} --count {COUNT}")


def figures(out: Path, name: str) -> dict[str, Any] | None:
    """What was measured of a run; None where it was not finished."""
    path = out / name / "evaluation.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    history = json.loads((out / name / "metrics.json").read_text())
    return {**found, **{key: history[-1][key] for key in ("minutes", "processor_minutes", "step")}}


def table(lines: Sequence[Line], out: Path) -> str:
    """What was found, as Markdown; the judge's reading unless said otherwise."""
    head = ["", "occupied", "all", "changed", "occupied, loss reader", "FID",
            "occupied, from query", "steps", "core minutes"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for line in lines:
        if (found := figures(out, line.name)) is None:
            continue
        target = found["conditions"]["target"]["drawn"]
        query = found["conditions"].get("query")
        rows.append([
            line.what,
            *(f"{100 * target['judge'][key]:.1f}" for key in ("occupied", "all", "changed")),
            f"{100 * target['loss']['occupied']:.1f}",
            f"{target['judge']['fid']:.0f}",
            f"{100 * query['drawn']['judge']['occupied']:.1f}" if query else "-",
            str(found["step"]),
            f"{found['processor_minutes']:.1f}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
