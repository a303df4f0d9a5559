"""Evaluate a single-turn model: evaluate_composer --checkpoint runs/.../best.pt"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import run, writable
from scripts.composed import (
    DataArgs,
    arguments_from,
    load_split,
    plain_arguments,
    report_on,
    tested_split,
)
from scripts.switches import spelled_out

if TYPE_CHECKING:
    from retrieval.datasets.base import ComposedSplit
    from retrieval.models import RetrievalModel
    from retrieval.reports import Report

SAMPLED = 10_000
"""Training queries drawn where a data set lists none, as google/tirg."""


@dataclass(frozen=True)
class Args(DataArgs):
    """The data set's own protocol on its test split; data flags default to the checkpoint's."""

    checkpoint: Path = Path("best.pt")
    """A file that `train_composer` wrote, or its folder."""
    split: str | None = None
    """By default the split that published figures are on."""
    protocol: str | None = None
    """By default the data set's own."""
    whm: bool = False
    """Also the weighted harmonic means of training and test recalls (a reconstruction)."""
    whm_weights: tuple[float, float] = (1.0, 1.0)
    """Of training and test; 1 2 favours the test."""
    device: str = "cpu"
    """Where images and queries are embedded: `cpu`, or `cuda`."""
    seed: int = 0
    """Draws the training queries where there is no list of them."""
    out: Path | None = None
    """Receives `{dataset}-{split}.json` and a submission's files; by default the checkpoint's
    folder."""


def main() -> None:
    run(lambda: evaluate(read(sys.argv[1:])))


def read(typed: list[str]) -> Args:
    """The arguments as typed, on top of how the checkpoint's data was read."""
    from retrieval.training import BEST, load_training

    how: dict[str, Any] = {"args": spelled_out(typed, Args), "description": __doc__,
                           "config": (tyro.conf.FlagConversionOff,)}  # fmt: skip
    args: Args = tyro.cli(Args, **how)
    path = args.checkpoint / BEST if args.checkpoint.is_dir() else args.checkpoint
    data = arguments_from(DataArgs, load_training(path)["arguments"])
    args = tyro.cli(Args, default=Args(**data), **how)
    if args.dataset != data.get("dataset"):  # the other data set's options say nothing here
        args = tyro.cli(Args, **how)
    values = {field.name: getattr(args, field.name) for field in fields(Args)}
    return Args(**{**values, "checkpoint": path})


def evaluate(args: Args) -> None:
    """Print the figures and write them as JSON."""
    from retrieval.devices import device_of, settle
    from retrieval.files import atomic_write
    from retrieval.reports import table, whm, whm_table
    from retrieval.training import load_training
    from retrieval.two_encoders import rebuild

    content = load_training(args.checkpoint)
    model = settle(rebuild(content), device_of(args.device))
    name = args.split or tested_split(args.dataset)
    split = load_split(args, name)
    folder = args.out or args.checkpoint.parent
    writable(folder)
    if args.dataset == "cirr" and any(query.target < 0 for query in split.queries):
        submit(model, split, folder)
        return

    report = report_on(model, split, args.protocol)
    found: dict[str, Any] = {
        "arguments": plain_arguments(args),
        "trained": {**content["arguments"], "step": content["progress"]["step"]},
        "report": report,
    }
    print(table(report))
    if args.whm:
        training = training_report(args, model)
        found |= {"training": training, "whm": whm(training, report, args.whm_weights)}
        print(table(training))
        print(whm_table(found["whm"]))
    path = folder / f"{args.dataset}-{name}.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(f"figures in {path}")


def training_report(args: Args, model: RetrievalModel) -> Report:
    """The figures on the training split: all its queries, or some drawn by its rule."""
    import numpy as np

    from retrieval.evaluation import sample_queries

    split = load_split(args, "train")
    if not split.queries:
        split = sample_queries(split, np.random.default_rng(args.seed), SAMPLED)
    return report_on(model, split, args.protocol)


def submit(model: RetrievalModel, split: ComposedSplit, folder: Path) -> None:
    """Write the two files that the CIRR server scores."""
    from retrieval.inference import encode_gallery, encode_queries
    from retrieval.submissions import cirr_submissions, write_submissions

    made = cirr_submissions(split, encode_queries(model, split), encode_gallery(model, split))
    paths = write_submissions(folder, made)
    print(f"targets are hidden; submit {' and '.join(map(str, paths))}")


if __name__ == "__main__":
    main()
