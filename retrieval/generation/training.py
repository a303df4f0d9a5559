"""Train a stage: discriminator and generator in turns, batch by batch."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from retrieval.encoders.image import SceneCNN
from retrieval.files import atomic_write
from retrieval.generation.adversaries import Adversaries, make_batch
from retrieval.generation.checkpoints import LAST, Progress, restore, save_gan
from retrieval.generation.data import GanData
from retrieval.generation.models import GanSpec
from retrieval.generation.recipe import GanTraining

Validation = Callable[[Any], Mapping[str, float]]
"""Numbers of a generator in eval mode, for TensorBoard and `metrics.json`."""


def fit_gan(
    spec: GanSpec,
    generator: Any,
    data: GanData,
    how: GanTraining,
    folder: Path,
    reader: SceneCNN | None = None,
    validate: Validation | None = None,
    arguments: Mapping[str, Any] | None = None,
    resume: Mapping[str, Any] | None = None,
    log_folder: Path | None = None,
    log_every: int = 2,
    save_minutes: float = 5.0,
) -> Progress:
    """Train a generator against a new discriminator, leaving checkpoints and TensorBoard's events.

    `last.pt` is written at the start, at the end, after every validation and every few minutes;
    a run that goes on from it comes to the numbers of an uninterrupted one. Kept checkpoints are
    `model_epoch_{epoch}.pth`.

    Args:
        spec: what the generator was built from.
        generator: trained in place.
        data: what it learns from.
        how: the recipe.
        folder: receives checkpoints and `metrics.json`.
        reader: frozen, for `attribute_weight`.
        validate: watches the generator, or its average where one is kept.
        arguments: the command's, plain values, kept in the checkpoints.
        resume: the content of an earlier `last.pt`.
        log_folder: for TensorBoard; by default `folder`.
        log_every: steps between two points there.
        save_minutes: between two writings of `last.pt`.

    Raises:
        ValueError: data that do not suit the recipe, or no reader for its loss.
        RuntimeError: a loss is no longer a number.
    """
    from torch.utils.tensorboard import SummaryWriter

    if how.attribute_weight and reader is None:
        raise ValueError("attribute_weight needs a reader of attributes, got none")
    by_epoch = how.steps(data)
    total = by_epoch * how.epochs
    state = Adversaries(spec, generator, how)
    progress = Progress() if resume is None else restore(state.parts, state.chance, resume)

    def save(name: str) -> None:
        save_gan(folder / name, spec, state.parts, state.chance, progress, arguments or {})

    save(LAST)
    saved_at = time.monotonic()
    writer = SummaryWriter(str(log_folder or folder), purge_step=progress.step)
    bar = tqdm(total=total, initial=progress.step, desc=f"stage {spec.stage}", unit="step",
               file=sys.stderr, mininterval=1.0)  # fmt: skip
    order = np.zeros(0, dtype=np.int64)
    recent: dict[str, list[float]] = defaultdict(list)
    with writer, bar:
        while progress.step < total and not _out_of_time(progress, how):
            began, began_work = time.monotonic(), time.process_time()
            epoch, batch = divmod(progress.step, by_epoch)
            if batch == 0 or not len(order):
                order = np.random.default_rng([how.seed, epoch]).permutation(len(data))
            state.set_rates(0.5 ** (epoch // how.decay_every))
            rows = order[batch * how.batch_size : (batch + 1) * how.batch_size]

            terms = state.step(make_batch(data, rows, how, state.chance), reader)
            progress.step += 1
            if state.average is not None:
                state.average.follow(generator, progress.step)
            progress.seconds += time.monotonic() - began
            progress.processor_seconds += time.process_time() - began_work

            # tell
            bar.update()
            for name, value in terms.items():
                if not np.isfinite(value):
                    raise RuntimeError(
                        f"{name} became {value} in step {progress.step}; lower the learning rates "
                        f"and go on from {folder / LAST}"
                    )
                recent[name].append(value)
            if progress.step % log_every == 0:
                bar.set_postfix({n: f"{np.mean(v):.2f}" for n, v in recent.items()}, refresh=False)
                for name, values in recent.items():
                    writer.add_scalar(f"train/{name}", np.mean(values), progress.step)
                recent.clear()

            # keep
            over = progress.step == total or _out_of_time(progress, how)
            due = progress.step % by_epoch == 0 and (epoch + 1) % how.save_every == 0
            if over or due:
                _watch(state.drawing, validate, progress, by_epoch, folder, writer)
                save(LAST)
                if due or progress.step == total:
                    save(f"model_epoch_{epoch + 1}.pth")
                saved_at = time.monotonic()
            elif time.monotonic() - saved_at > 60 * save_minutes:
                save(LAST)
                saved_at = time.monotonic()
    return progress


def _out_of_time(progress: Progress, how: GanTraining) -> bool:
    return how.max_minutes is not None and progress.seconds >= 60 * how.max_minutes


def _watch(
    generator: Any,
    validate: Validation | None,
    progress: Progress,
    by_epoch: int,
    folder: Path,
    writer: Any,
) -> None:
    """Note what is measured of a generator, with when."""
    numbers: dict[str, float] = {
        "step": progress.step,
        "epoch": progress.step / by_epoch,
        "minutes": round(progress.seconds / 60, 3),
        "processor_minutes": round(progress.processor_seconds / 60, 3),
    }
    if validate is not None:
        was_training = generator.training
        found = dict(validate(generator.eval()))
        generator.train(was_training)
        for name, value in found.items():
            writer.add_scalar(f"validation/{name}", value, progress.step)
        line = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(f"epoch {numbers['epoch']:.1f}: {line}", file=sys.stderr)
        numbers |= found
    progress.history.append(numbers)
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(progress.history, indent=1))
