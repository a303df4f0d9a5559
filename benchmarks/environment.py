"""Turns per second of the batch environment against Gymnasium's SyncVectorEnv of single ones.

    python -m benchmarks.environment --dialogs 128

Both play the same number of turns in turn (A B A B ...) in one process; the median ratio is the
figure to quote, seconds are not stable.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import tyro

import envs  # noqa: F401  registers the ids


@dataclass(frozen=True)
class Args:
    """What to time."""

    dialogs: int = 128
    """Dialogs advanced together (B)."""
    steps: int = 10
    """Turns per repeat."""
    repeats: int = 5
    """Interleaved repeats; the median counts."""


def seconds(env: Any, actions: Any, steps: int) -> float:
    """Wall time of some steps."""
    begin = time.perf_counter()
    for _ in range(steps):
        env.step(actions)
    return time.perf_counter() - begin


def main() -> None:
    """Print turns per second of both and their ratio."""
    args = tyro.cli(Args, description=__doc__)
    batch = gym.make_vec("dialog/CSS-v0", num_envs=args.dialogs)
    singles = gym.make_vec(
        "dialog/CSS-v0",
        num_envs=args.dialogs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )
    for env in (batch, singles):
        env.reset(seed=0)
        env.action_space.seed(0)
    actions = batch.action_space.sample()
    times: list[tuple[float, float]] = []
    for _ in range(args.repeats + 1):
        times.append((seconds(batch, actions, args.steps), seconds(singles, actions, args.steps)))
    times = times[1:]  # the first repeat warms up
    turns = args.dialogs * args.steps
    fast, slow = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    print(
        f"B = {args.dialogs}: batch {turns / fast:.0f} turns/s, singles {turns / slow:.0f} turns/s"
    )
    print(f"batch environment: {ratio:.1f} times the single ones (median of {args.repeats})")


if __name__ == "__main__":
    main()
