"""Two streams of tokens that attend to themselves and to each other."""

from __future__ import annotations

from torch import Tensor, nn

EPSILON = 1e-12  # of the layer norms, as in BERT


class CrossModalLayer(nn.Module):
    """One layer of one stream: self-attention, attention to the other stream, feed-forward.

    Each part is followed by dropout, the residual and a layer norm (post-norm, as in BERT).

    Args:
        width: size W of tokens.
        heads: number of attention heads.
        dropout: share of what is dropped.
        mlp_ratio: size of the hidden layer over W.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.1, mlp_ratio: int = 4):
        super().__init__()
        self.attend_self = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.attend_other = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPSILON) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, own: Tensor, other: Tensor, own_padding: Tensor | None, other_padding: Tensor | None
    ) -> Tensor:
        """Tokens (B, L, W) after the layer.

        Args:
            own: this stream (B, L, W).
            other: the other stream (B, M, W), before its layer.
            own_padding, other_padding: True at padding (B, L), (B, M), or None.
        """
        own = self._attend(0, self.attend_self, own, own, own_padding)
        own = self._attend(1, self.attend_other, own, other, other_padding)
        result: Tensor = self.norms[2](own + self.dropout(self.feed_forward(own)))
        return result

    def _attend(
        self,
        number: int,
        attention: nn.MultiheadAttention,
        own: Tensor,
        read: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        """Tokens (B, L, W) after they attended to what they read."""
        # With weights asked for, attention can be differentiated twice, which explicit
        # gradient augmentation needs; the fused kernel cannot.
        heard, _ = attention(own, read, read, padding, need_weights=True)
        result: Tensor = self.norms[number](own + self.dropout(heard))
        return result


class CrossModalBlock(nn.Module):
    """Layers of a text and an image stream; both read each other as it was before the layer.

    The image stream is what comes out. The last layer of the text stream of the published
    block reaches no output, so it is not built here (its parameters never learn there).

    Args:
        width, heads, dropout, mlp_ratio: see `CrossModalLayer`.
        layers: of the image stream.
    """

    def __init__(
        self, width: int, heads: int, layers: int = 4, dropout: float = 0.1, mlp_ratio: int = 4
    ):
        super().__init__()

        def stream(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                CrossModalLayer(width, heads, dropout, mlp_ratio) for _ in range(count)
            )

        self.image_layers, self.text_layers = stream(layers), stream(layers - 1)

    def forward(self, image: Tensor, text: Tensor, text_padding: Tensor | None = None) -> Tensor:
        """Image tokens (B, M, W) of image tokens (B, M, W) and text tokens (B, L, W)."""
        for number, image_layer in enumerate(self.image_layers):
            before = image
            image = image_layer(image, text, None, text_padding)
            if number < len(self.text_layers):
                text = self.text_layers[number](text, before, text_padding, None)
        return image


def initialise(module: nn.Module) -> None:
    """Linears and embeddings N(0, 0.02) with zero biases, layer norms 1 and 0, as published."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
        nn.init.zeros_(module.in_proj_bias)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
