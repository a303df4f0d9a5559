"""Agents trained with one user and tested with others. Needs the agents of `results_dialogs`;
trains and plays what is missing, prints two tables.

python -m scripts.results_users
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import tyro

from scripts import results_dialogs
from scripts.common import run
from scripts.dialog_map import Cell
from scripts.results_css import call

TRAINED = ("plain", "noisy", "striking")
"""Settings of `results_dialogs` whose agents play."""
KINDS = {"continued": "sl-0.pt", "rl": "rl-0.pt"}
USERS = {
    "neural": "",
    "half the captions": "--captioner {half}",
    "attribute": "--user attribute",
    "striking": "--user striking",
    "wrong 0.1": "--noise 0.1",
    "wrong 0.3": "--noise 0.3",
    "impatient": "--patience 2",
}
"""Who speaks in the test; `half the captions` is a captioner trained on half of the data."""
METRIC = "found"


@dataclass(frozen=True)
class Args:
    """Where things are; what is there is not made again."""

    map_out: Path = Path("runs/map")
    """Where `results_dialogs` leaves its agents (3D scenes)."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache."""
    out: Path = Path("runs/users")
    """Receives a benchmark per seed and user."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the agents."""
    pairs: int = 500
    """Dialogs that each agent plays with each user."""
    quick: bool = False
    """Tiny data and few dialogs, in folders whose names end in -quick: shows that all runs."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(reproduce(args)))


def reproduce(args: Args) -> str:
    """Train and play what is missing; returns the tables.

    Raises:
        RuntimeError: a command failed; its own message stands on standard error.
    """
    agents = results_dialogs.Args(
        data_path=args.data_path, out=args.map_out, quick=args.quick, seeds=args.seeds
    )
    if args.quick:
        agents = results_dialogs.as_quick(agents)
        args = replace(args, out=args.out.with_name(f"{args.out.name}-quick"), pairs=20,
                       seeds=agents.seeds, data_path=agents.data_path)  # fmt: skip
    data = f"--data-path {args.data_path}" if args.data_path else ""
    half = args.out / "half.pt"
    if not half.is_file():
        short = " --epochs 1" if args.quick else ""
        call(f"train_captioner --share 0.5 --out {half} {data}{short}")
    for seed in args.seeds:
        for setting in TRAINED:
            results_dialogs.fill(Cell("css-3d", setting, seed), agents)
        for user, flags in USERS.items():
            play(seed, user, flags.format(half=half), data, args, agents)
    return tables(args)


def play(
    seed: int, user: str, flags: str, data: str, args: Args, agents: results_dialogs.Args
) -> None:
    """One benchmark of all agents of a seed with one user, unless it is there."""
    out = folder(args, seed, user)
    if (out / "benchmark.json").is_file():
        return
    named = " ".join(
        f"{setting}-{kind}={Cell('css-3d', setting, seed).folder(agents.out) / kind / file}"
        for setting in TRAINED
        for kind, file in KINDS.items()
    )
    call(f"benchmark --agents {named} {flags} {data} --pairs {args.pairs} --seed 2 "
         f"--bootstrap 10 --out {out}")  # fmt: skip


def folder(args: Args, seed: int, user: str) -> Path:
    """Where a user's benchmark lies."""
    return args.out / f"seed-{seed}" / user.replace(" ", "-")


def tables(args: Args) -> str:
    """Found by the last turn in percent, and how alike two users order the agents."""
    names = [f"{setting}-{kind}" for setting in TRAINED for kind in KINDS]
    values = np.array([[[_found(args, seed, user, name) for seed in args.seeds]
                        for user in USERS] for name in names])  # (A, U, S) # fmt: skip
    head = ["trained with", *USERS]
    rows = [head, ["---"] * len(head)]
    for name, of_agent in zip(names, values, strict=True):
        rows.append([name, *(spread(of_user) for of_user in of_agent)])
    rank_rows = [["rank correlation", *USERS], ["---"] * len(head)]
    order = values.mean(2)  # (A, U)
    for one, user in enumerate(USERS):
        others = (spearman(order[:, one], order[:, other]) for other in range(len(USERS)))
        rank_rows.append([user, *(f"{value:.2f}" for value in others)])
    return "\n\n".join(
        "\n".join("| " + " | ".join(row) + " |" for row in block) for block in (rows, rank_rows)
    )


def _found(args: Args, seed: int, user: str, name: str) -> float:
    content = json.loads((folder(args, seed, user) / "benchmark.json").read_text())
    return float(100 * content["agents"][name][METRIC][-1])


def spread(values: Sequence[float]) -> str:
    """The mean over seeds and the standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where all values are equal.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
        0.5
    """
    a, b = (
        (each[:, None] > each).sum(1) + (each[:, None] == each).sum(1) / 2 for each in (one, other)
    )
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return round(float(np.corrcoef(a, b)[0, 1]), 12)


if __name__ == "__main__":
    main()
