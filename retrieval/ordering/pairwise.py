"""Which of two pictures is later: the model that gives the first picture of a chain."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from retrieval.encoders.towers import make_tower
from retrieval.errors import unknown
from retrieval.files import atomic_write
from retrieval.inference import to_tensor
from retrieval.schedules import make_schedule

GAPS = (1, 2, 3, 4)
"""Steps between the pictures of a pair; a fifth kind of pair is further apart."""
FEATURES, HIDDEN = 1000, 1024


class PairwiseModel(nn.Module):
    r"""Two pictures through one encoder, and whether the first of them is the later one.

    .. math:: p = softmax(W_2 \, relu(W_1 [f(a), f(b)]))_1

    The pairwise model of the YouMakeup VQA 2020 baseline: a siamese ResNet-18 with 1000 outputs,
    2000 to 1024 to 2. Departure: the last Linear of the encoder is not ImageNet's classifier but
    begins anew.

    Args:
        encoder: a name of `retrieval.encoders.towers.TOWERS`.
        weights: of the encoder, see `retrieval.encoders.image.load_weights`.
    """

    def __init__(self, encoder: str = "resnet18", weights: str = "none"):
        super().__init__()
        self.encoder = make_tower(encoder, FEATURES, weights)
        self.head = nn.Sequential(
            nn.Linear(2 * FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)
        )  # fmt: skip

    def forward(self, images: Tensor, pairs: Tensor) -> Tensor:
        """Logits (B, 2) of pairs of pictures; class 1: the first is later than the second.

        Args:
            images: (M, 3, H, W), each read once.
            pairs: rows of `images` (B, 2).
        """
        features = self.encoder(images)[pairs]  # (B, 2, 1000)
        result: Tensor = self.head(features.flatten(1))
        return result

    @torch.inference_mode()
    def later(self, pictures: np.ndarray) -> np.ndarray:
        """P(i is later than j) of all pairs of pictures (M, H, W, 3), as (M, M); in eval mode."""
        count = len(pictures)
        every = torch.arange(count)
        chances = self(to_tensor(pictures), torch.cartesian_prod(every, every)).softmax(-1)[:, 1]
        return np.asarray(chances.numpy().reshape(count, count))


def first_of(later: np.ndarray) -> int:
    """The first picture: the one that the others are later than, on average.

    Args:
        later: P(i is later than j) as (M, M).
    """
    count = len(later)
    others = ~np.eye(count, dtype=bool)
    return int((later * others).sum(axis=0).argmax())


def pairwise_score(later: np.ndarray, order: Sequence[int]) -> float:
    """The sum of P(j is later than i) over every i that an order puts before j."""
    rows = later[np.ix_(order, order)]  # in the order's own order
    return float(np.tril(rows, -1).sum())


@dataclass(frozen=True)
class PairwiseTraining:
    """How to train; the defaults are the published ones, of ResNet-18 on make-up.

    Args:
        encoder: of the model.
        optimizer: "sgd" (momentum 0.9) or "adamw".
        schedule: "step" (a tenth every `decay_epochs`) or another of `SCHEDULES`.
        learning_rate, weight_decay, batch_size, epochs: of the optimiser.
        decay_epochs: epochs to a tenth of the rate.
        together: the pairs of a video come one after another, so that a batch reads few pictures,
            each of them once; otherwise pairs are shuffled, as published.
        seed: fixes weights and pairs.
    """

    encoder: str = "resnet18"
    optimizer: str = "sgd"
    schedule: str = "step"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 20
    decay_epochs: int = 5
    together: bool = False
    seed: int = 0


PAIRWISE_RECIPES: dict[str, PairwiseTraining] = {
    "published": PairwiseTraining(),
    "fast": PairwiseTraining(
        "small-cnn", "adamw", "one_cycle", 1e-3, 0.01, 128, 8, together=True
    ),
}  # fmt: skip
"""The published values, and "fast", for small pictures on few cores."""


def draw_pairs(
    sequences: Sequence[Sequence[int]], rng: np.random.Generator, together: bool = False
) -> np.ndarray:
    """An epoch's pairs (P, 3): earlier row, later row, and whether they are shown in reverse.

    Every picture is paired with the one 1, 2, 3 and 4 steps later and with one at random that
    is 5 steps later or more, as far as its video goes; half of the pairs are turned round. All are
    shuffled, or with `together` the videos are.

    Raises:
        ValueError: no video has two steps.
    """
    pairs = []
    for number in rng.permutation(len(sequences)):
        rows = sequences[number]
        for at, earlier in enumerate(rows):
            ahead = [at + gap for gap in GAPS if at + gap < len(rows)]
            if (far := at + GAPS[-1] + 1) < len(rows):
                ahead.append(int(rng.integers(far, len(rows))))
            pairs += [(earlier, rows[later]) for later in ahead]
    if not pairs:
        raise ValueError("expected videos of two steps or more to draw pairs from, got none")
    table = np.array(pairs, dtype=np.int64)
    table = table if together else table[rng.permutation(len(table))]
    return np.column_stack([table, rng.random(len(table)) < 0.5])


def fit_pairwise(
    model: PairwiseModel,
    pictures: np.ndarray,
    sequences: Sequence[Sequence[int]],
    how: PairwiseTraining,
    path: Path,
    arguments: Mapping[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Train a pairwise model, saving it after every epoch; goes on from what `path` holds.

    Args:
        model: trained in place.
        pictures: uint8 (N, H, W, 3).
        sequences: for each video the rows of its pictures, in order of time.
        how: the recipe.
        path: receives the checkpoint, and `path` with the suffix .json the losses.
        arguments: the command's, plain values, kept in the checkpoint.

    Returns:
        For each epoch its mean loss and the share of pairs that were told right.

    Raises:
        ValueError: an unknown optimiser, no pairs, or a checkpoint of another recipe.
    """
    optimizer = _optimizer_of(model, how)
    history = _restored(path, model, optimizer, how)
    for epoch in range(len(history), how.epochs):
        rng = np.random.default_rng([how.seed, epoch])
        pairs = draw_pairs(sequences, rng, how.together)
        steps = -(-len(pairs) // how.batch_size)
        schedule = make_schedule(how.schedule, how.decay_epochs * steps)
        model.train()
        losses, right = [], 0
        for step, (rows, label) in enumerate(_batches(pairs, how.batch_size, epoch)):
            for group in optimizer.param_groups:
                at = epoch * steps + step
                group["lr"] = how.learning_rate * schedule(at, how.epochs * steps)
            seen, which = np.unique(rows, return_inverse=True)
            pair = torch.from_numpy(which.reshape(rows.shape))
            logits = model(to_tensor(pictures[seen]), pair)
            loss = F.cross_entropy(logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(rows))
            right += int((logits.argmax(-1) == label).sum())
        told = {"loss": sum(losses) / len(pairs), "right": right / len(pairs)}
        history.append(told)
        print(f"epoch {epoch + 1}: loss {told['loss']:.4f}, right {told['right']:.3f}",
              file=sys.stderr)  # fmt: skip
        _save(path, model, optimizer, how, history, arguments or {})
    model.eval()
    return history


def finished(path: Path, how: PairwiseTraining) -> list[dict[str, float]] | None:
    """What `fit_pairwise` returned for a model that it has trained to the end, else None."""
    if not path.is_file():
        return None
    content = _content(path)
    is_done = content["how"] == asdict(how) and len(content["history"]) == how.epochs
    return list(content["history"]) if is_done else None


def load_pairwise(path: Path) -> PairwiseModel:
    """A pairwise model in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else.
    """
    content = _content(path)
    model = PairwiseModel(content["how"]["encoder"])
    model.load_state_dict(content["weights"])
    return model.eval()


def _optimizer_of(model: PairwiseModel, how: PairwiseTraining) -> torch.optim.Optimizer:
    if how.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), how.learning_rate, weight_decay=how.weight_decay
        )
    if how.optimizer != "sgd":
        raise unknown("optimizer", how.optimizer, ("sgd", "adamw"))
    return torch.optim.SGD(
        model.parameters(), how.learning_rate, momentum=0.9, weight_decay=how.weight_decay
    )


def _batches(pairs: np.ndarray, batch_size: int, epoch: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows (B, 2) as they are shown and whether the first is the later one (B,)."""
    starts = range(0, len(pairs), batch_size)
    label = f"epoch {epoch + 1}"
    for begin in tqdm(starts, desc=label, unit="step", file=sys.stderr, mininterval=1.0,
                      leave=False):  # fmt: skip
        batch = pairs[begin : begin + batch_size]
        is_reversed = batch[:, 2] == 1
        rows = np.where(is_reversed[:, None], batch[:, 1::-1], batch[:, :2])
        yield rows, torch.from_numpy(is_reversed.astype(np.int64))


def _save(
    path: Path,
    model: PairwiseModel,
    optimizer: torch.optim.Optimizer,
    how: PairwiseTraining,
    history: list[dict[str, float]],
    arguments: Mapping[str, Any],
) -> None:
    content = {
        "kind": "pairwise",
        "how": asdict(how),
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "arguments": dict(arguments),
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(history, indent=1))


def _restored(
    path: Path, model: PairwiseModel, optimizer: torch.optim.Optimizer, how: PairwiseTraining
) -> list[dict[str, float]]:
    """The history of what `path` holds, with weights and optimiser restored; else empty."""
    if not path.is_file():
        return []
    content = _content(path)
    if content["how"] != asdict(how):
        raise ValueError(
            f"{path} was trained in another way than is asked for now; delete it, or give another "
            "--out"
        )
    model.load_state_dict(content["weights"])
    optimizer.load_state_dict(content["optimizer"])
    return list(content["history"])


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no pairwise model at {path}; train one with train_pairwise")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["kind"] != "pairwise":
            raise KeyError(content["kind"])
    except Exception as error:
        raise ValueError(
            f"{path} is not a model that train_pairwise saved ({type(error).__name__})"
        ) from error
    return dict(content)
