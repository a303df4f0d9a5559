"""What a generator is told: a picture's own feature, or the composed query of a reference and text.

The published generator learns from the target's own feature in TIRG's space, scaled by the
learned length s, and is meant to be given the composed query later. A `Conditioner` gives both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from retrieval.encoders.image import SceneCNN
from retrieval.encoders.training import SCENE_CNN, encode
from retrieval.features import features_folder
from retrieval.inference import reads_features, to_tensor
from retrieval.models import LevelModel, RetrievalModel

AT_ONCE = 256  # pictures or queries read together


class Conditioner:
    """Conditions from the scene encoder's features, or from a composer's space.

    Args:
        encoder: the scene encoder of the data, which a composer on features reads too.
        composer: a single-turn model; without one the scene encoder's own features are the
            conditions, and there are no queries.
        scale: length of all conditions; by default the composer's learned s, or sqrt(F), which
            gives numbers of about 1.

    Raises:
        ValueError: a composer whose vectors have no common length (comqueryformer on levels),
            or one on features of another encoder.
    """

    def __init__(
        self,
        encoder: SceneCNN | None,
        composer: RetrievalModel | None = None,
        scale: float | None = None,
    ):
        if isinstance(composer, LevelModel):
            raise ValueError(
                "comqueryformer on levels has no single feature to draw a picture from; give a "
                "model like tirg"
            )
        if encoder is None and (composer is None or reads_features(composer)):
            raise ValueError("conditions from features need the scene encoder, got none")
        self.encoder = encoder
        self.composer = composer
        if composer is not None:
            self.dim = composer.spec.embed_dim
            learned = float(composer.scale.detach())
            if reads_features(composer) and composer.spec.feature_dim != _width(encoder):
                raise ValueError(
                    f"the composer reads features of size {composer.spec.feature_dim}, the scene "
                    f"encoder gives {_width(encoder)}; train it on features of {SCENE_CNN}"
                )
        else:
            self.dim = _width(encoder)
            learned = self.dim**0.5
        self.scale = learned if scale is None else scale

    def images(self, pictures: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
        """Conditions (N, F) that are the features of pictures (N, H, W, 3) themselves.

        Where the scene encoder's unit-norm features of them are at hand, they need not be
        computed anew.
        """
        seen = self._seen(pictures, features)
        if self.composer is None:
            return np.asarray(self.scale * seen, dtype=np.float32)
        with torch.inference_mode():
            rows = [
                self.composer.embed(to_tensor(seen[begin : begin + AT_ONCE])).numpy()
                for begin in range(0, len(seen), AT_ONCE)
            ]
        return np.asarray(self.scale * np.concatenate(rows), dtype=np.float32)

    def queries(
        self,
        pictures: np.ndarray,
        references: Sequence[int] | np.ndarray,
        captions: Sequence[str],
        features: np.ndarray | None = None,
    ) -> np.ndarray:
        """Conditions (Q, F) composed of references, rows of `pictures`, and captions.

        For `features` see `images`.

        Raises:
            ValueError: there is no composer.
        """
        if self.composer is None:
            raise ValueError(
                "a query needs a composer of reference and text; give --composer, a checkpoint "
                "that train_composer wrote"
            )
        rows = np.asarray(references, dtype=np.int64)
        used, place = np.unique(rows, return_inverse=True)
        seen = self._seen(pictures[used], None if features is None else features[used])
        found = []
        with torch.inference_mode():
            for begin in range(0, len(rows), AT_ONCE):
                part = slice(begin, begin + AT_ONCE)
                ids = self.composer.token_ids(captions[part])
                found.append(self.composer.compose(to_tensor(seen[place[part]]), ids).numpy())
        return np.asarray(self.scale * np.concatenate(found), dtype=np.float32)

    def _seen(self, pictures: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """What the composer's image side reads: pictures, or unit-norm features (N, F)."""
        if self.composer is not None and not reads_features(self.composer):
            return pictures
        if features is not None:
            return features
        assert self.encoder is not None
        vectors, _ = encode(self.encoder, pictures, label="conditions")
        return np.asarray(F.normalize(torch.from_numpy(vectors), dim=-1).numpy())


def make_conditioner(
    root: Path, look: str = "3d", composer: Path | None = None, scale: float | None = None
) -> Conditioner:
    """The conditions of a CSS folder: in the space of a composer's checkpoint, if one is given.

    Raises:
        FileNotFoundError: the checkpoint or the data's scene encoder is missing.
        ValueError: see `Conditioner`.
    """
    model = None if composer is None else load_composer(composer)
    is_on_pixels = model is not None and not reads_features(model)
    return Conditioner(None if is_on_pixels else load_scene_encoder(root, look), model, scale)


def load_scene_encoder(root: Path, look: str = "3d") -> SceneCNN:
    """The scene encoder of a CSS folder, which was trained on its train split.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    path = features_folder(root, SCENE_CNN) / f"{look}_encoder.pt"
    if not path.is_file():
        raise FileNotFoundError(
            f"no scene encoder of {look} pictures in {root}; run `extract_features "
            f"--encoder {SCENE_CNN} --data-path {root}` first"
        )
    model = SceneCNN()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)


def load_composer(path: Path) -> RetrievalModel:
    """A single-turn model from a checkpoint of `train_composer`, or from its run's folder.

    Raises:
        FileNotFoundError, ValueError: there is none, or the file is something else.
    """
    from retrieval.training import BEST, load_training
    from retrieval.two_encoders import rebuild

    return rebuild(load_training(path / BEST if path.is_dir() else path)).requires_grad_(False)


def _width(encoder: SceneCNN | None) -> int:
    assert encoder is not None
    return encoder.vector.out_features
