"""The relative captioner decoded the straightforward way, for comparison.

The same network and weights as `user_simulator.captioner.RelativeCaptioner`, in the manner of the
published show-attend-and-tell decoders: features of a pair are put side by side and go through
whole layers, attention projects every place again at every word, all rows speak to the last word,
and each candidate of a look-ahead is a call of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.text import END, PADDING, UNKNOWN
from user_simulator.captioner import RelativeCaptioner
from user_simulator.decoding import MAX_WORDS


@torch.no_grad()
def decode_plainly(
    captioner: RelativeCaptioner,
    vectors: Tensor,
    grids: Tensor,
    reference: Tensor,
    target: Tensor,
    keep_projections: bool = False,
) -> Tensor:
    """The likeliest words (B, 16) of pairs (B,), padded with 0 after the end.

    Args:
        captioner: in eval mode.
        vectors: of the gallery (N, F).
        grids: of the gallery (N, G, C).
        reference: images on show (B,).
        target: images meant (B,).
        keep_projections: project the places once per call, not at every word.
    """
    before, after = (
        (grids[images] - captioner.grid_mean) / captioner.grid_std for images in (reference, target)
    )
    pair = torch.cat([after, after - before], dim=-1)  # (B, G, 2C)
    places = F.relu(captioner.compare(pair)) + captioner.place  # (B, G, H)
    pair = torch.cat([vectors[target], vectors[target] - vectors[reference]], dim=-1)  # (B, 2F)
    hidden, cell = torch.tanh(captioner.begin(pair)).chunk(2, dim=-1)
    state = hidden[None].contiguous(), cell[None].contiguous()
    memory = [look.memory(places) for look in captioner.looks]  # type: ignore[operator]
    word = torch.full_like(target, PADDING)
    said = []
    for _ in range(MAX_WORDS):
        if not keep_projections:
            memory = [look.memory(places) for look in captioner.looks]  # type: ignore[operator]
        scores, state = captioner.step(word[:, None], memory, state)
        scores[..., PADDING] = scores[..., UNKNOWN] = -torch.inf
        word = scores[:, 0].argmax(-1)
        said.append(word)
    words = torch.stack(said, dim=1)  # (B, 16)
    ended = (words == END).cumsum(1) > 0
    return words.masked_fill(ended, PADDING)


def decode_ahead_plainly(
    captioner: RelativeCaptioner,
    vectors: Tensor,
    grids: Tensor,
    candidates: Tensor,
    target: Tensor,
    keep_projections: bool = False,
) -> Tensor:
    """Words (B, K, 16) about candidates (B, K) and targets (B,), candidate by candidate."""
    return torch.stack(
        [
            decode_plainly(captioner, vectors, grids, candidate, target, keep_projections)
            for candidate in candidates.T
        ],
        dim=1,
    )
