"""Run epochs of training: progress, TensorBoard, evaluation, checkpoints, resume."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from agents.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from agents.evaluation import Played, evaluation_pairs, run_dialogs
from agents.report.strip import draw_played
from agents.supervised import Step
from agents.tracker import DialogTracker
from envs.dialog import Dialog
from retrieval import distributed
from retrieval.files import atomic_write
from retrieval.metrics import rank_percentile, recall_at_k
from retrieval.schedules import make_schedule
from retrieval.text import Vocabulary

PlayEpoch = Callable[[int], Iterator[Step]]


def saved_epochs(folder: Path, prefix: str) -> dict[int, Path]:
    """The checkpoints `{prefix}-{epoch}.pt` of a folder."""
    pattern = re.compile(rf"{re.escape(prefix)}-(\d+)\.pt")
    found = {}
    for path in folder.glob(f"{prefix}-*.pt"):
        if match := pattern.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def starting_point(
    folder: Path, prefix: str, resume: bool, overwrite: bool, vocabulary: Vocabulary
) -> Checkpoint | None:
    """The checkpoint to go on from, or None for a new run (which then replaces older ones).

    Raises:
        ValueError: the folder holds checkpoints and neither `resume` nor `overwrite` was
            asked for, or `resume` finds none.
    """
    saved = saved_epochs(folder, prefix)
    if resume:
        if not saved:
            raise ValueError(f"nothing to resume: {folder} holds no {prefix}-*.pt; start without")
        return load_checkpoint(list(saved.values())[-1], vocabulary)
    if saved and not overwrite:
        raise ValueError(
            f"{folder} already holds {list(saved.values())[-1].name}; go on with --resume, start "
            "anew with --overwrite, or choose another --model-folder"
        )
    return None


def check_schedule(done: Checkpoint, schedule: str, epochs: int) -> None:
    """Refuse to take a run up again with a learning rate that would jump.

    Raises:
        ValueError: the rate falls over all epochs, and the run began with other ones.
    """
    begun = [done.arguments.get(name) for name in ("schedule", "epochs")]
    if schedule != "constant" and None not in begun and begun != [schedule, epochs]:
        raise ValueError(
            f"this run began with --schedule {begun[0]} --epochs {begun[1]}, got --schedule "
            f"{schedule} --epochs {epochs}; resume it with what it began with, or with --schedule "
            "constant"
        )


def run_epochs(
    prefix: str,
    agent: DialogTracker,
    spec: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    play_epoch: PlayEpoch,
    epochs: range,
    batches: int,
    folder: Path,
    arguments: Any,
    test: Dialog | None,
    log_interval: int = 50,
    test_pairs: int = 512,
    schedule: str = "constant",
) -> None:
    """Train for some epochs, saving `{prefix}-{epoch}.pt` after each.

    A new run is tested before its first epoch too, so that its start stands beside what comes.
    Of several processes (`retrieval.distributed`) the first one writes, tells and tests.

    Args:
        prefix: "sl" or "rl".
        agent: trained in place.
        spec: what `make_agent` needs to make it again.
        optimizer: saved with it.
        play_epoch: gives an epoch's steps.
        epochs: their numbers, from the first one not yet done.
        batches: per epoch, for the progress bar.
        folder: receives checkpoints, `{prefix}-metrics.json` and TensorBoard's `logs`.
        arguments: the command's, kept in the checkpoints.
        test: held-out dialogs played after each epoch, or None.
        log_interval: batches between two scalars.
        test_pairs: how many of them.
        schedule: "constant", or another of `retrieval.schedules` over all epochs: a run that is
            taken up again then needs the number of epochs it began with.
    """
    distributed.barrier()  # all have read what they start from
    if epochs.start == 0 and distributed.is_writer():  # a new run: all arguments proved good
        for path in saved_epochs(folder, prefix).values():
            path.unlink()
    set_rate = _rate_setter(optimizer, schedule, epochs.stop * batches)
    log = _load_log(folder / f"{prefix}-metrics.json", epochs.start)
    with _summary(folder / "logs" / prefix, epochs.start * batches) as writer:
        if test is not None and epochs.start == 0 and distributed.is_writer():
            _test(writer, agent.eval(), test, test_pairs, 0, "start:")
        for epoch in epochs:
            recent: list[Step] = []
            set_rate(epoch * batches)
            bar = tqdm(
                play_epoch(epoch), total=batches, desc=f"{prefix} epoch {epoch}", unit="batch",
                file=sys.stderr, mininterval=1.0, disable=not distributed.is_writer(),
            )  # fmt: skip
            for step in bar:
                recent = [*recent, step][-log_interval:]
                set_rate(epoch * batches + step.batch + 1)
                if step.batch % log_interval == 0 and distributed.is_writer():
                    _log_step(writer, recent, epoch * batches + step.batch, agent)
                    bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            if not distributed.is_writer():
                continue
            agent.eval()
            loss = float(np.mean([step.loss for step in recent]))
            numbers: dict[str, Any] = {"epoch": epoch, "train_loss": loss}
            if test is not None:
                at, head = (epoch + 1) * batches, f"{prefix}-{epoch}: loss {loss:.3f} |"
                numbers |= _test(writer, agent, test, test_pairs, at, head)
            log.append(numbers)
            # The checkpoint last: a run stopped in between plays this epoch again.
            with atomic_write(folder / f"{prefix}-metrics.json") as temporary:
                temporary.write_text(json.dumps(log, indent=1))
            save_checkpoint(
                folder / f"{prefix}-{epoch}.pt", agent, spec, epoch, optimizer, arguments
            )


def _summary(folder: Path, step: int) -> Any:
    """TensorBoard's writer; of the processes that do not write, a context of nothing."""
    if not distributed.is_writer():
        return nullcontext()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step)


def evaluate(agent: DialogTracker, dialog: Dialog, pairs: int, seed: int = 12345) -> Played:
    """Play the fixed held-out dialogs that training is watched on."""
    target, reference = evaluation_pairs(len(dialog.gallery), pairs, seed)
    return run_dialogs(dialog, agent, target, reference, seed, depth=1)


def _rate_setter(
    optimizer: torch.optim.Optimizer, schedule: str, total: int
) -> Callable[[int], None]:
    """Sets the learning rate for a step, of so many in all."""
    factor = make_schedule(schedule, decay_every=total)
    for group in optimizer.param_groups:  # kept with the optimiser, so that a resumed run has it
        group.setdefault("initial_lr", group["lr"])

    def set_rate(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor(min(step, total - 1), total)

    return set_rate


def _load_log(path: Path, first: int) -> list[dict[str, Any]]:
    """The numbers of the epochs before the first one to come."""
    if first == 0 or not path.is_file():
        return []
    return [numbers for numbers in json.loads(path.read_text()) if numbers["epoch"] < first]


def _log_step(writer: Any, steps: list[Step], at: int, agent: DialogTracker) -> None:
    size = np.concatenate([step.ranks for step in steps])
    writer.add_scalar("train/loss", np.mean([step.loss for step in steps]), at)
    writer.add_scalar("train/scale", agent.get_parameter("scale").exp().item(), at)
    for turn in range(size.shape[1]):
        writer.add_scalar(f"train/median_rank/turn_{turn}", np.median(size[:, turn]), at)
    for name in steps[-1].parts:
        writer.add_scalar(f"train/{name}", np.mean([step.parts[name] for step in steps]), at)


def _test(
    writer: Any, agent: DialogTracker, dialog: Dialog, pairs: int, at: int, head: str
) -> dict[str, list[float]]:
    """Play the held-out dialogs; figures and the first few dialogs go to TensorBoard, a line to
    standard error."""
    played = evaluate(agent, dialog, pairs)
    numbers = _log_test(writer, played, len(dialog.gallery), at)
    _log_dialogs(writer, played, dialog, pairs, at)
    percentile, recall = (
        " ".join(f"{100 * value:.1f}" for value in numbers[name])
        for name in ("percentile", "recall@1")
    )
    print(f"{head} percentile by turn {percentile} | Recall@1 {recall}", file=sys.stderr)
    return numbers


def _log_test(writer: Any, played: Played, size: int, at: int) -> dict[str, list[float]]:
    numbers = {"percentile": rank_percentile(played.ranks, size).mean(0).tolist()}
    for k in (1, 5, 10):
        numbers[f"recall@{k}"] = recall_at_k(played.ranks, k).mean(0).tolist()
    for name, by_turn in numbers.items():
        for turn, value in enumerate(by_turn):
            writer.add_scalar(f"test/{name}/turn_{turn}", value, at)
    return numbers


def _log_dialogs(writer: Any, played: Played, dialog: Dialog, pairs: int, at: int) -> None:
    """The first few dialogs as pictures."""
    if dialog.gallery.pictures is None:
        return
    target, _ = evaluation_pairs(len(dialog.gallery), pairs, 12345)
    for row in range(min(3, len(target))):
        strip = draw_played(dialog, played, row, target[row])
        writer.add_image(f"dialog/{row}", strip, at, dataformats="HWC")
