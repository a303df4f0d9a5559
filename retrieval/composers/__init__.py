"""Composition models: one query from a reference and a caption. One model per file."""

from retrieval.composers.base import Composer
from retrieval.composers.compose_ae import ComposeAE
from retrieval.composers.comquery_former import ComqueryFormer, LevelFusion
from retrieval.composers.concat import Concat
from retrieval.composers.film import FiLM
from retrieval.composers.image_only import ImageOnly
from retrieval.composers.mrn import MRN
from retrieval.composers.real_space_concat_ae import RealSpaceConcatAE
from retrieval.composers.relationship import Relationship
from retrieval.composers.text_only import TextOnly
from retrieval.composers.tirg import TIRG
from retrieval.composers.tirg_last_conv import TIRGLastConv

COMPOSERS: dict[str, type[Composer]] = {
    "compose_ae": ComposeAE,
    "comquery_former": ComqueryFormer,
    "concat": Concat,
    "film": FiLM,
    "image_only": ImageOnly,
    "mrn": MRN,
    "real_space_concat_ae": RealSpaceConcatAE,
    "relationship": Relationship,
    "text_only": TextOnly,
    "tirg": TIRG,
    "tirg_last_conv": TIRGLastConv,
}

__all__ = [
    "COMPOSERS",
    "ComposeAE",
    "Composer",
    "ComqueryFormer",
    "Concat",
    "FiLM",
    "ImageOnly",
    "LevelFusion",
    "MRN",
    "RealSpaceConcatAE",
    "Relationship",
    "TIRG",
    "TIRGLastConv",
    "TextOnly",
]
