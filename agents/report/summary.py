"""What the benchmark's numbers are called, and their shape in JSON."""

from __future__ import annotations

from typing import TypedDict

METRICS = (
    "percentile",
    "recall@1",
    "recall@5",
    "recall@10",
    "mrr",
    "median_rank",
    "success@1",
    "success@5",
    "success@10",
    "bri",
)
MEAN_METRICS = tuple(metric for metric in METRICS if metric != "median_rank")
COMPARED_METRICS = ("percentile", "recall@1", "recall@5", "recall@10", "mrr", "bri")
PLOTTED_METRICS = ("percentile", "recall@1", "recall@10", "bri")
LOWER_IS_BETTER = ("median_rank", "bri", "repeats", "left")


class Interval(TypedDict):
    """A 95 % interval for every turn."""

    low: list[float]
    high: list[float]


class Unranked(TypedDict, total=False):
    """What is there where an index tells ranks down to a depth only."""

    depth: int
    beyond: dict[str, list[float]]  # agent -> share of dialogs whose rank is beyond the depth


class Summary(Unranked):
    """The benchmark's numbers; every list runs over turns 0..T. NaN: the ranks do not tell."""

    gallery_size: int
    dialogs: int
    clusters: int
    bootstrap: int
    agents: dict[str, dict[str, list[float]]]
    intervals: dict[str, dict[str, Interval]]


class Comparison(TypedDict):
    """One metric of agents a and b at one turn, over the same dialogs."""

    a: str
    b: str
    metric: str
    turn: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
