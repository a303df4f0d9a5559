"""A model whose query pictures have an image encoder of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from retrieval.models import LevelModel, ModelSpec, RetrievalModel, build_model


class TwoEncoders(RetrievalModel):
    """Query pictures and gallery pictures are read by encoders of the same kind, trained apart.

    For references that look otherwise than the gallery: flat CSS scenes asked about, 3D scenes
    found. The query's encoder starts as a copy of the gallery's; the last Linear of composers
    on maps stays the gallery's, so that queries end in its space.

    Args:
        model: the model whose parts are taken over; its image encoder is the gallery's.

    Raises:
        ValueError: a model on levels, or without an encoder that learns pictures.
    """

    def __init__(self, model: RetrievalModel):
        if isinstance(model, LevelModel):
            raise ValueError(
                "comqueryformer on levels has one image encoder; train it with --query_encoder "
                "shared, or choose another --model"
            )
        super().__init__(
            model.spec, model.tokenizer, model.image_encoder, model.text_encoder, model.composer
        )
        self.query_encoder: Any = copy.deepcopy(model.image_encoder)
        if model.composer.form == "map":
            self.query_encoder.output.requires_grad_(False)

    def parameter_groups(self, learning_rate: float, *args: float) -> list[dict[str, Any]]:
        """The model's groups, both encoders at the same rates."""
        groups = super().parameter_groups(learning_rate, *args)
        body = {
            id(parameter)
            for name, parameter in self.query_encoder.named_parameters()
            if not name.startswith("output.")
        }
        slow = [group for group in groups if group["name"] == "backbone"]
        for group in groups if slow else []:
            moved = [one for one in group["params"] if id(one) in body]
            if group is not slow[0] and moved:
                group["params"] = [one for one in group["params"] if id(one) not in body]
                slow[0]["params"] += moved
        return groups

    def _read(self, images: Tensor) -> Tensor:
        """What the composer reads of references, by the query's encoder."""
        is_map = self.composer.form == "map"
        read: Tensor = self.query_encoder.map(images) if is_map else self.query_encoder(images)
        return read


def build(spec: ModelSpec, separate: bool = False, pretrained: bool = True) -> RetrievalModel:
    """A model by its specification, with one image encoder or two.

    Raises: see `build_model` and `TwoEncoders`.
    """
    model = build_model(spec, pretrained)
    return TwoEncoders(model) if separate else model


def rebuild(content: Mapping[str, Any]) -> RetrievalModel:
    """The model of a checkpoint that training wrote, in eval mode.

    Raises:
        ValueError: the weights are not those of the specification.
    """
    spec = ModelSpec(**{**content["spec"], "words": tuple(content["spec"]["words"])})
    model = build(spec, content["separate"], pretrained=False)
    try:
        model.load_state_dict(content["weights"])
    except RuntimeError as error:
        raise ValueError(
            "the checkpoint's weights do not fit its specification; it was written by another "
            "version: train again"
        ) from error
    return model.eval()
