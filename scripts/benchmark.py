"""Compare agents turn by turn: benchmark --agents models/sl-10.pt models/rl-19.pt random"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from scripts.common import DialogArgs, dialog_of, dialog_options, environment_of, run, writable

if TYPE_CHECKING:
    import numpy as np

    from agents.evaluation import Played
    from agents.report import Limit
    from envs.dialog import Dialog


@dataclass(frozen=True)
class Args(DialogArgs):
    """Plays a fixed list of held-out dialogs with every agent, and writes what came of it."""

    agents: tuple[str, ...] = ("random", "image-only", "oracle")
    """`random`, `image-only`, `oracle`, a checkpoint, a Stable-Baselines3 zip, or
    `module:attribute`; `name=...` gives it a name in the table."""
    pairs: int = 1000
    """Dialogs: pairs of target and first reference from the split."""
    turns: int = 5
    """Turns of every dialog (T); none stops early."""
    split: str = "test"
    """`test` (images never seen in training) or `train`."""
    ties: Literal["half", "optimistic"] = "half"
    """`half` of the ties count (a collapsed embedding scores chance), or `optimistic`."""
    seed: int = 0
    """Fixes the pairs, the users' words and the resampling."""
    bootstrap: int = 2000
    """Resamples of the 95% intervals."""
    run_depth: int = 10
    """Images per query in the TREC run files."""
    out: Path = Path("runs/benchmark")
    """Folder of benchmark.json, .csv, .png and the run files."""
    overwrite: bool = False
    """Replace an earlier benchmark in that folder."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(compare_agents(args)))


def compare_agents(args: Args) -> str:
    """Play, write everything, and return the table for the terminal."""
    import json

    import numpy as np

    from agents.evaluation import evaluation_pairs, run_dialogs
    from agents.loading import load_agent, named
    from agents.report import compare, format_table, plot, summarise, write_csv
    from retrieval.files import atomic_write
    from retrieval.index import ExactIndex

    if (args.out / "benchmark.json").exists() and not args.overwrite:
        raise ValueError(f"{args.out} holds a benchmark; choose another --out or --overwrite")
    given = dict(named(agent) for agent in args.agents)
    if len(given) < len(args.agents):
        raise ValueError("two agents have the same name; give them names with name=...")
    dialog = dialog_of(args, args.split, args.turns)
    dialog = dialog.with_(index=ExactIndex(dialog.gallery.features, args.ties))
    agents = {name: load_agent(what, dialog, args.seed) for name, what in given.items()}
    writable(args.out)

    target, reference = evaluation_pairs(len(dialog.gallery), args.pairs, args.seed)
    played: dict[str, Played] = {}
    for name, agent in agents.items():
        played[name] = run_dialogs(
            dialog, agent, target, reference, args.seed, args.run_depth, ties=args.ties
        )
        print(f"played {len(target)} dialogs with {name}", flush=True)

    ranks = {name: one.ranks for name, one in played.items()}
    rng = np.random.default_rng([args.seed, 17])
    size = len(dialog.gallery)
    drawn: dict[str, Any] = {"bootstrap": args.bootstrap, "rng": rng, "clusters": target}
    summary = summarise(ranks, size, **drawn)
    compared = compare(ranks, size, **drawn)
    limits = limit_lines(dialog, played)
    content = {
        **summary,
        "comparisons": compared,
        "limits": [limit._asdict() for limit in limits],
        "protocol": protocol(args, dialog, target),
    }
    with atomic_write(args.out / "benchmark.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    write_csv(args.out / "benchmark.csv", summary)
    with atomic_write(args.out / "ranks.npz") as temporary:
        tables: dict[str, Any] = {"gallery_size": size, "target": target, **ranks}
        np.savez_compressed(temporary, **tables)
    write_runs(args.out, dialog, played, target, args.turns)
    plot(args.out / "benchmark.png", summary, limits)
    draw_example(args.out / "dialog.png", dialog, played, target)
    return (
        f"{format_table(summary)}\n"
        f"{args.pairs} dialogs over {size} {args.split} images, user {args.user}, "
        f"seed {args.seed}\n"
        f"written: {args.out}/benchmark.json, .csv, .png, dialog.png and *.run.gz"
    )


def protocol(args: Args, dialog: Dialog, target: np.ndarray) -> dict[str, Any]:
    """What the numbers depend on."""
    options = dialog_options(args)
    return {
        "environment": environment_of(args),
        "split": args.split,
        "gallery_size": len(dialog.gallery),
        "gallery_hash": dialog.gallery.content_hash,
        "user": options["user"],
        "noise": options.get("noise", 0.0),
        "encoder": options["encoder"],
        "pairs": len(target),
        "turns": args.turns,
        "seed": args.seed,
        "ties": args.ties,
        "reference_excluded": False,
        "bootstrap": args.bootstrap,
    }


def limit_lines(dialog: Dialog, played: dict[str, Played]) -> list[Limit]:
    """The limits that apply: counting bound, indistinguishability, version-space oracle."""
    import numpy as np

    from agents.report import Limit, counting_bound, indistinguishability_ceiling

    turns = dialog.max_turns
    replies = len({said for one in played.values() for row in one.captions for said in row if said})
    lines = [
        Limit(
            f"counting bound at {replies} sentences", f"recall@{k}",
            counting_bound(len(dialog.gallery), replies, turns, k),
        )
        for k in (1, 10)
    ]  # fmt: skip
    if dialog.gallery.attributes is not None:
        ceiling = indistinguishability_ceiling(dialog.gallery.attributes)
        lines.append(Limit("indistinguishability ceiling", "recall@1", [ceiling] * (turns + 1)))
    if "oracle" in played:
        for k in (1, 10):
            by_turn = (played["oracle"].ranks < k).mean(0)
            lines.append(Limit("version-space oracle", f"recall@{k}", np.asarray(by_turn).tolist()))
    return lines


def write_runs(
    folder: Path, dialog: Dialog, played: dict[str, Played], target: np.ndarray, turns: int
) -> None:
    """TREC files, one run per agent and the qrels they share."""
    import numpy as np

    from agents.report import write_qrels, write_run

    names = list(dialog.gallery.names)
    write_qrels(folder / "qrels.gz", target, names, turns)
    for name, one in played.items():
        order = -np.arange(one.candidates.shape[2], dtype=np.float32)
        scores = np.broadcast_to(order, one.candidates.shape)
        path = folder / f"{name}.run.gz"
        write_run(path, name, np.arange(len(target)), one.candidates, scores, names)


def draw_example(path: Path, dialog: Dialog, played: dict[str, Played], target: np.ndarray) -> None:
    """The first dialog as each agent played it, one strip under another."""
    if dialog.gallery.pictures is None:
        return
    import numpy as np
    from PIL import Image

    from envs.drawing import draw_dialog
    from retrieval.files import atomic_write

    pictures = dialog.gallery.pictures
    strips = [
        draw_dialog(
            [pictures[image] for image in one.shown[0]],
            one.captions[0],
            pictures[target[0]],
            one.ranks[0].tolist(),
            len(dialog.gallery),
            dialog.max_turns,
            (one.shown[0] == target[0]).tolist(),
        )
        for one in played.values()
    ]
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(strips)).save(temporary)


if __name__ == "__main__":
    main()
