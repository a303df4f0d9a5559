"""How long it takes until something can be done: python -m benchmarks.startup

Processor time of the child processes, which does not hang on what else the machine does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.measuring import OUT, interleaved, median, table, write

HEAVY = ("torch", "torchvision", "matplotlib", "stable_baselines3", "faiss", "pymilvus")


@dataclass(frozen=True)
class Args:
    """What to time."""

    repeats: int = 9
    """Interleaved repeats; the median counts."""
    out: Path = OUT
    """Receives startup.json and startup.md."""


def run(*arguments: str) -> str:
    """What a Python process prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def children() -> float:
    """Processor time, user and system, of the processes run so far."""
    spent = os.times()
    return spent.children_user + spent.children_system


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    seconds = interleaved(
        {
            "numpy": lambda: run("-c", "import numpy"),
            "envs": lambda: run("-c", "import envs"),
            "train_sl": lambda: run("-m", "scripts.train_sl", "--help"),
            "benchmark": lambda: run("-m", "scripts.benchmark", "--help"),
        },
        args.repeats,
        now=children,
    )
    beyond = median([a - b for a, b in zip(seconds["envs"], seconds["numpy"], strict=True)])
    loaded = run("-c", "import envs, sys; print(*sys.modules)").split()
    found = {
        "seconds": {name: median(times) for name, times in seconds.items()},
        "envs_beyond_numpy": beyond,
        "heavy_packages_of_envs": [name for name in HEAVY if name in loaded],
    }
    rows = [
        ("Python and NumPy", median(seconds["numpy"]), ""),
        ("import envs, beyond that", beyond, "below 0.5"),
        ("train_sl --help", median(seconds["train_sl"]), "below 1"),
        ("benchmark --help", median(seconds["benchmark"]), ""),
    ]
    heavy = ", ".join(found["heavy_packages_of_envs"]) or "none"
    text = table(rows, ("what", "seconds", "to reach")) + f"\n\nHeavy packages in it: {heavy}."
    write("startup", "Start-up", found, text, args.out)


if __name__ == "__main__":
    main()
