"""What each published system's command line assumes, and this project's own quick recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Values of the flags that a command line leaves open; google/tirg's by default.

    Args:
        loss, batch_size, learning_rate, learning_rate_decay_frequency, weight_decay, num_iters,
            epochs, optimizer, schedule, clip, matching_weight: of `retrieval.training.Training`.
        half_gradient: of the soft triplet loss, as released.
        evaluate_every: epochs between two validations.
        sampled: queries by the data set's published rule, where it has one.
        together: of one reference, listed queries that come in a row.
        image_encoder, text_encoder: of the model.
        one_rate: the image encoder learns at the common rate on every data set.
    """

    loss: str = "soft_triplet"
    batch_size: int = 32
    learning_rate: float = 0.01
    learning_rate_decay_frequency: int = 9_999_999
    weight_decay: float = 1e-6
    num_iters: int = 210_000
    epochs: int | None = None
    optimizer: str = "sgd"
    schedule: str = "step"
    clip: float = 0.0
    matching_weight: float = 0.0
    half_gradient: bool = True
    evaluate_every: int = 3
    sampled: bool = True
    together: int = 1
    image_encoder: str = "resnet18"
    text_encoder: str = "lstm"
    one_rate: bool = False


RECIPES: dict[str, Recipe] = {
    "tirg": Recipe(),
    "composeAE": Recipe(num_iters=160_000),
    # One rate: the released groups with a lower one are overwritten before they are used.
    "ga": Recipe(
        batch_size=200, learning_rate_decay_frequency=50_000, epochs=51, matching_weight=0.001,
        evaluate_every=1, one_rate=True,
    ),
    "comqueryformer": Recipe(
        loss="batch_based_classification", batch_size=64, learning_rate=1e-5, weight_decay=0.0,
        epochs=100, optimizer="adamw", schedule="linear", evaluate_every=5,
        image_encoder="swin_t", text_encoder="bert",
    ),
    "youmakeup": Recipe(
        loss="batch_based_classification", learning_rate_decay_frequency=120_000,
        num_iters=400_000, evaluate_every=1,
    ),
    "fast": Recipe(
        loss="batch_based_classification", batch_size=128, learning_rate=2e-3, weight_decay=0.01,
        epochs=9, optimizer="adamw", schedule="one_cycle", clip=5.0, evaluate_every=1,
        sampled=False, together=4, image_encoder="small-cnn", one_rate=True,
    ),
}  # fmt: skip
"""The published defaults by system, and "fast", for small pictures on few cores."""


def published_recipe(model: str, is_augmented: bool, dataset: str = "") -> str:
    """The name of the recipe whose defaults a model has when none is named."""
    if model in ("comqueryformer", "comquery_former"):
        return "comqueryformer"
    if is_augmented:
        return "ga"
    if model in ("composeAE", "compose_ae", "realspaceconcatAE", "real_space_concat_ae"):
        return "composeAE"
    return "youmakeup" if dataset == "youmakeup" else "tirg"
