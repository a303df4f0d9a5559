"""Gallery, queries and targets as points: project_embeddings --checkpoint runs/.../best.pt"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import DialogArgs, dialog_of, run, writable

if TYPE_CHECKING:
    import numpy as np

    from retrieval.projector import Points

PICTURE = "embeddings.png"


@dataclass(frozen=True)
class Args(DialogArgs):
    """Triplets of a composer, or dialogs of an agent, for TensorBoard's projector and as a picture.

    The flags on dialogs count for `--agent` alone; a composer brings its own data.
    """

    checkpoint: Path | None = None
    """A composer that `train_composer` wrote, or its folder: triplets of one turn."""
    agent: str | None = None
    """Instead: an agent that brings an embedding space, `models/sl-10.pt`: dialogs over turns."""
    split: str = "test"
    """Of the composer's data."""
    count: int = 20
    """Triplets or dialogs."""
    gallery: int = 500
    """Images in all."""
    turns: int = 5
    """Of a dialog (T)."""
    methods: tuple[str, ...] = ("pca", "tsne")
    """Panels of the picture: pca, tsne (needs scikit-learn)."""
    shown: int = 6
    """Triplets or dialogs whose path the picture has; of dialogs at most three."""
    seed: int = 0
    """Fixes what is drawn, and t-SNE."""
    out: Path = Path("projector")
    """For `tensorboard --logdir`; also receives `embeddings.png`."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: project(args))


def project(args: Args) -> None:
    """Embed, write, draw.

    Raises:
        FileNotFoundError: a checkpoint or data is missing.
        ValueError: neither or both of composer and agent, or an agent without embeddings.
    """
    from retrieval.errors import unknown
    from retrieval.plane import FLATTENED, draw_points
    from retrieval.projector import write_projector

    if (args.checkpoint is None) == (args.agent is None):
        raise ValueError("expected one of --checkpoint (a composer) and --agent; give one of them")
    for method in args.methods:
        if method not in FLATTENED:
            raise unknown("way to flatten", method, FLATTENED)
    writable(args.out)
    if args.checkpoint is not None:
        points, shown = of_triplets(args, args.checkpoint), args.shown
    else:
        points, shown = of_dialogs(args, str(args.agent)), min(args.shown, 3)
    if args.methods:
        draw_points(args.out / PICTURE, points, args.methods, shown, args.seed)
    write_projector(args.out, points)
    told = f", {args.out / PICTURE}" if args.methods else ""
    print(f"{len(points)} points: tensorboard --logdir {args.out}, tab Projector{told}")


def of_triplets(args: Args, checkpoint: Path) -> Points:
    """Triplets of the data that a composer was trained on."""
    import numpy as np

    from retrieval.projector import triplet_points
    from retrieval.training import BEST, load_training
    from retrieval.two_encoders import rebuild
    from scripts import composed

    path = checkpoint / BEST if checkpoint.is_dir() else checkpoint
    content = load_training(path)
    plain = composed.arguments_from(composed.DataArgs, content["arguments"])
    split = composed.load_split(composed.DataArgs(**plain), args.split)
    rng = np.random.default_rng([args.seed, 23])
    return triplet_points(rebuild(content), split, args.count, args.gallery, rng)


def of_dialogs(args: Args, specification: str) -> Points:
    """Dialogs of the benchmark, in the agent's own space."""
    import numpy as np

    from agents.evaluation import evaluation_pairs, run_dialogs
    from agents.loading import load_agent, named
    from retrieval.projector import join

    dialog = dialog_of(DialogArgs(**{it.name: getattr(args, it.name) for it in fields(DialogArgs)}),
                       "test", args.turns)  # fmt: skip
    gallery = dialog.gallery
    if gallery.pictures is None:
        raise ValueError("this gallery has no pictures to show; choose another --env")
    agent = Recorder(load_agent(named(specification)[1], dialog))
    index = getattr(agent, "index", None)
    table = index(gallery.features) if callable(index) else index
    embeddings = getattr(table, "embeddings", None)
    if embeddings is None:
        raise ValueError(f"the agent {specification} has no embedding space; give a .pt checkpoint")
    target, reference = evaluation_pairs(len(gallery), args.count, args.seed)
    played = run_dialogs(dialog, agent, target, reference, args.seed, batch_size=args.count)
    queries = np.stack(agent.actions, axis=1)  # (G, T, D)
    shown = played.shown[:, :-1]  # (G, T)
    rng = np.random.default_rng([args.seed, 29])
    kept, row_of = some_rows(len(gallery), np.union1d(shown, target), args.gallery, rng)
    return join(
        embeddings[kept],
        [gallery.names[row] for row in kept],
        np.asarray(gallery.pictures[kept]),
        queries,
        row_of[shown],
        [captions[: args.turns] for captions in played.captions],
        row_of[target],
        with_reference=True,
    )


class Recorder:
    """An agent that notes what it answers, turn by turn."""

    def __init__(self, agent: Any):
        self.actions: list[np.ndarray] = []
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def predict(self, *observation: Any, **how: Any) -> tuple[np.ndarray, Any]:
        """What the agent answers."""
        import numpy as np

        action, memory = self._agent.predict(*observation, **how)
        self.actions.append(np.array(action))
        return action, memory


def some_rows(
    total: int, needed: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep, those needed and others up to `count`, and the place of each row among them."""
    import numpy as np

    others = rng.permutation(np.setdiff1d(np.arange(total), needed))
    kept = np.sort(np.concatenate([needed, others[: max(0, count - len(needed))]]))
    row_of = np.full(total, -1)
    row_of[kept] = np.arange(len(kept))
    return kept, row_of


if __name__ == "__main__":
    main()
