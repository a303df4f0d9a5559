"""One batch, and one step of discriminator and generator on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.encoders.image import SceneCNN
from retrieval.encoders.training import to_tensor
from retrieval.generation.augmentation import divergence
from retrieval.generation.data import GanData
from retrieval.generation.losses import (
    adversarial,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from retrieval.generation.models import Average, GanSpec, build_discriminator, draw_noise
from retrieval.generation.readers import attribute_loss
from retrieval.generation.recipe import GanTraining


@dataclass(frozen=True)
class Batch:
    """B pictures, and what is said of them.

    Args:
        condition: (B, F).
        real: (B, 3, S, S) in [-1, 1].
        attributes: codes (B, 27).
    """

    condition: Tensor
    real: Tensor
    attributes: Tensor


def make_batch(data: GanData, rows: np.ndarray, how: GanTraining, chance: torch.Generator) -> Batch:
    """The batch of some queries, pictures brought from [0, 1] to the [-1, 1] of tanh.

    Departure: the original compares tanh with pictures at ImageNet's mean and spread.
    """
    targets = data.targets[rows]
    condition = torch.from_numpy(data.images[targets])  # (B, F)
    if how.condition != "target":
        assert data.queries is not None
        composed = torch.from_numpy(data.queries[rows])
        share = 1.0 if how.condition == "query" else how.mix
        chosen = torch.rand(len(rows), 1, generator=chance) < share
        condition = torch.where(chosen, composed, condition)
    scenes = data.scenes[targets].reshape(len(rows), -1).astype(np.int64)
    return Batch(
        condition, to_tensor(data.pictures[targets]) * 2 - 1, torch.from_numpy(scenes)
    )  # fmt: skip


class Adversaries:
    """A generator and its discriminator with their optimisers, and one step of both.

    Args:
        spec: what the generator was built from.
        generator: trained in place.
        how: the recipe.
    """

    def __init__(self, spec: GanSpec, generator: Any, how: GanTraining):
        torch.manual_seed(how.seed + 1)  # for the discriminator's weights
        self.spec, self.how = spec, how
        self.generator = generator
        self.discriminator: Any = build_discriminator(spec)
        network: Any
        for network in (generator, self.discriminator):  # a quarter less time on processors
            network.to(memory_format=torch.channels_last)
        self.average = Average(generator, how.average) if how.average else None
        betas = (how.beta1, 0.999)
        learned = [one for one in generator.parameters() if one.requires_grad]
        self.draws = torch.optim.Adam(learned, how.generator_rate, betas)
        self.judges = torch.optim.Adam(
            self.discriminator.parameters(), how.discriminator_rate, betas
        )
        self.chance = torch.Generator().manual_seed(how.seed)
        self.verdicts = adversarial(how.loss)

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps, by name."""
        parts = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimizer": self.draws,
            "discriminator_optimizer": self.judges,
        }
        return parts if self.average is None else {**parts, "average": self.average.model}

    @property
    def drawing(self) -> Any:
        """The generator that draws for people: the average where one is kept."""
        return self.generator if self.average is None else self.average.model

    def set_rates(self, factor: float) -> None:
        """Multiples of the rates that training began with."""
        for optimizer, rate in ((self.draws, self.how.generator_rate),
                                (self.judges, self.how.discriminator_rate)):  # fmt: skip
            for group in optimizer.param_groups:
                group["lr"] = factor * rate

    def step(self, batch: Batch, reader: SceneCNN | None) -> dict[str, float]:
        """One step of the discriminator, then one of the generator; the terms of both losses."""
        how = self.how
        self.generator.train()
        self.discriminator.train()
        noise = draw_noise(self.spec, len(batch.condition), self.chance)
        with torch.autocast("cpu", torch.bfloat16, enabled=how.bfloat16):
            fake, code = self.generator(batch.condition, *noise)
            judged = {"discriminator": discriminator_loss(
                self.discriminator, batch.real, fake, code.mean, self.verdicts[0]
            )}  # fmt: skip
            if how.r1_weight:
                penalty = gradient_penalty(self.discriminator, batch.real, code.mean)
                judged["r1"] = how.r1_weight * penalty
        _descend(self.judges, judged)

        self.discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=how.bfloat16):
            drawn = {
                "generator": generator_loss(self.discriminator, fake, code.mean, self.verdicts[1]),
                "kl": how.kl_weight * divergence(code),
            }
            if how.attribute_weight and reader is not None:
                misread = attribute_loss(reader, fake, batch.attributes)
                drawn["attributes"] = how.attribute_weight * misread
            if how.pixel_weight:
                drawn["pixels"] = how.pixel_weight * (fake.float() - batch.real).abs().mean()
        _descend(self.draws, drawn)
        self.discriminator.requires_grad_(True)
        return {name: term.item() for name, term in {**judged, **drawn}.items()}


def _descend(optimizer: torch.optim.Optimizer, terms: Mapping[str, Tensor]) -> None:
    optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
