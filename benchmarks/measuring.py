"""What the benchmarks share: interleaved repeats, memory, the machine's name, JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.files import atomic_write

OUT = Path("runs/bench")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def clock() -> float:
    """Seconds of processor time where one thread works, which others on the machine do not share;
    of wall time where more do."""
    return time.process_time() if threads() == "1" else time.perf_counter()


def threads() -> str:
    """How many threads NumPy and PyTorch may use."""
    return next((os.environ[key] for key in THREADS if key in os.environ), "default")


def interleaved(
    jobs: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    now: Callable[[], float] = clock,
) -> dict[str, list[float]]:
    """Seconds of each job, one after the other, again and again: what disturbs one disturbs all.

    Args:
        jobs: by name.
        repeats: rounds that count.
        warm_up: rounds before, that do not.
        now: tells the time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(warm_up + repeats):
        for name, job in jobs.items():
            begin = now()
            job()
            if turn >= warm_up:
                seconds[name].append(now() - begin)
    return seconds


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def ratio(seconds: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """The median, over rounds, of one job's time divided by another's in the same round."""
    pairs = zip(seconds[above], seconds[below], strict=True)
    return statistics.median(a / b for a, b in pairs)


def in_child(code: str, *arguments: object, timeout: float = 3600) -> dict[str, Any]:
    """What Python code prints as JSON in its last line, in a process of its own.

    Memory that one measurement leaves behind is no part of the next one so.
    """
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"a measurement failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


RESIDENT = """
import json, sys
def told(key):
    rows = [row.split() for row in open("/proc/self/status")]
    return next(int(row[1]) / 1024 for row in rows if row[0] == key)
def begin():  # forget the peak so far; MB held now
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return told("VmRSS:")
def peak():  # MB, the most since then
    return told("VmHWM:")
"""
"""Opens the code for `in_child` that measures memory (Linux)."""


def machine() -> str:
    """Processor, cores, threads, memory and versions, in a line."""
    import numpy as np

    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        models = [row.partition(":")[2].strip() for row in cpu.read_text().splitlines()
                  if row.startswith("model name")]  # fmt: skip
        name = models[0] if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load, kind = os.getloadavg()[0], "processor" if threads() == "1" else "wall"
    return (
        f"{name}, {os.cpu_count()} cores, {memory:.0f} GB, threads: {threads()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.system()}; "
        f"load {load:.1f} as measured, seconds of {kind} time"
    )


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write(name: str, title: str, content: dict[str, Any], text: str, out: Path = OUT) -> None:
    """Keep a benchmark's numbers as JSON and its tables as Markdown, and print these."""
    page = f"## {title}\n\n{text}\n\nMachine: {machine()}.\n"
    with atomic_write(out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine(), **content}, indent=1))
    with atomic_write(out / f"{name}.md") as temporary:
        temporary.write_text(page)
    print(page)
