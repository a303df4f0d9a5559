"""Measure what a generator draws: evaluate_gan --checkpoint runs/gan/saveSGAN"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from scripts.common import run
from scripts.composed import BUILT_IN, plain_arguments
from scripts.painting import load_painter

COLUMNS = ("occupied", "all", "changed", "nearest", "fid")


@dataclass(frozen=True)
class Args:
    """Cells whose shape, colour and size are right, as two readers see them, and FID.

    The `judge` never met the generator; the `loss` reader is the one that --attribute_weight
    trains against. Rows without a generator are baselines.
    """

    checkpoint: Path = Path("runs/gan/saveSGAN")
    """A file that `train_gan` wrote, or a run's folder."""
    conditions: tuple[str, ...] = ("target", "query")
    """What the generator is told: target, query or both; query needs a composer."""
    split: str = "test"
    """Whose queries."""
    count: int = 0
    """So many queries, evenly spaced; 0 for all."""
    composer: Path | None = None
    """By default the one that the generator was trained with."""
    readers: Path | None = None
    """By default those of its training."""
    seed: int = 0
    """Of the noise."""
    out: Path | None = None
    """Receives the figures as JSON; by default `evaluation.json` beside the checkpoint."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: evaluate(args))


def evaluate(args: Args) -> None:
    """Draw the queries, have them read, print and write the figures."""
    import numpy as np
    import torch

    from retrieval.errors import unknown
    from retrieval.files import atomic_write
    from retrieval.generation.data import load_data
    from retrieval.generation.measuring import Judge, told
    from retrieval.generation.readers import JUDGE_SEED, LOSS_SEED, load_reader
    from scripts.train_gan import root_of

    for condition in args.conditions:
        if condition not in ("target", "query"):
            raise unknown("condition", condition, ("target", "query"))
    painter, trained = load_painter(args.checkpoint, args.composer)
    conditions = [
        name for name in args.conditions if name == "target" or painter.conditioner.composer
    ]
    root, look = root_of(trained), BUILT_IN[trained.dataset]
    folder = args.readers or trained.readers
    data = load_data(
        root, args.split, look, painter.spec.size, painter.conditioner, trained.larger_path
    )
    seeds = {"judge": JUDGE_SEED, "loss": LOSS_SEED}
    judges = {
        name: Judge(load_reader(folder, root, look, seed), data) for name, seed in seeds.items()
    }
    count = min(args.count or len(data), len(data))
    rows = np.linspace(0, len(data) - 1, count).astype(np.int64)

    found: dict[str, Any] = {"arguments": plain_arguments(args), "queries": count,
                             "trained": plain_arguments(trained), "conditions": {}}  # fmt: skip
    for condition in conditions:
        chance = torch.Generator().manual_seed(args.seed)
        pictures = painter.paint(told(data, condition, rows), chance)
        found["conditions"][condition] = {
            "drawn": {
                name: judge.measure(pictures, condition, rows) for name, judge in judges.items()
            },
            "baselines": judges["judge"].baselines(condition, rows),
        }
    path = args.out or (
        args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    ) / "evaluation.json"  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(table(found))
    print(f"figures in {path}")


def table(found: Mapping[str, Any]) -> str:
    """The figures as lines of text, shares in percent."""
    lines = [f"{found['queries']} queries; cells right in percent, by the wanted scene's cells"]
    lines.append(f"{'':34}" + "".join(f"{name:>10}" for name in COLUMNS))
    for condition, part in found["conditions"].items():
        named = {f"drawn from {condition}, {name} reads": row for name, row in
                 part["drawn"].items()}  # fmt: skip
        named |= {f"  {name}": row for name, row in part["baselines"].items()}
        for name, row in named.items():
            cells = [
                (f"{row[key]:.1f}" if key == "fid" else f"{100 * row[key]:.1f}")
                if key in row
                else "-"
                for key in COLUMNS
            ]
            lines.append(f"{name:34}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
