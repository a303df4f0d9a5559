"""Fit a single-turn model on a composed-retrieval split."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from retrieval import distributed
from retrieval.datasets.base import ComposedSplit
from retrieval.devices import place_of
from retrieval.encoders.image import IMAGENET_STD
from retrieval.errors import unknown
from retrieval.files import atomic_write
from retrieval.gallery import Triplet
from retrieval.inference import gallery_images, reads_features, reference_images, to_tensor
from retrieval.losses import make_metric
from retrieval.models import RetrievalModel
from retrieval.regularizers import GradientAugmentation
from retrieval.schedules import make_schedule
from retrieval.shifting import shifted

OPTIMIZERS = ("sgd", "adamw")
BEST, LAST = "best.pt", "last.pt"

Validation = Callable[[RetrievalModel], Mapping[str, float]]
"""Numbers of a model on what it is watched on; "score" (larger is better) chooses the best."""


@dataclass(frozen=True)
class Training:
    """How to train; the defaults are google/tirg's.

    Args:
        loss: one of `retrieval.losses.METRICS`.
        half_gradient: of the soft triplet loss, as released.
        matching_weight: of GA's matching term (0.001 there).
        augmentation: gradient regularisers.
        optimizer: "sgd" (momentum 0.9) or "adamw".
        schedule: one of `retrieval.schedules.SCHEDULES`.
        learning_rate: at the schedule's top.
        backbone_factor: the image encoder's rate over the rest's; None for the model's own
            published one (a tenth, but 1 on css3d).
        decay_every: steps to a tenth of the rate, in the schedule "step".
        weight_decay: of the optimiser.
        clip: largest norm of the gradient, 0 for none (as published).
        batch_size: B, of all processes together; the last batch of an epoch is dropped when it
            is not full.
        iterations: optimiser steps in all. Departure: the original stops between epochs.
        epochs: passes in all, in place of `iterations` where given.
        sampled: queries by the data set's published rule, where it has one; else all that are
            listed, shuffled. Where none are listed the rule is used anyway.
        together: shuffled queries of one reference come in runs of up to this many, so that the
            targets of a batch are alike and hard to tell apart; 1 for none. Above 1 an encoder
            reads each reference of a batch once.
        shift: pixels by which every picture is moved at random at most, in training alone
            (`retrieval.shifting`); 0 for none, as published.
        seed: fixes the queries, dropout, shifts and whatever loss and regularisers draw.
        evaluate_every: epochs between two validations; 0 only at the end.
        patience: validations without a better score before training stops; 0 never stops.
        max_minutes: of training, validation not counted; None has no limit.
        bfloat16: networks compute with 16 bits where that is safe, about twice as fast on
            processors that know the type; losses, weights and evaluation keep 32.

    Raises:
        ValueError: an unknown name, or a number that cannot be.
    """

    loss: str = "soft_triplet"
    half_gradient: bool = False
    matching_weight: float = 0.0
    augmentation: GradientAugmentation = field(default_factory=GradientAugmentation)
    optimizer: str = "sgd"
    schedule: str = "step"
    learning_rate: float = 0.01
    backbone_factor: float | None = None
    decay_every: int = 9_999_999
    weight_decay: float = 1e-6
    clip: float = 0.0
    batch_size: int = 32
    iterations: int = 210_000
    epochs: int | None = None
    sampled: bool = True
    together: int = 1
    shift: int = 0
    seed: int = 0
    evaluate_every: int = 1
    patience: int = 0
    max_minutes: float | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        make_metric(self.loss, torch.Generator(), self.half_gradient)  # refuses what is unknown
        make_schedule(self.schedule, self.decay_every)
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        for name, least in (("batch_size", 2), ("iterations", 1), ("epochs", 1), ("together", 1),
                            ("evaluate_every", 0), ("patience", 0), ("shift", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")

    def moved(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Pictures (B, H, W, 3) as training reads them; features (B, F) as they are."""
        return shifted(images, self.shift, rng) if images.ndim == 4 else images

    def steps(self, split: ComposedSplit) -> tuple[int, int]:
        """Optimiser steps of an epoch and in all.

        Raises:
            ValueError: there are fewer queries than a batch needs.
        """
        drawn = len(split) if self._samples(split) else len(split.queries)
        if drawn < self.batch_size:
            raise ValueError(
                f"{split.dataset} ({split.split}) has {drawn} queries an epoch, fewer than a batch "
                f"of {self.batch_size}; lower --batch_size"
            )
        by_epoch = drawn // self.batch_size
        return by_epoch, self.epochs * by_epoch if self.epochs else self.iterations

    def queries(self, split: ComposedSplit, epoch: int) -> Sequence[Triplet]:
        """An epoch's queries, in order; the same for the same seed and epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        if self._samples(split):
            assert split.sample is not None
            return split.sample(rng, len(split))
        order = [split.queries[row] for row in rng.permutation(len(split.queries))]
        return order if self.together == 1 else _in_runs(order, self.together, rng)

    def _samples(self, split: ComposedSplit) -> bool:
        return split.sample is not None and (self.sampled or not split.queries)


def _in_runs(queries: Sequence[Triplet], most: int, rng: np.random.Generator) -> list[Triplet]:
    """The same queries in runs of at most so many with one reference, runs in random order."""
    by_reference: dict[int, list[Triplet]] = defaultdict(list)
    for query in queries:
        by_reference[query.reference].append(query)
    runs = [
        group[begin : begin + most]
        for group in by_reference.values()
        for begin in range(0, len(group), most)
    ]
    return [query for number in rng.permutation(len(runs)) for query in runs[number]]


@dataclass
class Progress:
    """Where a training stands, besides weights and optimiser.

    Args:
        step: optimiser steps taken.
        seconds: of training so far.
        best: the best score so far.
        waited: validations since then.
        history: the numbers of every validation.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    model: RetrievalModel,
    split: ComposedSplit,
    how: Training,
    folder: Path,
    validate: Validation | None = None,
    arguments: Mapping[str, Any] | None = None,
    resume: Mapping[str, Any] | None = None,
    log_every: int = 50,
    save_minutes: float = 5.0,
) -> Progress:
    """Train a model, leaving `best.pt`, `last.pt`, `metrics.json` and TensorBoard's events.

    Queries come batch by batch, the loss of each pulls query to target, one step is taken. The
    last checkpoint is written at the start, after every validation and every few minutes, so a
    run that is stopped can go on, to the numbers an uninterrupted one gives.

    On several processes (`retrieval.distributed`) each reads its rows of every batch, and the
    first one writes, tells and validates. With `together` above 1 a BatchNorm of the query's
    encoder counts a reference once for each process that reads it.

    Args:
        model: trained in place.
        split: what it learns from.
        how: the recipe.
        folder: receives everything.
        validate: gives the numbers that the best model is chosen by; None chooses the last.
        arguments: the command's, plain values, kept in the checkpoints.
        resume: the content of an earlier `last.pt`.
        log_every: steps between two TensorBoard points.
        save_minutes: between two checkpoints.

    Raises:
        ValueError: the split does not suit the model or the recipe.
        RuntimeError: the loss is no longer a number.
    """
    references = reference_images(split, reads_features(model))
    targets = gallery_images(split, reads_features(model))
    by_epoch, total = how.steps(split)
    schedule = make_schedule(how.schedule, how.decay_every)
    optimizer = make_optimizer(model, how)
    chance = torch.Generator()
    progress = Progress()
    if resume is not None:
        progress = _restore(model, optimizer, chance, resume)
    metric = make_metric(how.loss, chance, how.half_gradient, how.matching_weight)
    distributed.share(model)
    mine, device = distributed.own_rows(how.batch_size), place_of(model)

    def save(name: str) -> None:
        if distributed.is_writer():
            save_training(folder / name, model, optimizer, chance, progress, arguments or {})

    save(LAST)
    saved_at = time.monotonic()
    writer = _summary(folder, progress.step)
    bar = tqdm(
        total=total, initial=progress.step, desc="train", unit="step", file=sys.stderr,
        mininterval=1.0, disable=not distributed.is_writer(),
    )  # fmt: skip
    queries: Sequence[Triplet] = ()
    recent: dict[str, list[float]] = defaultdict(list)
    with writer, bar:
        while progress.step < total and not _given_up(progress, how):
            began = time.monotonic()
            epoch, batch = divmod(progress.step, by_epoch)
            if batch == 0:  # every epoch has chance of its own
                torch.manual_seed(how.seed * 1_000_003 + epoch)
                chance.manual_seed(how.seed * 1_000_003 + epoch)
            if distributed.processes() > 1:  # for a resumed run to find, whatever was saved
                distributed.seed_dropout(how.seed * 1_000_003 + progress.step)
            if batch == 0 or not queries:
                queries = how.queries(split, epoch)

            # one batch of queries, under the rate of this step
            rows = queries[batch * how.batch_size : (batch + 1) * how.batch_size][mine]
            shown = [query.reference for query in rows]
            which = None
            if how.together > 1 and not how.augmentation.explicit:
                shown, which = _distinct(shown)
            moves = np.random.default_rng([how.seed, progress.step, distributed.process_number()])
            images = to_tensor(how.moved(references[shown], moves), device)
            wanted = [query.target for query in rows]
            goals = to_tensor(how.moved(targets[wanted], moves), device)
            ids = model.token_ids([query.caption for query in rows])
            rate = schedule(progress.step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["top_lr"]

            # the loss, and what the regularisers add to it
            model.train()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=how.bfloat16):
                terms = batch_terms(
                    model, images, ids, goals, metric, how.augmentation, chance, which
                )
            loss = torch.stack(list(terms.values())).sum()
            values = distributed.average(*[term.item() for term in (*terms.values(), loss)])
            if not np.isfinite(values[-1]):
                raise RuntimeError(
                    f"the loss became {values[-1]} in step {progress.step}; lower --learning_rate "
                    f"and go on from {folder / LAST}"
                )
            optimizer.zero_grad()
            loss.backward()
            distributed.average_gradients(model)
            if how.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)
            optimizer.step()
            progress.step += 1
            progress.seconds += time.monotonic() - began
            if how.max_minutes is not None:
                progress.seconds = distributed.from_writer(progress.seconds)

            # tell
            bar.update()
            for name, value in zip((*terms, "loss"), values, strict=True):
                recent[name].append(value)
            if progress.step % log_every == 0:
                bar.set_postfix(metric=f"{np.mean(recent['metric']):.3f}", refresh=False)
                _log(writer, "train", {name: np.mean(last) for name, last in recent.items()},
                     progress.step)  # fmt: skip
                _log(writer, "train", {"learning_rate": rate * how.learning_rate}, progress.step)
                recent.clear()

            # watch the model at the end of an epoch and of the run
            over = progress.step == total or _out_of_time(progress, how)
            due = progress.step % by_epoch == 0 and how.evaluate_every != 0
            if over or (due and (epoch + 1) % how.evaluate_every == 0):
                if _watch(model, validate, progress, by_epoch, folder, writer):
                    save(BEST)
                save(LAST)
                saved_at = time.monotonic()
            elif time.monotonic() - saved_at > 60 * save_minutes:
                save(LAST)
                saved_at = time.monotonic()
            if over:
                break
    return progress


def batch_terms(
    model: RetrievalModel,
    images: Tensor,
    ids: Tensor,
    goals: Tensor,
    metric: Callable[[Tensor, Tensor], Tensor],
    augmentation: GradientAugmentation,
    chance: torch.Generator,
    which: Tensor | None = None,
) -> dict[str, Tensor]:
    """The named terms of one batch's loss: the model's own and the regularisers'.

    Args:
        model: in train mode.
        images: references (B, 3, H, W) or (B, F), or those that `which` tells apart.
        ids: captions (B, L).
        goals: targets, as the references.
        metric: the batch loss on scaled features.
        augmentation: which regularisers.
        chance: what they draw from.
        which: the row of each query's reference in `images` (B,); None for one each.
    """

    def exact(query: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            return metric(*distributed.gather(query.float(), target.float()))

    images.requires_grad_(augmentation.explicit)
    shared = () if which is None else (which,)
    terms = model.losses(images, ids, goals, exact, *shared)
    # The published lambda is meant for normalised pictures.
    unit = torch.tensor(IMAGENET_STD).view(3, 1, 1).to(images) if images.dim() == 4 else 1.0
    parameters = released_order(model) if augmentation.implicit else []
    return {
        **terms,
        **augmentation.terms(terms["metric"], images, parameters, chance, unit),
    }


def _distinct(rows: Sequence[int]) -> tuple[list[int], Tensor]:
    """Each row once, in order of appearance, and where every one of `rows` is among them (B,)."""
    place = {row: at for at, row in enumerate(dict.fromkeys(rows))}
    return list(place), torch.tensor([place[row] for row in rows])


def released_order(model: RetrievalModel) -> list[Tensor]:
    """The trained parameters as the released code lists them: mixing weights, scale, the rest."""
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]

    def place(name: str) -> int:
        if name.startswith("composer.") and name.endswith("weights"):
            return 0
        if name == "scale":
            return 1
        return 3 if name.startswith("composer.") else 2

    return [one for _, one in sorted(named, key=lambda pair: place(pair[0]))]


def make_optimizer(model: RetrievalModel, how: Training) -> torch.optim.Optimizer:
    """The optimiser of a recipe; every group remembers its rate at the schedule's top."""
    factor = [] if how.backbone_factor is None else [how.backbone_factor]
    groups = model.parameter_groups(how.learning_rate, *factor)
    groups = [{**group, "top_lr": group.get("lr", how.learning_rate)} for group in groups]
    if how.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=how.learning_rate, weight_decay=how.weight_decay)
    return torch.optim.SGD(
        groups, lr=how.learning_rate, momentum=0.9, weight_decay=how.weight_decay
    )


def save_training(
    path: Path,
    model: RetrievalModel,
    optimizer: torch.optim.Optimizer,
    chance: torch.Generator,
    progress: Progress,
    arguments: Mapping[str, Any],
) -> None:
    """Write weights, specification, optimiser, chance and arguments; complete or not there."""
    content = {
        "kind": "composer",
        "spec": asdict(model.spec),
        "separate": hasattr(model, "query_encoder"),
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "chance": chance.get_state(),
        "progress": asdict(progress),
        "arguments": dict(arguments),
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_training(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that `fit` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with `train_composer`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["kind"] != "composer":
            raise KeyError(content["kind"])
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint that train_composer saved ({type(error).__name__})"
        ) from error
    return dict(content)


def _restore(
    model: RetrievalModel,
    optimizer: torch.optim.Optimizer,
    chance: torch.Generator,
    content: Mapping[str, Any],
) -> Progress:
    model.load_state_dict(content["weights"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random"])
    chance.set_state(content["chance"])
    return Progress(**content["progress"])


def _given_up(progress: Progress, how: Training) -> bool:
    return (how.patience > 0 and progress.waited >= how.patience) or _out_of_time(progress, how)


def _out_of_time(progress: Progress, how: Training) -> bool:
    return how.max_minutes is not None and progress.seconds >= 60 * how.max_minutes


def _watch(
    model: RetrievalModel,
    validate: Validation | None,
    progress: Progress,
    by_epoch: int,
    folder: Path,
    writer: Any,
) -> bool:
    """Note a model's numbers; whether it is the best so far (without validation: always)."""
    numbers = {"step": progress.step, "epoch": progress.step / by_epoch,
               "minutes": round(progress.seconds / 60, 3)}  # fmt: skip
    is_best = True
    if validate is not None:
        found = dict(validate(model)) if distributed.is_writer() else {}
        score = distributed.from_writer(found.get("score", 0.0))
        is_best = progress.best is None or score > progress.best
        progress.best = score if is_best else progress.best
        progress.waited = 0 if is_best else progress.waited + 1
        numbers |= found
        _log(writer, "validation", found, progress.step)
        line = ", ".join(f"{name} {value:.4f}" for name, value in list(found.items())[:6])
        if distributed.is_writer():
            print(f"epoch {numbers['epoch']:.1f}: {line}", file=sys.stderr)
    progress.history.append(numbers)
    if not distributed.is_writer():
        return is_best
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(progress.history, indent=1))
    return is_best


def _summary(folder: Path, step: int) -> Any:
    """TensorBoard's writer; of the processes that do not write, a context of nothing."""
    if not distributed.is_writer():
        return nullcontext()
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    return SummaryWriter(str(folder), purge_step=step)


def _log(writer: Any, part: str, numbers: Mapping[str, Any], step: int) -> None:
    for name, value in numbers.items() if distributed.is_writer() else ():
        writer.add_scalar(f"{part}/{name}", value, step)
