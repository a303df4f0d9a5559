"""Improve an agent's policy: train_rl --pretrained-model="models/sl-10.pt" --top-k=4"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from scripts.common import DialogArgs, dialog_of, run

METHODS = ("improvement", "self-critical")


class Steps(NamedTuple):
    """How the optimiser steps."""

    lr: float
    batch_size: int
    schedule: str


STEPS = {"improved": Steps(2e-4, 64, "cosine"), "published": Steps(1e-4, 8, "constant")}
"""By form. Batches of 8 at a constant rate spoil what the improved one starts from where little
is to be gained (RESULTS.md, "By its own defaults")."""


@dataclass(frozen=True)
class Args(DialogArgs):
    """Policy improvement by look-ahead; saves `rl-{epoch}.pt` after each epoch."""

    pretrained_model: Path = Path("models/sl-12.pt")
    """The supervised checkpoint to start from."""
    method: str = "improvement"
    """`improvement` (by look-ahead) or `self-critical` (REINFORCE against the greedy dialog)."""
    improvement: str = "improved"
    """`improved`, or `published` (the form of the 2018 system)."""
    lr: float | None = None
    """Adam's learning rate; by default 2e-4 (1e-4 in the published form)."""
    top_k: int = 4
    """Candidates that are looked ahead from, or that chance chooses among (K)."""
    samples: int = 3
    """Dialogs that the self-critical method plays by chance beside each greedy one."""
    tau: float = 1.0
    """Temperature of the published softmax."""
    neg_num: int = 5
    """Random negatives of the published softmax."""
    rollouts: int = 1
    """Roll-outs per candidate; more than one pays with users who sample or slip."""
    depth: int = 0
    """Turns played in a roll-out at most; 0 plays to the end of the dialog."""
    outcome: str = "turns"
    """What a roll-out is worth: `turns` (all its turns), `end` (its last), `finding` (all, and
    the turns that finding takes) or `target` (none is played: does the candidate show it?)."""
    pool: int = 0
    """Half of the candidates are drawn from so many nearest images; 0 takes the nearest K."""
    offer: str = "images"
    """With slates, what is looked ahead from: `images` shown alone, or whole `slates`."""
    images_rest: bool = False
    """The policy loss moves queries alone, not the images it compares."""
    weight: float | None = None
    """Weight of the improved (by default 25) or self-critical (0.3) policy loss beside the
    supervised loss."""
    loss: str | None = None
    """Supervised loss that stays on, as in `train_sl`; by default the start's own."""
    triplet_margin: float = 0.1
    """Of the triplet loss."""
    batch_size: int | None = None
    """Dialogs advanced together (B), in each of the processes that `torchrun` started; by default
    64 (8 in the published form)."""
    dialogs_per_epoch: int = 10_000
    """Dialogs in an epoch; each costs 49 captions with K = 4 and 5 turns."""
    epochs: int = 20
    """Epochs in all."""
    train_turns: int = 5
    """Turns of training dialogs (T)."""
    test_turns: int = 5
    """Turns of test dialogs."""
    test_batch_size: int = 128
    """Kept for the original's command line; test dialogs are played 256 at a time."""
    test_pairs: int = 512
    """Held-out dialogs played after each epoch; 0 plays none."""
    schedule: str | None = None
    """Of the learning rate over all epochs: `cosine`, down to 0 (the default), or `constant`
    (the default of the published form)."""
    seed: int = 7771
    """Fixes the dialogs and the users' words."""
    log_interval: int = 10
    """Batches between two TensorBoard points."""
    model_folder: Annotated[Path, tyro.conf.arg(aliases=["--save-folder"])] = Path("models/")
    """Receives checkpoints, `rl-metrics.json` and TensorBoard's `logs`."""
    resume: bool = False
    """Go on from the last checkpoint in the folder, to the same numbers: at its rate, and with its
    batches and schedule where these are not typed."""
    overwrite: bool = False
    """Start anew where the folder already holds checkpoints."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: train(args), together=True)


def train(args: Args) -> None:
    """Train as the arguments say."""
    from collections.abc import Iterator

    import torch

    from agents.checkpoints import load_checkpoint
    from agents.look_ahead import Improvement
    from agents.policy_improvement import freeze_images, improve_epoch, target_copy
    from agents.self_critical import SelfCritical, self_critical_epoch
    from agents.session import check_schedule, run_epochs, starting_point
    from agents.supervised import Step, Training
    from retrieval.devices import device_of, settle
    from retrieval.distributed import processes, writer_first
    from retrieval.errors import unknown

    if args.method not in METHODS:
        raise unknown("method", args.method, METHODS)
    weighed = {} if args.weight is None else {"weight": args.weight}
    policy = Improvement(
        args.improvement, args.top_k, args.tau, args.neg_num, args.rollouts, depth=args.depth,
        outcome=args.outcome, pool=args.pool, offer=args.offer,
        images_rest=args.images_rest, **weighed,
    )  # fmt: skip
    by_chance = SelfCritical(args.top_k, args.samples, **weighed)
    with writer_first():  # what is missing is made once
        dialog = dialog_of(args, "train", args.train_turns)
        test = dialog_of(args, "test", args.test_turns) if args.test_pairs else None
    start = load_checkpoint(args.pretrained_model, dialog.vocabulary)
    done = starting_point(args.model_folder, "rl", args.resume, args.overwrite, dialog.vocabulary)
    steps = steps_of(args, done.arguments if done else {})
    args = replace(args, **steps._asdict())
    if done is not None:
        check_schedule(done, steps.schedule, args.epochs)
    loss = args.loss or start.arguments.get("loss") or "in_batch"
    how = Training(
        steps.batch_size * processes(), args.dialogs_per_epoch, args.train_turns, str(loss),
        args.triplet_margin, args.seed,
    )  # fmt: skip
    agent = done.agent if done else start.agent
    agent.index(dialog.gallery.features[:2])  # refuses features of another size now
    agent = settle(agent, device_of(args.device))
    published_target = target_copy(
        settle(load_checkpoint(args.pretrained_model).agent, device_of(args.device))
    )
    if policy.form == "published":
        freeze_images(agent)
    trained = [parameter for parameter in agent.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=steps.lr)
    if done is not None:
        optimizer.load_state_dict(done.optimizer)

    def play_epoch(epoch: int) -> Iterator[Step]:
        if args.method == "self-critical":
            return self_critical_epoch(agent, dialog, optimizer, epoch, how, by_chance)
        target = published_target if policy.form == "published" else target_copy(agent)
        return improve_epoch(agent, target, dialog, optimizer, epoch, how, policy)

    run_epochs(
        "rl", agent, start.spec, optimizer, play_epoch,
        range(done.epoch + 1 if done else 0, args.epochs), how.batches,
        args.model_folder, args, test, args.log_interval, args.test_pairs, steps.schedule,
    )  # fmt: skip
    print(f"agents in {args.model_folder}: rl-0.pt ... rl-{args.epochs - 1}.pt")


def steps_of(args: Args, begun: Mapping[str, Any]) -> Steps:
    """As typed; else as in the run that is taken up again; else by the form."""
    known = {**STEPS[args.improvement]._asdict(), **begun}
    typed = {name: getattr(args, name) for name in Steps._fields}
    return Steps(*(known[name] if value is None else value for name, value in typed.items()))


if __name__ == "__main__":
    main()
