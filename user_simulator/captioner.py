"""A learned user: a relative captioner of the show-attend-and-tell kind."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.files import atomic_write
from retrieval.gallery import Gallery
from retrieval.text import END, PADDING, Vocabulary
from user_simulator.base import Draws

MAX_WORDS = 16


class ImageTables(NamedTuple):
    """What depends on one image alone, for all N images of a gallery."""

    as_target: Tensor  # (N, G, A): attention keys of an image as the target
    as_reference: Tensor  # (N, G, A): what a reference takes off them
    places: Tensor  # (N, G, C): the grid
    begin_target: Tensor  # (N, 2H): initial state, the target's part
    begin_reference: Tensor  # (N, 2H)


class RelativeCaptioner(nn.Module):
    r"""Say how a target differs from a reference, attending to their grids.

    With :math:`x = [t, t - r]` for vectors and for each place of the grids,

    .. math:: h_0, c_0 = W x; \quad e_g = w \cdot \tanh(U x_g + p_g + V h); \quad
              h, c = LSTM([word, \sum_g softmax(e)_g x_g], h, c)

    Source: Guo et al., "Dialog-based Interactive Image Retrieval", NeurIPS 2018, sec. 4, with
    the attention model of Xu et al., "Show, Attend and Tell", ICML 2015. Departures: hidden
    size 256 by default (published 512), a learned vector p per place, since captions speak of
    places, and the linear maps of x are split into the target's and the reference's part, which
    are computed once per gallery.

    Args:
        vocabulary: the words it can say.
        vector_dim: size F of the images' vectors.
        grid_dim: size C of a place of the images' grids.
        places: number G of places.
        hidden_size: LSTM, word and attention size.
        dropout: before the output layer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        vector_dim: int,
        grid_dim: int,
        places: int,
        hidden_size: int = 256,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.sizes = {
            "vector_dim": vector_dim,
            "grid_dim": grid_dim,
            "places": places,
            "hidden_size": hidden_size,
        }
        self.word = nn.Embedding(len(vocabulary), hidden_size)
        self.begin = nn.Linear(2 * vector_dim, 2 * hidden_size)
        self.key = nn.Linear(2 * grid_dim, hidden_size, bias=False)
        self.place = nn.Parameter(torch.randn(places, hidden_size) * 0.1)
        self.ask = nn.Linear(hidden_size, hidden_size, bias=False)
        self.weigh = nn.Linear(hidden_size, 1, bias=False)
        self.cell = nn.LSTMCell(hidden_size + 2 * grid_dim + hidden_size, hidden_size, bias=False)
        self.drop = nn.Dropout(dropout)
        self.speak = nn.Linear(hidden_size, len(vocabulary))

    def tables(self, vectors: Tensor, grids: Tensor) -> ImageTables:
        """Split the linear maps of [t, t - r] by image: vectors (N, F), grids (N, G, C)."""
        first, second = self.key.weight.chunk(2, dim=1)  # of t and of t - r
        start, change = self.begin.weight.chunk(2, dim=1)
        return ImageTables(
            as_target=grids @ (first + second).T + self.place,
            as_reference=grids @ second.T,
            places=grids,
            begin_target=vectors @ (start + change).T + self.begin.bias,
            begin_reference=vectors @ change.T,
        )

    def start(self, tables: ImageTables, reference: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """For pairs (B,): keys (B, G, A), values (B, G, 2C), hidden and cell state (B, H)."""
        keys = tables.as_target[target] - tables.as_reference[reference]
        meant = tables.places[target]
        values = torch.cat([meant, meant - tables.places[reference]], dim=-1)
        state = torch.tanh(tables.begin_target[target] - tables.begin_reference[reference])
        hidden, cell = state.chunk(2, dim=-1)
        return keys, values, hidden, cell

    def step(
        self, word: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One word (B,) further: the new hidden and cell state (B, H)."""
        energy = self.weigh(torch.tanh(keys + self.ask(hidden).unsqueeze(1)))  # (B, G, 1)
        weight = energy.softmax(dim=1)
        attended = (weight * values).sum(1)  # (B, 2C)
        focus = weight.squeeze(-1) @ self.place  # (B, A): where it looks
        hidden, cell = self.cell(
            torch.cat([self.word(word), attended, focus], dim=-1), (hidden, cell)
        )
        return hidden, cell

    def forward(self, tables: ImageTables, reference: Tensor, target: Tensor, said: Tensor) -> Tensor:
        """Scores (B, L + 1, V) of each next word, given the words said (B, L)."""
        keys, values, hidden, cell = self.start(tables, reference, target)
        outputs = []
        word = torch.full_like(target, PADDING)  # id 0 begins, as in the published captioner
        for position in range(said.shape[1] + 1):
            hidden, cell = self.step(word, keys, values, hidden, cell)
            outputs.append(hidden)
            if position < said.shape[1]:
                word = said[:, position]
        return self.speak(self.drop(torch.stack(outputs, dim=1)))

    @torch.inference_mode()
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
        said = torch.zeros(len(target), MAX_WORDS, dtype=torch.long)
        keys, values, hidden, cell = self.start(tables, reference, target)
        word = torch.full_like(target, PADDING)
        alive = torch.arange(len(target))
        for position in range(MAX_WORDS):
            hidden, cell = self.step(word, keys, values, hidden, cell)
            scores = self.speak(hidden)
            scores[:, PADDING] = scores[:, 1] = -torch.inf  # neither padding nor <unk> is a word
            if draws is None:
                word = scores.argmax(-1)
            else:
                below = (scores / temperature).softmax(-1).cumsum(-1)
                at = draws[alive, position : position + 1].to(below) * below[:, -1:]
                word = (below <= at).sum(-1).clamp(max=scores.shape[1] - 1)
            said[alive, position] = torch.where(word == END, PADDING, word)
            going = word != END
            if not going.all():  # finished rows leave the batch
                alive, word, keys, values = alive[going], word[going], keys[going], values[going]
                hidden, cell = hidden[going], cell[going]
                if len(alive) == 0:
                    break
        return said

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

    Raises:
        ValueError: the gallery lacks grids, or they are of another size than the captioner's.
    """

    def __init__(self, captioner: RelativeCaptioner, gallery: Gallery, temperature: float = 0.0):
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
        self.captioner = captioner.eval()
        self.temperature = temperature
        with torch.inference_mode():
            self._tables = captioner.tables(
                torch.from_numpy(gallery.features), torch.from_numpy(gallery.grids.astype(np.float32))
            )

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """B captions; equal pairs are decoded once when nothing is sampled."""
        if self.temperature > 0:
            draws = torch.from_numpy(rng.random((len(target), MAX_WORDS)))
            ids = self._decode(reference, target, draws)
            return [self.captioner.vocabulary.decode(row) for row in ids.tolist()]
        pairs, back = np.unique(np.stack([reference, target]), axis=1, return_inverse=True)
        ids = self._decode(pairs[0], pairs[1], None)
        captions = [self.captioner.vocabulary.decode(row) for row in ids.tolist()]
        return [captions[row] for row in back.reshape(-1)]

    def _decode(self, reference: np.ndarray, target: np.ndarray, draws: Tensor | None) -> Tensor:
        return self.captioner.decode(
            self._tables,
            torch.from_numpy(np.asarray(reference, dtype=np.int64)),
            torch.from_numpy(np.asarray(target, dtype=np.int64)),
            draws,
            self.temperature or 1.0,
        )
