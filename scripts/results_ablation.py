"""Which memory, which supervised loss, and what Stable-Baselines3 makes of it: 3D scenes, neural
user. Trains and plays what is missing, prints the table.

python -m scripts.results_ablation
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from scripts.common import run
from scripts.results_css import call
from scripts.results_users import spread

COLUMNS = ("percentile", "recall@1", "recall@10", "found", "bri")
START = "--epochs 1 --batch-size 64 --lr 1e-3 --schedule cosine --test-pairs 0"
TURNS = 102_400
"""Turns that a policy of Stable-Baselines3 is trained for."""
QUICK_DATA = "make_css --train-scenes 16 --test-scenes 8 --edits 4 --captions 60"


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Args:
        what: as the table says it.
        command: `train_sl` or `train_sb3`.
        flags: of it.
        begins: with the weights of another line.
    """

    what: str
    command: str
    flags: str = ""
    begins: str = ""

    @property
    def file(self) -> str:
        """What training leaves."""
        return "sl-0.pt" if self.command == "train_sl" else "ppo-0.zip"


LINES = {
    "gru": Line("TIRG, GRU, in-batch softmax (the default)", "train_sl"),
    "transformer": Line("memory: causal Transformer", "train_sl", "--memory transformer"),
    "none": Line("memory: none", "train_sl", "--memory none"),
    "published": Line("the published tracker, triplet", "train_sl",
                      "--agent published --loss triplet"),
    "triplet": Line("loss: triplet", "train_sl", "--loss triplet"),
    "hard": Line("loss: and the nearest wrong images", "train_sl", "--loss hard_negatives"),
    "gallery": Line("loss: softmax over the gallery", "train_sl", "--loss gallery"),
    "ppo": Line("PPO from scratch", "train_sb3", "--algo ppo"),
    "ppo-sl": Line("PPO from the default's weights", "train_sb3", "--algo ppo", "gru"),
}  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Where things are; what is there is not made again."""

    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    out: Path = Path("runs/ablation")
    """Receives a folder per line and seed."""
    only: tuple[str, ...] = ()
    """Names of lines; by default all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each trains all lines anew."""
    dialogs: int = 6_400
    """Of each supervised training."""
    turns: int = TURNS
    """Of each training by Stable-Baselines3."""
    pairs: int = 1000
    """Dialogs that each agent plays on images never seen in training."""
    quick: bool = False
    """Tiny data and few dialogs, in a folder whose name ends in -quick: shows that all runs."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(reproduce(args)))


def reproduce(args: Args) -> str:
    """Train and play what is missing; returns the table.

    Raises:
        ValueError: there is no such line.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown

    for name in args.only:
        if name not in LINES:
            raise unknown("line", name, LINES)
    if args.quick:
        out = args.out.with_name(f"{args.out.name}-quick")
        if not (data := out / "data").exists():
            call(f"{QUICK_DATA} --out {data}")
        args = replace(args, out=out, data_path=data, seeds=args.seeds[:1], dialogs=64,
                       turns=1280, pairs=20)  # fmt: skip
    names = [name for name in LINES if not args.only or name in args.only]
    for seed in args.seeds:
        for name in names:
            train(name, seed, args)
        play(names, seed, args)
    return table(names, args)


def train(name: str, seed: int, args: Args) -> None:
    """One line and seed, after the one it begins with, unless it is there."""
    line = LINES[name]
    folder = args.out / f"seed-{seed}" / name
    if (folder / line.file).is_file():
        return
    where = f"{_world(args)} --seed {seed} --model-folder {folder}"
    if line.command == "train_sl":
        call(f"train_sl {START} {line.flags} --dialogs-per-epoch {args.dialogs} {where}")
        return
    begins = ""
    if line.begins:
        train(line.begins, seed, args)
        begins = f"--pretrained-model {folder.parent / line.begins / LINES[line.begins].file} "
    call(f"train_sb3 {line.flags} --epochs 1 --turns-per-epoch {args.turns} --test-pairs 0 "
         f"{begins}{where}")  # fmt: skip


def play(names: list[str], seed: int, args: Args) -> None:
    """The benchmark of each agent of a seed, unless it is there."""
    for name in ("random", *names):
        out = args.out / f"seed-{seed}" / name / "benchmark"
        if not (out / "benchmark.json").is_file():
            what = name if name == "random" else f"{name}={out.parent / LINES[name].file}"
            call(f"benchmark --agents {what} {_world(args)} --pairs {args.pairs} --seed 3 "
                 f"--bootstrap 10 --out {out}")  # fmt: skip


def table(names: list[str], args: Args) -> str:
    """Means and standard deviations over seeds at the last turn, in percent (BRI as it is)."""
    head = ["", "seeds", *COLUMNS]
    rows = [head, ["---"] * len(head)]
    for name in ("random", *names):
        paths = [args.out / f"seed-{seed}" / name / "benchmark/benchmark.json"
                 for seed in args.seeds]  # fmt: skip
        found = [json.loads(path.read_text())["agents"][name] for path in paths]
        cells = [
            spread([(1 if column == "bri" else 100) * one[column][-1] for one in found])
            for column in COLUMNS
        ]
        what = name if name == "random" else LINES[name].what
        rows.append([what, str(len(found)), *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _world(args: Args) -> str:
    return "--user neural" + (f" --data-path {args.data_path}" if args.data_path else "")


if __name__ == "__main__":
    main()
