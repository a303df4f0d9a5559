"""Single-turn retrieval models: an image encoder, a text encoder and a composer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.composers import COMPOSERS, Composer, LevelFusion
from retrieval.encoders.bert import (
    BertTextEncoder,
    MiniLMTextEncoder,
    Tokenizer,
    load_bert,
    load_minilm,
    random_bert,
)
from retrieval.encoders.text import (
    ConvolutionalTextEncoder,
    RecurrentTextEncoder,
    TransformerTextEncoder,
    padding_of,
)
from retrieval.encoders.towers import FeatureTower, make_tower
from retrieval.errors import unknown
from retrieval.losses import Metric
from retrieval.text import PADDING, Vocabulary

INITIAL_SCALE = 4.0
BACKBONE_FACTOR = 0.1  # of the learning rate: pretrained layers, as in google/tirg
FORMER_FACTOR = 0.2  # encoders 1e-5, the rest 5e-5, as ComqueryFormer
FEATURES, NONE = "features", "none"
TEXT_ENCODERS = ("lstm", "gru", "cnn", "transformer", "bert", "minilm")
PUBLISHED_NAMES = {
    "imgonly": "image_only",
    "textonly": "text_only",
    "tirg_lastconv": "tirg_last_conv",
    "composeAE": "compose_ae",
    "realspaceconcatAE": "real_space_concat_ae",
    "comqueryformer": "comquery_former",
}
"""What the originals' command lines call composers, and what the registry does."""


@dataclass(frozen=True)
class ModelSpec:
    """All that a model is built from, in plain values.

    Args:
        model: a composer's name, ours or one of `PUBLISHED_NAMES`.
        embed_dim: size D of embeddings.
        image_encoder: a name of `retrieval.encoders.towers.TOWERS`, or "features".
        weights: of the image encoder: "none", torchvision's name of them, or a path.
        feature_dim: size F of features, where the image encoder is "features".
        text_encoder: a name of `TEXT_ENCODERS`.
        text_weights: of BERT: "none" (random; reads `words`), a folder, or a name of the hub.
        text_dim: size of encoded captions; 0 is D, or 768 for a random BERT.
        text_layers: of a Transformer or a random BERT; 0 is 3 or 12.
        words: of the vocabulary, without the three special ones, in the order of their ids.
        max_words: captions are cut at this many words or word pieces.
        width, layers, heads, regions, dropout: of ComqueryFormer on levels; on features its
            fusion is as wide as D and has no regions.
    """

    model: str = "tirg"
    embed_dim: int = 512
    image_encoder: str = "resnet18"
    weights: str = NONE
    feature_dim: int = 0
    text_encoder: str = "lstm"
    text_weights: str = NONE
    text_dim: int = 0
    text_layers: int = 0
    words: tuple[str, ...] = ()
    max_words: int = 64
    width: int = 768
    layers: int = 4
    heads: int = 8
    regions: int = 8
    dropout: float = 0.1

    @property
    def composer(self) -> str:
        """The composer's name in `COMPOSERS`.

        Raises:
            ValueError: there is none of this name.
        """
        name = PUBLISHED_NAMES.get(self.model, self.model)
        if name not in COMPOSERS:
            raise unknown("model", self.model, [*COMPOSERS, *PUBLISHED_NAMES])
        return name

    @property
    def reads_levels(self) -> bool:
        """Whether this is ComqueryFormer on the levels of its encoders."""
        return self.composer == "comquery_former" and self.image_encoder != FEATURES


class WordTokenizer:
    """Captions to ids of our own vocabulary (B, L).

    Args:
        vocabulary: the words.
        length: captions are cut at this many words.
        is_fixed: L is always `length`, for encoders to which padding is not nothing; else that
            of the longest caption.
    """

    def __init__(self, vocabulary: Vocabulary, length: int, is_fixed: bool = False):
        self.vocabulary = vocabulary
        self.length = length
        self.is_fixed = is_fixed

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids (B, L) of captions."""
        ids = torch.from_numpy(self.vocabulary.encode(captions, self.length))
        if self.is_fixed:
            return ids
        return ids[:, : max(1, int((ids != PADDING).sum(1).max()))]


class RetrievalModel(nn.Module):
    """One query from an image and a caption, in the space of plain images.

    The similarity of a query and an image is the dot product of `compose` and `embed`. Losses
    see features at a learned length s, initially 4. Vo et al., CVPR 2019, sec. 3; for the
    parts see their classes.

    Args:
        spec: what the parts were built from.
        tokenizer: captions to token ids.
        image_encoder: images to embeddings, and to maps for composers that read these.
        text_encoder: token ids to encoded captions; None for a composer that does not listen.
        composer: the fusion.
    """

    image_encoder: Any
    text_encoder: Any
    composer: Any

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        image_encoder: nn.Module,
        text_encoder: nn.Module | None,
        composer: nn.Module,
    ):
        super().__init__()
        self.spec = spec
        self.tokenizer = tokenizer
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE))
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.composer = composer

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """Token ids (B, L) of captions, 0 at padding."""
        return self.tokenizer(captions).to(self.scale.device)

    def embed(self, images: Tensor) -> Tensor:
        """Unit-norm embeddings (B, D) of images: (B, 3, H, W) in [0, 1], or features (B, F)."""
        return F.normalize(self.image_encoder(images), dim=-1)

    def compose(self, images: Tensor, ids: Tensor, which: Tensor | None = None) -> Tensor:
        """Unit-norm queries (B, D) of reference images and token ids (B, L).

        `which` (B,) is for queries that share references, as in `losses`.
        """
        reference = self._read(images)
        reference = reference if which is None else reference[which]
        return F.normalize(self._query(reference, self._heard(ids)), dim=-1)

    def scaled(self, features: Tensor) -> Tensor:
        """Features (B, D) at the learned length s."""
        return self.scale * F.normalize(features, dim=-1)

    def losses(
        self,
        images: Tensor,
        ids: Tensor,
        targets: Tensor,
        metric: Metric,
        which: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, to be summed.

        Args:
            images: of the references.
            ids: token ids (B, L).
            targets: images of the targets.
            metric: the loss of scaled queries against scaled targets.
            which: for each query the row of its reference in `images` (B,), where queries share
                references, each of which is then read once; None for one each.
        """
        reference, caption = self._read(images), self._heard(ids)
        reference = reference if which is None else reference[which]
        query, target = self._query(reference, caption), self.image_encoder(targets)

        def scaled_metric(one: Tensor, other: Tensor) -> Tensor:
            return metric(self.scaled(one), self.scaled(other))

        more = self.composer.auxiliary_losses(reference, caption, target, query, scaled_metric)
        return {"metric": scaled_metric(query, target), **more}

    def parameter_groups(
        self, learning_rate: float, backbone_factor: float = BACKBONE_FACTOR
    ) -> list[dict[str, Any]]:
        """The published groups of an optimiser: the image encoder below its Linear, the rest.

        Args:
            learning_rate: of the rest.
            backbone_factor: the image encoder's rate over it; 1 for one group (css3d).
        """
        backbone = [
            parameter
            for name, parameter in self.image_encoder.named_parameters()
            if not name.startswith("output.")
        ]
        return self._groups(backbone, learning_rate * backbone_factor, learning_rate)

    def _read(self, images: Tensor) -> Tensor:
        """What the composer reads of images: embeddings (B, D) or maps (B, C, h, w)."""
        is_map = self.composer.form == "map"
        read: Tensor = self.image_encoder.map(images) if is_map else self.image_encoder(images)
        return read

    def _heard(self, ids: Tensor) -> Tensor:
        """Encoded captions (B, text_dim)."""
        if self.text_encoder is None:
            return self.scale.new_zeros(len(ids), 0)
        heard: Tensor = self.text_encoder(ids)
        return heard

    def _query(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Raw queries (B, D)."""
        query: Tensor = self.composer.compose(reference, caption)
        return self.image_encoder.head(query) if self.composer.form == "map" else query

    def _groups(
        self, backbone: Iterable[nn.Parameter], backbone_rate: float, rate: float
    ) -> list[dict[str, Any]]:
        """Two groups of all parameters that learn; an empty one is left out."""
        slow = {id(parameter) for parameter in backbone}
        groups = [
            {
                "name": name,
                "lr": group_rate,
                "params": [
                    parameter
                    for parameter in self.parameters()
                    if parameter.requires_grad and (id(parameter) in slow) == is_slow
                ],
            }
            for name, group_rate, is_slow in (
                ("rest", rate, False),
                ("backbone", backbone_rate, True),
            )
        ]
        return [group for group in groups if group["params"]]


class LevelModel(RetrievalModel):
    """ComqueryFormer: six features a side, global and local of three levels.

    Embeddings and queries are the six scaled features one after the other, so that their dot
    product is the sum of six: 3 (W + R W) numbers, of any norm. Xu et al., IEEE TMM 2023; see
    `LevelFusion`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        composer: LevelFusion,
    ):
        super().__init__(spec, tokenizer, image_encoder, text_encoder, composer)
        for encoder in (self.image_encoder, self.text_encoder):  # levels lie below these Linears
            if hasattr(encoder, "output"):
                encoder.output = nn.Identity()

    def embed(self, images: Tensor) -> Tensor:
        """The scaled features of images as targets (B, D'), one after the other."""
        return torch.cat(self._targets(images), dim=-1)

    def compose(self, images: Tensor, ids: Tensor, which: Tensor | None = None) -> Tensor:
        """The scaled features of queries (B, D'), one after the other; see `RetrievalModel`."""
        images = images if which is None else images[which]
        return torch.cat(self._queries(images, ids), dim=-1)

    def losses(
        self,
        images: Tensor,
        ids: Tensor,
        targets: Tensor,
        metric: Metric,
        which: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The metric loss summed over the six pairs of features; see `RetrievalModel`."""
        images = images if which is None else images[which]
        pairs = zip(self._queries(images, ids), self._targets(targets), strict=True)
        return {"metric": torch.stack([metric(query, target) for query, target in pairs]).sum()}

    def parameter_groups(
        self, learning_rate: float, backbone_factor: float = FORMER_FACTOR
    ) -> list[dict[str, Any]]:
        """The published groups of an optimiser: both encoders, the rest.

        Args:
            learning_rate: of the encoders, as the original's flag.
            backbone_factor: that rate over the rest's.
        """
        encoders = [*self.image_encoder.parameters(), *self.text_encoder.parameters()]
        return self._groups(encoders, learning_rate, learning_rate / backbone_factor)

    def _queries(self, images: Tensor, ids: Tensor) -> list[Tensor]:
        """The six scaled features of queries."""
        features: list[Tensor] = self.composer.query_features(
            self.image_encoder.levels(images),
            self.text_encoder.levels(ids),
            padding_of(ids),
            self.scale,
        )
        return features

    def _targets(self, images: Tensor) -> list[Tensor]:
        """The six scaled features of images as targets."""
        features: list[Tensor] = self.composer.target_features(
            self.image_encoder.levels(images), self.scale
        )
        return features


def build_model(spec: ModelSpec, pretrained: bool = True) -> RetrievalModel:
    """A model by its specification.

    Args:
        spec: what to build.
        pretrained: False leaves out weights that a checkpoint will fill (a pretrained BERT's
            configuration and tokenizer are still read from `spec.text_weights`).

    Raises:
        FileNotFoundError, ImportError: weights or an optional package are missing.
        ValueError: an unknown name, or parts that do not go together.
    """
    name = spec.composer
    image_encoder = _image_encoder(spec, pretrained)
    if name == "image_only":
        words = WordTokenizer(Vocabulary(spec.words), spec.max_words)
        return RetrievalModel(spec, words, image_encoder, None, COMPOSERS[name](spec.embed_dim))

    text_encoder, text_dim, tokenizer = _text_encoder(spec, pretrained)
    if spec.reads_levels:
        return LevelModel(
            spec, tokenizer, image_encoder, text_encoder, _fusion(spec, image_encoder, text_encoder)
        )
    is_map = COMPOSERS[name].form == "map"
    dim = image_encoder.channels if is_map else spec.embed_dim
    composer: Composer = COMPOSERS[name](dim, text_dim)
    return RetrievalModel(spec, tokenizer, image_encoder, text_encoder, composer)


def _image_encoder(spec: ModelSpec, pretrained: bool) -> Any:
    """The image encoder, which must give what the composer reads."""
    if spec.image_encoder != FEATURES:
        return make_tower(spec.image_encoder, spec.embed_dim, spec.weights if pretrained else NONE)
    if COMPOSERS[spec.composer].form == "map":
        raise ValueError(
            f"{spec.model} reads an image encoder's last map, and features have none; "
            "use tirg, or an encoder on pixels"
        )
    if spec.feature_dim < 1:
        raise ValueError(
            f"a model on features needs their size as feature_dim, got {spec.feature_dim}"
        )
    return FeatureTower(spec.feature_dim, spec.embed_dim)


def _text_encoder(spec: ModelSpec, pretrained: bool) -> tuple[Any, int, Tokenizer]:
    """The text encoder, the size of its captions and its tokenizer."""
    name, dim = spec.text_encoder, spec.text_dim or spec.embed_dim
    if name not in TEXT_ENCODERS:
        raise unknown("text encoder", name, TEXT_ENCODERS)
    if name == "minilm":
        net, pieces = load_minilm(spec.max_words)
        return MiniLMTextEncoder(net, dim), dim, pieces
    reads = "levels" if spec.reads_levels else "vector"
    if name == "bert" and spec.text_weights != NONE:
        net, pieces = load_bert(spec.text_weights, spec.max_words, pretrained)
        # Only ComqueryFormer fine-tunes it; ComposeAE and GA have it frozen.
        bert = BertTextEncoder(net, reads, frozen=not spec.reads_levels)
        return bert, bert.size, pieces

    if not spec.words:
        raise ValueError(f"text encoder {name} needs the vocabulary's words, got none")
    vocabulary = Vocabulary(spec.words)
    count = len(vocabulary)
    tokenizer = WordTokenizer(vocabulary, spec.max_words, is_fixed=name == "cnn")
    if name == "bert":
        bert = BertTextEncoder(
            random_bert(count, spec.text_dim or 768, spec.text_layers or 12), reads
        )
        return bert, bert.size, tokenizer
    if name == "transformer":
        layers = spec.text_layers or 3
        return TransformerTextEncoder(count, dim, layers, length=spec.max_words), dim, tokenizer
    if name == "cnn":
        return ConvolutionalTextEncoder(count, dim), dim, tokenizer
    return RecurrentTextEncoder(count, dim, name), dim, tokenizer


def _fusion(spec: ModelSpec, image_encoder: Any, text_encoder: Any) -> LevelFusion:
    """ComqueryFormer's fusion of the levels of two encoders."""
    levels = len(image_encoder.level_channels)
    if levels == 0:
        raise ValueError(
            f"comquery_former reads three levels of the image encoder, and {spec.image_encoder} "
            "gives none; use swin_t, a ResNet or small-cnn"
        )
    if not hasattr(text_encoder, "levels"):
        raise ValueError(
            f"comquery_former reads the states of three text layers, and {spec.text_encoder} "
            "gives none; use bert or transformer"
        )
    return LevelFusion(
        image_encoder.level_channels,
        [text_encoder.size] * levels,
        spec.width,
        spec.layers,
        spec.heads,
        spec.regions,
        spec.dropout,
    )
