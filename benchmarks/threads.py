"""Two processes at once, by the number of threads they take: python -m benchmarks.threads

Each process makes the same steps of a small recurrent network, as the training of a dialog agent
does. With PyTorch's own setting every process takes all cores, and threads that wait for each
other spin; the commands let them sleep (`OMP_WAIT_POLICY=PASSIVE`); `OMP_NUM_THREADS=1` gives each
process one. Wall time of the slower process, settings in turn, medians.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from benchmarks.measuring import OUT, THREADS, median, table, write

SETTINGS: dict[str, dict[str, str]] = {
    "one thread each": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    "all cores each, waiting asleep (the commands' default)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "all cores each (PyTorch's default)": {},
}
LOAD = """
import json, sys, time
import torch
torch.manual_seed(0)
cell, image = torch.nn.GRUCell(256, 256), torch.nn.Linear(256, 256)
parameters = [*cell.parameters(), *image.parameters()]
optimizer = torch.optim.Adam(parameters)
shown = torch.randn(128, 256)
begin = time.perf_counter()
for _ in range(int(sys.argv[1])):
    memory = None
    for _ in range(5):
        memory = cell(image(shown), memory)
    optimizer.zero_grad()
    memory.square().mean().backward()
    optimizer.step()
print(json.dumps(time.perf_counter() - begin))
"""


@dataclass(frozen=True)
class Args:
    """What to run."""

    processes: int = 2
    """Processes at once."""
    steps: int = 100
    """Optimiser steps of each."""
    repeats: int = 3
    """Rounds; the median counts."""
    out: Path = OUT
    """Receives threads.json and threads.md."""


def together(setting: dict[str, str], args: Args) -> float:
    """Seconds of the slowest of the processes under a setting of the environment."""
    plain = {key: value for key, value in os.environ.items() if key not in THREADS}
    plain.pop("OMP_WAIT_POLICY", None)
    start = partial(
        subprocess.Popen,
        [sys.executable, "-c", LOAD, str(args.steps)],
        env={**plain, **setting},
        stdout=subprocess.PIPE,
        text=True,
    )
    running = [start() for _ in range(args.processes)]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process of the measurement failed")
    return max(json.loads(text) for text in said)


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(args.repeats):
        for name, setting in SETTINGS.items():
            seconds[name].append(together(setting, args))
    best = seconds["one thread each"]
    over = {
        name: median([a / b for a, b in zip(times, best, strict=True)])
        for name, times in seconds.items()
    }
    rows = [(name, median(times), over[name]) for name, times in seconds.items()]
    text = (
        f"{args.processes} processes at once on {os.cpu_count()} cores, {args.steps} steps each; "
        f"wall time.\n\n{table(rows, ('threads', 'seconds', 'times one thread each'))}"
    )
    write("threads", "Threads", {"seconds": seconds, "over_one": over}, text, args.out)


if __name__ == "__main__":
    main()
