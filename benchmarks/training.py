"""Training against the straightforward versions, and a TIRG step against its encoder.

    OMP_NUM_THREADS=1 python -m benchmarks.training

Supervised training and policy improvement of the published agent go on batch by batch, in turn
with the plain versions (`benchmarks/plain_training.py`) that start from the same weights and make
the same draws: their losses, side by side, are the learning curves, and each batch is a repeat.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from agents.policy_improvement import Improvement, freeze_images, improve_epoch, target_copy
from agents.supervised import Training, pretrain_epoch
from agents.tracker import DialogTracker, PublishedTracker
from benchmarks.measuring import OUT, interleaved, median, ratio, table, write
from benchmarks.plain_losses import draw_triplets, soft_triplet_in_loop
from benchmarks.plain_training import PlainWorld, improve_plainly, pretrain_plainly
from envs.dialog import Dialog
from envs.factory import make_dialog
from retrieval.losses import make_metric, soft_triplet
from retrieval.models import ModelSpec, build_model
from retrieval.regularizers import GradientAugmentation
from retrieval.training import Training as Recipe
from retrieval.training import batch_terms, make_optimizer


@dataclass(frozen=True)
class Args:
    """What to train."""

    supervised_dialogs: int = 128
    """Dialogs of a batch of supervised training (B)."""
    improved_dialogs: int = 16
    """Dialogs of a batch of policy improvement."""
    batches: int = 4
    """Batches that are timed, after one that warms up."""
    pairs: int = 32
    """Queries of a batch of single-turn training."""
    side: int = 64
    """Pixels of a picture's side in it."""
    repeats: int = 5
    """Interleaved repeats of the single-turn measurements."""
    out: Path = OUT
    """Receives training.json and training.md."""


def optimizer_of(agent: DialogTracker, rate: float) -> torch.optim.Optimizer:
    """Adam on what is trained."""
    trained = [one for one in agent.parameters() if one.requires_grad]
    return torch.optim.Adam(trained, lr=rate)


def side_by_side(epochs: dict[str, Iterator[Any]], dialogs: int, batches: int) -> dict[str, Any]:
    """Time two trainings batch by batch, and compare what they report.

    Args:
        epochs: "project" and "plain"; each item is a step's loss and ranks.
        dialogs: of a batch.
        batches: that are timed.
    """
    losses: dict[str, list[float]] = {name: [] for name in epochs}

    def advance(name: str) -> None:
        step = next(epochs[name])
        losses[name].append(step.loss if hasattr(step, "loss") else step[0])

    seconds = interleaved({name: partial(advance, name) for name in epochs}, batches)
    curves = {name: np.array(curve) for name, curve in losses.items()}
    apart = np.abs(curves["project"] / curves["plain"] - 1).max()
    return {
        "dialogs_per_second": {name: dialogs / median(times) for name, times in seconds.items()},
        "plain_over_project": ratio(seconds, "plain", "project"),
        "losses": losses,
        "losses_apart": float(apart),
    }


def supervised(dialog: Dialog, args: Args) -> dict[str, Any]:
    """`train_sl` of the published agent with its triplet loss."""
    size = args.supervised_dialogs
    how = Training(size, size * (args.batches + 1), dialog.max_turns, "triplet")
    torch.manual_seed(0)
    agent = PublishedTracker(dialog.vocabulary, dialog.gallery.features.shape[1])
    other = copy.deepcopy(agent)
    epochs: dict[str, Iterator[Any]] = {
        "project": pretrain_epoch(agent, dialog, optimizer_of(agent, 1e-3), 0, how),
        "plain": pretrain_plainly(other, PlainWorld(dialog), optimizer_of(other, 1e-3), 0, how),
    }
    return side_by_side(epochs, size, args.batches)


def improved(dialog: Dialog, args: Args) -> dict[str, Any]:
    """`train_rl` in the published form, from a random agent."""
    size = args.improved_dialogs
    how = Training(size, size * (args.batches + 1), dialog.max_turns, "triplet")
    policy = Improvement("published")
    torch.manual_seed(0)
    agent = PublishedTracker(dialog.vocabulary, dialog.gallery.features.shape[1])
    helper = target_copy(agent)
    freeze_images(agent)
    other = copy.deepcopy(agent)
    rate = 1e-4
    epochs: dict[str, Iterator[Any]] = {
        "project": improve_epoch(
            agent, helper, dialog, optimizer_of(agent, rate), 0, how, policy
        ),
        "plain": improve_plainly(
            other, helper, PlainWorld(dialog), optimizer_of(other, rate), 0, how, policy
        ),
    }  # fmt: skip
    return side_by_side(epochs, size, args.batches)


def triplet_losses(args: Args) -> dict[str, Any]:
    """The soft triplet loss and its gradient, at once and in a loop."""
    torch.manual_seed(0)
    query, target = (torch.randn(args.pairs, 512, requires_grad=True) for _ in range(2))
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def at_once() -> None:
        for _ in range(20):
            soft_triplet(query, target, generator).backward()

    def in_loop() -> None:
        triplets = draw_triplets(args.pairs, 3, rng)
        soft_triplet_in_loop(query, target, triplets).backward()

    seconds = interleaved({"loop": in_loop, "once": at_once}, args.repeats)
    return {
        "loop": median(seconds["loop"]),
        "once": median(seconds["once"]) / 20,
        "loop_over_once": 20 * ratio(seconds, "loop", "once"),
    }


def tirg_step(args: Args) -> dict[str, Any]:
    """A step of training TIRG on pictures, against its image encoder alone on the same ones."""
    torch.manual_seed(0)
    words = tuple(f"word{number}" for number in range(100))
    model = build_model(ModelSpec("tirg", words=words)).train()
    how = Recipe(batch_size=args.pairs)
    optimizer = make_optimizer(model, how)
    images, goals = torch.rand(2, args.pairs, 3, args.side, args.side)
    ids = torch.randint(3, 3 + len(words), (args.pairs, 8))
    chance = torch.Generator().manual_seed(0)
    metric = make_metric(how.loss, chance)
    gradient = torch.randn(args.pairs, model.spec.embed_dim)

    def run(bfloat16: bool = False) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            terms = batch_terms(model, images, ids, goals, metric, GradientAugmentation(), chance)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    def encode() -> None:
        model.zero_grad()
        for pictures in (images, goals):
            model.image_encoder(pictures).backward(gradient)

    jobs: dict[str, Callable[[], None]] = {
        "step": run,
        "encoder": encode,
        "bfloat16": partial(run, bfloat16=True),
    }
    seconds = interleaved(jobs, args.repeats)
    return {
        "step": median(seconds["step"]),
        "encoder": median(seconds["encoder"]),
        "step_over_encoder": ratio(seconds, "step", "encoder"),
        "step_over_bfloat16": ratio(seconds, "step", "bfloat16"),
    }


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    dialog = make_dialog(user="neural")
    found: dict[str, Any] = {
        "triplet": triplet_losses(args),
        "tirg": tirg_step(args),
        "supervised": supervised(dialog, args),
        "improved": improved(dialog, args),
    }
    rows: list[tuple[object, ...]] = []
    for name, what in (("train_sl", "supervised"), ("train_rl", "improved")):
        one = found[what]
        speed = one["dialogs_per_second"]
        rows.append((f"`{name}`: dialogs/s of the plain version", speed["plain"], ""))
        rows.append((f"`{name}`: dialogs/s", speed["project"], ""))
        rows.append((f"`{name}`: times the plain version", one["plain_over_project"], "5"))
    rows += [
        ("soft triplet: times its loop", found["triplet"]["loop_over_once"], "50"),
        (f"TIRG step at {args.side} px over its encoder", found["tirg"]["step_over_encoder"],
         "at most 1.15"),
        ("the same step in float32 over bfloat16 (`--bfloat16`)",
         found["tirg"]["step_over_bfloat16"], ""),
    ]  # fmt: skip
    curves = [
        (what, name, " ".join(f"{loss:.4f}" for loss in found[what]["losses"][name]))
        for what in ("supervised", "improved")
        for name in ("project", "plain")
    ]
    text = (
        f"{len(dialog.gallery):,} images, neural user, batches of {args.supervised_dialogs} and "
        f"{args.improved_dialogs} dialogs.\n\n{table(rows, ('what', 'measured', 'to reach'))}\n\n"
        f"Learning curves, loss by batch (largest relative difference "
        f"{max(found[what]['losses_apart'] for what in ('supervised', 'improved')):.1g}):\n\n"
        + table(curves, ("training", "version", "losses"))
    )
    write("training", "Training", found, text, args.out)


if __name__ == "__main__":
    main()
