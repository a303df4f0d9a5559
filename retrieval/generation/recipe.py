"""How a stage is trained: the published numbers, and remedies that are off until asked for."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.errors import unknown
from retrieval.generation.data import CONDITIONS, GanData
from retrieval.generation.losses import adversarial


@dataclass(frozen=True)
class GanTraining:
    """How to train a stage; the defaults are published, the remedies are off.

    Args:
        batch_size: B; 64 in stage 1, 8 in stage 2. The last batch of an epoch is dropped when
            it is not full.
        epochs: passes over the queries.
        generator_rate, discriminator_rate: of the two Adams.
        beta1: of both.
        decay_every: epochs after which both rates are halved.
        condition: one of `CONDITIONS`.
        mix: share of composed queries with "mix".
        kl_weight: of the codes' divergence from N(0, I).
        loss: "bce" (published) or "hinge".
        r1_weight: of the gradient penalty on real pictures.
        attribute_weight: of what a frozen reader misreads in drawn pictures.
        pixel_weight: of the mean absolute difference of drawn and target pixels.
        average: decay of the moving average of the generator's weights; 0 keeps none.
        seed: fixes order and noise.
        save_every: epochs between two kept checkpoints and validations.
        max_minutes: of training; None has no limit.
        bfloat16: networks compute with 16 bits where that is safe.

    Raises:
        ValueError: an unknown name, or a number that cannot be.
    """

    batch_size: int = 64
    epochs: int = 125
    generator_rate: float = 2e-4
    discriminator_rate: float = 2e-4
    beta1: float = 0.5
    decay_every: int = 600
    condition: str = "target"
    mix: float = 0.5
    kl_weight: float = 2.0
    loss: str = "bce"
    r1_weight: float = 0.0
    attribute_weight: float = 0.0
    pixel_weight: float = 0.0
    average: float = 0.0
    seed: int = 0
    save_every: int = 10
    max_minutes: float | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        adversarial(self.loss)
        if self.condition not in CONDITIONS:
            raise unknown("condition", self.condition, CONDITIONS)
        for name, least in (("batch_size", 2), ("epochs", 1), ("decay_every", 1), ("save_every", 1),
                            ("kl_weight", 0), ("r1_weight", 0), ("attribute_weight", 0),
                            ("pixel_weight", 0), ("mix", 0), ("average", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} of at least {least}, got {getattr(self, name)}")
        for name in ("mix", "average", "beta1"):
            if getattr(self, name) > 1:
                raise ValueError(f"expected {name} of at most 1, got {getattr(self, name)}")

    def steps(self, data: GanData) -> int:
        """Steps of an epoch.

        Raises:
            ValueError: there are fewer queries than a batch needs, or no composed ones.
        """
        if self.condition != "target" and data.queries is None:
            raise ValueError(
                f"condition {self.condition} needs composed queries; give --composer, a checkpoint "
                "that train_composer wrote"
            )
        if len(data) < self.batch_size:
            raise ValueError(
                f"the data has {len(data)} queries, fewer than a batch of {self.batch_size}; "
                "lower --batch_size"
            )
        return len(data) // self.batch_size
