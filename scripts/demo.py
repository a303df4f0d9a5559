"""The main job end to end: demo --seeds 0 --out runs/demo

Data, features, neural user; a supervised start with each loss; both starts continued by more
supervised training and by policy improvement with the same number of dialogs; one benchmark of
all of it on images never seen in training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.common import run

STARTS = {"sl-triplet": "triplet", "sl": "in_batch"}
RL_OF = {"sl-triplet": "rl-triplet", "sl": "rl"}
TEXT_ONLY = {"text-only": "none", "text-only-memory": "gru"}  # hears this turn, or all turns


@dataclass(frozen=True)
class Args:
    """Steps that are done already are not done again, so a stopped run can be taken up."""

    out: Path = Path("runs/demo")
    """Folder of everything: agents, logs, benchmark."""
    seeds: tuple[int, ...] = (0,)
    """Each seed trains all agents anew; several are pooled in `pooled.json`."""
    user: str = "neural"
    """Who speaks in training and benchmark: `neural` or `attribute`."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    captioner_epochs: int = 3
    """Training of the neural user, if it was not trained yet."""
    warm_up_epochs: int = 3
    """Passes over single captions before the dialogs of each supervised start."""
    sl_dialogs: int = 12_800
    """Dialogs of each supervised start."""
    rl_dialogs: int = 2_048
    """Dialogs of policy improvement, and of supervised training continued instead."""
    batch_size: int = 64
    """Dialogs advanced together in the supervised starts."""
    fine_batch_size: int = 64
    """The same in everything that goes on from them."""
    lr: float = 1e-3
    """Of the supervised starts; over the dialogs it falls to 0 along a cosine."""
    fine_lr: float = 2e-4
    """Of everything that goes on from them; falls likewise."""
    equal_decodes: bool = False
    """Also continue supervised training until it has heard as many captions as RL."""
    pairs: int = 1000
    """Dialogs of the benchmark."""
    parallel: int = 2
    """Trainings side by side, one thread each."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: demonstrate(args))


def demonstrate(args: Args) -> None:
    """Run all steps, then print the table and where everything is."""
    from retrieval.preparation import default_root, prepare_apart

    begin = time.monotonic()
    prepare_apart((args.data_path or default_root()).expanduser().absolute(), "3d", "scene-cnn")
    captioner(args)
    chains = [(args, seed, start) for seed in args.seeds for start in (*STARTS, *TEXT_ONLY)]
    with ThreadPoolExecutor(args.parallel) as pool:
        for done in [pool.submit(train_chain, *chain) for chain in chains]:
            done.result()
    for seed in args.seeds:
        benchmark(args, seed)
    if len(args.seeds) > 1:
        print(pool_seeds(args))
    minutes = (time.monotonic() - begin) / 60
    folder = folder_of(args, args.seeds[0])
    print(f"\ntable, plot and dialogs as pictures: {folder}/benchmark.png, {folder}/dialog.png")
    print(f"TensorBoard: tensorboard --logdir {args.out}")
    print(f"done in {minutes:.1f} minutes")


def folder_of(args: Args, seed: int) -> Path:
    """Where one seed's agents and benchmark lie."""
    return args.out if len(args.seeds) == 1 else args.out / f"seed-{seed}"


def captioner(args: Args) -> None:
    """Train the neural user unless it is there."""
    from envs.factory import captioner_path

    if args.user == "neural" and not captioner_path(args.data_path).is_file():
        data = ["--data-path", str(args.data_path)] if args.data_path else []
        _call("train_captioner", ["--epochs", str(args.captioner_epochs), *data], threads=None)


def train_chain(args: Args, seed: int, start: str) -> None:
    """One supervised start and what goes on from it."""
    folder = folder_of(args, seed)
    loss = STARTS.get(start, "in_batch")
    first = ["--loss", loss, "--lr", str(args.lr)]
    if start in TEXT_ONLY:
        first += ["--composer", "text_only", "--memory", TEXT_ONLY[start]]
    first += ["--batch-size", str(args.batch_size)]
    first += ["--warm-up-epochs", str(args.warm_up_epochs)]
    _train(args, "train_sl", folder / start, seed, args.sl_dialogs, first)
    if start in TEXT_ONLY:
        return
    weights = folder / start / "sl-0.pt"
    go_on = ["--pretrained-model", str(weights), "--loss", loss, "--lr", str(args.fine_lr)]
    go_on += ["--batch-size", str(args.fine_batch_size)]
    later = seed + 1000
    _train(args, "train_sl", folder / f"{start}-continued", later, args.rl_dialogs, go_on)
    _train(args, "train_rl", folder / RL_OF[start], later, args.rl_dialogs, go_on)
    if args.equal_decodes:
        dialogs = args.rl_dialogs * 10  # 5 captions heard and 44 looked ahead, against 5
        name = f"{start}-continued-decodes"
        _train(args, "train_sl", folder / name, later, dialogs, go_on)


def benchmark(args: Args, seed: int) -> None:
    """Compare all agents of one seed; the same dialogs for every seed."""
    folder = folder_of(args, seed)
    kinds = [(name, "sl") for name in TEXT_ONLY]
    for start in STARTS:
        kinds += [(start, "sl"), (f"{start}-continued", "sl"), (RL_OF[start], "rl")]
        if args.equal_decodes:
            kinds.append((f"{start}-continued-decodes", "sl"))
    trained = [f"{name}={folder / name / f'{prefix}-0.pt'}" for name, prefix in kinds]
    command = ["--agents", "random", "image-only", *trained, "oracle"]
    command += ["--pairs", str(args.pairs), "--out", str(folder), "--overwrite"]
    _call("benchmark", [*command, *_world(args)], threads=None)


def pool_seeds(args: Args) -> str:
    """All seeds' dialogs together: means, spread over seeds, paired intervals by target."""
    import numpy as np

    from agents.report import compare, format_table, summarise
    from retrieval.files import atomic_write

    tables = [np.load(folder_of(args, seed) / "ranks.npz") for seed in args.seeds]
    size, target = int(tables[0]["gallery_size"]), tables[0]["target"]
    names = [name for name in tables[0].files if name not in ("gallery_size", "target")]
    names = [name for name in names if not name.startswith("found:")]
    ranks = {name: np.concatenate([table[name] for table in tables]) for name in names}
    clusters = np.tile(target, len(tables))
    rng = np.random.default_rng(17)
    summary = summarise(ranks, size, rng=rng, clusters=clusters)
    pairs = []
    for start, improved in RL_OF.items():
        others = [start, f"{start}-continued", f"{start}-continued-decodes"]
        pairs += [(improved, other) for other in others]
        pairs += [(start, floor) for floor in TEXT_ONLY]
    pairs = [pair for pair in pairs if set(pair) <= ranks.keys()]
    compared = compare(ranks, size, pairs, rng=rng, clusters=clusters)
    spread = {
        name: np.std([(table[name] < 1).mean(0) for table in tables], axis=0, ddof=1).tolist()
        for name in names
    }
    content = {**summary, "comparisons": compared, "recall@1_spread_over_seeds": spread}
    with atomic_write(args.out / "pooled.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    lines = [f"{len(tables)} seeds pooled", format_table(summary), "paired 95% intervals:"]
    for row in compared:
        if row["turn"] >= 1 and row["metric"] in ("percentile", "recall@1"):
            lines.append(
                f"  {row['a']} - {row['b']} {row['metric']} turn {row['turn']}: "
                f"{100 * row['difference']:+.2f} "
                f"[{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
            )
    return "\n".join(lines)


def _train(
    args: Args, command: str, folder: Path, seed: int, dialogs: int, options: list[str]
) -> None:
    """One epoch of so many dialogs, unless it was done before."""
    prefix = "rl" if command == "train_rl" else "sl"
    if (folder / f"{prefix}-0.pt").is_file():
        return
    common = ["--epochs", "1", "--dialogs-per-epoch", str(dialogs), "--seed", str(seed)]
    common += ["--schedule", "cosine", "--model-folder", str(folder)]
    _call(command, [*common, *options, *_world(args)], threads=1)


def _world(args: Args) -> list[str]:
    data = ["--data-path", str(args.data_path)] if args.data_path else []
    return ["--user", args.user, *data]


def _call(command: str, options: list[str], threads: int | None) -> None:
    """Run a command as its own process.

    Raises:
        RuntimeError: it failed; its own message stands on standard error.
    """
    print(f"$ {command} {' '.join(options)}", flush=True)
    environment = dict(os.environ)
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(threads)
    line = [sys.executable, "-m", f"scripts.{command}", *options]
    if subprocess.run(line, check=False, env=environment).returncode != 0:
        raise RuntimeError(f"{command} failed; see the message above")


if __name__ == "__main__":
    main()
