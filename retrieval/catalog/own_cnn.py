"""A small encoder that a catalogue trains for itself, where no pretrained one can be had."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from retrieval.catalog.language import Language
from retrieval.catalog.looks import MEASURES
from retrieval.encoders.training import to_tensor

SIDE = 7
_PIXELS = 96


class CatalogCNN(nn.Module):
    """Five convolutions, trained to read a product's codes off its picture.

    Args:
        counts: how many codes each column has, 0 (unknown) included.
        dim: size F of the vectors.
        channels: width C of the 7x7 grid.
    """

    def __init__(self, counts: tuple[int, ...], dim: int = 256, channels: int = 128):
        super().__init__()
        self.counts = counts
        widths, strides = (3, 32, 64, 96, 128, channels), (2, 2, 2, 1, 1)
        layers: list[nn.Module] = []
        for inner, outer, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [
                nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outer),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(SIDE))  # (B, C, 7, 7)
        self.vector = nn.Linear(channels * SIDE**2, dim)
        self.read = nn.Linear(dim, sum(counts) + len(MEASURES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, F) and grids (B, 49, C) of pictures scaled to 96 px."""
        small = F.interpolate(pictures, size=(_PIXELS, _PIXELS), mode="bilinear", antialias=True)
        maps = self.body(small * 2 - 1)
        return self.vector(maps.flatten(1)), maps.flatten(2).transpose(1, 2)

    def loss(self, pictures: Tensor, codes: Tensor) -> Tensor:
        """Cross-entropy of the known codes and squared error of the measures (B, A)."""
        reading = self.read(F.relu(self(pictures)[0]))
        columns, measures = reading.split([sum(self.counts), len(MEASURES)], dim=1)
        terms = [F.mse_loss(measures, codes[:, len(self.counts) :].float() / 1000)]
        for at, scores in enumerate(columns.split(self.counts, dim=1) if self.counts else ()):
            known = codes[:, at] > 0
            if known.any():
                terms.append(F.cross_entropy(scores[known], codes[known, at]))
        return torch.stack(terms).sum()


def train_catalog_cnn(
    pictures: np.ndarray,
    codes: np.ndarray,
    language: Language,
    epochs: int = 8,
    batch_size: int = 32,
    seed: int = 0,
) -> CatalogCNN:
    """Fit the small encoder to the codes of the train pictures, with progress.

    Args:
        pictures: uint8 (N, H, W, 3).
        codes: of the same products (N, A).
        language: what the codes are.
        epochs: passes over the pictures, AdamW with a one-cycle schedule.
        batch_size: pictures per step; also mirrored left to right at random.
        seed: fixes the initial weights, the order and the mirrors.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = CatalogCNN(tuple(len(column.phrases) + 1 for column in language.columns)).train()
    steps = epochs * max(1, len(pictures) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    labels = torch.from_numpy(codes.astype(np.int64))
    with tqdm(total=steps, desc="catalogue encoder", file=sys.stderr, mininterval=1.0) as bar:
        for _ in range(epochs):
            order = rng.permutation(len(pictures))
            for step in range(max(1, len(pictures) // batch_size)):
                rows = np.sort(order[step * batch_size : (step + 1) * batch_size])
                batch = to_tensor(pictures[rows])
                if rng.random() < 0.5:
                    batch = batch.flip(-1)
                loss = model.loss(batch, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()
