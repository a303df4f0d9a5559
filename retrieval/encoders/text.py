"""Captions to vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval.errors import unknown
from retrieval.text import PADDING


class RecurrentTextEncoder(nn.Module):
    """Word embeddings, one recurrent layer, its output at the last word, dropout, a Linear.

    The text encoder of google/tirg (LSTM) and of its GRU variant. Padding never counts: the
    network runs forward only and is read at the last word. An empty caption reads as one
    padding token.

    Args:
        words: size V of the vocabulary.
        dim: size D of the output.
        cell: "lstm" or "gru".
        size: of words and state; D (as published) when absent.

    Raises:
        ValueError: an unknown cell.
    """

    def __init__(self, words: int, dim: int, cell: str = "lstm", size: int | None = None):
        super().__init__()
        cells: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
        if cell not in cells:
            raise unknown("text cell", cell, cells)
        size = size or dim
        self.embedding = nn.Embedding(words, size)
        self.recurrent = cells[cell](size, size, batch_first=True)
        self.output = nn.Sequential(nn.Dropout(0.1), nn.Linear(size, dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, D) of token ids (B, L)."""
        length = (ids != PADDING).sum(1).clamp(min=1)  # (B,)
        ids = ids[:, : int(length.max())]
        states, _ = self.recurrent(self.embedding(ids))  # (B, L, D)
        last = states[torch.arange(len(ids), device=ids.device), length - 1]
        result: Tensor = self.output(last)
        return result


class ConvolutionalTextEncoder(nn.Module):
    """The published word CNN: pairs of words, 512 filters, max over places, BN, a Linear.

    Guo et al., NeurIPS 2018, as released: padding places take part in the max. The released
    code calls a 1-d convolution with a 2-d kernel; here it is the 1-d convolution over words
    that this amounts to. Departure: captions have this project's three special ids.

    Args:
        words: size V of the vocabulary.
        dim: size D of the output.
    """

    def __init__(self, words: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(words, 512)
        self.pairs = nn.Conv1d(512, 512, kernel_size=2)
        self.norm = nn.BatchNorm1d(512)
        self.output = nn.Linear(512, dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, D) of token ids (B, 16)."""
        places = self.pairs(self.embedding(ids).transpose(1, 2))  # (B, 512, L - 1)
        result: Tensor = self.output(self.norm(places.amax(-1)))
        return result
