"""Speaking with the relative captioner, and telling how likely words are, quickly: what does not
change is worked out once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.text import END, PADDING, UNKNOWN

if TYPE_CHECKING:
    from user_simulator.captioner import ImageTables, RelativeCaptioner

MAX_WORDS = 16
LEAVE = 8
"""Rows leave once one in so many has finished: moving the others costs a sixth of a word."""


class _Looking:
    r"""One look at the places, with the projections of keys and values moved off the places.

    A head's scores :math:`(Q s)^T (K p_g)` are :math:`(K^T Q s)^T p_g`, and its sum of values
    :math:`\sum_g a_g V p_g` is :math:`V \sum_g a_g p_g`: so nothing is projected place by place,
    and both looks read one table of places. What a key's bias adds is the same for all places of
    a head and changes no attention.
    """

    def __init__(self, look: Any):
        size = look.ask.out_features
        split = (look.heads, size // look.heads)
        ask, key = look.ask.weight.unflatten(0, split), look.key.weight.unflatten(0, split)
        bias = look.ask.bias.unflatten(0, split)
        scale = split[1] ** -0.5
        self.heads = look.heads
        self.norms, self.think = look.norms, look.think
        self.ask = scale * torch.einsum("hds,hdp->hps", ask, key).flatten(0, 1)  # (heads H, H)
        self.ask_bias = scale * torch.einsum("hd,hdp->hp", bias, key).flatten()
        self.value = look.value.weight.unflatten(0, split).transpose(1, 2).contiguous()
        self.value_bias = look.value.bias

    def __call__(self, state: Tensor, places: Tensor) -> Tensor:
        """States (B L, H), at L words of each sentence, after the look at places (B, G, H)."""
        asked = F.linear(self.norms[0](state), self.ask, self.ask_bias)  # (B L, heads H)
        asked = asked.view(len(places), -1, places.shape[2])  # (B, L heads, H)
        weights = torch.bmm(asked, places.transpose(1, 2)).softmax(-1)  # (B, L heads, G)
        seen = torch.bmm(weights, places).view(len(state), self.heads, -1).transpose(0, 1)
        values = torch.bmm(seen, self.value).transpose(0, 1)  # (B L, heads, H / heads)
        state = state + values.flatten(1) + self.value_bias
        result: Tensor = state + self.think(self.norms[1](state))
        return result


class Decoder:
    """Says what a captioner says, word by word, for B pairs at once, or how likely words are.

    The scores of words are those of `RelativeCaptioner.forward` within rounding. What the words
    put into the LSTM is a table; keys and values are never projected (`_Looking`); finished rows
    leave the batch, and with them their places and states.

    Args:
        captioner: in eval mode; weights that change afterwards are not noticed.
    """

    @torch.inference_mode()
    def __init__(self, captioner: RelativeCaptioner):
        lstm: Any = captioner.lstm
        self.captioner = captioner
        self.words = (
            captioner.word.weight @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0
        )  # (V, 4H)
        self.recur = lstm.weight_hh_l0.T  # (H, 4H)
        self.looks = [_Looking(look) for look in captioner.looks]

    @torch.inference_mode()
    def decode(
        self,
        tables: ImageTables,
        reference: Tensor,
        target: Tensor,
        draws: Tensor | None = None,
        temperature: float = 1.0,
        leave: bool = True,
    ) -> Tensor:
        """Word ids (B, 16), padded with 0 after the end; see `RelativeCaptioner.decode`.

        `leave=False` keeps finished rows to the last word: then nothing is asked of the device in
        between, which on a GPU costs more than the rows.
        """
        said = torch.zeros(len(target), MAX_WORDS, dtype=torch.long, device=target.device)
        places, (hidden, cell) = self.captioner.begin_pairs(tables, reference, target)
        word = torch.full_like(target, PADDING)
        alive = torch.arange(len(target), device=target.device)  # rows still in the batch,
        done = torch.zeros_like(target, dtype=torch.bool)  # and which of them have finished
        for position in range(MAX_WORDS):
            hidden, cell = self._remember(word, hidden, cell)
            scores = self._scores(hidden, places)  # (B, V)
            if draws is None:
                word = scores.argmax(-1)
            else:
                word = _drawn(scores / temperature, draws[alive, position : position + 1])
            done |= word == END
            said[alive, position] = word.masked_fill(done, PADDING)
            if not leave:
                continue
            finished = int(done.sum())
            if finished == len(done):
                break
            if LEAVE * finished >= len(done):
                going = (~done).nonzero()[:, 0]
                alive, word, places = alive[going], word[going], places[going]
                hidden, cell, done = hidden[going], cell[going], done[going]
        return said

    @torch.inference_mode()
    def log_likelihood(
        self, tables: ImageTables, reference: Tensor, target: Tensor, said: Tensor
    ) -> Tensor:
        """How likely the captioner is to say given words: ln of their probability (B,).

        Sentences that fill all places are cut there, as those that are spoken are; the others
        count their end. A word that cannot be said (id 1) counts nothing itself.

        Args:
            tables: of the gallery.
            reference: images on show (B,).
            target: images meant (B,).
            said: word ids (B, 16), padded with 0.
        """
        length = (said != PADDING).sum(1)  # (B,)
        longest = min(int(length.max()) + 1, MAX_WORDS) if len(said) else 0
        ended = F.pad(said, (0, 1)).scatter(1, length[:, None], END)[:, :longest]  # (B, L)
        places, (hidden, cell) = self.captioner.begin_pairs(tables, reference, target)
        word = torch.full_like(target, PADDING)
        states = []
        for position in range(longest):
            hidden, cell = self._remember(word, hidden, cell)
            states.append(hidden)
            word = said[:, position]
        if not states:
            return said.new_zeros(len(said), dtype=hidden.dtype)
        every = torch.stack(states, dim=1).flatten(0, 1)  # (B L, H)
        scores = self._scores(every, places).unflatten(0, (len(said), -1))  # (B, L, V)
        own = scores.gather(2, ended[:, :, None])[:, :, 0] - scores.logsumexp(2)  # (B, L)
        counts = (ended != PADDING) & (ended != UNKNOWN)
        return own.masked_fill(~counts, 0).sum(1)

    def _remember(self, word: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The LSTM's state (B, H) and cell (B, H) after words (B,)."""
        gates = torch.addmm(self.words[word], hidden, self.recur)  # (B, 4H)
        write, keep, new, tell = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
        return torch.sigmoid(tell) * torch.tanh(cell), cell

    def _scores(self, state: Tensor, places: Tensor) -> Tensor:
        """Scores (B L, V) of the words after states (B L, H); what cannot be said has none."""
        for look in self.looks:
            state = look(state, places)
        scores: Tensor = self.captioner.speak(state)
        scores[:, PADDING] = scores[:, UNKNOWN] = -torch.inf
        return scores


def _drawn(scores: Tensor, draw: Tensor) -> Tensor:
    """Words (B,) drawn by the softmax of scores (B, V), by uniform numbers (B, 1)."""
    below = scores.softmax(-1).cumsum(-1)
    at = draw.to(below) * below[:, -1:]
    return (below <= at).sum(-1).clamp(max=scores.shape[1] - 1)
