"""Fit the relative captioner to (reference, caption, target) triplets."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from retrieval import distributed
from retrieval.devices import CPU, put, settle
from retrieval.gallery import Gallery, Triplet
from retrieval.text import END, PADDING, Vocabulary
from user_simulator.captioner import MAX_WORDS, RelativeCaptioner


def fit_captioner(
    gallery: Gallery,
    triplets: Sequence[Triplet],
    epochs: int = 3,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    hidden_size: int = 128,
    seed: int = 0,
    device: torch.device = CPU,
) -> RelativeCaptioner:
    """Train on a split's triplets with cross-entropy over the words and the end.

    Departures from the published training (Adam 4e-4, batch 32, 50 epochs, clipping element by
    element): AdamW with a one-cycle schedule and clipping by norm, for a laptop's minutes.

    Args:
        gallery: with vectors and grids.
        triplets: the relative captions.
        epochs: passes over the triplets.
        batch_size: triplets per step, of all processes together (`retrieval.distributed`).
        learning_rate: peak of the schedule.
        hidden_size: see `RelativeCaptioner`.
        seed: fixes the initial weights, the order and dropout.
        device: where it is trained; the captioner comes back to the CPU.
    """
    assert gallery.grids is not None
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary.build(triplet.caption for triplet in triplets)
    _, places, grid_dim = gallery.grids.shape
    model = RelativeCaptioner(
        vocabulary, gallery.features.shape[1], grid_dim, places, hidden_size
    ).train()
    distributed.own_rows(batch_size)  # refuses what cannot be shared
    distributed.share(model)
    if distributed.processes() > 1:  # else dropout goes on where the initial weights stopped
        distributed.seed_dropout(seed)
    vectors = put(gallery.features, device)
    grids = torch.from_numpy(gallery.grids.astype(np.float32))
    model.standardize(grids)
    model, grids = settle(model, device), put(grids, device)
    words = torch.from_numpy(with_end(vocabulary, [triplet.caption for triplet in triplets]))
    pairs = torch.tensor([(triplet.reference, triplet.target) for triplet in triplets])

    steps = epochs * max(1, len(triplets) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.15
    )
    bar = tqdm(
        total=steps, desc="captioner", unit="step", file=sys.stderr, mininterval=1.0,
        disable=not distributed.is_writer(),
    )  # fmt: skip
    with bar:
        for _ in range(epochs):
            order = rng.permutation(len(triplets))
            for step in range(max(1, len(triplets) // batch_size)):
                batch = order[step * batch_size : (step + 1) * batch_size]
                batch = batch[: distributed.even(len(batch))]
                rows = torch.from_numpy(batch[distributed.own_rows(len(batch))])
                said = words[rows]
                said = said[:, : int((said != PADDING).sum(1).max())]  # (B, L), the end included
                spoken = int((said != PADDING).sum())
                said = put(said, device)

                # Tables of the batch's images alone, references first.
                images = put(pairs[rows].T.flatten(), device)
                tables = model.tables(vectors[images], grids[images])
                first = torch.arange(len(rows), device=device)
                scores = model(tables, first, first + len(rows), said[:, :-1])
                loss = F.cross_entropy(scores.flatten(0, 1), said.flatten(), ignore_index=PADDING)
                loss = distributed.weight(spoken) * loss  # a mean of words

                optimizer.zero_grad()
                loss.backward()
                distributed.average_gradients(model)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return settle(model.eval(), CPU)


def with_end(vocabulary: Vocabulary, captions: Sequence[str]) -> np.ndarray:
    """Word ids (B, 17): up to 16 words, the end token, padding."""
    ids = np.zeros((len(captions), MAX_WORDS + 1), dtype=np.int64)
    ids[:, :MAX_WORDS] = vocabulary.encode(captions, MAX_WORDS)
    ids[np.arange(len(captions)), (ids != PADDING).sum(1)] = END
    return ids
