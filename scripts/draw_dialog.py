"""Draw a held-out dialog as pictures and words: draw_dialog --agent models/rl-19.pt"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from scripts.common import DialogArgs, dialog_of, run


@dataclass(frozen=True)
class Args(DialogArgs):
    """Plays the benchmark's dialogs with one agent and draws one of them."""

    agent: str = "oracle"
    """As in `benchmark --agents`."""
    dialog: int = 0
    """Which of the benchmark's dialogs."""
    turns: int = 5
    """Turns of the dialog (T)."""
    seed: int = 0
    """Of the benchmark."""
    height: int = 192
    """Pixels of the square of each turn; scenes of the built-in data are drawn anew for it."""
    imagine: Path | None = None
    """A checkpoint of `train_gan`: draw beneath each image what the agent believes is wanted."""
    out: Path = Path("dialog.png")
    """The picture."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: draw(args))


def draw(args: Args) -> None:
    """Play, draw, save."""
    from PIL import Image

    from agents.evaluation import evaluation_pairs, run_dialogs
    from agents.loading import load_agent, named
    from envs.drawing import draw_dialog, transcript
    from envs.history import draw_slate, name_slate
    from envs.state import NOTHING
    from retrieval.files import atomic_write

    dialog = dialog_of(args, "test", args.turns)
    size = len(dialog.gallery)
    if not 0 <= args.dialog < size:
        raise ValueError(f"expected a dialog between 0 and {size - 1}, got {args.dialog}")
    target, reference = (
        pair[args.dialog :][:1] for pair in evaluation_pairs(size, size, args.seed)
    )
    played = run_dialogs(
        dialog, load_agent(named(args.agent)[1], dialog), target, reference, args.seed
    )
    shown, ranks = played.shown[0], played.ranks[0].tolist()
    found = (shown == target[0]).tolist()
    until = found.index(True) + 1 if True in found else len(found)
    images = {*played.slates[0, :until].flatten().tolist(), int(target[0])} - {NOTHING}
    pictures = {image: _picture(args, dialog.gallery.pictures, image) for image in images}
    slates = list(zip(played.slates[0, :until], shown[:until].tolist(), strict=True))
    strip = draw_dialog(
        [draw_slate(pictures, slate, target[0], picked, args.height) for slate, picked in slates],
        played.captions[0][: until - 1],
        pictures[target[0]],
        ranks[:until],
        size,
        max(until - 1, 1),
        found[:until],
        args.height,
        believed_of(args, dialog.gallery.pictures, played.candidates[0, :until]),
    )
    with atomic_write(args.out) as temporary:
        Image.fromarray(strip).save(temporary)
    names = [name_slate(dialog.gallery.names, slate, picked) for slate, picked in slates]
    print(transcript(played.captions[0][: until - 1], names, ranks[:until], found[:until]))
    print(f"drawn in {args.out}")


def believed_of(args: Args, pictures: Any, candidates: Any) -> list[Any] | None:
    """What the agent believed at each turn, from its best images (T', K); none at turn 0.

    Raises:
        ValueError: the generator draws other pictures than these dialogs are about.
    """
    if args.imagine is None:
        return None
    from envs.single import BELIEVED
    from retrieval.generation.painter import Imagination
    from scripts.common import dialog_options
    from scripts.composed import BUILT_IN
    from scripts.painting import load_painter

    painter, trained = load_painter(args.imagine)
    look = dialog_options(args).get("look", "3d")
    if args.dataset != "css" or look != BUILT_IN[trained.dataset]:
        raise ValueError(
            f"{args.imagine} draws {trained.dataset} scenes, these dialogs are about "
            f"{args.dataset} {look}; leave --imagine out"
        )
    imagine = Imagination(painter, pictures, args.seed)
    return [None, *(imagine(images[:BELIEVED]) for images in candidates[1:])]


def _picture(args: Args, pictures: Any, image: int) -> Any:
    """A test picture, of the built-in data in the size asked for."""
    import numpy as np

    from retrieval.datasets import css
    from retrieval.preparation import default_root
    from retrieval.rendering.build import BuildSpec
    from retrieval.rendering.pictures_3d import render_3d
    from retrieval.rendering.scenes import to_objects
    from scripts.common import dialog_options

    options = dialog_options(args)
    if options["root"] is not None or options.get("look", "3d") != "3d":
        return np.asarray(pictures[image])  # not ours to draw anew
    scene = css.load_scenes(default_root(), "test")[image]
    rng = np.random.default_rng((BuildSpec().seed, 3, 1, image))  # as `build` draws it
    return render_3d(to_objects(scene), rng, args.height, args.height)


if __name__ == "__main__":
    main()
