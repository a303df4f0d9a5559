"""Memories of a dialog beside the GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW = 10
"""Turns that are remembered."""


class TurnTransformer(nn.Module):
    """A small causal Transformer over the turns of a dialog.

    After the multi-turn retriever of Yuan & Lam, "Conversational Fashion Image Retrieval via
    Multiturn Natural Language Feedback", SIGIR 2021, and of XiaoxiaoGuo/fashion-iq, which read
    the whole history again at each turn. Departures: one token per turn, what the composer made
    of it, in place of all words, attributes and images; the last ten turns.

    The history of a dialog is one vector, zeros at first, so that whoever carries a GRU's state
    from turn to turn can carry this.

    Args:
        turn_dim: size E of a turn.
        dim: size D of tokens and of what is recalled.
        layers: of the Transformer.
        heads: of its attention.
        window: W, the turns remembered.
    """

    def __init__(
        self, turn_dim: int, dim: int, layers: int = 2, heads: int = 4, window: int = WINDOW
    ):
        super().__init__()
        self.turn_dim = turn_dim
        self.window = window
        self.token = nn.Linear(turn_dim, dim)
        self.age = nn.Parameter(0.02 * torch.randn(window, dim))  # the last row is this turn's
        layer = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, turn: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """This turn (B, E) and the history (B, W (E + 1)) to what is recalled (B, D), and on."""
        batch = len(turn)
        if memory is None:
            memory = turn.new_zeros(batch, self.window * (self.turn_dim + 1))
        past = memory.unflatten(1, (self.window, self.turn_dim + 1))
        now = torch.cat([turn, turn.new_ones(batch, 1)], dim=1)  # 1: there was such a turn
        turns = torch.cat([past[:, 1:], now[:, None]], dim=1)  # (B, W, E + 1)
        absent = turns[:, :, -1] == 0  # (B, W)
        later = torch.ones(self.window, self.window, dtype=torch.bool, device=turn.device).triu(1)
        # A place before the first turn sees itself, so that no row of the softmax is empty.
        itself = torch.eye(self.window, dtype=torch.bool, device=turn.device)
        hidden = (later | absent[:, None]) & ~itself  # (B, W, W)
        heads = self.layers.layers[0].self_attn.num_heads
        tokens = self.token(turns[:, :, :-1]) + self.age
        recalled = self.layers(tokens, mask=hidden.repeat_interleave(heads, dim=0))[:, -1]
        return recalled, turns.flatten(1)
