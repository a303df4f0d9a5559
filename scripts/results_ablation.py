"""Which memory, which supervised loss, and what each way of learning by reward makes of the
default's weights: 3D scenes, neural user. Trains and plays what is missing, prints the table.

python -m scripts.results_ablation
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from scripts.common import run
from scripts.dialog_map import GO_ON, LOOK, START, captions
from scripts.results_css import call
from scripts.results_users import spread

COLUMNS = ("percentile", "recall@1", "recall@10", "found", "bri")
CAPTIONS = 102_400
"""Captions that who goes on from the default's weights hears, and PPO from scratch."""
TURNS = 5
SAMPLES = 3
QUICK_DATA = "make_css --train-scenes 16 --test-scenes 8 --edits 4 --captions 60"


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Args:
        what: as the table says it.
        command: `train_sl`, `train_rl` or `train_sb3`.
        flags: of it; what `train_sb3` trains stands first.
        begins: with the weights of another line.
        heard: captions that a dialog of training costs; more than it hears where a tenth of the
            captions take as long as all do elsewhere.
    """

    what: str
    command: str
    flags: str = ""
    begins: str = ""
    heard: int = TURNS

    @property
    def file(self) -> str:
        """What training leaves."""
        if self.command == "train_sb3":
            return f"{self.flags.split()[0]}-0.zip"
        return f"{self.command.removeprefix('train_')}-0.pt"


LINES = {
    "gru": Line("TIRG, GRU, in-batch softmax (the default)", "train_sl"),
    "transformer": Line("memory: causal Transformer", "train_sl", "--memory transformer"),
    "none": Line("memory: none", "train_sl", "--memory none"),
    "published": Line("the published tracker, triplet", "train_sl",
                      "--agent published --loss triplet"),
    "triplet": Line("loss: triplet", "train_sl", "--loss triplet"),
    "hard": Line("loss: and the nearest wrong images", "train_sl", "--loss hard_negatives"),
    "gallery": Line("loss: softmax over the gallery", "train_sl", "--loss gallery"),
    "ppo": Line("PPO from scratch", "train_sb3", "ppo"),
    "decodes": Line("from the default's weights: supervised training", "train_sl", GO_ON, "gru"),
    "improvement": Line("policy improvement", "train_rl", f"{GO_ON} {LOOK}", "gru",
                        TURNS * captions(TURNS)),
    "scst": Line("self-critical (SCST)", "train_rl",
                 f"{GO_ON} --method self-critical --samples {SAMPLES}", "gru",
                 TURNS * (1 + SAMPLES)),
    "ppo-sl": Line("PPO", "train_sb3", "ppo", "gru"),
    "a2c-sl": Line("A2C", "train_sb3", "a2c", "gru"),
    "sac-sl": Line("SAC, a tenth of the captions", "train_sb3", "sac", "gru", 10 * TURNS),
    "recurrent-ppo-sl": Line("RecurrentPPO", "train_sb3", "recurrent-ppo", "gru"),
    "maskable-ppo-sl": Line("MaskablePPO, 16 candidates", "train_sb3", "maskable-ppo", "gru"),
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
    """Of each supervised training from scratch."""
    captions: int = CAPTIONS
    """That each training from the default's weights hears, and PPO from scratch."""
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
                       captions=1280, pairs=20)  # fmt: skip
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
    if line.command == "train_sb3":
        turns = args.captions * TURNS // line.heard
        recipe = f"--algo {line.flags} --epochs 1 --test-pairs 0 --turns-per-epoch {turns}"
    elif line.begins:
        recipe = f"{line.flags} --dialogs-per-epoch {args.captions // line.heard}"
    else:
        recipe = f"{START} {line.flags} --dialogs-per-epoch {args.dialogs}"
    if line.begins:
        train(line.begins, seed, args)
        begins = folder.parent / line.begins / LINES[line.begins].file
        recipe += f" --pretrained-model {begins}"
        if line.command != "train_sb3":
            seed += 1000  # other dialogs than the start's
    call(f"{line.command} {recipe} {_world(args)} --seed {seed} --model-folder {folder}")


def play(names: list[str], seed: int, args: Args) -> None:
    """The benchmark of each agent of a seed, unless it is there."""
    for name in ("random", *names):
        out = args.out / f"seed-{seed}" / name / "benchmark"
        if not (out / "benchmark.json").is_file():
            what = name if name == "random" else f"{name}={out.parent / LINES[name].file}"
            call(f"benchmark --agents {what} {_world(args)} --pairs {args.pairs} --seed 3 "
                 f"--bootstrap 10 --out {out}")  # fmt: skip


def table(names: list[str], args: Args) -> str:
    """Means and standard deviations over seeds at the last turn, in percent (BRI as it is), and
    the share of all images that had been shown before in their dialog."""
    head = ["", "seeds", *COLUMNS, "shown again"]
    rows = [head, ["---"] * len(head)]
    for name in ("random", *names):
        paths = [args.out / f"seed-{seed}" / name / "benchmark/benchmark.json"
                 for seed in args.seeds]  # fmt: skip
        tables = [json.loads(path.read_text()) for path in paths]
        found = [one["agents"][name] for one in tables]
        cells = [
            spread([(1 if column == "bri" else 100) * one[column][-1] for one in found])
            for column in COLUMNS
        ]
        cells.append(spread([100 * one["repeat_share"][name] for one in tables]))
        what = name if name == "random" else LINES[name].what
        rows.append([what, str(len(found)), *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _world(args: Args) -> str:
    return "--user neural" + (f" --data-path {args.data_path}" if args.data_path else "")


if __name__ == "__main__":
    main()
