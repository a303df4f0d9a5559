"""What policy improvement adds to the strongest supervised agent: gallery by gallery, setting by
setting. Trains and plays what is missing, prints the table.

python -m scripts.results_dialogs --catalog-path ../shared/data/product_photos
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import tyro

from scripts.common import run
from scripts.dialog_map import (
    BESIDE,
    CANDIDATES,
    DEFAULTS,
    GALLERIES,
    GO_ON,
    LOOK,
    LOOK_AT,
    METRICS,
    SETTINGS,
    SHOWN,
    START,
    USERS,
    Cell,
    captions,
)
from scripts.results_css import call

PLAYED = 1
"""Seed of the dialogs that are played: not those that the flags above were chosen by."""
AGAIN = 5
"""Seed of those that are played once more."""
_starts: defaultdict[Path, Lock] = defaultdict(Lock)
KEPT = "table.json"
QUICK_DATA = "make_css --train-scenes 16 --test-scenes 8 --edits 4 --captions 60"


@dataclass(frozen=True)
class Args:
    """Where things are; what is there is not made again."""

    catalog_path: Path | None = None
    """One's own product photos (see the README); without it the gallery `catalog` is left out."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    out: Path = Path("runs/map")
    """Receives a folder per gallery, setting and seed."""
    only: tuple[str, ...] = ()
    """Names of galleries and settings; by default all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each trains all agents anew."""
    start_dialogs: int = 12_800
    """Dialogs of the supervised start."""
    dialogs: int = 2_048
    """Dialogs of policy improvement, and of supervised training continued instead."""
    beside: tuple[str, ...] = ()
    """Compare also with supervised training continued until it has heard as many captions
    (`decodes`), with hard negatives (`hard`), with the softmax over the gallery (`gallery`), with
    training on the same candidates that looks ahead from none (`candidates`), with other policy
    improvement (`rollouts`, `depth`, `pool`, `wide`, `light`), with the self-critical one
    (`scst`), or, of slates, with supervised training continued that shows diversified ones
    (`mmr`, `medoids`). `defaults` holds what `train_rl` makes of the start by its own defaults
    against that start."""
    pairs: int = 1000
    """Dialogs that each agent plays on images never seen in training."""
    again: int = 0
    """So many other dialogs are played once more, with rows of their own: chance told apart."""
    room_pairs: int = 400
    """Of these, dialogs in which the best roll-outs of the supervised agent are looked for."""
    parallel: int = 1
    """Cells at a time, one thread each."""
    table: bool = False
    """Only print what is there."""
    quick: bool = False
    """Tiny data and few dialogs, in a folder whose name ends in -quick: shows in a minute or two
    that all runs, not what it reaches."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: print(reproduce(args)))


def reproduce(args: Args) -> str:
    """Do what is missing, cell by cell, seeds last; returns the map at a glance and the table.

    Raises:
        ValueError: a name that is neither a gallery's nor a setting's, or of no agent beside.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown

    for name in args.only:
        if name not in {**GALLERIES, **SETTINGS}:
            raise unknown("gallery or setting", name, [*GALLERIES, *SETTINGS])
    for name in args.beside:
        if name not in BESIDE:
            raise unknown("agent", name, BESIDE)
    if args.quick:
        args = as_quick(args)
    wanted = list(cells(args))
    if not args.table:
        for gallery in dict.fromkeys(cell.gallery for cell in wanted):
            if args.parallel > 1:  # what they share is made by one
                start(Cell(gallery, "plain", args.seeds[0]), args)
        with ThreadPoolExecutor(args.parallel) as pool:
            for done in [pool.submit(fill, cell, args) for cell in wanted]:
                done.result()
    whole = table(wanted, args.out, args.again)
    return f"{glance(json.loads((args.out / KEPT).read_text()))}\n\n{whole}"


def as_quick(args: Args) -> Args:
    """Arguments that only show that it runs."""
    out = args.out.with_name(f"{args.out.name}-quick")
    data = out / "data"
    if not data.exists():
        call(f"{QUICK_DATA} --out {data}")
    return replace(
        args, out=out, data_path=data, catalog_path=None, start_dialogs=64, dialogs=64, pairs=20,
        room_pairs=8,
        seeds=args.seeds[:2], only=args.only or ("css-3d", "noisy", "slate"),
    )  # fmt: skip


def cells(args: Args) -> Iterator[Cell]:
    """The cells that were asked for: one seed of all before the next."""
    galleries = [name for name in GALLERIES if name in args.only] or list(GALLERIES)
    if args.catalog_path is None and "catalog" in galleries:
        galleries.remove("catalog")
    settings = [name for name in SETTINGS if name in args.only] or list(SETTINGS)
    for seed in args.seeds:
        for setting in settings:
            for gallery in galleries:
                yield Cell(gallery, setting, seed)


def world(cell: Cell, args: Args) -> str:
    """The flags of a gallery."""
    flags = GALLERIES[cell.gallery].format(catalog=args.catalog_path)
    return flags + (f" --data-path {args.data_path}" if args.data_path else "")


def start(cell: Cell, args: Args) -> Path:
    """The checkpoint that a cell's agents go on from, trained when missing."""
    setting = SETTINGS[cell.setting]
    folder = Cell(cell.gallery, setting.begins, cell.seed).folder(args.out) / "sl"
    command = f"train_sl {START} {SETTINGS[setting.begins].flags} {world(cell, args)}"
    with _starts[folder]:  # cells that are filled side by side may share it
        _train(folder, "sl", command, args.start_dialogs, cell.seed)
    return folder / "sl-0.pt"


def fill(cell: Cell, args: Args) -> None:
    """Train and play a cell's agents, unless its figures are there."""
    folder, setting = cell.folder(args.out), SETTINGS[cell.setting]
    begin = start(cell, args)
    where = f"{setting.flags} {world(cell, args)} --train-turns {setting.turns} "
    where += f"--pretrained-model {begin}"
    later = cell.seed + 1000
    look = f"{LOOK} {LOOK_AT.get(cell.gallery, '')}"
    agents: dict[str, Path | None] = {"sl": begin}
    for name, prefix, flags in (("continued", "sl", ""), ("rl", "rl", look)):
        command = f"train_{prefix} {GO_ON} {flags} {where}"
        _train(folder / name, prefix, command, args.dialogs, later)
        agents[name] = folder / name / f"{prefix}-0.pt"
    look_for_room(cell, args)
    _play(cell, args, "benchmark", {**agents, "oracle": None})
    for name in args.beside:
        beside = BESIDE[name]
        if "--slate-by" in beside.plays and "--slate" not in setting.flags:
            continue
        path = agents["continued"]
        if beside.trains:
            path = folder / name / f"{beside.trains}-0.pt"
            recipe = beside.recipe
            if beside.trains == "rl" and recipe == GO_ON:
                recipe += f" {look}"
            dialogs = args.dialogs * (captions(setting.turns) if name == "decodes" else 1)
            command = f"train_{beside.trains} {recipe} {beside.flags} {where}"
            _train(folder / name, beside.trains, command, dialogs, later)
        _play(cell, args, f"beside-{name}", {name: path}, flags=beside.plays)
    if args.again:
        others = replace(args, pairs=args.again)
        _play(cell, others, f"again-{args.again}", {**agents, "oracle": None}, AGAIN)


def _play(
    cell: Cell,
    args: Args,
    where: str,
    agents: dict[str, Path | None],
    seed: int = PLAYED,
    flags: str = "",
) -> None:
    """A benchmark of checkpoints, or by name, in a cell's folder, unless it is there."""
    out, setting = cell.folder(args.out) / where, SETTINGS[cell.setting]
    if (out / "benchmark.json").is_file():
        return
    named = " ".join(name if path is None else f"{name}={path}" for name, path in agents.items())
    call(
        f"benchmark --agents {named} {setting.flags} {flags} {world(cell, args)} "
        f"--turns {setting.turns} --pairs {args.pairs} --seed {seed} --bootstrap 200 --out {out}"
    )


def look_for_room(cell: Cell, args: Args) -> None:
    """How often the best of its own roll-outs would have found the target, unless it is there."""
    import shlex

    from agents.checkpoints import load_checkpoint
    from agents.evaluation import evaluation_pairs
    from agents.look_ahead import Improvement
    from agents.room import found_by_best_rollouts
    from retrieval.files import atomic_write
    from scripts.common import DialogArgs, dialog_of

    folder, setting = cell.folder(args.out), SETTINGS[cell.setting]
    if (folder / "room.json").is_file():
        return
    flags = shlex.split(f"{setting.flags} {world(cell, args)}")
    dialog = dialog_of(tyro.cli(DialogArgs, args=flags), "test", setting.turns)
    agent = load_checkpoint(folder / "continued/sl-0.pt", dialog.vocabulary).agent
    target, reference = evaluation_pairs(len(dialog.gallery), args.room_pairs, PLAYED)
    policy = Improvement(top_k=CANDIDATES, outcome="finding")
    found = found_by_best_rollouts(agent, dialog, target, reference, policy, PLAYED)
    with atomic_write(folder / "room.json") as temporary:
        temporary.write_text(json.dumps({"found": found.mean(0).tolist(), "pairs": len(found)}))


def _train(folder: Path, prefix: str, command: str, dialogs: int, seed: int) -> None:
    """One epoch of so many dialogs, unless it was done before."""
    if (folder / f"{prefix}-0.pt").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    call(f"{command} --dialogs-per-epoch {dialogs} --seed {seed} --model-folder {folder}")


def table(wanted: Sequence[Cell], out: Path, again: int = 0) -> str:
    """RL less the agents it is held against at the last turn, all seeds together, and the room
    that these leave. `DEFAULTS`: RL by the defaults of `train_rl` less its start.

    Room is what more dialogs find with the oracle (`agents.baselines`, which takes words at their
    word) and with the best of the agent's own roll-outs (`agents.room`), and in brackets the
    share of it that RL closes.

    Intervals are over targets, with all that was played for each (2,000 resamples); beside the
    means stands in how many seeds the difference is positive. The same goes to `table.json`.

    Args:
        wanted: whose figures; those that are missing are left out.
        out: where they lie.
        again: dialogs that were played once more, if they were.
    """
    from retrieval.files import atomic_write

    compared: dict[str, tuple[str, str, tuple[str, ...]]] = {
        name: ("rl", name, ("benchmark",)) for name in ("continued", "sl")
    }
    compared |= {name: ("rl", name, ("benchmark", f"beside-{name}")) for name in BESIDE}
    compared[DEFAULTS] = ("defaults", "sl", compared.pop("defaults")[2])
    for name in ("continued", "sl") if again else ():
        compared[f"{name}, {again:,} other dialogs"] = ("rl", name, (f"again-{again}",))
    head = ["gallery", "setting", "seeds", "against", *METRICS, "found by it",
            "room to the oracle", "to its best roll-outs"]  # fmt: skip
    rows, kept = [head, ["---"] * len(head)], {}
    for gallery, setting in dict.fromkeys((cell.gallery, cell.setting) for cell in wanted):
        for label, (who, against, places) in compared.items():
            played = [
                cell for cell in wanted
                if (cell.gallery, cell.setting) == (gallery, setting)
                and (cell.folder(out) / places[-1] / "ranks.npz").is_file()
            ]  # fmt: skip
            if played:
                parts = [
                    [cell.folder(out) / place / "ranks.npz" for place in places] for cell in played
                ]
                found = pooled(parts, against, who)
                kept[f"{gallery} {setting} {label}"] = found
                rows.append([gallery, SETTINGS[setting].what, str(len(played)), label,
                             *(cell_text(found, metric) for metric in METRICS),
                             *room_cells(found, best_rollouts(played, out))])  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / KEPT) as temporary:
        temporary.write_text(json.dumps(kept, indent=1))
    return _markdown(rows)


def glance(kept: dict[str, Any], metric: str = "recall@1") -> str:
    """One metric of the map, users by ways of showing: RL less supervised training continued by
    as many dialogs, and by as many captions.

    Args:
        kept: what `table` keeps, by gallery, setting and who RL is held against.
        metric: of the last turn.

    Returns:
        Markdown; a dash where nothing was played.
    """
    one_image, neural = SETTINGS["plain"].what.split(", ")
    head = ["gallery", "user", "as many", one_image, *(SETTINGS[show].what for show in SHOWN)]
    rows = [head, ["---"] * len(head)]
    for gallery in GALLERIES:
        for user in USERS:
            names = [user, *(show if user == "plain" else f"{user}-{show}" for show in SHOWN)]
            for unit, against in (("dialogs", "continued"), ("captions", "decodes")):
                found = [kept.get(f"{gallery} {name} {against}") for name in names]
                if any(found):
                    cells = [cell_text(one, metric) if one else "-" for one in found]
                    who = neural if user == "plain" else SETTINGS[user].what
                    rows.append([gallery, who, unit, *cells])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def pooled(paths: Sequence[Sequence[Path]], against: str, who: str = "rl") -> dict[str, Any]:
    """Means and paired differences of two agents over several seeds' dialogs.

    Args:
        paths: for each seed, where the ranks of all agents lie; the dialogs are the same.
        against: the other agent.
        who: the agent it is held against.

    Raises:
        ValueError: the dialogs of a seed are not the same in all its files.
    """
    import numpy as np

    from agents.report import compare, summarise

    files = []
    for parts in paths:
        tables = [dict(np.load(path)) for path in parts]
        if not all(np.array_equal(table["target"], tables[0]["target"]) for table in tables):
            raise ValueError(f"expected the same dialogs in {parts}; remove one and play it again")
        files.append({name: table for part in tables for name, table in part.items()})
    names = [who, against, "oracle"]
    ranks = {name: np.concatenate([file[name] for file in files]) for name in names}
    found = {name: np.concatenate([file[f"found:{name}"] for file in files]) for name in names}
    clusters = np.concatenate([file["target"] for file in files])
    size, rng = int(files[0]["gallery_size"]), np.random.default_rng(17)
    drawn: dict[str, Any] = {"rng": rng, "clusters": clusters, "found": found}
    summary = summarise(ranks, size, **drawn)
    last = ranks[who].shape[1] - 1
    compared = compare(ranks, size, [(who, against)], **drawn)
    differences = {row["metric"]: row for row in compared if row["turn"] == last}
    each: dict[str, list[float]] = {metric: [] for metric in differences}
    for file in files:
        own = {name: file[name] for name in (who, against)}
        shown = {name: file[f"found:{name}"] for name in own}
        rows = compare(
            own, size, [(who, against)], rng=np.random.default_rng(0), bootstrap=2, found=shown
        )
        for row in rows:
            if row["turn"] == last:
                each[row["metric"]].append(row["difference"])
    values = {
        name: {metric: summary["agents"][name][metric][-1] for metric in METRICS} for name in names
    }
    return {"values": values, "differences": differences, "by_seed": each, "against": against}


def cell_text(found: dict[str, Any], metric: str) -> str:
    """A difference in points with its interval; of BRI, which is better when it is smaller, as
    it is."""
    row = found["differences"][metric]
    by_seed = found["by_seed"][metric]
    better = sum((one < 0) if metric == "bri" else (one > 0) for one in by_seed)
    factor, digits = (1, 3) if metric == "bri" else (100, 1)
    value, low, high = (factor * row[key] for key in ("difference", "low", "high"))
    return (
        f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] ({better} of {len(by_seed)})"
    )


def best_rollouts(seeds: Sequence[Cell], out: Path) -> float | None:
    """The share of dialogs that the best roll-outs find, where it was looked for."""
    from statistics import mean

    paths = [cell.folder(out) / "room.json" for cell in seeds]
    found = [json.loads(path.read_text())["found"][-1] for path in paths if path.is_file()]
    return mean(found) if found else None


def room_cells(found: dict[str, Any], rollouts: float | None) -> list[str]:
    """Found by the last turn by the agent RL is held against, and how much more could be.

    No share is told of a room below five points.
    """
    least, gain = found["values"][found["against"]]["found"], found["differences"]["found"]
    cells = [f"{100 * least:.1f}"]
    for best in (found["values"]["oracle"]["found"], rollouts):
        if best is None:
            cells.append("-")
            continue
        room = best - least
        share = f" ({100 * gain['difference'] / room:.0f} %)" if room >= 0.05 else ""
        cells.append(f"{100 * room:+.1f}{share}")
    return cells


if __name__ == "__main__":
    main()
