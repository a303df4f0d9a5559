"""Captions to vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        result: Tensor = self.output(self.norm(self._filtered(ids).amax(1)))
        return result

    def _filtered(self, ids: Tensor) -> Tensor:
        """The filters at every pair of words (B, L - 1, 512).

        A filter of a pair adds what it makes of either word, so each word of the vocabulary passes
        it once, wherever it stands; where a batch has fewer words than that, these do.
        """
        first, second = self.pairs.weight.unbind(-1)  # (512, 512) each
        if self.embedding.num_embeddings <= ids.numel():
            words = self.embedding.weight
            before = F.embedding(ids[:, :-1], F.linear(words, first))
            after = F.embedding(ids[:, 1:], F.linear(words, second, self.pairs.bias))
        else:
            words = self.embedding(ids)  # (B, L, 512)
            before = F.linear(words[:, :-1], first)
            after = F.linear(words[:, 1:], second, self.pairs.bias)
        return before + after


def padding_of(ids: Tensor) -> Tensor:
    """True at the padding of token ids (B, L); an empty caption keeps its first place."""
    padding = ids == PADDING
    padding[:, 0] = False
    return padding


def mean_over_words(states: Tensor, padding: Tensor) -> Tensor:
    """Means (B, D) of states (B, L, D) wherever `padding` (B, L) is False."""
    kept = (~padding).unsqueeze(-1).to(states.dtype)  # (B, L, 1)
    return (states * kept).sum(1) / kept.sum(1)


class TransformerTextEncoder(nn.Module):
    """A small Transformer over words: their mean after the last layer, a Linear.

    Vaswani et al., "Attention Is All You Need", NIPS 2017, encoder side. Departures: norms come
    first, places have learned vectors, GELU. Padding never counts.

    Args:
        words: size V of the vocabulary.
        dim: size D of the output.
        layers: number of layers, 3 or more where all three levels are read.
        size: of words and states; D when absent.
        heads: of attention, at most; the largest number that divides the size.
        length: the longest caption in words.
    """

    def __init__(
        self,
        words: int,
        dim: int,
        layers: int = 3,
        size: int | None = None,
        heads: int = 8,
        length: int = 512,
    ):
        super().__init__()
        self.size = size or dim
        heads = max(number for number in range(1, heads + 1) if self.size % number == 0)
        self.embedding = nn.Embedding(words, self.size)
        self.places = nn.Parameter(0.02 * torch.randn(length, self.size))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.size,
                heads,
                4 * self.size,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.output = nn.Sequential(nn.LayerNorm(self.size), nn.Linear(self.size, dim))

    def levels(self, ids: Tensor) -> list[Tensor]:
        """States (B, L, size) after each of the last three layers, of token ids (B, L)."""
        padding = padding_of(ids)
        states = self.embedding(ids) + self.places[: ids.shape[1]]  # (B, L, size)
        after = []
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
            after.append(states)
        return after[-3:]

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, D) of token ids (B, L)."""
        last = self.levels(ids)[-1]
        result: Tensor = self.output(mean_over_words(last, padding_of(ids)))
        return result
