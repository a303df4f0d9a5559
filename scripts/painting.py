"""What `generate`, `evaluate_gan` and `draw_dialog --imagine` share: a trained generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scripts.composed import BUILT_IN, arguments_from

if TYPE_CHECKING:
    from retrieval.generation.painter import Painter
    from scripts.train_gan import Args as Trained


def load_painter(path: Path, composer: Path | None = None) -> tuple[Painter, Trained]:
    """The generator of a checkpoint with its conditions, and the arguments it was trained with.

    Args:
        path: a checkpoint of `train_gan`, or a run's folder.
        composer: where its composer is now; by default where it was.

    Raises:
        FileNotFoundError: the checkpoint, its composer or its data are missing.
        ValueError: the composer is of another size than the one it was trained with.
    """
    from retrieval.generation.checkpoints import generator_of, load_gan
    from retrieval.generation.conditions import make_conditioner
    from retrieval.generation.painter import Painter
    from scripts.train_gan import Args, root_of

    content = load_gan(path)
    trained = Args(**arguments_from(Args, content["arguments"]))
    spec, generator = generator_of(content)
    conditioner = make_conditioner(
        root_of(trained), BUILT_IN[trained.dataset], composer or trained.composer,
        trained.condition_scale,
    )  # fmt: skip
    if conditioner.dim != spec.condition_dim:
        raise ValueError(
            f"{path} draws from conditions of {spec.condition_dim} numbers, the composer gives "
            f"{conditioner.dim}; give the --composer that it was trained with"
        )
    return Painter(spec, generator, conditioner), trained
