"""A learned user: a relative captioner of the show-attend-and-tell kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.devices import CPU, put, settle, to_host
from retrieval.files import atomic_write
from retrieval.gallery import Gallery
from retrieval.text import PADDING, Vocabulary
from user_simulator.base import Draws
from user_simulator.decoding import MAX_WORDS, Decoder

WEIGHED = 256  # sentences weighed at once: their places stay in the cache


class ImageTables(NamedTuple):
    """What depends on one image alone, for all N images of a gallery."""

    place_target: Tensor  # (N, G, H): what a target contributes to the tokens of its places
    place_reference: Tensor  # (N, G, H): what a reference takes off them
    begin_target: Tensor  # (N, 2H): initial state, the target's part
    begin_reference: Tensor  # (N, 2H)


class _Look(nn.Module):
    """One look at the places: multi-head attention, then a small network, both residual."""

    def __init__(self, size: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
        self.ask = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.think = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def memory(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, G, H / heads) of the places (B, G, H)."""
        return self._split(self.key(places)), self._split(self.value(places))

    def forward(self, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """States (B, L, H) after the look."""
        asked = self._split(self.ask(self.norms[0](state)))
        seen = F.scaled_dot_product_attention(asked, keys, values)  # (B, heads, L, H / heads)
        state = state + seen.transpose(1, 2).flatten(2)
        result: Tensor = state + self.think(self.norms[1](state))
        return result

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class RelativeCaptioner(nn.Module):
    r"""Say how a target differs from a reference, attending to their grids.

    With :math:`x = [t, t - r]` for vectors and for each place g of the grids,

    .. math:: h_0, c_0 = \tanh(W x); \quad p_g = relu(U x_g + b) + u_g; \quad
              h_{l} = LSTM(word_{l-1}, h_{l-1}); \quad word_l = V\, look_2(look_1(h_l, p), p)

    Source: Guo et al., "Dialog-based Interactive Image Retrieval", NeurIPS 2018, sec. 4, whose
    captioner is that of Xu et al., "Show, Attend and Tell", ICML 2015. Departures: attention
    reads the places after the LSTM (as in Luong et al., EMNLP 2015), so that a training step
    is one batch and not a loop over words; it is multi-head and looks twice; a learned vector
    u per place, since captions speak of places; hidden size 128 by default (published 512). The
    linear maps of x are split into the target's and the reference's part, which are computed
    once per gallery.

    Args:
        vocabulary: the words it can say.
        vector_dim: size F of the images' vectors.
        grid_dim: size C of a place of the images' grids.
        places: number G of places.
        hidden_size: H of LSTM, tokens and attention; a multiple of 8.
        dropout: before the output layer.
    """

    grid_mean: Tensor
    grid_std: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        vector_dim: int,
        grid_dim: int,
        places: int,
        hidden_size: int = 128,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.sizes = {
            "vector_dim": vector_dim,
            "grid_dim": grid_dim,
            "places": places,
            "hidden_size": hidden_size,
        }
        self.word = nn.Embedding(len(vocabulary), hidden_size // 2)
        self.begin = nn.Linear(2 * vector_dim, 2 * hidden_size)
        self.register_buffer("grid_mean", torch.zeros(grid_dim))
        self.register_buffer("grid_std", torch.ones(grid_dim))
        self.compare = nn.Linear(2 * grid_dim, hidden_size)
        self.place = nn.Parameter(torch.randn(places, hidden_size))
        self.lstm = nn.LSTM(hidden_size // 2, hidden_size, batch_first=True)
        self.looks = nn.ModuleList([_Look(hidden_size), _Look(hidden_size)])
        self.speak = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, len(vocabulary)),
        )

    def standardize(self, grids: Tensor) -> None:
        """Take the channels' mean and spread from a train gallery's grids (N, G, C)."""
        self.grid_mean.copy_(grids.mean((0, 1)))
        self.grid_std.copy_(grids.std((0, 1)).clamp(min=1e-6))

    def tables(self, vectors: Tensor, grids: Tensor) -> ImageTables:
        """Split the linear maps of [t, t - r] by image: vectors (N, F), grids (N, G, C)."""
        grids = (grids - self.grid_mean) / self.grid_std
        first, second = self.compare.weight.chunk(2, dim=1)  # of t and of t - r
        start, change = self.begin.weight.chunk(2, dim=1)
        return ImageTables(
            place_target=grids @ (first + second).T + self.compare.bias,
            place_reference=grids @ second.T,
            begin_target=vectors @ (start + change).T + self.begin.bias,
            begin_reference=vectors @ change.T,
        )

    def begin_pairs(
        self, tables: ImageTables, reference: Tensor, target: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """For pairs (B,): tokens of the places (B, G, H), and the LSTM's state and cell (B, H)."""
        seen = F.relu(tables.place_target[target] - tables.place_reference[reference])
        state = torch.tanh(tables.begin_target[target] - tables.begin_reference[reference])
        hidden, cell = state.chunk(2, dim=-1)
        return seen + self.place, (hidden, cell)

    def start(
        self, tables: ImageTables, reference: Tensor, target: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
        """For pairs (B,): keys and values of each look, and the state (1, B, H) of the LSTM."""
        places, (hidden, cell) = self.begin_pairs(tables, reference, target)
        memory = [look.memory(places) for look in self.looks]  # type: ignore[operator]
        return memory, (hidden[None].contiguous(), cell[None].contiguous())

    def step(
        self,
        word: Tensor,
        memory: list[tuple[Tensor, Tensor]],
        state: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Scores (B, L, V) of the words after the words (B, L), and the LSTM's state."""
        hidden, state = self.lstm(self.word(word), state)
        for look, (keys, values) in zip(self.looks, memory, strict=True):
            hidden = look(hidden, keys, values)
        return self.speak(hidden), state

    def forward(
        self, tables: ImageTables, reference: Tensor, target: Tensor, said: Tensor
    ) -> Tensor:
        """Scores (B, L + 1, V) of each next word, given the words said (B, L)."""
        memory, state = self.start(tables, reference, target)
        begin = torch.full_like(target, PADDING)  # id 0 begins, as in the published captioner
        return self.step(torch.cat([begin[:, None], said], dim=1), memory, state)[0]

    def decode(
        self,
        tables: ImageTables,
        reference: Tensor,
        target: Tensor,
        draws: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Speak: word ids (B, 16), padded with 0 after the end.

        Args:
            tables: of the gallery.
            reference: images on show (B,).
            target: images meant (B,).
            draws: uniform numbers (B, 16) to sample with, or None for the likeliest words.
            temperature: of the sampling; below 1 it keeps to likelier words.
        """
        return Decoder(self).decode(tables, reference, target, draws, temperature)

    def save(self, path: Path, report: dict[str, float] | None = None) -> None:
        """Write weights, sizes, words and the quality report, atomically."""
        content = {
            "weights": self.state_dict(),
            "sizes": self.sizes,
            "words": list(self.vocabulary.words[3:]),
            "report": report or {},
        }
        with atomic_write(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path) -> RelativeCaptioner:
        """A captioner as it was saved.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a captioner's checkpoint.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no captioner at {path}; train one with `train_captioner`")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            model = cls(Vocabulary(content["words"]), **content["sizes"])
            model.load_state_dict(content["weights"])
        except Exception as error:
            raise ValueError(
                f"{path} is not a captioner that `train_captioner` saved ({type(error).__name__})"
            ) from error
        return model.eval()


class NeuralUser:
    """A user who says what the relative captioner says.

    Args:
        captioner: trained on features of the same encoder.
        gallery: what is shown; its vectors and grids are what the captioner sees.
        temperature: 0 for the likeliest words (the published user), else sampled.
        device: where the captioner is moved and speaks.

    Raises:
        ValueError: the gallery lacks grids, or they are of another size than the captioner's.
    """

    def __init__(
        self,
        captioner: RelativeCaptioner,
        gallery: Gallery,
        temperature: float = 0.0,
        device: torch.device = CPU,
    ):
        if gallery.grids is None:
            raise ValueError("the neural user needs spatial features; extract them with an encoder")
        found = (gallery.features.shape[1], gallery.grids.shape[2], gallery.grids.shape[1])
        sizes = captioner.sizes
        wanted = (sizes["vector_dim"], sizes["grid_dim"], sizes["places"])
        if found != wanted:
            raise ValueError(
                f"the captioner expects (vector, grid, places) of sizes {wanted}, got {found}; "
                "train it on features of the same encoder"
            )
        self.captioner = settle(captioner.eval(), device)
        self.temperature = temperature
        self.device = device
        self._decoder = Decoder(self.captioner)
        with torch.inference_mode():
            self._tables = self.captioner.tables(
                put(gallery.features, device), put(gallery.grids.astype(np.float32), device)
            )

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """B captions; equal pairs are decoded once when nothing is sampled."""
        if self.temperature > 0:
            ids = self._decode(reference, target, rng.random((len(target), MAX_WORDS)))
            return [self.captioner.vocabulary.decode(row) for row in ids.tolist()]
        pairs, back = np.unique(np.stack([reference, target]), axis=1, return_inverse=True)
        ids = self._decode(pairs[0], pairs[1])
        captions = [self.captioner.vocabulary.decode(row) for row in ids.tolist()]
        return [captions[row] for row in back.reshape(-1)]

    def log_likelihood(
        self, reference: np.ndarray, target: np.ndarray, captions: Sequence[str]
    ) -> np.ndarray:
        """See `UserModel`; by the captioner's own distribution, whatever the temperature.

        At temperature 0 these are the chances that the likeliest words were chosen by.
        """
        ids = self.captioner.vocabulary.encode(captions, MAX_WORDS)  # (B, 16)
        told = np.empty(len(ids), np.float32)
        order = np.argsort((ids != PADDING).sum(1), kind="stable")  # so that few places are padded
        for start in range(0, len(ids), WEIGHED):
            rows = order[start : start + WEIGHED]
            given = (put(one[rows], self.device) for one in (reference, target, ids))
            told[rows] = to_host(self._decoder.log_likelihood(self._tables, *given))
        return told

    def speak(self, reference: Tensor, target: Tensor, draws: Tensor | None = None) -> Tensor:
        """Word ids (B, 16) of images (B,), all on the user's device; see `Decoder.decode`."""
        return self._decoder.decode(
            self._tables, reference, target, draws, self.temperature or 1.0,
            leave=self.device == CPU,
        )  # fmt: skip

    def _decode(
        self, reference: np.ndarray, target: np.ndarray, draws: np.ndarray | None = None
    ) -> Tensor:
        images = put(np.stack([reference, target]).astype(np.int64), self.device)  # one copy
        drawn = None if draws is None else put(draws.astype(np.float64), self.device)
        return self.speak(images[0], images[1], drawn)
