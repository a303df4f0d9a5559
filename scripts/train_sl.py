"""Pretrain a dialog agent: train_sl --lr=0.001 --batch-size=128 --model-folder="models/" """

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import DialogArgs, dialog_of, gallery_of, run, writable

if TYPE_CHECKING:
    import torch

    from agents.supervised import Training
    from agents.tracker import DialogTracker


@dataclass(frozen=True)
class Args(DialogArgs):
    """Supervised training on simulated dialogs; saves `sl-{epoch}.pt` after each epoch."""

    agent: str = "tracker"
    """`tracker` (composer and memory) or `published` (the 2018 state tracker)."""
    composer: str = "tirg"
    """Composition model of the tracker."""
    memory: str = "gru"
    """Memory of the tracker over turns: `gru`, `transformer` or `none`."""
    loss: str = "in_batch"
    """`in_batch` (softmax over the batch, learned scale), `hard_negatives` (and over the nearest
    wrong image of each query), `gallery` (over all images) or `triplet` (published)."""
    triplet_margin: float = 0.1
    """Of the triplet loss."""
    lr: float = 1e-3
    """Adam's learning rate."""
    batch_size: int = 128
    """Dialogs advanced together (B), in each of the processes that `torchrun` started."""
    dialogs_per_epoch: int = 10_000
    """Dialogs in an epoch."""
    epochs: int = 15
    """Epochs in all."""
    warm_up_epochs: int = 4
    """Passes over the train split's relative captions, those of one target as a dialog, before
    the first simulated one (0 for the published training)."""
    train_turns: int = 5
    """Turns of training dialogs (T)."""
    test_turns: int = 5
    """Turns of test dialogs."""
    test_batch_size: int = 128
    """Kept for the original's command line; test dialogs are played 256 at a time."""
    test_pairs: int = 512
    """Held-out dialogs played after each epoch; 0 plays none."""
    pretrained_model: Path | None = None
    """Go on from these weights, with a fresh optimiser ("SL continued")."""
    schedule: str = "constant"
    """Of the learning rate over all epochs: `constant` (published) or `cosine`, down to 0."""
    seed: int = 0
    """Fixes the initial weights, the dialogs and the users' words."""
    log_interval: int = 50
    """Batches between two TensorBoard points."""
    model_folder: Path = Path("models/")
    """Receives checkpoints, `sl-metrics.json` and TensorBoard's `logs`."""
    resume: bool = False
    """Go on from the last checkpoint in the folder, to the same numbers."""
    overwrite: bool = False
    """Start anew where the folder already holds checkpoints."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: train(args), together=True)


def train(args: Args) -> None:
    """Train as the arguments say."""
    import torch

    from agents.checkpoints import load_checkpoint, make_agent
    from agents.session import check_schedule, run_epochs, starting_point
    from agents.supervised import Training, pretrain_epoch
    from retrieval.devices import device_of, settle
    from retrieval.distributed import processes, writer_first

    with writer_first():  # what is missing is made once
        dialog = dialog_of(args, "train", args.train_turns)
        test = dialog_of(args, "test", args.test_turns) if args.test_pairs else None
    how = Training(
        args.batch_size * processes(), args.dialogs_per_epoch, args.train_turns, args.loss,
        args.triplet_margin, args.seed,
    )  # fmt: skip
    spec: dict[str, Any] = {"kind": args.agent}
    if args.agent == "tracker":
        spec |= {"composer": args.composer, "memory": args.memory}
    done = starting_point(args.model_folder, "sl", args.resume, args.overwrite, dialog.vocabulary)
    torch.manual_seed(args.seed)
    if done is not None:
        check_schedule(done, args.schedule, args.epochs)
        agent, spec = done.agent, done.spec
    elif args.pretrained_model is not None:
        before = load_checkpoint(args.pretrained_model, dialog.vocabulary)
        agent, spec = before.agent, before.spec
    else:
        agent = make_agent(spec, dialog.vocabulary, dialog.gallery.features.shape[1])
    if args.loss != "triplet" and spec["kind"] == "published":
        raise ValueError(
            "the published tracker has no unit-norm space; train it with --loss triplet"
        )
    agent.index(dialog.gallery.features[:2])  # refuses features of another size now
    agent = settle(agent, device_of(args.device))
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr, weight_decay=1e-8)
    if done is not None:
        optimizer.load_state_dict(done.optimizer)
    elif args.pretrained_model is None and args.warm_up_epochs:
        writable(args.model_folder)
        warm_up_agent(args, agent, optimizer, how)
    run_epochs(
        "sl", agent, spec, optimizer,
        lambda epoch: pretrain_epoch(agent, dialog, optimizer, epoch, how),
        range(done.epoch + 1 if done else 0, args.epochs), how.batches,
        args.model_folder, args, test, args.log_interval, args.test_pairs, args.schedule,
    )  # fmt: skip
    print(f"agents in {args.model_folder}: sl-0.pt ... sl-{args.epochs - 1}.pt")


def warm_up_agent(
    args: Args, agent: DialogTracker, optimizer: torch.optim.Optimizer, how: Training
) -> None:
    """Training on the captions that come with the data, with progress."""
    import sys

    from tqdm import tqdm

    from agents.supervised import warm_up, warm_up_steps

    gallery, triplets = gallery_of(args, "train")
    steps = args.warm_up_epochs * warm_up_steps(triplets, how.turns)
    losses = warm_up(agent, gallery, triplets, optimizer, args.warm_up_epochs, how)
    with tqdm(losses, total=steps, desc="warm-up", file=sys.stderr, mininterval=1.0) as bar:
        for loss in bar:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


if __name__ == "__main__":
    main()
