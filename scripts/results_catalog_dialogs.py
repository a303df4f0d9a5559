"""Dialogs about real photos: does looking help, and does the captioner tell the truth? Trains and
plays what is missing, prints the tables.

python -m scripts.results_catalog_dialogs --dataset-path ../shared/data/product_photos
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from scripts.common import run
from scripts.results_css import SEEDS, call

AGENTS = {
    "full": "",
    "no-memory": "--memory none",
    "text-only": "--composer text_only --memory none",
    "text-only-memory": "--composer text_only",
}
"""TIRG with a GRU; without memory; this turn's words alone; all words, without eyes."""
START = "--epochs 1 --batch-size 64 --lr 1e-3 --schedule cosine --test-pairs 0 --user attribute"
METRIC = "recall@10"


@dataclass(frozen=True)
class Args:
    """Where the catalogue and the runs are; what is there is not made again."""

    dataset_path: Path = Path("data/product_photos")
    """A catalogue's folder."""
    out: Path = Path("runs/catalog-dialogs")
    """Receives a folder per agent and seed."""
    only: tuple[str, ...] = ()
    """Names of agents; by default all."""
    seeds: tuple[int, ...] = SEEDS
    """To train each agent with."""
    dialogs: int = 12_800
    """Of each training."""
    pairs: int = 736
    """Dialogs that each agent plays about test products."""
    captioner: bool = True
    """Also train the neural user and tell how often its sentences are true."""
    quick: bool = False
    """Few dialogs, in `OUT/quick`: shows that all runs, not what it reaches."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(reproduce(args)))


def reproduce(args: Args) -> str:
    """Train and play what is missing; returns the tables.

    Raises:
        ValueError: there is no such agent.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    if args.quick:
        args = replace(args, out=args.out / "quick", dialogs=64, pairs=20, seeds=args.seeds[:2],
                       captioner=False)  # fmt: skip
    from retrieval.errors import unknown

    for name in args.only:
        if name not in AGENTS:
            raise unknown("agent", name, AGENTS)
    world = f"--dataset catalog --dataset-path {args.dataset_path}"
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        for name in names_of(args):
            flags = AGENTS[name]
            if not (folder / name / "sl-0.pt").is_file():
                call(f"train_sl {START} {flags} {world} --dialogs-per-epoch {args.dialogs} "
                     f"--seed {seed} --model-folder {folder / name}")  # fmt: skip
        if not (folder / "benchmark" / "benchmark.json").is_file():
            agents = " ".join(f"{name}={folder / name / 'sl-0.pt'}" for name in names_of(args))
            call(f"benchmark --agents {agents} oracle --user attribute {world} "
                 f"--pairs {args.pairs} --bootstrap 10 --out {folder / 'benchmark'}")  # fmt: skip
    text = table(args)
    if not args.captioner:
        return text
    path = args.out / "captioner.pt"
    if not path.is_file():
        call(f"train_captioner {world} --out {path}")
    return f"{text}\n\n{truth(path.with_suffix('.json'))}"


def names_of(args: Args) -> list[str]:
    """The agents that were asked for, the full one first."""
    return [name for name in AGENTS if name == "full" or not args.only or name in args.only]


def table(args: Args) -> str:
    """Recall@10 over the turns in percent, all seeds together, and what looking adds."""
    import numpy as np

    from agents.report import compare, summarise

    paths = [args.out / f"seed-{seed}" / "benchmark/ranks.npz" for seed in args.seeds]
    files = [dict(np.load(path)) for path in paths]
    names = [*names_of(args), "oracle"]
    ranks = {name: np.concatenate([file[name] for file in files]) for name in names}
    drawn: dict[str, Any] = {
        "rng": np.random.default_rng(17),
        "clusters": np.concatenate([file["target"] for file in files]),
    }
    size = int(files[0]["gallery_size"])
    summary = summarise(ranks, size, **drawn)
    turns = ranks["full"].shape[1]
    rows = [[METRIC, *(f"turn {turn}" for turn in range(turns))], ["---"] * (turns + 1)]
    for name in names:
        means = summary["agents"][name][METRIC]
        rows.append([name, *(f"{100 * value:.1f}" for value in means)])
    for other in names_of(args)[1:]:
        compared = compare(ranks, size, [("full", other)], **drawn)
        found = {row["turn"]: row for row in compared if row["metric"] == METRIC}
        cells = ["-" if turn not in found else interval(found[turn]) for turn in range(turns)]
        rows.append([f"full less {other}", *cells])
    rows.append(["full, gain over the turn before", "-", *rises(ranks["full"], drawn)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def rises(ranks: Any, drawn: dict[str, Any]) -> list[str]:
    """What each turn (E, T + 1) adds to Recall@10, paired by dialog."""
    import numpy as np

    hits = (ranks < 10).astype(float)
    _, which = np.unique(drawn["clusters"], return_inverse=True)
    gains = np.stack([np.bincount(which, column) for column in np.diff(hits, axis=1).T])  # (T, C)
    counts = np.bincount(which)
    drawn_rows = drawn["rng"].integers(len(counts), size=(2000, len(counts)))
    means = gains[:, drawn_rows].sum(-1) / counts[drawn_rows].sum(-1)  # (T, 2000)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    middle = gains.sum(1) / counts.sum()
    return [
        interval({"difference": one, "low": least, "high": most})
        for one, least, most in zip(middle, low, high, strict=True)
    ]


def interval(row: Any) -> str:
    """A difference in points with its interval."""
    value, low, high = (100 * row[key] for key in ("difference", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def truth(path: Path) -> str:
    """What the captioner's own report on held-out pairs says."""
    return f"captioner on held-out pairs: {json.dumps(json.loads(path.read_text()), indent=1)}"


if __name__ == "__main__":
    main()
