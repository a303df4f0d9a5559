"""Agents that learn: an encoder, a composition model and a memory of the dialog."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.memories import TurnTransformer
from envs.dialog import Observation
from retrieval.composers import COMPOSERS
from retrieval.devices import put, to_host
from retrieval.encoders.text import ConvolutionalTextEncoder, RecurrentTextEncoder
from retrieval.errors import unknown
from retrieval.index import ExactIndex, Ties
from retrieval.text import Vocabulary

MEMORIES = ("gru", "transformer", "none")


class DialogTracker(nn.Module):
    """What all learning agents share: `predict`, and embeddings of a gallery.

    Args:
        vocabulary: the words it can read, as the environment spells them.
        feature_dim: size F of the gallery's features.
        dim: size D of embeddings and queries.
    """

    scale: nn.Parameter  # log of the in-batch softmax's inverse temperature

    def __init__(self, vocabulary: Vocabulary, feature_dim: int, dim: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.feature_dim = feature_dim
        self.dim = dim

    def embed(self, features: Tensor) -> Tensor:
        """Images in the space that is searched: features (..., F) to embeddings (..., D)."""
        raise NotImplementedError

    def respond(
        self, reference: Tensor, caption: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One turn: embedded references (B, D), token ids (B, L) and memory to a query (B, D)."""
        raise NotImplementedError

    def asked(self, query: Tensor) -> Tensor:
        """Queries (B, D) as the index takes them."""
        return query

    def searched(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) as the index takes them."""
        return embeddings

    def here(self, values: np.ndarray) -> Tensor:
        """An array on the agent's device."""
        return put(values, self.scale.device)

    @torch.inference_mode()
    def index(self, features: np.ndarray, ties: Ties = "half") -> ExactIndex:
        """The index of a gallery's features (N, F) in this agent's space."""
        if features.shape[1] != self.feature_dim:
            raise ValueError(
                f"the agent expects features of size {self.feature_dim}, got {features.shape[1]}; "
                "use the encoder it was trained with"
            )
        embeddings = self.embed(self.here(np.asarray(features, dtype=np.float32)))
        return ExactIndex(to_host(self.searched(embeddings)), ties)

    @torch.inference_mode()
    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Queries (B, D) for `index`, and the memory; see `agents.base.Agent`."""
        was_training = self.training
        self.eval()
        if state is not None and episode_start is not None:
            state = state * self.here(~np.asarray(episode_start))[:, None]
        reference = self.embed(self.here(observation["reference"]))
        query, memory = self.respond(reference, self.here(observation["caption"]), state)
        self.train(was_training)
        return to_host(self.asked(query)), memory


class TrackerAgent(DialogTracker):
    r"""A composition model with a memory over the turns, a GRU by default.

    .. math:: x = compose(e(r), t), \; t = text(c); \quad h' = GRU([\sqrt{D} x, t], h); \quad
        q = norm(2 \sigma(G h') \odot x + W h')

    The memory hears the words beside what was made of them, so that it can tell what was said
    from what was taken over from the reference; its gate decides how much of this turn's
    composition the query keeps. A unit-norm x has numbers too small to move a GRU: hence the
    factor.

    With `memory="none"` the query is the composer's output itself: single-turn retrieval. A
    composer's auxiliary losses (ComposeAE's) are not trained here, so its decoders rest.

    Args:
        vocabulary, feature_dim, dim: see `DialogTracker`.
        composer: a name of `retrieval.composers.COMPOSERS` that reads vectors.
        memory: "gru", "transformer" (`agents.memories.TurnTransformer`, whose output stands for
            h') or "none".
        text: "lstm" or "gru", the recurrent cell over words.
        text_dim: size of words and of the cell's state.

    Raises:
        ValueError: an unknown composer or memory, or a composer that reads more than a vector.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        feature_dim: int,
        dim: int = 256,
        composer: str = "tirg",
        memory: str = "gru",
        text: str = "gru",
        text_dim: int = 128,
    ):
        super().__init__(vocabulary, feature_dim, dim)
        if composer not in COMPOSERS:
            raise unknown("composer", composer, COMPOSERS)
        if COMPOSERS[composer].form != "vector":
            readers = sorted(name for name in COMPOSERS if COMPOSERS[name].form == "vector")
            raise ValueError(
                f"composer {composer} reads the {COMPOSERS[composer].form} of an image encoder, "
                "and a dialog agent has one feature vector per image; use one that reads "
                f"vectors: {', '.join(readers)}"
            )
        if memory not in MEMORIES:
            raise unknown("memory", memory, MEMORIES)
        self.image = nn.Linear(feature_dim, dim)
        self.text = RecurrentTextEncoder(len(vocabulary), dim, text, text_dim)
        self.composer = COMPOSERS[composer](dim)
        heard = dim if self.composer.hears else 0
        self.memory: nn.GRUCell | TurnTransformer | None = None
        if memory == "gru":
            self.memory = nn.GRUCell(dim + heard, dim)
        elif memory == "transformer":
            self.memory = TurnTransformer(dim + heard, dim)
        self.recall = None if memory == "none" else nn.Linear(dim, 2 * dim)  # gate and content
        self.scale = nn.Parameter(torch.tensor(2.7))  # of the in-batch softmax: exp(2.7) = 15

    def embed(self, features: Tensor) -> Tensor:
        """Unit-norm embeddings (..., D) of features (..., F)."""
        return F.normalize(self.image(features), dim=-1)

    def respond(
        self, reference: Tensor, caption: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One turn; see the class."""
        words = self.text(caption)  # (B, D)
        composed: Tensor = self.composer(reference, words)  # (B, D), unit norm
        if self.memory is None or self.recall is None:
            return composed, None
        turn = composed * self.dim**0.5
        if self.composer.hears:
            turn = torch.cat([turn, words], dim=-1)  # (B, 2D)
        if isinstance(self.memory, TurnTransformer):
            recalled, memory = self.memory(turn, memory)
        else:
            recalled = memory = self.memory(turn, memory)
        gate, content = self.recall(recalled).chunk(2, dim=-1)
        return F.normalize(2 * torch.sigmoid(gate) * composed + content, dim=-1), memory


class PublishedTracker(DialogTracker):
    """The state tracker of the 2018 system, layer by layer.

    Guo et al., "Dialog-based Interactive Image Retrieval", NeurIPS 2018, as released: image
    Linear, word CNN, sum, Linear, GRU cell without biases, Linear; squared Euclidean distance,
    nothing normalised. The index ranks by inner product, so queries gain a 1 and embeddings
    become (2e, -|e|^2): the order is that of the distance.
    """

    def __init__(self, vocabulary: Vocabulary, feature_dim: int, dim: int = 256):
        super().__init__(vocabulary, feature_dim, dim)
        self.image = nn.Linear(feature_dim, dim)
        self.text = ConvolutionalTextEncoder(len(vocabulary), dim)
        self.fuse = nn.Linear(dim, dim, bias=False)
        self.memory = nn.GRUCell(dim, dim, bias=False)
        self.head = nn.Linear(dim, dim, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.0))

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings (..., D), of any norm."""
        result: Tensor = self.image(features)
        return result

    def respond(
        self, reference: Tensor, caption: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One turn: h' = GRU(W(e(r) + text(c)), h), query = W' h'."""
        memory = self.memory(self.fuse(reference + self.text(caption)), memory)
        query: Tensor = self.head(memory)
        return query, memory

    def asked(self, query: Tensor) -> Tensor:
        """(B, D + 1): the query and a 1."""
        return torch.cat([query, torch.ones_like(query[:, :1])], dim=-1)

    def searched(self, embeddings: Tensor) -> Tensor:
        """(N, D + 1): twice the embedding and minus its squared norm."""
        return torch.cat([2 * embeddings, -embeddings.square().sum(-1, keepdim=True)], dim=-1)


AGENTS: dict[str, type[DialogTracker]] = {"tracker": TrackerAgent, "published": PublishedTracker}
